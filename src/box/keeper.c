/*
 * The keeper of a container: makes it, holds its streams, records its end.
 *
 * Streams: without a terminal three pipes, with one its master. What the container prints goes to the log and, in packets
 * (parts.h), to every connection that asked for it; input comes from those. Nothing here blocks: a connection that does not take
 * what it was sent keeps one packet, and until it has taken that no more is read of the container, which then waits as it would
 * for a full pipe. After the container's end such a connection has TAKE_MS to go on taking.
 *
 * The end: the first process is gone (its PID namespace with it, so nobody else prints any more), the pipes are read empty, the
 * state, cgroups and, if it was to go, the files are removed, the row says how it ended; only then those who wait are told.
 *
 * Killed itself, the keeper leaves the container running, its pipes broken, and its row: box_sweep ends that.
 */
#include "base/bytes.h"
#include "box/parts.h"
#include "container/inroot.h"
#include "container/sys.h"
#include "image/layer.h"
#include "image/tree.h"
#include "vm/launch.h"
#include "vm/paths.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CLIENTS 16
#define TAKE_MS 10000

struct client {
    int fd;                   /* -1: free */
    bool output, input, once; /* once: its end is the end of the input */
    size_t pending_size;
    struct packet pending;
};

struct keeper {
    const struct box_options *o;
    struct box box;
    struct registry *registry;
    struct machine_row row;
    bool has_row;
    int starter, listen, signals;
    int output[2]; /* stdout and stderr of the container, or its terminal and -1 */
    int input;     /* of it, or -1 */
    struct box_log log;
    struct client clients[CLIENTS];
    struct packet in; /* input that it has not taken yet */
    size_t in_size, in_at;
    bool in_ends;
    u32 uid; /* that its program begins with */
    struct network_link net;
    struct network_user user;
    struct box_space space;
    struct box_again again;
    pid_t pid;
    bool ended;
    int status;
    struct packet buffer;
};

/* --- what it is made of --- */

/* Ends of the container on 0, 1, 2; ours in the keeper. */
static int make_pipes(struct keeper *k, int theirs[3], struct error *e)
{
    int pair[2];
    for (int i = 0; i < 3; i++) {
        bool wanted = i > 0 || k->o->interactive;
        if (!wanted) {
            theirs[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
            continue;
        }
        if (pipe2(pair, O_CLOEXEC) < 0)
            return sys_error(e, "pipe");
        theirs[i] = pair[i > 0];
        if (fchown(pair[0], k->uid, (gid_t)-1) < 0) /* /dev/stdout is opened anew by programs of other users, too */
            return sys_error(e, "pipe");
        int mine = pair[i == 0];
        fcntl(mine, F_SETFL, O_NONBLOCK);
        if (i == 0)
            k->input = mine;
        else
            k->output[i - 1] = mine;
    }
    return 0;
}

static int receive_master(int socket, struct error *e)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    char name[64];
    int master;
    struct iovec part = {name, sizeof(name)};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    ssize_t n = recvmsg(socket, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    const struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;
    if (!c || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(int)))
        return error_set(e, EPROTO, "terminal: it did not come");
    memcpy(&master, CMSG_DATA(c), sizeof(int));
    fcntl(master, F_SETFL, O_NONBLOCK);
    return master;
}

static void use_null(void)
{
    CLEANUP_FD int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int i = 0; i < 3 && null >= 0; i++)
        dup2(null, i);
}

static int connect_network(void *arg, pid_t pid, struct error *e)
{
    return network_connect(arg, pid, e);
}

static void leave_network(struct keeper *k)
{
    network_user_leave(&k->user);
    if (!k->net.user)
        network_leave(&k->net);
}

