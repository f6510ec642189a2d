/* The runtime's own protection, before it has read anything of a container. */
#ifndef TRAPEZE_CONTAINER_PROTECT_H
#define TRAPEZE_CONTAINER_PROTECT_H

#include "base/error.h"

/*
 * See to it that this process runs from a file that nobody can write through /proc/PID/exe (CVE-2019-5736). Where it does not
 * yet, the program is executed again, from a read-only mount of itself that is nowhere attached, or else from a sealed copy in
 * memory; then this does not return. 0 when it is so already.
 */
/* Nobody may look at this process, or trace it (CVE-2016-9962); who is not root must let that be until mappings are written. */
void protect_process(void);
int protect_binary(char **argv, struct error *e);

#endif
