#include "migrate/prepage.h"

#include <errno.h>

static bool is_left(const struct prepage *p, u64 page)
{
    return p->left[page / 64] >> (page % 64) & 1;
}

void prepage_init(struct prepage *p, u64 *left, u64 pages)
{
    *p = (struct prepage){.left = left, .pages = pages};
    if (pages % 64)
        left[pages / 64] &= BIT(pages % 64) - 1;
    for (u64 i = 0; i < (pages + 63) / 64; i++)
        p->n += (u64)__builtin_popcountll(left[i]);
}

int prepage_want(struct prepage *p, u64 page, struct error *e)
{
    if (page >= p->pages)
        return error_set(e, ERANGE, "page %llu is asked for, of %llu", (unsigned long long)page,
                         (unsigned long long)p->pages);
    if (!is_left(p, page))
        return 0;
    p->up = p->down = page;
    if (p->wishes < PREPAGE_WISHES)
        p->wish[(p->first + p->wishes++) % PREPAGE_WISHES] = page;
    return 0;
}

/* Pages [first, first + n), all of which are left. */
static u32 hand_out(struct prepage *p, u64 first, u32 n)
{
    for (u64 i = first; i < first + n; i++)
        p->left[i / 64] &= ~BIT(i % 64);
    p->n -= n;
    return n;
}

static u32 next_wish(struct prepage *p, u64 *first)
{
    while (p->wishes) {
        u64 page = p->wish[p->first];
        p->first = (p->first + 1) % PREPAGE_WISHES;
        p->wishes--;
        if (!is_left(p, page)) /* wished for twice, or gone with its neighbours */
            continue;
        *first = page;
        return hand_out(p, page, 1);
    }
    return 0;
}

static u32 next_up(struct prepage *p, u64 *first, u32 most)
{
    u32 n = 0;
    while (p->up < p->pages && !is_left(p, p->up))
        p->up += p->up % 64 || p->left[p->up / 64] ? 1 : 64;
    if (p->up >= p->pages)
        return 0;
    *first = p->up;
    while (n < most && *first + n < p->pages && is_left(p, *first + n))
        n++;
    p->up += n;
    return hand_out(p, *first, n);
}

static u32 next_down(struct prepage *p, u64 *first, u32 most)
{
    u32 n = 0;
    while (p->down && !is_left(p, p->down - 1))
        p->down -= p->down % 64 || p->left[p->down / 64 - 1] ? 1 : 64;
    while (n < most && n < p->down && is_left(p, p->down - n - 1))
        n++;
    p->down -= n;
    *first = p->down;
    return hand_out(p, *first, n);
}

u32 prepage_next(struct prepage *p, u64 *first, u32 most)
{
    u32 n = next_wish(p, first);
    if (n || !p->n || !most)
        return n;
    p->turn = !p->turn;
    n = p->turn ? next_up(p, first, most) : next_down(p, first, most);
    if (!n)
        n = p->turn ? next_down(p, first, most) : next_up(p, first, most);
    return n;
}
