/* The store of machine images: names, drafts, garbage. vmimage.h has its layout and its rules. */
#include "image/image.h"
#include "image/vmimage.h"
#include "image/vmimage_internal.h"
#include "image/tree.h"
#include "container/sys.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ABOUT     "image.json"
#define ABOUT_MAX (64u << 10)

/* What can be built, and what a name without a tag means. */
static const struct {
    const char *name, *tag;
} distributions[] = {{"debian", "bookworm"}};

bool vmimage_is_ref(const char *text)
{
    return !strncmp(text, VMIMAGE_REF, sizeof(VMIMAGE_REF) - 1);
}

/* A part of a name: its length, or 0. */
static size_t part(const char *s)
{
    size_t n = 0;
    while (isalnum((unsigned char)s[n]) || (n && strchr("._-", s[n]) && s[n]))
        n++;
    return n;
}

int vmimage_ref_parse(const char *ref, char out[VMIMAGE_NAME], struct error *e)
{
    const char *name = vmimage_is_ref(ref) ? ref + sizeof(VMIMAGE_REF) - 1 : ref;
    size_t n = part(name), tag = name[n] == ':' ? part(name + n + 1) : 0;
    if (!n || (name[n] == ':' && !tag) || name[n + (tag ? tag + 1 : 0)])
        return error_set(e, EINVAL,
                         "machine image \"%.100s\": is written vm:NAME or vm:NAME:TAG, of letters, digits, . _ -", ref);
    if (!strcmp(name, "tmp") || !strcmp(name, "lock") || !strcmp(name, VMIMAGE_FAILED_LOG))
        return error_set(e, EINVAL, "machine image \"%s\": the store itself has that name; choose another", ref);
    if (n + tag + 2 > VMIMAGE_NAME)
        return error_set(e, EINVAL, "machine image \"%.40s..\": the name is too long", ref);
    memcpy(out, name, strlen(name) + 1);
    for (size_t i = 0; !tag && i < ARRAY_LEN(distributions); i++)
        if (!strcmp(out, distributions[i].name))
            snprintf(out, VMIMAGE_NAME, "%s:%s", distributions[i].name, distributions[i].tag);
    return 0;
}

const char *vmimage_distribution(const char *name, char suite[VMIMAGE_NAME], struct error *e)
{
    size_t n = strcspn(name, ":");
    for (size_t i = 0; i < ARRAY_LEN(distributions); i++)
        if (strlen(distributions[i].name) == n && !memcmp(name, distributions[i].name, n)) {
            snprintf(suite, VMIMAGE_NAME, "%s", name[n] ? name + n + 1 : distributions[i].tag);
            return distributions[i].name;
        }
    error_set(e, ENOTSUP, "vm:%s: it is not known how to build that; vm:debian[:SUITE] is", name);
    return NULL;
}

int vmimage_store_open(struct vmimage_store *s, const char *path, struct error *e)
{
    char data[PATH_MAX];
    s->dir = -1;
    int r = path ? 0 : image_data_dir(data, sizeof(data), e);
    if (r < 0)
        return r;
    int n = path ? snprintf(s->path, sizeof(s->path), "%s", path)
                 : snprintf(s->path, sizeof(s->path), "%.*s/machines", (int)sizeof(s->path) - 10, data);
    if (n >= (int)sizeof(s->path))
        return error_set(e, ENAMETOOLONG, "store of machine images: its name is too long");
    s->dir = tree_make(s->path, e);
    if (s->dir < 0)
        return s->dir;
    CLEANUP_FD int tmp = tree_make_at(s->dir, "tmp", 0700, e);
    if (tmp >= 0)
        return 0;
    vmimage_store_close(s);
    return tmp;
}

void vmimage_store_close(struct vmimage_store *s)
{
    sys_close(&s->dir);
    s->dir = -1;
}

/* --- drafts --- */

