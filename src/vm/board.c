/*
 * The board: puts CPUs, memory, controllers, chips, clock and engines together; board_run.c lets them run.
 *
 * Devices answer in the middle of an engine's run through machine_ops, under the board's lock. One that has something to say
 * to the outside (power-off, reset, exit) leaves an event and sets ATTN_REQUEST, so that engines return at the next
 * boundary. An event stays until board_reset or board_load: running a machine that has switched itself off reports the
 * same event again.
 *
 * What must stay true
 *  1. board_load finds each record that board_save writes exactly once and has checked all before it changes any.
 *  2. Records are loaded in the order of board_save: clock, CPUs, controllers, chips. A chip that drives its line while it
 *     is loaded finds the controllers as they were.
 *  3. What a machine_op touches beside the CPU that calls it is touched under the lock; vclock_tsc alone is read without,
 *     and changes only while no CPU runs.
 *
 * Not done: INIT of the first CPU (it would start at the reset vector, where no firmware is: it stops the guest with "not
 * implemented"); a local APIC moved on top of RAM (RAM answers).
 */
#include "vm/board_internal.h"
#include "machine/mem/absent.h"
#include "device/legacy/legacy.h"
#include "machine/platform.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CLOCK_REFRESH_NS 1000000000ull /* how often kvmclock follows the slewing of the host's clock */

/* xAPIC registers that firmware sets up: virtual wire mode, the 8259s through LINT0, NMI through LINT1 */
#define LAPIC_SVR   0x0f0u
#define LAPIC_LINT0 0x350u
#define LAPIC_LINT1 0x360u

/* --- events --- */

static void device_asks(void *ctx, enum device_request what, u32 value)
{
    static const enum board_event event[] = {
        [DEVICE_POWEROFF] = BOARD_POWEROFF,
        [DEVICE_RESET] = BOARD_RESET,
        [DEVICE_EXIT] = BOARD_DEBUG_EXIT,
    };
    struct board *b = ctx;
    if (what == DEVICE_EXIT && b->event == BOARD_RUN)
        b->exit_value = value;
    board_post_event(b, event[what], "");
}

/* --- machine_ops: what a running CPU asks of its machine --- */

static u32 op_pio_read(void *ctx, u16 port, unsigned size)
{
    struct board *b = ctx;
    board_lock(b);
    u32 v = bus_pio_read(&b->bus, port, size);
    board_unlock(b);
    return v;
}

static void op_pio_write(void *ctx, u16 port, unsigned size, u32 value)
{
    struct board *b = ctx;
    board_lock(b);
    bus_pio_write(&b->bus, port, size, value);
    board_unlock(b);
}

static bool in_lapic(const struct board *b, const struct cpu *c, gpa_t a)
{
    return (a.v & PAGE_MASK) == lapic_mmio_base(b->irq, c->id);
}

/* Registers are 32 bits on 16-byte boundaries; what other accesses give is undefined (SDM vol. 3A, 11.4.1), but bounded. */
static u64 lapic_read(struct board *b, struct cpu *c, u32 offset)
{
    return lapic_mmio_read(b->irq, c->id, offset & ~3u) >> (offset & 3) * 8;
}

static u64 op_mmio_read(void *ctx, struct cpu *c, gpa_t a, unsigned size)
{
    struct board *b = ctx;
    board_lock(b);
    u64 v = in_lapic(b, c, a) ? lapic_read(b, c, a.v & 0xfff) : bus_mmio_read(&b->bus, a.v, size);
    board_unlock(b);
    return size >= 8 ? v : v & (BIT(size * 8) - 1);
}

static void op_mmio_write(void *ctx, struct cpu *c, gpa_t a, unsigned size, u64 value)
{
    struct board *b = ctx;
    board_lock(b);
    if (!in_lapic(b, c, a))
        bus_mmio_write(&b->bus, a.v, size, value);
    else if (size >= 4)
        lapic_mmio_write(b->irq, c->id, a.v & 0xfff, (u32)value);
    board_unlock(b);
}

static int op_msr_read(void *ctx, struct cpu *c, u32 index, u64 *value)
{
    struct board *b = ctx;
    board_lock(b);
    int r = lapic_msr_read(b->irq, c->id, index, value);
    if (r < 0)
        r = cpu_msr_read(c, index, value, &b->msr_env);
    board_unlock(b);
    return r;
}

