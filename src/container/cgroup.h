/*
 * Control groups by file: version 1, version 2 and both at once ("hybrid"), found by looking, without a flag.
 *
 * A container has one path, made in every hierarchy there is. How a process gets there differs, and is where the time goes:
 *
 *  - version 2: CLONE_INTO_CGROUP, the process is born there;
 *  - version 1: the process writes "0" into `tasks` itself, through descriptors that its parent opened. A thread that moves
 *    itself needs no stop of the whole system's forks; moving another process (cgroup.procs) does, milliseconds each.
 *
 * Limits: resources of the specification into files, a table for each version (cgroup_v1.c, cgroup_v2.c).
 */
#ifndef TRAPEZE_CONTAINER_CGROUP_H
#define TRAPEZE_CONTAINER_CGROUP_H

#include "container/spec.h"

#define CGROUP_HIERARCHIES 20
#define CGROUP_PATH        1024

struct cgroup_hierarchy {
    bool v2;
    bool used;              /* the container is in `path` here; not where that was denied to who is not root */
    bool made;              /* by cgroup_create: there was nothing at that path before */
    char controllers[80];   /* as in /proc/self/cgroup: "cpu,cpuacct", "name=systemd"; "" for version 2 */
    char mount[256];        /* where the host has it */
    char path[CGROUP_PATH]; /* the container's, below `mount`; begins with '/' */
    char own[CGROUP_PATH];  /* the runtime's own */
    int dir;                /* of the container's cgroup, -1: not open */
    int tasks;              /* version 1: to join, -1: not open */
};

struct cgroup {
    struct cgroup_hierarchy h[CGROUP_HIERARCHIES];
    size_t n;
    bool unified;  /* version 2 alone */
    bool rootless; /* not root of the initial user namespace: what may not be done is left out unless asked for */
};

/* What hierarchies there are and where this process is in them. n may be 0. 0 or -errno with `e`. */
int cgroup_find(struct cgroup *g, struct error *e);

/*
 * Where the container is to be: `path` of the configuration (absolute: from each mount's root; relative or NULL: below the
 * runtime's own), or with `systemd` the triple "slice:prefix:name", which becomes the path that systemd would choose.
 */
int cgroup_place(struct cgroup *g, const char *path, const char *id, bool systemd, struct error *e);

/* Make the directories and open them. What was made stays recorded also after a failure: cgroup_remove. */
int cgroup_create(struct cgroup *g, struct error *e);
/* Open the directories of a container that exists, and the files to join it. */
int cgroup_open(struct cgroup *g, struct error *e);
void cgroup_close(struct cgroup *g);

/* Descriptor for CLONE_INTO_CGROUP or -1. */
int cgroup_into(const struct cgroup *g);
/* The calling process, single-threaded, joins (version 1). After that its descriptors are closed. */
int cgroup_join(struct cgroup *g, struct error *e);
/* Whether the container has a cgroup of its own anywhere: without, nobody counts, limits or freezes it. */
bool cgroup_is_used(const struct cgroup *g);

/* Move another process by its number: where CLONE_INTO_CGROUP was refused. */
int cgroup_move(const struct cgroup *g, pid_t pid, struct error *e);

/* Kill what is left, remove the directories, with those that were made below them. Missing is no error. */
int cgroup_remove(struct cgroup *g, struct error *e);

/* Processes of the container, also those in cgroups below: malloc'ed array, free it. */
int cgroup_processes(const struct cgroup *g, pid_t **pids, size_t *n, struct error *e);
int cgroup_kill(const struct cgroup *g, int signal, struct error *e);
int cgroup_freeze(const struct cgroup *g, bool freeze, struct error *e);
/* 1 frozen, 0 not, -errno. */
int cgroup_frozen(const struct cgroup *g);

/* The hierarchy that has this controller, or NULL. "" finds version 2. */
const struct cgroup_hierarchy *cgroup_with(const struct cgroup *g, const char *controller);

/* Put limits into effect; `update`: of a running container (device rules are left alone unless given). */
int cgroup_limit(const struct cgroup *g, const struct spec_resources *r, bool update, struct error *e);

/* Usage as the other runtimes' `events --stats` prints it: the object `data`. */
json_t *cgroup_stats(const struct cgroup *g);

/* How often the OOM killer struck; -errno where that can not be had. */
s64 cgroup_oom_kills(const struct cgroup *g);

/* --- parts, for the files cgroup_*.c and the tests --- */

/* "slice:prefix:name" into "/a.slice/a-b.slice/prefix-name.scope". 0 or -errno. */
int cgroup_systemd_path(char *out, size_t size, const char *triple, struct error *e);
int cgroup_write(const struct cgroup_hierarchy *h, const char *file, const char *text, struct error *e);
int cgroup_limit_v1(const struct cgroup *g, const struct spec_resources *r, bool update, struct error *e);
int cgroup_limit_v2(const struct cgroup_hierarchy *h, const struct spec_resources *r, struct error *e);
/* Device rules of version 2: an eBPF program on the cgroup. */
int cgroup_device_program(const struct cgroup_hierarchy *h, const struct spec_device_rule *rules, size_t n,
                          struct error *e);
/* .. its instructions, *length of them; free it. */
struct bpf_insn *cgroup_device_code(const struct spec_device_rule *rules, size_t n, size_t *length);
/* cpu.weight of version 2 for cpu.shares of version 1: 2..262144 becomes 1..10000. */
u64 cgroup_weight_of_shares(u64 shares);
u64 cgroup_io_weight(u64 weight);
/*
 * The rules that hold for a container: the rules of the specification, and after them what every container needs (null,
 * zero, full, random, urandom, tty, console, pts, ptmx; mknod of anything). *n of them in `arena`.
 */
struct spec_device_rule *cgroup_device_rules(const struct spec_resources *r, struct arena *arena, size_t *n);

/* The parser of /proc/self/mountinfo and /proc/self/cgroup, on texts of any origin. */
int cgroup_parse(struct cgroup *g, const char *mountinfo, const char *own, struct error *e);

#endif
