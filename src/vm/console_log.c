#include "vm/console_log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int console_log_open(struct console_log *l, int dir, const char *name, struct error *e)
{
    int fd = openat(dir, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return error_set(e, errno, "%s: cannot be made: %s", name, strerror(errno));
    *l = (struct console_log){.fd = fd};
    return 0;
}

static size_t read_at(int fd, u8 *out, size_t len, u64 at)
{
    size_t got = 0;
    while (got < len) {
        ssize_t n = pread(fd, out + got, len - got, (off_t)(at + got));
        if (n <= 0 && !(n < 0 && errno == EINTR))
            break;
        got += n > 0 ? (size_t)n : 0;
    }
    return got;
}

static size_t write_at(int fd, const u8 *data, size_t len, u64 at)
{
    size_t put = 0;
    while (put < len) {
        ssize_t n = pwrite(fd, data + put, len - put, (off_t)(at + put));
        if (n <= 0 && !(n < 0 && errno == EINTR))
            break;
        put += n > 0 ? (size_t)n : 0;
    }
    return put;
}

size_t console_log_tail(const struct console_log *l, u8 *out, size_t len)
{
    size_t n = (size_t)MIN((u64)len, l->size);
    return read_at(l->fd, out, n, l->size - n);
}

/* Cut the file down to its last CONSOLE_LOG_KEEP bytes. Out of memory: it grows until the next try. */
static void rotate(struct console_log *l)
{
    u8 *keep = malloc(CONSOLE_LOG_KEEP);
    if (!keep)
        return;
    size_t n = console_log_tail(l, keep, CONSOLE_LOG_KEEP);
    size_t put = write_at(l->fd, keep, n, 0);
    l->lost += n - put;
    if (ftruncate(l->fd, (off_t)put) == 0)
        l->size = put;
    free(keep);
}

void console_log_append(struct console_log *l, const u8 *data, size_t len)
{
    if (l->size + len > CONSOLE_LOG_MAX)
        rotate(l);
    size_t put = write_at(l->fd, data, len, l->size);
    l->size += put;
    l->lost += len - put;
}
