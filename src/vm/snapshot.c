#include "vm/snapshot.h"
#include "host/host.h"
#include "machine/cpu/cpu_features.h"
#include "migrate/lazy.h"
#include "vm/control.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- what it says of itself --- */

/* For its features alone, which the frequency does not change. */
static int make_model(const struct vm_config *c, struct cpu_model *m, struct error *e)
{
    return cpu_model_make(m, c->cpu_model, 1000000000, c->cpus, e);
}

static json_t *cpu_json(const struct vm_config *c, struct error *e)
{
    size_t n;
    struct cpu_model *m = malloc(sizeof(*m));
    const struct cpu_feature_row *rows = cpu_feature_rows(&n);
    json_t *names = json_array(), *j = NULL;
    if (m && names && make_model(c, m, e) == 0) {
        for (size_t i = 0; i < n; i++)
            if (cpu_has(m, rows[i].feature))
                json_array_append_new(names, json_string(rows[i].name));
        j = json_pack("{s:s,s:O}", "vendor", m->vendor, "features", names);
    }
    json_decref(names);
    free(m);
    return j;
}

static int disk_stat(const struct vm_disk *d, struct stat *st, struct error *e)
{
    return stat(d->file, st) == 0 ? 0 : error_set(e, errno, "disk %s: %s", d->file, strerror(errno));
}

