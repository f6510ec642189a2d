/*
 * Where containers are remembered.
 *
 *     ROOT/ID/                 mode 0700; who changes something holds a flock(2) on it
 *         state.json           written whole, then renamed: there is never half of one
 *         config.json          the configuration as it was at creation
 *         start                a socket; there while the container is created and not started
 *
 * A directory without state.json that nobody has locked was left by a creation that was killed: the next one with this name
 * takes it over, `delete` removes it, `list` passes over it.
 */
#ifndef TRAPEZE_CONTAINER_STORE_H
#define TRAPEZE_CONTAINER_STORE_H

#include "container/cgroup.h"
#include "container/container.h"

#define STORE_STATE  "state.json"
#define STORE_CONFIG "config.json"
#define STORE_START  "start"

struct store {
    int dir; /* locked if it was opened so; -1: none */
    char path[4096];
};

struct record {
    char id[256];
    pid_t pid;
    u64 start_time; /* with pid: names the process for good */
    char bundle[4096];
    char rootfs[4096];
    char created[40]; /* RFC 3339 */
    u32 owner;
    bool systemd_cgroup;
    struct cgroup cgroup; /* mount and path of each hierarchy */
};

enum container_status { STATUS_CREATING, STATUS_CREATED, STATUS_RUNNING, STATUS_PAUSED, STATUS_STOPPED };

int store_check_id(const char *id, struct error *e);
/* The directory of all states into out. */
int store_root(const struct container_host *h, char *out, size_t size, struct error *e);
/* A new directory, locked. -EEXIST: the name is taken. */
int store_create(struct store *s, const struct container_host *h, const char *id, struct error *e);
/* -ENOENT: "container ID does not exist". */
int store_open(struct store *s, const struct container_host *h, const char *id, bool lock, struct error *e);
/* Let others at it while we wait, and take it back: -ENOENT when it was removed in between. */
void store_unlock(struct store *s);
int store_lock(struct store *s, struct error *e);
/* The lock is of the open file: a child that inherits it holds it too, until it closes it. */
void store_close(struct store *s);
int store_remove(struct store *s, struct error *e);

int store_write(const struct store *s, const char *name, const char *text, size_t size, struct error *e);
int store_save(const struct store *s, const struct record *r, struct error *e);
/* -ENOENT: there is none yet. Opens no cgroup. */
int store_load(const struct store *s, struct record *r, struct error *e);

/* A Unix address of `name` in it, of any depth. */
int store_bind(const struct store *s, const char *name, int type, struct error *e);
int store_connect(const struct store *s, const char *name, int type, struct error *e);

enum container_status store_status(const struct store *s, const struct record *r);
const char *store_status_name(enum container_status status);
bool store_alive(const struct record *r);

#endif
