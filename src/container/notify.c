#include "container/notify.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define NOTIFY_DIRECTORY "notify"
#define NOTIFY_NAME      "notify/notify.sock"
#define NOTIFY_INSIDE    "/run/notify"

int notify_prepare(struct launch *l, struct error *e)
{
    static char *options[] = {"bind", "nosuid", "noexec", "nodev", "ro", NULL};
    static const char *const env[] = {"NOTIFY_SOCKET=" NOTIFY_INSIDE "/notify.sock", NULL};
    struct spec *s = &l->spec;
    char path[4096];
    if (!getenv("NOTIFY_SOCKET") || !spec_namespace(s, CLONE_NEWNS))
        return 0;
    int r = store_root(l->host, path, sizeof(path), e);
    if (r < 0)
        return r;
    struct spec_mount *mounts = arena_array(&s->arena, s->n_mounts + 1, sizeof(*mounts));
    /* The root may be given relative to where the caller is, and we are in the bundle by now. */
    char here[64] = "";
    if (path[0] != '/')
        snprintf(here, sizeof(here), "/proc/self/fd/%d/", l->cwd);
    char *source = arena_format(&s->arena, "%s%s/%s/" NOTIFY_DIRECTORY, here, path, l->record.id);
    if (!mounts || !source || launch_add_env(&s->process, &s->arena, env) < 0)
        return error_set(e, ENOMEM, "NOTIFY_SOCKET: out of memory");
    memcpy(mounts, s->mounts, s->n_mounts * sizeof(*mounts));
    mounts[s->n_mounts++] = (struct spec_mount){
        .destination = NOTIFY_INSIDE, .type = "bind", .source = source, .options = {options, ARRAY_LEN(options) - 1}};
    s->mounts = mounts;
    l->notify = true;
    return 0;
}

int notify_directory(struct launch *l, struct error *e)
{
    if (l->notify && mkdirat(l->store.dir, NOTIFY_DIRECTORY, 0755) < 0 && errno != EEXIST)
        return sys_error(e, "%s/" NOTIFY_DIRECTORY, l->store.path);
    return 0;
}

int notify_bind(struct launch *l, struct error *e)
{
    if (!getenv("NOTIFY_SOCKET") || faccessat(l->store.dir, NOTIFY_DIRECTORY, F_OK, 0) < 0)
        return 0;
    int fd = store_bind(&l->store, NOTIFY_NAME, SOCK_DGRAM, e);
    if (fd < 0)
        return fd;
    l->notify = true;
    l->notify_socket = fd;
    /* Whoever the container's process is. */
    return fchmodat(l->store.dir, NOTIFY_NAME, 0777, 0) < 0 ? sys_error(e, "%s/" NOTIFY_NAME, l->store.path) : 0;
}

static int tell_host(pid_t pid, struct error *e)
{
    const char *name = getenv("NOTIFY_SOCKET");
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    char text[64];
    size_t n = strlen(name);
    CLEANUP_FD int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || n >= sizeof(a.sun_path))
        return error_set(e, EINVAL, "NOTIFY_SOCKET: %.100s", name);
    memcpy(a.sun_path, name, n);
    if (name[0] == '@')
        a.sun_path[0] = 0;
    int len = snprintf(text, sizeof(text), "READY=1\nMAINPID=%d", (int)pid);
    if (sendto(fd, text, (size_t)len, MSG_NOSIGNAL, (struct sockaddr *)&a,
               (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n)) < 0)
        return sys_error(e, "NOTIFY_SOCKET %.100s", name);
    return 0;
}

static bool says_ready(const char *text)
{
    for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n')
        if (!strncmp(line, "READY=1", 7) && (line[7] == '\n' || !line[7]))
            return true;
    return false;
}

int notify_forward(struct launch *l, struct error *e)
{
    if (!l->notify || l->notify_socket <= 0)
        return 0;
    CLEANUP_FD int fd = l->notify_socket;
    CLEANUP_FD int pidfd = sys_pidfd_open(l->record.pid);
    struct pollfd p[2] = {{.fd = fd, .events = POLLIN}, {.fd = pidfd, .events = POLLIN}};
    l->notify_socket = -1;
    while (pidfd >= 0 && (poll(p, 2, -1) > 0 || errno == EINTR)) {
        char text[4096];
        ssize_t n = p[0].revents ? recv(fd, text, sizeof(text) - 1, MSG_DONTWAIT) : 0;
        text[n > 0 ? n : 0] = 0;
        if (n > 0 && says_ready(text))
            return tell_host(l->record.pid, e);
        if (p[1].revents && n <= 0)
            return 0;
    }
    return 0;
}
