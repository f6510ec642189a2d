/* The back end's process: its start, from both sides, and its loop. */
#include "backend/share/share.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define BATCH (4 * SHARE_SLOTS)

/* What a back end is told, once. */
struct job {
    u32 read_only;
};

/* --- the keeper's side --- */

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

int share_open(const char *dir, struct error *e)
{
    int fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0 && faccessat(fd, ".", R_OK | X_OK, AT_EACCESS) == 0)
        return fd;
    int why = errno;
    close_fd(&fd);
    if (why == ENOENT)
        return error_set(e, ENOENT, "--share %.200s: no such directory; make it first", dir);
    if (why == ENOTDIR)
        return error_set(e, ENOTDIR, "--share %.200s: is no directory", dir);
    return error_set(e, why, "--share %.200s: %s", dir, strerror(why));
}

void share_backend_stop(struct share_backend *b)
{
    int code, sig;
    close_fd(&b->control);
    close_fd(&b->line_fd);
    close_fd(&b->wake_fd);
    close_fd(&b->wake_cell_fd);
    if (b->child.pid > 0) {
        host_child_kill(&b->child);
        host_child_reap(&b->child, true, &code, &sig);
    }
    host_unmap(b->memory, share_size());
    host_unmap(b->count, PAGE_SIZE);
    b->memory = NULL;
    b->count = NULL;
}

/* The process: it has the job, and has answered. */
static int spawn(struct share_backend *b, int dir, bool read_only, int count, struct error *e)
{
    char *const argv[] = {(char[]){"trapeze"}, (char[]){SHARE_ARG}, NULL};
    const struct job job = {.read_only = read_only};
    struct error answer = {0};
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return error_set(e, errno, "socketpair: %s", strerror(errno));
    b->control = pair[0];
    const int fds[] = {pair[1], dir, b->line_fd, b->wake_fd, b->wake_cell_fd, count};
    int r = host_spawn_self(&b->child, argv, fds, ARRAY_LEN(fds), e);
    close(pair[1]);
    if (r < 0)
        return r;
    if (send(b->control, &job, sizeof(job), MSG_NOSIGNAL) != sizeof(job) ||
        recv(b->control, &answer, sizeof(answer), 0) != sizeof(answer))
        return error_set(e, EIO, "--share: its process ended before it could say why (see the kernel's log)");
    answer.msg[sizeof(answer.msg) - 1] = 0;
    return answer.code ? error_set(e, answer.code, "%s", answer.msg) : 0;
}

int share_backend_start(struct share_backend *b, int dir, bool read_only, int wake_cell, struct error *e)
{
    *b = (struct share_backend){.child = {.pid = -1, .pidfd = -1}, .control = -1, .line_fd = -1, .wake_fd = -1};
    int r, count = host_memfd("trapeze-share-count", PAGE_SIZE, e);
    b->wake_cell_fd = dup(wake_cell);
    b->line_fd = host_memfd("trapeze-share", share_size(), e);
    b->wake_fd = host_event_create(e);
    if (count < 0 || b->wake_cell_fd < 0 || b->line_fd < 0 || b->wake_fd < 0)
        r = error_set(e, EMFILE, "--share: no descriptors left");
    else if (!(b->memory = host_map_shared(b->line_fd, share_size(), e)) ||
             !(b->count = host_map_shared(count, PAGE_SIZE, e)))
        r = -ENOMEM;
    else
        r = spawn(b, dir, read_only, count, e);
    close_fd(&count);
    if (r < 0)
        share_backend_stop(b);
    return r;
}

/* --- the process --- */

struct life {
    struct share_line line;
    struct share_server *server;
};

/* Answer what is there, a bounded amount; whether more may be. False in `alive`: the cell has lied, nothing more is taken. */
static bool serve(struct life *l, bool *alive)
{
    struct share_ask a;
    unsigned n = 0;
    int r = 0;
    while (n < BATCH && *alive && (r = share_receive(&l->line, &a)) > 0) {
        if (a.slot >= SHARE_SLOTS || a.len > SHARE_ASK_MAX || a.room > SHARE_ANSWER_MAX) {
            r = -EPROTO;
            break;
        }
        struct share_answer done = {.slot = a.slot};
        done.len = share_server_ask(l->server, share_question_place(&l->line, a.slot), a.len,
                                    share_answer_place(&l->line, a.slot), a.room);
        share_send(&l->line, &done); /* without room the cell has asked more than it has slots: its loss */
        if (share_news(&l->line))
            host_event_signal(SHARE_FD_WAKE_CELL);
        n++;
    }
    if (r < 0) {
        *alive = false;
        share_set_up(&l->line, false);
        host_event_signal(SHARE_FD_WAKE_CELL);
    }
    return n == BATCH;
}

static void loop(struct life *l)
{
    bool alive = true;
    for (;;) {
        bool more = serve(l, &alive);
        struct pollfd fds[] = {{.fd = SHARE_FD_WAKE, .events = POLLIN}, {.fd = SHARE_FD_CONTROL, .events = POLLIN}};
        ring_door_close(l->line.own);
        bool idle = !more && (!alive || !share_pending(&l->line));
        poll(fds, ARRAY_LEN(fds), idle ? -1 : 0);
        ring_door_open(l->line.own);
        if (fds[0].revents)
            host_event_clear(SHARE_FD_WAKE);
        if (fds[1].revents)
            return;
    }
}

static int begin(struct life *l, const struct job *job, struct error *e)
{
    const struct share_options o = {.root = SHARE_FD_DIR, .read_only = job->read_only};
    void *memory = host_map_shared(SHARE_FD_LINE, share_size(), e);
    struct share_count *count = memory ? host_map_shared(SHARE_FD_COUNT, PAGE_SIZE, e) : NULL;
    if (!count)
        return -ENOMEM;
    close(SHARE_FD_LINE);
    close(SHARE_FD_COUNT);
    share_attach(&l->line, memory, false);
    umask(0); /* the guest's is applied by the guest */
    signal(SIGXFSZ, SIG_IGN);
    int r = host_confine_files(e);
    if (r < 0 || (r = share_server_create(&l->server, &o, count, e)) < 0 ||
        (r = host_stay_beneath(SHARE_FD_DIR, job->read_only, e)) < 0 || (r = host_seal_share(job->read_only, e)) < 0)
        return r;
    share_set_up(&l->line, true);
    return 0;
}

int share_main(int argc, char **argv)
{
    struct life l = {0};
    struct job job;
    struct error e = {0};
    host_process_name("trapeze-share");
    if (read(SHARE_FD_CONTROL, &job, sizeof(job)) != sizeof(job))
        return 1; /* started by hand */
    int r = begin(&l, &job, &e);
    if (write(SHARE_FD_CONTROL, &e, sizeof(e)) != sizeof(e) || r < 0)
        return 1;
    loop(&l);
    return 0;
}
