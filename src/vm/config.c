#include "vm/config.h"
#include "engine/engine.h"
#include "vm/registry.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

void vm_config_init(struct vm_config *c)
{
    *c = (struct vm_config){
        .memory = 512ull << 20, .cpus = 1, .cpu_model = "host", .engine = "auto", .console = "serial", .virtio = "pci"};
}

const char *vm_config_engine(const struct vm_config *c)
{
    const struct engine_ops *best = strcmp(c->engine, "auto") ? NULL : engine_auto();
    return best ? best->name : c->engine;
}

bool vm_config_virtio_mmio(const struct vm_config *c)
{
    return !strcmp(c->virtio, "mmio");
}

int vm_config_check_engine(const struct vm_config *c, struct error *e)
{
    const char *name = vm_config_engine(c), *why = "this host can not run it";
    if (engine_find(name))
        return 0;
    for (size_t i = 0; engine_at(i); i++)
        if (!strcmp(name, engine_at(i)->name) && !engine_at(i)->usable(&why))
            return error_set(e, ENOTSUP, "--engine %s: %s; use --engine %s", name, why, engine_auto()->name);
    if (!strcmp(name, "bt") || !strcmp(name, "kvm"))
        return error_set(e, ENOSYS, "--engine %s: not there yet; use --engine %s", name, engine_auto()->name);
    return error_set(e, EINVAL, "--engine %s: no such engine; use --engine auto", name);
}

bool vm_config_virtio_console(const struct vm_config *c)
{
    return !strcmp(c->console, "virtio");
}

static int check_memory(const struct vm_config *c, struct error *e)
{
    if (c->memory < VM_MEMORY_MIN || c->memory > VM_MEMORY_MAX)
        return error_set(e, EINVAL, "--memory %llu bytes: give 8M to 1024G (a Debian kernel needs 96M)",
                         (unsigned long long)c->memory);
    if (c->memory % PAGE_SIZE)
        return error_set(e, EINVAL, "--memory %llu bytes: give a multiple of 4096", (unsigned long long)c->memory);
    return 0;
}

int vm_config_check(const struct vm_config *c, struct error *e)
{
    int r = registry_check_name(c->name, e);
    if (r < 0 || (r = check_memory(c, e)) < 0 || (r = vm_config_check_engine(c, e)) < 0)
        return r;
    if (!c->cpus)
        return error_set(e, EINVAL, "--cpus 0: a machine has one CPU at least");
    if (c->cpus > VM_CPUS_MAX)
        return error_set(e, EINVAL, "--cpus %u: a machine has %u CPUs at most", c->cpus, VM_CPUS_MAX);
    if (c->code_cache && (c->code_cache < VM_CODE_MIN || c->code_cache > VM_CODE_MAX))
        return error_set(e, EINVAL, "--code-cache %llu bytes: give 256K to 4G", (unsigned long long)c->code_cache);
    if (strcmp(c->console, "serial") && !vm_config_virtio_console(c))
        return error_set(e, EINVAL, "--console %s: give serial or virtio", c->console);
    if (strcmp(c->virtio, "pci") && strcmp(c->virtio, "mmio"))
        return error_set(e, EINVAL, "--virtio %s: no such transport; use --virtio pci or mmio", c->virtio);
    if (!c->kernel[0])
        return error_set(e, EINVAL, "--kernel: missing; name a bzImage or an ELF kernel with a PVH note");
    if (c->n_disks > VM_DISKS_MAX)
        return error_set(e, EINVAL, "--disk: %u of them; %d are possible", c->n_disks, VM_DISKS_MAX);
    for (unsigned i = 0; i < c->n_disks; i++)
        if ((r = vm_disk_check(&c->disks[i], e)) < 0)
            return r;
    r = vm_nets_check(c, e);
    return r < 0 ? r : vm_shares_check(c, e);
}

/* --- JSON: one table for both directions --- */

enum member_kind { MEMBER_STRING, MEMBER_U64, MEMBER_UNSIGNED, MEMBER_BOOL };

static const struct member {
    const char *name;
    enum member_kind kind;
    size_t offset, size;
} members[] = {
#define MEMBER(kind, name, field)                                                             \
    {                                                                                         \
        name, kind, offsetof(struct vm_config, field), sizeof(((struct vm_config *)0)->field) \
    }
    MEMBER(MEMBER_STRING, "name", name),         MEMBER(MEMBER_U64, "memory", memory),
    MEMBER(MEMBER_UNSIGNED, "cpus", cpus),       MEMBER(MEMBER_STRING, "cpu", cpu_model),
    MEMBER(MEMBER_STRING, "engine", engine),     MEMBER(MEMBER_STRING, "kernel", kernel),
    MEMBER(MEMBER_STRING, "initrd", initrd),     MEMBER(MEMBER_STRING, "append", append),
    MEMBER(MEMBER_BOOL, "no_reboot", no_reboot), MEMBER(MEMBER_U64, "code_cache", code_cache),
    MEMBER(MEMBER_STRING, "console", console),   MEMBER(MEMBER_STRING, "virtio", virtio),
#undef MEMBER
};

