/* The process that becomes the container: what it does between its birth and execve. */
#ifndef TRAPEZE_CONTAINER_INIT_H
#define TRAPEZE_CONTAINER_INIT_H

#include "container/cgroup.h"
#include "container/rootfs.h"
#include "container/filter.h"
#include "container/spec.h"

/* All that it needs, put together by its parent before it is born; descriptors are inherited. */
struct init {
    const struct spec *spec;
    const struct spec_process *process;
    const char *affinity; /* CPUs, NULL: as they are */
    struct cgroup *cgroup;
    struct rootfs *rootfs; /* NULL: exec, the root is there already */
    struct filter filter;
    const char *state;          /* JSON for hooks run inside; the pid in it is put in by whoever made it */
    int sync;                   /* to the parent */
    int parent_sync;            /* the parent's end, to close */
    int start;                  /* listening socket, -1: SYNC_START comes by `sync` */
    int console;                /* connected console socket, -1: none */
    int listener;               /* connected seccomp agent, -1: none */
    const char *listener_state; /* what is sent with the listener */
    int proc;                   /* trusted procfs of the host */
    u32 preserve_fds;
    bool wait_maps;      /* a user namespace is new */
    bool user_namespace; /* in one, new or joined */
    bool new_cgroup_namespace, new_time_namespace, new_net_namespace, mounts;
    bool wait_hooks;
    bool pivot, new_keyring;
};

/* Never returns: becomes the program, or reports by `sync` and ends with status 1. */
_Noreturn void init_main(struct init *in);

#endif
