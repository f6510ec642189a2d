/*
 * The link: everything that cell and keeper say to each other goes through one memfd of this layout.
 *
 *   offset 0       configuration, written by the keeper before the cell starts, read by the cell once
 *   4096           doors: who sleeps
 *   8192 ...       headers and data of the rings below
 *
 * Messages are records of 64 bytes. One that says `len` > 0 is followed by that many bytes in the data ring of the same
 * direction, in the order of the messages. The keeper asks with an id of its own, the cell answers DONE with that id.
 * Disk requests have rings of their own (base/disk.h), and so have packets of the guest's sockets (base/vsock.h).
 *
 * The keeper believes nothing: link_check_up has the rules that a message must pass on its own; what it may say when is
 * keeper_cell.c's.
 */
#ifndef TRAPEZE_VM_LINK_H
#define TRAPEZE_VM_LINK_H

#include "base/disk.h"
#include "base/net.h"
#include "base/error.h"
#include "base/ring.h"
#include "base/share.h"
#include "vm/board.h"

/* X-macro: ring, bytes, unit, written by the cell */
#define LINK_RINGS(X)                            \
    X(LINK_CONSOLE_UP, 65536, 1, true)           \
    X(LINK_CONSOLE_DOWN, 4096, 1, false)         \
    X(LINK_MSG_UP, 4096, RING_RECORD, true)      \
    X(LINK_MSG_DOWN, 4096, RING_RECORD, false)   \
    X(LINK_DATA_UP, 65536, 1, true)              \
    X(LINK_DATA_DOWN, 65536, 1, false)           \
    X(LINK_DISK_UP, 65536, RING_RECORD, true)    \
    X(LINK_DISK_DOWN, 16384, RING_RECORD, false) \
    X(LINK_VSOCK_UP, 131072, RING_RECORD, true)  \
    X(LINK_VSOCK_DOWN, 131072, RING_RECORD, false)

enum link_ring {
#define X(ring, bytes, unit, up) ring,
    LINK_RINGS(X)
#undef X
        LINK_RING_COUNT
};

/* Keeper to cell. X-macro: kind, name */
#define LINK_DOWN(X)                                                                                            \
    X(DOWN_BOOT, "boot") /* the record of a CPU follows: reset, load it, run */                                 \
    X(DOWN_HALT, "halt") /* stop and wait for DOWN_BOOT; no answer but UP_STOPPED */                            \
    X(DOWN_PAUSE, "pause")                                                                                      \
    X(DOWN_RESUME, "resume")                                                                                    \
    X(DOWN_POWER, "power")     /* press the power button */                                                     \
    X(DOWN_SIZE, "size")       /* value: LINK_SIZE of the terminal at the console; no answer */                 \
    X(DOWN_STATS, "stats")     /* DONE has a struct link_stats */                                               \
    X(DOWN_BALLOON, "balloon") /* a struct balloon_ask follows; DONE has a struct balloon_info */               \
    X(DOWN_EXPLAIN, "explain") /* a struct explain_ask follows; DONE has a struct engine_explain */             \
    X(DOWN_LOG_START, "log start")                                                                              \
    X(DOWN_LOG_TAKE, "log take")       /* a struct log_ask follows; DONE has its words */                       \
    X(DOWN_LOG_STOP, "log stop")       /* with no id: no answer */                                              \
    X(DOWN_THROTTLE, "throttle")       /* 4 bytes follow: board_throttle's share; the end of the log ends it */ \
    X(DOWN_SAVE, "save")               /* DONE has records */                                                   \
    X(DOWN_LOAD, "load")               /* records follow */                                                     \
    X(DOWN_ANNOUNCE, "announce")       /* tell the networks where its cards are; no answer */                   \
    X(DOWN_SWING, "swing")             /* the name of the engine follows that is to run the CPUs */             \
    X(DOWN_FRAMES_TAKE, "frames take") /* paused: DONE has the frames that wait for it, packed */               \
    X(DOWN_FRAMES_GIVE, "frames give") /* such frames follow, for the guest */                                  \
    X(DOWN_FRESH, "fresh")             /* another machine from now on than the one that was saved */            \
    X(DOWN_FILL, "fill")               /* bring all memory that is absent, or a peer's: it is all there; no answer */

enum link_down {
    DOWN_NONE,
#define X(kind, name) kind,
    LINK_DOWN(X)
#undef X
        DOWN_COUNT
};

/* Cell to keeper. X-macro: kind, name, most bytes that may follow */
#define LINK_UP(X)                                                                                  \
    X(UP_READY, "ready", 0)                 /* sealed, waits for DOWN_BOOT */                       \
    X(UP_FAILED, "failed", 512)             /* could not get ready: why follows */                  \
    X(UP_DONE, "done", LINK_SAVE_MAX)       /* id: of what; result: 0 or errno, then why follows */ \
    X(UP_STOPPED, "stopped", LINK_TEXT_MAX) /* event: enum board_event; value: of the debug exit */