/* Start it with our 0, 1, 2 being its own for that moment. */
static int launch(struct keeper *k, struct error *e)
{
    int theirs[3] = {-1, -1, -1}, console[2] = {-1, -1}, status, r = 0;
    struct container_launch how = {
        .id = k->box.id, .bundle = k->box.data, .detach = true, .keep = true, .pid = &k->pid};
    if (k->o->tty && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, console) < 0)
        return sys_error(e, "socketpair");
    if (!k->o->tty)
        r = make_pipes(k, theirs, e);
    for (int i = 0; r == 0 && i < 3 && !k->o->tty; i++)
        if (dup2(theirs[i], i) < 0)
            r = sys_error(e, "dup2");
    if (k->net.map) {
        how.connect = connect_network;
        how.connect_arg = &k->net;
    }
    how.console_fd = k->o->tty ? console[1] : 0;
    if (r == 0)
        r = container_run(&k->box.host, &how, &status, e);
    use_null();
    if (r == 0 && k->o->tty) {
        k->output[0] = receive_master(console[0], e);
        r = MIN(k->output[0], 0);
        if (r == 0)
            k->input = fcntl(k->output[0], F_DUPFD_CLOEXEC, 3);
        if (r < 0)
            container_delete(&k->box.host, k->box.id, true, NULL);
    }
    for (int i = 0; i < 3; i++)
        sys_close(&theirs[i]);
    sys_close(&console[0]);
    sys_close(&console[1]);
    return r;
}

/* What `ps` and `inspect` show. */
static char *describe(const struct box_options *o)
{
    json_t *command = json_array(), *ports = json_array();
    for (int i = 0; i < o->ports.n; i++)
        json_array_append_new(ports, json_string(o->ports.v[i]));
    for (int i = 0; i < o->args.n; i++)
        json_array_append_new(command, json_string(o->args.v[i]));
    json_t *j = json_pack("{s:s,s:o,s:b,s:b,s:I,s:I,s:s,s:o}", "image", o->image, "command", command, "tty", o->tty,
                          "interactive", o->interactive, "memory", (json_int_t)o->memory, "cpus", (json_int_t)o->cpus,
                          "network",
                          o->network       ? o->network
                          : geteuid() == 0 ? NETWORK_DEFAULT
                                           : NETWORK_USER,
                          "ports", ports);
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    return text;
}

/* Rule 1: the row is first. */
static int take_name(struct keeper *k, struct error *e)
{
    int r = registry_open(&k->registry, e);
    if (r == 0)
        r = box_sweep(k->registry, e);
    if (r == 0)
        r = registry_sweep(k->registry, e);
    if (r < 0)
        return r;
    CLEANUP_FREE char *config = describe(k->o);
    if (!config)
        return error_set(e, EINVAL, "options: a text is no UTF-8");
    r = registry_create_kind(k->registry, KIND_CONTAINER, k->o->name, config, k->o->remove, &k->row, e);
    k->has_row = r == 0;
    return r == 0 ? box_open(&k->box, k->row.id, true, e) : r;
}

/* The image's layers, its configuration; the store is ours to read until image.json says what we need. */
static int take_image(struct keeper *k, struct image *i, u32 *layers, bool *overlay, char store_path[PATH_MAX],
                      struct error *e)
{
    struct image_store store;
    int r = image_store_open(&store, NULL, false, e);
    if (r < 0)
        return r;
    memcpy(store_path, store.path, PATH_MAX);
    if (k->o->made) {
        *i = *k->o->made;
        json_incref(i->config.json);
    } else {
        r = image_find(&store, k->o->image, i, e);
    }
    if (r == 0) {
        r = box_root_prepare(&k->box, &store, i, layers, overlay, e);
        if (r < 0)
            image_free(i);
    }
    image_store_close(&store);
    return r;
}

static int write_config(struct keeper *k, const struct image *i, struct error *e)
{
    struct box_user user;
    CLEANUP_FD int root = openat(k->box.dir, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0)
        return sys_error(e, "%s/root", k->box.data);
    int r = box_user_find(root, box_config_user(k->o, i), &user, e);
    if (r == 0 && strcmp(box_config_cwd(k->o, i), "/")) {
        CLEANUP_FD int cwd = inroot_make(root, box_config_cwd(k->o, i), true, e);
        r = MIN(cwd, 0);
    }
    k->uid = user.uid;
    if (r == 0)
        r = box_net_files(&k->box, k->o, &k->net, e);
    if (r == 0 && k->net.user)
        r = network_user_connect(&k->user, e);
    json_t *config = r == 0 ? box_config_make(&k->box, k->o, i, &user, e) : NULL;
    if (k->user.connected)
        box_config_join(config, "network", k->user.namespace);
    CLEANUP_FREE char *text = config ? json_dumps(config, JSON_COMPACT) : NULL;
    json_decref(config);
    if (r < 0 || !text)
        return r < 0 ? r : -EINVAL;
    return tree_write(k->box.dir, "config.json", text, strlen(text), false, e);
}

