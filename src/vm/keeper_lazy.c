/*
 * Memory that is still in a file (at a peer: keeper_paging.c), as the keeper sees it: the cell reads it (cell_lazy.h), the keeper looks on. Who wants to read
 * all of memory waits until it is there. The keeper itself needs no page of it: a disk's request names pages that the cell has
 * looked at (virtq.c), and a kernel is loaded when the cell has dropped all that was absent.
 *
 * The table is shared with the cell: what stands there is looked at once, and its text cleaned. A cell that lies makes who waits
 * for its memory wait longer, or copy less of it than there was.
 */
#include "vm/keeper.h"

#include <errno.h>
#include <string.h>

int keeper_open_lazy(struct keeper *k, struct error *e)
{
    u64 pages = k->cfg.memory / PAGE_SIZE;
    struct stat st;
    if (!k->incoming || !k->incoming->lazy)
        return 0;
    if (fstat(k->incoming->table, &st) < 0 || (u64)st.st_size != lazy_size(pages))
        return error_set(e, EINVAL, "%s: the table of its memory is not of the machine's size", k->cfg.name);
    void *base = host_map_shared(k->incoming->table, lazy_size(pages), e);
    return base ? lazy_attach(&k->lazy, base, pages, k->incoming->file, e) : -ENOMEM;
}

unsigned keeper_describe_lazy(const struct keeper *k, struct link_config *c, int *fds, unsigned n)
{
    if (!k->lazy.head)
        return n;
    c->lazy = k->incoming->peer ? LINK_LAZY_PEER : k->incoming->shared ? LINK_LAZY_SHARED : LINK_LAZY_FILE;
    fds[n++] = k->incoming->table;
    fds[n++] = k->incoming->file;
    return n;
}

u64 keeper_absent(const struct keeper *k)
{
    u64 left = k->lazy.head ? __atomic_load_n(&k->lazy.head->left, __ATOMIC_ACQUIRE) : 0;
    return MIN(left, k->cfg.memory / PAGE_SIZE) * PAGE_SIZE;
}

static void give_memory(struct keeper *k, struct client *c)
{
    if (c->pass >= 0) {
        keeper_refuse(c, EBUSY, "memory: is on its way already");
        return;
    }
    keeper_reply(c, json_pack("{s:b,s:I}", "ok", 1, "bytes", (json_int_t)k->cfg.memory));
    if (client_put_fd(c, k->ram_fd) < 0)
        c->closing = true;
}

void keeper_do_memory(struct keeper *k, struct client *c, const json_t *j)
{
    if (keeper_lacks_pages(k, c))
        return;
    if (!keeper_absent(k) || k->page_event >= 0 || k->ended)
        give_memory(k, c);
    else if (keeper_tell(k, DOWN_FILL, NULL, 0) < 0)
        keeper_refuse(c, EBUSY, "%s: the guest's process takes no messages now", k->cfg.name);
    else
        c->op = KEEPER_OP_MEMORY;
}

void keeper_serve_lazy(struct keeper *k)
{
    char why[LAZY_TEXT];
    if (!k->lazy.head || k->ended)
        return;
    if (__atomic_load_n(&k->lazy.head->failed, __ATOMIC_ACQUIRE) == 2) {
        memcpy(why, k->lazy.head->why, sizeof(why));
        why[sizeof(why) - 1] = 0;
        keeper_end(k, VM_EXIT_HOST, NULL, "its memory can not be read: %s", why);
        return;
    }
    for (unsigned i = 0; i < KEEPER_CLIENTS && !keeper_absent(k); i++) {
        struct client *c = &k->clients[i];
        if (c->fd < 0 || c->op != KEEPER_OP_MEMORY)
            continue;
        c->op = 0;
        give_memory(k, c);
        if (client_flush(c) < 0)
            keeper_drop_client(k, c);
    }
}
