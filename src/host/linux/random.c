#include "host/host.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

void host_random(void *data, size_t len)
{
    u8 *p = data;
    while (len) {
        ssize_t n = getrandom(p, len, 0);
        if (n < 0 && errno != EINTR)
            abort(); /* ENOSYS: kernels before 3.17 */
        if (n > 0) {
            p += n;
            len -= (size_t)n;
        }
    }
}
