/*
 * Memory of a Linux host: memfds of a fixed size, their mappings, and code memory under two aliases.
 *
 * Every memfd is sealed against growing, shrinking and further seals: a process that holds the descriptor can not make
 * another one's mapping fault by truncating it. MFD_NOEXEC_SEAL is asked for where the kernel knows it (6.3): it only
 * forbids execve of the file (mapping it executable is another matter), and systems with vm.memfd_noexec=2 insist on it.
 *
 * Not done: huge pages (MFD_HUGETLB, MADV_HUGEPAGE), binding to a NUMA node.
 */
#include "host/host.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008u
#endif

static int memfd_open(const char *name)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL)
        fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    return fd;
}

int host_memfd(const char *name, u64 size, struct error *e)
{
    if (!size || size > INT64_MAX)
        return error_set(e, EINVAL, "memory file %s: bad size %llu", name, (unsigned long long)size);
    int fd = memfd_open(name);
    if (fd < 0)
        return error_set(e, errno, "memory file %s: memfd_create: %s", name, strerror(errno));
    if (ftruncate(fd, (off_t)size) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) == 0)
        return fd;
    int err = errno;
    close(fd);
    return error_set(e, err, "memory file %s of %llu bytes: %s", name, (unsigned long long)size, strerror(err));
}

static void *map(u64 size, int prot, int flags, int fd, const char *what, struct error *e)
{
    void *p = size > SIZE_MAX ? MAP_FAILED : mmap(NULL, (size_t)size, prot, flags, fd, 0);
    if (p != MAP_FAILED)
        return p;
    error_set(e, errno, "mapping %llu bytes of %s: %s", (unsigned long long)size, what, strerror(errno));
    return NULL;
}

void *host_map_shared(int fd, u64 size, struct error *e)
{
    return map(size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, "shared memory", e);
}

void *host_map_anonymous(u64 size, struct error *e)
{
    return map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, "memory", e);
}

void host_unmap(void *p, u64 size)
{
    if (p)
        munmap(p, (size_t)size);
}

/* By descriptor, not by address: a seal can tell the one from others. */
bool host_give_back(int fd, u8 *p, u64 offset, u64 len)
{
    if (fd >= 0)
        return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len) == 0;
    return madvise(p + offset, len, MADV_DONTNEED) == 0;
}

int host_code_create(struct host_code *c, size_t size, struct error *e)
{
    *c = (struct host_code){0};
    if (!size || size > SIZE_MAX / 2)
        return error_set(e, EINVAL, "code memory: bad size %zu", size);
    size = (size + PAGE_SIZE - 1) & PAGE_MASK;
    int fd = host_memfd("trapeze-code", size, e);
    if (fd < 0)
        return fd;
    u8 *rw = map(size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, "code memory", e);
    u8 *rx = rw ? map(size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, "executable code memory", e) : NULL;
    int err = errno;
    close(fd); /* the mappings hold it; nobody can make a third one */
    if (!rx) {
        host_unmap(rw, size);
        return -err;
    }
    *c = (struct host_code){.rw = rw, .rx = rx, .size = size};
    return 0;
}

void host_code_destroy(struct host_code *c)
{
    host_unmap(c->rw, c->size);
    host_unmap((void *)(uintptr_t)c->rx, c->size);
    *c = (struct host_code){0};
}

#define GUARD (2u * PAGE_SIZE)

u8 *host_map_guarded(u64 size, struct error *e)
{
    size = (size + PAGE_SIZE - 1) & PAGE_MASK;
    u8 *p = map(size + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, "guarded memory", e);
    if (!p)
        return NULL;
    if (mprotect(p + GUARD, size, PROT_READ | PROT_WRITE) == 0)
        return p + GUARD;
    error_set(e, errno, "guarded memory: mprotect: %s", strerror(errno));
    munmap(p, size + 2 * GUARD);
    return NULL;
}

void host_unmap_guarded(u8 *p, u64 size)
{
    size = (size + PAGE_SIZE - 1) & PAGE_MASK;
    if (p)
        munmap(p - GUARD, size + 2 * GUARD);
}
