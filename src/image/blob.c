/* Blobs: checked while they are written, named when they are whole. */
#include "image/image.h"
#include "image/tree.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *blob_path(const char *digest, char out[DIGEST_TEXT + 8])
{
    char path[DIGEST_TEXT];
    snprintf(out, DIGEST_TEXT + 8, "blobs/%s", digest_path(digest, path));
    return out;
}

bool image_has_blob(const struct image_store *s, const char *digest)
{
    char path[DIGEST_TEXT + 8];
    return digest_valid(digest) && faccessat(s->dir, blob_path(digest, path), F_OK, 0) == 0;
}

int image_check_size(const struct image_store *s, const struct image_descriptor *d, struct error *e)
{
    char path[DIGEST_TEXT + 8];
    struct stat st;
    int r = digest_check(d->digest, "blob", e);
    if (r < 0)
        return r;
    if (fstatat(s->dir, blob_path(d->digest, path), &st, AT_SYMLINK_NOFOLLOW) < 0)
        return error_set(e, ENOENT, "layer %s is not in it", d->digest);
    return (u64)st.st_size == d->size
               ? 0
               : error_set(e, EBADMSG, "layer %s has %llu bytes, its manifest says %llu", d->digest,
                           (unsigned long long)st.st_size, (unsigned long long)d->size);
}