/* Keep the timer that refreshes kvmclock running while the guest uses it. */
static void arm_refresh(struct board *b)
{
    bool used = false;
    for (unsigned i = 0; i < b->n_cpus; i++)
        used |= b->cpus[i]->msr.kvm_system_time & KVM_MSR_ENABLED;
    if (used)
        vtimer_set(&b->clock, &b->refresh, vclock_ns(&b->clock) + CLOCK_REFRESH_NS);
    else
        vtimer_stop(&b->clock, &b->refresh);
}

static void refresh_clocks(struct board *b, bool stopped)
{
    for (unsigned i = 0; i < b->n_cpus; i++)
        kvmpv_clock_refresh(b->cpus[i], &b->mem, &b->clock, stopped);
}

static void refresh_clock(void *ctx)
{
    struct board *b = ctx;
    vclock_line_steer(&b->clock);
    refresh_clocks(b, false);
    arm_refresh(b);
}

static int msr_write(struct board *b, struct cpu *c, u32 index, u64 value)
{
    int r = lapic_msr_write(b->irq, c->id, index, value);
    if (r >= 0)
        return r;
    if (index == MSR_KVM_PV_EOI) /* take back a flag at the old address */
        irqchip_set_pv_eoi(b->irq, c->id, &b->pv_eoi);
    r = cpu_msr_write(c, index, value, &b->msr_env);
    if (r != CPU_OK)
        return r;
    if (cpu_msr_effects(index) & MSR_CHANGES_TSC)
        lapic_tsc_changed(b->irq, c->id);
    if (index == MSR_KVM_SYSTEM_TIME || index == MSR_KVM_SYSTEM_TIME_2)
        arm_refresh(b);
    return CPU_OK;
}

static int op_msr_write(void *ctx, struct cpu *c, u32 index, u64 value)
{
    struct board *b = ctx;
    board_lock(b);
    int r = msr_write(b, c, index, value);
    board_unlock(b);
    return r;
}

static u64 op_tsc(void *ctx, struct cpu *c)
{
    const struct board *b = ctx;
    return vclock_tsc(&b->clock) + c->tsc_offset;
}

/* Only the clock's pause, resume and load change it, and no CPU runs then. */
static bool op_tsc_addend(void *ctx, u64 *addend)
{
    const struct board *b = ctx;
    *addend = b->clock.tsc_offset;
    return b->clock.host_tsc == host_tsc;
}

static u64 op_cr8_read(void *ctx, struct cpu *c)
{
    struct board *b = ctx;
    board_lock(b);
    u64 v = lapic_get_tpr(b->irq, c->id);
    board_unlock(b);
    return v;
}

static void op_cr8_write(void *ctx, struct cpu *c, u64 value)
{
    struct board *b = ctx;
    board_lock(b);
    lapic_set_tpr(b->irq, c->id, value);
    board_unlock(b);
}

static int op_irq_ack(void *ctx, struct cpu *c)
{
    struct board *b = ctx;
    board_lock(b);
    int vector = irq_ack(b->irq, c->id);
    board_unlock(b);
    return vector;
}

static const struct machine_ops board_ops = {
    .pio_read = op_pio_read,
    .pio_write = op_pio_write,
    .mmio_read = op_mmio_read,
    .mmio_write = op_mmio_write,
    .msr_read = op_msr_read,
    .msr_write = op_msr_write,
    .tsc = op_tsc,
    .tsc_addend = op_tsc_addend,
    .cr8_read = op_cr8_read,
    .cr8_write = op_cr8_write,
    .irq_ack = op_irq_ack,
    .hypercall = board_hypercall,
};

/* --- controllers on the bus --- */

static u64 pic_read(void *dev, u64 offset, unsigned size)
{
    const struct pic_ports *p = dev;
    return pic_io_read(p->irq, (u16)(p->base + offset));
}

static void pic_write(void *dev, u64 offset, unsigned size, u64 value)
{
    const struct pic_ports *p = dev;
    pic_io_write(p->irq, (u16)(p->base + offset), (u8)value);
}

static u64 ioapic_read(void *dev, u64 offset, unsigned size)
{
    return ioapic_mmio_read(dev, (u32)offset);
}

