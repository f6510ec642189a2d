/*
 * Virtio over MMIO: the second transport, for machines without virtio functions on a PCI bus. All windows of a machine, a
 * device each. Source: virtio 1.2, 4.2.
 */
#ifndef TRAPEZE_DEVICE_VIRTIO_MMIO_H
#define TRAPEZE_DEVICE_VIRTIO_MMIO_H

#include "device/virtio/virtio.h"

struct virtio_mmio;

/* Windows without devices, at VIRTIO_MMIO_BASE of env->bus. `env` outlives them. 0, -ENOMEM, or an error of the bus. */
int virtio_mmio_create(struct virtio_mmio **out, const struct device_env *env, struct error *e);
/* And all devices in them. */
void virtio_mmio_destroy(struct virtio_mmio *m);

/*
 * Put `v` into window v->slot, or the first free one from 1 on when that is 0; v->slot says afterwards which it is. Takes `v`:
 * virtio_mmio_destroy calls its type's destroy; so does this function when it fails. -ENOSPC: there is no such window, or it is taken.
 */
int virtio_mmio_add(struct virtio_mmio *m, struct virtio *v, struct error *e);

/* Power-up state. Requests on their way must have come back. */
void virtio_mmio_reset(struct virtio_mmio *m);

/* Records VMMI and VIRT and that of the device for each, instance: its window. -EBUSY while requests are on their way. */
int virtio_mmio_save(struct virtio_mmio *m, struct rec_buf *out);
/* Offer a record: 1 if it is of one of the devices (loaded or checked), 0 if not, <0 refused. */
int virtio_mmio_load(struct virtio_mmio *m, const struct rec_view *view, bool check_only, struct error *e);

#endif