/* What it is made of is there. */
static int begin(struct keeper *k, struct error *e)
{
    int r = box_log_open(&k->log, k->row.log, e);
    if (r == 0 && (k->listen = box_wire_listen(k->row.socket, e)) < 0)
        r = k->listen;
    return r == 0 ? launch(k, e) : r;
}

static int make(struct keeper *k, struct error *e)
{
    struct image i;
    u32 layers[IMAGE_LAYERS_MAX];
    char store[PATH_MAX];
    bool overlay = false;
    int r = take_name(k, e);
    if (r == 0) /* before it the sweep of others: from outside, who owns their namespaces may do all in them */
        r = box_space_enter(&k->space, e);
    if (r == 0)
        r = take_image(k, &i, layers, &overlay, store, e);
    if (r < 0)
        return r;
    /* Before there is a mount namespace of our own: the process that answers for names outlives it. */
    r = box_net_join(&k->net, &k->user, &k->box, k->row.name, k->o, e);
    if (r == 0)
        r = box_root_mount(&k->box, &i, store, layers, i.manifest.n_layers, overlay, k->o->remove, e);
    if (r == 0 && k->o->made)
        r = box_root_is_overlay(&k->box, e);
    if (r == 0)
        r = box_space_note(&k->box, &k->space, &k->net, e);
    if (r == 0)
        r = box_again_save(&k->box, k->o, e);
    if (r == 0)
        r = write_config(k, &i, e);
    image_free(&i);
    return r == 0 ? begin(k, e) : r;
}

/* Its row is ours from here on; another who wanted it comes too late. */
static int take_row(struct keeper *k, struct error *e)
{
    struct machine_row row;
    int r = registry_open(&k->registry, e);
    if (r == 0)
        r = box_sweep(k->registry, e);
    if (r == 0)
        r = registry_find(k->registry, k->o->again, &row, e);
    if (r < 0)
        return r;
    if ((r = registry_restart(k->registry, &row, e)) < 0) {
        registry_row_free(&row);
        return r;
    }
    k->row = row;
    k->has_row = true;
    r = registry_started(k->registry, row.id, getpid(), e);
    return r == 0 ? box_open(&k->box, row.id, false, e) : r;
}

/* Where the store is, for its layers: what image.json names stays there. */
static int find_store(char path[PATH_MAX], struct error *e)
{
    struct image_store store;
    int r = image_store_open(&store, NULL, false, e);
    if (r < 0)
        return r;
    memcpy(path, store.path, PATH_MAX);
    image_store_close(&store);
    return 0;
}

static int make_again(struct keeper *k, struct error *e)
{
    struct box_again *a = &k->again;
    char store[PATH_MAX];
    int r = take_row(k, e);
    if (r == 0)
        r = box_again_load(a, &k->box, e);
    if (r < 0)
        return r;
    k->o = &a->o;
    r = box_space_enter(&k->space, e);
    if (r == 0)
        r = find_store(store, e);
    if (r == 0)
        r = box_net_join(&k->net, &k->user, &k->box, k->row.name, k->o, e);
    if (r == 0)
        r = box_root_mount(&k->box, NULL, store, a->layers, a->n_layers, a->overlay, false, e);
    if (r == 0)
        r = box_space_note(&k->box, &k->space, &k->net, e);
    if (r == 0)
        r = box_net_files(&k->box, k->o, &k->net, e);
    if (r == 0 && k->net.user)
        r = network_user_connect(&k->user, e);
    if (r == 0)
        r = box_again_config(&k->box, k->row.config, k->user.connected ? k->user.namespace : -1, &k->uid, e);
    return r == 0 ? begin(k, e) : r;
}

