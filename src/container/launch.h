/* Inside the room: what create, run, exec and restore share. */
#ifndef TRAPEZE_CONTAINER_LAUNCH_H
#define TRAPEZE_CONTAINER_LAUNCH_H

#include "container/container.h"
#include "container/spec.h"
#include "container/store.h"

/* A container in the making, or one that is looked at. */
struct launch {
    const struct container_host *host;
    struct store store;
    struct record record;
    struct spec spec;
    char *config; /* text of config.json */
    size_t config_size;
    int cwd; /* the caller's, for paths that it gave */
    pid_t pid;
    int pidfd, sync;
    bool started;      /* SYNC_START is sent already */
    bool notify;       /* there is a NOTIFY_SOCKET (notify.h) */
    int notify_socket; /* 0: none yet */
};

/* Read the config.json of the bundle and enter the bundle. */
int launch_read(struct launch *l, const struct container_launch *how, struct error *e);
/* All up to SYNC_READY. What was made is unmade when it fails. `relay`: socket that gets the terminal, or -1. */
int launch_create(struct launch *l, const struct container_launch *how, bool started_here, int relay, struct error *e);
/* Undo: kill, remove cgroups and state. */
void launch_undo(struct launch *l);
void launch_free(struct launch *l);

/* Open a container that exists, with its record and, if `with_spec`, its configuration. */
int launch_open(struct launch *l, const struct container_host *h, const char *id, bool lock, bool with_spec,
                struct error *e);

/* The specification's state object. */
json_t *launch_state(const struct record *r, const struct spec *s, enum container_status status);
/* .. as text for hooks; free it. */
char *launch_state_text(const struct record *r, const struct spec *s, enum container_status status);

/* Write `pid` into `path` (relative to `cwd`) so that nobody reads half of it. */
int launch_pid_file(int cwd, const char *path, pid_t pid, struct error *e);
/* Send the pidfd to whoever listens at `path`. */
int launch_send_pidfd(const char *path, int pidfd, struct error *e);

/* Wait for the process, pass signals on to it. *status as for container_run. */
int launch_wait(pid_t pid, int pidfd, int *status, struct error *e);
/* Block the signals that launch_wait passes on; before the process is made. */
void launch_block_signals(void);

/* Check that descriptors 3 .. are there that are to be preserved, mark the others close-on-exec. */
int launch_check_fds(u32 preserve, struct error *e);
/* Those of LISTEN_FDS (sd_listen_fds(3)), 0 without. */
u32 launch_listen_fds(void);

/* Connect to a seccomp agent, and what it will be told. */
int launch_listener(const struct spec_seccomp *s, struct error *e);
char *launch_listener_state(const struct record *r, const struct spec *s, pid_t pid);

/* Put more variables before the process's own end. */
int launch_add_env(struct spec_process *p, struct arena *arena, const char *const *more);

/* Unlink from state, kill what is left, hooks: what `delete` does to a container that has stopped. */
int launch_remove(struct launch *l, struct error *e);

#endif