int image_open_blob(const struct image_store *s, const char *digest, struct error *e)
{
    char path[DIGEST_TEXT + 8];
    int r = digest_check(digest, "blob", e);
    if (r < 0)
        return r;
    int fd = openat(s->dir, blob_path(digest, path), O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? sys_error(e, "%s/%s", s->path, path) : fd;
}

int image_read_blob(const struct image_store *s, const char *digest, u64 size, char **text, size_t *length,
                    struct error *e)
{
    char path[DIGEST_TEXT + 8], is[DIGEST_TEXT];
    struct digester d;
    int r = digest_check(digest, "blob", e);
    if (r == 0 && size != ~0ull && size > IMAGE_JSON_MAX)
        r = error_set(e, EFBIG, "%s: %llu bytes; a document has %u at most", digest, (unsigned long long)size,
                      IMAGE_JSON_MAX);
    if (r < 0)
        return r;
    r = sys_read_at(s->dir, blob_path(digest, path), IMAGE_JSON_MAX, text, length);
    if (r < 0)
        return error_set(e, -r, "%s/%s: %s", s->path, path, strerror(-r));
    digester_begin(&d, digest);
    digester_add(&d, *text, *length);
    digester_end(&d, is);
    if (!strcmp(is, digest) && (size == ~0ull || size == *length))
        return 0;
    free(*text);
    *text = NULL;
    return error_set(e, EBADMSG, "%s/%s: is damaged: its digest or size is another; remove the image and load it again",
                     s->path, path);
}

int image_check_blob(const struct image_store *s, const char *digest, struct error *e)
{
    CLEANUP_FD int fd = image_open_blob(s, digest, e);
    CLEANUP_FREE u8 *buffer = malloc(1 << 16);
    struct digester d;
    char is[DIGEST_TEXT];
    ssize_t n;
    if (fd < 0 || !buffer)
        return fd < 0 ? fd : error_set(e, ENOMEM, "out of memory");
    digester_begin(&d, digest);
    while ((n = read(fd, buffer, 1 << 16)) > 0)
        digester_add(&d, buffer, (size_t)n);
    digester_end(&d, is);
    return n == 0 && !strcmp(is, digest) ? 0 : error_set(e, EBADMSG, "%s: is damaged", digest);
}

/* Go on with an earlier try: its bytes count for the digest too. */
static int take_up(struct ingest *in, struct error *e)
{
    CLEANUP_FREE u8 *buffer = malloc(1 << 16);
    ssize_t n;
    if (!buffer)
        return error_set(e, ENOMEM, "out of memory");
    while ((n = read(in->fd, buffer, 1 << 16)) > 0) {
        digester_add(&in->digest, buffer, (size_t)n);
        in->size += (u64)n;
    }
    return n < 0 ? sys_error(e, "%s", in->name) : 0;
}

/* Between opening and locking another process may have finished the download: then the file is a blob, and not to be written. */
static bool still_named(const struct ingest *in, const char *path)
{
    struct stat mine, named;
    return fstat(in->fd, &mine) == 0 && fstatat(in->store->dir, path, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
           mine.st_ino == named.st_ino;
}

int ingest_begin(struct ingest *in, const struct image_store *s, const char *expected, u64 limit, bool resume,
                 struct error *e)
{
    char path[80];
    memset(in, 0, sizeof(*in));
    in->store = s;
    in->fd = -1;
    in->limit = limit;
    int r = expected ? digest_check(expected, "blob", e) : 0;
    if (r < 0)
        return r;
    snprintf(in->expected, sizeof(in->expected), "%s", expected ? expected : "");
    digester_begin(&in->digest, expected);
    if (resume) /* one name for all tries; 32 digits are enough to tell downloads apart, the whole digest is checked */
        snprintf(in->name, sizeof(in->name), "%.39s.part", in->expected);
    else
        tree_random(in->name, sizeof(in->name), "new-");
    snprintf(path, sizeof(path), "tmp/%s", in->name);
    in->fd = openat(s->dir, path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | (resume ? 0 : O_EXCL), 0600);
    if (in->fd < 0)
        return sys_error(e, "%s/%s", s->path, path);
    /* Another process downloads the same: then this one does it again, beside. */
    if (resume && (flock(in->fd, LOCK_EX | LOCK_NB) < 0 || !still_named(in, path))) {
        close(in->fd);
        return ingest_begin(in, s, expected, limit, false, e);
    }
    r = resume ? take_up(in, e) : 0;
    if (r < 0)
        ingest_abort(in, false);
    return r;
}

int ingest_add(struct ingest *in, const void *data, size_t size, struct error *e)
{
    if (size > in->limit || in->size > in->limit - size)
        return error_set(e, EFBIG, "%s: larger than the %llu bytes that were announced or are allowed",
                         in->expected[0] ? in->expected : "blob", (unsigned long long)in->limit);
    if (sys_write_all(in->fd, data, size) < 0)
        return sys_error(e, "%s/tmp", in->store->path);
    digester_add(&in->digest, data, size);
    in->size += size;
    return 0;
}

int ingest_restart(struct ingest *in, struct error *e)
{
    if (ftruncate(in->fd, 0) < 0 || lseek(in->fd, 0, SEEK_SET) < 0)
        return sys_error(e, "%s/tmp", in->store->path);
    digester_begin(&in->digest, in->expected);
    in->size = 0;
    return 0;
}

void ingest_abort(struct ingest *in, bool keep)
{
    char path[80];
    snprintf(path, sizeof(path), "tmp/%s", in->name);
    if (in->fd >= 0 && !keep)
        unlinkat(in->store->dir, path, 0);
    sys_close(&in->fd);
    in->fd = -1;
}

static int wrong(struct ingest *in, const char *is, u64 size, struct error *e)
{
    if (size != ~0ull && in->size != size)
        return error_set(e, EBADMSG, "%s: has %llu bytes instead of %llu", in->expected[0] ? in->expected : is,
                         (unsigned long long)in->size, (unsigned long long)size);
    return error_set(e, EBADMSG, "%s: what came has another digest, %s: damaged or forged, refused", in->expected, is);
}

int ingest_commit(struct ingest *in, u64 size, char digest[DIGEST_TEXT], struct error *e)
{
    char is[DIGEST_TEXT], from[80], to[DIGEST_TEXT + 8];
    digester_end(&in->digest, is);
    if ((in->expected[0] && strcmp(is, in->expected)) || (size != ~0ull && size != in->size)) {
        int r = wrong(in, is, size, e);
        ingest_abort(in, false);
        return r;
    }
    snprintf(from, sizeof(from), "tmp/%s", in->name);
    int r = 0;
    if (fsync(in->fd) < 0 || renameat(in->store->dir, from, in->store->dir, blob_path(is, to)) < 0)
        r = sys_error(e, "%s/%s", in->store->path, to);
    else if (digest)
        memcpy(digest, is, sizeof(is));
    to[strlen("blobs/sha256")] = 0;
    CLEANUP_FD int dir = openat(in->store->dir, to, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir >= 0)
        fsync(dir);
    if (r < 0)
        ingest_abort(in, false);
    sys_close(&in->fd);
    in->fd = -1;
    return r;
}

int image_put_blob(const struct image_store *s, const void *data, size_t size, char digest[DIGEST_TEXT],
                   struct error *e)
{
    struct ingest in;
    digest_of(data, size, digest);
    if (image_has_blob(s, digest))
        return 0;
    int r = ingest_begin(&in, s, digest, size, false, e);
    if (r < 0)
        return r;
    r = ingest_add(&in, data, size, e);
    if (r < 0) {
        ingest_abort(&in, false);
        return r;
    }
    return ingest_commit(&in, size, NULL, e);
}
