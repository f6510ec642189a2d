#include "base/disk.h"

#include <errno.h>

_Static_assert(sizeof(struct disk_request) == 64 && sizeof(struct disk_segs) == 64 && sizeof(struct disk_reply) == 64,
               "records of the rings");

static const struct {
    bool data, range, changes;
} ops[DISK_OP_COUNT] = {
    [DISK_READ] = {.data = true, .range = true},
    [DISK_WRITE] = {.data = true, .range = true, .changes = true},
    [DISK_FLUSH] = {0},
    [DISK_DISCARD] = {.range = true, .changes = true},
    [DISK_ZERO] = {.range = true, .changes = true},
};

int disk_request_check(const struct disk_request *r, const struct disk_info *d)
{
    if (r->op == DISK_NONE || r->op >= DISK_OP_COUNT || r->tag >= DISK_TAGS || r->flags & ~DISK_MAY_UNMAP)
        return -EINVAL;
    if (ops[r->op].changes && d->flags & DISK_READ_ONLY)
        return -EINVAL;
    if (ops[r->op].range ? !r->sectors || r->sector > d->sectors || r->sectors > d->sectors - r->sector : r->sectors)
        return -EINVAL;
    if (ops[r->op].data)
        return r->n_segs && r->n_segs <= DISK_SEGS_MAX && r->sectors <= DISK_BYTES_MAX / DISK_SECTOR ? 0 : -EINVAL;
    return r->n_segs ? -EINVAL : 0;
}