/* Its lock is ours: the directory goes, then the lock. */
static int remove_draft(const struct vmimage_store *s, int tmp, const char *name, struct error *e)
{
    char lock[NAME_MAX], path[PATH_MAX];
    if (tree_remove(tmp, name, NULL) < 0) {
        /* What a build made belongs to others where it has a user namespace. */
        if (snprintf(path, sizeof(path), "%s/tmp/%s", s->path, name) >= (int)sizeof(path))
            return error_set(e, ENAMETOOLONG, "%s: its name is too long", s->path);
        int r = space_remove(path, e);
        if (r < 0)
            return r;
    }
    snprintf(lock, sizeof(lock), "%.200s.lock", name);
    unlinkat(tmp, lock, 0);
    return 0;
}

static int sweep_locked(const struct vmimage_store *s, int tmp, struct error *e)
{
    int copy = openat(tmp, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), worst = 0;
    DIR *d = copy < 0 ? NULL : fdopendir(copy);
    const struct dirent *entry;
    if (!d) {
        int r = sys_error(e, "%s/tmp", s->path);
        sys_close(&copy);
        return r;
    }
    while ((entry = readdir(d))) {
        char name[NAME_MAX + 1], lock[NAME_MAX + 8];
        snprintf(name, sizeof(name), "%s", entry->d_name);
        if (name[0] == '.')
            continue;
        char *end = strrchr(name, '.');
        if (end && !strcmp(end, ".lock"))
            *end = 0;
        snprintf(lock, sizeof(lock), "%s.lock", name);
        CLEANUP_FD int held = tree_lock(tmp, lock, true, false, NULL);
        if (held >= 0 && remove_draft(s, tmp, name, e) < 0)
            worst = -EIO;
    }
    closedir(d);
    return worst;
}

