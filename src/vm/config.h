/*
 * What a machine is made of, as the person asked for it: the value that `run` fills from its options, that launch checks
 * and starts, that `inspect` shows and that the registry keeps as JSON.
 */
#ifndef TRAPEZE_VM_CONFIG_H
#define TRAPEZE_VM_CONFIG_H

#include "backend/net/net.h"
#include "backend/share/share.h"
#include "base/error.h"
#include "base/types.h"

#include <jansson.h>
#include <limits.h>

#define VM_NAME_MAX     63
#define VM_APPEND_MAX   2047
#define VM_CPUS_MAX     64u
#define VM_MEMORY_MIN   (8ull << 20)
#define VM_MEMORY_MAX   (1ull << 40)
#define VM_MEMORY_FLOOR (64ull << 20) /* the least that `update` leaves a guest */
#define VM_DISKS_MAX    16
#define VM_CODE_MIN     (256ull << 10)
#define VM_CODE_MAX     (4ull << 30)

/* A disk: "FILE[,format=F][,readonly][,cache=C]" */
struct vm_disk {
    char file[PATH_MAX];
    char format[16]; /* "": by the file's suffix */
    char cache[16];  /* "auto", "none", "writeback", "writethrough" */
    bool read_only;
};

/* A network card: "user[,host]", "tap:IFNAME", "bridge:NAME", "switch:NAME", and ",mac=.." */
struct vm_net {
    enum net_kind kind;
    char name[NET_NAME_MAX]; /* behind the colon */
    char mac[18];            /* "": one is chosen at the start */
    bool host;               /* user: the guest reaches what the host serves on its loopback addresses */
};

/* A shared directory: "DIR:TAG[:ro]" */
struct vm_share {
    char dir[PATH_MAX];
    char tag[SHARE_TAG_MAX + 1];
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
    char console[16]; /* --console: "serial" or "virtio" */
    bool no_reboot;   /* a reset ends the machine instead of starting it again */
    u64 code_cache;   /* bytes; 0: the engine's default */
    char virtio[8];   /* --virtio: how its devices are reached, "pci" or "mmio" */
    unsigned n_disks;
    struct vm_disk disks[VM_DISKS_MAX]; /* in the order in which the guest finds them */
    unsigned n_nets;
    struct vm_net nets[NET_COUNT_MAX];
    unsigned n_forwards;
    struct net_forward forwards[NET_FORWARDS]; /* to the first card in user mode */
    unsigned n_shares;
    struct vm_share shares[SHARE_COUNT_MAX];
};

/* The defaults of `trapeze run`: 512 MiB, one CPU, host, auto. Everything else empty: no disk, no network. */
void vm_config_init(struct vm_config *c);

/*
 * Whether a machine like this can be made here. One line that names the option, the cause and what to do; -EINVAL, or
 * -ENOSYS for what is not there yet. Opens no file: launch does.
 */
int vm_config_check(const struct vm_config *c, struct error *e);
/* Of that, the engine alone. */
int vm_config_check_engine(const struct vm_config *c, struct error *e);

/* The engine that a checked configuration gets: "auto" becomes the one that this host can run. */
const char *vm_config_engine(const struct vm_config *c);

/* Whether the machine has a virtio console, and is typed to there. */
bool vm_config_virtio_console(const struct vm_config *c);
/* Whether the devices of a checked configuration are in windows of memory instead of on the PCI bus. */
bool vm_config_virtio_mmio(const struct vm_config *c);

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

/* --- net_config.c --- */

/* Read what --network was given: 1, 0 for "none", or -EINVAL with `e`. */
int vm_net_parse(struct vm_net *n, const char *text, struct error *e);
/* Read what --publish was given: "[HOSTADDR:]HOSTPORT:GUESTPORT[/udp]". */
int vm_forward_parse(struct net_forward *f, const char *text, struct error *e);
/* Choose addresses for the cards that have none: 52:54:00 and three random bytes. */
void vm_net_addresses(struct vm_config *c);
/* Whether the cards and ports of `c` can be. */
int vm_nets_check(const struct vm_config *c, struct error *e);
/* The six bytes of a card's address; it was checked. */
void vm_net_mac(const struct vm_net *n, u8 mac[6]);
json_t *vm_nets_to_json(const struct vm_config *c);
json_t *vm_forwards_to_json(const struct vm_config *c);
/* 0 or -1: something has another type or is too long. NULL: there are none. */
int vm_nets_from_json(struct vm_config *c, const json_t *nets, const json_t *forwards);

/* --- share_config.c --- */

/* Read what --share was given. -EINVAL with `e`. */
int vm_share_parse(struct vm_share *s, const char *text, struct error *e);
/* Whether the shares of `c` can be; whether the directories are there is found at launch. */
int vm_shares_check(const struct vm_config *c, struct error *e);
/* What both sides of it know. */
struct share_info vm_share_info(const struct vm_share *s);
json_t *vm_shares_to_json(const struct vm_config *c);
/* 0 or -1: something has another type or is too long. NULL: there are none. */
int vm_shares_from_json(struct vm_config *c, const json_t *a);

#endif