static void ioapic_write(void *dev, u64 offset, unsigned size, u64 value)
{
    ioapic_mmio_write(dev, (u32)offset, (u32)value);
}

static const struct bus_ops pic_bus_ops = {pic_read, pic_write, 1};
static const struct bus_ops ioapic_bus_ops = {ioapic_read, ioapic_write, 0};

static void device_irq_set(void *ctx, unsigned gsi, int level)
{
    irq_set(ctx, gsi, level);
}

static void device_msi(void *ctx, u64 address, u32 data)
{
    irq_msi(ctx, address, data);
}

static int create_controllers(struct board *b, struct error *e)
{
    static const u16 ports[3] = {PORT_PIC1, PORT_PIC2, PORT_ELCR};
    b->irq = irqchip_create(&(struct irqchip_config){
        .n_cpus = b->n_cpus,
        .cpus = b->cpus,
        .clock = &b->clock,
        .init_cpu = board_init_cpu,
        .start_cpu = board_start_cpu,
        .ctx = b,
    });
    if (!b->irq)
        return error_set(e, ENOMEM, "machine: no memory for its interrupt controllers");
    for (unsigned i = 0; i < b->n_cpus; i++)
        irqchip_set_pv_eoi(b->irq, i, &b->pv_eoi);
    for (unsigned i = 0; i < ARRAY_LEN(ports); i++) {
        b->pic[i] = (struct pic_ports){b->irq, ports[i]};
        int r = bus_add_pio(&b->bus, ports[i], 2, &pic_bus_ops, &b->pic[i], "i8259", e);
        if (r < 0)
            return r;
    }
    return bus_add_mmio(&b->bus, IOAPIC_BASE, PAGE_SIZE, &ioapic_bus_ops, b->irq, "ioapic", e);
}

/* --- devices --- */

static size_t console_out(void *ctx, const u8 *data, size_t len)
{
    const struct board *b = ctx;
    return b->console_out ? b->console_out(b->console_ctx, data, len) : len;
}

static size_t console_in(void *ctx, u8 *data, size_t len)
{
    const struct board *b = ctx;
    return b->console_in && !b->pci.console ? b->console_in(b->console_ctx, data, len) : 0;
}

static void random_bytes(void *ctx, u8 *data, size_t len)
{
    host_random(data, len);
}

static bool give_back(void *ctx, u64 offset, u64 len)
{
    const struct board *b = ctx;
    mem_drop_absent(&b->mem, offset, len);
    return host_give_back(b->mem.fd, b->mem.ram, offset, len);
}

static int create_devices(struct board *b, const struct board_config *cfg, struct error *e)
{
    b->env = (struct device_env){
        .bus = &b->bus,
        .clock = &b->clock,
        .irq_set = device_irq_set,
        .msi = device_msi,
        .irq_ctx = b->irq,
        .mem = &b->mem,
        .random = random_bytes,
        .give_back = give_back,
        .ram_low = b->mem.low_size,
        .ram_high = b->mem.size - b->mem.low_size,
        .request = device_asks,
        .console_out = console_out,
        .console_in = console_in,
        .ctx = b,
    };
    if (device_table_len > MAX_DEVICES)
        return error_set(e, ENOSPC, "machine: %u devices, room for %u", device_table_len, MAX_DEVICES);
    for (unsigned i = 0; i < device_table_len; i++) {
        int r = device_table[i]->create(&b->dev[i], &b->env, e);
        if (r < 0)
            return r;
    }
    return board_pci_create(&b->pci, cfg, &b->env, e);
}

static void *device_of(const struct board *b, const struct device_type *type)
{
    for (unsigned i = 0; i < device_table_len; i++)
        if (device_table[i] == type)
            return b->dev[i];
    return NULL;
}

/* --- life --- */

/* Processor and controllers as firmware hands them to a boot loader. */
static void firmware_state(struct board *b)
{
    for (unsigned i = 0; i < b->n_cpus; i++) {
        cpu_msr_firmware(b->cpus[i]);
        b->cpus[i]->waits_startup = i > 0;
        b->cpu[i].init = false;
        b->cpu[i].startup = -1;
    }
    lapic_mmio_write(b->irq, 0, LAPIC_SVR, 0x1ff);
    lapic_mmio_write(b->irq, 0, LAPIC_LINT0, 0x700);
    lapic_mmio_write(b->irq, 0, LAPIC_LINT1, 0x400);
}

