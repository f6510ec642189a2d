/*
 * The board's PCI bus and what is on it: the part of the board that depends on the configuration. With --virtio mmio only the
 * host bridge is on the bus, and each device in the window of the number of its slot.
 *
 * Slots: the host bridge 0, the entropy device 1, then the disks in the order of the configuration; network cards from
 * BOARD_NET_SLOT downwards; shares at BOARD_SHARE_SLOTS; the console BOARD_CONSOLE_SLOT, the balloon BOARD_BALLOON_SLOT, the
 * socket device BOARD_VSOCK_SLOT. So none moves when there are more of the others.
 */
#ifndef TRAPEZE_VM_BOARD_PCI_H
#define TRAPEZE_VM_BOARD_PCI_H

#include "device/virtio/virtio_mmio.h"
#include "device/virtio/virtio_pci.h"
#include "vm/board.h"

#define BOARD_NET_SLOT     24u /* of the first card */
#define BOARD_CONSOLE_SLOT 28u
#define BOARD_BALLOON_SLOT 29u
#define BOARD_VSOCK_SLOT   30u
/* Where neither sixteen disks nor four cards come to be. */
#define BOARD_SHARE_SLOTS 18, 19, 20, 25, 26, 27

struct board_pci {
    struct pci_bus *bus;
    struct virtio_mmio *windows; /* NULL: devices are functions of the bus */
    struct virtio_pci *fn[PCI_SLOTS];
    unsigned n;
    struct virtio *disk[DISK_COUNT_MAX];
    unsigned n_disks;
    struct virtio *net[NET_COUNT_MAX];
    unsigned n_nets;
    struct virtio *share[SHARE_COUNT_MAX];
    unsigned n_shares;
    struct virtio *vsock; /* NULL: none */
    struct virtio *balloon;
    struct virtio *console; /* NULL: none */
};

/* All of it, as after power-up. What was made is board_pci_destroy's, also after a failure. */
int board_pci_create(struct board_pci *p, const struct board_config *cfg, const struct device_env *env,
                     struct error *e);
void board_pci_destroy(struct board_pci *p);
void board_pci_reset(struct board_pci *p);

/* See board.h. */
int board_pci_disk_done(struct board_pci *p, const struct disk_reply *r);
void board_pci_disk_settle(struct board_pci *p);
void board_pci_vsock_settle(struct board_pci *p);
bool board_pci_disk_busy(const struct board_pci *p);
bool board_pci_net_settle(struct board_pci *p);
void board_pci_net_announce(struct board_pci *p);
size_t board_pci_net_take(struct board_pci *p, u8 *out, size_t room);
int board_pci_net_give(struct board_pci *p, const u8 *data, size_t len);
bool board_pci_share_settle(struct board_pci *p);
bool board_pci_share_busy(const struct board_pci *p);

/* As irqchip_save and irqchip_load; -EBUSY while disk requests are on their way. */
int board_pci_save(struct board_pci *p, struct rec_buf *out);
int board_pci_load(struct board_pci *p, const struct rec_view *v, bool check_only, struct error *e);

#endif
