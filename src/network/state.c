#include "network/state.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int state_check_name(const char *name, struct error *e)
{
    size_t n = strlen(name);
    if (!n || n >= STATE_NAME_MAX || name[0] == '.' || name[0] == '-' ||
        name[strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")])
        return error_set(e, EINVAL, "network name \"%.40s\": use 1 to %u letters, digits and _ . -", name,
                         STATE_NAME_MAX - 1);
    return 0;
}

int state_directory(const char *path, bool make, struct error *e)
{
    if (make && mkdir(path, 0700) < 0 && errno != EEXIST)
        return sys_error(e, "%s", path);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT && !make)
        return -ENOENT;
    return fd < 0 ? sys_error(e, "%s", path) : fd;
}

int state_lock(int file, s64 byte, bool wait)
{
    struct flock f = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    int r;
    do
        r = fcntl(file, wait ? F_OFD_SETLKW : F_OFD_SETLK, &f);
    while (r < 0 && errno == EINTR);
    return r == 0 ? 0 : errno == EACCES ? -EAGAIN : -errno;
}

void state_unlock(int file, s64 byte)
{
    struct flock f = {.l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    fcntl(file, F_OFD_SETLK, &f);
}

bool state_locked(int file, s64 from, s64 n)
{
    struct flock f = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = from, .l_len = n};
    return fcntl(file, F_OFD_GETLK, &f) < 0 || f.l_type != F_UNLCK;
}

void state_close(int *file, struct state_file **map)
{
    if (*map)
        munmap(*map, sizeof(**map));
    *map = NULL;
    sys_close(file);
    *file = -1;
}

/* Whether the name still leads to this file. */
static bool is_there(int dir, const char *name, int file)
{
    struct stat a, b;
    return fstat(file, &a) == 0 && fstatat(dir, name, &b, AT_SYMLINK_NOFOLLOW) == 0 && a.st_ino == b.st_ino &&
           a.st_dev == b.st_dev;
}

static int check_file(int file, const char *name, const struct state_file *map, bool create, struct error *e)
{
    const struct state_header *h = &map->header;
    if (create && h->magic == 0)
        return 0;
    if (h->magic != STATE_MAGIC || h->version != STATE_VERSION || h->prefix < 16 || h->prefix > 30)
        return error_set(e, EBADMSG, "network %s: its state is damaged; `trapeze network rm %s` removes it", name,
                         name);
    return 0;
}

int state_open(int dir, const char *name, bool create, bool lock, struct state_file **map, struct error *e)
{
    for (;;) {
        *map = NULL;
        CLEANUP_FD int file = openat(dir, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | (create ? O_CREAT : 0), 0600);
        if (file < 0)
            return errno == ENOENT ? -ENOENT : sys_error(e, "network %s", name);
        if (lock && state_lock(file, LOCK_HEADER, true) < 0)
            return sys_error(e, "network %s: lock", name);
        if (lock && !is_there(dir, name, file))
            continue;
        struct stat st;
        if (fstat(file, &st) < 0 || (st.st_size < (off_t)sizeof(**map) && ftruncate(file, sizeof(**map)) < 0))
            return sys_error(e, "network %s", name);
        struct state_file *m = mmap(NULL, sizeof(*m), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (m == MAP_FAILED)
            return sys_error(e, "network %s", name);
        int r = check_file(file, name, m, create || !lock, e);
        *map = m;
        int mine = sys_take(&file);
        if (r < 0)
            state_close(&mine, map);
        return r < 0 ? r : mine;
    }
}

/* --- slots --- */

void state_begin(struct state_slot *s)
{
    __atomic_store_n(&s->sequence, s->sequence | 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

void state_end(struct state_slot *s)
{
    __atomic_store_n(&s->sequence, (s->sequence | 1) + 1, __ATOMIC_RELEASE);
}

bool state_read(const struct state_slot *s, struct state_slot *out)
{
    u32 before = __atomic_load_n(&s->sequence, __ATOMIC_ACQUIRE);
    if (!s->used || before & 1)
        return false;
    memcpy(out, s, sizeof(*out));
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (__atomic_load_n(&s->sequence, __ATOMIC_RELAXED) != before)
        return false;
    out->id[sizeof(out->id) - 1] = out->name[sizeof(out->name) - 1] = out->hostname[sizeof(out->hostname) - 1] = 0;
    out->link[sizeof(out->link) - 1] = 0;
    out->n_ports = (u8)MIN(out->n_ports, NETWORK_PORTS_MAX);
    return out->used;
}

int state_take(int file, struct state_file *map)
{
    u32 n = state_slots(&map->header);
    for (u32 i = 0; i < n; i++) {
        u32 slot = (map->header.next + i) % n;
        /* An interrupted writer left it odd: then it is nobody's. */
        if (map->slot[slot].used || state_lock(file, LOCK_SLOTS + slot, false) < 0)
            continue;
        map->header.next = (slot + 1) % n;
        return (int)slot;
    }
    return -EADDRNOTAVAIL;
}
