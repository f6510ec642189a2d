/* The virtio devices there are. Each is made on its own and then put on a transport, which takes it. */
#ifndef TRAPEZE_DEVICE_VIRTIO_DEVICES_H
#define TRAPEZE_DEVICE_VIRTIO_DEVICES_H

#include "base/balloon.h"
#include "base/disk.h"
#include "base/net.h"
#include "base/vsock.h"
#include "device/virtio/virtio.h"

/* A source of random bytes (5.4), from env->random. 0 or -ENOMEM. */
int virtio_rng_create(struct virtio **out, const struct device_env *env, struct error *e);

/* A memory balloon (5.5), which gives pages back by env->give_back. 0 or -ENOMEM. */
int virtio_balloon_create(struct virtio **out, const struct device_env *env, struct error *e);
/* It is to hold so many bytes, of which whole pages count: 0, -ERANGE, or -ENODEV when the guest has no driver for it. */
int virtio_balloon_set(struct virtio *v, u64 bytes, struct error *e);
/* Ask the guest for its statistics; they come later. Whether it could be asked. Writes to guest memory. */
bool virtio_balloon_ask(struct virtio *v);
void virtio_balloon_info(const struct virtio *v, struct balloon_info *out);

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
/* Tell the network that the card is here now. */
void virtio_net_announce(struct virtio *v);
/*
 * What has come for the guest and has not been given to it, packed (base/net.h) into out[0..room) with `card` as its number: how many
 * bytes. What does not fit is lost. The machine stands still, and goes on elsewhere.
 */
size_t virtio_net_take(struct virtio *v, u8 card, u8 *out, size_t room);
/* Such a frame, for a guest that runs here now: given to it if it has room, else lost. `len` bytes behind the packed head. */
void virtio_net_give(struct virtio *v, const u8 *packed, u32 len);
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

/* What the console needs of its machine. */
struct virtio_console_config {
    /* Bytes printed; returns how many were taken. The rest is offered again by virtio_console_settle. NULL: all are dropped. */
    size_t (*out)(void *ctx, const u8 *data, size_t len);
    /* Bytes that wait for the guest: at most `len` into `data`, returns how many. NULL: they only come by themselves. */
    size_t (*in)(void *ctx, u8 *data, size_t len);
    void *ctx;
};

/* A console (5.3) with one port. 0 or -ENOMEM. */
int virtio_console_create(struct virtio **out, const struct device_env *env, const struct virtio_console_config *cfg,
                          struct error *e);
/* Bytes typed: takes as many as the driver has buffers for, returns how many. Writes to guest memory, as the next. */
size_t virtio_console_input(struct virtio *v, const u8 *data, size_t len);
/* There may be room for output again: go on with what waits. */
void virtio_console_settle(struct virtio *v);
/* The size of the terminal, in characters; 0, 0: not known. */
void virtio_console_size(struct virtio *v, u16 cols, u16 rows);

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
