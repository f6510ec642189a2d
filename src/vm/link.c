#include "vm/link.h"
#include "host/host.h"

#include <errno.h>
#include <string.h>

_Static_assert(sizeof(struct link_msg) == RING_RECORD, "a message is one record");
_Static_assert(sizeof(struct link_config) <= PAGE_SIZE, "the configuration has its page");

#define LINK_DOORS (PAGE_SIZE)
#define LINK_FIRST (2u * PAGE_SIZE)
#define HEADER     PAGE_SIZE /* of a ring: so that data is page-aligned */

static const struct {
    u32 size, unit;
    bool up;
} ring_table[LINK_RING_COUNT] = {
#define X(ring, bytes, unit, up) [ring] = {bytes, unit, up},
    LINK_RINGS(X)
#undef X
};

static const struct {
    const char *name;
    u32 most;
} up_table[UP_COUNT] = {
#define X(kind, name, most) [kind] = {name, most},
    LINK_UP(X)
#undef X
};

u64 link_size(void)
{
    u64 size = LINK_FIRST;
    for (unsigned i = 0; i < LINK_RING_COUNT; i++)
        size += HEADER + ring_table[i].size;
    return size;
}

void link_attach(struct link *l, void *base, bool in_cell, int wake_self, int wake_peer)
{
    u8 *p = base;
    struct ring_door *doors = (struct ring_door *)(p + LINK_DOORS);
    *l = (struct link){.base = p, .in_cell = in_cell, .wake_self = wake_self, .wake_peer = wake_peer};
    l->own = &doors[in_cell];
    l->peer = &doors[!in_cell];
    p += LINK_FIRST;
    for (unsigned i = 0; i < LINK_RING_COUNT; i++) {
        /* Sizes come from a constant table: attaching can not fail. */
        ring_attach(&l->ring[i], (struct ring_shared *)p, p + HEADER, ring_table[i].size, ring_table[i].unit);
        p += HEADER + ring_table[i].size;
    }
}

void link_knock(struct link *l)
{
    if (ring_door_knock(l->peer))
        host_event_signal(l->wake_peer);
}

s64 link_read(struct link *l, enum link_ring which, void *out, size_t len)
{
    s64 n = ring_read(&l->ring[which], out, len);
    if (n > 0 && ring_take_starved(&l->ring[which]))
        link_knock(l);
    return n;
}

void link_put_config(struct link *l, const struct link_config *c)
{
    memcpy(l->base, c, sizeof(*c));
}

int link_take_config(const struct link *l, struct link_config *c, struct error *e)
{
    memcpy(c, l->base, sizeof(*c));
    if (c->magic != LINK_MAGIC || c->version != LINK_VERSION)
        return error_set(e, EINVAL, "cell: started without a link; this program starts it by itself");
    if (c->virtio_mmio > 1)
        return error_set(e, EINVAL, "cell: virtio transport %u", c->virtio_mmio);
    if (c->lazy >= LINK_LAZY_COUNT)
        return error_set(e, EINVAL, "cell: lazy memory %u", c->lazy);
    if (c->n_disks > DISK_COUNT_MAX)
        return error_set(e, EINVAL, "cell: %u disks", c->n_disks);
    if (c->n_nets > NET_COUNT_MAX)
        return error_set(e, EINVAL, "cell: %u network cards", c->n_nets);
    if (c->n_shares > SHARE_COUNT_MAX)
        return error_set(e, EINVAL, "cell: %u shares", c->n_shares);
    c->name[sizeof(c->name) - 1] = c->cpu_model[sizeof(c->cpu_model) - 1] = c->engine[sizeof(c->engine) - 1] = 0;
    return 0;
}

int link_check_up(const struct link_msg *m, struct error *e)
{
    if (m->kind == UP_NONE || m->kind >= UP_COUNT)
        return error_set(e, EPROTO, "a message of unknown kind %u", m->kind);
    if (m->len > up_table[m->kind].most)
        return error_set(e, EPROTO, "message %s announces %u bytes, %u are allowed", up_table[m->kind].name, m->len,
                         up_table[m->kind].most);
    return 0;
}

void link_clean_text(char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if ((text[i] < ' ' && text[i] != '\n' && text[i] != '\t') || text[i] > '~')
            text[i] = '?';
}
