/*
 * Sending a tree: depth first, a directory before and (AGENT_TYPE_DIR_END) behind what is in it. Links are sent as links.
 * What changes meanwhile is sent as it is found; what vanishes or can not be read is left out with a warning, so that a copy of
 * a living system ends, and says what it lacks.
 */
#include "agent/agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEPTH_MAX 200u

struct sender {
    int fd;
    char name[AGENT_PATH_MAX]; /* below the root */
    size_t len;
    u8 buf[AGENT_FRAME_MAX];
    struct agent_frame answer;
    struct error *e;
};

/* Send, and hear whether the other end has failed meanwhile. */
static int put(struct sender *s, u8 kind, const void *data, size_t len)
{
    struct pollfd p = {.fd = s->fd, .events = POLLIN};
    int r = agent_send(s->fd, kind, data, len);
    if (poll(&p, 1, 0) > 0 && agent_receive(s->fd, &s->answer) == 1 && s->answer.kind == AGENT_FAILED)
        return agent_failure(&s->answer, s->e);
    return r < 0 ? error_set(s->e, -r, "connection: %s", strerror(-r)) : 0;
}

static int warn(struct sender *s, const char *why)
{
    char text[AGENT_PATH_MAX + 100];
    int n = snprintf(text, sizeof(text), "%s: left out: %s", s->len ? s->name : ".", why);
    return put(s, AGENT_WARNING, text, MIN((size_t)n, sizeof(text) - 1));
}

static int put_entry(struct sender *s, u8 type, const struct stat *st, const char *target)
{
    const struct agent_file f = {.type = type,
                                 .mode = st->st_mode & 07777,
                                 .mtime = st->st_mtim.tv_sec,
                                 .mtime_ns = (u32)st->st_mtim.tv_nsec,
                                 .size = (u64)st->st_size,
                                 .name = s->name,
                                 .target = target};
    s64 n = agent_file_pack(&f, s->buf);
    return n < 0 ? (int)n : put(s, AGENT_FILE, s->buf, (size_t)n);
}

static int send_file(struct sender *s, int dir, const char *name, const struct stat *st)
{
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY), r;
    if (fd < 0)
        return warn(s, strerror(errno));
    r = put_entry(s, AGENT_TYPE_FILE, st, NULL);
    ssize_t n = 0;
    while (r == 0 && (n = read(fd, s->buf, sizeof(s->buf))) > 0)
        r = put(s, AGENT_DATA, s->buf, (size_t)n);
    int why = errno;
    close(fd);
    if (r == 0 && n < 0)
        return error_set(s->e, why, "%s: %s", s->len ? s->name : name, strerror(why));
    return r < 0 ? r : put(s, AGENT_FILE_END, NULL, 0);
}

static int send_link(struct sender *s, int dir, const char *name, const struct stat *st)
{
    char target[AGENT_PATH_MAX];
    ssize_t n = readlinkat(dir, name, target, sizeof(target));
    if (n < 0 || n == sizeof(target))
        return warn(s, n < 0 ? strerror(errno) : "its target is too long");
    target[n] = 0;
    return put_entry(s, AGENT_TYPE_LINK, st, target);
}

static int send_any(struct sender *s, int dir, const char *name, unsigned depth);

/* All entries of a directory, which it closes. */
static int send_entries(struct sender *s, int fd, unsigned depth)
{
    size_t before = s->len;
    DIR *d = fdopendir(fd);
    int r = 0;
    if (!d) {
        close(fd);
        return error_set(s->e, ENOMEM, "out of memory");
    }
    for (struct dirent *x; r == 0 && (x = readdir(d));) {
        if (!strcmp(x->d_name, ".") || !strcmp(x->d_name, ".."))
            continue;
        int n = snprintf(s->name + before, sizeof(s->name) - before, "%s%s", before ? "/" : "", x->d_name);
        if ((size_t)n < sizeof(s->name) - before) {
            s->len = before + (size_t)n;
            r = send_any(s, dirfd(d), x->d_name, depth);
        }
        s->name[s->len = before] = 0;
        if ((size_t)n >= sizeof(s->name) - before && r == 0)
            r = warn(s, "a name below it is too long");
    }
    closedir(d);
    return r;
}

static int send_dir(struct sender *s, int dir, const char *name, const struct stat *st, unsigned depth)
{
    int fd = depth < DEPTH_MAX ? openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW) : -1;
    if (fd < 0)
        return warn(s, depth < DEPTH_MAX ? strerror(errno) : "too deep");
    int r = put_entry(s, AGENT_TYPE_DIR, st, NULL);
    if (r < 0)
        close(fd);
    else
        r = send_entries(s, fd, depth + 1);
    return r < 0 ? r : put_entry(s, AGENT_TYPE_DIR_END, st, NULL);
}

static int send_any(struct sender *s, int dir, const char *name, unsigned depth)
{
    struct stat st;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return warn(s, strerror(errno));
    if (S_ISREG(st.st_mode))
        return send_file(s, dir, name, &st);
    if (S_ISLNK(st.st_mode))
        return send_link(s, dir, name, &st);
    if (S_ISDIR(st.st_mode))
        return send_dir(s, dir, name, &st, depth);
    return warn(s, "is a device, a pipe or a socket");
}

int agent_tree_send(int fd, const char *path, struct error *e)
{
    struct stat st;
    struct sender *s = calloc(1, sizeof(*s));
    if (!s)
        return error_set(e, ENOMEM, "out of memory");
    s->fd = fd;
    s->e = e;
    int r = lstat(path, &st) < 0 ? error_set(e, errno, "%s: %s", path, strerror(errno)) : 0;
    if (r == 0 && !S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode) && !S_ISDIR(st.st_mode))
        r = error_set(e, EINVAL, "%s: is a device, a pipe or a socket; files, links and directories can be copied",
                      path);
    if (r == 0 && S_ISREG(st.st_mode) && access(path, R_OK) < 0)
        r = error_set(e, errno, "%s: %s", path, strerror(errno));
    if (r == 0)
        r = send_any(s, AT_FDCWD, path, 0);
    /* Not by put: what comes after this is the answer to all of it, and the caller's. */
    if (r == 0 && (r = agent_send(fd, AGENT_DONE, NULL, 0)) < 0)
        error_set(e, -r, "connection: %s", strerror(-r));
    free(s);
    return r;
}
