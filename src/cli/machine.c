#include "cli/machine.h"
#include "base/bytes.h"
#include "box/box.h"
#include "cli/agent_call.h"
#include "cli/bar.h"
#include "cli/terminal.h"
#include "host/host.h"
#include "vm/control.h"
#include "vm/launch.h"
#include "vm/paths.h"
#include "vm/resolve.h"
#include "vm/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CLOCK_SECONDS 2
#define RESOLVE_MS    1000 /* for a host that a machine went to */

struct registry *machine_registry(struct error *e)
{
    struct registry *r;
    if (registry_open(&r, e) < 0)
        return NULL;
    if (box_sweep(r, e) == 0 && registry_sweep(r, e) == 0) {
        resolve_sweep(r, RESOLVE_MS);
        return r;
    }
    registry_close(r);
    return NULL;
}

int machine_find(const char *name, struct machine_row *row, struct error *e)
{
    struct registry *r = machine_registry(e);
    if (!r)
        return e->code ? -e->code : -EIO;
    int rc = registry_find(r, name, row, e);
    registry_close(r);
    return rc;
}

bool machine_lives(const struct machine_row *row)
{
    return (row->state == MACHINE_STARTING || row->state == MACHINE_RUNNING) &&
           paths_process_alive(row->keeper_pid, row->keeper_start);
}

const char *machine_end_text(const struct machine_row *row, char *out, size_t size)
{
    char reason[sizeof(row->reason)];
    int code;
    if (row->state == MACHINE_EXITED)
        snprintf(out, size, "%s (status %d)", row->reason, row->exit_code);
    else if (row->state != MACHINE_DEAD && vm_end_read(row->dir, &code, reason, sizeof(reason), NULL) == 0)
        snprintf(out, size, "%s (status %d)", reason, code); /* since the row was read */
    else
        snprintf(out, size, "%s", *row->reason ? row->reason : "its keeper process vanished");
    return out;
}

/* Why nobody answers on the socket of this row. */
static int not_there(const struct machine_row *row, struct error *e)
{
    char how[256];
    if (row->state == MACHINE_STARTING && machine_lives(row))
        return error_set(e, EAGAIN, "machine %s: still starting; try again in a moment", row->name);
    if (machine_lives(row))
        return error_set(e, ECONNREFUSED,
                         "machine %s: its keeper (process %d) does not answer at %s; end it with `trapeze rm -f %s`",
                         row->name, (int)row->keeper_pid, row->socket, row->name);
    return error_set(e, ESRCH, "machine %s: does not run: %s; `trapeze rm %s` forgets it", row->name,
                     machine_end_text(row, how, sizeof(how)), row->name);
}

int machine_connect(const struct machine_row *row, unsigned seconds, struct error *e)
{
    if (row->kind != KIND_MACHINE)
        return error_set(e, ENOTSUP, "container %s: only machines have that", row->name);
    if (!machine_lives(row))
        return not_there(row, e);
    int fd = control_connect(row->socket, NULL);
    if (fd < 0)
        return not_there(row, e);
    const struct timeval limit = {.tv_sec = seconds};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    return fd;
}

int machine_call(const struct machine_row *row, unsigned seconds, json_t *request, json_t **reply, struct error *e)
{
    int fd = request ? machine_connect(row, seconds, e) : error_set(e, ENOMEM, "memory: the host has none left");
    int rc = fd < 0 ? fd : control_call(fd, request, reply, e);
    if (fd >= 0) {
        error_prefix(e, "machine %s", row->name);
        close(fd);
    }
    json_decref(request);
    return rc;
}

int machine_await_end(const struct machine_row *row, unsigned seconds, struct error *e)
{
    const struct timespec tick = {.tv_nsec = 5 * 1000 * 1000};
    for (unsigned i = 0; i <= seconds * 200; i++) {
        if (!machine_lives(row))
            return 0;
        nanosleep(&tick, NULL);
    }
    return error_set(e, EBUSY, "machine %s: its keeper (process %d) does not end; try again", row->name,
                     (int)row->keeper_pid);
}