/* The store's and the container's part of it goes, then the row. */
static void unmake(struct keeper *k)
{
    /* Still mounted here: the directory below can not go while it is busy. */
    if (k->box.dir >= 0)
        box_root_unmount(&k->box);
    if (k->has_row && box_root_remove(&k->box, NULL) == 0) {
        if (k->ended)
            registry_remove_ended(k->registry, &k->row, k->status, "ended", NULL);
        else
            registry_remove(k->registry, &k->row, NULL);
    }
    box_close(&k->box);
}

/* --- packets --- */

static void drop(struct keeper *k, struct client *c)
{
    if (c->once && c->input && !k->o->tty) /* a terminal can be come back to */
        k->in_ends = true;
    if (c->once && k->o->made && !k->ended) /* nobody wants what it makes any more */
        kill(k->pid, SIGKILL);
    sys_close(&c->fd);
    c->fd = -1;
    c->pending_size = 0;
}

static struct client *add_client(struct keeper *k, int fd)
{
    for (size_t i = 0; i < CLIENTS; i++) {
        struct client *c = &k->clients[i];
        if (c->fd >= 0)
            continue;
        c->fd = fd;
        c->output = c->input = c->once = false;
        c->pending_size = 0;
        return c;
    }
    close(fd);
    return NULL;
}

static void give(struct keeper *k, struct client *c, const struct packet *p, size_t size)
{
    ssize_t n = send(c->fd, p, size + 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) {
        memcpy(&c->pending, p, size + 1);
        c->pending_size = size + 1;
    } else if (n < 0) {
        drop(k, c);
    }
}

static void give_pending(struct keeper *k, struct client *c)
{
    ssize_t n = send(c->fd, &c->pending, c->pending_size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN)
        return;
    c->pending_size = 0;
    if (n < 0)
        drop(k, c);
}

static bool somebody_waits(const struct keeper *k)
{
    for (size_t i = 0; i < CLIENTS; i++)
        if (k->clients[i].fd >= 0 && k->clients[i].pending_size)
            return true;
    return false;
}

static void take_output(struct keeper *k, int which)
{
    ssize_t n = read(k->output[which], k->buffer.data, WIRE_MAX);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) { /* a terminal says EIO when nobody has it open */
        sys_close(&k->output[which]);
        k->output[which] = -1;
        return;
    }
    k->buffer.kind = which ? WIRE_STDERR : WIRE_STDOUT;
    box_log_write(&k->log, k->buffer.kind, k->buffer.data, (size_t)n);
    for (size_t i = 0; i < CLIENTS; i++)
        if (k->clients[i].fd >= 0 && k->clients[i].output)
            give(k, &k->clients[i], &k->buffer, (size_t)n);
}

static void give_input(struct keeper *k)
{
    while (k->in_at < k->in_size && k->input >= 0) {
        ssize_t n = write(k->input, k->in.data + k->in_at, k->in_size - k->in_at);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n < 0) /* it reads no more */
            sys_close(&k->input), k->input = -1;
        else
            k->in_at += (size_t)n;
    }
    k->in_at = k->in_size = 0;
    if (k->in_ends && k->input >= 0 && !k->o->tty) {
        sys_close(&k->input);
        k->input = -1;
    } else if (k->in_ends && k->input >= 0) { /* its reader hears of it as of Ctrl-D */
        k->in.data[0] = 4;
        k->in_size = 1;
        k->in_ends = false;
    }
}

