/*
 * Images of whole machines: a store of their own beside that of container images, how one is built, and how a machine
 * gets its copy.
 *
 *     DATA/trapeze/machines/                   DATA: $XDG_DATA_HOME or ~/.local/share
 *         NAME/                                NAME: "debian:bookworm", "mine"
 *             image.json                       what it is: describe in vmimage_debian.c has the members
 *             disk.img                         raw, sparse
 *             vmlinuz, initrd.img              kernel and initrd for direct boot
 *         tmp/DRAFT/, tmp/DRAFT.lock           an image in the making; its builder holds the lock
 *         lock                                 held while drafts are begun and swept
 *         failed-build.log                     what the last build that failed had printed
 *
 * What must stay true
 *  1. A directory has an image's name only when all of it is on the disk: built in tmp, synced, renamed.
 *  2. A draft whose lock nobody holds is garbage; each change of the store begins with removing those.
 *  3. A machine shares nothing with the image that it was made from: an image may go, or be built again, at any time.
 */
#ifndef TRAPEZE_IMAGE_VMIMAGE_H
#define TRAPEZE_IMAGE_VMIMAGE_H

#include "base/error.h"
#include "base/types.h"

#include <jansson.h>
#include <limits.h>

#define VMIMAGE_REF        "vm:"
#define VMIMAGE_NAME       96 /* with the zero */

#define VMIMAGE_DISK       "disk.img"
#define VMIMAGE_KERNEL     "vmlinuz"
#define VMIMAGE_INITRD     "initrd.img"
#define VMIMAGE_FAILED_LOG "failed-build.log" /* in the store */
#define VMIMAGE_SEED       "cidata.img"       /* beside the copies: the NoCloud disk */

/* Whether `text` names a machine image: begins with "vm:". */
bool vmimage_is_ref(const char *text);
/*
 * The name of an image by "vm:NAME[:TAG]": letters, digits, `.`, `_`, `-`. A distribution that can be built has a default
 * tag ("vm:debian" is "debian:bookworm"). 0 or -EINVAL with `e`.
 */
int vmimage_ref_parse(const char *ref, char out[VMIMAGE_NAME], struct error *e);

/* --- the store (vmimage_store.c) --- */

struct vmimage_store {
    char path[PATH_MAX];
    int dir;
};

/* `path` NULL: the user's. Made if missing. */
int vmimage_store_open(struct vmimage_store *s, const char *path, struct error *e);
void vmimage_store_close(struct vmimage_store *s);

/* [{kind: "machine", name: "vm:..", id, size, created, ..}] by name. A new reference, or NULL with `e`. */
json_t *vmimage_list(const struct vmimage_store *s, struct error *e);
/* Remove an image by its name; -ENOENT with advice. */
int vmimage_remove(const struct vmimage_store *s, const char *name, struct error *e);
/* Remove drafts that nobody works on. */
int vmimage_sweep(const struct vmimage_store *s, struct error *e);

/* An image in the making. */
struct vmimage_draft {
    const struct vmimage_store *store;
    char name[40];       /* below tmp */
    char path[PATH_MAX]; /* absolute */
    int dir, lock;
};

int vmimage_draft_begin(struct vmimage_draft *d, const struct vmimage_store *s, struct error *e);
/* Give it its name: an older image of that name goes. `about` is borrowed: members of image.json. Ends the draft either way. */
int vmimage_draft_commit(struct vmimage_draft *d, const char *name, json_t *about, struct error *e);
void vmimage_draft_abort(struct vmimage_draft *d);

/* --- use (vmimage_copy.c) --- */

struct vmimage_files {
    char append[512]; /* kernel command line */
    char kernel[PATH_MAX], initrd[PATH_MAX], disk[PATH_MAX];
};

/*
 * Copy an image's files into the directory `to` (that of a machine): by reflink where the file system can, else the data
 * without the holes. `disk_size` 0: as large as the image's; less is refused. 0 with *out, or -errno with `e`: then what
 * was made may be left in `to`, which is the caller's to remove.
 */
int vmimage_copy(const struct vmimage_store *s, const char *name, const char *to, u64 disk_size,
                 struct vmimage_files *out, struct error *e);
/* The names that vmimage_copy makes in `to`, and the kernel's command line. -ENOENT with advice when there is no such image. */
int vmimage_describe(const struct vmimage_store *s, const char *name, const char *to, struct vmimage_files *out,
                     struct error *e);

/* --- building (vmimage_debian.c) --- */

struct vmimage_build {
    const char *suite;   /* NULL: the default */
    const char *mirror;  /* NULL: that of this host's apt, else Debian's */
    const char *include; /* more packages, separated by commas; NULL: none */
    const char *agent;   /* file: the guest's agent */
    u64 size;            /* bytes of the disk */
    /* A step has begun, or (`detail` not NULL) what is done in it. */
    void (*progress)(void *arg, const char *step, const char *detail);
    void *arg;
    int signal; /* out: the signal that cancelled it, else 0 */
};

/* Packages and abilities that a build needs and this host lacks: -ENOENT, -EPERM with `e`. */
int vmimage_build_check(const struct vmimage_build *b, struct error *e);
/*
 * Build a Debian into the draft; *about is a new reference: what image.json is to have. SIGINT, SIGTERM and SIGHUP cancel
 * it: -EINTR. No process is left in any case.
 */
int vmimage_build_debian(struct vmimage_build *b, struct vmimage_draft *d, json_t **about, struct error *e);
/* The name of the distribution that a reference asks for, "debian", and its suite into `suite`; NULL with `e`: none that
 * we can build. */
const char *vmimage_distribution(const char *name, char suite[VMIMAGE_NAME], struct error *e);

/*
 * The Debian mirror that the apt sources below `etc` ("/etc/apt") name, and the archive of security updates. All "" when there
 * is none, or when it is Debian's own: mmdebstrap knows that with all its archives.
 */
#define VMIMAGE_MIRROR 512
struct vmimage_mirror {
    char archive[VMIMAGE_MIRROR], security[VMIMAGE_MIRROR];
};
void vmimage_mirror(const char *etc, struct vmimage_mirror *out);

/* --- NoCloud (nocloud.c) --- */

#define NOCLOUD_KEYS 64

/* What a machine is told at its first boot. */
struct nocloud {
    const char *instance; /* an id: what is done once is done once for each */
    const char *hostname;
    const char *user; /* NULL: none is made */
    char *keys[NOCLOUD_KEYS];
    unsigned n_keys; /* for the user, or root without one */
};

/* Whether a name can be a user's in the guest, a host's. 0 or -EINVAL with `e`. */
int nocloud_check_user(const char *name, struct error *e);
int nocloud_check_host(const char *name, struct error *e);
/* Make a host name of a machine's: what can not be in one becomes a dash. */
void nocloud_host(const char *machine, char out[64]);
/* Add the public keys of a file as ssh-keygen makes it, or of an authorized_keys file. */
int nocloud_add_keys(struct nocloud *n, const char *file, struct error *e);
void nocloud_free(struct nocloud *n);

/* The two documents; free them. NULL: out of memory. */
char *nocloud_meta_data(const struct nocloud *n);
char *nocloud_user_data(const struct nocloud *n);
/* A disk image, ISO 9660 with the label "cidata", that has them. `file` is made. */
int nocloud_write(const struct nocloud *n, const char *file, struct error *e);

#endif
