#include "container/console.h"
#include "container/inroot.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

static bool is_devpts(int fd)
{
    struct statfs fs;
    return fstatfs(fd, &fs) == 0 && fs.f_type == DEVPTS_SUPER_MAGIC;
}

int console_devpts(struct error *e)
{
    CLEANUP_FD int fd = sys_openat2(AT_FDCWD, "/dev/pts", O_PATH | O_DIRECTORY, 0, RESOLVE_NO_SYMLINKS);
    if (fd < 0)
        return sys_error(e, "process.terminal: /dev/pts of the container");
    if (!is_devpts(fd))
        return error_set(e, ENODEV, "process.terminal: /dev/pts of the container is no devpts: refused");
    return sys_take(&fd);
}

int console_open(int devpts, const struct spec_process *p, int *master, int *slave, struct error *e)
{
    struct stat st;
    int zero = 0;
    CLEANUP_FD int fd =
        sys_openat2(devpts, "ptmx", O_RDWR | O_NOCTTY, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV);
    if (fd < 0 || fstat(fd, &st) < 0)
        return sys_error(e, "process.terminal: ptmx of the container's devpts");
    if (!is_devpts(fd) || !S_ISCHR(st.st_mode) || st.st_rdev != makedev(5, 2))
        return error_set(e, ENODEV, "process.terminal: ptmx of the container's devpts is something else: refused");
    if (ioctl(fd, TIOCSPTLCK, &zero) < 0)
        return sys_error(e, "process.terminal: unlocking it");
    *slave = ioctl(fd, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (*slave < 0)
        return sys_error(e, "process.terminal: its other end");
    if (p->console_rows || p->console_columns) {
        struct winsize size = {.ws_row = p->console_rows, .ws_col = p->console_columns};
        ioctl(fd, TIOCSWINSZ, &size);
    }
    *master = sys_take(&fd);
    return 0;
}

int console_send(int socket, int master, struct error *e)
{
    static const char name[] = "/dev/ptmx";
    return sys_send_fds(socket, name, sizeof(name) - 1, &master, 1) < 0
               ? sys_error(e, "console socket: sending the terminal")
               : 0;
}

int console_assume(int slave, const struct spec_process *p, struct error *e)
{
    if (fchown(slave, p->uid, (gid_t)-1) < 0 && errno != EPERM && errno != EINVAL)
        return sys_error(e, "process.terminal: its owner");
    if (ioctl(slave, TIOCSCTTY, 0) < 0)
        return sys_error(e, "process.terminal: making it the controlling one");
    for (int fd = 0; fd < 3; fd++)
        if (dup2(slave, fd) < 0)
            return sys_error(e, "process.terminal");
    return 0;
}
