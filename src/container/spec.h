/*
 * A container's configuration (config.json of the OCI runtime specification 1.2, with the additions of 1.3 that concern
 * Linux) as a value. Parsed once, each field checked, and not changed any more: everything else in the room reads it.
 *
 * Strings belong to the JSON document, which the spec holds; arrays belong to its arena.
 */
#ifndef TRAPEZE_CONTAINER_SPEC_H
#define TRAPEZE_CONTAINER_SPEC_H

#include "base/error.h"
#include "base/types.h"
#include "container/arena.h"
#include "container/reader.h"

#include <sys/types.h>

#define SPEC_VERSION_MIN "1.0.0"
#define SPEC_VERSION_MAX "1.3.0"

struct spec_id_map {
    u32 inside, outside, size;
};

struct spec_id_maps {
    struct spec_id_map *v;
    size_t n;
};

struct spec_mount {
    const char *destination;
    const char *type;   /* may be NULL */
    const char *source; /* may be NULL */
    struct strings options;
    struct spec_id_maps uid_maps, gid_maps;
};

struct spec_hook {
    const char *path;
    struct strings args, env;
    bool has_env;
    u32 timeout; /* seconds, 0: none */
};

struct spec_hooks {
    struct spec_hook *v;
    size_t n;
};

enum spec_hook_kind {
    HOOK_PRESTART,
    HOOK_CREATE_RUNTIME,
    HOOK_CREATE_CONTAINER,
    HOOK_START_CONTAINER,
    HOOK_POSTSTART,
    HOOK_POSTSTOP,
    HOOK_KINDS
};

struct spec_rlimit {
    int resource; /* RLIMIT_* */
    const char *name;
    u64 soft, hard;
};

/* Sets of capabilities, bit n for capability n. */
struct spec_capabilities {
    bool given;
    u64 bounding, effective, inheritable, permitted, ambient;
};

struct spec_scheduler {
    bool given;
    u32 policy;
    s32 nice, priority;
    u64 flags, runtime, deadline, period;
};

struct spec_process {
    bool terminal;
    u16 console_rows, console_columns; /* 0: not given */
    u32 uid, gid;
    u32 *groups;
    size_t n_groups;
    struct opt_u64 umask;
    struct strings args, env;
    const char *cwd;
    struct spec_capabilities capabilities;
    struct spec_rlimit *rlimits;
    size_t n_rlimits;
    const char *apparmor_profile, *selinux_label;
    bool no_new_privileges;
    struct opt_s64 oom_score_adj;
    struct spec_scheduler scheduler;
    struct opt_s64 io_class, io_priority;
    const char *affinity_initial, *affinity_final; /* lists of CPUs, may be NULL */
};

struct spec_namespace {
    u64 flag;         /* CLONE_NEW* */
    const char *path; /* NULL: a new one */
};

struct spec_device {
    char type; /* b, c, u, p */
    const char *path;
    u32 major, minor;
    u32 mode;
    bool has_mode;
    u32 uid, gid;
};

struct spec_device_rule {
    bool allow;
    char type;          /* a, b, c */
    s64 major, minor;   /* -1: any */
    const char *access; /* of r, w, m; never empty */
};

struct spec_block_device {
    u32 major, minor;
    struct opt_u64 weight, leaf_weight, rate;
};

struct spec_block_devices {
    struct spec_block_device *v;
    size_t n;
};

enum spec_throttle { THROTTLE_READ_BPS, THROTTLE_WRITE_BPS, THROTTLE_READ_IOPS, THROTTLE_WRITE_IOPS, THROTTLES };

struct spec_huge {
    const char *page_size;
    u64 limit;
};

struct spec_priority {
    const char *name;
    u32 priority;
};

struct spec_rdma {
    const char *device;
    struct opt_u64 handles, objects;
};

struct spec_resources {
    bool given;
    struct spec_device_rule *devices;
    size_t n_devices;
    struct opt_u64 cpu_shares, cpu_period, cpu_burst, cpu_rt_period;
    struct opt_s64 cpu_quota, cpu_rt_runtime, cpu_idle;
    const char *cpus, *mems;
    struct opt_s64 memory, memory_reservation, memory_swap, memory_kernel, memory_kernel_tcp;
    struct opt_u64 swappiness;
    struct opt_u64 oom_disable;
    bool memory_check;
    struct opt_s64 pids;
    struct opt_u64 block_weight, block_leaf_weight;
    struct spec_block_devices block_weights, throttle[THROTTLES];
    struct spec_huge *huge;
    size_t n_huge;
    struct opt_u64 class_id;
    struct spec_priority *priorities;
    size_t n_priorities;
    struct spec_rdma *rdma;
    size_t n_rdma;
    struct strings unified; /* file, value, .. */
};