static void take_packet(struct keeper *k, struct client *c)
{
    struct packet *p = &k->buffer;
    ssize_t n = recv(c->fd, p, sizeof(*p), MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        drop(k, c);
        return;
    }
    size_t size = (size_t)n - 1;
    if (p->kind == WIRE_ATTACH && size == 1) {
        c->output = p->data[0] & WIRE_OUTPUT;
        c->input = p->data[0] & WIRE_INPUT;
    } else if (p->kind == WIRE_INPUT_DATA && c->input && k->input >= 0) {
        memcpy(k->in.data, p->data, size);
        k->in_size = size;
        k->in_at = 0;
    } else if (p->kind == WIRE_CLOSED && size == 1 && c->once && !k->o->tty) {
        int which = p->data[0] == WIRE_STDERR;
        sys_close(&k->output[which]);
        k->output[which] = -1;
    } else if (p->kind == WIRE_INPUT_END && c->input) {
        k->in_ends = true;
    } else if (p->kind == WIRE_WINDOW && size == 4 && k->o->tty && k->output[0] >= 0) {
        const struct winsize w = {.ws_row = get_le16(p->data), .ws_col = get_le16(p->data + 2)};
        ioctl(k->output[0], TIOCSWINSZ, &w);
    } else if (p->kind == WIRE_SIGNAL && size == 1 && p->data[0] <= SIGRTMAX && !k->ended) {
        kill(k->pid, p->data[0]); /* not waited for yet: the number is still its own */
    }
}

static void take_signal(struct keeper *k)
{
    struct signalfd_siginfo info;
    int raw;
    if (read(k->signals, &info, sizeof(info)) != sizeof(info))
        return;
    if (info.ssi_signo != SIGCHLD) {
        if (!k->ended)
            kill(k->pid, (int)info.ssi_signo);
        return;
    }
    if (!k->ended && waitpid(k->pid, &raw, WNOHANG) == k->pid) {
        k->ended = true;
        k->status = WIFSIGNALED(raw) ? 128 + WTERMSIG(raw) : WEXITSTATUS(raw);
    }
}

/* --- the loop --- */

static size_t poll_set(struct keeper *k, struct pollfd *p)
{
    bool full = somebody_waits(k), room = k->in_size == 0;
    size_t n = 0;
    p[n++] = (struct pollfd){.fd = k->signals, .events = POLLIN};
    p[n++] = (struct pollfd){.fd = k->listen, .events = POLLIN};
    p[n++] = (struct pollfd){.fd = full ? -1 : k->output[0], .events = POLLIN};
    p[n++] = (struct pollfd){.fd = full ? -1 : k->output[1], .events = POLLIN};
    p[n++] = (struct pollfd){.fd = k->in_size ? k->input : -1, .events = POLLOUT};
    for (size_t i = 0; i < CLIENTS; i++) {
        const struct client *c = &k->clients[i];
        short events = (short)((room ? POLLIN : 0) | (c->pending_size ? POLLOUT : 0));
        /* One whose packets we can not take now is not looked at: that it hung up would wake us again and again. */
        p[n++] = (struct pollfd){.fd = events ? c->fd : -1, .events = events};
    }
    return n;
}

static void serve(struct keeper *k, const struct pollfd *p)
{
    if (p[0].revents)
        take_signal(k);
    if (p[1].revents) {
        int fd = accept4(k->listen, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0)
            add_client(k, fd);
    }
    for (int i = 0; i < 2; i++)
        if (p[2 + i].revents && k->output[i] >= 0)
            take_output(k, i);
    for (size_t i = 0; i < CLIENTS; i++) {
        struct client *c = &k->clients[i];
        if (c->fd < 0 || c->fd != p[5 + i].fd)
            continue;
        if (p[5 + i].revents & POLLOUT && c->pending_size)
            give_pending(k, c);
        if (c->fd >= 0 && p[5 + i].revents & (POLLIN | POLLHUP | POLLERR) && !k->in_size)
            take_packet(k, c);
    }
    if (k->in_size || k->in_ends)
        give_input(k);
}

/* Until it has ended and all is read and taken; `quiet` bounds the last part. */
static void keep(struct keeper *k)
{
    struct pollfd p[5 + CLIENTS];
    while (!k->ended || k->output[0] >= 0 || k->output[1] >= 0 || somebody_waits(k)) {
        size_t n = poll_set(k, p);
        int r = poll(p, n, k->ended ? TAKE_MS : -1);
        if (r == 0 || (r < 0 && errno != EINTR))
            return;
        if (r > 0)
            serve(k, p);
    }
}