static json_int_t modified(const struct stat *st)
{
    return (json_int_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
}

/* The disks as they are now. */
static json_t *disks_json(const struct vm_config *c, struct error *e)
{
    json_t *a = json_array();
    for (unsigned i = 0; a && i < c->n_disks; i++) {
        struct stat st;
        if (disk_stat(&c->disks[i], &st, e) < 0) {
            json_decref(a);
            return NULL;
        }
        json_array_append_new(a, json_pack("{s:s,s:I,s:I}", "file", c->disks[i].file, "bytes", (json_int_t)st.st_size,
                                           "modified", modified(&st)));
    }
    return a;
}

/* A text that the caller frees, or NULL with `e`. */
char *snapshot_describe(const struct vm_config *c, struct error *e)
{
    json_t *cpu = cpu_json(c, e), *disks = cpu ? disks_json(c, e) : NULL, *config = vm_config_to_json(c);
    json_t *j = cpu && disks && config ? json_pack("{s:s,s:O,s:O,s:O}", "trapeze", TRAPEZE_VERSION, "config", config,
                                                   "cpu", cpu, "disks", disks)
                                       : NULL;
    char *text = j ? json_dumps(j, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
    json_decref(j);
    json_decref(cpu);
    json_decref(disks);
    json_decref(config);
    if (!text)
        error_set(e, ENOMEM, "snapshot: out of memory");
    return text;
}

/* --- writing --- */

int snapshot_ask(int control, const char *what, json_t **reply, struct error *e)
{
    json_t *j = json_pack("{s:s}", "do", what);
    int r = j ? control_call(control, j, reply, e) : error_set(e, ENOMEM, "request: out of memory");
    json_decref(j);
    return r;
}

int snapshot_get_config(int control, struct vm_config *c, struct error *e)
{
    json_t *reply = NULL;
    int r = snapshot_ask(control, "inspect", &reply, e);
    vm_config_init(c);
    if (r == 0)
        r = vm_config_from_json(c, json_object_get(reply, "config"), e);
    json_decref(reply);
    return r;
}

/* All records but memory: bytes that the caller frees. */
int snapshot_get_state(int control, u8 **data, size_t *len, struct error *e)
{
    json_t *reply = NULL;
    int r = snapshot_ask(control, "save", &reply, e);
    json_int_t n = json_integer_value(json_object_get(reply, "bytes"));
    json_decref(reply);
    if (r < 0)
        return r;
    if (n < 1 || n > (json_int_t)STREAM_STATE_MAX)
        return error_set(e, EPROTO, "the machine's keeper: a state of impossible size");
    *len = (size_t)n;
    *data = malloc(*len);
    return *data ? control_bytes(control, *data, *len, e) : error_set(e, ENOMEM, "snapshot: out of memory");
}

static int put_memory(int fd, u64 size, const struct vm_config *c, struct stream_out *o, struct error *e)
{
    int r;
    void *ram = size == c->memory ? host_map_shared(fd, size, e) : NULL;
    if (ram)
        r = stream_put_memory(o, ram, size, fd, e);
    else
        r = error_set(e, EPROTO, "the machine's keeper: a memory of another size");
    host_unmap(ram, ram ? size : 0);
    return r;
}

/* The whole stream, of a machine that is held still. */
static int put_machine(int control, int ram_fd, u64 size, const struct vm_config *c, struct stream_out *o,
                       struct error *e)
{
    u8 *state = NULL;
    size_t len = 0;
    struct stream_head h = {
        .page_size = PAGE_SIZE, .ram_size = c->memory, .created = (s64)(host_wall_ns() / 1000000000)};
    char *meta = snapshot_describe(c, e);
    int r = meta ? 0 : -ENOMEM;
    host_random(h.id, sizeof(h.id));
    if (r < 0 || (r = stream_begin(o, &h, e)) < 0 || (r = stream_put_config(o, meta, e)) < 0 ||
        (r = put_memory(ram_fd, size, c, o, e)) < 0 || (r = snapshot_get_state(control, &state, &len, e)) < 0 ||
        (r = stream_put_state(o, state, len, e)) < 0)
        goto out;
    r = stream_put_end(o, e);
out:
    free(meta);
    free(state);
    stream_out_free(o);
    return r;
}

/* Hold the machine and write it to a file that has not got its name yet. */
static int write_held(int control, int dir, const char *name, bool sync, const struct vm_config *c,
                      struct stream_file *f, const struct snapshot_progress *p, struct error *e)
{
    struct stream_out o = {.progress = p->tell, .progress_ctx = p->ctx};
    u64 size;
    int r = stream_file_create(f, dir, name, &o, e);
    if (r < 0)
        return r;
    /* Memory first: it may still come from a file, and the machine is not to be held still as long as that takes. */
    int ram_fd = control_memory(control, &size, e);
    r = ram_fd < 0 ? ram_fd : snapshot_ask(control, "hold", NULL, e);
    if (r == 0 && sync)
        r = snapshot_ask(control, "sync", NULL, e);
    if (r == 0)
        r = put_machine(control, ram_fd, size, c, &o, e);
    if (ram_fd >= 0)
        close(ram_fd);
    if (r < 0)
        stream_file_abandon(f);
    return r;
}

static int refuse_disks(const struct vm_config *c, struct error *e)
{
    for (unsigned i = 0; i < c->n_disks; i++)
        if (!c->disks[i].read_only)
            return error_set(
                e, ENOSYS,
                "disk %s: a snapshot does not hold disks yet, and later contents would not fit its memory; "
                "`trapeze suspend` keeps a machine with disks",
                c->disks[i].file);
    return 0;
}

int snapshot_create(int control, int dir, const char *name, const struct snapshot_progress *p, struct error *e)
{
    struct vm_config c;
    struct stream_file f;
    int r = snapshot_get_config(control, &c, e);
    if (r < 0 || (r = refuse_disks(&c, e)) < 0 || (r = write_held(control, dir, name, false, &c, &f, p, e)) < 0)
        return r;
    /* Only now is it sure that nobody let the machine go on meanwhile. */
    if ((r = snapshot_ask(control, "release", NULL, e)) < 0) {
        stream_file_abandon(&f);
        return r;
    }
    return stream_file_commit(&f, e);
}

int snapshot_suspend(int control, int dir, const struct snapshot_progress *p, struct error *e)
{
    struct vm_config c;
    struct stream_file f;
    int r = snapshot_get_config(control, &c, e);
    if (r < 0 || (r = write_held(control, dir, SNAPSHOT_SUSPENDED, true, &c, &f, p, e)) < 0 ||
        (r = stream_file_commit(&f, e)) < 0)
        return r;
    if ((r = snapshot_ask(control, "leave", NULL, e)) < 0)
        unlinkat(dir, SNAPSHOT_SUSPENDED, 0);
    return r;
}

/* --- reading --- */

int snapshot_open(struct snapshot *s, int dir, const char *name, struct error *e)
{
    char *text = NULL;
    json_error_t why;
    *s = (struct snapshot){.ram_fd = -1, .table = -1, .file.fd = -1};
    int r = stream_file_open(&s->file, dir, name, &s->in, e);
    if (r < 0)
        return r;
    r = stream_open(&s->in, e);
    if (r == 0)
        r = stream_get_config(&s->in, &text, e);
    if (r == 0 && !(s->meta = json_loads(text, JSON_REJECT_DUPLICATES, &why)))
        r = error_set(e, EBADMSG, "its description can't be read: %s", why.text);
    free(text);
    error_prefix(e, "%s", name);
    return r;
}

void snapshot_close(struct snapshot *s)
{
    stream_in_free(&s->in);
    stream_file_close(&s->file);
    json_decref(s->meta);
    rec_buf_free(&s->state);
    if (s->ram_fd >= 0)
        close(s->ram_fd);
    if (s->table >= 0)
        close(s->table);
    *s = (struct snapshot){.ram_fd = -1, .table = -1, .file.fd = -1};
}

int snapshot_config(const struct snapshot *s, struct vm_config *c, struct error *e)
{
    const json_t *config = json_object_get(s->meta, "config");
    vm_config_init(c);
    int r =
        json_is_object(config) ? vm_config_from_json(c, config, e) : error_set(e, EBADMSG, "it has no configuration");
    if (r == 0)
        r = vm_config_check(c, e);
    if (r == 0 && c->memory != s->in.head.ram_size)
        r = error_set(e, EBADMSG, "its memory is not of the size that its configuration says");
    error_prefix(e, "%s", s->file.name);
    return r;
}

/* Whether the model has a feature of that name. */
static bool has_feature(const struct cpu_model *m, const char *name)
{
    size_t n;
    const struct cpu_feature_row *rows = cpu_feature_rows(&n);
    for (size_t i = 0; i < n; i++)
        if (!strcmp(rows[i].name, name))
            return cpu_has(m, rows[i].feature);
    return false;
}

/* All of the guest's processor must be there: it has looked once, and will not look again. */
static int check_cpu(const json_t *cpu, const struct cpu_model *m, struct error *e)
{
    const char *vendor = json_string_value(json_object_get(cpu, "vendor"));
    const json_t *names = json_object_get(cpu, "features"), *name;
    char missing[200] = "";
    size_t i, len = 0;
    if (!vendor || !json_is_array(names))
        return error_set(e, EBADMSG, "it does not say what its processor had");
    if (strcmp(vendor, m->vendor))
        return error_set(e, ENOTSUP, "its guest ran on a processor of %.12s; this host's is of %s", vendor, m->vendor);
    json_array_foreach(names, i, name)
    {
        const char *text = json_string_value(name);
        if (text && has_feature(m, text))
            continue;
        len += (size_t)snprintf(missing + len, sizeof(missing) - len, " %.24s", text ? text : "?");
        len = MIN(len, sizeof(missing) - 1);
    }
    return len ? error_set(e, ENOTSUP, "its guest uses what this host's processor has not:%s", missing) : 0;
}

static int check_disk(const json_t *was, const struct vm_disk *d, struct error *e)
{
    struct stat st;
    int r = disk_stat(d, &st, e);
    if (r < 0 || d->read_only)
        return r;
    if (json_integer_value(json_object_get(was, "bytes")) != (json_int_t)st.st_size ||
        json_integer_value(json_object_get(was, "modified")) != modified(&st))
        return error_set(e, ESTALE,
                         "disk %s: has been changed since, so what the guest's memory holds of it is no longer true",
                         d->file);
    return 0;
}

int snapshot_check_cpu(const json_t *cpu, const struct vm_config *c, struct error *e)
{
    struct cpu_model *m = malloc(sizeof(*m));
    int r = m ? make_model(c, m, e) : error_set(e, ENOMEM, "processor model: out of memory");
    if (r == 0)
        r = check_cpu(cpu, m, e);
    free(m);
    return r;
}

int snapshot_check(const struct snapshot *s, const struct vm_config *c, struct error *e)
{
    const json_t *disks = json_object_get(s->meta, "disks");
    int r = snapshot_check_cpu(json_object_get(s->meta, "cpu"), c, e);
    for (unsigned i = 0; r == 0 && i < c->n_disks; i++)
        r = check_disk(json_array_get(disks, i), &c->disks[i], e);
    error_prefix(e, "%s", s->file.name);
    return r;
}

/* What there is but memory, and where that lies: at `index` begins what says so. */
static int load_lazily(struct snapshot *s, u64 index, struct error *e)
{
    u64 size = lazy_size(s->in.head.ram_size / PAGE_SIZE);
    s->table = host_memfd("trapeze-lazy", size, e);
    u8 *base = s->table < 0 ? NULL : host_map_shared(s->table, size, e);
    if (!base)
        return -ENOMEM;
    int r = lazy_open(&s->file, &s->in, index, base, &s->state, e);
    host_unmap(base, size);
    return r;
}

static int load(struct snapshot *s, struct error *e)
{
    u64 size = s->in.head.ram_size, index;
    s->ram_fd = host_memfd("trapeze-ram", size, e);
    int found = s->ram_fd < 0 ? s->ram_fd : lazy_find(&s->file, &index, e);
    if (found)
        return found < 0 ? found : load_lazily(s, index, e);
    u8 *ram = host_map_shared(s->ram_fd, size, e);
    if (!ram)
        return -ENOMEM;
    int r = stream_get_machine(&s->in, ram, &s->state, e);
    host_unmap(ram, size);
    return r == 0 ? stream_file_at_end(&s->file, e) : r;
}

int snapshot_load(struct snapshot *s, const struct snapshot_progress *p, struct vm_incoming *in, struct error *e)
{
    s->in.progress = p->tell;
    s->in.progress_ctx = p->ctx;
    int r = load(s, e);
    error_prefix(e, "%s", s->file.name);
    if (r == 0)
        *in = (struct vm_incoming){.ram_fd = s->ram_fd,
                                   .records = s->state.data,
                                   .len = s->state.len,
                                   .lazy = s->table >= 0,
                                   .table = s->table,
                                   .file = s->file.fd};
    return r;
}
