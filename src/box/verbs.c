/* What verbs do to containers that are there. */
#include "box/parts.h"
#include "container/cgroup.h"
#include "container/sys.h"
#include "image/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int box_status_of(const struct error *e)
{
    /* identity_program and execve name the program this way. */
    if (strncmp(e->msg, "exec", 4))
        return BOX_FAILED;
    return e->code == ENOENT ? BOX_NOT_FOUND : BOX_NOT_EXECUTABLE;
}

static bool lives(const struct machine_row *row)
{
    return row->keeper_start && sys_start_time(row->keeper_pid) == row->keeper_start;
}

static int await_end(const struct machine_row *row, unsigned seconds)
{
    const struct timespec tick = {.tv_nsec = 2 * 1000 * 1000};
    for (unsigned i = 0; i <= seconds * 500; i++) {
        if (!lives(row))
            return 0;
        nanosleep(&tick, NULL);
    }
    return -EBUSY;
}

static int not_running(const struct machine_row *row, struct error *e)
{
    return error_set(e, ESRCH, "container %s: does not run", row->name);
}

int box_signal(const struct machine_row *row, int signal, struct error *e)
{
    struct box b;
    int r = box_open(&b, row->id, false, e);
    if (r == 0)
        r = lives(row) ? container_kill(&b.host, b.id, signal, false, e) : not_running(row, e);
    box_close(&b);
    return r;
}

/* By image.json; TERM without a word. */
static int stop_signal(const struct box *b)
{
    CLEANUP_FREE char *text = NULL;
    size_t size;
    if (b->dir < 0 || sys_read_at(b->dir, "image.json", 1 << 20, &text, &size) < 0)
        return SIGTERM;
    json_t *j = json_loadb(text, size, 0, NULL);
    const char *name = json_string_value(json_object_get(j, "stop"));
    int signal = name ? container_signal(name) : SIGTERM;
    json_decref(j);
    return signal > 0 ? signal : SIGTERM;
}

int box_stop(const struct machine_row *row, unsigned seconds, struct error *e)
{
    struct box b;
    int r = box_open(&b, row->id, false, e);
    if (r == 0 && !lives(row))
        r = not_running(row, e);
    if (r == 0)
        r = container_kill(&b.host, b.id, stop_signal(&b), false, e);
    if (r == 0 && !strcmp(box_state(row), "paused")) /* it would never hear of it */
        container_pause(&b.host, b.id, false, NULL);
    if (r == 0 && await_end(row, seconds) < 0) {
        container_kill(&b.host, b.id, SIGKILL, false, NULL);
        if (await_end(row, 10) < 0)
            r = error_set(e, EBUSY, "container %s: its keeper (process %d) does not end; try again", row->name,
                          (int)row->keeper_pid);
    }
    box_close(&b);
    return r;
}

int box_pause(const struct machine_row *row, bool pause, struct error *e)
{
    struct box b;
    int r = box_open(&b, row->id, false, e);
    if (r == 0)
        r = lives(row) ? container_pause(&b.host, b.id, pause, e) : not_running(row, e);
    box_close(&b);
    return r;
}

int box_remove(struct registry *r, const struct machine_row *row, bool force, struct error *e)
{
    struct box b;
    int rc = box_open(&b, row->id, false, e);
    if (rc < 0)
        return rc;
    if (lives(row)) {
        if (!force) {
            box_close(&b);
            return error_set(e, EINVAL, "container %s: it runs; `trapeze stop %s` first, or `trapeze rm -f %s`",
                             row->name, row->name, row->name);
        }
        container_kill(&b.host, b.id, SIGKILL, false, NULL);
        if (await_end(row, 10) < 0) /* its container is gone: nothing is lost with it */
            kill(row->keeper_pid, SIGKILL), await_end(row, 5);
    }
    if (b.dir >= 0)
        rc = container_delete(&b.host, b.id, true, e);
    box_net_forget(row->id);
    box_close(&b);
    if (rc == 0)
        rc = box_root_remove(&b, e);
    return rc < 0 ? rc : registry_remove(r, row, e);
}

/* The word of container_state; while there is none its keeper is making it, or taking it away. */
const char *box_state(const struct machine_row *row)
{
    static const char *const words[] = {"creating", "created", "running", "paused"};
    struct box b;
    const char *found = lives(row) ? "starting" : "stopped";
    json_t *j =
        lives(row) && box_open(&b, row->id, false, NULL) == 0 ? container_state(&b.host, row->id, false, NULL) : NULL;
    const char *status = json_string_value(json_object_get(j, "status"));
    for (size_t i = 0; status && i < ARRAY_LEN(words); i++)
        if (!strcmp(words[i], status))
            found = words[i];
    if (lives(row))
        box_close(&b);
    json_decref(j);
    return found;
}

json_t *box_inspect(const struct machine_row *row)
{
    struct box b;
    CLEANUP_FREE char *text = NULL;
    size_t size;
    json_t *out = json_object();
    if (box_open(&b, row->id, false, NULL) < 0)
        return out;
    json_t *state = lives(row) ? container_state(&b.host, b.id, true, NULL) : NULL;
    json_t *stats = lives(row) ? container_stats(&b.host, b.id, NULL) : NULL;
    if (state)
        json_object_set_new(out, "container", state);
    json_t *net = lives(row) ? box_net_json(b.id) : NULL;
    if (net)
        json_object_set_new(out, "network", net);
    if (stats)
        json_object_set_new(out, "stats", json_incref(json_object_get(stats, "data")));
    json_decref(stats);
    json_t *made = box_space_json(&b);
    if (made && !net && lives(row) && json_object_get(made, "network"))
        json_object_set(out, "network", json_object_get(made, "network"));
    json_object_del(made, "network");
    if (made)
        json_object_set_new(out, "made", made);
    if (b.dir >= 0 && sys_read_at(b.dir, "image.json", 1 << 20, &text, &size) == 0)
        json_object_set_new(out, "image", json_loadb(text, size, 0, NULL));
    json_object_set_new(out, "data", json_string(b.data));
    box_close(&b);
    return out;
}

