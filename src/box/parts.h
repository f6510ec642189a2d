/* Inside the room: what its files share. */
#ifndef TRAPEZE_BOX_PARTS_H
#define TRAPEZE_BOX_PARTS_H

#include "box/box.h"
#include "image/image.h"

#define BOX_CGROUP "/trapeze/" /* and the id: cgroupsPath */

/* Where a container's things lie. */
struct box {
    char id[MACHINE_ID_LEN + 1];
    char data[PATH_MAX]; /* DATA/trapeze/containers/ID */
    char states[PATH_MAX], filters[PATH_MAX];
    int dir; /* of data, or -1 */
    struct container_host host;
};

/* Fill from an id; `make`: and make the directory. `dir` stays -1 when it is not there. */
int box_open(struct box *b, const char *id, bool make, struct error *e);
void box_close(struct box *b);

/* --- root.c --- */

/* Layers unpacked, image.json written: rule 1. *overlay: they can be mounted. */
int box_root_prepare(const struct box *b, const struct image_store *s, const struct image *i, u32 *layers,
                     bool *overlay, struct error *e);
/* Mount it at "root" (or copy it there, where overlayfs can not be), in a mount namespace of this process's own. `brief`: nobody wants it after a crash of the host. */
int box_root_mount(struct box *b, const struct image *i, const char *store, const u32 *layers, bool overlay, bool brief,
                   struct error *e);
/* Undo it: in the same process. */
void box_root_unmount(const struct box *b);
int box_root_remove(const struct box *b, struct error *e);

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
/* Options that can be wrong by themselves. */
int box_config_check(const struct box_options *o, struct error *e);
/* The files of it that are bound over those of the image. */
int box_config_files(const struct box *b, const struct box_options *o, struct error *e);
/* Where the program begins: -w, the image's, or "/". */
const char *box_config_cwd(const struct box_options *o, const struct image *i);
const char *box_config_user(const struct box_options *o, const struct image *i);

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
};
int box_session(int fd, const struct session *s, int *status, bool *left, struct error *e);

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
