/*
 * What a container printed: records of stream, length and time, one after the other.
 *
 *   offset size
 *        0    1  stream  '1' or '2'
 *        1    3  0
 *        4    4  length of what follows the head, little-endian
 *        8    8  microseconds since 1970, little-endian
 *       16    n  bytes
 *
 * A record is one write: who is killed leaves whole ones. Two files of LOG_MAX hold the last of it.
 */
#include "base/bytes.h"
#include "box/parts.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define HEAD 16

int box_log_open(struct box_log *l, const char *path, struct error *e)
{
    struct stat st;
    snprintf(l->path, sizeof(l->path), "%s", path);
    l->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    l->size = l->fd >= 0 && fstat(l->fd, &st) == 0 ? (u64)st.st_size : 0;
    return l->fd < 0 ? sys_error(e, "%s", path) : 0;
}

static void rotate(struct box_log *l)
{
    char old[PATH_MAX + 2], path[PATH_MAX];
    snprintf(old, sizeof(old), "%s.1", l->path);
    snprintf(path, sizeof(path), "%s", l->path);
    rename(path, old);
    sys_close(&l->fd);
    box_log_open(l, path, NULL);
}

void box_log_write(struct box_log *l, u8 stream, const void *data, size_t size)
{
    u8 head[HEAD] = {stream};
    struct timespec now;
    if (l->size > LOG_MAX)
        rotate(l);
    clock_gettime(CLOCK_REALTIME, &now);
    put_le32(head + 4, (u32)size);
    put_le64(head + 8, (u64)now.tv_sec * 1000000 + (u64)now.tv_nsec / 1000);
    const struct iovec parts[] = {{head, sizeof(head)}, {(void *)data, size}};
    /* A full disk costs the log, not the container. */
    ssize_t n = l->fd >= 0 ? writev(l->fd, parts, 2) : -1;
    if (n > 0 && (size_t)n < sizeof(head) + size && ftruncate(l->fd, (off_t)l->size) < 0)
        sys_close(&l->fd);
    else if (n > 0)
        l->size += (u64)n;
}

/* Whole records from `fd`, each to its stream. False when the reader of ours is gone. */
static bool print(int fd, u8 *buffer)
{
    u8 head[HEAD];
    for (;;) {
        off_t at = lseek(fd, 0, SEEK_CUR);
        if (read(fd, head, HEAD) != HEAD) {
            lseek(fd, at, SEEK_SET);
            return true;
        }
        u32 left = get_le32(head + 4);
        ssize_t n = left <= WIRE_MAX ? read(fd, buffer, left) : -1;
        if (n != (ssize_t)left) {
            lseek(fd, at, SEEK_SET);
            return true;
        }
        if (sys_write_all(head[0] == WIRE_STDERR ? STDERR_FILENO : STDOUT_FILENO, buffer, left) < 0)
            return false;
    }
}

/* The file has become another by that name. */
static bool is_old(int fd, const char *path)
{
    struct stat mine, named;
    return fstat(fd, &mine) == 0 && stat(path, &named) == 0 && mine.st_ino != named.st_ino;
}

static bool lives(const struct machine_row *row)
{
    return row->keeper_start && sys_start_time(row->keeper_pid) == row->keeper_start;
}

int box_logs(const struct machine_row *row, bool follow, struct error *e)
{
    const struct timespec tick = {.tv_nsec = 50 * 1000 * 1000};
    char old[PATH_MAX + 2];
    CLEANUP_FREE u8 *buffer = malloc(WIRE_MAX);
    snprintf(old, sizeof(old), "%s.1", row->log);
    CLEANUP_FD int before = open(old, O_RDONLY | O_CLOEXEC);
    CLEANUP_FD int fd = open(row->log, O_RDONLY | O_CLOEXEC);
    if (!buffer)
        return error_set(e, ENOMEM, "out of memory");
    bool good = before < 0 || print(before, buffer);
    for (;;) {
        /* Asked first: what came before the end is read after it. */
        bool last = !follow || !lives(row);
        if (fd < 0)
            fd = open(row->log, O_RDONLY | O_CLOEXEC);
        good = good && (fd < 0 || print(fd, buffer));
        if (!good || last)
            return 0;
        if (fd >= 0 && is_old(fd, row->log))
            sys_close(&fd), fd = -1;
        else
            nanosleep(&tick, NULL);
    }
}
