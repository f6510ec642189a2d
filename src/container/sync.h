/* Messages between the runtime and the process that becomes the container, over a socket pair that keeps their bounds. */
#ifndef TRAPEZE_CONTAINER_SYNC_H
#define TRAPEZE_CONTAINER_SYNC_H

#include "base/error.h"

enum sync_kind {
    SYNC_GO = 1,  /* to the process: mappings are written, or hooks have run */
    SYNC_HOOKS,   /* from it: namespaces and mounts are there, the root is not entered yet */
    SYNC_READY,   /* from it: all is done but the start */
    SYNC_START,   /* to it */
    SYNC_ERROR,   /* from it: `e` */
    SYNC_PROCESS, /* from the process in between: `value` is the number of the one it made */
};

struct sync_message {
    u32 kind;
    s32 value;
    struct error e;
};

int sync_pair(int pair[2], struct error *e);
/* 0 or -errno. */
int sync_send(int fd, enum sync_kind kind, s32 value, const struct error *e);
/* Wait for a message: 0, 1 when the other side has closed, -errno. A SYNC_ERROR is put into `e` and returned as -code. */
int sync_receive(int fd, struct sync_message *m, struct error *e);
/* Wait for one of this kind; the end of the other side is an error. */
int sync_expect(int fd, enum sync_kind kind, struct error *e);

#endif
