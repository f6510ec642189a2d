#include "vm/cell_lazy.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define BACKGROUND 10           /* nice */
#define FIRST_NS   100000000ull /* the guest goes first: what it wants now it brings itself */
#define LOOK_NS    50000000ull /* between two looks for a page, of who was not woken: the pager may be another by now */

enum { GO_WAIT, GO_SOON, GO_NOW }; /* values of the word `go` */

/* This thread, and with it the machine, ends here: the keeper hears why, and kills the cell. */
__attribute__((noreturn)) static void fail(struct cell_lazy *z, const struct error *why)
{
    u32 never = 0;
    lazy_fail(&z->file, why);
    host_event_signal(z->wake_keeper);
    for (;;)
        host_word_wait(&never, 0, UINT64_MAX);
}

/* A page that is absent, or was a moment ago: then another has brought it, and the file may be closed already. */
static void fetch_page(void *ctx, u64 ram_page, u8 *to)
{
    struct cell_lazy *z = ctx;
    struct error e = {0};
    if (lazy_fetch(&z->file, ram_page, 1, to, &e) < 0 && mem_is_absent(z->mem, ram_page << PAGE_SHIFT))
        fail(z, &e);
}

/* A page of a peer: when this returns it is present, and `to` is not looked at. */
static void await_page(void *ctx, u64 ram_page, u8 *to)
{
    struct cell_lazy *z = ctx;
    struct lazy_head *h = z->file.head;
    int place = lazy_wish(&z->file, ram_page);
    __atomic_fetch_add(&h->waiting, 1, __ATOMIC_SEQ_CST);
    for (;;) {
        u32 arrived = __atomic_load_n(&h->arrived, __ATOMIC_SEQ_CST);
        if (!mem_is_absent(z->mem, ram_page << PAGE_SHIFT))
            break;
        host_event_signal(z->pager);
        host_word_wait_shared(&h->arrived, arrived, host_ns(NULL) + LOOK_NS);
        if (place < 0)
            place = lazy_wish(&z->file, ram_page);
    }
    __atomic_fetch_sub(&h->waiting, 1, __ATOMIC_SEQ_CST);
    lazy_unwish(&z->file, place);
}

static void yield(void *ctx)
{
    host_yield();
}

/* --- the thread --- */

static void bring_all(struct cell_lazy *z)
{
    u64 pages = z->file.head->pages;
    struct error e = {0};
    for (u64 page = 0; page < pages;) {
        u32 n = lazy_together(&z->file, page, STREAM_PAGES);
        if (n && lazy_fetch(&z->file, page, n, z->buf, &e) < 0)
            fail(z, &e);
        for (u32 i = 0; i < n; i++)
            mem_put_page(z->mem, &z->absent, page + i, z->buf + (size_t)i * PAGE_SIZE);
        page += MAX(n, 1u);
    }
}

/* The keeper says that all is there. */
static void await_all(struct cell_lazy *z)
{
    u32 never = 0;
    for (u64 i = 0; i < (z->file.pages + 63) / 64; i++)
        while (__atomic_load_n(&z->file.absent[i], __ATOMIC_ACQUIRE))
            host_word_wait(&never, 0, host_ns(NULL) + LOOK_NS);
}

static void await_go(struct cell_lazy *z)
{
    u32 go;
    while ((go = __atomic_load_n(&z->go, __ATOMIC_ACQUIRE)) == GO_WAIT)
        host_word_wait(&z->go, GO_WAIT, UINT64_MAX);
    u64 begin = host_ns(NULL) + FIRST_NS;
    while (go == GO_SOON && host_ns(NULL) < begin) {
        host_word_wait(&z->go, GO_SOON, begin);
        go = __atomic_load_n(&z->go, __ATOMIC_ACQUIRE);
    }
}

static void *thread_main(void *arg)
{
    struct cell_lazy *z = arg;
    struct error e = {0};
    u32 never = 0;
    int r = host_confine_thread(&e);
    host_thread_background(BACKGROUND);
    __atomic_store_n(&z->ready, r < 0 ? 2 : 1, __ATOMIC_RELEASE);
    host_word_wake(&z->ready);
    await_go(z);
    if (z->pager < 0)
        bring_all(z);
    else
        await_all(z);
    __atomic_store_n(&z->mem->absent, NULL, __ATOMIC_RELEASE);
    if (z->pager < 0)
        close(z->file.fd);
    host_event_signal(z->wake_keeper);
    for (;;) /* to end would take more of the system than a cell may have */
        host_word_wait(&never, 0, UINT64_MAX);
    return NULL;
}

/* --- the cell's side --- */

int cell_lazy_setup(struct cell_lazy *z, const struct link_config *cfg, struct guest_mem *mem,
                    struct host_cell_seal *seal, struct error *e)
{
    u64 pages = cfg->ram_size / PAGE_SIZE;
    int first = LINK_FD_END + 2 * (int)(cfg->n_nets + cfg->n_shares);
    seal->file = -1;
    if (!cfg->lazy)
        return 0;
    z->pager = cfg->lazy == LINK_LAZY_PEER ? first + 1 : -1;
    if (z->pager < 0)
        seal->file = first + 1;
    else
        seal->wake_back[seal->n_wake_back++] = z->pager;
    void *base = host_map_shared(first, lazy_size(pages), e);
    int r = base ? lazy_attach(&z->file, base, pages, seal->file, e) : -ENOMEM;
    if (r < 0)
        return r;
    close(first);
    z->mem = mem;
    z->wake_keeper = LINK_FD_WAKE_KEEPER;
    if (!(z->buf = malloc(STREAM_PAGES * PAGE_SIZE)))
        return error_set(e, ENOMEM, "absent pages: out of memory");
    z->absent = (struct mem_absent){.absent = z->file.absent,
                                    .claimed = z->file.claimed,
                                    .left = &z->file.head->left,
                                    .fetch = z->pager < 0 ? fetch_page : await_page,
                                    .yield = yield,
                                    .ctx = z};
    if ((r = host_thread_start(thread_main, z, e)) < 0)
        return r;
    while (!__atomic_load_n(&z->ready, __ATOMIC_ACQUIRE))
        host_word_wait(&z->ready, 0, UINT64_MAX);
    if (z->ready == 2)
        return error_set(e, EPERM, "absent pages: no way for their thread to drop its rights");
    z->on = true;
    mem->absent = &z->absent;
    return 0;
}

void cell_lazy_go(struct cell_lazy *z, bool now)
{
    if (!z->on)
        return;
    __atomic_fetch_or(&z->go, now ? GO_NOW : GO_SOON, __ATOMIC_RELEASE); /* both: now */
    host_word_wake(&z->go);
}

void cell_lazy_drop(struct cell_lazy *z)
{
    if (!z->on)
        return;
    mem_drop_absent(z->mem, 0, z->mem->size);
    cell_lazy_go(z, true); /* it finds nothing to bring, and says so */
}