enum link_up {
    UP_NONE,
#define X(kind, name, most) kind,
    LINK_UP(X)
#undef X
        UP_COUNT
};

/* A terminal's size in a message's value. */
#define LINK_SIZE(cols, rows) ((u32)(cols) | (u32)(rows) << 16)
#define LINK_SIZE_COLS(value) ((u16)(value))
#define LINK_SIZE_ROWS(value) ((u16)((value) >> 16))

#define LINK_TEXT_MAX         8192u
#define LINK_SAVE_MAX         (16u << 20)

struct link_msg {
    u32 kind;
    u32 len; /* bytes that follow in the data ring */
    u64 id;
    u32 result;
    u32 event;
    u32 value;
    u32 zero[9];
};

/* The answer to DOWN_STATS. */
struct link_stats {
    struct engine_stats engine;
    struct balloon_info balloon;
};

/* What comes with DOWN_BALLOON. */
struct balloon_ask {
    u64 target; /* bytes that it is to hold, if `set` */
    u8 set;
    u8 refresh; /* ask the guest for its statistics */
    u8 zero[6];
};

/* What comes with DOWN_LOG_TAKE: RAM pages, from a multiple of 64 on, as many as fill words of the log. */
struct log_ask {
    u64 first, pages;
};
#define LOG_PAGES_MAX 524288u

static inline bool log_ask_fits(const struct log_ask *a, u64 ram_size)
{
    u64 all = (ram_size / PAGE_SIZE + 63) / 64 * 64;
    return a->first % 64 == 0 && a->pages % 64 == 0 && a->pages > 0 && a->pages <= LOG_PAGES_MAX && a->first < all &&
           a->pages <= all - a->first;
}

/* What the cell must know to build its board. Strings end inside their arrays. */
struct link_config {
    u32 magic, version;
    u64 ram_size, tsc_hz, code_cache, cpus;
    u32 virtio_mmio; /* 1: as board_config's */
    char name[64], cpu_model[128], engine[16];
    u32 virtio_console; /* board_config.virtio_console */
    u32 n_disks;
    struct disk_info disks[DISK_COUNT_MAX];
    u32 n_nets;
    struct net_info nets[NET_COUNT_MAX];
    u32 n_shares;
    struct share_info shares[SHARE_COUNT_MAX];
    u32 lazy; /* enum link_lazy */
};

/* Where memory is that is not there yet. */
enum link_lazy {
    LINK_LAZY_NONE,
    LINK_LAZY_FILE,   /* in a file */
    LINK_LAZY_SHARED, /* and it stays there until somebody wants it */
    LINK_LAZY_PEER,   /* at the host that the machine comes from, if it will be anywhere */
    LINK_LAZY_COUNT
};
#define LINK_MAGIC      0x6b6e6c54u /* "Tlnk" */
#define LINK_FRAMES_MAX (1u << 20)  /* bytes of frames that are taken or given at once */

#define LINK_VERSION    13u

/*
 * Descriptors of a cell. Behind them, for n network cards: the events that wake their back ends, then their wires; and for
 * n shares the same, events and lines; with `lazy` the table of absent pages (migrate/lazy.h), then the file, or the event
 * that wakes the pager.
 */
enum link_fd { LINK_FD_RAM = 3, LINK_FD_LINK, LINK_FD_WAKE_CELL, LINK_FD_WAKE_KEEPER, LINK_FD_END };

/* One side of the link. */
struct link {
    u8 *base; /* mapping of link_size() bytes */
    struct ring ring[LINK_RING_COUNT];
    struct ring_door *own, *peer;
    int wake_self, wake_peer; /* events; not owned */
    bool in_cell;
};

u64 link_size(void);
/* Attach to the mapping `base` of a link: the cell's side or the keeper's. */
void link_attach(struct link *l, void *base, bool in_cell, int wake_self, int wake_peer);

/* Wake the other side if it sleeps. */
void link_knock(struct link *l);

/*
 * Read from a ring whose consumer this side is, and wake a producer that waits for the room. As ring_read.
 */
s64 link_read(struct link *l, enum link_ring which, void *out, size_t len);

/* The configuration: put by the keeper; taken and checked by the cell. */
void link_put_config(struct link *l, const struct link_config *c);
int link_take_config(const struct link *l, struct link_config *c, struct error *e);

/* Whether a message from a cell is one that exists, with a length that it may have. 0 or -EPROTO. */
int link_check_up(const struct link_msg *m, struct error *e);

/* Replace what is not printable ASCII, newline or tab by '?': text from a cell is for people's terminals. */
void link_clean_text(char *text, size_t len);

#endif
