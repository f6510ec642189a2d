/*
 * What a host must have for a machine to go on there: told by the one that has it, checked by the one that is asked. All that is
 * missing is told at once, before anything is touched.
 *
 *   {"trapeze", "config", "cpu", "disks": as in a stream's CONF record, "files": [{"file", "bytes", "digest"}], "images": [{"file",
 *    "inode"}]}
 */
#ifndef TRAPEZE_VM_META_H
#define TRAPEZE_VM_META_H

#include "vm/config.h"

#include <jansson.h>

/* Of a machine here. The caller's reference, or NULL with `e`. */
json_t *vm_meta_json(const struct vm_config *c, struct error *e);

/*
 * Whether such a machine can be here: sets *c, and appends a line for each reason why not to `reasons`. 0 when it could be
 * read at all, -EPROTO. `with_disks`: its disks go along, and need not be here.
 */
int vm_meta_check(const json_t *meta, struct vm_config *c, bool with_disks, json_t *reasons, struct error *e);

#endif
