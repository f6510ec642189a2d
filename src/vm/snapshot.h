/*
 * Snapshots: a machine's memory and state in a file, and a machine that goes on from one. The file is a stream
 * (docs/migration-stream.md) in the machine's own directory; what is special to machines of ours is the text in its CONF record:
 *
 *   {"trapeze": VERSION, "config": as in `inspect`, "cpu": {"vendor", "features"}, "disks": [{"file", "bytes", "modified"}]}
 *
 * A snapshot is written by the verb's own process: the keeper, which may open nothing, gives it guest memory's descriptor and holds
 * the machine still for as long as their connection lives (vm/control.h).
 *
 * What must stay true
 *  1. A machine goes on from a suspended file once: its keeper removes it before the first instruction.
 *  2. Disks are what they were: those of a suspended machine are on stable storage before its file is, and are compared with
 *     the file before it goes on.
 *  3. Whatever fails, the machine that ran goes on, and no file of that name is there but an older, whole one.
 *
 * Not done: disks in a snapshot (a machine that can write to one can be suspended only); what user-mode networks had open is
 * lost, and connections to the guest's sockets end.
 */
#ifndef TRAPEZE_VM_SNAPSHOT_H
#define TRAPEZE_VM_SNAPSHOT_H

#include "migrate/file.h"
#include "vm/config.h"
#include "vm/launch.h"

#define SNAPSHOT_SUSPENDED "suspended.stream" /* in the machine's directory */
#define SNAPSHOT_SUFFIX    ".snapshot"        /* TAG.snapshot, beside it */

struct snapshot_progress {
    stream_progress tell; /* NULL: nobody looks */
    void *ctx;
};

/*
 * Write a snapshot of the machine at the other end of `control` (a connection to its keeper) to the file `name` in `dir`; it
 * goes on as soon as its memory has been read. 0 or -errno.
 */
int snapshot_create(int control, int dir, const char *name, const struct snapshot_progress *p, struct error *e);
/* The same for a machine that ends with it. When this returns 0, its keeper is about to be gone. */
int snapshot_suspend(int control, int dir, const struct snapshot_progress *p, struct error *e);

/* --- what snapshots and machines that move have in common --- */

/* The text of a CONF record for a machine of that configuration, as its disks are now: the caller frees it; NULL with `e`. */
char *snapshot_describe(const struct vm_config *c, struct error *e);
/* Whether a machine of configuration `c` has on this host what `cpu`, of such a text, says that its guest was told. */
int snapshot_check_cpu(const json_t *cpu, const struct vm_config *c, struct error *e);
/* The configuration of the machine at the other end of `control`; a request of one word; all records but memory (the caller frees). */
int snapshot_get_config(int control, struct vm_config *c, struct error *e);
int snapshot_ask(int control, const char *what, json_t **reply, struct error *e);
int snapshot_get_state(int control, u8 **data, size_t *len, struct error *e);

/* One that is read. */
struct snapshot {
    struct stream_file file;
    struct stream_in in;
    json_t *meta;
    struct rec_buf state;
    int ram_fd; /* -1: not read yet */
    int table;  /* of absent pages (migrate/lazy.h); -1: there is none */
};

/* Open one and read what it says of itself. 0 or -errno with an `e` that names the file; -ENOENT. Close in any case. */
int snapshot_open(struct snapshot *s, int dir, const char *name, struct error *e);
void snapshot_close(struct snapshot *s);
/* The machine's configuration, checked; whether this host's processor has what that one had, and the disks are as they were. */
int snapshot_config(const struct snapshot *s, struct vm_config *c, struct error *e);
int snapshot_check(const struct snapshot *s, const struct vm_config *c, struct error *e);
/*
 * Read memory and state: what vm_launch_incoming wants, valid until the close. Of a file with an index the memory is left where it
 * is: the machine reads it while it runs.
 */
int snapshot_load(struct snapshot *s, const struct snapshot_progress *p, struct vm_incoming *in, struct error *e);

#endif
