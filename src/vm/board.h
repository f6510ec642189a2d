/*
 * The board: one PC as a value. CPU, memory, interrupt controllers, chips, clock and an engine, put together; it knows
 * nothing of files, sockets or processes. The cell runs one; unit tests, fuzzers and the record tests make as many
 * as they like.
 */
#ifndef TRAPEZE_VM_BOARD_H
#define TRAPEZE_VM_BOARD_H

#include "base/disk.h"
#include "base/share.h"
#include "base/wire.h"
#include "base/error.h"
#include "base/record.h"
#include "device/virtio/devices.h"
#include "engine/engine.h"

#define BOARD_CPUS_MAX 64u

struct board_config {
    unsigned cpus; /* 0: one */
    void *ram;     /* mapping of guest memory: the caller's, outlives the board */
    u64 ram_size;
    int ram_fd;
    const char *cpu_model;           /* --cpu */
    const struct engine_ops *engine; /* --engine */
    bool can_swing;                  /* the others that this host has are made, too, for board_swing */
    size_t code_cache;
    u32 engine_test;  /* ENGINE_TEST_*: for tests */
    bool virtio_mmio; /* virtio devices in windows of memory instead of on the PCI bus (--virtio mmio) */
    u64 tsc_hz;
    u64 (*host_ns)(void *); /* NULL: host.h's clocks */
    u64 (*host_tsc)(void *);
    void *clock_ctx;
    s64 wall_ns; /* wall clock at start */
    /*
     * Bytes that the guest sends to COM1, and to the virtio console if it has one. Returns how many were taken; the rest is offered
     * again.
     */
    size_t (*console_out)(void *ctx, const u8 *data, size_t len);
    /*
     * Bytes for COM1, asked for by a guest that polls it, or for the virtio console: at most `len` into `data`, returns how many, 0 when none wait. May
     * be NULL. What board_console_input did not take is offered here first: the order of the bytes is the caller's.
     */
    size_t (*console_in)(void *ctx, u8 *data, size_t len);
    void *console_ctx;
    bool virtio_console; /* the machine has one, and what is typed goes there instead of to COM1 */
    /* Disks, and the way to their back end: see virtio_blk_config (device/virtio/devices.h). */
    const struct disk_info *disks;
    unsigned n_disks;
    bool (*disk_ready)(void *ctx);
    void (*disk_submit)(void *ctx, const struct disk_request *r, const struct disk_seg *segs);
    void *disk_ctx;
    /* Network cards, each on a wire whose cell's side is attached; net_signal wakes the back end of card `n`. */
    const struct net_info *nets;
    struct wire *wires;
    unsigned n_nets;
    void (*net_signal)(void *ctx, unsigned n);
    void *net_ctx;
    /* Shared directories, each on a line whose cell's side is attached; share_signal wakes the back end of share `n`. */
    const struct share_info *shares; /* as the lines they outlive the board */
    struct share_line *share_lines;
    unsigned n_shares;
    void (*share_signal)(void *ctx, unsigned n);
    void *share_ctx;
    struct virtio_vsock_config vsock; /* cid 0: the machine has none */
};

/* Why the machine as a whole stopped, beside the engine's reasons. */
enum board_event {
    BOARD_RUN,        /* nothing: run on */
    BOARD_WAIT,       /* the CPU halts: sleep until board_next_deadline or input */
    BOARD_POWEROFF,   /* ACPI S5 */
    BOARD_RESET,      /* reset requested: ACPI reset register, CF9h, keyboard controller */
    BOARD_DEBUG_EXIT, /* port F4h: value in board_exit_value */
    BOARD_SHUTDOWN,   /* triple fault */
    BOARD_UNIMPLEMENTED,
    BOARD_FAILURE,
};

struct board;

int board_create(struct board **out, const struct board_config *cfg, struct error *e);
void board_destroy(struct board *b);

struct cpu *board_cpu(struct board *b, unsigned id);
struct guest_mem *board_mem(struct board *b);

/* Run for about `budget` instructions, serve timers. `text` (may be NULL) gets a line for the events that need one. */
enum board_event board_run(struct board *b, u64 budget, char *text, size_t text_len);
/* Host nanoseconds (of cfg.host_ns) at which a timer is due; UINT64_MAX if none. */
u64 board_next_deadline(const struct board *b);

/*
 * Where CPUs have threads of their own, hold this around the calls below; console_out and console_in are called with it
 * held, and `ran` and `notify` are not to be waited for meanwhile.
 */
void board_lock_devices(struct board *b);
void board_unlock_devices(struct board *b);

/* Input to COM1 or the virtio console: takes as much as it has room for, returns how much. */
size_t board_console_input(struct board *b, const u8 *data, size_t len);
/*
 * Try to send pending console output again (the reader has room). With `memory` also that which lies in guest memory, where the
 * driver is told that it is out.
 */
void board_console_flush(struct board *b, bool memory);
/* The size of the terminal at the console, in characters; 0, 0: not known. COM1 has no way to tell it. */
void board_console_size(struct board *b, u16 cols, u16 rows);
/*
 * A reply of the back end: 0, or -EPROTO when it answers nothing that was asked. After one or several, and when there may be
 * room for requests again, board_disk_settle tells the guest and goes on with what waits.
 */
