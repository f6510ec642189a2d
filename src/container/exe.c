/*
 * Theory of operation.
 *
 * Executing a program again costs what its start costs, and for a C program in a virtual machine that is mostly the CPUID
 * instructions of the library's start-up, each an exit: 0.9 ms here, of 6 for a whole container. The kernel can be told
 * instead that this process's program is another file (PR_SET_MM_MAP, made for criu), once nothing is mapped from the old one:
 *
 *  - what the program never writes to (text, constants) is mapped anew, from the other file, over itself;
 *  - what it has written to (data, relocated constants) becomes memory without a file, with the same contents.
 *
 * Both are one call for each mapping, after which the same bytes stand at the same addresses. Nothing else runs: one thread,
 * no signal handlers. Needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE, and a program linked statically (a library's mappings
 * would not matter, but its loader's do).
 */
#include "container/exe.h"
#include "container/sys.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/prctl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define EXE_MAPPINGS 16

/* By the linker: where the program's own header lies in memory. */
extern const Elf64_Ehdr __ehdr_start;

struct mapping {
    u64 begin, end, offset;
    int protection;
};

/* The mappings of the file `st` in /proc/self/maps. Their number or -errno. */
static int find_mappings(const struct stat *st, struct mapping out[EXE_MAPPINGS])
{
    CLEANUP_FREE char *text = NULL;
    size_t size;
    int n = 0, r = sys_read_at(AT_FDCWD, "/proc/self/maps", 1 << 20, &text, &size);
    if (r < 0)
        return r;
    for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n') {
        struct mapping m;
        unsigned major, minor;
        u64 inode;
        char flags[5];
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64, &m.begin, &m.end, flags, &m.offset,
                   &major, &minor, &inode) != 7)
            continue;
        if (inode != st->st_ino || makedev(major, minor) != st->st_dev)
            continue;
        if (n == EXE_MAPPINGS)
            return -E2BIG;
        m.protection =
            (flags[0] == 'r' ? PROT_READ : 0) | (flags[1] == 'w' ? PROT_WRITE : 0) | (flags[2] == 'x' ? PROT_EXEC : 0);
        out[n++] = m;
    }
    return n;
}

/* Whether the mapping is of a segment that was writable at any time. */
static bool was_written(const struct mapping *m)
{
    const Elf64_Phdr *headers = (const Elf64_Phdr *)getauxval(AT_PHDR);
    size_t n = getauxval(AT_PHNUM);
    u64 base = 0;
    for (size_t i = 0; i < n; i++)
        if (headers[i].p_type == PT_LOAD && headers[i].p_offset == 0)
            base = (u64)(uintptr_t)&__ehdr_start - headers[i].p_vaddr;
    for (size_t i = 0; i < n; i++) {
        const Elf64_Phdr *p = &headers[i];
        u64 begin = (base + p->p_vaddr) & PAGE_MASK, end = base + p->p_vaddr + p->p_memsz;
        if (p->p_type == PT_LOAD && m->begin < end && m->end > begin)
            return p->p_flags & PF_W;
    }
    return true;
}

static int replace(const struct mapping *m, int file)
{
    size_t size = m->end - m->begin;
    void *at = (void *)(uintptr_t)m->begin;
    if (!was_written(m))
        return mmap(at, size, m->protection, MAP_PRIVATE | MAP_FIXED, file, (off_t)m->offset) == MAP_FAILED ? -errno
                                                                                                            : 0;
    if (!(m->protection & PROT_READ) || m->protection & PROT_EXEC)
        return -ENOTSUP;
    void *copy = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED)
        return -errno;
    /* From here to mremap nothing may write to a variable that lies in the mapping: none is named. */
    memcpy(copy, at, size);
    if (!(m->protection & PROT_WRITE) && mprotect(copy, size, m->protection) < 0)
        return -errno;
    return mremap(copy, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, at) == MAP_FAILED ? -errno : 0;
}

/* Where the parts of the address space are: fields of proc(5)'s stat, which the kernel wants to hear again. */
static int read_layout(struct prctl_mm_map *map)
{
    char text[1024];
    u64 field[53] = {0};
    if (sys_read_small(AT_FDCWD, "/proc/self/stat", text, sizeof(text)) <= 0)
        return -EIO;
    char *p = strrchr(text, ')');
    for (size_t i = 3; p && i < ARRAY_LEN(field) && (p = strchr(p, ' ')); i++)
        field[i] = strtoull(++p, NULL, 10);
    *map = (struct prctl_mm_map){
        .start_code = field[26],
        .end_code = field[27],
        .start_stack = field[28],
        .start_data = field[45],
        .end_data = field[46],
        .start_brk = field[47],
        .arg_start = field[48],
        .arg_end = field[49],
        .env_start = field[50],
        .env_end = field[51],
        .brk = (u64)(uintptr_t)sbrk(0),
        .exe_fd = (u32)-1,
    };
    return field[51] ? 0 : -EIO;
}

int exe_move(int file)
{
    struct mapping mappings[EXE_MAPPINGS];
    struct prctl_mm_map map;
    struct stat st;
    if (getauxval(AT_BASE)) /* there is a loader */
        return -ENOTSUP;
    if (fstat(file, &st) < 0)
        return -errno;
    int n = find_mappings(&st, mappings), r = n <= 0 ? -ENOENT : read_layout(&map);
    for (int i = 0; i < n && r == 0; i++)
        r = replace(&mappings[i], file);
    map.exe_fd = (u32)file;
    if (r == 0 && prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof(map), 0) < 0)
        r = -errno;
    return r;
}
