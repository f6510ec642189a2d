/* User and group mappings: of processes in a new user namespace, and of mounts. */
#ifndef TRAPEZE_CONTAINER_IDMAP_H
#define TRAPEZE_CONTAINER_IDMAP_H

#include "container/spec.h"

/*
 * Give the new user namespace of process `pid` its mappings, by writing them or, where that takes a privilege we lack, by
 * newuidmap and newgidmap. 0 or -errno with `e`.
 */
int idmap_process(pid_t pid, const struct spec_id_maps *uid, const struct spec_id_maps *gid, struct error *e);

/* A new user namespace with these mappings: a descriptor, or -errno with `e`. */
int idmap_namespace(const struct spec_id_maps *uid, const struct spec_id_maps *gid, struct error *e);

/* Map the owners seen through the detached mount `tree`. */
int idmap_mount(int tree, const struct spec_id_maps *uid, const struct spec_id_maps *gid, bool recursive,
                struct error *e);

/* Whether this process is in a user namespace other than the first. */
bool idmap_nested(void);

#endif
