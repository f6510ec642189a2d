#include "vm/cell_disk.h"
#include "host/host.h"

#include <errno.h>
#include <string.h>

static bool ready(void *ctx)
{
    struct link *l = ctx;
    struct ring *up = &l->ring[LINK_DISK_UP];
    if (ring_room(up) >= (s64)(DISK_RECORDS_MAX * RING_RECORD))
        return true;
    ring_mark_starved(up); /* the keeper knocks when it has taken something; it may have by now */
    return ring_room(up) >= (s64)(DISK_RECORDS_MAX * RING_RECORD);
}

/* One write for request and segments: the keeper sees all of it or nothing. It is told at once: it works beside the guest. */
static void submit(void *ctx, const struct disk_request *r, const struct disk_seg *segs)
{
    struct link *l = ctx;
    u8 buf[DISK_RECORDS_MAX * RING_RECORD];
    size_t len = RING_RECORD + disk_seg_records(r->n_segs) * sizeof(struct disk_segs);
    memset(buf, 0, len);
    memcpy(buf, r, sizeof(*r));
    memcpy(buf + RING_RECORD, segs, r->n_segs * sizeof(*segs));
    ring_write(&l->ring[LINK_DISK_UP], buf, len); /* there is room: it was ready */
    link_knock(l);
}

void cell_disk_setup(struct board_config *b, const struct link_config *cfg, struct link *l)
{
    b->disks = cfg->disks;
    b->n_disks = cfg->n_disks;
    b->disk_ready = ready;
    b->disk_submit = submit;
    b->disk_ctx = l;
}

int cell_disk_serve(struct link *l, struct board *b)
{
    struct disk_reply r;
    bool any = false;
    s64 n;
    board_lock_devices(b);
    while ((n = link_read(l, LINK_DISK_DOWN, &r, sizeof(r))) > 0) {
        any = true;
        if (board_disk_done(b, &r) < 0)
            n = -EPROTO;
        if (n < 0)
            break;
    }
    if (n >= 0)
        board_disk_settle(b);
    board_unlock_devices(b);
    return n < 0 ? -EPROTO : any;
}

int cell_disk_drain(struct link *l, struct board *b)
{
    int r = 0;
    while (r >= 0 && board_disk_busy(b)) {
        ring_door_close(l->own);
        r = cell_disk_serve(l, b);
        if (r == 0)
            host_event_wait(l->wake_self, UINT64_MAX);
        ring_door_open(l->own);
    }
    return MIN(r, 0);
}
