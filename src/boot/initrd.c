/*
 * Does a file look like an initrd? A wrong one would otherwise end in a panic of the guest a minute later.
 *
 * Linux takes a sequence of cpio archives ("newc"), each plain or compressed as a whole, or an old-style image of a file
 * system. Plain archives at the front are walked entry by entry, because a download cut short is the common accident;
 * what is compressed is left to the guest.
 *
 * Source: Documentation/driver-api/early-userspace/buffer-format.rst.
 */
#include "boot/boot_internal.h"

#include "base/bytes.h"

#include <errno.h>

#define CPIO_HEADER   110u
#define CPIO_FILESIZE 54u
#define CPIO_NAMESIZE 94u

static const struct {
    size_t offset;
    const char *magic;
} filesystems[] = {
    {0, "hsqs"},             /* squashfs */
    {0, "-rom1fs-"},         /* romfs */
    {0, "\x45\x3d\xcd\x28"}, /* cramfs */
    {1080, "\x53\xef"},      /* ext2 and its successors */
};

/* The magic of an entry, or as much of it as the file still has. */
static bool cpio_magic(const u8 *p, size_t len)
{
    size_t n = MIN(len, (size_t)6);
    return n && (!memcmp(p, "070701", n) || !memcmp(p, "070702", n));
}

static bool is_filesystem(const u8 *file, size_t len)
{
    for (size_t i = 0; i < ARRAY_LEN(filesystems); i++) {
        size_t n = strlen(filesystems[i].magic), at = filesystems[i].offset;
        if (len >= at + n && !memcmp(file + at, filesystems[i].magic, n))
            return true;
    }
    return false;
}

/* Eight hexadecimal digits, or UINT64_MAX if they are not. */
static u64 cpio_number(const u8 *p)
{
    u64 v = 0;
    for (int i = 0; i < 8; i++) {
        u8 digit = p[i], letter = digit | 0x20;
        if (digit >= '0' && digit <= '9')
            v = v << 4 | (u64)(digit - '0');
        else if (letter >= 'a' && letter <= 'f')
            v = v << 4 | (u64)(letter - 'a' + 10);
        else
            return UINT64_MAX;
    }
    return v;
}

int initrd_check(const u8 *file, size_t len, const char *name, struct error *e)
{
    if (boot_compression(file, len) || is_filesystem(file, len))
        return 0;
    if (!cpio_magic(file, len))
        return error_set(e, EINVAL, "%s: is not an initrd (no cpio archive, not compressed): give one with --initrd",
                         name);
    size_t at = 0;
    while (at < len && (file[at] == 0 || cpio_magic(file + at, len - at))) {
        if (file[at] == 0) { /* padding between archives */
            at++;
            continue;
        }
        u64 want = CPIO_HEADER;
        if (len - at >= CPIO_HEADER) {
            u64 namesz = cpio_number(file + at + CPIO_NAMESIZE), size = cpio_number(file + at + CPIO_FILESIZE);
            if (namesz == UINT64_MAX || size == UINT64_MAX)
                return error_set(e, EINVAL, "%s: damaged: entry at byte %zu of the cpio archive: make it again", name,
                                 at);
            want = ((CPIO_HEADER + namesz + 3) & ~3ull) + size;
        }
        if (want > len - at)
            return error_set(e, EINVAL, "%s: truncated: an entry needs %llu bytes, the file has %zu: make it again",
                             name, (unsigned long long)(at + want), len);
        want = (want + 3) & ~3ull;
        at = want > len - at ? len : at + want;
    }
    return 0;
}