struct spec_seccomp_arg {
    u32 index, op;
    u64 value, value_two;
};

struct spec_seccomp_rule {
    struct strings names;
    u32 action; /* with the errno in its low half, as libseccomp wants it */
    struct spec_seccomp_arg *args;
    size_t n_args;
};

struct spec_seccomp {
    bool given;
    u32 default_action;
    u64 flags; /* SECCOMP_FILTER_FLAG_* */
    u32 *architectures;
    size_t n_architectures;
    struct spec_seccomp_rule *rules;
    size_t n_rules;
    const char *listener_path, *listener_metadata;
};

struct spec_time_offset {
    bool given;
    s64 secs;
    u32 nanosecs;
};

struct spec_rdt {
    bool given;
    const char *clos, *l3, *bandwidth;
    struct strings schemata;
    bool monitoring;
};

struct spec_memory_policy {
    bool given;
    u32 mode, flags;
    const char *nodes;
};

struct spec {
    json_t *json;
    struct arena arena;
    const char *version;
    const char *root_path;
    bool root_readonly;
    bool has_process;
    struct spec_process process;
    const char *hostname, *domainname;
    struct spec_mount *mounts;
    size_t n_mounts;
    struct spec_hooks hooks[HOOK_KINDS];
    struct strings annotations; /* name, value, .. */
    struct spec_namespace *namespaces;
    size_t n_namespaces;
    struct spec_id_maps uid_maps, gid_maps;
    struct spec_device *devices;
    size_t n_devices;
    struct strings net_devices; /* host name, container name, .. */
    const char *cgroups_path;
    struct spec_resources resources;
    struct spec_seccomp seccomp;
    struct strings sysctl; /* name, value, .. */
    struct strings masked_paths, readonly_paths;
    const char *mount_label;
    u64 rootfs_propagation; /* MS_* with MS_REC where the word has an r before it, 0: not given */
    struct opt_u64 personality;
    struct spec_time_offset time_monotonic, time_boottime;
    struct spec_rdt rdt;
    struct spec_memory_policy memory_policy;
};

/*
 * Parse and check a whole config.json. 0, or -EINVAL with the field's path in `e`; -ENOTSUP for the `vm` section. Free
 * with spec_free in either case.
 */
int spec_parse(struct spec *s, const char *text, size_t size, struct error *e);
void spec_free(struct spec *s);

/* What `exec --process FILE` gets: a process object. Its strings live as long as `json` and `arena`, which it fills. */
int spec_parse_process(struct spec_process *p, json_t **json, struct arena *arena, const char *text, size_t size,
                       struct error *e);

/* What `update --resources FILE` gets: a resources object. Free as above. */
int spec_parse_resources(struct spec_resources *res, json_t **json, struct arena *arena, const char *text, size_t size,
                         struct error *e);

/* The namespace of this kind (CLONE_NEW*), or NULL: the runtime's is shared. */
const struct spec_namespace *spec_namespace(const struct spec *s, u64 flag);

/* The value of an annotation, or NULL. */
const char *spec_annotation(const struct spec *s, const char *name);

/* Parts of the parser, a file each. */
void spec_read_process(struct reader *r, const struct node *n, struct spec_process *p);
void spec_read_linux(struct reader *r, const struct node *section, struct spec *s);
void spec_read_resources(struct reader *r, const struct node *n, struct spec_resources *res);
void spec_read_seccomp(struct reader *r, const struct node *n, struct spec_seccomp *s);
struct spec_id_maps spec_read_id_maps(struct reader *r, const struct node *up, const char *name);

/* Words with numbers, used by the parser, `features` and messages. */
extern const struct word spec_capability_words[];
extern const struct word spec_rlimit_words[];
extern const struct word spec_namespace_words[];
extern const struct word spec_signal_words[];
extern const struct word spec_policy_words[];
extern const struct word spec_memory_mode_words[];
extern const struct word spec_memory_flag_words[];
extern const struct word spec_hook_words[];
extern const struct word spec_action_words[];
extern const struct word spec_operator_words[];
extern const struct word spec_architecture_words[];
extern const struct word spec_seccomp_flag_words[];

#endif
