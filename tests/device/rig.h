/* A bus with one device or all of them, on a clock of our own; what they say to the outside is written down. */
#ifndef TRAPEZE_TESTS_DEVICE_RIG_H
#define TRAPEZE_TESTS_DEVICE_RIG_H

#include "../machine/fake_machine.h"
#include "device/legacy/legacy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

struct rig {
    struct fake_time time;
    struct vclock clock;
    struct bus bus;
    struct device_env env;
    void *dev[16];
    void *only; /* the device of a rig for one */
    const struct device_type *type;
    u8 level[24];
    unsigned edges[24];
    unsigned requests[3];
    u32 exit_value;
    u8 out[4096];
    const char *typed;        /* what waits for the console UART */
    size_t out_len, out_room; /* the console takes as long as there is room */
};

static void rig_irq(void *ctx, unsigned gsi, int level)
{
    struct rig *g = ctx;
    g->edges[gsi] += level && !g->level[gsi];
    g->level[gsi] = (u8)(level != 0);
}

static void rig_request(void *ctx, enum device_request what, u32 value)
{
    struct rig *g = ctx;
    g->requests[what]++;
    g->exit_value = value;
}

static size_t rig_console(void *ctx, const u8 *data, size_t len)
{
    struct rig *g = ctx;
    size_t n = MIN(len, g->out_room);
    if (g->out_len + n > sizeof(g->out))
        g->out_len = 0;
    memcpy(g->out + g->out_len, data, n);
    g->out_len += n;
    g->out_room -= n;
    return n;
}

static size_t rig_typed(void *ctx, u8 *data, size_t len)
{
    struct rig *g = ctx;
    size_t n = g->typed ? MIN(len, strlen(g->typed)) : 0;
    memcpy(data, g->typed ? g->typed : "", n);
    g->typed += n;
    return n;
}

static inline void rig_init(struct rig *g)
{
    memset(g, 0, sizeof(*g));
    fake_clock_init(&g->clock, &g->time);
    g->out_room = SIZE_MAX;
    g->env = (struct device_env){
        .bus = &g->bus,
        .clock = &g->clock,
        .irq_set = rig_irq,
        .irq_ctx = g,
        .ram_low = 512ull << 20,
        .request = rig_request,
        .console_out = rig_console,
        .console_in = rig_typed,
        .ctx = g,
    };
}

static inline struct rig *rig_one(const struct device_type *type)
{
    struct rig *g = malloc(sizeof(*g));
    struct error e = {0};
    rig_init(g);
    g->type = type;
    if (type->create(&g->only, &g->env, &e) < 0)
        fail_msg("%s", e.msg);
    return g;
}

static inline int rig_close(void **state)
{
    struct rig *g = *state;
    g->type->destroy(g->only);
    assert_null(g->clock.timers);
    free(g);
    return 0;
}

static inline u8 in(struct rig *g, u16 port)
{
    return (u8)bus_pio_read(&g->bus, port, 1);
}

static inline void out(struct rig *g, u16 port, u8 v)
{
    bus_pio_write(&g->bus, port, 1, v);
}

static inline void pass(struct rig *g, u64 ns)
{
    fake_advance(&g->clock, &g->time, ns);
}

#endif
