#include "vm/launch.h"
#include "host/host.h"
#include "vm/keeper.h"
#include "vm/paths.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Read until the keeper closes its end. Returns the bytes of the report. */
static size_t read_report(int fd, struct launch_report *r)
{
    size_t got = 0;
    char more;
    while (got < sizeof(*r)) {
        ssize_t n = read(fd, (u8 *)r + got, sizeof(*r) - got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return got;
        got += (size_t)n;
    }
    while (read(fd, &more, 1) < 0 && errno == EINTR)
        ; /* after a failure: until its process is gone */
    return got;
}

static int launch(const struct vm_config *c, const struct vm_incoming *in, int dir, pid_t *keeper, struct error *e)
{
    int p[2];
    struct launch_report r = {0};
    if (pipe2(p, O_CLOEXEC) < 0)
        return error_set(e, errno, "pipe: %s", strerror(errno));
    const int keep[] = {dir, p[1], in ? in->ram_fd : dir, in && in->lazy ? in->table : dir,
                        in && in->lazy ? in->file : dir};
    int forked = host_fork_detached(keep, ARRAY_LEN(keep), e);
    if (forked == 1)
        keeper_main(c, in, dir, p[1]);
    close(p[1]);
    size_t got = forked == 0 ? read_report(p[0], &r) : 0;
    close(p[0]);
    if (forked < 0)
        return forked;
    if (got != sizeof(r))
        return error_set(e, EIO, "%s: its keeper ended before it could say why (see the kernel's log)", c->name);
    r.e.msg[sizeof(r.e.msg) - 1] = 0;
    *keeper = r.pid;
    return r.e.code ? error_set(e, r.e.code, "%s", r.e.msg) : 0;
}

int vm_launch(const struct vm_config *c, const char *dir, pid_t *keeper, struct error *e)
{
    return vm_launch_incoming(c, NULL, dir, keeper, e);
}

int vm_launch_incoming(const struct vm_config *c, const struct vm_incoming *in, const char *dir, pid_t *keeper,
                       struct error *e)
{
    int r = vm_config_check(c, e);
    if (r < 0)
        return r;
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return error_set(e, errno, "%s: %s", dir, strerror(errno));
    r = launch(c, in, fd, keeper, e);
    close(fd);
    return r;
}

int vm_end_read(const char *dir, int *code, char *reason, size_t len, s64 *ended)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof(path), "%s/%s", dir, VM_FILE_END) >= (int)sizeof(path))
        return -ENAMETOOLONG;
    FILE *f = fopen(path, "re");
    if (!f)
        return -errno;
    int c = fgetc(f);
    if (c != EOF)
        ungetc(c, f);
    json_t *j = c == EOF ? NULL : json_loadf(f, 0, NULL);
    fclose(f);
    if (!j)
        return c == EOF ? -ENOENT : -EINVAL; /* empty: no word yet */
    const json_t *number = json_object_get(j, "code");
    const char *why = json_string_value(json_object_get(j, "reason"));
    *code = (int)json_integer_value(number);
    if (ended)
        *ended = json_integer_value(json_object_get(j, "ended"));
    if (reason)
        snprintf(reason, len, "%s", why ? why : "");
    int r = json_is_integer(number) ? 0 : -EINVAL;
    json_decref(j);
    return r;
}

int vm_end_forget(const char *dir, struct error *e)
{
    char path[PATH_MAX];
    int r = paths_join(path, sizeof(path), dir, VM_FILE_END, e);
    if (r < 0 || unlink(path) == 0 || errno == ENOENT)
        return MIN(r, 0);
    return error_set(e, errno, "%s: how the machine ended can't be taken away: %s", path, strerror(errno));
}
