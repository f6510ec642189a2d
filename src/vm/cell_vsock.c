#include "vm/cell_vsock.h"

#include <errno.h>
#include <string.h>

static bool ready(void *ctx, unsigned records)
{
    struct link *l = ctx;
    struct ring *up = &l->ring[LINK_VSOCK_UP];
    s64 wanted = (s64)records * RING_RECORD;
    if (ring_room(up) >= wanted)
        return true;
    ring_mark_starved(up); /* the keeper knocks when it has taken something; it may have by now */
    return ring_room(up) >= wanted;
}

/* One write for header and data: the keeper sees all of it or nothing. */
static void submit(void *ctx, const struct vsock_packet *p, const u8 *data)
{
    struct link *l = ctx;
    u8 buf[VSOCK_RECORDS * RING_RECORD];
    u32 len = RING_RECORD + vsock_padded(p->len);
    memset(buf + len - RING_RECORD, 0, RING_RECORD); /* what the data does not fill */
    memcpy(buf, p, sizeof(*p));
    if (p->len)
        memcpy(buf + RING_RECORD, data, p->len);
    ring_write(&l->ring[LINK_VSOCK_UP], buf, len); /* there is room: it was ready */
    link_knock(l);
}

static bool next(void *ctx, struct vsock_packet *p, u8 *data)
{
    struct link *l = ctx;
    u8 tail[RING_RECORD];
    if (link_read(l, LINK_VSOCK_DOWN, p, sizeof(*p)) != sizeof(*p))
        return false;
    u32 whole = p->len & ~(RING_RECORD - 1), rest = p->len - whole;
    bool good = vsock_packet_check(p) && link_read(l, LINK_VSOCK_DOWN, data, whole) == whole &&
                (!rest || link_read(l, LINK_VSOCK_DOWN, tail, sizeof(tail)) == sizeof(tail));
    if (good && rest)
        memcpy(data + whole, tail, rest);
    if (!good)
        l->ring[LINK_VSOCK_DOWN].broken = true; /* found by cell_vsock_serve */
    return good;
}

void cell_vsock_setup(struct board_config *b, struct link *l)
{
    b->vsock =
        (struct virtio_vsock_config){.cid = VSOCK_GUEST_CID, .ready = ready, .submit = submit, .next = next, .ctx = l};
}

int cell_vsock_serve(struct link *l, struct board *b)
{
    struct ring *down = &l->ring[LINK_VSOCK_DOWN];
    board_lock_devices(b);
    u32 before = down->mine;
    board_vsock_settle(b);
    bool any = down->mine != before, broken = down->broken || l->ring[LINK_VSOCK_UP].broken;
    board_unlock_devices(b);
    return broken ? -EPROTO : any;
}
