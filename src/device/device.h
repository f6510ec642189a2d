/*
 * What a device is to its board: a type with create, destroy, reset and a record, listed in one table (devices.c). A new
 * device touches its own file, that table and the build list.
 */
#ifndef TRAPEZE_DEVICE_H
#define TRAPEZE_DEVICE_H

#include "base/record.h"
#include "device/bus.h"
#include "machine/mem/mem.h"
#include "machine/time/clock.h"

/* What a device asks of the machine as a whole. */
enum device_request {
    DEVICE_POWEROFF, /* ACPI S5 */
    DEVICE_RESET,
    DEVICE_EXIT, /* debug exit port; the value written */
};

/* Everything a device may reach: the board fills it in, it outlives the devices. */
struct device_env {
    struct bus *bus;
    struct vclock *clock;
    void (*irq_set)(void *ctx, unsigned gsi, int level);
    void *irq_ctx;
    void (*msi)(void *ctx, u64 address, u32 data);   /* send a message-signalled interrupt; ctx is irq_ctx */
    u64 ram_low, ram_high;                           /* bytes of RAM below and above 4 GiB */
    struct guest_mem *mem;                           /* for devices that read and write it */
    void (*random)(void *ctx, u8 *data, size_t len); /* fill with random bytes */
    /*
     * Give whole pages [offset, offset + len) of RAM back to the host, until they are touched again: they read as zeros from now
     * on. Whether that was done; the traces are the caller's (mem_touch). NULL: there is no host to take them.
     */
    bool (*give_back)(void *ctx, u64 offset, u64 len);
    void (*request)(void *ctx, enum device_request what, u32 value);
    /* Bytes sent by the console UART; returns how many were taken, the rest is offered again. */
    size_t (*console_out)(void *ctx, const u8 *data, size_t len);
    /* Bytes that wait for the console UART: at most `len` into `data`, returns how many. NULL: they only come by themselves. */
    size_t (*console_in)(void *ctx, u8 *data, size_t len);
    void *ctx;
};

struct device_type {
    const char *name;
    const struct rec_desc *record; /* object is the device; NULL when it has no state */
    /* Make the device in its power-up state and register its ranges. 0, -ENOMEM, or an error of the bus. */
    int (*create)(void **dev, const struct device_env *env, struct error *e);
    void (*destroy)(void *dev);
    void (*reset)(void *dev);
};

/* The devices of every board, in the order of creation. */
extern const struct device_type *const device_table[];
extern const unsigned device_table_len;

static inline struct irq_line device_irq(const struct device_env *env, unsigned gsi)
{
    return (struct irq_line){env->irq_set, env->irq_ctx, gsi};
}

#endif
