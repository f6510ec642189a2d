#include "container/mount_option.h"

#include <errno.h>
#include <string.h>
#include <sys/mount.h>

#ifndef MOUNT_ATTR_NOSYMFOLLOW
#define MOUNT_ATTR_NOSYMFOLLOW 0x00200000
#endif

enum option_kind { KIND_NONE, KIND_SET, KIND_CLEAR, KIND_ATIME, KIND_PROPAGATION, KIND_SUPERBLOCK, KIND_WORD };
enum option_word { WORD_BIND, WORD_RBIND, WORD_REMOUNT, WORD_IDMAP, WORD_RIDMAP, WORD_COPY_UP, WORD_COPY_SYMLINK };

/* `recursive`: there is an option of the same name with an r before it, for the whole tree. */
static const struct option {
    const char *name;
    u8 kind;
    bool recursive;
    u64 value;
} options[] = {
    {"async", KIND_NONE, false, 0},
    {"atime", KIND_CLEAR, true, MOUNT_ATTR_NOATIME},
    {"bind", KIND_WORD, false, WORD_BIND},
    {"copy-symlink", KIND_WORD, false, WORD_COPY_SYMLINK},
    {"defaults", KIND_NONE, false, 0},
    {"dev", KIND_CLEAR, true, MOUNT_ATTR_NODEV},
    {"diratime", KIND_CLEAR, true, MOUNT_ATTR_NODIRATIME},
    {"dirsync", KIND_SUPERBLOCK, false, 0},
    {"exec", KIND_CLEAR, true, MOUNT_ATTR_NOEXEC},
    {"idmap", KIND_WORD, false, WORD_IDMAP},
    {"iversion", KIND_SUPERBLOCK, false, 0},
    {"lazytime", KIND_SUPERBLOCK, false, 0},
    {"loud", KIND_NONE, false, 0},
    {"mand", KIND_SUPERBLOCK, false, 0},
    {"noatime", KIND_ATIME, true, MOUNT_ATTR_NOATIME},
    {"nodev", KIND_SET, true, MOUNT_ATTR_NODEV},
    {"nodiratime", KIND_SET, true, MOUNT_ATTR_NODIRATIME},
    {"noexec", KIND_SET, true, MOUNT_ATTR_NOEXEC},
    {"noiversion", KIND_NONE, false, 0},
    {"nolazytime", KIND_NONE, false, 0},
    {"nomand", KIND_NONE, false, 0},
    {"norelatime", KIND_ATIME, true, MOUNT_ATTR_STRICTATIME},
    {"nostrictatime", KIND_ATIME, true, MOUNT_ATTR_RELATIME},
    {"nosuid", KIND_SET, true, MOUNT_ATTR_NOSUID},
    {"nosymfollow", KIND_SET, true, MOUNT_ATTR_NOSYMFOLLOW},
    {"private", KIND_PROPAGATION, true, MS_PRIVATE},
    {"rbind", KIND_WORD, false, WORD_RBIND},
    {"relatime", KIND_ATIME, true, MOUNT_ATTR_RELATIME},
    {"remount", KIND_WORD, false, WORD_REMOUNT},
    {"ridmap", KIND_WORD, false, WORD_RIDMAP},
    {"ro", KIND_SET, true, MOUNT_ATTR_RDONLY},
    {"rw", KIND_CLEAR, true, MOUNT_ATTR_RDONLY},
    {"shared", KIND_PROPAGATION, true, MS_SHARED},
    {"silent", KIND_SUPERBLOCK, false, 0},
    {"slave", KIND_PROPAGATION, true, MS_SLAVE},
    {"strictatime", KIND_ATIME, true, MOUNT_ATTR_STRICTATIME},
    {"suid", KIND_CLEAR, true, MOUNT_ATTR_NOSUID},
    {"symfollow", KIND_CLEAR, true, MOUNT_ATTR_NOSYMFOLLOW},
    {"sync", KIND_SUPERBLOCK, false, 0},
    {"tmpcopyup", KIND_WORD, false, WORD_COPY_UP},
    {"unbindable", KIND_PROPAGATION, true, MS_UNBINDABLE},
};