/* Between a draft's lock file and its lock nobody may sweep. */
static int open_tmp(const struct vmimage_store *s, int *lock, struct error *e)
{
    *lock = tree_lock(s->dir, "lock", true, true, e);
    if (*lock < 0)
        return *lock;
    int tmp = openat(s->dir, "tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return tmp < 0 ? sys_error(e, "%s/tmp", s->path) : tmp;
}

int vmimage_sweep(const struct vmimage_store *s, struct error *e)
{
    CLEANUP_FD int lock = -1;
    CLEANUP_FD int tmp = open_tmp(s, &lock, e);
    return tmp < 0 ? tmp : sweep_locked(s, tmp, e);
}

int vmimage_draft_begin(struct vmimage_draft *d, const struct vmimage_store *s, struct error *e)
{
    char name[64];
    *d = (struct vmimage_draft){.store = s, .dir = -1, .lock = -1};
    CLEANUP_FD int lock = -1;
    CLEANUP_FD int tmp = open_tmp(s, &lock, e);
    if (tmp < 0)
        return tmp;
    sweep_locked(s, tmp, NULL); /* what can not be removed now is tried again the next time */
    tree_random(d->name, sizeof(d->name), "draft-");
    if (snprintf(d->path, sizeof(d->path), "%s/tmp/%s", s->path, d->name) >= (int)sizeof(d->path))
        return error_set(e, ENAMETOOLONG, "%s: its name is too long", s->path);
    snprintf(name, sizeof(name), "%s.lock", d->name);
    d->lock = tree_lock(tmp, name, true, false, e);
    if (d->lock < 0)
        return d->lock;
    d->dir = tree_make_at(tmp, d->name, 0700, e);
    if (d->dir >= 0)
        return 0;
    int r = d->dir;
    vmimage_draft_abort(d);
    return r;
}

void vmimage_draft_abort(struct vmimage_draft *d)
{
    int tmp = openat(d->store->dir, "tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    sys_close(&d->dir);
    if (tmp >= 0 && d->lock >= 0)
        remove_draft(d->store, tmp, d->name, NULL);
    sys_close(&tmp);
    sys_close(&d->lock);
    d->dir = d->lock = -1;
}

/* All files of it are on the disk. */
static int sync_all(int dir, struct error *e)
{
    static const char *const files[] = {VMIMAGE_DISK, VMIMAGE_KERNEL, VMIMAGE_INITRD, ABOUT};
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        CLEANUP_FD int fd = openat(dir, files[i], O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 || fsync(fd) < 0)
            return sys_error(e, "machine image: %s", files[i]);
    }
    return fsync(dir) < 0 ? sys_error(e, "machine image") : 0;
}

/* From tmp to its name; an older one of that name takes the draft's place, and goes with it. */
static int give_name(const struct vmimage_draft *d, const char *name, struct error *e)
{
    char from[64];
    snprintf(from, sizeof(from), "tmp/%s", d->name);
    int r = (int)syscall(SYS_renameat2, d->store->dir, from, d->store->dir, name, RENAME_NOREPLACE);
    if (r < 0 && errno == EEXIST)
        r = (int)syscall(SYS_renameat2, d->store->dir, from, d->store->dir, name, RENAME_EXCHANGE);
    if (r < 0)
        return sys_error(e, "vm:%s: cannot be given its name in %s", name, d->store->path);
    return fsync(d->store->dir) < 0 ? sys_error(e, "%s", d->store->path) : 0;
}

int vmimage_draft_commit(struct vmimage_draft *d, const char *name, json_t *about, struct error *e)
{
    CLEANUP_FREE char *text = json_dumps(about, JSON_INDENT(2) | JSON_SORT_KEYS);
    int r = text ? tree_write(d->dir, ABOUT, text, strlen(text), true, e) : error_set(e, ENOMEM, "out of memory");
    if (r == 0)
        r = sync_all(d->dir, e);
    if (r == 0)
        r = give_name(d, name, e);
    vmimage_draft_abort(d); /* the older one; else only the lock is left */
    return r;
}

/* --- what there is --- */

/* What image.json says in the directory of an image; NULL with `e`. */
static json_t *read_about(int dir, const char *name, struct error *e)
{
    CLEANUP_FREE char *text = NULL;
    size_t size;
    int r = sys_read_at(dir, ABOUT, ABOUT_MAX, &text, &size);
    json_t *j = r < 0 ? NULL : json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
    if (json_is_object(j))
        return j;
    json_decref(j);
    error_set(e, r < 0 ? -r : EBADMSG, "vm:%s: %s: %s", name, ABOUT, r < 0 ? strerror(-r) : "no JSON");
    return NULL;
}

static void add_row(const struct vmimage_store *s, const char *name, json_t *rows)
{
    char shown[VMIMAGE_NAME + 4];
    CLEANUP_FD int dir = openat(s->dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    json_t *row = dir < 0 ? NULL : read_about(dir, name, NULL);
    bool damaged = !row;
    snprintf(shown, sizeof(shown), VMIMAGE_REF "%s", name);
    if (!row)
        row = json_object();
    json_object_set_new(row, "kind", json_string("machine"));
    json_object_set_new(row, "name", json_string(shown));
    json_object_set_new(row, "size", json_integer((json_int_t)tree_usage(s->dir, name)));
    if (!json_is_string(json_object_get(row, "id")))
        json_object_set_new(row, "id", json_string(""));
    if (damaged)
        json_object_set_new(row, "damaged", json_true());
    json_array_append_new(rows, row);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Directories that can be images, sorted. */
static char **list_names(const struct vmimage_store *s, size_t *n, struct error *e)
{
    int copy = openat(s->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = copy < 0 ? NULL : fdopendir(copy);
    const struct dirent *entry;
    char **names = calloc(1, sizeof(*names)), name[VMIMAGE_NAME];
    *n = 0;
    if (!d || !names) {
        sys_error(e, "%s", s->path);
        sys_close(&copy);
        free(names);
        return NULL;
    }
    while ((entry = readdir(d))) {
        struct stat st;
        if (!strcmp(entry->d_name, "tmp") || vmimage_ref_parse(entry->d_name, name, NULL) < 0 ||
            fstatat(s->dir, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISDIR(st.st_mode))
            continue;
        char **more = realloc(names, (*n + 2) * sizeof(*names));
        names = more ? more : names;
        if (more && (names[*n] = strdup(entry->d_name)))
            ++*n;
    }
    closedir(d);
    qsort(names, *n, sizeof(*names), compare_names);
    return names;
}

json_t *vmimage_list(const struct vmimage_store *s, struct error *e)
{
    size_t n;
    char **names = list_names(s, &n, e);
    json_t *rows = names ? json_array() : NULL;
    for (size_t i = 0; rows && i < n; i++)
        add_row(s, names[i], rows);
    for (size_t i = 0; names && i < n; i++)
        free(names[i]);
    free(names);
    return rows;
}

static int no_such(const char *name, struct error *e)
{
    char suite[VMIMAGE_NAME];
    bool known = vmimage_distribution(name, suite, NULL);
    return known ? error_set(e, ENOENT, "vm:%s: no such image; make it with `trapeze image build vm:%s`", name, name)
                 : error_set(
                       e, ENOENT,
                       "vm:%s: no such image; `trapeze image list` shows those that there are, `trapeze image build "
                       "--name %s vm:debian` makes one",
                       name, name);
}

int vmimage_remove(const struct vmimage_store *s, const char *name, struct error *e)
{
    struct vmimage_draft d;
    char to[64];
    struct stat st;
    if (fstatat(s->dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
        return no_such(name, e);
    /* It becomes garbage in one step: the same name may be built meanwhile. */
    int r = vmimage_draft_begin(&d, s, e);
    if (r < 0)
        return r;
    snprintf(to, sizeof(to), "tmp/%s", d.name);
    if (syscall(SYS_renameat2, s->dir, name, s->dir, to, RENAME_EXCHANGE) < 0)
        r = sys_error(e, "vm:%s: cannot be removed", name);
    else if (unlinkat(s->dir, name, AT_REMOVEDIR) < 0)
        r = sys_error(e, "vm:%s: cannot be removed", name);
    vmimage_draft_abort(&d);
    return r;
}

/* --- what a machine is told of it --- */

int vmimage_open(const struct vmimage_store *s, const char *name, struct error *e)
{
    int dir = openat(s->dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir < 0)
        return errno == ENOENT ? no_such(name, e) : sys_error(e, "vm:%s", name);
    return dir;
}

int vmimage_describe_at(int dir, const char *name, const char *to, struct vmimage_files *out, struct error *e)
{
    const struct {
        char *out;
        const char *file;
    } files[] = {{out->disk, VMIMAGE_DISK}, {out->kernel, VMIMAGE_KERNEL}, {out->initrd, VMIMAGE_INITRD}};
    const char *append = NULL;
    json_t *about = read_about(dir, name, e);
    if (!about)
        return -EBADMSG;
    int r = 0;
    if (json_unpack(about, "{s:s}", "append", &append) < 0 || strlen(append) >= sizeof(out->append))
        r = error_set(e, EBADMSG, "vm:%s: %s: has no kernel command line; build the image again", name, ABOUT);
    else
        memcpy(out->append, append, strlen(append) + 1);
    json_decref(about);
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(files); i++)
        if (snprintf(files[i].out, PATH_MAX, "%s/%s", to, files[i].file) >= PATH_MAX)
            r = error_set(e, ENAMETOOLONG, "%.100s..: the name is too long", to);
    return r;
}

int vmimage_describe(const struct vmimage_store *s, const char *name, const char *to, struct vmimage_files *out,
                     struct error *e)
{
    CLEANUP_FD int dir = vmimage_open(s, name, e);
    return dir < 0 ? dir : vmimage_describe_at(dir, name, to, out, e);
}
