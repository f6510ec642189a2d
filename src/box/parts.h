/* Inside the room: what its files share. */
#ifndef TRAPEZE_BOX_PARTS_H
#define TRAPEZE_BOX_PARTS_H

#include "box/box.h"
#include "image/image.h"
#include "network/network.h"

#define BOX_CPU_PERIOD 100000 /* microseconds of cpu.period */
/* Before the id: cgroupsPath. Who is not root has only what is delegated: beside his own cgroup, or below it in version 1. */
#define BOX_CGROUP      "/trapeze/"
#define BOX_CGROUP_USER "trapeze-"

/* Where a container's things lie. */
struct box {
    char id[MACHINE_ID_LEN + 1];
    char data[PATH_MAX]; /* DATA/trapeze/containers/ID */
    char states[PATH_MAX], filters[PATH_MAX];
    int dir;       /* of data, or -1 */
    bool rootless; /* of somebody who is not root, or is it only in a user namespace */
    struct container_host host;
};

/* cgroupsPath of a container. */
#define BOX_CGROUP_TEXT 64
void box_cgroup(const struct box *b, char out[BOX_CGROUP_TEXT]);

/* Fill from an id; `make`: and make the directory. `dir` stays -1 when it is not there. */
int box_open(struct box *b, const char *id, bool make, struct error *e);
void box_close(struct box *b);

/* --- root.c --- */

/* Layers unpacked, image.json written: rule 1. *overlay: they can be mounted. */
int box_root_prepare(const struct box *b, const struct image_store *s, const struct image *i, u32 *layers,
                     bool *overlay, struct error *e);
/*
 * Mount it at "root" (or copy it there, where overlayfs can not be), in a mount namespace of this process's own. `i` NULL: for another
 * life; what was copied is there. `brief`: nobody wants it after a crash of the host.
 */
int box_root_mount(struct box *b, const struct image *i, const char *store, const u32 *layers, size_t n, bool overlay,
                   bool brief, struct error *e);
/*
 * Mount layers so that they can only be read, at `name` of b's directory, in the mount namespace that this process has of its own.
 * `upper`: of a container, above them, or NULL.
 */
int box_root_view(const struct box *b, const char *name, const char *store, const u32 *layers, size_t n,
                  const char *upper, struct error *e);
/* Whether what is mounted at "root" is an overlayfs: then "upper" holds what was changed. */
int box_root_is_overlay(const struct box *b, struct error *e);
/* Undo it: in the same process. */
void box_root_unmount(const struct box *b);
int box_root_remove(const struct box *b, struct error *e);

/* --- space.c: containers of who is not root --- */

/* What rootless containers share with others only in part: why there is one number only, how the root is made. */
struct box_space {
    char single[200]; /* why there is one user number only, or "" */
};
/* Enter a user namespace for a new container; root stays where he is. */
int box_space_enter(struct box_space *s, struct error *e);
/* Enter that of a container that runs, to look into it or to make processes in it. */
int box_space_join(const struct box *b, struct error *e);
/* Run `call` where all files of this user's containers can be removed: for who is not root a child in a user namespace. */
int box_space_do(int (*call)(void *arg, struct error *e), void *arg, struct error *e);
/* Write down how a container was made, for `inspect`; "made.json". */
int box_space_note(const struct box *b, const struct box_space *s, const struct network_link *l, struct error *e);
/* .. and what was written, or NULL. */
json_t *box_space_json(const struct box *b);

/* --- user.c --- */

#define BOX_GROUPS 64

struct box_user {
    u32 uid, gid;
    u32 groups[BOX_GROUPS];
    size_t n_groups;
    char home[256];
};
/* "USER[:GROUP]", names or numbers, by the passwd and group of the root; "" is root. */
int box_user_find(int root, const char *text, struct box_user *u, struct error *e);

/* --- config.c --- */

/* The bundle's configuration. A new reference or NULL with `e`. */
json_t *box_config_make(const struct box *b, const struct box_options *o, const struct image *i,
                        const struct box_user *u, struct error *e);
/* Let it be born into a namespace that is there: a descriptor of this process; -1: into a new one. */
void box_config_join(json_t *config, const char *type, int namespace);
/* Options that can be wrong by themselves. */
int box_config_check(const struct box_options *o, struct error *e);
const char *box_config_hostname(const struct box *b, const struct box_options *o);
/* Where the program begins: -w, the image's, or "/". */
const char *box_config_cwd(const struct box_options *o, const struct image *i);
const char *box_config_user(const struct box_options *o, const struct image *i);