const char *mount_option_name(size_t i)
{
    static const char *const recursive[] = {
        "ratime",      "rdev",        "rdiratime",      "rexec",   "rnoatime",     "rnodev",   "rnodiratime",
        "rnoexec",     "rnorelatime", "rnostrictatime", "rnosuid", "rnosymfollow", "rprivate", "rrelatime",
        "rro",         "rrw",         "rshared",        "rslave",  "rstrictatime", "rsuid",    "rsymfollow",
        "runbindable",
    };
    if (i < ARRAY_LEN(options))
        return options[i].name;
    i -= ARRAY_LEN(options);
    return i < ARRAY_LEN(recursive) ? recursive[i] : NULL;
}

static const struct option *find(const char *name, bool *recursive)
{
    *recursive = false;
    for (size_t i = 0; i < ARRAY_LEN(options); i++)
        if (!strcmp(options[i].name, name))
            return &options[i];
    *recursive = name[0] == 'r';
    for (size_t i = 0; *recursive && i < ARRAY_LEN(options); i++)
        if (options[i].recursive && !strcmp(options[i].name, name + 1))
            return &options[i];
    return NULL;
}

/* Later options overrule earlier ones. */
static void put(struct mount_options *o, bool recursive, u64 set, u64 clear)
{
    u64 *s = recursive ? &o->recursive_set : &o->set, *c = recursive ? &o->recursive_clear : &o->clear;
    *s = (*s & ~clear) | set;
    *c = (*c & ~set) | clear;
}

static void put_word(struct mount_options *o, u64 word)
{
    bool *const flags[] = {
        [WORD_BIND] = &o->bind,
        [WORD_RBIND] = &o->bind,
        [WORD_REMOUNT] = &o->remount,
        [WORD_IDMAP] = &o->idmap,
        [WORD_RIDMAP] = &o->idmap,
        [WORD_COPY_UP] = &o->copy_up,
        [WORD_COPY_SYMLINK] = &o->copy_symlink,
    };
    *flags[word] = true;
    o->recursive |= word == WORD_RBIND;
    o->idmap_recursive |= word == WORD_RIDMAP;
}

static void put_option(struct mount_options *o, const struct option *p, bool recursive)
{
    switch (p->kind) {
    case KIND_SET:
        put(o, recursive, p->value, 0);
        break;
    case KIND_CLEAR:
        /* atime is a field of several bits: it is cleared as a whole */
        put(o, recursive, 0, p->value == MOUNT_ATTR_NOATIME ? MOUNT_ATTR__ATIME : p->value);
        break;
    case KIND_ATIME:
        put(o, recursive, 0, MOUNT_ATTR__ATIME);
        *(recursive ? &o->recursive_set : &o->set) |= p->value;
        break;
    case KIND_PROPAGATION:
        o->propagation = p->value;
        o->propagation_recursive = recursive;
        break;
    case KIND_SUPERBLOCK:
        o->superblock.v[o->superblock.n++] = (char *)p->name;
        break;
    case KIND_WORD:
        put_word(o, p->value);
        break;
    }
}

int mount_options_sort(struct mount_options *o, const struct spec_mount *m, struct arena *arena, struct error *e)
{
    bool recursive;
    memset(o, 0, sizeof(*o));
    o->superblock.v = arena_array(arena, m->options.n + 1, sizeof(char *));
    o->data.v = arena_array(arena, m->options.n + 1, sizeof(char *));
    if (!o->superblock.v || !o->data.v)
        return error_set(e, ENOMEM, "mount %s: out of memory", m->destination);
    for (size_t i = 0; i < m->options.n; i++) {
        const struct option *p = find(m->options.v[i], &recursive);
        /* idmap=.. is another runtime's dialect for mappings that the specification has fields for */
        if (!strncmp(m->options.v[i], "idmap=", 6) || !strncmp(m->options.v[i], "ridmap=", 7))
            return error_set(e, EINVAL, "mount %s: option %.60s: give uidMappings and gidMappings", m->destination,
                             m->options.v[i]);
        if (p)
            put_option(o, p, recursive);
        else if (m->options.v[i][0])
            o->data.v[o->data.n++] = m->options.v[i];
    }
    if (m->type && !strcmp(m->type, "bind"))
        o->bind = true;
    if (m->uid_maps.n && !o->idmap)
        o->idmap = true;
    return 0;
}
