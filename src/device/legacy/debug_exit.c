/*
 * The debug exit port: a write of 1, 2 or 4 bytes stops the machine with that value. For tests and guests of our own;
 * what the value means to the outside is said by whoever runs the board (docs of `run`). Reads give 0.
 */
#include "device/legacy/legacy.h"
#include "machine/platform.h"

#include <errno.h>
#include <stdlib.h>

struct debug_exit {
    const struct device_env *env;
};

static u64 debug_exit_read(void *dev, u64 offset, unsigned size)
{
    return 0;
}

static void debug_exit_write(void *dev, u64 offset, unsigned size, u64 value)
{
    struct debug_exit *d = dev;
    if (offset == 0)
        d->env->request(d->env->ctx, DEVICE_EXIT, (u32)value);
}

static const struct bus_ops debug_exit_ops = {debug_exit_read, debug_exit_write, 4};

static int debug_exit_create(void **dev, const struct device_env *env, struct error *e)
{
    struct debug_exit *d = calloc(1, sizeof(*d));
    if (!d)
        return error_set(e, ENOMEM, "debug exit port: out of memory");
    d->env = env;
    int r = bus_add_pio(env->bus, PORT_DEBUG_EXIT, 4, &debug_exit_ops, d, "debug-exit", e);
    if (r < 0)
        free(d);
    else
        *dev = d;
    return r;
}

static void debug_exit_reset(void *dev)
{
}

const struct device_type debug_exit_device = {
    .name = "debug-exit",
    .create = debug_exit_create,
    .destroy = free,
    .reset = debug_exit_reset,
};
