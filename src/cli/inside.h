/*
 * Verbs that act inside of what a name stands for: a machine's guest, by its agent, or a container. What a name stands for is looked up in one place,
 * and each kind has its row of functions (inside.c).
 */
#ifndef TRAPEZE_CLI_INSIDE_H
#define TRAPEZE_CLI_INSIDE_H

#include "cli/cli.h"
#include "vm/registry.h"

/* A program to run inside; strings are the caller's. */
struct inside_program {
    const char *const *argv; /* argc of them */
    int argc;
    const char **env; /* "NAME=value", n_env of them */
    int n_env;
    const char *cwd, *user; /* NULL: the default */
    bool tty, input;
};

struct inside_ops;

/* What a name stands for. */
struct inside {
    const struct inside_ops *ops;
    struct machine_row row;
};

/* Statuses of exec that are not the program's own. */
#define INSIDE_FAILED         125
#define INSIDE_NOT_EXECUTABLE 126
#define INSIDE_NOT_FOUND      127

struct inside_ops {
    /* Run a program with this process's streams; its exit status, or one of the above with `e`. */
    int (*exec)(struct inside *t, const struct inside_program *p, struct error *e);
    /* Copy files in and out; `to` or `from` "-": a tar stream. 0 or -errno. */
    int (*copy_in)(struct inside *t, const char *from, const char *to, struct error *e);
    int (*copy_out)(struct inside *t, const char *from, const char *to, struct error *e);
};

/* 0 or -errno; free it with inside_free. */
int inside_find(const char *name, struct inside *t, struct error *e);
void inside_free(struct inside *t);

/* By an agent (docs/agent.md) at the other end of `fd`, which stays the caller's: exec_machine.c, copy_machine.c. */
int inside_agent_exec(int fd, const char *name, const struct inside_program *p, struct error *e);
int inside_agent_copy_in(int fd, const char *from, const char *to, struct error *e);
int inside_agent_copy_out(int fd, const char *from, const char *to, struct error *e);

/* Of machines: the same, by the agent of the guest. */
int inside_machine_exec(struct inside *t, const struct inside_program *p, struct error *e);
int inside_machine_copy_in(struct inside *t, const char *from, const char *to, struct error *e);
int inside_machine_copy_out(struct inside *t, const char *from, const char *to, struct error *e);
extern const struct inside_ops inside_machine_ops;

/* Of containers (inside_container.c). */
extern const struct inside_ops inside_container_ops;

#endif
