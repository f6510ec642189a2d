/*
 * The ways in which software resets a PC.
 *
 *   CF9h  reset control: bit 1 selects a hard reset, bit 2 going from 0 to 1 does it, bit 3 adds a power cycle. The ACPI
 *         reset register is this port with the value 6. Source: Intel ICH10 datasheet, 13.7.5.
 *   64h   keyboard controller commands F0h-FFh pulse its output lines that have a 0 bit; line 0 is reset (FEh). D1h
 *         followed by a byte to 60h writes the output port: bit 0 low is reset, too. Source: IBM PS/2 technical reference.
 *   92h   bit 0 going from 0 to 1: fast reset; bit 1: A20.
 *
 * Not done: the keyboard controller itself (its status says empty, ready, no keyboard has sent anything) and the A20 gate:
 * the line is always on, the bit reads 1.
 */
#include "device/legacy/legacy.h"
#include "machine/platform.h"

#include <errno.h>
#include <stdlib.h>

struct reset {
    u8 control;     /* CF9h */
    u8 fast;        /* 92h */
    u8 output_next; /* D1h was written: the next byte to 60h is for the output port */
    const struct device_env *env;
};

#define KBD_STATUS 0x1c /* self-test passed, last write was a command, not inhibited; buffers empty */

static void pull(struct reset *r)
{
    r->env->request(r->env->ctx, DEVICE_RESET, 0);
}

static u64 control_read(void *dev, u64 offset, unsigned size)
{
    const struct reset *r = dev;
    return r->control;
}

static void control_write(void *dev, u64 offset, unsigned size, u64 value)
{
    struct reset *r = dev;
    bool go = value & 4 && !(r->control & 4);
    r->control = value & 0xe;
    if (go)
        pull(r);
}

static u64 fast_read(void *dev, u64 offset, unsigned size)
{
    const struct reset *r = dev;
    return r->fast;
}

static void fast_write(void *dev, u64 offset, unsigned size, u64 value)
{
    struct reset *r = dev;
    bool go = value & 1 && !(r->fast & 1);
    r->fast = (u8)value | 2;
    if (go)
        pull(r);
}

static u64 kbd_data_read(void *dev, u64 offset, unsigned size)
{
    return 0;
}

static void kbd_data_write(void *dev, u64 offset, unsigned size, u64 value)
{
    struct reset *r = dev;
    bool output = r->output_next;
    r->output_next = 0;
    if (output && !(value & 1))
        pull(r);
}

static u64 kbd_command_read(void *dev, u64 offset, unsigned size)
{
    return KBD_STATUS;
}

static void kbd_command_write(void *dev, u64 offset, unsigned size, u64 value)
{
    struct reset *r = dev;
    r->output_next = value == 0xd1;
    if (value >= 0xf0 && !(value & 1))
        pull(r);
}

static const struct bus_ops control_ops = {control_read, control_write, 1};
static const struct bus_ops fast_ops = {fast_read, fast_write, 1};
static const struct bus_ops kbd_data_ops = {kbd_data_read, kbd_data_write, 1};
static const struct bus_ops kbd_command_ops = {kbd_command_read, kbd_command_write, 1};

static void reset_reset(void *dev)
{
    struct reset *r = dev;
    r->control = r->output_next = 0;
    r->fast = 2;
}

static int reset_create(void **dev, const struct device_env *env, struct error *e)
{
    struct reset *r = calloc(1, sizeof(*r));
    if (!r)
        return error_set(e, ENOMEM, "reset ports: out of memory");
    r->env = env;
    reset_reset(r);
    int err = bus_add_pio(env->bus, PORT_RESET, 1, &control_ops, r, "reset-control", e);
    if (!err)
        err = bus_add_pio(env->bus, PORT_FAST_A20, 1, &fast_ops, r, "port-92h", e);
    if (!err)
        err = bus_add_pio(env->bus, PORT_I8042, 1, &kbd_data_ops, r, "keyboard-data", e);
    if (!err)
        err = bus_add_pio(env->bus, PORT_I8042 + 4, 1, &kbd_command_ops, r, "keyboard-command", e);
    if (err)
        free(r);
    else
        *dev = r;
    return err;
}

static int reset_check(const void *candidate, struct error *e)
{
    const struct reset *r = candidate;
    if (r->control & ~0xe || !(r->fast & 2) || r->output_next > 1)
        return error_set(e, EINVAL, "a register has a value that it can not have");
    return 0;
}

static const struct rec_field reset_fields[] = {
    REC_FIELD(struct reset, control),
    REC_FIELD(struct reset, fast),
    REC_FIELD(struct reset, output_next),
};

static const struct rec_desc reset_record = {
    .name = "reset",
    .type = REC_TYPE('R', 'S', 'T', ' '),
    .version = 1,
    .object_size = sizeof(struct reset),
    .fields = reset_fields,
    .n_fields = ARRAY_LEN(reset_fields),
    .check = reset_check,
};

const struct device_type reset_device = {
    .name = "reset",
    .record = &reset_record,
    .create = reset_create,
    .destroy = free,
    .reset = reset_reset,
};
