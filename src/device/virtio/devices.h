/* The virtio devices there are. Each is made on its own and then put on a transport, which takes it. */
#ifndef TRAPEZE_DEVICE_VIRTIO_DEVICES_H
#define TRAPEZE_DEVICE_VIRTIO_DEVICES_H

#include "device/virtio/virtio.h"

/* A source of random bytes (5.4), from env->random. 0 or -ENOMEM. */
int virtio_rng_create(struct virtio **out, const struct device_env *env, struct error *e);

#endif
