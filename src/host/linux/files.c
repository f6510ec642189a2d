/* Files of a directory that is given away: names that lead nowhere else, owners, descriptors. */
#include "host/host.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/openat2.h>
#include <sys/fsuid.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

int host_open_beneath(int dir, const char *name, u64 flags, u32 mode)
{
    struct open_how how = {.flags = flags | O_CLOEXEC | O_NOFOLLOW,
                           .mode = mode,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
    long fd = syscall(SYS_openat2, dir, name, &how, sizeof(how));
    return fd < 0 ? -errno : (int)fd;
}

int host_rename(int from_dir, const char *from, int to_dir, const char *to, u32 flags)
{
    /* Not the C library's: without flags that makes another call, which the seal does not have. */
    return syscall(SYS_renameat2, from_dir, from, to_dir, to, flags) < 0 ? -errno : 0;
}

u32 host_descriptors(u32 most)
{
    struct rlimit l;
    if (getrlimit(RLIMIT_NOFILE, &l) < 0)
        return 0;
    l.rlim_cur = MIN(l.rlim_max, (rlim_t)most);
    return setrlimit(RLIMIT_NOFILE, &l) < 0 ? 0 : (u32)l.rlim_cur;
}

/* --- owners --- */

static int capabilities(struct __user_cap_data_struct cap[2])
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    return (int)syscall(SYS_capget, &head, cap);
}

bool host_may_pass_ids(void)
{
    struct __user_cap_data_struct cap[2];
    return geteuid() == 0 && capabilities(cap) == 0 &&
           (cap[0].permitted & HOST_FILE_CAPABILITIES) == HOST_FILE_CAPABILITIES;
}

int host_files_as(u32 uid, u32 gid)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct cap[2];
    int r = 0;
    setfsgid(gid);
    setfsuid(uid);
    /* The kernel has taken those over files out of effect. */
    if (capabilities(cap) < 0)
        r = -errno;
    for (unsigned i = 0; i < 2; i++)
        cap[i].effective = cap[i].permitted;
    if (r == 0 && syscall(SYS_capset, &head, cap) < 0)
        r = -errno;
    if (r < 0)
        host_files_as_self();
    return r;
}

void host_files_as_self(void)
{
    setfsuid(geteuid());
    setfsgid(getegid());
}

int host_room(const char *dir, u64 *bytes)
{
    struct statfs f;
    if (statfs(dir, &f) < 0)
        return -errno;
    *bytes = (u64)f.f_bavail * (u64)f.f_frsize;
    return 0;
}
