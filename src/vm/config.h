/*
 * What a machine is made of, as the person asked for it: the value that `run` fills from its options, that launch checks
 * and starts, that `inspect` shows and that the registry keeps as JSON.
 */
#ifndef TRAPEZE_VM_CONFIG_H
#define TRAPEZE_VM_CONFIG_H

#include "base/error.h"
#include "base/types.h"

#include <jansson.h>
#include <limits.h>

#define VM_NAME_MAX   63
#define VM_APPEND_MAX 2047
#define VM_CPUS_MAX   64u
#define VM_MEMORY_MIN (8ull << 20)
#define VM_MEMORY_MAX (1ull << 40)
#define VM_DISKS_MAX  16
#define VM_CODE_MIN   (256ull << 10)
#define VM_CODE_MAX   (4ull << 30)

/* A disk: "FILE[,format=F][,readonly][,cache=C]" */
struct vm_disk {
    char file[PATH_MAX];
    char format[16]; /* "": by the file's suffix */
    char cache[16];  /* "auto", "none", "writeback", "writethrough" */
    bool read_only;
};

struct vm_config {
    char name[VM_NAME_MAX + 1];
    u64 memory; /* bytes, whole pages */
    unsigned cpus;
    char cpu_model[128]; /* --cpu: "host", "x86-64-v3,+avx2" ... */
    char engine[16];     /* --engine: "auto" or the name of one (engine_at) */
    char kernel[PATH_MAX];
    char initrd[PATH_MAX]; /* "" without one */
    char append[VM_APPEND_MAX + 1];
    bool no_reboot; /* a reset ends the machine instead of starting it again */
    u64 code_cache; /* bytes; 0: the engine's default */
    unsigned n_disks;
    struct vm_disk disks[VM_DISKS_MAX]; /* in the order in which the guest finds them */
};

/* The defaults of `trapeze run`: 512 MiB, one CPU, host, auto. Everything else empty. */
void vm_config_init(struct vm_config *c);

/*
 * Whether a machine like this can be made here. One line that names the option, the cause and what to do; -EINVAL, or
 * -ENOSYS for what is not there yet. Opens no file: launch does.
 */
int vm_config_check(const struct vm_config *c, struct error *e);

/* The engine that a checked configuration gets: "auto" becomes the one that this host can run. */
const char *vm_config_engine(const struct vm_config *c);

/* A new JSON object (the caller's reference), or NULL when out of memory or when a string is no UTF-8. */
json_t *vm_config_to_json(const struct vm_config *c);

/* The opposite; unknown members are ignored, missing ones get their defaults. -EINVAL with `e` for a wrong type or size. */
int vm_config_from_json(struct vm_config *c, const json_t *j, struct error *e);

/* --- disk_config.c --- */

/* Read what --disk was given. -EINVAL with `e`. */
int vm_disk_parse(struct vm_disk *d, const char *text, struct error *e);
/* Whether format and cache mode are ones that there are. */
int vm_disk_check(const struct vm_disk *d, struct error *e);
json_t *vm_disk_to_json(const struct vm_disk *d);
/* 0 or -1: something has another type or is too long. */
int vm_disk_from_json(struct vm_disk *d, const json_t *j);

#endif
