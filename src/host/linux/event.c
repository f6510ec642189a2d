/* Events: eventfds in counting mode that never block. */
#include "host/host.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000ull

int host_event_create(struct error *e)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return fd >= 0 ? fd : error_set(e, errno, "eventfd: %s", strerror(errno));
}

void host_event_signal(int fd)
{
    u64 one = 1;
    /* EAGAIN: the counter is full, thus signalled. */
    while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

void host_event_clear(int fd)
{
    u64 count;
    while (read(fd, &count, sizeof(count)) < 0 && errno == EINTR)
        ;
}

bool host_event_watch(int fd, u64 deadline)
{
    u64 count;
    while (host_ns(NULL) < deadline) {
        if (read(fd, &count, sizeof(count)) == sizeof(count))
            return true;
        sched_yield();
    }
    return false;
}

void host_event_wait(int fd, u64 deadline)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    struct timespec t, *limit = NULL;
    if (deadline != UINT64_MAX) {
        u64 now = host_ns(NULL), left = deadline > now ? deadline - now : 0;
        t = (struct timespec){.tv_sec = (time_t)(left / NS_PER_S), .tv_nsec = (long)(left % NS_PER_S)};
        limit = &t;
    }
    if (ppoll(&p, 1, limit, NULL) > 0)
        host_event_clear(fd);
}

int host_changes_open(const char *path, struct error *e)
{
    int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (fd >= 0 && inotify_add_watch(fd, path, IN_MODIFY | IN_CREATE | IN_DELETE | IN_MOVED_TO) >= 0)
        return fd;
    int r = error_set(e, errno, "%.200s: watching it: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return r;
}

void host_changes_take(int fd)
{
    char text[4096];
    while (read(fd, text, sizeof(text)) > 0)
        ;
}
