#include "image/image.h"
#include "image/tree.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int image_data_dir(char *out, size_t size, struct error *e)
{
    const char *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    const struct passwd *pw;
    int n;
    if (!home || home[0] != '/')
        home = (pw = getpwuid(geteuid())) ? pw->pw_dir : NULL;
    if (data && data[0] == '/')
        n = snprintf(out, size, "%s/trapeze", data);
    else if (home && home[0] == '/')
        n = snprintf(out, size, "%s/.local/share/trapeze", home);
    else
        return error_set(e, ENOENT, "data directory: neither XDG_DATA_HOME nor HOME is set");
    return n >= (int)size ? error_set(e, ENAMETOOLONG, "data directory: its name is too long") : 0;
}

/* The directories, and the files that make it an OCI layout. */
static int set_up(const struct image_store *s, struct error *e)
{
    static const char *const dirs[] = {"tmp",    "blobs",    "blobs/sha256", "blobs/sha512",
                                       "layers", "layers/c", "layers/d"};
    static const char layout[] = "{\"imageLayoutVersion\":\"1.0.0\"}";
    static const char empty[] = "{\"schemaVersion\":2,\"mediaType\":\"" TYPE_OCI_INDEX "\",\"manifests\":[]}";
    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        CLEANUP_FD int fd = tree_make_at(s->dir, dirs[i], 0700, e);
        if (fd < 0)
            return fd;
    }
    /* Two first users at once: who comes second finds the index there. */
    CLEANUP_FD int lock = tree_lock(s->dir, "index.lock", true, true, e);
    if (lock < 0)
        return lock;
    int r = 0;
    if (faccessat(s->dir, "index.json", F_OK, 0) < 0)
        r = tree_write(s->dir, "index.json", empty, sizeof(empty) - 1, true, e);
    return r == 0 ? tree_write(s->dir, "oci-layout", layout, sizeof(layout) - 1, true, e) : r;
}

int image_store_open(struct image_store *s, const char *path, bool exclusive, struct error *e)
{
    char data[PATH_MAX];
    memset(s, 0, sizeof(*s));
    s->dir = s->lock = -1;
    s->layer_bytes_max = IMAGE_BYTES_MAX;
    s->layer_entries_max = IMAGE_ENTRIES_MAX;
    int r = path ? 0 : image_data_dir(data, sizeof(data), e);
    if (r < 0)
        return r;
    int n = path ? snprintf(s->path, sizeof(s->path), "%s", path)
                 : snprintf(s->path, sizeof(s->path), "%.*s/images", (int)sizeof(s->path) - 8, data);
    if (n >= (int)sizeof(s->path))
        return error_set(e, ENAMETOOLONG, "image store: its name is too long");
    s->dir = tree_make(s->path, e);
    if (s->dir < 0)
        return s->dir;
    if (faccessat(s->dir, "oci-layout", F_OK, 0) < 0 && (r = set_up(s, e)) < 0) {
        image_store_close(s);
        return r;
    }
    s->lock = tree_lock(s->dir, "lock", exclusive, true, e);
    if (s->lock >= 0)
        return 0;
    r = s->lock;
    image_store_close(s);
    return r;
}

void image_store_close(struct image_store *s)
{
    sys_close(&s->lock);
    sys_close(&s->dir);
    s->lock = s->dir = -1;
}
