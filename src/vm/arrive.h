/*
 * The target's side of a live migration: one connection to `trapeze receive`, served in a process of its own.
 *
 * A machine that comes has a row, a directory and a keeper from its reservation on (`ps` shows it as "incoming"); memory is
 * filled here, in this process, the keeper takes the state. Until it is whole it goes when this connection does. From then on
 * ("prepared") its keeper waits for the source's word, whoever brings it (vm/resolve.h), as long as its lifetime.
 *
 * Disks that come along go into new files, whose names are made here: disk-N.raw in the machine's directory, or NAME-ID-N.raw in the
 * one that was given. They are written down before they are made, so that whoever clears up behind an attempt that failed finds them
 * (arrive_files).
 *
 * What a peer says of a machine is checked as if a person had said it, and what it sends is checked before it is used. Still, who
 * may send a machine names files (disks, kernels, shared directories) that are opened as this user: a certificate of our CA, or access to
 * this host, is as good as an account. docs/migration.md says so.
 */
#ifndef TRAPEZE_VM_ARRIVE_H
#define TRAPEZE_VM_ARRIVE_H

#include "vm/handover_wire.h"
#include "vm/registry.h"

struct arrive_options {
    u64 memory;           /* bytes that all machines that are on their way may have; 0: what the host has */
    u64 lifetime;         /* seconds that a prepared machine waits */
    const char *disk_dir; /* of disks that come along, an absolute path; NULL: the machine's own directory */
    void (*say)(void *ctx, const char *line);                    /* of what happens, for people */
    void (*activated)(void *ctx, const struct machine_row *row); /* it runs here */
    void *ctx;
};

/* Serve one connection, whose handshake is done, to its end. 0 or -errno. */
int arrive_serve(struct channel *c, const struct arrive_options *o, struct error *e);

#endif
