/*
 * exec and cp in containers.
 *
 * Copying is the same as for a machine, with the same frames (docs/agent.md): a child of ours, with the container's root as its
 * own, is the other end. So every name inside is looked up by the kernel inside that root, whatever the container changes
 * meanwhile (CVE-2018-15664), and nothing of the image is executed or loaded (CVE-2019-14271).
 */
#include "agent/agent.h"
#include "base/bytes.h"
#include "box/box.h"
#include "cli/inside.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int run(struct inside *t, const struct inside_program *p, struct error *e)
{
    int status = INSIDE_FAILED;
    char **args = calloc((size_t)p->argc + 1, sizeof(*args));
    const struct box_program program = {.args = args,
                                        .env = (const char *const *)p->env,
                                        .cwd = p->cwd,
                                        .user = p->user,
                                        .tty = p->tty,
                                        .input = p->input};
    if (!args)
        return error_set(e, ENOMEM, "memory: the host has none left"), INSIDE_FAILED;
    for (int i = 0; i < p->argc; i++)
        args[i] = (char *)p->argv[i];
    if (box_protect(e) == 0)
        box_exec(&t->row, &program, &status, e);
    free(args);
    return status;
}

/* A request to put: flags, destination, name. */
static int put(int fd, struct agent_frame *f, struct error *e)
{
    struct agent_tree t;
    const char *dest = (const char *)f->data + 4, *end = (const char *)f->data + f->len;
    const char *name = f->len > 6 ? dest + strnlen(dest, f->len - 4) + 1 : end;
    int r, taken = 0;
    if (name >= end || memchr(name, 0, (size_t)(end - name)) != end - 1)
        return error_set(e, EPROTO, "a request that can not be");
    char *d = strdup(dest), *n = strdup(name);
    if (!d || !n)
        return error_set(e, ENOMEM, "memory: the host has none left");
    umask(0);
    agent_tree_begin(&t, d, n, get_le32(f->data), 07777);
    while ((r = agent_receive(fd, f)) == 1 && (taken = agent_tree_take(&t, f, e)) == 0)
        ;
    agent_tree_end(&t);
    if (taken == 1)
        return agent_send(fd, AGENT_DONE, NULL, 0);
    if (r != 1)
        return error_set(e, EPIPE, "the connection ended in the middle");
    agent_send_error(fd, e);
    e->code = 0; /* it has been told; what still comes is read, so that it is not a reset that is heard */
    while (agent_receive(fd, f) == 1 && f->kind != AGENT_DONE)
        ;
    return 0;
}

/* One request, in the container's root. */
_Noreturn static void serve(int fd, int root)
{
    struct error e = {0};
    struct agent_frame *f = malloc(sizeof(*f));
    signal(SIGPIPE, SIG_IGN);
    if (!f || fchdir(root) < 0 || chroot(".") < 0)
        error_set(&e, errno, "the container's root: %s", strerror(errno));
    else if (agent_receive(fd, f) != 1)
        _exit(1);
    else if (f->kind == AGENT_GET && f->len && memchr(f->data, 0, f->len) == f->data + f->len - 1) {
        char *path = strdup((const char *)f->data);
        agent_tree_send(fd, path ? path : "", &e);
    } else if (f->kind == AGENT_PUT) {
        put(fd, f, &e);
    }
    if (e.code)
        agent_send_error(fd, &e);
    shutdown(fd, SHUT_WR);
    _exit(0);
}

/* Our end of a connection to it; *child is to be waited for. */
static int begin(struct inside *t, pid_t *child, struct error *e)
{
    int pair[2], root = box_root(&t->row, e);
    if (root < 0)
        return root;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return error_set(e, errno, "socketpair: %s", strerror(errno));
    *child = fork();
    if (*child == 0) {
        close(pair[0]);
        serve(pair[1], root);
    }
    close(root);
    close(pair[1]);
    if (*child > 0)
        return pair[0];
    close(pair[0]);
    return error_set(e, errno, "fork: %s", strerror(errno));
}

static int finish(int fd, pid_t child, int r)
{
    close(fd);
    waitpid(child, NULL, 0);
    return r;
}

static int copy_in(struct inside *t, const char *from, const char *to, struct error *e)
{
    pid_t child;
    int fd = begin(t, &child, e);
    return fd < 0 ? fd : finish(fd, child, inside_agent_copy_in(fd, from, to, e));
}

static int copy_out(struct inside *t, const char *from, const char *to, struct error *e)
{
    pid_t child;
    int fd = begin(t, &child, e);
    return fd < 0 ? fd : finish(fd, child, inside_agent_copy_out(fd, from, to, e));
}

const struct inside_ops inside_container_ops = {.exec = run, .copy_in = copy_in, .copy_out = copy_out};
