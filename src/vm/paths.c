#include "vm/paths.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int paths_join(char *out, size_t size, const char *dir, const char *name, struct error *e)
{
    int n = snprintf(out, size, "%s/%s", dir, name);
    if (n < 0 || (size_t)n >= size)
        return error_set(e, ENAMETOOLONG, "%s/%s: path too long; choose a shorter XDG_STATE_HOME", dir, name);
    return 0;
}

/* mkdir -p: `path` is changed while it is walked and whole again at the end. */
static int make_dirs(char *path, struct error *e)
{
    for (char *p = path + 1;; p++) {
        if (*p != '/' && *p != 0)
            continue;
        char c = *p;
        *p = 0;
        int r = mkdir(path, 0700) < 0 && errno != EEXIST ? errno : 0;
        *p = c;
        if (r)
            return error_set(e, EIO, "%s: cannot be made: %s; set XDG_STATE_HOME to a directory you may write", path,
                             strerror(r));
        if (c == 0)
            return 0;
    }
}

static int find_base(char *out, size_t size, struct error *e)
{
    const char *xdg = getenv("XDG_STATE_HOME");
    if (xdg && xdg[0] == '/')
        return paths_join(out, size, xdg, "trapeze", e);
    const char *home = getenv("HOME");
    if (!home || home[0] != '/') {
        const struct passwd *pw = getpwuid(getuid());
        home = pw ? pw->pw_dir : NULL;
    }
    if (!home || home[0] != '/')
        return error_set(e, ENOENT, "home directory: none is known for user %u; set HOME or XDG_STATE_HOME",
                         (unsigned)getuid());
    return paths_join(out, size, home, ".local/state/trapeze", e);
}

/* Who can write there decides what `rm` deletes and where verbs connect to: that has to be this user alone. */
static int check_owner(const char *dir, struct error *e)
{
    struct stat st;
    if (stat(dir, &st) < 0)
        return error_set(e, errno, "%s: %s", dir, strerror(errno));
    if (st.st_uid != geteuid())
        return error_set(e, EPERM, "%s: belongs to user %u; set HOME or XDG_STATE_HOME to a directory of your own", dir,
                         (unsigned)st.st_uid);
    if (st.st_mode & (S_IWGRP | S_IWOTH))
        return error_set(e, EPERM, "%s: others may write there (mode %03o); run chmod go-w on it", dir,
                         (unsigned)st.st_mode & 0777);
    return 0;
}

int paths_state_dir(char *out, size_t size, struct error *e)
{
    int r = find_base(out, size, e);
    if (r == 0)
        r = make_dirs(out, e);
    if (r == 0)
        r = check_owner(out, e);
    if (r == 0 && access(out, W_OK | X_OK) < 0) {
        r = errno;
        return error_set(e, r, "%s: cannot be written: %s; set XDG_STATE_HOME to a directory you may write", out,
                         strerror(r));
    }
    return r;
}

int paths_machine_dir(char *out, size_t size, const char *id, bool make, struct error *e)
{
    char state[PATH_MAX], machines[PATH_MAX];
    int r = paths_state_dir(state, sizeof(state), e);
    if (r == 0)
        r = paths_join(machines, sizeof(machines), state, "machines", e);
    if (r == 0)
        r = paths_join(out, size, machines, id, e);
    return r == 0 && make ? make_dirs(out, e) : r;
}

int paths_remove_dir(const char *dir, struct error *e)
{
    DIR *d = opendir(dir);
    if (!d)
        return errno == ENOENT
                   ? 0
                   : error_set(e, errno, "%s: cannot be opened: %s; remove it by hand", dir, strerror(errno));
    for (struct dirent *f = readdir(d); f; f = readdir(d))
        if (strcmp(f->d_name, ".") && strcmp(f->d_name, ".."))
            unlinkat(dirfd(d), f->d_name, 0);
    closedir(d);
    if (rmdir(dir) < 0 && errno != ENOENT)
        return error_set(e, errno, "%s: cannot be removed: %s; remove it by hand", dir, strerror(errno));
    return 0;
}

u64 paths_process_start(pid_t pid)
{
    char name[64], text[1024];
    snprintf(name, sizeof(name), "/proc/%d/stat", (int)pid);
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return kill(pid, 0) == 0 || errno == EPERM ? PATHS_UNKNOWN : 0;
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (n <= 0)
        return 0;
    text[n] = 0;
    /* The second field is the command in parentheses and may hold anything: count fields from the last one. */
    const char *p = strrchr(text, ')');
    if (!p || p[1] != ' ' || p[2] == 'Z' || p[2] == 'X')
        return 0;
    for (int field = 2; field < 22; field++) {
        p = strchr(p + 1, ' ');
        if (!p)
            return 0;
    }
    return strtoull(p + 1, NULL, 10);
}

bool paths_process_alive(pid_t pid, u64 start)
{
    u64 now = pid > 0 && start ? paths_process_start(pid) : 0;
    return now && (now == start || now == PATHS_UNKNOWN || start == PATHS_UNKNOWN);
}
