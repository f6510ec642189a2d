/*
 * Containers as people use them: an image, a few options, a name. This room puts together what three others have: a root file
 * system from image/, a process from container/, a row of the registry of vm/.
 *
 * Each container has a keeper, a process of its own (keeper.c): it mounts the root in a mount namespace of its own, starts the
 * container, holds the ends of its streams, writes the log, serves who attaches, and records the end. No daemon: a verb finds
 * the keeper by the row, and most verbs need none, they go to the container itself.
 *
 *     DATA/trapeze/containers/ID/     DATA as for images
 *         image.json                  {"image", "id", "chains", "layers"}: what garbage collection must leave
 *         upper, work                 overlayfs's: what the container has written
 *         root                        where the keeper mounts it: empty for everybody else
 *         config.json                 the bundle
 *         hosts, hostname, resolv.conf
 *         made.json, start.json       how it was made, for `inspect`; options that its next life needs
 *         oci/ID/                     its state (container/store.h)
 *     STATE/trapeze/machines/ID/      as of machines: console.log, control, end.json
 *     STATE/trapeze/networks/         of network/network.h
 *
 * What must stay true
 *  1. The row is first and goes last; image.json is written under the image store's shared lock, before anything is mounted.
 *  2. Who is killed anywhere leaves a row whose keeper is gone: the next verb's sweep (box_sweep) ends the container, and takes
 *     it away if it was to go. Mounts go with the namespace.
 *  3. Nothing below "root" is looked up but by the container room's inroot.h.
 */
#ifndef TRAPEZE_BOX_BOX_H
#define TRAPEZE_BOX_BOX_H

#include "base/error.h"
#include "base/types.h"
#include "container/container.h"
#include "vm/registry.h"

#include <jansson.h>

/* Exit statuses that are not the program's own. */
#define BOX_FAILED         125
#define BOX_NOT_EXECUTABLE 126
#define BOX_NOT_FOUND      127

struct image;

struct box_list {
    const char *const *v;
    int n;
};

struct box_options {
    const char *image;
    struct box_list args; /* none: the image's command */
    const char *name;     /* NULL: two words are chosen */
    bool interactive, tty, detach, remove, read_only;
    struct box_list env;     /* NAME=VALUE, or NAME: from here */
    struct box_list volumes; /* /HOST:/DIR[:ro] */
    struct box_list cap_add, cap_drop;
    const char *workdir, *user, *entrypoint, *hostname; /* NULL: the image's */
    const char *network;   /* none, host, bridge, or one that was made; NULL: bridge if it can be */
    struct box_list ports; /* [HOSTADDR:]HOSTPORT:PORT[/udp] */
    struct box_list dns;   /* servers, instead of the host's */
    struct box_list hosts; /* NAME:ADDRESS for /etc/hosts */
    u64 memory, cpus;      /* 0: no limit */
    u8 escape;             /* key that leaves it, 0: none */
    /* A step of a build (build.c): made of this, borrowed, instead of `image`; it ends when who started it does. */
    const struct image *made;
    const char *again; /* id of a container that has ended: all else comes from its directory (again.c) */
};

struct box_started {
    char id[MACHINE_ID_LEN + 1];
    char name[MACHINE_NAME_MAX + 1];
    pid_t keeper;
    char note[420]; /* what the user should know, "" */
};

/*
 * Run a container: detached, or with this process's streams until its end. *status: of the program; one of the above with `e`
 * when it could not be started. *left: the escape key was pressed, it goes on. Before: protect_self.
 */
int box_run(const struct box_options *o, struct box_started *started, int *status, bool *left, struct error *e);

/*
 * Another life for a container that has ended, in the background, with what it has written and the options it was run with. As
 * box_run; before: box_protect, and no registry is open in this process.
 */
int box_start(const struct machine_row *row, struct box_started *started, int *status, struct error *e);

/*
 * Make sure that the container can not write to this program (container/protect.h): executes it again where it must. Who makes
 * processes in containers calls it first.
 */
int box_protect(struct error *e);

/* Streams of a running container until its end or the escape key. */
int box_attach(const struct machine_row *row, bool input, u8 escape, int *status, bool *left, struct error *e);
/* What it printed, to standard output and standard error; `follow`: until it ends. */
int box_logs(const struct machine_row *row, bool follow, struct error *e);

/* A program in a running container, with this process's streams; *status as for box_run. */
struct box_program {
    char **args; /* NULL-terminated */
    const char *const *env;
    const char *cwd, *user;
    bool tty, input;
};
int box_exec(const struct machine_row *row, const struct box_program *p, int *status, struct error *e);

/* The signal that the image wants or TERM; after `seconds` KILL. Returns when its keeper is gone. */
int box_stop(const struct machine_row *row, unsigned seconds, struct error *e);
int box_signal(const struct machine_row *row, int signal, struct error *e);
int box_pause(const struct machine_row *row, bool pause, struct error *e);
/* Files and row of one that has ended; `force`: end it first. */
int box_remove(struct registry *r, const struct machine_row *row, bool force, struct error *e);
/* Change limits while it runs; 0: stays. The row says so, too. */
int box_update(struct registry *r, const struct machine_row *row, u64 memory, u64 cpus, struct error *e);
/* What it uses, as the runtime specification's events have it ("data" of `events --stats`). A new reference. */
json_t *box_stats(const struct machine_row *row, struct error *e);
/* Its processes, [{"pid", "ppid", "uid", "seconds", "memory", "command"}], numbers as the host has them. A new reference. */
json_t *box_processes(const struct machine_row *row, struct error *e);
/* "starting", "created", "running", "paused", "stopped": as the kernel sees it. */
const char *box_state(const struct machine_row *row);
/* State, configuration and usage of it, {}: not there any more. A new reference. */
json_t *box_inspect(const struct machine_row *row);
/* Its root directory as it is seen inside, while it runs: an O_PATH descriptor or -errno. */
int box_root(const struct machine_row *row, struct error *e);

/* What killed keepers have left: as registry_sweep for machines. */
int box_sweep(struct registry *r, struct error *e);
/* Where the networks of this user are (network/network.h). */
int box_networks(char *out, size_t size, struct error *e);
/* Chain ids that containers use, for image_collect. Free with box_chains_free. */
int box_chains(char ***out, size_t *n, struct error *e);
void box_chains_free(char **chains, size_t n);

/* 126, 127 or 125 for why a program was not started. */
int box_status_of(const struct error *e);

#endif
