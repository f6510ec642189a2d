/*
 * Paths inside a container's root file system, which somebody hostile may have laid out and may be changing while we walk.
 *
 * Every lookup is the kernel's (openat2 with RESOLVE_IN_ROOT and RESOLVE_NO_MAGICLINKS): symbolic links, absolute ones as
 * well, and ".." stay inside the root, and /proc's magic links are refused. We never put a path together and hand it to a
 * call that would walk it anew; what is made is made as a single name below a directory that has been looked up this way.
 */
#ifndef TRAPEZE_CONTAINER_INROOT_H
#define TRAPEZE_CONTAINER_INROOT_H

#include "base/error.h"
#include "base/types.h"

#include <sys/types.h>

/* O_PATH unless `flags` say otherwise. A descriptor, or -1 with errno. */
int inroot_open(int root, const char *path, u64 flags);

/*
 * The directory (or, with `directory` false, the file) at `path`, made with its parents where it is missing: directories with
 * mode 0755, an empty file with 0644. A dangling symbolic link is followed inside the root and its target made. An
 * O_PATH descriptor or -errno with `e`.
 */
int inroot_make(int root, const char *path, bool directory, struct error *e);

/*
 * The directory that `path` lies in, made if missing, as an O_PATH descriptor; *name points to the last part of `path`.
 * -errno with `e`, also when the last part is empty, "." or "..".
 */
int inroot_parent(int root, const char *path, const char **name, struct error *e);

#endif
