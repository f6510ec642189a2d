/*
 * What a host says to the agent in a guest, and how trees of files travel between them: both ends' part of docs/agent.md, which
 * is the specification. The agent (guest/) and the verbs that use it (cli/) are made from it.
 *
 * A connection carries frames, and one request:
 *
 *   offset size
 *        0    1  kind    enum agent_kind
 *        1    3  0
 *        4    4  length  little-endian, at most AGENT_FRAME_MAX
 *        8    n  payload
 *
 * Neither end believes the other: lengths are checked before anything is read, strings end inside their frame, and names of
 * files are taken apart and opened component by component (tree_in.c).
 */
#ifndef TRAPEZE_AGENT_AGENT_H
#define TRAPEZE_AGENT_AGENT_H

#include "base/error.h"
#include "base/types.h"

#define AGENT_VERSION      1u
#define AGENT_FRAME_HEAD   8u
#define AGENT_FRAME_MAX    65536u
#define AGENT_INPUT_WINDOW 65536u /* bytes of input that may be on their way to a program */
#define AGENT_ARGS_MAX     1024u  /* arguments of a program, and variables of its environment */
#define AGENT_PATH_MAX     4096u

enum agent_kind {
    /* requests: the first frame of a connection */
    AGENT_PING = 'P',
    AGENT_EXEC = 'X',
    AGENT_GET = 'G',
    AGENT_PUT = 'U',
    AGENT_TIME = 'T',
    AGENT_FRESH = 'F', /* AGENT_SEED random bytes, then a host name or none: a machine of its own from now on */
    AGENT_DOWN = 'D',
    /* to a program */
    AGENT_INPUT = 'i', /* bytes; none: the end */
    AGENT_WINDOW = 'w',
    AGENT_SIGNAL = 's',
    /* from the agent */
    AGENT_HELLO = 'v',
    AGENT_STARTED = 'S',
    AGENT_OUTPUT = 'o',
    AGENT_ERRORS = 'e',
    AGENT_TAKEN = 'a', /* u32: bytes of input that the program has taken */
    AGENT_EXITED = 'x',
    /* files, either way */
    AGENT_FILE = 'f',
    AGENT_DATA = 'd',
    AGENT_FILE_END = 'z',
    AGENT_WARNING = 'W',
    /* the end of either */
    AGENT_DONE = 'Z',
    AGENT_FAILED = 'E', /* u32 errno, text */
};

#define AGENT_EXEC_TTY      1u
#define AGENT_EXEC_INPUT    2u /* there will be input; without it the program reads /dev/null */

#define AGENT_SEED          64u

#define AGENT_DOWN_POWEROFF 0u
#define AGENT_DOWN_REBOOT   1u

/* Of AGENT_PUT, and of whoever receives a tree. */
#define AGENT_TREE_CONTENTS 1u /* what is in the directory, not the directory itself */

struct agent_frame {
    u8 kind;
    u32 len;
    u8 data[AGENT_FRAME_MAX + 1]; /* a zero follows the payload */
};

/* --- frame.c: blocking, for connections that go one way at a time --- */

/* 0 or -errno. */
int agent_send(int fd, u8 kind, const void *data, size_t len);
/* An AGENT_FAILED that says why: the errno of `e`, its text. */
int agent_send_error(int fd, const struct error *e);
/* 1 with a frame, 0 at the end of the stream, -errno (-EPROTO: no frame). */
int agent_receive(int fd, struct agent_frame *f);
/* What an AGENT_FAILED says, cleaned for a terminal, into `e`; returns its -errno. */
int agent_failure(const struct agent_frame *f, struct error *e);
/* Replace what could tell a terminal something by '?'. */
void agent_clean_text(char *s);

/* --- frame.c: not blocking, for connections that go both ways at once --- */

struct agent_channel {
    int fd;
    bool eof;
    u8 in[AGENT_FRAME_HEAD + AGENT_FRAME_MAX];
    size_t in_len;
    u8 *out;
    size_t out_len, out_at, out_cap;
};

/* Read what is there. 0 (look at eof), or -errno. */
int agent_channel_fill(struct agent_channel *c);
/* The next whole frame: 1, 0 when there is none yet, -EPROTO. */
int agent_channel_next(struct agent_channel *c, struct agent_frame *f);
/* Append a frame. 0 or -ENOMEM. */
int agent_channel_put(struct agent_channel *c, u8 kind, const void *data, size_t len);
/* Send what the socket takes. 0 or -errno. */
int agent_channel_flush(struct agent_channel *c);
/* Bytes that wait to be sent. */
size_t agent_channel_backlog(const struct agent_channel *c);
void agent_channel_free(struct agent_channel *c);

/* --- words.c: the payload of AGENT_EXEC --- */

struct agent_exec {
    u32 flags;
    u16 rows, columns;
    u32 argc, envc;
    const char *cwd, *user;               /* "": the default */
    const char *argv[AGENT_ARGS_MAX + 1]; /* ended by NULL */
    const char *env[AGENT_ARGS_MAX + 1];  /* "NAME=value" */
};

/* Into `out`, AGENT_FRAME_MAX bytes: the length, or -E2BIG. */
s64 agent_exec_pack(const struct agent_exec *x, u8 *out);
/* Strings point into the frame. 0 or -EPROTO. */
int agent_exec_unpack(struct agent_exec *x, const struct agent_frame *f);

/* One file of a tree. The root's name is "". */
enum agent_file_type {
    AGENT_TYPE_FILE = '-',
    AGENT_TYPE_DIR = 'd',
    AGENT_TYPE_DIR_END = 'D', /* all that is in it has come: now its mode and time */
    AGENT_TYPE_LINK = 'l',
};

struct agent_file {
    u8 type;
    u32 mode; /* permission bits */
    s64 mtime;
    u32 mtime_ns;
    u64 size; /* what was expected; what comes counts */
    const char *name, *target;
};

/* Into `out`, AGENT_FRAME_MAX bytes: the length, or -ENAMETOOLONG. */
s64 agent_file_pack(const struct agent_file *f, u8 *out);
/* Strings point into the frame. 0 or -EPROTO. */
int agent_file_unpack(struct agent_file *x, const struct agent_frame *f);

/* --- tree_out.c --- */

/*
 * Send the file or directory `path` with all that is in it, and AGENT_DONE. What can not be sent (devices, sockets, files that
 * vanish) is told by AGENT_WARNING. When the other end fails meanwhile, its words are the error. 0 or -errno.
 */
int agent_tree_send(int fd, const char *path, struct error *e);

/* --- tree_in.c --- */

struct agent_tree {
    const char *dest, *name; /* where to, and what the root is called there when `dest` is a directory */
    u32 flags;
    u32 mask; /* bits of modes that are kept */
    bool started, done, root_made, root_is_file;
    int parent; /* directory of the root */
    char root[256];
    int top;  /* the root, when it is a directory; else -1 */
    int file; /* being written, or -1 */
    struct agent_file meta;
};

/* Begin to receive a tree to `dest` (as cp(1) understands it). Strings stay the caller's. */
void agent_tree_begin(struct agent_tree *t, const char *dest, const char *name, u32 flags, u32 mask);
/* Take a frame: 1 when it was the last, 0, or -errno with `e`. */
int agent_tree_take(struct agent_tree *t, const struct agent_frame *f, struct error *e);
void agent_tree_end(struct agent_tree *t);

/* The last component of a path, for the name above: into `out`; flags |= AGENT_TREE_CONTENTS when it names none. */
void agent_tree_name(const char *path, char *out, size_t size, u32 *flags);

#endif
