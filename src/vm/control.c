/* The client's side of the control socket. */
#include "vm/control.h"
#include "base/bytes.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* A socket's address has room for 107 characters, a path for 4095: go through a descriptor of the directory. */
static int connect_through_dir(int fd, const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    const char *slash = strrchr(path, '/');
    char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    if (!dir)
        return -ENOMEM;
    int d = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    free(dir);
    if (d < 0)
        return -errno;
    int n = snprintf(a.sun_path, sizeof(a.sun_path), "/proc/self/fd/%d/%s", d, slash ? slash + 1 : path);
    int r = n < (int)sizeof(a.sun_path) ? connect(fd, (struct sockaddr *)&a, sizeof(a)) : (errno = ENAMETOOLONG, -1);
    r = r < 0 ? -errno : 0;
    close(d);
    return r;
}

int control_connect(const char *path, struct error *e)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return error_set(e, errno, "socket: %s", strerror(errno));
    int r = connect_through_dir(fd, path);
    if (r == 0)
        return fd;
    close(fd);
    if (r == -ENOENT || r == -ECONNREFUSED)
        return error_set(e, -r, "%s: no machine answers there; it has ended (see trapeze ps --all)", path);
    return error_set(e, -r, "%s: %s", path, strerror(-r));
}

static int send_all(int fd, const void *data, size_t len)
{
    const u8 *p = data;
    while (len) {
        ssize_t n = send(fd, p, len, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

int control_send(int fd, const json_t *request, struct error *e)
{
    char *text = json_dumps(request, JSON_COMPACT);
    if (!text)
        return error_set(e, ENOMEM, "request: out of memory");
    size_t len = strlen(text);
    text[len] = '\n'; /* the line needs no zero behind it */
    int r = len < CONTROL_LINE_MAX ? send_all(fd, text, len + 1) : -EMSGSIZE;
    free(text);
    return r < 0 ? error_set(e, -r, "the machine's keeper: %s", strerror(-r)) : 0;
}

/*
 * Read up to the newline and no further, because frames or bytes may follow: look at what is there first, then take it.
 * Returns the length of the line, or -errno.
 */
static s64 receive_line(int fd, char *line, size_t size)
{
    size_t len = 0;
    while (len < size) {
        ssize_t n = recv(fd, line + len, size - len, MSG_PEEK);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EPIPE;
        char *end = memchr(line + len, '\n', (size_t)n);
        size_t take = end ? (size_t)(end - line) - len + 1 : (size_t)n;
        if (recv(fd, line + len, take, MSG_WAITALL) != (ssize_t)take)
            return -EPIPE;
        len += take;
        if (end)
            return (s64)len - 1;
    }
    return -EPROTO;
}

static int judge(json_t *j, json_t **reply, struct error *e)
{
    int code = (int)json_integer_value(json_object_get(j, "errno"));
    const char *why = json_string_value(json_object_get(j, "error"));
    if (json_is_true(json_object_get(j, "ok"))) {
        if (reply)
            *reply = j;
        else
            json_decref(j);
        return 0;
    }
    int r = why ? error_set(e, code > 0 ? code : EIO, "%s", why)
                : error_set(e, EPROTO, "the machine's keeper: an answer that is none");
    json_decref(j);
    return r;
}

int control_receive(int fd, json_t **reply, struct error *e)
{
    if (reply)
        *reply = NULL;
    char *line = malloc(CONTROL_LINE_MAX + 1);
    if (!line)
        return error_set(e, ENOMEM, "reply: out of memory");
    s64 n = receive_line(fd, line, CONTROL_LINE_MAX + 1);
    json_t *j = n >= 0 ? json_loadb(line, (size_t)n, 0, NULL) : NULL;
    free(line);
    if (n == -EPIPE || n == -ECONNRESET)
        return error_set(e, EPIPE, "the machine's keeper has gone");
    if (n < 0)
        return error_set(e, (int)-n, "the machine's keeper: %s", strerror((int)-n));
    return judge(j, reply, e);
}

int control_call(int fd, const json_t *request, json_t **reply, struct error *e)
{
    if (reply)
        *reply = NULL;
    int r = control_send(fd, request, e);
    return r < 0 ? r : control_receive(fd, reply, e);
}

/* The byte that carries a descriptor. */
static int receive_fd(int fd)
{
    char byte;
    struct iovec iov = {&byte, 1};
    union {
        struct cmsghdr head;
        u8 room[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    ssize_t n;
    while ((n = recvmsg(fd, &m, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR)
        ;
    if (n <= 0)
        return n < 0 ? -errno : -EPIPE;
    const struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    int got;
    if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(got)))
        return -EPROTO;
    memcpy(&got, CMSG_DATA(c), sizeof(got));
    return got;
}

int control_memory(int fd, u64 *size, struct error *e)
{
    return control_descriptor(fd, json_pack("{s:s}", "do", "memory"), size, e);
}

int control_descriptor(int fd, json_t *request, u64 *size, struct error *e)
{
    json_t *reply = NULL;
    int r = request ? control_call(fd, request, &reply, e) : error_set(e, ENOMEM, "request: out of memory");
    json_decref(request);
    if (r < 0)
        return r;
    *size = (u64)json_integer_value(json_object_get(reply, "bytes"));
    json_decref(reply);
    r = receive_fd(fd);
    return r < 0 ? error_set(e, -r, "the machine's keeper: a descriptor did not come: %s", strerror(-r)) : r;
}

/* Takes the reference of `request`. */
static int log_call(int fd, json_t *request, json_t **reply, struct error *e)
{
    int r = request ? control_call(fd, request, reply, e) : error_set(e, ENOMEM, "request: out of memory");
    json_decref(request);
    return r;
}

int control_log_start(int fd, struct error *e)
{
    return log_call(fd, json_pack("{s:s,s:s}", "do", "log", "action", "start"), NULL, e);
}

int control_log_stop(int fd, struct error *e)
{
    return log_call(fd, json_pack("{s:s,s:s}", "do", "log", "action", "stop"), NULL, e);
}

int control_log_throttle(int fd, unsigned share, struct error *e)
{
    /* Keepers of before know whole ones. */
    json_t *percent = share % 100 ? json_real(share / 100.0) : json_integer(share / 100);
    return log_call(fd, json_pack("{s:s,s:s,s:o}", "do", "log", "action", "throttle", "percent", percent), NULL, e);
}

static int log_take(int fd, u64 first, u64 pages, u64 *out, struct error *e)
{
    json_t *reply;
    int r = log_call(fd,
                     json_pack("{s:s,s:s,s:I,s:I}", "do", "log", "action", "take", "first", (json_int_t)first, "pages",
                               (json_int_t)pages),
                     &reply, e);
    if (r < 0)
        return r;
    json_int_t bytes = json_integer_value(json_object_get(reply, "bytes"));
    json_decref(reply);
    if (bytes < 0 || (u64)bytes != pages / 8)
        return error_set(e, EPROTO, "the machine's keeper: a dirty log of another size than was asked for");
    return control_bytes(fd, out, (size_t)bytes, e);
}

int control_mirror_start(int fd, struct error *e)
{
    return log_call(fd, json_pack("{s:s,s:s}", "do", "mirror", "action", "start"), NULL, e);
}

int control_mirror_open(int fd, unsigned i, u64 *bytes, bool *direct, struct error *e)
{
    json_t *reply;
    int r = log_call(fd, json_pack("{s:s,s:s,s:i}", "do", "mirror", "action", "open", "disk", (int)i), &reply, e);
    if (r < 0)
        return r;
    *bytes = (u64)json_integer_value(json_object_get(reply, "bytes"));
    *direct = json_is_true(json_object_get(reply, "direct"));
    json_decref(reply);
    r = receive_fd(fd);
    return r < 0 ? error_set(e, -r, "the machine's keeper: a disk did not come: %s", strerror(-r)) : r;
}

static int mirror_take(int fd, unsigned i, u64 first, u64 blocks, u64 *out, struct error *e)
{
    json_t *reply;
    int r = log_call(fd,
                     json_pack("{s:s,s:s,s:i,s:I,s:I}", "do", "mirror", "action", "take", "disk", (int)i, "first",
                               (json_int_t)first, "blocks", (json_int_t)blocks),
                     &reply, e);
    if (r < 0)
        return r;
    json_int_t bytes = json_integer_value(json_object_get(reply, "bytes"));
    json_decref(reply);
    if (bytes < 0 || (u64)bytes != blocks / 8)
        return error_set(e, EPROTO, "the machine's keeper: marks of a disk in another number than was asked for");
    return control_bytes(fd, out, (size_t)bytes, e);
}

int control_mirror_take(int fd, unsigned i, struct blockmap *out, struct error *e)
{
    u64 all = blockmap_words(out) * 64, some[1024];
    int r = 0;
    for (u64 at = 0, n; at < all && r == 0; at += n) {
        n = MIN(all - at, (u64)sizeof(some) * 8);
        r = mirror_take(fd, i, at, n, some, e);
        for (u64 w = 0; r == 0 && w < n / 64; w++)
            out->bits[at / 64 + w] |= some[w];
    }
    return r;
}

int control_log_take(int fd, u64 first, u64 pages, u64 *out, struct error *e)
{
    int r = 0;
    for (u64 at = 0, n; at < pages && r == 0; at += n) {
        n = MIN(pages - at, (u64)CONTROL_LOG_PAGES);
        r = log_take(fd, first + at, n, out + at / 64, e);
    }
    return r;
}

int control_frames_take(int fd, u8 **data, size_t *len, struct error *e)
{
    json_t *q = json_pack("{s:s,s:s}", "do", "frames", "action", "take"), *reply = NULL;
    int r = q ? control_call(fd, q, &reply, e) : error_set(e, ENOMEM, "request: out of memory");
    json_int_t n = json_integer_value(json_object_get(reply, "bytes"));
    json_decref(q);
    json_decref(reply);
    *data = NULL;
    *len = 0;
    if (r < 0 || !n)
        return r;
    if (n < 0 || n > (json_int_t)CONTROL_FRAMES_MAX || !(*data = malloc((size_t)n)))
        return error_set(e, EPROTO, "the machine's keeper: frames of impossible size");
    *len = (size_t)n;
    return control_bytes(fd, *data, *len, e);
}

/* A request that bytes follow. */
static int put_bytes(int fd, json_t *request, const void *data, size_t len, struct error *e)
{
    int r = request ? control_send(fd, request, e) : error_set(e, ENOMEM, "request: out of memory");
    json_decref(request);
    for (size_t at = 0; r == 0 && at < len;) {
        ssize_t n = send(fd, (const u8 *)data + at, len - at, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            return error_set(e, errno, "the machine's keeper: %s", strerror(errno));
        at += n > 0 ? (size_t)n : 0;
    }
    return r;
}

int control_put(int fd, json_t *request, const void *data, size_t len, struct error *e)
{
    int r = put_bytes(fd, request, data, len, e);
    return r < 0 ? r : control_receive(fd, NULL, e);
}

static json_t *frames_request(size_t len)
{
    return json_pack("{s:s,s:s,s:I}", "do", "frames", "action", "give", "bytes", (json_int_t)len);
}

int control_frames_leave(int fd, const u8 *data, size_t len, struct error *e)
{
    return put_bytes(fd, frames_request(len), data, len, e);
}

int control_frames_give(int fd, const u8 *data, size_t len, struct error *e)
{
    return control_put(fd, frames_request(len), data, len, e);
}

int control_once(const char *path, json_t *request, json_t **reply, struct error *e)
{
    if (reply)
        *reply = NULL;
    if (!request)
        return error_set(e, ENOMEM, "request: out of memory");
    int fd = control_connect(path, e), r = fd;
    if (fd >= 0) {
        r = control_call(fd, request, reply, e);
        close(fd);
    }
    json_decref(request);
    return r;
}

int control_frame_send(int fd, u8 kind, const void *data, size_t len)
{
    const u8 *p = data;
    do {
        u8 frame[4 + CONTROL_FRAME_MAX] = {kind, 0};
        size_t n = MIN(len, (size_t)CONTROL_FRAME_MAX);
        put_le16(frame + 2, (u16)n);
        if (n)
            memcpy(frame + 4, p, n);
        int r = send_all(fd, frame, 4 + n);
        if (r < 0)
            return r;
        p += n;
        len -= n;
    } while (len);
    return 0;
}

/* 1, 0 at the end before the first byte, -errno. */
static int receive_all(int fd, void *out, size_t len)
{
    size_t got = 0;
    while (got < len) {
        ssize_t n = recv(fd, (u8 *)out + got, len - got, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return got ? -EPROTO : 0;
        got += (size_t)n;
    }
    return 1;
}

int control_bytes(int fd, void *out, size_t len, struct error *e)
{
    int r = receive_all(fd, out, len);
    return r > 0 ? 0 : error_set(e, r < 0 ? -r : EPIPE, "the machine's keeper has gone");
}

int control_frame_receive(int fd, struct control_frame *f)
{
    u8 head[4];
    int r = receive_all(fd, head, sizeof(head));
    if (r <= 0)
        return r;
    f->kind = head[0];
    f->len = get_le16(head + 2);
    if (head[1] || f->len > CONTROL_FRAME_MAX)
        return -EPROTO;
    r = f->len ? receive_all(fd, f->data, f->len) : 1;
    f->data[f->len] = 0;
    return r == 0 ? -EPROTO : r;
}
