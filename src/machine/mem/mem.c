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
    m->trace = calloc((size / PAGE_SIZE + 7) / 8, 8); /* whole words: see below */
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
    __atomic_fetch_and(&m->trace[ram_page], (u8)~MEM_TRACE_LOG, __ATOMIC_SEQ_CST); /* M1 */
    __atomic_fetch_or(&m->dirty[ram_page / 64], BIT(ram_page % 64), __ATOMIC_SEQ_CST);
}

void mem_traced_write(struct guest_mem *m, u64 ram_page)
{
    u8 t = __atomic_load_n(&m->trace[ram_page], __ATOMIC_SEQ_CST);
    if (t & MEM_TRACE_LOG)
        mem_log_write(m, ram_page);
    if ((t & MEM_TRACE_CODE) && m->code_written)
        m->code_written(m->code_ctx, ram_page);
}

void mem_touch(struct guest_mem *m, u64 offset, u64 len)
{
    if (!len)
        return;
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the store, then the trace, as in mem_write */
    for (u64 page = offset >> PAGE_SHIFT; page <= (offset + len - 1) >> PAGE_SHIFT; page++)
        if (m->trace[page])
            mem_traced_write(m, page);
}

/* --- the dirty log --- */

/* The traces of eight pages at once. */
typedef u64 trace_word __attribute__((may_alias));

#define EACH_BYTE 0x0101010101010101ull

/* 1 in the byte of each of eight pages that has a bit in `bits`. */
static u64 spread(u8 bits)
{
    u64 x = bits * EACH_BYTE & 0x8040201008040201ull; /* byte i is 0, or 1 << i */
    return (x + 0x7f * EACH_BYTE) >> 7 & EACH_BYTE;
}

/* Set LOG of the pages of word `word` of the log that have a bit in `bits`. */
static void trace_pages(struct guest_mem *m, u64 word, u64 bits)
{
    for (unsigned i = 0; i < 8; i++, bits >>= 8)
        if (bits & 0xff) {
            trace_word *t = (trace_word *)(void *)&m->trace[word * 64 + i * 8];
            __atomic_fetch_or(t, spread((u8)bits) * MEM_TRACE_LOG, __ATOMIC_SEQ_CST);
        }
}

/* The pages that a word of the log speaks of. */
static u64 pages_of(const struct guest_mem *m, u64 word)
{
    u64 rest = m->size / PAGE_SIZE - word * 64;
    return rest < 64 ? BIT(rest) - 1 : ~0ull;
}

int mem_log_start(struct guest_mem *m)
{
    if (!m->dirty)
        m->dirty = calloc(mem_log_words(m), 8);
    if (!m->dirty)
        return -ENOMEM;
    for (u64 w = 0; w < mem_log_words(m); w++) {
        __atomic_store_n(&m->dirty[w], 0, __ATOMIC_SEQ_CST);
        trace_pages(m, w, pages_of(m, w));
    }
    m->logging = true;
    return 0;
}

bool mem_log_take(struct guest_mem *m, u64 first, u64 pages, u64 *out)
{
    bool any = false;
    for (u64 w = first / 64; w < (first + pages) / 64; w++) {
        u64 bits = __atomic_load_n(&m->dirty[w], __ATOMIC_RELAXED);
        if (bits) {
            bits = __atomic_exchange_n(&m->dirty[w], 0, __ATOMIC_SEQ_CST); /* T1 */
            trace_pages(m, w, bits);
            any = true;
        }
        *out++ = bits;
    }
    return any;
}

void mem_log_all(struct guest_mem *m)
{
    for (u64 w = 0; m->logging && w < mem_log_words(m); w++)
        __atomic_fetch_or(&m->dirty[w], pages_of(m, w), __ATOMIC_SEQ_CST);
}

void mem_log_stop(struct guest_mem *m)
{
    for (u64 i = 0; m->logging && i < m->size / PAGE_SIZE; i += 8)
        __atomic_fetch_and((trace_word *)(void *)&m->trace[i], ~(EACH_BYTE * MEM_TRACE_LOG), __ATOMIC_SEQ_CST);
    m->logging = false;
}
