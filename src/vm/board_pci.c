#include "vm/board_pci.h"
#include "base/bytes.h"
#include "device/virtio/devices.h"

#include <errno.h>

/* Put a device on the bus or into a window; takes it. */
static int add(struct board_pci *p, struct virtio *v, struct error *e)
{
    if (p->windows)
        return virtio_mmio_add(p->windows, v, e);
    if (p->n == PCI_SLOTS) {
        v->type->destroy(v->self);
        return error_set(e, ENOSPC, "machine: more devices than slots");
    }
    int r = virtio_pci_create(&p->fn[p->n], p->bus, v, e);
    p->n += r == 0;
    return r;
}

static int add_vsock(struct board_pci *p, const struct board_config *cfg, const struct device_env *env, struct error *e)
{
    struct virtio *v;
    if (!cfg->vsock.cid)
        return 0;
    int r = virtio_vsock_create(&v, env, &cfg->vsock, e);
    if (r < 0)
        return r;
    v->slot = BOARD_VSOCK_SLOT;
    if ((r = add(p, v, e)) < 0)
        return r;
    p->vsock = v;
    return 0;
}

static int add_console(struct board_pci *p, const struct board_config *cfg, const struct device_env *env,
                       struct error *e)
{
    const struct virtio_console_config c = {cfg->console_out, cfg->console_in, cfg->console_ctx};
    struct virtio *v;
    if (!cfg->virtio_console)
        return 0;
    int r = virtio_console_create(&v, env, &c, e);
    if (r < 0)
        return r;
    v->slot = BOARD_CONSOLE_SLOT;
    if ((r = add(p, v, e)) < 0)
        return r;
    p->console = v;
    return 0;
}

void board_pci_vsock_settle(struct board_pci *p)
{
    if (p->vsock)
        virtio_vsock_settle(p->vsock);
}

static int add_balloon(struct board_pci *p, const struct device_env *env, struct error *e)
{
    struct virtio *v;
    int r = virtio_balloon_create(&v, env, e);
    if (r < 0)
        return r;
    v->slot = BOARD_BALLOON_SLOT;
    p->balloon = v;
    return add(p, v, e);
}

static int add_disks(struct board_pci *p, const struct board_config *cfg, const struct device_env *env, struct error *e)
{
    if (cfg->n_disks > DISK_COUNT_MAX)
        return error_set(e, EINVAL, "machine: %u disks; %u are possible", cfg->n_disks, DISK_COUNT_MAX);
    for (unsigned i = 0; i < cfg->n_disks; i++) {
        const struct virtio_blk_config c = {
            .info = cfg->disks[i],
            .number = i,
            .ready = cfg->disk_ready,
            .submit = cfg->disk_submit,
            .ctx = cfg->disk_ctx,
        };
        int r = virtio_blk_create(&p->disk[i], env, &c, e);
        if (r < 0 || (r = add(p, p->disk[i], e)) < 0)
            return r;
        p->n_disks++;
    }
    return 0;
}

static int add_nets(struct board_pci *p, const struct board_config *cfg, const struct device_env *env, struct error *e)
{
    if (cfg->n_nets > NET_COUNT_MAX)
        return error_set(e, EINVAL, "machine: %u network cards; %u are possible", cfg->n_nets, NET_COUNT_MAX);
    for (unsigned i = 0; i < cfg->n_nets; i++) {
        const struct virtio_net_config c = {
            .info = cfg->nets[i],
            .wire = &cfg->wires[i],
            .signal = cfg->net_signal,
            .ctx = cfg->net_ctx,
            .number = i,
        };
        int r = virtio_net_create(&p->net[i], env, &c, e);
        if (r < 0)
            return r;
        p->net[i]->slot = BOARD_NET_SLOT - i;
        if ((r = add(p, p->net[i], e)) < 0)
            return r;
        p->n_nets++;
    }
    return 0;
}

void board_pci_net_announce(struct board_pci *p)
{
    for (unsigned i = 0; i < p->n_nets; i++)
        virtio_net_announce(p->net[i]);
}

size_t board_pci_net_take(struct board_pci *p, u8 *out, size_t room)
{
    size_t at = 0;
    for (unsigned i = 0; i < p->n_nets; i++)
        at += virtio_net_take(p->net[i], (u8)i, out + at, room - at);
    return at;
}

int board_pci_net_give(struct board_pci *p, const u8 *data, size_t len)
{
    while (len) {
        u32 n = len < NET_PACKED_HEAD ? 0 : get_le32(data + 4);
        if (!n || n > NET_FRAME_MAX || n > len - NET_PACKED_HEAD || data[0] >= p->n_nets)
            return -EINVAL;
        virtio_net_give(p->net[data[0]], data, n);
        data += NET_PACKED_HEAD + n;
        len -= NET_PACKED_HEAD + n;
    }
    return 0;
}

