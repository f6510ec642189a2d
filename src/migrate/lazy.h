/*
 * A memory whose pages are still in the file that they were written to, or at a peer (post-copy): a table that says which these are
 * and what the sum of each is, in memory that several processes can share; reading those of a file by it; and, for those of a
 * peer, who waits for which. Knows no machine: who may touch a page when is
 * machine/mem/absent.h's matter, who reads when is vm/cell_lazy.h's.
 *
 *   offset 0      struct lazy_head
 *   then          a bit a page: it is absent;  a bit a page: somebody is about to put it there;
 *                 8 bytes a page: its sum;  4 bytes a page: where it lies in the file, in pages; 0: nowhere, it is zero, or a peer's
 *
 * Of a peer's pages a pager brings all, one process at a time. Who wants one notes a wish, wakes the pager by an event, and sleeps on
 * `arrived`. Wishes are places, not a queue: a pager that follows one that died finds them all.
 *
 * What must stay true
 *  1. No byte of a page is handed out before all of it has the sum that it was written with (migrate/digest.h). The sums are
 *     those of the memory's digest, which was compared when the table was made.
 *  2. The file is read (pread), never mapped: one that is cut short meanwhile is an error, not a signal.
 *  3. A pager says which page it is about to claim before it does, and forgets that when the page is present. So the next one
 *     knows which claim is a dead process's.
 */
#ifndef TRAPEZE_MIGRATE_LAZY_H
#define TRAPEZE_MIGRATE_LAZY_H

#include "migrate/file.h"

#define LAZY_MAGIC  0x797a616cu /* "lazy" */
#define LAZY_TEXT   400u
#define LAZY_WISHES 64u

/* What those say to each other who share the table. */
struct lazy_head {
    u32 magic;
    u32 failed;          /* 0; 1 while `why` is written; 2: it says why a page can not be had */
    u64 pages;           /* of the memory */
    u64 left;            /* pages that are absent */
    char file[NAME_MAX]; /* its name, for messages; then a zero byte */
    char zero;
    char why[LAZY_TEXT];   /* ends with a zero byte */
    u32 arrived;           /* a peer's pages: another number whenever some have come */
    u32 waiting;           /* how many wait for one */
    u64 putting;           /* the page that the pager is about to claim, and 1; 0: none */
    u64 wish[LAZY_WISHES]; /* a page that somebody waits for, and 1; 0: none */
};

struct lazy {
    struct lazy_head *head;
    u64 *absent, *claimed, *sum;
    u32 *place;
    u64 pages; /* as the table's, which is shared, must not be believed */
    int fd;    /* the file: borrowed */
};

/* Bytes of the table for so many pages. */
u64 lazy_size(u64 pages);
/* `base` is a mapping of a table for so many pages. -EINVAL: it is none. */
int lazy_attach(struct lazy *l, void *base, u64 pages, int fd, struct error *e);

/*
 * Whether the file, of which head and configuration have been read, can be read lazily: 1, and its index begins at *at; 0: it has no
 * index; -errno.
 */
int lazy_find(const struct stream_file *f, u64 *at, struct error *e);
/*
 * Fill the table at `base`, which is lazy_size(pages) zeros, from the index at `at`; the machine's records go to the end of
 * `state`. 0: all that was read is whole.
 */
int lazy_open(struct stream_file *f, struct stream_in *s, u64 at, void *base, struct rec_buf *state, struct error *e);

/* Begin a table at `base`, which is lazy_size(pages) zeros, of a memory whose pages a peer will have: none is absent yet. */
void lazy_begin(struct lazy *l, void *base, u64 pages);
/* Somebody waits for that page: the place of his wish, or -1: there is none. And no more. */
int lazy_wish(const struct lazy *l, u64 page);
void lazy_unwish(const struct lazy *l, int place);
/* What is wished for and absent, at most LAZY_WISHES pages; how many. */
u32 lazy_wishes(const struct lazy *l, u64 *page);
/* A pager is about to put a page where it belongs, and has. */
void lazy_putting(const struct lazy *l, u64 page);
void lazy_put(const struct lazy *l);
/* What another pager left undone when it died: the page that it had claimed is anybody's again. */
void lazy_disown(const struct lazy *l);

/* How many pages from `first` on, `most` at most, lie behind each other in the file and are absent. */
u32 lazy_together(const struct lazy *l, u64 first, u32 most);
/* Read `n` such pages. 0 or -errno, with an `e` that names file and page. */
int lazy_fetch(const struct lazy *l, u64 first, u32 n, u8 *to, struct error *e);
/* A page can not be had: the first to say so is heard. */
void lazy_fail(const struct lazy *l, const struct error *why);

#endif
