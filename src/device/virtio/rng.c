/*
 * The entropy device: fills what the driver offers with random bytes. Source: virtio 1.2, 5.4.
 *
 * The bytes come from the host's generator through the board, never from this process's own state, so a machine that was
 * saved and loaded twice does not see the same bytes twice. A chain gets RNG_MAX bytes at most; a driver asks again.
 */
#include "device/virtio/devices.h"

#include <errno.h>
#include <stdlib.h>

#define RNG_MAX 4096u

struct rng {
    struct virtio v;
    const struct device_env *env;
    struct virtq_chain chain; /* too large for the stack */
};

static void kick(void *self, unsigned n)
{
    struct rng *r = self;
    bool any = false;
    while (virtio_pop(&r->v, n, &r->chain)) {
        u8 bytes[RNG_MAX];
        size_t len = MIN(r->chain.in_len, RNG_MAX);
        r->env->random(r->env->ctx, bytes, len);
        len = virtq_write(&r->v.queue[n], &r->chain, 0, bytes, len);
        virtq_push(&r->v.queue[n], r->chain.id, r->chain.descs, (u32)len);
        any = true;
    }
    if (any)
        virtio_interrupt(&r->v, n);
}

static const struct virtio_type type = {
    .name = "virtio-rng",
    .id = 4,
    .class_code = 0xff0000,
    .queues = 1,
    .kick = kick,
    .destroy = free,
};

int virtio_rng_create(struct virtio **out, const struct device_env *env, struct error *e)
{
    struct rng *r = calloc(1, sizeof(*r));
    if (!r)
        return error_set(e, ENOMEM, "virtio-rng: out of memory");
    r->env = env;
    virtio_init(&r->v, &type, r, env->mem, 0);
    *out = &r->v;
    return 0;
}
