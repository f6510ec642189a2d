#include "vm/meta.h"
#include "migrate/digest.h"
#include "vm/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX_BYTES (1ull << 30)
#define REASONS_MAX    16u

/* Size and digest of a file that a reset loads again. */
static int sum_file(const char *path, u64 *bytes, char digest[17], struct error *e)
{
    struct stat st;
    u64 sum = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return error_set(e, errno, "%s: %s", path, strerror(errno));
    int r = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (u64)st.st_size <= FILE_MAX_BYTES
                ? 0
                : error_set(e, EINVAL, "%s: no file, or too large", path);
    if (r == 0)
        r = digest_fd(fd, &sum, e);
    close(fd);
    *bytes = (u64)st.st_size;
    snprintf(digest, 17, "%016" PRIx64, (uint64_t)sum);
    return r;
}

static json_t *files_json(const struct vm_config *c, struct error *e)
{
    json_t *a = json_array();
    const char *names[] = {c->kernel, c->initrd};
    for (size_t i = 0; a && i < ARRAY_LEN(names); i++) {
        u64 bytes;
        char digest[17];
        if (!names[i][0])
            continue;
        if (sum_file(names[i], &bytes, digest, e) < 0) {
            json_decref(a);
            return NULL;
        }
        json_array_append_new(
            a, json_pack("{s:s,s:I,s:s}", "file", names[i], "bytes", (json_int_t)bytes, "digest", digest));
    }
    return a;
}

/* By which two hosts can tell that they mean the same image: what a shared file system says of it. */
static json_t *images_json(const struct vm_config *c)
{
    json_t *a = json_array();
    for (unsigned i = 0; a && i < c->n_disks; i++) {
        struct stat st;
        bool file = stat(c->disks[i].file, &st) == 0 && S_ISREG(st.st_mode);
        json_array_append_new(
            a, json_pack("{s:s,s:I}", "file", c->disks[i].file, "inode", file ? (json_int_t)st.st_ino : 0));
    }
    return a;
}

json_t *vm_meta_json(const struct vm_config *c, struct error *e)
{
    char *text = snapshot_describe(c, e);
    json_t *j = text ? json_loads(text, 0, NULL) : NULL, *files = j ? files_json(c, e) : NULL, *images = images_json(c);
    free(text);
    if (j && files && images) {
        json_object_set(j, "files", files);
        json_object_set(j, "images", images);
    } else {
        if (!e->code)
            error_set(e, ENOMEM, "machine: out of memory");
        json_decref(j);
        j = NULL;
    }
    json_decref(files);
    json_decref(images);
    return j;
}

/* --- the other side --- */

__attribute__((format(printf, 2, 3))) static void add(json_t *reasons, const char *fmt, ...)
{
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    json_array_append_new(reasons, json_string(text));
}

static void check_file(const json_t *was, const char *path, json_t *reasons)
{
    u64 bytes;
    char digest[17];
    struct error e = {0};
    const char *sum = json_string_value(json_object_get(was, "digest"));
    if (sum_file(path, &bytes, digest, &e) < 0)
        add(reasons, "%s (a reset of the machine loads it)", e.msg);
    else if (!sum || strcmp(sum, digest) || (json_int_t)bytes != json_integer_value(json_object_get(was, "bytes")))
        add(reasons, "%s: is another file than there (a reset of the machine loads it)", path);
}

static void check_files(const json_t *files, const struct vm_config *c, json_t *reasons)
{
    const char *names[] = {c->kernel, c->initrd};
    for (size_t i = 0, at = 0; i < ARRAY_LEN(names); i++)
        if (names[i][0])
            check_file(json_array_get(files, at++), names[i], reasons);
}

static void check_image(const json_t *size, const json_t *image, const struct vm_disk *d, json_t *reasons)
{
    struct stat st;
    json_int_t inode = json_integer_value(json_object_get(image, "inode"));
    if (stat(d->file, &st) < 0) {
        add(reasons, "disk %.200s: %s (the hosts have to share it)", d->file, strerror(errno));
        return;
    }
    if (S_ISREG(st.st_mode) && (json_int_t)st.st_size != json_integer_value(json_object_get(size, "bytes")))
        add(reasons, "disk %.200s: has %lld bytes here, %lld there", d->file, (long long)st.st_size,
            (long long)json_integer_value(json_object_get(size, "bytes")));
    else if (S_ISREG(st.st_mode) && inode != (json_int_t)st.st_ino)
        add(reasons, "disk %.200s: is another file than there (the hosts have to share it)", d->file);
    if (access(d->file, d->read_only ? R_OK : R_OK | W_OK) < 0)
        add(reasons, "disk %.200s: %s", d->file, strerror(errno));
}

static void check_shares(const struct vm_config *c, json_t *reasons)
{
    for (unsigned i = 0; i < c->n_shares; i++)
        if (access(c->shares[i].dir, R_OK | X_OK) < 0)
            add(reasons, "share %.200s: %s", c->shares[i].dir, strerror(errno));
}

/* A member's name that can be shown and quoted in JSON. */
static bool is_plain(const char *name)
{
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-");
    return n && n < 60 && !name[n];
}

/* What the other side says of the machine and this version does not know: a device, or an option of one, of a later version. */
static void check_known(const json_t *theirs, const json_t *ours, json_t *reasons)
{
    const char *name;
    const json_t *v;
    size_t i;
    if (json_is_array(theirs))
        json_array_foreach(theirs, i, v) check_known(v, json_array_get(ours, i), reasons);
    json_object_foreach((json_t *)theirs, name, v)
    {
        const json_t *known = json_object_get(ours, name);
        if (known)
            check_known(v, known, reasons);
        else if (json_array_size(reasons) < REASONS_MAX)
            add(reasons, "\"%s\" of its configuration: not known to this host's trapeze; update it",
                is_plain(name) ? name : "?");
    }
}

int vm_meta_check(const json_t *meta, struct vm_config *c, bool with_disks, json_t *reasons, struct error *e)
{
    struct error one = {0};
    vm_config_init(c);
    const json_t *config = json_object_get(meta, "config");
    if (!json_is_object(config) || vm_config_from_json(c, config, &one) < 0)
        return error_set(e, EPROTO, "it does not say what machine it is: %s", one.msg);
    json_t *ours = vm_config_to_json(c);
    check_known(config, ours, reasons);
    json_decref(ours);
    if (vm_config_check(c, &one) < 0) {
        add(reasons, "%s", one.msg);
        return 0;
    }
    if (snapshot_check_cpu(json_object_get(meta, "cpu"), c, &one) < 0)
        add(reasons, "%s", one.msg);
    check_files(json_object_get(meta, "files"), c, reasons);
    for (unsigned i = 0; i < c->n_disks && !with_disks; i++)
        check_image(json_array_get(json_object_get(meta, "disks"), i),
                    json_array_get(json_object_get(meta, "images"), i), &c->disks[i], reasons);
    check_shares(c, reasons);
    return 0;
}
