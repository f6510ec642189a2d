/* The virtio devices there are. Each is made on its own and then put on a transport, which takes it. */
#ifndef TRAPEZE_DEVICE_VIRTIO_DEVICES_H
#define TRAPEZE_DEVICE_VIRTIO_DEVICES_H

#include "base/disk.h"
#include "base/net.h"
#include "base/vsock.h"
#include "device/virtio/virtio.h"

/* A source of random bytes (5.4), from env->random. 0 or -ENOMEM. */
int virtio_rng_create(struct virtio **out, const struct device_env *env, struct error *e);

/* What a disk's device needs of its machine: the way to the back end. */
struct virtio_blk_config {
    struct disk_info info;
    u32 number; /* disk_request.disk */
    /* Whether a request with its segments can be sent now. */
    bool (*ready)(void *ctx);
    /* Send one; called only when ready. The segments are valid during the call only. */
    void (*submit)(void *ctx, const struct disk_request *r, const struct disk_seg *segs);
    void *ctx;
};

/* A disk (5.2). 0 or -ENOMEM. */
int virtio_blk_create(struct virtio **out, const struct device_env *env, const struct virtio_blk_config *cfg,
                      struct error *e);
/* A reply has come. -EPROTO when no such request is on its way. */
int virtio_blk_done(struct virtio *v, u32 tag, enum disk_status status);
/* After a batch of replies, or when there may be room again: interrupt, go on with what waits. */
void virtio_blk_settle(struct virtio *v);

struct wire;

/* What a network card needs of its machine. */
struct virtio_net_config {
    struct net_info info;
    struct wire *wire; /* its cell's side, attached; outlives the device */
    /* Signal the back end. */
    void (*signal)(void *ctx, unsigned number);
    void *ctx;
    unsigned number;
};

/* A network card (5.1). 0 or -ENOMEM. */
int virtio_net_create(struct virtio **out, const struct device_env *env, const struct virtio_net_config *cfg,
                      struct error *e);
/*
 * The back end may have signalled: take its frames, go on with what waits for room, see whether the link is up. Whether a
 * frame moved: then look again before sleeping.
 */
bool virtio_net_settle(struct virtio *v);
/* What the socket device needs of its machine: the way to the keeper. */
struct virtio_vsock_config {
    u64 cid;
    /* Whether so many records can be sent up now. */
    bool (*ready)(void *ctx, unsigned records);
    /* Send a packet with p->len bytes of data; called only when ready. */
    void (*submit)(void *ctx, const struct vsock_packet *p, const u8 *data);
    /* The next packet for the guest, its data into `data` (VSOCK_DATA_MAX bytes); false when there is none. */
    bool (*next)(void *ctx, struct vsock_packet *p, u8 *data);
    void *ctx;
};

/* A socket device (5.10). 0 or -ENOMEM. */
int virtio_vsock_create(struct virtio **out, const struct device_env *env, const struct virtio_vsock_config *cfg,
                        struct error *e);
/* When packets may have come, or there may be room for them: go on. */
void virtio_vsock_settle(struct virtio *v);

struct share_info;
struct share_line;

/* What a shared directory's device needs of its machine. */
struct virtio_fs_config {
    const struct share_info *info; /* outlives the device */
    struct share_line *line;       /* its cell's side, attached; outlives the device */
    /* Signal the back end. */
    void (*signal)(void *ctx, unsigned number);
    void *ctx;
    unsigned number;
};

/* A shared directory (5.11). 0 or -ENOMEM. */
int virtio_fs_create(struct virtio **out, const struct device_env *env, const struct virtio_fs_config *cfg,
                     struct error *e);
/*
 * The back end may have answered, or ended: take its answers, go on with what waits. Whether anything moved: then look again
 * before sleeping.
 */
bool virtio_fs_settle(struct virtio *v);

#endif
