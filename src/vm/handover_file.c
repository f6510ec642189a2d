#include "vm/handover_file.h"
#include "base/record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 4096u

bool handover_id_good(const char *text)
{
    return text && strlen(text) == HANDOVER_ID && strspn(text, "0123456789abcdef") == HANDOVER_ID;
}

static bool ends(const char *text, size_t size)
{
    return memchr(text, 0, size);
}

static int check(const void *candidate, struct error *e)
{
    const struct handover_record *h = candidate;
    if (h->role == HANDOVER_NONE || h->role >= HANDOVER_ROLES || !ends(h->id, sizeof(h->id)) ||
        !ends(h->host, sizeof(h->host)) || !ends(h->to, sizeof(h->to)) || !ends(h->tls, sizeof(h->tls)) ||
        !handover_id_good(h->id))
        return error_set(e, EINVAL, "%s: no record of a handover", VM_FILE_HANDOVER);
    return 0;
}

static const struct rec_field fields[] = {REC_FIELD(struct handover_record, role),
                                          REC_FIELD(struct handover_record, insecure),
                                          REC_FIELD(struct handover_record, id),
                                          REC_FIELD(struct handover_record, host),
                                          REC_FIELD(struct handover_record, to),
                                          REC_FIELD(struct handover_record, tls),
                                          REC_FIELD_SINCE(struct handover_record, postcopy, 2)};

static const struct rec_desc desc = {.name = "handover",
                                     .type = REC_TYPE('H', 'A', 'N', 'D'),
                                     .version = 2,
                                     .object_size = sizeof(struct handover_record),
                                     .fields = fields,
                                     .n_fields = ARRAY_LEN(fields),
                                     .check = check};

int handover_open(int dir, struct error *e)
{
    int fd = openat(dir, VM_FILE_HANDOVER, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    return fd < 0 ? error_set(e, errno, "%s: %s", VM_FILE_HANDOVER, strerror(errno)) : fd;
}

int handover_read(int fd, struct handover_record *h, struct error *e)
{
    u8 block[BLOCK];
    size_t at = 0;
    struct rec_view v;
    struct error torn = {0};
    ssize_t n = pread(fd, block, sizeof(block), 0);
    *h = (struct handover_record){0};
    if (n < 0)
        return error_set(e, errno, "%s: cannot be read: %s", VM_FILE_HANDOVER, strerror(errno));
    if (rec_next(block, (size_t)n, &at, &v, &torn) != 1 || rec_load(&v, &desc, h, &torn) < 0)
        *h = (struct handover_record){0};
    return 0;
}

static int put(int fd, const u8 *block, struct error *e)
{
    ssize_t n = pwrite(fd, block, BLOCK, 0);
    if (n == BLOCK && fdatasync(fd) == 0)
        return 0;
    int code = n >= 0 && n != BLOCK ? ENOSPC : errno;
    return error_set(e, code, "%s: cannot be put on stable storage: %s", VM_FILE_HANDOVER, strerror(code));
}

int handover_prepare(int fd, struct error *e)
{
    struct handover_record h;
    int r = handover_read(fd, &h, e);
    return r < 0 ? r : handover_write(fd, &h, e);
}

int handover_write(int fd, const struct handover_record *h, struct error *e)
{
    u8 block[BLOCK] = {0};
    struct rec_buf b = {0};
    if (h->role != HANDOVER_NONE && rec_save(&b, &desc, 0, h) < 0)
        return error_set(e, ENOMEM, "%s: out of memory", VM_FILE_HANDOVER);
    _Static_assert(sizeof(*h) + REC_HEADER <= BLOCK, "a record fits the block");
    if (b.len)
        memcpy(block, b.data, b.len);
    rec_buf_free(&b);
    return put(fd, block, e);
}

static int open_at(const char *dir, struct error *e)
{
    int d = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (d < 0)
        return error_set(e, errno, "%s: %s", dir, strerror(errno));
    int fd = handover_open(d, e);
    close(d);
    return fd;
}

int handover_read_at(const char *dir, struct handover_record *h, struct error *e)
{
    char path[4200];
    *h = (struct handover_record){0};
    snprintf(path, sizeof(path), "%s/%s", dir, VM_FILE_HANDOVER);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno == ENOENT ? 0 : error_set(e, errno, "%s: %s", path, strerror(errno));
    int r = handover_read(fd, h, e);
    close(fd);
    return r;
}

int handover_write_at(const char *dir, const struct handover_record *h, struct error *e)
{
    int fd = open_at(dir, e);
    int r = fd < 0 ? fd : handover_write(fd, h, e);
    if (fd >= 0)
        close(fd);
    return r;
}
