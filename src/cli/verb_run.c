/*
 * `trapeze run`: from the options to a machine, and to its console.
 *
 * Order, so that nothing is left behind when a step fails: check the configuration, take the name (a row in the
 * registry that belongs to this process), launch, hand the row to the keeper, attach. A launch that fails takes the row
 * and the directory away again.
 */
#include "cli/json.h"
#include "cli/machine.h"
#include "cli/run_container.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "cli/vm_image.h"
#include "vm/config.h"
#include "vm/launch.h"
#include "vm/paths.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int copy_text(char *out, size_t size, const struct args *a, enum option_id id, struct error *e)
{
    const char *s = a->text[id] ? a->text[id] : "";
    if (strlen(s) >= size)
        return error_set(e, EINVAL, "--%s: %zu bytes are too long; %zu are possible", cli_options[id].name, strlen(s),
                         size - 1);
    memcpy(out, s, strlen(s) + 1);
    return 0;
}

/* A file by its absolute name: the row outlives this process's working directory. */
static int copy_path(char *out, size_t size, const struct args *a, enum option_id id, struct error *e)
{
    char cwd[PATH_MAX];
    if (!a->text[id] || a->text[id][0] == '/')
        return copy_text(out, size, a, id, e);
    if (!getcwd(cwd, sizeof(cwd)))
        return error_set(e, errno, "working directory: it is not known: %s; give --%s from /", strerror(errno),
                         cli_options[id].name);
    return paths_join(out, size, cwd, a->text[id], e);
}

/* What --disk was given, with absolute names. */
static int copy_disks(struct vm_config *c, const struct args *a, struct error *e)
{
    char cwd[PATH_MAX];
    if (!getcwd(cwd, sizeof(cwd)))
        cwd[0] = 0;
    for (int i = 0; i < a->n_many; i++) {
        if (a->many[i].id != OPT_DISK)
            continue;
        if (c->n_disks == VM_DISKS_MAX)
            return error_set(e, EINVAL, "--disk: given too often; %d disks are possible", VM_DISKS_MAX);
        struct vm_disk *d = &c->disks[c->n_disks];
        char name[PATH_MAX];
        int rc = vm_disk_parse(d, a->many[i].text, e);
        if (rc < 0)
            return rc;
        c->n_disks++;
        if (d->file[0] == '/')
            continue;
        if (!cwd[0])
            return error_set(e, ENOENT, "working directory: it is not known; give --disk from /");
        memcpy(name, d->file, sizeof(name));
        if ((rc = paths_join(d->file, sizeof(d->file), cwd, name, e)) < 0)
            return rc;
    }
    return 0;
}

/* What --share was given, with absolute names. */
static int copy_shares(struct vm_config *c, const struct args *a, struct error *e)
{
    char cwd[PATH_MAX], name[PATH_MAX];
    for (int i = 0; i < a->n_many; i++) {
        if (a->many[i].id != OPT_SHARE)
            continue;
        if (c->n_shares == SHARE_COUNT_MAX)
            return error_set(e, EINVAL, "--share: given too often; %u shares are possible", SHARE_COUNT_MAX);
        struct vm_share *s = &c->shares[c->n_shares++];
        int rc = vm_share_parse(s, a->many[i].text, e);
        if (rc < 0)
            return rc;
        if (s->dir[0] == '/')
            continue;
        if (!getcwd(cwd, sizeof(cwd)))
            return error_set(e, ENOENT, "working directory: it is not known; give --share from /");
        memcpy(name, s->dir, sizeof(name));
        if ((rc = paths_join(s->dir, sizeof(s->dir), cwd, name, e)) < 0)
            return rc;
    }
    return 0;
}

/* What --network and --publish were given; a machine without either has a card in user mode. */
static int copy_networks(struct vm_config *c, const struct args *a, struct error *e)
{
    int rc = 0;
    for (int i = 0; i < a->n_many && rc >= 0; i++) {
        if (a->many[i].id == OPT_NETWORK) {
            if (c->n_nets == NET_COUNT_MAX)
                return error_set(e, EINVAL, "--network: given too often; %u cards are possible", NET_COUNT_MAX);
            rc = vm_net_parse(&c->nets[c->n_nets], a->many[i].text, e);
            c->n_nets += rc > 0;
        } else if (a->many[i].id == OPT_PUBLISH) {
            if (c->n_forwards == NET_FORWARDS)
                return error_set(e, EINVAL, "--publish: given too often; %u ports are possible", NET_FORWARDS);
            rc = vm_forward_parse(&c->forwards[c->n_forwards++], a->many[i].text, e);
        }
    }
    if (!a->given[OPT_NETWORK])
        c->nets[c->n_nets++] = (struct vm_net){.kind = NET_USER};
    vm_net_addresses(c);
    return MIN(rc, 0);
}