/* --- again.c --- */

#define BOX_AGAIN_LIST 64

/* What is read for another life. */
struct box_again {
    json_t *json; /* owns the strings of `o` */
    struct box_options o;
    const char *room[3][BOX_AGAIN_LIST];
    u32 layers[IMAGE_LAYERS_MAX];
    size_t n_layers;
    bool overlay;
};
/* Keep what of the options the bundle does not say. */
int box_again_save(const struct box *b, const struct box_options *o, struct error *e);
int box_again_load(struct box_again *a, const struct box *b, struct error *e);
void box_again_free(struct box_again *a);
/* Write the bundle anew: limits by the row's configuration, the network namespace, or -1. *uid: of its program. */
int box_again_config(const struct box *b, const char *row, int network, u32 *uid, struct error *e);

/* --- net.c --- */

int box_net_check(const struct box_options *o, struct error *e);
bool box_net_is_host(const struct box_options *o);
/* Become a member of its network; `l` stays zero (but for a note) when it has none, or this host's. */
int box_net_join(struct network_link *l, struct network_user *u, const struct box *b, const char *name,
                 const struct box_options *o, struct error *e);
/* What `inspect` says of user mode, or NULL. A new reference. */
json_t *box_net_user_json(const struct network_link *l);
/* What a keeper that is gone has left. */
void box_net_forget(const char *id);
/* Its address, or NULL. */
json_t *box_net_json(const char *id);
/* hosts, hostname and resolv.conf, which are bound over those of the image. */
int box_net_files(const struct box *b, const struct box_options *o, const struct network_link *l, struct error *e);

/* --- wire.c: packets between a keeper and who attaches (SOCK_SEQPACKET) --- */

#define WIRE_MAX 32768

enum wire_kind {
    WIRE_ATTACH = 'A', /* u8: WIRE_OUTPUT, WIRE_INPUT: the first of a connection */
    WIRE_INPUT_DATA = 'i',
    WIRE_INPUT_END = 'e',
    WIRE_WINDOW = 'w',  /* u16 rows, u16 columns */
    WIRE_SIGNAL = 's',  /* u8 */
    WIRE_CLOSED = 'c',  /* u8: WIRE_STDOUT or WIRE_STDERR has no reader any more */
    WIRE_STARTED = 'S', /* struct box_started */
    WIRE_FAILED = 'E',  /* struct wire_failure */
    WIRE_STDOUT = '1',
    WIRE_STDERR = '2',
    WIRE_EXITED = 'x', /* u32 */
};
#define WIRE_OUTPUT 1
#define WIRE_INPUT  2

struct wire_failure {
    u32 status;
    struct error e;
};

struct packet {
    u8 kind;
    u8 data[WIRE_MAX];
};

/* Blocking. Bytes of payload, -EPIPE at the end, -errno. */
ssize_t box_wire_receive(int fd, struct packet *p);
/* 0 or -errno. */
int box_wire_send(int fd, u8 kind, const void *data, size_t size);
/* A socket of either end, whatever the length of its path. */
int box_wire_listen(const char *path, struct error *e);
int box_wire_connect(const char *path, struct error *e);

/* --- keeper.c --- */

/* The keeper's whole life; `fd`: to who started it. */
_Noreturn void box_keeper(const struct box_options *o, int fd);

/* --- client.c --- */

struct session {
    bool input, tty;
    u8 escape;
    int output;  /* where all it prints goes; 0: standard output and standard error */
    int *signal; /* not NULL: INT, TERM and the like end it at once, and are told here */
};
int box_session(int fd, const struct session *s, int *status, bool *left, struct error *e);

/* A container for one step of a build: o->made, o->remove. */
struct box_step {
    int fd; /* to its keeper */
    pid_t keeper;
    struct box_started started;
};
/* Run it to its end. Its files stay until box_step_end, or until this process ends. *signal: it was ended by this one. */
int box_step_run(struct box_step *step, const struct box_options *o, int output, int *status, int *signal,
                 struct error *e);
void box_step_end(struct box_step *step);

/* --- log.c --- */

struct box_log {
    int fd;
    u64 size;
    char path[PATH_MAX];
};
#define LOG_MAX (16u << 20) /* then it becomes PATH.1 */

int box_log_open(struct box_log *l, const char *path, struct error *e);
void box_log_write(struct box_log *l, u8 stream, const void *data, size_t size);

#endif
