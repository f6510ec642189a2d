/* Files of the store: whole or not there, and removed without following what they point to. */
#ifndef TRAPEZE_IMAGE_TREE_H
#define TRAPEZE_IMAGE_TREE_H

#include "base/error.h"
#include "base/types.h"

#include <stddef.h>

/* A directory and its parents, 0700; an O_PATH-less descriptor or -errno with `e`. */
int tree_make(const char *path, struct error *e);
/* The same for one name below a directory. */
int tree_make_at(int dir, const char *name, u32 mode, struct error *e);

/* Write a file whole: temporary name, fsync if `durable`, rename, fsync of the directory. 0 or -errno with `e`. */
int tree_write(int dir, const char *name, const void *data, size_t size, bool durable, struct error *e);

/*
 * Remove `name` below `dir` and all below it, by descriptors; mounts are not crossed (their directory stays, -EBUSY). Missing
 * is no error.
 */
int tree_remove(int dir, const char *name, struct error *e);

/* Remove all that is in a directory, which stays. */
int tree_empty(int dir, struct error *e);

/* A name that nothing else has: prefix and 16 random digits. */
void tree_random(char *out, size_t size, const char *prefix);

/* Bytes on disk of all below; for `system df`. */
u64 tree_usage(int dir, const char *name);

/* flock(2) of a file made if missing: a descriptor, -EAGAIN if not `wait` and somebody holds it, -errno. */
int tree_lock(int dir, const char *name, bool exclusive, bool wait, struct error *e);

#endif