static void create_clock(struct board *b, const struct board_config *cfg)
{
    u64 hz = cfg->tsc_hz ? cfg->tsc_hz : host_tsc_hz();
    vclock_init(&b->clock, cfg->host_ns ? cfg->host_ns : host_ns, cfg->host_tsc ? cfg->host_tsc : host_tsc,
                cfg->clock_ctx, hz, cfg->wall_ns);
    vtimer_init(&b->clock, &b->refresh, refresh_clock, b);
}

/* The one to begin with is the first. */
static void list_engines(struct board *b, const struct board_config *cfg)
{
    const struct engine_ops *other;
    unsigned n = 0;
    b->engines[n++] = cfg->engine;
    for (size_t i = 0; cfg->can_swing && (other = engine_at(i)) && n < ENGINES_MAX; i++)
        if (other != cfg->engine && engine_find(other->name))
            b->engines[n++] = other;
}

static void seat_engines(struct board *b, unsigned which)
{
    b->engine_ops = b->engines[which];
    for (unsigned i = 0; i < b->n_cpus; i++) {
        b->cpu[i].engine = b->cpu[i].engines[which];
        if (b->engine_ops->sit)
            b->engine_ops->sit(b->cpu[i].engine);
    }
}

static int create_engines(struct board *b, const struct board_config *cfg, struct error *e)
{
    struct engine_config ec = {.mem = &b->mem,
                               .coherence = &b->coherence,
                               .ops = &board_ops,
                               .ops_ctx = b,
                               .code_cache = cfg->code_cache,
                               .test = cfg->engine_test};
    int r = coherence_init(&b->coherence, &b->mem, b->n_cpus, e);
    list_engines(b, cfg);
    for (unsigned k = 0; b->engines[k] && k < ENGINES_MAX; k++)
        for (ec.cpu = 0; ec.cpu < b->n_cpus && r == 0; ec.cpu++)
            r = b->engines[k]->create(&b->cpu[ec.cpu].engines[k], &ec, e);
    if (r == 0)
        seat_engines(b, 0);
    return r;
}

static int create_parts(struct board *b, const struct board_config *cfg, struct error *e)
{
    int r = mem_init(&b->mem, cfg->ram, cfg->ram_size, cfg->ram_fd, e);
    if (r < 0)
        return r;
    create_clock(b, cfg);
    r = cpu_model_make(&b->model, cfg->cpu_model ? cfg->cpu_model : "host", b->clock.tsc_hz, b->n_cpus, e);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < b->n_cpus; i++) {
        struct cpu *c = b->cpus[i] = &b->cpu[i].cpu;
        c->model = &b->model;
        c->id = (u8)i;
        cpu_reset(c);
    }
    b->msr_env = (struct cpu_msr_env){&b->clock, &b->mem};
    b->kvmpv = (struct kvmpv){b->cpus, b->n_cpus, &b->mem};
    b->pv_eoi = (struct irq_pv_eoi_ops){kvmpv_eoi_set, kvmpv_eoi_test_clear, &b->kvmpv};
    r = create_controllers(b, e);
    if (!r)
        r = create_devices(b, cfg, e);
    if (r < 0)
        return r;
    firmware_state(b);
    return create_engines(b, cfg, e);
}

int board_create(struct board **out, const struct board_config *cfg, struct error *e)
{
    struct board *b = calloc(1, sizeof(*b));
    if (!b)
        return error_set(e, ENOMEM, "machine: out of memory");
    b->n_cpus = MAX(cfg->cpus, 1u);
    if (b->n_cpus > BOARD_CPUS_MAX) {
        free(b);
        return error_set(e, EINVAL, "machine: %u CPUs: %u at most", cfg->cpus, BOARD_CPUS_MAX);
    }
    /* struct cpu holds 64-byte aligned register files */
    b->cpu = aligned_alloc(64, b->n_cpus * sizeof(*b->cpu));
    if (!b->cpu) {
        free(b);
        return error_set(e, ENOMEM, "machine: no memory for its CPUs");
    }
    memset(b->cpu, 0, b->n_cpus * sizeof(*b->cpu));
    b->console_out = cfg->console_out;
    b->console_in = cfg->console_in;
    b->console_ctx = cfg->console_ctx;
    int r = create_parts(b, cfg, e);
    if (r < 0) {
        board_destroy(b);
        return r;
    }
    *out = b;
    return 0;
}