bool board_pci_net_settle(struct board_pci *p)
{
    bool any = false;
    for (unsigned i = 0; i < p->n_nets; i++)
        any |= virtio_net_settle(p->net[i]);
    return any;
}

static int add_shares(struct board_pci *p, const struct board_config *cfg, const struct device_env *env,
                      struct error *e)
{
    static const u8 slots[] = {BOARD_SHARE_SLOTS};
    _Static_assert(ARRAY_LEN(slots) == SHARE_COUNT_MAX, "a slot for each");
    if (cfg->n_shares > SHARE_COUNT_MAX)
        return error_set(e, EINVAL, "machine: %u shares; %u are possible", cfg->n_shares, SHARE_COUNT_MAX);
    for (unsigned i = 0; i < cfg->n_shares; i++) {
        const struct virtio_fs_config c = {
            .info = &cfg->shares[i],
            .line = &cfg->share_lines[i],
            .signal = cfg->share_signal,
            .ctx = cfg->share_ctx,
            .number = i,
        };
        int r = virtio_fs_create(&p->share[i], env, &c, e);
        if (r < 0)
            return r;
        p->share[i]->slot = slots[i];
        if ((r = add(p, p->share[i], e)) < 0)
            return r;
        p->n_shares++;
    }
    return 0;
}

bool board_pci_share_settle(struct board_pci *p)
{
    bool any = false;
    for (unsigned i = 0; i < p->n_shares; i++)
        any |= virtio_fs_settle(p->share[i]);
    return any;
}

bool board_pci_share_busy(const struct board_pci *p)
{
    bool any = false;
    for (unsigned i = 0; i < p->n_shares; i++)
        any |= p->share[i]->type->busy(p->share[i]->self);
    return any;
}

int board_pci_disk_done(struct board_pci *p, const struct disk_reply *r)
{
    return r->disk < p->n_disks ? virtio_blk_done(p->disk[r->disk], r->tag, r->status) : -EPROTO;
}

void board_pci_disk_settle(struct board_pci *p)
{
    for (unsigned i = 0; i < p->n_disks; i++)
        virtio_blk_settle(p->disk[i]);
}

bool board_pci_disk_busy(const struct board_pci *p)
{
    bool any = false;
    for (unsigned i = 0; i < p->n_disks; i++)
        any |= p->disk[i]->type->busy(p->disk[i]->self);
    return any;
}

int board_pci_create(struct board_pci *p, const struct board_config *cfg, const struct device_env *env, struct error *e)
{
    struct virtio *v;
    int r = pci_create(&p->bus, env, e);
    if (!r && cfg->virtio_mmio)
        r = virtio_mmio_create(&p->windows, env, e);
    if (!r && (r = virtio_rng_create(&v, env, e)) == 0)
        r = add(p, v, e);
    if (!r)
        r = add_balloon(p, env, e);
    if (!r)
        r = add_disks(p, cfg, env, e);
    if (!r)
        r = add_nets(p, cfg, env, e);
    if (!r)
        r = add_shares(p, cfg, env, e);
    if (!r)
        r = add_console(p, cfg, env, e);
    return r < 0 ? r : add_vsock(p, cfg, env, e);
}

void board_pci_destroy(struct board_pci *p)
{
    for (unsigned i = 0; i < p->n; i++)
        virtio_pci_destroy(p->fn[i]);
    virtio_mmio_destroy(p->windows);
    pci_destroy(p->bus);
    *p = (struct board_pci){0};
}

void board_pci_reset(struct board_pci *p)
{
    pci_reset(p->bus);
    for (unsigned i = 0; i < p->n; i++)
        virtio_pci_reset(p->fn[i]);
    if (p->windows)
        virtio_mmio_reset(p->windows);
}

int board_pci_save(struct board_pci *p, struct rec_buf *out)
{
    int r = pci_save(p->bus, out);
    for (unsigned i = 0; i < p->n && !r; i++)
        r = virtio_pci_save(p->fn[i], out);
    return r || !p->windows ? r : virtio_mmio_save(p->windows, out);
}

int board_pci_load(struct board_pci *p, const struct rec_view *v, bool check_only, struct error *e)
{
    int r = pci_load(p->bus, v, check_only, e);
    for (unsigned i = 0; i < p->n && !r; i++)
        if (virtio_pci_slot(p->fn[i]) == v->instance)
            r = virtio_pci_load(p->fn[i], v, check_only, e);
    return r || !p->windows ? r : virtio_mmio_load(p->windows, v, check_only, e);
}
