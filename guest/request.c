/* Requests: one table, a function each. A connection has one. */
#include "guest.h"

#include "base/bytes.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* The two strings of a payload behind its first `skip` bytes; false when they are not there. */
static bool two_strings(const struct agent_frame *f, u32 skip, const char **a, const char **b)
{
    if (f->len < skip + 2 || f->data[f->len - 1])
        return false;
    *a = (const char *)f->data + skip;
    u32 second = skip + (u32)strlen(*a) + 1;
    *b = (const char *)f->data + second;
    return second < f->len && second + strlen(*b) + 1 == f->len;
}

static int done(int fd)
{
    return agent_send(fd, AGENT_DONE, NULL, 0);
}

static int bad(struct error *e)
{
    return error_set(e, EPROTO, "a request that can not be");
}

static int do_ping(int fd, struct agent_frame *f, struct error *e)
{
    u8 b[64];
    put_le32(b, AGENT_VERSION);
    int n = snprintf((char *)b + 4, sizeof(b) - 4, "trapeze-agent %s", TRAPEZE_VERSION);
    return agent_send(fd, AGENT_HELLO, b, 4 + (size_t)n);
}

static int do_exec(int fd, struct agent_frame *f, struct error *e)
{
    struct agent_exec *x = calloc(1, sizeof(*x));
    if (!x)
        return error_set(e, ENOMEM, "out of memory");
    int r = agent_exec_unpack(x, f) < 0 ? bad(e) : run_program(fd, x, e);
    free(x);
    return r;
}

static int do_get(int fd, struct agent_frame *f, struct error *e)
{
    if (!f->len || memchr(f->data, 0, f->len) != f->data + f->len - 1)
        return bad(e);
    char *path = strdup((const char *)f->data);
    int r = path ? agent_tree_send(fd, path, e) : error_set(e, ENOMEM, "out of memory");
    free(path);
    return r;
}

/*
 * After a failure: let the host come to its end, so that it reads what went wrong instead of a reset connection. It looks
 * for our words between two frames.
 */
static void drain(int fd, struct agent_frame *f)
{
    while (agent_receive(fd, f) == 1 && f->kind != AGENT_DONE)
        ;
}

static int do_put(int fd, struct agent_frame *f, struct error *e)
{
    const char *dest, *name;
    struct agent_tree t;
    if (!two_strings(f, 4, &dest, &name))
        return bad(e);
    char *d = strdup(dest), *n = strdup(name);
    if (!d || !n)
        return error_set(e, ENOMEM, "out of memory");
    umask(0);
    agent_tree_begin(&t, d, n, get_le32(f->data), 07777);
    int r, taken = 0;
    while ((r = agent_receive(fd, f)) == 1 && (taken = agent_tree_take(&t, f, e)) == 0)
        ;
    agent_tree_end(&t);
    free(d);
    free(n);
    if (taken == 1)
        return done(fd);
    if (r != 1)
        return error_set(e, EPIPE, "the connection ended in the middle");
    agent_send_error(fd, e);
    drain(fd, f);
    e->code = 0; /* it has been told */
    return 0;
}

static int do_time(int fd, struct agent_frame *f, struct error *e)
{
    if (f->len != 8)
        return bad(e);
    u64 ns = get_le64(f->data);
    const struct timespec t = {.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
    if (clock_settime(CLOCK_REALTIME, &t) < 0)
        return error_set(e, errno, "clock: %s", strerror(errno));
    return done(fd);
}

/* Whether this guest's first process is this program. */
static bool init_is_ours(void)
{
    struct stat a, b;
    return stat("/proc/1/exe", &a) == 0 && stat("/proc/self/exe", &b) == 0 && a.st_ino == b.st_ino &&
           a.st_dev == b.st_dev;
}

int go_down(u32 how, struct error *e)
{
    bool reboot = how == AGENT_DOWN_REBOOT;
    const char *const option = reboot ? "-r" : "-h";
    if (init_is_ours())
        return kill(1, reboot ? SIGUSR1 : SIGUSR2) < 0 ? -errno : 0;
    if (access("/run/systemd/system", F_OK) == 0) /* systemd(1), signals: poweroff.target, reboot.target */
        return kill(1, SIGRTMIN + (reboot ? 5 : 4)) < 0 ? -errno : 0;
    pid_t child = fork();
    if (child == 0) {
        setsid();
        execl("/sbin/shutdown", "shutdown", option, "now", (char *)NULL);
        execl("/sbin/poweroff", reboot ? "reboot" : "poweroff", (char *)NULL);
        _exit(127);
    }
    return child < 0 ? error_set(e, errno, "shutdown: %s", strerror(errno)) : 0;
}

/* Random bytes that nobody else has: another machine may have begun with the same memory as this one. */
static int stir(const u8 *seed, struct error *e)
{
    _Alignas(struct rand_pool_info) u8 buf[sizeof(struct rand_pool_info) + AGENT_SEED] = {0};
    struct rand_pool_info *info = (struct rand_pool_info *)(void *)buf;
    int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
    info->entropy_count = AGENT_SEED * 8;
    info->buf_size = AGENT_SEED;
    memcpy(info->buf, seed, AGENT_SEED);
    bool done = fd >= 0 && ioctl(fd, RNDADDENTROPY, info) == 0 && ioctl(fd, RNDRESEEDCRNG) == 0;
    int why = errno;
    if (fd >= 0)
        close(fd);
    return done ? 0 : error_set(e, why, "random numbers: can not be seeded: %s", strerror(why));
}

static int do_fresh(int fd, struct agent_frame *f, struct error *e)
{
    const char *name = (const char *)f->data + AGENT_SEED;
    if (f->len < AGENT_SEED || f->len > AGENT_SEED + 64 || strlen(name) != f->len - AGENT_SEED)
        return bad(e);
    int r = stir(f->data, e);
    if (r == 0 && *name && sethostname(name, strlen(name)) < 0)
        r = error_set(e, errno, "host name %s: %s", name, strerror(errno));
    return r < 0 ? r : done(fd);
}

static int do_down(int fd, struct agent_frame *f, struct error *e)
{
    if (f->len != 4 || get_le32(f->data) > AGENT_DOWN_REBOOT)
        return bad(e);
    int r = done(fd);
    return r < 0 ? r : go_down(get_le32(f->data), e);
}

static const struct {
    u8 kind;
    int (*fn)(int fd, struct agent_frame *f, struct error *e);
} requests[] = {{AGENT_PING, do_ping}, {AGENT_EXEC, do_exec},   {AGENT_GET, do_get},  {AGENT_PUT, do_put},
                {AGENT_TIME, do_time}, {AGENT_FRESH, do_fresh}, {AGENT_DOWN, do_down}};

void serve_connection(int fd)
{
    struct error e = {0};
    struct agent_frame *f = malloc(sizeof(*f));
    if (!f || agent_receive(fd, f) != 1)
        return;
    int r = 1;
    for (size_t i = 0; i < ARRAY_LEN(requests); i++)
        if (requests[i].kind == f->kind)
            r = requests[i].fn(fd, f, &e);
    if (r == 1)
        error_set(&e, ENOSYS, "the agent does not know request %u; it is of version %u", f->kind, AGENT_VERSION);
    if (e.code)
        agent_send_error(fd, &e);
    shutdown(fd, SHUT_WR);
    free(f);
}
