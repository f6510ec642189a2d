/* A machine's own copy of an image. */
#include "image/vmimage.h"
#include "image/vmimage_internal.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK (1u << 20)

/* One run of data by read and write, where the kernel has no shorter way between these two files. */
static int copy_bytes(int from, int to, off_t at, off_t end)
{
    static const size_t most = 64 << 10;
    char buf[64 << 10];
    while (at < end) {
        ssize_t n = pread(from, buf, MIN((size_t)(end - at), most), at);
        if (n == 0)
            return -EIO; /* it became shorter */
        for (ssize_t done = 0, w; n > 0 && done < n; done += w)
            if ((w = pwrite(to, buf + done, (size_t)(n - done), at + done)) < 0)
                return -errno;
        if (n < 0)
            return -errno;
        at += n;
    }
    return 0;
}

static int copy_run(int from, int to, off_t at, off_t end)
{
    while (at < end) {
        off_t in = at, out = at;
        ssize_t n = copy_file_range(from, &in, to, &out, MIN((size_t)(end - at), (size_t)CHUNK << 6), 0);
        if (n < 0 && (errno == EXDEV || errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP))
            return copy_bytes(from, to, at, end);
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        at += n;
    }
    return 0;
}

/* Holes stay holes. */
static int copy_sparse(int from, int to, off_t size)
{
    for (off_t at = 0; at < size;) {
        off_t data = lseek(from, at, SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            break; /* a hole to the end */
        if (data < 0)
            return -errno;
        off_t hole = lseek(from, data, SEEK_HOLE);
        if (hole < 0)
            return -errno;
        int r = copy_run(from, to, data, MIN(hole, size));
        if (r < 0)
            return r;
        at = hole;
    }
    return ftruncate(to, size) < 0 ? -errno : 0;
}

static int copy_file(int dir, const char *name, const char *path, u64 size, struct error *e)
{
    struct stat st;
    CLEANUP_FD int from = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (from < 0 || fstat(from, &st) < 0)
        return sys_error(e, "machine image: %s", name);
    if (size && size < (u64)st.st_size)
        return error_set(e, EINVAL, "--disk-size: the image's disk has %lld bytes; a disk does not get smaller",
                         (long long)st.st_size);
    CLEANUP_FD int to = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (to < 0)
        return sys_error(e, "%s: cannot be made", path);
    int r = ioctl(to, FICLONE, from) == 0 ? 0 : copy_sparse(from, to, st.st_size);
    if (r == 0 && size && ftruncate(to, (off_t)size) < 0)
        r = -errno;
    return r < 0 ? error_set(e, -r, "%s: cannot be written: %s", path, strerror(-r)) : 0;
}

int vmimage_copy(const struct vmimage_store *s, const char *name, const char *to, u64 disk_size,
                 struct vmimage_files *out, struct error *e)
{
    CLEANUP_FD int dir = vmimage_open(s, name, e);
    int r = dir < 0 ? dir : vmimage_describe_at(dir, name, to, out, e);
    if (r < 0)
        return r;
    if ((r = copy_file(dir, VMIMAGE_DISK, out->disk, disk_size, e)) == 0 &&
        (r = copy_file(dir, VMIMAGE_KERNEL, out->kernel, 0, e)) == 0)
        r = copy_file(dir, VMIMAGE_INITRD, out->initrd, 0, e);
    return r;
}