static json_t *member_to_json(const void *p, enum member_kind kind)
{
    switch (kind) {
    case MEMBER_STRING:
        return json_string(p);
    case MEMBER_U64:
        return json_integer((json_int_t) * (const u64 *)p);
    case MEMBER_UNSIGNED:
        return json_integer(*(const unsigned *)p);
    case MEMBER_BOOL:
        return json_boolean(*(const bool *)p);
    }
    return NULL;
}

static json_t *disks_to_json(const struct vm_config *c)
{
    json_t *a = json_array();
    for (unsigned i = 0; a && i < c->n_disks; i++)
        if (json_array_append_new(a, vm_disk_to_json(&c->disks[i])) < 0) {
            json_decref(a);
            a = NULL;
        }
    return a;
}

static int disks_from_json(struct vm_config *c, const json_t *a)
{
    if (!a)
        return 0;
    if (!json_is_array(a) || json_array_size(a) > VM_DISKS_MAX)
        return -1;
    for (; c->n_disks < json_array_size(a); c->n_disks++)
        if (vm_disk_from_json(&c->disks[c->n_disks], json_array_get(a, c->n_disks)) < 0)
            return -1;
    return 0;
}

json_t *vm_config_to_json(const struct vm_config *c)
{
    json_t *j = json_object();
    for (size_t i = 0; j && i < ARRAY_LEN(members); i++)
        if (json_object_set_new(j, members[i].name,
                                member_to_json((const u8 *)c + members[i].offset, members[i].kind)) < 0) {
            json_decref(j);
            j = NULL;
        }
    if (j && (json_object_set_new(j, "disks", disks_to_json(c)) < 0 ||
              json_object_set_new(j, "networks", vm_nets_to_json(c)) < 0 ||
              json_object_set_new(j, "published", vm_forwards_to_json(c)) < 0 ||
              json_object_set_new(j, "shares", vm_shares_to_json(c)) < 0)) {
        json_decref(j);
        j = NULL;
    }
    return j;
}

/* 0 or -1: the value is of another type or does not fit. */
static int member_from_json(void *p, const struct member *m, const json_t *v)
{
    json_int_t n = json_integer_value(v);
    switch (m->kind) {
    case MEMBER_STRING:
        if (!json_is_string(v) || json_string_length(v) >= m->size || strlen(json_string_value(v)) >= m->size)
            return -1;
        strcpy(p, json_string_value(v));
        return 0;
    case MEMBER_U64:
        *(u64 *)p = (u64)n;
        return json_is_integer(v) && n >= 0 ? 0 : -1;
    case MEMBER_UNSIGNED:
        *(unsigned *)p = (unsigned)n;
        return json_is_integer(v) && n >= 0 && n <= INT_MAX ? 0 : -1;
    case MEMBER_BOOL:
        *(bool *)p = json_is_true(v);
        return json_is_boolean(v) ? 0 : -1;
    }
    return -1;
}

int vm_config_from_json(struct vm_config *c, const json_t *j, struct error *e)
{
    vm_config_init(c);
    if (!json_is_object(j))
        return error_set(e, EINVAL, "configuration: no JSON object");
    for (size_t i = 0; i < ARRAY_LEN(members); i++) {
        const json_t *v = json_object_get(j, members[i].name);
        if (v && member_from_json((u8 *)c + members[i].offset, &members[i], v) < 0)
            return error_set(e, EINVAL, "configuration: \"%s\" has the wrong type or is too large", members[i].name);
    }
    if (disks_from_json(c, json_object_get(j, "disks")) < 0)
        return error_set(e, EINVAL, "configuration: \"disks\" has the wrong type or is too large");
    if (vm_nets_from_json(c, json_object_get(j, "networks"), json_object_get(j, "published")) < 0)
        return error_set(e, EINVAL, "configuration: \"networks\" or \"published\" has the wrong type or is too large");
    if (vm_shares_from_json(c, json_object_get(j, "shares")) < 0)
        return error_set(e, EINVAL, "configuration: \"shares\" has the wrong type or is too large");
    return 0;
}
