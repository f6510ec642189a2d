#include "machine/mem/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int mem_init(struct guest_mem *m, void *ram, u64 size, int fd, struct error *e)
{
    *m = (struct guest_mem){.fd = -1};
    if (size < MEM_MIN_SIZE || size > MEM_MAX_SIZE || size % PAGE_SIZE)
        return error_set(e, EINVAL, "memory of %llu bytes: must be a multiple of 4096 between 1 MiB and 1 TiB",
                         (unsigned long long)size);
    m->trace = calloc(size / PAGE_SIZE, 1);
    if (!m->trace)
        return error_set(e, ENOMEM, "memory: no room for its page table of traces");
    m->ram = ram;
    m->size = size;
    m->low_size = MIN(size, MEM_LOW_MAX);
    m->fd = fd;
    return 0;
}

void mem_destroy(struct guest_mem *m)
{
    free(m->trace);
    free(m->dirty);
    *m = (struct guest_mem){.fd = -1};
}

int mem_read(const struct guest_mem *m, gpa_t a, void *buf, u64 len)
{
    const void *p = mem_at(m, a, len);
    if (!p)
        return -EFAULT;
    memcpy(buf, p, len);
    return 0;
}

int mem_write(struct guest_mem *m, gpa_t a, const void *buf, u64 len)
{
    u8 *p = mem_at(m, a, len);
    if (!p)
        return -EFAULT;
    if (!len)
        return 0;
    u64 first = (u64)(p - m->ram) >> PAGE_SHIFT, last = (u64)(p - m->ram + len - 1) >> PAGE_SHIFT;
    memcpy(p, buf, len);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the store, then the trace: coherence.h has the other side */
    for (u64 page = first; page <= last; page++)
        if (m->trace[page])
            mem_traced_write(m, page);
    return 0;
}

void mem_log_write(struct guest_mem *m, u64 ram_page)
{
    m->dirty[ram_page / 64] |= BIT(ram_page % 64);
    m->trace[ram_page] &= (u8)~MEM_TRACE_LOG;
}

void mem_traced_write(struct guest_mem *m, u64 ram_page)
{
    u8 t = m->trace[ram_page];
    if (t & MEM_TRACE_LOG)
        mem_log_write(m, ram_page);
    if ((t & MEM_TRACE_CODE) && m->code_written)
        m->code_written(m->code_ctx, ram_page);
}

static u64 log_words(const struct guest_mem *m)
{
    return (m->size / PAGE_SIZE + 63) / 64;
}

static void log_restart(struct guest_mem *m)
{
    memset(m->dirty, 0, log_words(m) * 8);
    for (u64 i = 0; i < m->size / PAGE_SIZE; i++)
        m->trace[i] |= MEM_TRACE_LOG;
}

int mem_log_start(struct guest_mem *m)
{
    if (!m->dirty)
        m->dirty = calloc(log_words(m), 8);
    if (!m->dirty)
        return -ENOMEM;
    log_restart(m);
    return 0;
}

void mem_log_take(struct guest_mem *m, u64 *out)
{
    if (out)
        memcpy(out, m->dirty, log_words(m) * 8);
    log_restart(m);
}

void mem_log_stop(struct guest_mem *m)
{
    for (u64 i = 0; i < m->size / PAGE_SIZE; i++)
        m->trace[i] &= (u8)~MEM_TRACE_LOG;
    free(m->dirty);
    m->dirty = NULL;
}
