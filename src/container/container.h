/*
 * Containers as the OCI runtime specification has them: this room's face. The program trapeze-oci (src/oci) is a thin front
 * of these functions; other fronts may call them as well.
 *
 * A container is a process, its namespaces and cgroups, and a directory of state (store.h). No daemon: each function finds
 * what it needs there, locks it while it changes something, and leaves when done.
 *
 * Who calls container_create, container_run or container_exec has one thread, and lets the working directory be changed.
 */
#ifndef TRAPEZE_CONTAINER_CONTAINER_H
#define TRAPEZE_CONTAINER_CONTAINER_H

#include "base/error.h"
#include "base/types.h"

#include <jansson.h>
#include <sys/types.h>

struct container_host {
    const char *root;    /* directory of all states; NULL: /run/trapeze-oci, or below XDG_RUNTIME_DIR without root */
    bool systemd_cgroup; /* cgroupsPath is slice:prefix:name */
    const char *cache;   /* directory of compiled filters that nobody else writes to; made if missing; NULL: none */
};

/* How a container is made. Zero is the preset of everything but id and bundle. */
struct container_launch {
    const char *id;             /* [A-Za-z0-9_+.-], unique below root */
    const char *bundle;         /* directory with config.json; relative sources and roots begin there */
    const char *config;         /* another file than the bundle's, or NULL */
    const char *pid_file;       /* gets the process's number, whole before we return */
    const char *console_socket; /* gets the terminal's master, when process.terminal */
    const char *pidfd_socket;   /* gets a pidfd of the process */
    u32 preserve_fds;           /* descriptors 3 .. 3 + n - 1 go into the container */
    bool no_pivot;              /* chroot instead: roots on an initial ramdisk */
    bool no_new_keyring;
    bool detach;    /* container_run: do not wait */
    int console_fd; /* a socket that gets the terminal's master, instead of console_socket; 0: none */
    pid_t *pid;     /* out, unless NULL: the process, a child of ours */
    bool keep;      /* container_run: do not delete at the end */
    /* Called when its namespaces are there, in the meantime of their filling; its program starts after. -errno: it does not. */
    int (*connect)(void *arg, pid_t pid, struct error *e);
    void *connect_arg;
};

/* A process in a container that runs. */
struct container_exec {
    const char *id;
    const char *process_file;        /* a process object; NULL: the container's own process with what follows put in */
    char **args;                     /* NULL-terminated */
    const char *cwd;                 /* may be NULL */
    const char *user;                /* UID[:GID], may be NULL */
    const char *const *env;          /* NAME=VALUE added, NULL-terminated, may be NULL */
    const char *const *capabilities; /* added, NULL-terminated, may be NULL */
    const u32 *groups;               /* added */
    size_t n_groups;
    const char *apparmor, *selinux_label;
    int terminal;          /* 1: with one, 0: without, -1: as the process object says */
    int no_new_privileges; /* 1, 0, -1 as above */
    const char *cgroup;    /* below the container's, may be NULL */
    const char *pid_file, *console_socket, *pidfd_socket;
    u32 preserve_fds;
    bool detach, ignore_paused;
};

/* Make a container up to the point where only its program is to be started: status "created". */
int container_create(const struct container_host *h, const struct container_launch *l, struct error *e);
int container_start(const struct container_host *h, const char *id, struct error *e);
/* Create, start, wait, delete. *status: of the process, 128 + n after signal n. */
int container_run(const struct container_host *h, const struct container_launch *l, int *status, struct error *e);
/* *status as for container_run; 0 when detached. */
int container_exec(const struct container_host *h, const struct container_exec *x, int *status, struct error *e);

/* `all`: everything in its cgroup. A container that has stopped is an error, but for `all`. */
int container_kill(const struct container_host *h, const char *id, int signal, bool all, struct error *e);
/* `force`: kill it first; and one that is not there is no error. */
int container_delete(const struct container_host *h, const char *id, bool force, struct error *e);
int container_pause(const struct container_host *h, const char *id, bool pause, struct error *e);

/* The state as the specification has it (with `more`: and what `list` shows: rootfs, created, owner). A new reference. */
json_t *container_state(const struct container_host *h, const char *id, bool more, struct error *e);
/* An array of states. */
json_t *container_list(const struct container_host *h, struct error *e);
/* Numbers of its processes: an array. */
json_t *container_processes(const struct container_host *h, const char *id, struct error *e);

/* Change limits: `resources` is the text of a resources object. */
int container_update(const struct container_host *h, const char *id, const char *resources, size_t size,
                     struct error *e);
/* {"type":"stats","id":..,"data":..} */
json_t *container_stats(const struct container_host *h, const char *id, struct error *e);
/* Call `emit` with the stats every `interval_ms` and with OOM events, until the container stops or `emit` says so (< 0). */
int container_events(const struct container_host *h, const char *id, u32 interval_ms,
                     int (*emit)(void *arg, json_t *event), void *arg, struct error *e);

struct container_checkpoint {
    const char *id;
    const char *image_path, *work_path, *parent_path;
    bool leave_running, tcp_established, external_unix_sockets, shell_job, file_locks, pre_dump, lazy_pages, auto_dedup;
    const char *manage_cgroups; /* soft, full, strict, ignore; NULL: soft */
};
/* By criu(8), where the host has it; -ENOENT says so. */
int container_checkpoint(const struct container_host *h, const struct container_checkpoint *c, struct error *e);
int container_restore(const struct container_host *h, const struct container_launch *l,
                      const struct container_checkpoint *c, int *status, struct error *e);

/* What this runtime can do (features.md of the specification). */
json_t *container_features(void);
/* A config.json to begin with; `filtered`: with the default filter. */
json_t *container_example(bool rootless, bool filtered);

/*
 * The default system call filter, as the value of linux.seccomp, for a container with these capabilities (bit n for capability
 * n): what a capability gives is open to who has it.
 */
json_t *container_profile(u64 capabilities);

/* "TERM", "SIGTERM", "15" into a number, or -EINVAL. */
int container_signal(const char *name);

#endif