int machine_print_log(const struct machine_row *row, struct error *e)
{
    u8 buf[65536], clean[sizeof(buf) + sizeof(((struct terminal_filter *)0)->held)];
    struct terminal_filter filter = {0};
    bool tty = isatty(STDOUT_FILENO);
    int fd = open(row->log, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return 0; /* nothing was printed */
    if (fd < 0)
        return error_set(e, errno, "%s: cannot be read: %s", row->log, strerror(errno));
    ssize_t n;
    while ((n = read(fd, buf, sizeof(buf))) > 0) {
        size_t len = tty ? terminal_drop_questions(&filter, buf, (size_t)n, clean) : (size_t)n;
        if (fwrite(tty ? clean : buf, 1, len, stdout) != len)
            break; /* main reports it */
    }
    int rc = n < 0 ? error_set(e, errno, "%s: cannot be read: %s", row->log, strerror(errno)) : 0;
    close(fd);
    return rc;
}

static int launch(struct registry *r, const struct vm_config *c, const struct vm_incoming *in, struct machine_row *row,
                  struct error *e)
{
    pid_t keeper;
    int rc = vm_launch_incoming(c, in, row->dir, &keeper, e);
    if (rc < 0)
        return rc;
    row->keeper_pid = keeper;
    row->keeper_start = paths_process_start(keeper);
    row->state = MACHINE_RUNNING;
    return registry_started(r, row->id, keeper, e);
}

int machine_launch(struct registry *r, const struct vm_config *c, struct machine_row *row, struct error *e)
{
    return launch(r, c, NULL, row, e);
}

bool machine_suspended(const struct machine_row *row)
{
    char path[PATH_MAX];
    return row->kind == KIND_MACHINE && row->state == MACHINE_EXITED && !strcmp(row->reason, VM_REASON_SUSPENDED) &&
           paths_join(path, sizeof(path), row->dir, SNAPSHOT_SUSPENDED, NULL) == 0 && access(path, R_OK) == 0;
}

/* Read the snapshot and let the machine go on; its row is ours from `*taken` on. */
static int restore(struct registry *r, struct machine_row *row, struct snapshot *s, const char *consumed, bool *taken,
                   struct error *e)
{
    struct bar bar;
    struct vm_config c;
    struct vm_incoming in;
    const struct snapshot_progress p = {bar_begin_pages(&bar, row->name), &bar};
    int rc = snapshot_config(s, &c, e);
    snprintf(c.name, sizeof(c.name), "%s", row->name); /* the row has it */
    if (rc < 0 || (rc = snapshot_check(s, &c, e)) < 0 || (rc = snapshot_load(s, &p, &in, e)) < 0)
        return rc;
    in.consumed = consumed;
    in.fresh = !consumed; /* it has gone on from there before, or may do so again */
    if ((rc = registry_restart(r, row, e)) < 0)
        return rc;
    *taken = true;
    return launch(r, &c, &in, row, e);
}

int machine_restore(struct registry *r, struct machine_row *row, const char *name, bool consume, struct error *e)
{
    char reason[sizeof(row->reason)];
    int code = row->exit_code;
    struct snapshot s;
    bool taken = false;
    snprintf(reason, sizeof(reason), "%s", row->reason);
    int dir = open(row->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return error_set(e, errno, "%s: %s", row->dir, strerror(errno));
    int rc = snapshot_open(&s, dir, name, e);
    if (rc == 0)
        rc = restore(r, row, &s, consume ? name : NULL, &taken, e);
    terminal_status("");
    if (rc < 0 && taken)
        registry_ended(r, row->id, code, reason, NULL); /* as it was */
    snapshot_close(&s);
    close(dir);
    error_prefix(e, "machine %s", row->name);
    return rc;
}

int machine_clone(struct registry *r, struct machine_row *row, struct snapshot *s, const struct vm_config *c,
                  const char *consumed, struct error *e)
{
    struct vm_incoming in;
    const struct snapshot_progress nobody = {NULL, NULL};
    int rc = snapshot_check(s, c, e);
    if (rc < 0 || (rc = snapshot_load(s, &nobody, &in, e)) < 0)
        return rc;
    in.fresh = in.shared = true;
    in.consumed = consumed;
    return launch(r, c, &in, row, e);
}

void machine_freshen(const struct machine_row *row, const char *host_name)
{
    u8 data[AGENT_SEED + MACHINE_NAME_MAX];
    size_t len = host_name ? strnlen(host_name, MACHINE_NAME_MAX) : 0;
    host_random(data, AGENT_SEED);
    memcpy(data + AGENT_SEED, host_name ? host_name : "", len);
    agent_call(row, AGENT_FRESH, data, AGENT_SEED + len, CLOCK_SECONDS, NULL);
}

void machine_set_clock(const struct machine_row *row)
{
    u8 now[8];
    put_le64(now, (u64)host_wall_ns());
    agent_call(row, AGENT_TIME, now, sizeof(now), CLOCK_SECONDS, NULL);
}

int machine_each(const struct args *a, const struct machine_acts *acts, struct error *e)
{
    int worst = CLI_OK;
    struct registry *r = machine_registry(e);
    if (!r)
        return CLI_HOST;
    for (int i = 0; i < a->n_operands; i++) {
        struct error one = {0};
        struct machine_row row;
        int rc = registry_find(r, a->operands[i], &row, &one);
        if (rc == 0) {
            machine_act *act = row.kind == KIND_CONTAINER ? acts->container : acts->machine;
            rc = act ? act(a, r, &row, &one)
                     : error_set(&one, ENOTSUP, "%s %s: %s is not for this kind", registry_kind_name(row.kind),
                                 row.name, a->verb->name);
            registry_row_free(&row);
        }
        if (rc >= 0)
            continue;
        fprintf(stderr, "trapeze: %s\n", one.msg);
        worst = MAX(worst, cli_status_of(&one));
    }
    registry_close(r);
    return worst;
}