int board_disk_done(struct board *b, const struct disk_reply *r);
void board_disk_settle(struct board *b);
/* Whether requests are on their way: such a machine can neither be saved nor reset. */
bool board_disk_busy(const struct board *b);

/* Move what can move between wires and network cards, while the machine runs; whether a frame did. */
bool board_net_settle(struct board *b);
/* Tell the networks that its cards are here now. */
void board_net_announce(struct board *b);
/* Frames that wait for a guest that stands still and goes on elsewhere, packed (base/net.h): how many bytes. */
size_t board_net_take(struct board *b, u8 *out, size_t room);
/* Such frames, for the guest that runs here now. 0, or -EINVAL at the first that can not be. */
int board_net_give(struct board *b, const u8 *data, size_t len);
/* Take answers and questions of shares; whether any moved. And whether any is on its way: as board_disk_busy. */
bool board_share_settle(struct board *b);
bool board_share_busy(const struct board *b);
/* When packets may have come for the guest's sockets, or there may be room for its own. */
void board_vsock_settle(struct board *b);

/*
 * The memory balloon: how many bytes it is to hold (0, -ENODEV without a driver, -ERANGE); ask the guest for statistics, which come
 * later (writes to guest memory; whether it could be asked); how it is.
 */
int board_balloon_set(struct board *b, u64 bytes, struct error *e);
bool board_balloon_ask(struct board *b);
void board_balloon_info(const struct board *b, struct balloon_info *out);

/* Press the power button: an ACPI event the guest may act on. */
void board_power_button(struct board *b);
/* It is a life of its own from now on: another generation identifier; with `tell` the guest, which runs, hears of it. */
void board_new_generation(struct board *b, bool tell);
/* Value written to the debug exit port. */
u32 board_exit_value(const struct board *b);
/* Machine reset: CPU and chips as after power-up; memory stays, the caller loads the boot code again. */
void board_reset(struct board *b);
/*
 * Reset, then set the CPU to the state that boot_load left in `data`: one record of a CPU. The time-stamp counter goes on.
 * 0, or -EINVAL with the machine reset and `e` filled.
 */
int board_boot(struct board *b, const u8 *data, size_t len, struct error *e);

/*
 * The dirty log (machine/mem/mem.h): started, it notes which pages of memory are written, by CPUs and devices, while they run or
 * not. Take: as mem_log_take. All: somebody else wrote to memory; does nothing without a log. By one thread, without the lock.
 * 0 or -ENOMEM.
 */
int board_log_start(struct board *b);
bool board_log_on(const struct board *b);
void board_log_take(struct board *b, u64 first, u64 pages, u64 *out);
void board_log_all(struct board *b);
void board_log_stop(struct board *b);

void board_pause(struct board *b);
void board_resume(struct board *b);

/*
 * A thread for each CPU instead of board_run. They start stopped, between board_go and board_halt they run by themselves. `notify`
 * hears, in one of them, that an event was posted (see board_event), `ran` that a slice is over: both must be short and
 * must not call the board. To be called once, before the process is sealed. Whatever reads or changes CPUs (boot, reset, save, load,
 * pause, explain) wants them halted.
 */
int board_start_threads(struct board *b, void (*notify)(void *ctx), void (*ran)(void *ctx), void *ctx, struct error *e);
void board_go(struct board *b);
/* Returns when no CPU runs. */
void board_halt(struct board *b);
/* The event that stopped the machine, or BOARD_RUN. */
enum board_event board_event(struct board *b, char *text, size_t len);

/* Leave board_run soon: may be called from a signal handler or another thread. */
void board_kick(struct board *b);

#define BOARD_THROTTLE_ALL 10000u /* hundredths of a percent: all of the time */
#define BOARD_THROTTLE_MAX 9999u
/*
 * Have the CPUs stand still for so much of the time, in hundredths of a percent, 0 to BOARD_THROTTLE_MAX, beside what they sleep: the guest does less, so it
 * writes less. CPUs with threads do it by themselves; who calls board_run asks after each how long to wait. Any thread may set it.
 */
void board_throttle(struct board *b, u32 share);
/* ns to stand still for after having run for `ran` ns of a processor's time, all of them: none may be let off. 2 s at most. */
u64 board_throttle_ns(const struct board *b, u64 ran);

void board_stats(const struct board *b, struct engine_stats *out);

/*
 * Another engine runs the CPUs from now on. No CPU runs meanwhile; nothing of the machine changes. 0, or -EINVAL with `e` if there is
 * none of that name here (board_config.can_swing): then all is as it was.
 */
int board_swing(struct board *b, const char *engine, struct error *e);

/*
 * What the engine made of the code at linear address `va`, or (`at_rip`) of the code at the CPU's RIP. Between two runs.
 * 0, or as the engine's explain: -ENOENT, -EOPNOTSUPP, with `e` filled.
 */
int board_explain(struct board *b, u64 va, bool at_rip, struct engine_explain *out, struct error *e);

/*
 * Save every record of the machine but its memory; load them all into a board of the same configuration. Load checks
 * each record before it changes anything. -EBUSY while requests to disks or shares are on their way.
 */
int board_save(struct board *b, struct rec_buf *out);
int board_load(struct board *b, const u8 *data, size_t len, struct error *e);

#endif
