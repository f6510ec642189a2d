/*
 * Making a process in other namespaces.
 *
 * New namespaces are made by one clone3 with all flags: the kernel makes the user namespace first, so that it owns the
 * others. Joined ones need a process in between: it enters them one by one, then clones with CLONE_PARENT, so that the new
 * process is the runtime's own child. The runtime itself never changes its namespaces.
 */
#ifndef TRAPEZE_CONTAINER_SPAWN_H
#define TRAPEZE_CONTAINER_SPAWN_H

#include "base/error.h"
#include "base/types.h"
#include "container/spec.h"

#define SPAWN_JOINS 8

struct spawn {
    u64 create; /* CLONE_NEW* to make by clone3 */
    struct {
        u64 flag;
        int fd;
        const char *path;
    } join[SPAWN_JOINS]; /* to enter, by descriptors of their files */
    size_t n_joins;
    int target;          /* pidfd of a process whose namespaces are joined, or -1 */
    u64 target_flags;    /* which of them */
    int cgroup;          /* to be born in (version 2), or -1 */
    bool cgroup_refused; /* out: the kernel would not have it, the process is in the runtime's */
};

/* From the list of namespaces: cgroup and time are left to the process itself (they are entered after its birth). */
int spawn_plan(struct spawn *s, const struct spec *spec, struct error *e);
void spawn_close(struct spawn *s);

/* As fork(2): 0 in the new process, its number in the caller's PID namespace here, -errno with `e`. */
pid_t spawn_process(struct spawn *s, int *pidfd, struct error *e);

#endif