bool run_names_console(const char *append)
{
    for (const char *p = append; (p = strstr(p, "console=")); p++)
        if (p == append || p[-1] == ' ')
            return true;
    return false;
}

/*
 * Without --append the guest is told where its console is. One that is given stays as it is, but that a guest whose keys come from a
 * virtio console is told so if nothing else is said there.
 */
static int default_append(struct vm_config *c, const struct args *a, struct error *e)
{
    bool virtio = vm_config_virtio_console(c);
    size_t len = strlen(c->append);
    if (a->given[OPT_APPEND] && (!virtio || run_names_console(c->append)))
        return 0;
    int n =
        snprintf(c->append + len, sizeof(c->append) - len, "%sconsole=%s", len ? " " : "", virtio ? "hvc0" : "ttyS0");
    return (size_t)n < sizeof(c->append) - len
               ? 0
               : error_set(e, EINVAL,
                           "--append: %zu bytes leave no room for console=hvc0; say there what the console is", len);
}

static int make_config(struct vm_config *c, const struct args *a, struct error *e)
{
    static const struct {
        enum option_id id;
        size_t offset, size;
        int (*copy)(char *out, size_t size, const struct args *a, enum option_id id, struct error *e);
    } texts[] = {
#define TEXT(id, member, copy) {id, offsetof(struct vm_config, member), sizeof(((struct vm_config *)0)->member), copy}
        TEXT(OPT_NAME, name, copy_text),       TEXT(OPT_CPU, cpu_model, copy_text), TEXT(OPT_ENGINE, engine, copy_text),
        TEXT(OPT_KERNEL, kernel, copy_path),   TEXT(OPT_INITRD, initrd, copy_path), TEXT(OPT_APPEND, append, copy_text),
        TEXT(OPT_CONSOLE, console, copy_text), TEXT(OPT_VIRTIO, virtio, copy_text),
#undef TEXT
    };
    vm_config_init(c);
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        int rc = texts[i].copy((char *)c + texts[i].offset, texts[i].size, a, texts[i].id, e);
        if (rc < 0)
            return rc;
    }
    if (!a->given[OPT_NAME])
        snprintf(c->name, sizeof(c->name), "unnamed"); /* until the registry has chosen one */
    c->memory = a->number[OPT_MEMORY];
    c->cpus = (unsigned)a->number[OPT_CPUS];
    c->code_cache = a->number[OPT_CODE_CACHE];
    c->no_reboot = a->given[OPT_NO_REBOOT];
    int rc = run_image_is(a) ? 0 : default_append(c, a, e);
    if (rc < 0 || (rc = copy_disks(c, a, e)) < 0 || (rc = copy_shares(c, a, e)) < 0 ||
        (rc = copy_networks(c, a, e)) < 0)
        return rc;
    return run_image_config(c, a, e);
}

/* Refuse what the options can not mean together, or not yet. */
static int check_options(const struct args *a, struct error *e)
{
    static const enum option_id containers[] = {OPT_INTERACTIVE, OPT_TTY,        OPT_ENV,       OPT_VOLUME,
                                                OPT_WORKDIR,     OPT_ENTRYPOINT, OPT_READ_ONLY, OPT_CAP_ADD,
                                                OPT_CAP_DROP,    OPT_DNS,        OPT_ADD_HOST};
    if (!a->given[OPT_KERNEL] && !run_image_is(a))
        return error_set(e, EINVAL,
                         "run: an image or --kernel FILE is missing; `trapeze run --help` shows how it is used");
    for (size_t i = 0; i < ARRAY_LEN(containers); i++)
        if (a->given[containers[i]])
            return error_set(e, EINVAL, "--%s: is for containers; %s starts a machine", cli_options[containers[i]].name,
                             run_image_is(a) ? a->operands[0] : "--kernel");
    if (a->given[OPT_NAME])
        return registry_check_name(a->text[OPT_NAME], e);
    return 0;
}