static void write_end(struct keeper *k)
{
    CLEANUP_FD int dir = open(k->row.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    json_t *j = json_pack("{s:i,s:s,s:I}", "code", k->status, "reason", "ended", "ended", (json_int_t)time(NULL));
    CLEANUP_FREE char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    if (dir >= 0 && text)
        tree_write(dir, VM_FILE_END, text, strlen(text), false, NULL);
}

/* Tell those who wait. */
static void tell_end(struct keeper *k)
{
    u8 code[4];
    put_le32(code, (u32)k->status);
    for (size_t i = 0; i < CLIENTS; i++)
        if (k->clients[i].fd >= 0)
            box_wire_send(k->clients[i].fd, WIRE_EXITED, code, sizeof(code));
}

/* The build reads what the step has written; its end of the connection closes when it has, or when it ends. */
static void await_build(struct keeper *k)
{
    for (size_t i = 0; i < CLIENTS; i++)
        while (k->clients[i].once && k->clients[i].fd >= 0 && box_wire_receive(k->clients[i].fd, &k->buffer) >= 0)
            ;
}

static void conclude(struct keeper *k)
{
    container_delete(&k->box.host, k->box.id, true, NULL);
    leave_network(k);
    unlink(k->row.socket);
    if (k->o->made) {
        tell_end(k);
        await_build(k);
        unmake(k);
        return;
    }
    if (k->o->remove) {
        unmake(k);
    } else {
        write_end(k);
        registry_ended(k->registry, k->row.id, k->status, "ended", NULL);
    }
    tell_end(k);
}

/* Tell who started us; it stays as the first connection, unless it wanted to leave. */
static void report(struct keeper *k)
{
    struct box_started s = {.keeper = getpid()};
    memcpy(s.id, k->row.id, sizeof(s.id));
    memcpy(s.name, k->row.name, sizeof(s.name));
    snprintf(s.note, sizeof(s.note), "%s%s%s", k->space.single[0] ? "one user number only: " : "", k->space.single,
             k->net.note[0] && k->space.single[0] ? "; " : "");
    snprintf(s.note + strlen(s.note), sizeof(s.note) - strlen(s.note), "%s", k->net.note);
    box_wire_send(k->starter, WIRE_STARTED, &s, sizeof(s));
    if (k->o->detach) {
        sys_close(&k->starter);
        return;
    }
    struct client *c = add_client(k, k->starter);
    c->output = c->once = true;
    c->input = k->o->interactive;
}

static void fail(struct keeper *k, const struct error *e)
{
    struct wire_failure f = {.status = (u32)box_status_of(e), .e = *e};
    if (k->has_row)
        unlink(k->row.socket);
    leave_network(k);
    if (!k->o->again) {
        unmake(k);
    } else if (k->has_row) { /* what it wrote in its lives before stays */
        if (k->box.dir >= 0)
            container_delete(&k->box.host, k->box.id, true, NULL);
        registry_ended(k->registry, k->row.id, (int)f.status, e->msg, NULL);
    }
    box_wire_send(k->starter, WIRE_FAILED, &f, sizeof(f));
}

_Noreturn void box_keeper(const struct box_options *o, int fd)
{
    struct keeper *k = calloc(1, sizeof(*k));
    struct error e = {0};
    sigset_t all, wanted;
    if (!k)
        _exit(BOX_FAILED);
    k->o = o;
    k->starter = fd;
    k->listen = k->input = k->output[0] = k->output[1] = k->log.fd = -1;
    k->box.dir = -1;
    for (size_t i = 0; i < CLIENTS; i++)
        k->clients[i].fd = -1;
    setsid();
    use_null();
    umask(022);
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    sigemptyset(&wanted);
    const int heard[] = {SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGQUIT};
    for (size_t i = 0; i < ARRAY_LEN(heard); i++)
        sigaddset(&wanted, heard[i]);
    int r = o->again ? make_again(k, &e) : make(k, &e);
    if (r == 0 && (k->signals = signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK)) < 0) {
        r = sys_error(&e, "signalfd");
        container_delete(&k->box.host, k->box.id, true, NULL);
    }
    if (r < 0) {
        fail(k, &e);
        _exit(BOX_FAILED);
    }
    report(k);
    keep(k);
    conclude(k);
    registry_close(k->registry);
    _exit(0);
}
