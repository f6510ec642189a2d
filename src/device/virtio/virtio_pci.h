/* Virtio over PCI: the modern transport, one virtio device as one PCI function. Source: virtio 1.2, 4.1. */
#ifndef TRAPEZE_DEVICE_VIRTIO_PCI_H
#define TRAPEZE_DEVICE_VIRTIO_PCI_H

#include "device/pci/pci.h"
#include "device/virtio/virtio.h"

struct virtio_pci;

/* Put `v` on the bus. Takes `v`: virtio_pci_destroy calls its type's destroy; so does this function when it fails. */
int virtio_pci_create(struct virtio_pci **out, struct pci_bus *bus, struct virtio *v, struct error *e);
void virtio_pci_destroy(struct virtio_pci *p);

/* Power-up state; after pci_reset. Requests on their way must have come back. */
void virtio_pci_reset(struct virtio_pci *p);

unsigned virtio_pci_slot(const struct virtio_pci *p);
struct virtio *virtio_pci_device(struct virtio_pci *p);

/* Records VPCI and VIRT and that of the device, instance: the slot. -EBUSY while requests are on their way. */
int virtio_pci_save(struct virtio_pci *p, struct rec_buf *out);
/* Offer a record of this slot: 1 if it is one of ours (loaded or checked), 0 if of another kind, <0 refused. */
int virtio_pci_load(struct virtio_pci *p, const struct rec_view *v, bool check_only, struct error *e);

#endif
