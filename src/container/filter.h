/* System call filters of linux.seccomp, compiled by libseccomp. */
#ifndef TRAPEZE_CONTAINER_FILTER_H
#define TRAPEZE_CONTAINER_FILTER_H

#include "container/spec.h"

struct filter {
    struct sock_filter *code; /* NULL: no filter */
    u16 length;
    u32 flags; /* SECCOMP_FILTER_FLAG_* */
};

/*
 * Compile the filter. Rules for system calls that this machine does not have are left out, as the specification wants. 0 or
 * -errno with `e`. Free with filter_free. `cache`: a directory where programs are kept from one time to the next, or NULL:
 * compiling the default filter takes the library 15 to 20 ms.
 */
int filter_compile(struct filter *p, const struct spec_seccomp *s, const char *cache, struct error *e);
void filter_free(struct filter *p);

/*
 * Put the calling thread under the filter. Needs no-new-privileges or CAP_SYS_ADMIN. With SECCOMP_FILTER_FLAG_NEW_LISTENER
 * in its flags the result is the listener's descriptor, else 0. -errno with `e`.
 */
int filter_install(const struct filter *p, struct error *e);

#endif