void board_destroy(struct board *b)
{
    if (!b)
        return;
    for (unsigned i = 0; i < b->n_cpus; i++)
        for (unsigned k = 0; k < ENGINES_MAX; k++)
            if (b->cpu[i].engines[k])
                b->engines[k]->destroy(b->cpu[i].engines[k]);
    coherence_fini(&b->coherence);
    for (unsigned i = 0; i < device_table_len && i < MAX_DEVICES; i++)
        if (b->dev[i])
            device_table[i]->destroy(b->dev[i]);
    board_pci_destroy(&b->pci);
    irqchip_destroy(b->irq);
    mem_destroy(&b->mem);
    free(b->cpu);
    free(b);
}

static void engines_changed(struct board *b)
{
    for (unsigned i = 0; i < b->n_cpus; i++) {
        b->engine_ops->state_changed(b->cpu[i].engine, b->cpus[i]);
        b->cpu[i].out = true; /* memory may say so */
    }
}

void board_reset(struct board *b)
{
    for (unsigned i = 0; i < device_table_len; i++)
        device_table[i]->reset(b->dev[i]);
    board_pci_reset(&b->pci);
    irqchip_reset(b->irq);
    for (unsigned i = 0; i < b->n_cpus; i++)
        cpu_reset(b->cpus[i]);
    irqchip_loaded(b->irq); /* attention bits follow the CPU's new state */
    arm_refresh(b);
    firmware_state(b);
    board_clear_event(b);
    b->exit_value = 0;
    engines_changed(b);
}

int board_boot(struct board *b, const u8 *data, size_t len, struct error *e)
{
    struct rec_view v;
    size_t pos = 0;
    u64 tsc_offset = b->cpus[0]->tsc_offset;
    board_reset(b);
    int r = rec_next(data, len, &pos, &v, e);
    if (r == 0)
        r = error_set(e, EINVAL, "machine: no CPU state to start from");
    if (r == 1)
        r = rec_load(&v, &cpu_record, b->cpus[0], e);
    b->cpus[0]->tsc_offset = tsc_offset;
    irqchip_loaded(b->irq);
    engines_changed(b);
    return r;
}

void board_pause(struct board *b)
{
    vclock_pause(&b->clock);
}

void board_resume(struct board *b)
{
    if (!b->clock.paused)
        return;
    vclock_resume(&b->clock);
    refresh_clocks(b, true);
}

/* --- outside --- */

struct cpu *board_cpu(struct board *b, unsigned id)
{
    return id < b->n_cpus ? b->cpus[id] : NULL;
}

struct guest_mem *board_mem(struct board *b)
{
    return &b->mem;
}

void board_lock_devices(struct board *b)
{
    board_lock(b);
}

void board_unlock_devices(struct board *b)
{
    board_unlock(b);
}

size_t board_console_input(struct board *b, const u8 *data, size_t len)
{
    return b->pci.console ? virtio_console_input(b->pci.console, data, len)
                          : uart16550_input(device_of(b, &uart16550_device), data, len);
}

void board_console_flush(struct board *b, bool memory)
{
    uart16550_flush(device_of(b, &uart16550_device));
    if (b->pci.console && memory)
        virtio_console_settle(b->pci.console);
}

void board_console_size(struct board *b, u16 cols, u16 rows)
{
    if (b->pci.console)
        virtio_console_size(b->pci.console, cols, rows);
}

int board_disk_done(struct board *b, const struct disk_reply *r)
{
    return board_pci_disk_done(&b->pci, r);
}

void board_disk_settle(struct board *b)
{
    board_pci_disk_settle(&b->pci);
}

void board_net_announce(struct board *b)
{
    board_pci_net_announce(&b->pci);
}

size_t board_net_take(struct board *b, u8 *out, size_t room)
{
    return board_pci_net_take(&b->pci, out, room);
}

int board_net_give(struct board *b, const u8 *data, size_t len)
{
    return board_pci_net_give(&b->pci, data, len);
}

