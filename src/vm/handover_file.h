/*
 * The record of a handover in a machine's directory (migrate/handover.h): what a crash leaves behind says who may run the machine.
 *
 * One block at the start of the file "handover", written in place and synced. It is torn only if the host goes down in between, and
 * then whoever wrote it has told nobody: a torn record counts as none.
 */
#ifndef TRAPEZE_VM_HANDOVER_FILE_H
#define TRAPEZE_VM_HANDOVER_FILE_H

#include "base/error.h"
#include "base/types.h"

#define VM_FILE_HANDOVER "handover"

#define HANDOVER_ID      32u /* hexadecimal digits of an id: of a handover, of a host */
#define HANDOVER_PEER    320u
#define HANDOVER_TLS     1024u

/* Whose word it is. */
enum handover_role {
    HANDOVER_NONE,
    HANDOVER_COMMITTED, /* the source's: the target decides */
    HANDOVER_MOVED,     /* the source's: it runs there; this one is no more */
    HANDOVER_RUNS,      /* the target's: it runs, or has run here */
    HANDOVER_ROLES
};

struct handover_record {
    u32 role;
    u32 insecure;               /* how the target is reached: without TLS */
    char id[HANDOVER_ID + 1];   /* of this handover */
    char host[HANDOVER_ID + 1]; /* the target's: only it can answer */
    char to[HANDOVER_PEER];     /* its address */
    char tls[HANDOVER_TLS];     /* directory of certificates; "" */
    u32 postcopy;               /* COMMITTED: pages that were named are here alone; RUNS: some of them are lacking */
};

/* Open the file in machine directory `dir`, made if it is missing. The descriptor or -errno. */
int handover_open(int dir, struct error *e);
/* What the file says; HANDOVER_NONE for an empty or torn one. 0 or -errno. */
int handover_read(int fd, struct handover_record *h, struct error *e);
/* Give the record its place on disk, so that writing it later is short. */
int handover_prepare(int fd, struct error *e);
/* Write it: on stable storage when this returns 0. HANDOVER_NONE takes it away. */
int handover_write(int fd, const struct handover_record *h, struct error *e);
/* The same by directory: for who is no keeper, and knows that there is none. */
int handover_read_at(const char *dir, struct handover_record *h, struct error *e);
int handover_write_at(const char *dir, const struct handover_record *h, struct error *e);

/* Whether `text` can be an id. */
bool handover_id_good(const char *text);

#endif