/* As the registry keeps it; free it. `whole`: all that it needs is there, `start` may use it. */
static char *config_text(const struct vm_config *c, const struct args *a, bool whole, struct error *e)
{
    json_t *o = vm_config_to_json(c);
    if (o)
        json_object_del(o, "name"); /* the row has it */
    if (o && run_image_is(a))
        json_object_set_new(o, "image", json_string(a->operands[0])); /* for people: `ps`, `inspect` */
    if (o && !whole)
        json_object_set_new(o, "unfinished", json_true());
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    if (!text)
        error_set(e, EINVAL, "options: names and texts must be UTF-8");
    return text;
}

static int create_row(struct registry *r, const struct args *a, struct vm_config *c, struct machine_row *row,
                      struct error *e)
{
    char *text = config_text(c, a, !run_image_is(a), e);
    if (!text)
        return -EINVAL;
    int rc = registry_create(r, a->text[OPT_NAME], text, a->given[OPT_RM], row, e);
    free(text);
    if (rc == 0)
        snprintf(c->name, sizeof(c->name), "%s", row->name);
    return rc;
}

/* What is made of an image is only named when there is a directory to make it in. */
static int prepare(struct registry *r, const struct args *a, struct vm_config *c, const struct machine_row *row,
                   struct error *e)
{
    if (!run_image_is(a))
        return 0;
    int rc = run_image_prepare(c, a, row, e);
    char *text = rc == 0 ? config_text(c, a, true, e) : NULL;
    if (rc == 0)
        rc = text ? registry_configure(r, row->id, text, e) : -EINVAL;
    free(text);
    return rc;
}

/* From a checked configuration to a running machine with its row. */
static int start(struct registry *r, const struct args *a, struct vm_config *c, struct machine_row *row,
                 struct error *e)
{
    int rc = create_row(r, a, c, row, e);
    if (rc < 0)
        return rc;
    rc = prepare(r, a, c, row, e);
    if (rc == 0)
        rc = machine_launch(r, c, row, e);
    if (rc < 0) {
        registry_remove(r, row, NULL);
        registry_row_free(row);
    }
    return rc;
}

static void say_stage(const struct args *a, const char *stage, bool person)
{
    char line[PATH_MAX + 64];
    if (!person)
        return;
    snprintf(line, sizeof(line), "%s %s ..", stage, run_image_is(a) ? a->operands[0] : a->text[OPT_KERNEL]);
    terminal_status(line);
}

static void say_how_to_leave(const struct args *a, const struct machine_row *row)
{
    char key[16];
    if (a->number[OPT_ESCAPE])
        fprintf(stderr, "machine %s: %s leaves its console, `trapeze console %s` comes back\n", row->name,
                cli_key_name((u8)a->number[OPT_ESCAPE], key), row->name);
    else
        fprintf(stderr, "machine %s: no key leaves its console (--escape none)\n", row->name);
}

static void print_end(const struct args *a, const struct machine_row *row, const struct session_result *res)
{
    if (res->text)
        fprintf(stderr, "%s\n", res->text);
    if (!a->number[OPT_FORMAT])
        return;
    json_t *o = json_pack("{s:s, s:s, s:i, s:s}", "name", row->name, "id", row->id, "exit_code", res->code, "reason",
                          res->reason);
    json_dumpf(o, stderr, JSON_COMPACT);
    fputc('\n', stderr);
    json_decref(o);
}

/* Has the other end of the pipe at standard output been closed? */
static bool reader_gone(void)
{
    struct pollfd p = {.fd = STDOUT_FILENO};
    return poll(&p, 1, 0) == 1 && (p.revents & POLLERR);
}

/*
 * The keeper has gone before its console said the end: a short-lived guest, or a keeper that was killed. What it left in
 * its directory tells: the end (vm/launch.h) and, when the console was never reached, the log.
 */
