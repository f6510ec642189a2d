/* create, start, run. */
#include "container/container.h"
#include "container/hook.h"
#include "container/launch.h"
#include "container/notify.h"
#include "container/relay.h"
#include "container/sync.h"
#include "container/sys.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* sd_listen_fds(3): what systemd gave to us goes on into the container. */
static int pass_listen_fds(struct launch *l, struct container_launch *how, struct error *e)
{
    u32 n = launch_listen_fds();
    char count[32];
    if (!n)
        return 0;
    if (how->preserve_fds > 1024)
        return error_set(e, EINVAL, "--preserve-fds: more than 1024");
    how->preserve_fds += n;
    snprintf(count, sizeof(count), "LISTEN_FDS=%u", n);
    const char *more[] = {arena_copy(&l->spec.arena, count), "LISTEN_PID=1", NULL};
    return more[0] && launch_add_env(&l->spec.process, &l->spec.arena, more) == 0
               ? 0
               : error_set(e, ENOMEM, "out of memory");
}

static int begin(struct launch *l, const struct container_host *h, struct container_launch *how, struct error *e)
{
    memset(l, 0, sizeof(*l));
    l->host = h;
    l->cwd = l->pidfd = l->sync = l->store.dir = -1;
    int r = store_check_id(how->id, e);
    if (r == 0)
        r = launch_check_fds(how->preserve_fds + launch_listen_fds(), e);
    if (r == 0)
        r = launch_read(l, how, e);
    l->record.systemd_cgroup = h->systemd_cgroup;
    return r < 0 ? r : pass_listen_fds(l, how, e);
}

int container_create(const struct container_host *h, const struct container_launch *given, struct error *e)
{
    struct container_launch how = *given;
    struct launch l;
    int r = begin(&l, h, &how, e);
    if (r == 0)
        r = notify_prepare(&l, e);
    if (r == 0)
        r = launch_create(&l, &how, false, -1, e);
    launch_free(&l);
    return r;
}

/* Run the hooks that follow the start; their failure is told, and changes nothing (runtime.md, lifecycle). */
static int after_start(struct launch *l, struct error *e)
{
    char *text = launch_state_text(&l->record, &l->spec, STATUS_RUNNING);
    int r = hook_run(&l->spec.hooks[HOOK_POSTSTART], "poststart", text, l->record.bundle, e);
    free(text);
    return r;
}

/* Wait until the other side closes (execve did it) or reports. */
static int await_exec(int fd, struct error *e)
{
    struct sync_message m;
    int r = sync_receive(fd, &m, e);
    return r < 0 ? r : 0;
}

int container_start(const struct container_host *h, const char *id, struct error *e)
{
    struct launch l;
    int r = launch_open(&l, h, id, true, true, e);
    enum container_status status = r == 0 ? store_status(&l.store, &l.record) : STATUS_STOPPED;
    if (r == 0 && status != STATUS_CREATED)
        r = error_set(e, EINVAL, "container %s: is %s, only a created one can be started", id,
                      store_status_name(status));
    if (r == 0) {
        r = notify_bind(&l, e);
        if (r == 0)
            l.sync = store_connect(&l.store, STORE_START, SOCK_SEQPACKET, e);
        r = r < 0 ? r : MIN(l.sync, 0);
        if (r == 0) {
            sync_send(l.sync, SYNC_START, 0, NULL);
            r = await_exec(l.sync, e);
        }
        unlinkat(l.store.dir, STORE_START, 0);
    }
    if (r == 0)
        r = after_start(&l, e);
    if (r == 0)
        r = notify_forward(&l, e);
    launch_free(&l);
    return r;
}

static int run_created(struct launch *l, const struct container_launch *how, struct relay *relay, int *status,
                       struct error *e)
{
    int r = notify_bind(l, e);
    if (r == 0 && !l->started)
        sync_send(l->sync, SYNC_START, 0, NULL);
    if (r == 0)
        r = await_exec(l->sync, e);
    if (r < 0) {
        launch_undo(l);
        return r;
    }
    r = after_start(l, e);
    if (r == 0)
        r = notify_forward(l, e);
    if (r < 0) {
        launch_undo(l);
        return r;
    }
    *status = 0;
    if (how->detach)
        return 0;
    store_unlock(&l->store);
    r = relay->socket >= 0 ? relay_run(relay, l->pid, l->pidfd, status, e) : launch_wait(l->pid, l->pidfd, status, e);
    l->pid = 0;
    /* Somebody may have deleted it meanwhile. */
    if (how->keep || store_lock(&l->store, NULL) < 0)
        return r;
    int removed = launch_remove(l, r == 0 ? e : NULL);
    return r < 0 ? r : removed;
}

int container_run(const struct container_host *h, const struct container_launch *given, int *status, struct error *e)
{
    struct container_launch how = *given;
    struct relay relay = {.socket = -1, .child_socket = -1, .master = -1};
    struct launch l;
    int r = begin(&l, h, &how, e);
    if (r == 0)
        r = notify_prepare(&l, e);
    if (r == 0 && l.spec.process.terminal && !how.console_socket && how.console_fd <= 0) {
        r = how.detach ? error_set(e, EINVAL, "process.terminal: --detach needs --console-socket")
                       : relay_open(&relay, e);
    }
    if (r == 0) {
        launch_block_signals();
        r = launch_create(&l, &how, true, relay.child_socket, e);
        if (r == 0)
            r = run_created(&l, &how, &relay, status, e);
    }
    relay_close(&relay);
    launch_free(&l);
    return r;
}
