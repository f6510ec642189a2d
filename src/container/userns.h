/*
 * Being root of a user namespace of one's own: what everybody has who is not root, and containers of images are made with.
 *
 * There the own number is 0, and 1 and up are the range that /etc/subuid and /etc/subgid give (newuidmap and newgidmap write
 * the mappings). Without a range, or without these programs, the own number is the only one there.
 */
#ifndef TRAPEZE_CONTAINER_USERNS_H
#define TRAPEZE_CONTAINER_USERNS_H

#include "container/spec.h"

#define USERNS_RANGE 65535 /* numbers beside the own one that are used, if there are so many */

struct userns_ids {
    struct spec_id_map uid[2], gid[2];
    size_t n;      /* of each: 2, or 1 when there is no range */
    char why[200]; /* .. and why, in words */
};

/* Those of who calls; a range counts when it has `least` numbers. */
void userns_ids(struct userns_ids *out, u32 least);

/*
 * Who is not root enters a new user namespace and is root there; root stays where he is. Before: one thread. HOME is set as
 * the user's where it was not set, because his name can not be found out there. `why`: 200 bytes, gets why there is only one
 * number, or ""; may be NULL. 0 or -errno with `e`, which says what to do.
 */
int userns_enter(char *why, struct error *e);

/* Enter the user namespace of process `pid`, which this user made; nothing, if this process is in it or is root. */
int userns_join(pid_t pid, struct error *e);

/* Whether this process's user namespace has these numbers of a user and a group. */
bool userns_has(u32 uid, u32 gid);

/* Whether it has one number only. */
bool userns_single(void);

#endif