static void find_lost_end(const struct machine_row *row, struct session_result *res, bool attached)
{
    char path[PATH_MAX];
    const char *reason = "its keeper process vanished", *text = NULL;
    json_t *end = NULL;
    res->code = CLI_HOST;
    if (paths_join(path, sizeof(path), row->dir, VM_FILE_END, NULL) == 0)
        end = json_load_file(path, 0, NULL);
    if (end)
        json_unpack(end, "{s:i, s:s, s?s}", "code", &res->code, "reason", &reason, "text", &text);
    snprintf(res->reason, sizeof(res->reason), "%s", reason);
    res->text = text && *text ? strdup(text) : NULL;
    json_decref(end);
    if (!attached) {
        machine_print_log(row, NULL);
        if ((fflush(stdout) || ferror(stdout)) && reader_gone())
            res->signal = SIGPIPE;
    }
}

static int conclude(struct registry *r, const struct args *a, const struct machine_row *row, struct session_result *res,
                    bool attached, struct error *e)
{
    machine_await_end(row, 5, NULL);
    if (res->outcome == SESSION_LOST)
        find_lost_end(row, res, attached);
    print_end(a, row, res);
    registry_ended(r, row->id, res->code, res->reason, e);
    if (row->auto_remove)
        registry_remove(r, row, e);
    if (res->signal)
        return 128 + res->signal;
    if (res->code != CLI_OK)
        error_set(e, ECANCELED, "machine %s: %s%s%s%s", row->name, res->reason,
                  row->auto_remove ? "" : "; `trapeze logs ", row->auto_remove ? "" : row->name,
                  row->auto_remove ? "" : "` has its output");
    return res->code;
}

/* Its console can not be had (`e` says why) though it runs: nobody would know of it, so it goes. */
static int give_up(struct registry *r, const struct machine_row *row, const struct error *e)
{
    machine_call(row, 5, json_pack("{s:s}", "do", "kill"), NULL, NULL);
    machine_await_end(row, 5, NULL);
    registry_sweep(r, NULL);
    return cli_status_of(e);
}

/* At the console until the end. */
static int attend(struct registry *r, const struct args *a, const struct machine_row *row, bool person, struct error *e)
{
    struct session_result res;
    const struct session_config s = {.row = row,
                                     .input = true,
                                     .escape = (u8)a->number[OPT_ESCAPE],
                                     .replay = 1u << 20,
                                     .stop_on_signal = true,
                                     .stop_seconds = (unsigned)a->number[OPT_TIME_RUN]};
    say_stage(a, "booting", person);
    bool attached = session_run(&s, &res, e) == 0;
    if (!attached) {
        if (machine_await_end(row, 1, NULL) < 0)
            return give_up(r, row, e);
        /* It ended before we reached its console. */
        *e = (struct error){0};
        res = (struct session_result){.outcome = SESSION_LOST};
    }
    int status = CLI_OK;
    if (res.outcome == SESSION_LEFT)
        fprintf(stderr, "\nmachine %s: goes on; `trapeze console %s` comes back, `trapeze stop %s` ends it\n",
                row->name, row->name, row->name);
    else
        status = conclude(r, a, row, &res, attached, e);
    free(res.text);
    return status;
}

static int print_started(const struct args *a, const struct machine_row *row, struct error *e)
{
    if (!a->number[OPT_FORMAT]) {
        puts(row->name);
        return CLI_OK;
    }
    return cli_json_print(
        json_pack("{s:s, s:s, s:i}", "name", row->name, "id", row->id, "keeper", (int)row->keeper_pid), e);
}

int verb_run(const struct args *a, struct error *e)
{
    struct vm_config c;
    struct machine_row row;
    bool person = terminal_interactive() && !a->given[OPT_DETACH];
    if (a->n_operands && !run_image_is(a))
        return run_container(a, e);
    if (check_options(a, e) < 0 || make_config(&c, a, e) < 0 || vm_config_check(&c, e) < 0)
        return CLI_USAGE;
    struct registry *r = machine_registry(e);
    if (!r)
        return CLI_HOST;
    session_block_signals();
    say_stage(a, run_image_is(a) ? "copying" : "loading", person);
    int rc = start(r, a, &c, &row, e), status;
    terminal_status("");
    if (rc < 0) {
        registry_close(r);
        /* What does not fit into the machine's memory is the caller's to change. */
        return rc == -ENOMEM ? CLI_USAGE : cli_status_of(e);
    }
    if (person)
        say_how_to_leave(a, &row);
    status = a->given[OPT_DETACH] ? print_started(a, &row, e) : attend(r, a, &row, person, e);
    registry_row_free(&row);
    registry_close(r);
    return status;
}
