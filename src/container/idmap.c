#include "container/idmap.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* Lines as the kernel takes them: "inside outside size". NULL: too many. */
static bool lines(char *out, size_t size, const struct spec_id_maps *maps)
{
    size_t used = 0;
    out[0] = 0;
    for (size_t i = 0; i < maps->n; i++) {
        int n = snprintf(out + used, size - used, "%u %u %u\n", maps->v[i].inside, maps->v[i].outside, maps->v[i].size);
        if (n < 0 || (size_t)n >= size - used)
            return false;
        used += (size_t)n;
    }
    return true;
}

/* newuidmap PID INSIDE OUTSIDE SIZE ..: the set-user-id helpers of the shadow suite. */
static int run_helper(const char *helper, pid_t pid, const struct spec_id_maps *maps, struct error *e)
{
    size_t n = 2 + 3 * maps->n;
    CLEANUP_FREE char *words = calloc(n, 16);
    CLEANUP_FREE char **argv = calloc(n + 1, sizeof(char *));
    if (!words || !argv)
        return error_set(e, ENOMEM, "%s: out of memory", helper);
    argv[0] = (char *)helper;
    for (size_t i = 1; i < n; i++)
        argv[i] = words + 16 * i;
    snprintf(argv[1], 16, "%d", (int)pid);
    for (size_t i = 0; i < maps->n; i++) {
        snprintf(argv[2 + 3 * i], 16, "%u", maps->v[i].inside);
        snprintf(argv[3 + 3 * i], 16, "%u", maps->v[i].outside);
        snprintf(argv[4 + 3 * i], 16, "%u", maps->v[i].size);
    }
    pid_t child = fork();
    if (child == 0) {
        execvp(helper, argv);
        _exit(127);
    }
    int status = -1;
    if (child < 0)
        return sys_error(e, "%s", helper);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
        return error_set(e, ENOENT, "%s: not there; install uidmap, or map your own number alone", helper);
    return status == 0 ? 0 : error_set(e, EPERM, "%s: refused the mappings; see /etc/subuid and /etc/subgid", helper);
}

static int write_map(pid_t pid, const char *file, const char *helper, const struct spec_id_maps *maps, struct error *e)
{
    char path[64], text[4096];
    if (!lines(text, sizeof(text), maps))
        return error_set(e, E2BIG, "%s: more mappings than fit a page", file);
    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
    int r = sys_write_at(AT_FDCWD, path, text, strlen(text));
    if (r == -EPERM && geteuid() != 0)
        return run_helper(helper, pid, maps, e);
    return r < 0 ? error_set(e, -r, "%s: writing the mappings: %s", file, strerror(-r)) : 0;
}

int idmap_process(pid_t pid, const struct spec_id_maps *uid, const struct spec_id_maps *gid, struct error *e)
{
    char path[64];
    int r = write_map(pid, "uid_map", "newuidmap", uid, e);
    /* Who maps only his own group has to give up setgroups first; user_namespaces(7). */
    if (r == 0 && geteuid() != 0 && gid->n == 1 && gid->v[0].size == 1) {
        snprintf(path, sizeof(path), "/proc/%d/setgroups", (int)pid);
        sys_write_at(AT_FDCWD, path, "deny", 4);
    }
    return r < 0 ? r : write_map(pid, "gid_map", "newgidmap", gid, e);
}

/* A process that does nothing in it, until we have a descriptor of it. */
int idmap_namespace(const struct spec_id_maps *uid, const struct spec_id_maps *gid, struct error *e)
{
    char path[64];
    pid_t child = sys_clone(CLONE_NEWUSER, NULL, -1);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            pause();
    }
    if (child < 0)
        return sys_error(e, "a user namespace");
    int fd = idmap_process(child, uid, gid, e);
    if (fd == 0) {
        snprintf(path, sizeof(path), "/proc/%d/ns/user", (int)child);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            fd = sys_error(e, "%s", path);
    }
    kill(child, SIGKILL);
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
        ;
    return fd;
}

int idmap_mount(int tree, const struct spec_id_maps *uid, const struct spec_id_maps *gid, bool recursive,
                struct error *e)
{
    CLEANUP_FD int ns = idmap_namespace(uid, gid, e);
    if (ns < 0)
        return ns;
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (u64)ns};
    if (mount_setattr(tree, "", AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0), &attr, sizeof(attr)) < 0)
        return sys_error(e, "idmap (the file system may not have it)");
    return 0;
}

bool idmap_nested(void)
{
    char text[128];
    unsigned inside, outside, size;
    if (sys_read_small(AT_FDCWD, "/proc/self/uid_map", text, sizeof(text)) <= 0)
        return false;
    return sscanf(text, "%u %u %u", &inside, &outside, &size) != 3 || inside || outside || size != UINT32_MAX;
}