bool board_net_settle(struct board *b)
{
    return board_pci_net_settle(&b->pci);
}

bool board_share_settle(struct board *b)
{
    return board_pci_share_settle(&b->pci);
}

bool board_share_busy(const struct board *b)
{
    return board_pci_share_busy(&b->pci);
}

void board_vsock_settle(struct board *b)
{
    board_pci_vsock_settle(&b->pci);
}

int board_balloon_set(struct board *b, u64 bytes, struct error *e)
{
    return virtio_balloon_set(b->pci.balloon, bytes, e);
}

bool board_balloon_ask(struct board *b)
{
    return virtio_balloon_ask(b->pci.balloon);
}

void board_balloon_info(const struct board *b, struct balloon_info *out)
{
    virtio_balloon_info(b->pci.balloon, out);
}

bool board_disk_busy(const struct board *b)
{
    return board_pci_disk_busy(&b->pci);
}

void board_power_button(struct board *b)
{
    acpi_pm_power_button(device_of(b, &acpi_pm_device));
}

void board_new_generation(struct board *b, bool tell)
{
    u8 id[16];
    host_random(id, sizeof(id));
    mem_write(&b->mem, GPA(VM_GENERATION_ADDRESS), id, sizeof(id)); /* there is RAM: MEM_MIN_SIZE */
    if (tell)
        acpi_pm_event(device_of(b, &acpi_pm_device), GPE_VM_GENERATION);
}

u32 board_exit_value(const struct board *b)
{
    return b->exit_value;
}

static void add_stats(struct engine_stats *sum, const struct engine_ops *ops, const struct engine *en)
{
    struct engine_stats one;
    ops->stats(en, &one);
#define X(name, text) sum->name += one.name;
    ENGINE_COUNTERS(X)
#undef X
}

void board_stats(const struct board *b, struct engine_stats *out)
{
    struct engine_stats now = {0};
    *out = (struct engine_stats){0};
    for (unsigned i = 0; i < b->n_cpus; i++) {
        add_stats(&now, b->engine_ops, b->cpu[i].engine);
        for (unsigned k = 0; k < ENGINES_MAX && b->engines[k]; k++)
            add_stats(out, b->engines[k], b->cpu[i].engines[k]);
    }
    out->code_bytes = now.code_bytes; /* no counts: what is */
    out->code_limit = now.code_limit;
}

int board_swing(struct board *b, const char *engine, struct error *e)
{
    unsigned k = 0;
    while (k < ENGINES_MAX && b->engines[k] && strcmp(b->engines[k]->name, engine))
        k++;
    if (k == ENGINES_MAX || !b->engines[k])
        return error_set(e, EINVAL, "engine %.40s: this machine was started without it", engine);
    if (b->engines[k] == b->engine_ops)
        return 0;
    engines_changed(b); /* the old one lets go of all it holds */
    seat_engines(b, k);
    engines_changed(b);
    return 0;
}

int board_explain(struct board *b, u64 va, bool at_rip, struct engine_explain *out, struct error *e)
{
    struct cpu *c = b->cpus[0];
    if (at_rip)
        va = cpu_code64(c) ? c->rip : (u32)(c->rip + c->seg[SEG_CS].base);
    *out = (struct engine_explain){0};
    int r = b->engine_ops->explain ? b->engine_ops->explain(b->cpu[0].engine, c, va, out) : -EOPNOTSUPP;
    out->address = va;
    if (r == -EOPNOTSUPP)
        return error_set(e, EOPNOTSUPP, "engine %s: has nothing to show", b->engine_ops->name);
    if (r < 0 && r != -ENOENT)
        return error_set(e, -r, "engine %s: %s", b->engine_ops->name, strerror(-r));
    if (r < 0)
        return error_set(e, ENOENT, "%#llx: no code mapped there in the present address space", (unsigned long long)va);
    return 0;
}

/* --- records --- */

int board_save(struct board *b, struct rec_buf *out)
{
    board_settle(b);
    vclock_save_prepare(&b->clock);
    int r = rec_save(out, &vclock_record, 0, &b->clock);
    for (unsigned i = 0; i < b->n_cpus && !r; i++)
        r = rec_save(out, &cpu_record, (u16)i, b->cpus[i]);
    if (!r)
        r = irqchip_save(b->irq, out);
    for (unsigned i = 0; i < device_table_len && !r; i++)
        if (device_table[i]->record)
            r = rec_save(out, device_table[i]->record, 0, b->dev[i]);
    return r ? r : board_pci_save(&b->pci, out);
}

