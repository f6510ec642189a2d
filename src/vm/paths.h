/*
 * Where things lie: the state directory of the user, the directory of one machine in it, and the name of a process that
 * can not be mistaken for a later one with the same number.
 *
 *   $XDG_STATE_HOME/trapeze or ~/.local/state/trapeze      mode 0700
 *     machines.db                                          the registry (vm/registry.h)
 *     machines/ID/control                                  control socket, there while the keeper lives
 *     machines/ID/console.log                              what the guest printed
 */
#ifndef TRAPEZE_VM_PATHS_H
#define TRAPEZE_VM_PATHS_H

#include "base/error.h"
#include "base/types.h"

#include <limits.h>
#include <sys/types.h>

/*
 * The state directory into out[size], made (with its parents) if missing. A relative XDG_STATE_HOME is ignored, as the
 * XDG base directory specification says. 0 or -errno with `e` naming the directory.
 */
int paths_state_dir(char *out, size_t size, struct error *e);

/* The directory of machine `id` below the state directory; made if `make`. 0 or -errno. */
int paths_machine_dir(char *out, size_t size, const char *id, bool make, struct error *e);

/* Join "dir/name" into out. 0 or -ENAMETOOLONG with `e`. */
int paths_join(char *out, size_t size, const char *dir, const char *name, struct error *e);

/* Delete a machine's directory with the plain files and sockets in it; missing is no error. 0 or -errno. */
int paths_remove_dir(const char *dir, struct error *e);

/*
 * Start time of process `pid` in clock ticks since boot (proc(5), /proc/PID/stat field 22); 0 when there is no such
 * process or it is a zombie; PATHS_UNKNOWN when there is one and /proc can not be read now (no descriptors left). The pair
 * (pid, start time) names a process for good.
 */
#define PATHS_UNKNOWN ((u64)INT64_MAX)
u64 paths_process_start(pid_t pid);

/* Whether the process named by (pid, start) still runs. Where that can not be told it does: nobody may be buried alive. */
bool paths_process_alive(pid_t pid, u64 start);

#endif
