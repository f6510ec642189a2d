/* `trapeze clone NAME[:TAG] NEW`: another machine that goes on from where one is, or was. */
#include "cli/bar.h"
#include "cli/machine.h"
#include "cli/terminal.h"
#include "vm/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATIENCE 120 /* seconds for one answer of the keeper */
#define OWN_FILE \
    "origin.stream" /* in the clone's directory, until it goes on: of a machine that was cloned as it ran */

struct cloning {
    struct registry *registry;
    struct machine_row from, row; /* what is cloned; the clone's */
    struct vm_config config;
    struct snapshot snapshot;
    char tag[MACHINE_NAME_MAX + 1]; /* "": as it is now */
    const char *name;
};

/* NAME[:TAG], of which the name goes to `name`. */
static int split(const char *what, char *name, size_t size, char *tag, size_t tag_size, struct error *e)
{
    const char *colon = strchr(what, ':');
    size_t len = colon ? (size_t)(colon - what) : strlen(what);
    *tag = 0;
    if (len >= size || (colon && strlen(colon + 1) >= tag_size) || (colon && registry_check_name(colon + 1, NULL) < 0))
        return error_set(e, EINVAL, "%.80s: is written NAME, or NAME:TAG for a snapshot of it", what);
    snprintf(name, size, "%.*s", (int)len, what);
    if (colon)
        snprintf(tag, tag_size, "%s", colon + 1);
    return 0;
}

static int open_directory(const char *path, struct error *e)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? error_set(e, errno, "%s: %s", path, strerror(errno)) : fd;
}

/* Write the machine as it is now into the clone's directory. */
static int write_own(struct cloning *c, int dir, struct error *e)
{
    struct bar bar;
    int control = machine_connect(&c->from, PATIENCE, e);
    if (control < 0)
        return control;
    const struct snapshot_progress p = {bar_begin_pages(&bar, c->from.name), &bar};
    int rc = snapshot_create(control, dir, OWN_FILE, &p, e);
    terminal_status("");
    close(control);
    return rc;
}

/* The file that the clone goes on from; *dir is the one it lies in, the caller's to close. */
static int open_origin(struct cloning *c, int *dir, struct error *e)
{
    char file[NAME_MAX];
    *dir = open_directory(*c->tag ? c->from.dir : c->row.dir, e);
    if (*dir < 0)
        return *dir;
    snprintf(file, sizeof(file), *c->tag ? "%s%s" : "%s", *c->tag ? c->tag : OWN_FILE, SNAPSHOT_SUFFIX);
    int rc = *c->tag ? 0 : write_own(c, *dir, e);
    if (rc == 0)
        rc = snapshot_open(&c->snapshot, *dir, file, e);
    if (rc == -ENOENT && *c->tag)
        *e = (struct error){0};
    return rc == -ENOENT && *c->tag
               ? error_set(e, ENOENT, "snapshot %s: machine %s has none of that tag; `trapeze snapshot list %s`",
                           c->tag, c->from.name, c->from.name)
               : rc;
}

/* What can not be had twice goes, or is refused. */
static int make_config(struct cloning *c, struct error *e)
{
    struct vm_config *v = &c->config;
    int rc = snapshot_config(&c->snapshot, v, e);
    snprintf(v->name, sizeof(v->name), "%s", c->row.name);
    for (unsigned i = 0; rc == 0 && i < v->n_nets; i++)
        if (v->nets[i].kind != NET_USER)
            rc = error_set(
                e, ENOTSUP,
                "machine %s: has a card on a network with others, where its clone would have the same address; "
                "clones can have networks in user mode only",
                c->from.name);
    v->n_forwards = 0; /* the ports are taken */
    return rc;
}

static int configure(struct cloning *c, struct error *e)
{
    json_t *j = vm_config_to_json(&c->config);
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    int rc = text ? registry_configure(c->registry, c->row.id, text, e)
                  : error_set(e, ENOMEM, "machine %s: out of memory", c->row.name);
    json_decref(j);
    free(text);
    return rc;
}

/* The row is there. */
static int begin(struct cloning *c, struct error *e)
{
    int dir = -1;
    int rc = open_origin(c, &dir, e);
    if (rc == 0 && (rc = make_config(c, e)) == 0 && (rc = configure(c, e)) == 0)
        rc = machine_clone(c->registry, &c->row, &c->snapshot, &c->config, *c->tag ? NULL : OWN_FILE, e);
    snapshot_close(&c->snapshot);
    if (dir >= 0)
        close(dir);
    return rc;
}

static int clone(struct cloning *c, const char *what, struct error *e)
{
    char from[MACHINE_NAME_MAX + 1];
    int rc = split(what, from, sizeof(from), c->tag, sizeof(c->tag), e);
    if (rc < 0 || (rc = registry_find(c->registry, from, &c->from, e)) < 0)
        return rc;
    if (c->from.kind != KIND_MACHINE)
        rc = error_set(e, ENOTSUP, "container %s: only machines can be cloned", c->from.name);
    else
        rc = registry_create(c->registry, c->name, c->from.config ? c->from.config : "{}", false, &c->row, e);
    if (rc < 0)
        return rc;
    if ((rc = begin(c, e)) < 0) {
        registry_remove(c->registry, &c->row, NULL);
        return rc;
    }
    machine_freshen(&c->row, c->row.name);
    machine_set_clock(&c->row);
    return 0;
}

int verb_clone(const struct args *a, struct error *e)
{
    struct cloning c = {.name = a->operands[1], .snapshot = {.ram_fd = -1, .table = -1, .file.fd = -1}};
    if (registry_check_name(c.name, e) < 0)
        return CLI_USAGE;
    if (!(c.registry = machine_registry(e)))
        return cli_status_of(e);
    int rc = clone(&c, a->operands[0], e);
    if (rc == 0)
        puts(c.row.name);
    registry_row_free(&c.from);
    registry_row_free(&c.row);
    registry_close(c.registry);
    return rc < 0 ? cli_status_of(e) : CLI_OK;
}