/* Check or load one record of `desc`; instances other than 0 are not there. */
static int offer(const struct rec_view *v, const struct rec_desc *desc, void *object, bool check_only, struct error *e)
{
    if (v->instance)
        return error_set(e, EINVAL, "record %s: instance %u, but this machine has one", desc->name, v->instance);
    return check_only ? rec_check(v, desc, object, e) : rec_load(v, desc, object, e);
}

static int offer_cpu(struct board *b, const struct rec_view *v, bool check_only, struct error *e)
{
    if (v->instance >= b->n_cpus)
        return error_set(e, EINVAL, "record %s: instance %u, but this machine has %u", cpu_record.name, v->instance,
                         b->n_cpus);
    struct cpu *c = b->cpus[v->instance];
    return check_only ? rec_check(v, &cpu_record, c, e) : rec_load(v, &cpu_record, c, e);
}

static int load_record(struct board *b, const struct rec_view *v, bool check_only, struct error *e)
{
    if (v->type == vclock_record.type)
        return offer(v, &vclock_record, &b->clock, check_only, e);
    if (v->type == cpu_record.type)
        return offer_cpu(b, v, check_only, e);
    int r = irqchip_load(b->irq, v, check_only, e);
    if (!r)
        r = board_pci_load(&b->pci, v, check_only, e);
    if (r)
        return r < 0 ? r : 0;
    for (unsigned i = 0; i < device_table_len; i++)
        if (device_table[i]->record && device_table[i]->record->type == v->type)
            return offer(v, device_table[i]->record, b->dev[i], check_only, e);
    return error_set(e, EINVAL, "record %.4s: this machine has no such part", (const char *)&v->type);
}

/* Find the one record of the kind of `want`. */
static int find_record(const u8 *data, size_t len, const struct rec_view *want, struct rec_view *found, struct error *e)
{
    struct rec_view v;
    size_t pos = 0;
    unsigned n = 0;
    int r;
    while ((r = rec_next(data, len, &pos, &v, e)) == 1)
        if (v.type == want->type && v.instance == want->instance) {
            *found = v;
            n++;
        }
    if (r < 0)
        return r;
    if (n != 1)
        return error_set(e, EINVAL, "record %.4s %u: %s", (const char *)&want->type, want->instance,
                         n ? "stands there more than once" : "is missing");
    return 0;
}

static int check_all(struct board *b, const u8 *data, size_t len, struct error *e)
{
    struct rec_view v;
    size_t pos = 0;
    int r;
    while ((r = rec_next(data, len, &pos, &v, e)) == 1) {
        r = load_record(b, &v, true, e);
        if (r < 0)
            return r;
    }
    return r;
}

/* Walk over `own`, what this board would save, and find (or load as well) its like in `data`. */
static int each_record(struct board *b, const struct rec_buf *own, const u8 *data, size_t len, bool load,
                       struct error *e)
{
    struct rec_view want, found;
    size_t pos = 0;
    while (rec_next(own->data, own->len, &pos, &want, e) == 1) {
        int r = find_record(data, len, &want, &found, e);
        if (!r && load)
            r = load_record(b, &found, false, e);
        if (r < 0)
            return r;
    }
    return 0;
}

int board_load(struct board *b, const u8 *data, size_t len, struct error *e)
{
    struct rec_buf own = {0};
    int r = board_save(b, &own);
    if (r < 0)
        error_set(e, -r, r == -EBUSY ? "machine: disk requests are on their way" : "machine: out of memory");
    if (!r)
        r = check_all(b, data, len, e);
    if (!r)
        r = each_record(b, &own, data, len, false, e);
    if (!r)
        r = each_record(b, &own, data, len, true, e); /* can fail for want of memory only */
    rec_buf_free(&own);
    if (r < 0)
        return r;
    board_clear_event(b);
    irqchip_loaded(b->irq);
    refresh_clocks(b, true);
    arm_refresh(b);
    engines_changed(b);
    return 0;
}
