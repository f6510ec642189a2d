#include "machine/mem/absent.h"

#include <string.h>

static bool is_absent(const struct mem_absent *a, u64 page)
{
    return __atomic_load_n(&a->absent[page / 64], __ATOMIC_ACQUIRE) >> (page % 64) & 1;
}

bool mem_is_absent(const struct guest_mem *m, u64 offset)
{
    const struct mem_absent *a = __atomic_load_n(&m->absent, __ATOMIC_RELAXED);
    return a && is_absent(a, offset >> PAGE_SHIFT);
}

/* B2. Whether the page is the caller's to make present; else it is somebody's. */
static bool try_claim(struct mem_absent *a, u64 page)
{
    u64 bit = BIT(page % 64);
    return !(__atomic_fetch_or(&a->claimed[page / 64], bit, __ATOMIC_ACQ_REL) & bit);
}

/* Likewise; else it is present. */
static bool claim(struct mem_absent *a, u64 page)
{
    if (try_claim(a, page))
        return true;
    while (is_absent(a, page))
        a->yield(a->ctx);
    return false;
}

/* B4 */
static void make_present(struct mem_absent *a, u64 page)
{
    u64 bit = BIT(page % 64);
    if (__atomic_fetch_and(&a->absent[page / 64], ~bit, __ATOMIC_ACQ_REL) & bit)
        __atomic_fetch_sub(a->left, 1, __ATOMIC_RELEASE);
}

void mem_offer_page(const struct guest_mem *m, struct mem_absent *a, u64 ram_page, const u8 *content)
{
    if (!is_absent(a, ram_page) || !try_claim(a, ram_page))
        return;
    memcpy(m->ram + (ram_page << PAGE_SHIFT), content, PAGE_SIZE);
    make_present(a, ram_page);
}

void mem_put_page(const struct guest_mem *m, struct mem_absent *a, u64 ram_page, const u8 *content)
{
    if (!is_absent(a, ram_page) || !claim(a, ram_page))
        return;
    memcpy(m->ram + (ram_page << PAGE_SHIFT), content, PAGE_SIZE);
    make_present(a, ram_page);
}

void mem_drop_absent(const struct guest_mem *m, u64 offset, u64 len)
{
    struct mem_absent *a = __atomic_load_n(&m->absent, __ATOMIC_RELAXED);
    u64 end = (offset + len) >> PAGE_SHIFT;
    for (u64 page = offset >> PAGE_SHIFT; a && page < end; page++) {
        if (!(page % 64) && !__atomic_load_n(&a->absent[page / 64], __ATOMIC_ACQUIRE)) {
            page += 63;
            continue;
        }
        if (is_absent(a, page) && claim(a, page))
            make_present(a, page);
    }
}

void mem_bring(const struct guest_mem *m, u64 offset, u64 len)
{
    u8 content[PAGE_SIZE];
    struct mem_absent *a = __atomic_load_n(&m->absent, __ATOMIC_RELAXED);
    if (!a || !len)
        return;
    for (u64 page = offset >> PAGE_SHIFT; page <= (offset + len - 1) >> PAGE_SHIFT; page++) {
        if (!is_absent(a, page))
            continue;
        a->fetch(a->ctx, page, content);
        mem_put_page(m, a, page, content);
    }
}