static pid_t first_process(const struct box *b, struct error *e)
{
    json_t *j = container_state(&b->host, b->id, false, e);
    pid_t pid = (pid_t)json_integer_value(json_object_get(j, "pid"));
    json_decref(j);
    return pid;
}

int box_root(const struct machine_row *row, struct error *e)
{
    struct box b;
    char path[40];
    int fd = -1, r = box_open(&b, row->id, false, e);
    if (r == 0 && !lives(row))
        r = not_running(row, e);
    if (r == 0)
        r = box_space_join(&b, e);
    pid_t pid = r == 0 ? first_process(&b, e) : 0;
    if (pid > 0) {
        snprintf(path, sizeof(path), "/proc/%d/root", (int)pid);
        fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
        /* The number may have become somebody else's in between: not if the container has it still. */
        if (fd >= 0 && first_process(&b, e) != pid)
            sys_close(&fd), fd = -1;
    }
    box_close(&b);
    return fd >= 0 ? fd : r < 0 ? r : not_running(row, e);
}

/*
 * A container that was being made when its keeper was killed has no state that names its cgroups, and a process in them that ends
 * when it finds its keeper gone: they are known by their path (config.c), and go when it has. False: not yet.
 */
static bool remove_cgroups(const struct box *b)
{
    struct cgroup g;
    char path[BOX_CGROUP_TEXT];
    bool gone = true;
    memset(&g, 0, sizeof(g));
    box_cgroup(b, path);
    if (cgroup_find(&g, NULL) < 0 || cgroup_place(&g, path, b->id, false, NULL) < 0)
        return true;
    for (size_t i = 0; i < g.n; i++) {
        char full[sizeof(g.h[i].mount) + sizeof(g.h[i].path)];
        snprintf(full, sizeof(full), "%s%s", g.h[i].mount, g.h[i].path);
        gone &= rmdir(full) == 0 || errno != EBUSY;
    }
    return gone;
}

/* What is left of one: the row stays while there is anything else (rule 1). */
static int sweep(struct registry *r, const struct machine_row *row, struct error *e)
{
    struct box b;
    int rc = box_open(&b, row->id, false, e);
    if (rc < 0)
        return rc;
    if (b.dir >= 0)
        container_delete(&b.host, b.id, true, NULL);
    box_net_forget(row->id);
    /* What was being made may write still: then the next verb tries again. */
    bool gone = remove_cgroups(&b) && (!row->auto_remove || box_root_remove(&b, NULL) == 0);
    box_close(&b);
    return gone ? registry_sweep_row(r, row, e) : 0;
}

int box_sweep(struct registry *r, struct error *e)
{
    struct machine_row *rows;
    size_t n;
    int rc = registry_list(r, &rows, &n, e);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        bool live = rows[i].state == MACHINE_STARTING || rows[i].state == MACHINE_RUNNING;
        if (rows[i].kind == KIND_CONTAINER && live && !lives(&rows[i]))
            rc = sweep(r, &rows[i], e);
    }
    registry_rows_free(rows, n);
    return rc;
}

/* --- exec --- */

static bool has_variable(const char *const *env, const char *name)
{
    for (; env && *env; env++)
        if (!strncmp(*env, name, strlen(name)))
            return true;
    return false;
}

/* Who it runs as, looked up inside; HOME follows unless it was given. */
static int set_user(const struct machine_row *row, const struct box_program *p, struct container_exec *x,
                    struct box_user *u, char text[32], struct error *e)
{
    CLEANUP_FD int root = box_root(row, e);
    int r = root < 0 ? root : box_user_find(root, p->user, u, e);
    if (r < 0)
        return r;
    snprintf(text, 32, "%u:%u", u->uid, u->gid);
    x->user = text;
    x->groups = u->groups;
    x->n_groups = u->n_groups;
    return 0;
}

int box_exec(const struct machine_row *row, const struct box_program *p, int *status, struct error *e)
{
    struct box b;
    struct box_user u;
    char user[32], home[300];
    const char *env[300] = {0};
    struct container_exec x = {
        .id = row->id, .args = p->args, .cwd = p->cwd, .env = env, .terminal = p->tty, .no_new_privileges = -1};
    size_t n = 0;
    *status = BOX_FAILED;
    int r = box_open(&b, row->id, false, e);
    if (r == 0 && !lives(row))
        r = not_running(row, e);
    if (r == 0)
        r = box_space_join(&b, e);
    if (r == 0 && p->user)
        r = set_user(row, p, &x, &u, user, e);
    for (; r == 0 && p->env && p->env[n] && n + 3 < ARRAY_LEN(env); n++)
        env[n] = p->env[n];
    if (r == 0 && p->env && p->env[n])
        r = error_set(e, E2BIG, "--env: given too often");
    if (r == 0 && p->user && !has_variable(p->env, "HOME=")) {
        snprintf(home, sizeof(home), "HOME=%s", u.home);
        env[n++] = home;
    }
    if (r == 0 && p->tty && !has_variable(p->env, "TERM="))
        env[n++] = "TERM=xterm";
    if (r == 0 && !p->input) {
        CLEANUP_FD int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        dup2(null, STDIN_FILENO);
    }
    if (r == 0)
        r = container_exec(&b.host, &x, status, e);
    if (r < 0)
        *status = box_status_of(e);
    box_close(&b);
    return r;
}
