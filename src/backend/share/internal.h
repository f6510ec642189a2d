/* The server's inside: server.c (questions taken apart), node.c (files the guest knows), and the operations. */
#ifndef TRAPEZE_BACKEND_SHARE_INTERNAL_H
#define TRAPEZE_BACKEND_SHARE_INTERNAL_H

#include "backend/share/share.h"

#include <linux/fuse.h>
#include <sys/stat.h>
#include <sys/types.h>

#define SHARE_NONE    UINT32_MAX
#define NAME_BYTES    256u
#define SHARE_BUCKETS 65536u

/* What makes a file the same file; its inode number may come back when it was deleted, its time of birth not. */
struct share_key {
    u64 device, inode;
    s64 born;
    u32 born_ns, type;
};

/* A file that the guest knows. */
struct share_node {
    u64 id;      /* 0: free */
    u64 lookups; /* how often it was told of it, and has not forgotten it */
    struct share_key key;
    u64 parent; /* id of the directory where it was seen last, */
    char *name; /* and its name there */
    int fd;     /* O_PATH, -1: none */
    u32 opens;  /* handles */
    u32 next;   /* in its chain of the hash, or the next free one */
    u32 newer, older;
};

/* A file or directory that the guest has open. */
struct share_handle {
    u64 fh;
    u64 node;
    int fd; /* -1: free */
    bool dir;
    bool append; /* the host puts what is written at the end */
};

struct share_server {
    int root;
    bool read_only;
    bool pass; /* ids are the host's: the caller has root */
    u32 uid, gid;

    struct share_node *node; /* [0] is the root */
    u32 nodes_max, nodes_used, nodes_free;
    u32 *hash;
    u32 newest, oldest; /* of those with a descriptor, the root apart */
    u32 fds, fds_max;
    u64 serial; /* in the ids: none is ever given twice */

    struct share_handle *handle;
    u32 handles_max;

    u8 *question; /* private copy */
    u8 *scratch;  /* SHARE_SCRATCH bytes */
    struct share_count *count;
};
#define SHARE_SCRATCH 65536u

/* A question, taken apart. */
struct share_question {
    u32 op;
    u64 node;
    u32 uid, gid;
    const void *arg;     /* what the operation has of fixed size, in private memory */
    const char *name[2]; /* names in a directory, checked */
    const u8 *rest;      /* what follows */
    u32 rest_len;
    const u8 *data; /* of a write: not private, never looked at */
};

struct share_reply {
    u8 *out; /* may be anybody's: written, never read */
    u32 room, len;
};

/* 0, a negative errno that the guest gets, or SHARE_SILENT. */
typedef int share_op(struct share_server *s, const struct share_question *q, struct share_reply *r);
#define SHARE_SILENT 1

/* Add to the answer; the table has seen to it that there is room. */
void share_put(struct share_reply *r, const void *data, size_t len);

/* --- node.c --- */

void share_nodes_init(struct share_server *s);
/* Forget all but the root. */
void share_nodes_clear(struct share_server *s);
/* The file of that id, or NULL: never given, forgotten, or of another server. */
struct share_node *share_node_find(struct share_server *s, u64 id);
/* An O_PATH descriptor of it, valid until a few others were asked for; or -errno: -ESTALE when it is not to be found any more. */
int share_node_fd(struct share_server *s, u64 id);
/*
 * What is at `name` of directory `parent`, known to the guest once more: the file and `x`. 0 or -errno. `fd` is an O_PATH
 * descriptor of it that the call takes, or -1.
 */
int share_node_lookup(struct share_server *s, u64 parent, const char *name, int fd, struct share_node **out,
                      struct statx *x);
void share_node_forget(struct share_server *s, u64 id, u64 lookups);
/* A file may have got to `name` of `parent` by a rename. */
void share_node_moved(struct share_server *s, u64 parent, const char *name);
int share_stat(int fd, struct statx *x);
/* The name under which /proc knows a descriptor. */
struct share_path {
    char text[32];
};
struct share_path share_path_of(int fd);

/* --- handles (file.c) --- */

void share_handles_clear(struct share_server *s);
/* The open file, or NULL. */
struct share_handle *share_handle_find(struct share_server *s, u64 fh);

/* --- who one is (server.c) --- */

/* Create as the one who asks, until share_as_self. 0 or -errno. */
int share_as_asker(struct share_server *s, const struct share_question *q);
void share_as_self(struct share_server *s);
/* The mode that a new or changed file of type S_IFMT gets on the host. */
u32 share_mode(const struct share_server *s, u32 mode, u32 type);
/* The answers that hold attributes. */
void share_put_entry(struct share_server *s, struct share_reply *r, const struct share_node *n, const struct statx *x);
void share_entry(const struct share_server *s, struct fuse_entry_out *e, const struct share_node *n,
                 const struct statx *x);
void share_put_attr(struct share_server *s, struct share_reply *r, const struct statx *x);

/* Content or owner change: a program does not stay one that runs as its owner. 0 or -errno. (attr.c) */
int share_kill_suid(int fd);

/* --- operations --- */
share_op share_op_lookup, share_op_forget, share_op_batch_forget, share_op_readlink, share_op_symlink, share_op_mknod,
    share_op_mkdir, share_op_unlink, share_op_rmdir, share_op_rename, share_op_rename2, share_op_link; /* name.c */
share_op share_op_getattr, share_op_setattr, share_op_statfs, share_op_setxattr, share_op_getxattr, share_op_listxattr,
    share_op_removexattr; /* attr.c */
share_op share_op_open, share_op_create, share_op_read, share_op_write, share_op_release, share_op_flush,
    share_op_fsync, share_op_fallocate, share_op_lseek, share_op_copy, share_op_opendir, share_op_readdir,
    share_op_readdirplus, share_op_syncfs; /* file.c, dir.c */

#endif
