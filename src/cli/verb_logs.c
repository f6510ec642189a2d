/* What a machine printed: its log file, or with --follow what its keeper still has and then what comes. */
#include "cli/machine.h"
#include "cli/session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int copy_file(const char *path, struct error *e)
{
    char buf[65536];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return 0; /* nothing was printed */
    if (fd < 0)
        return error_set(e, errno, "%s: cannot be read: %s", path, strerror(errno));
    ssize_t n;
    while ((n = read(fd, buf, sizeof(buf))) > 0)
        if (fwrite(buf, 1, (size_t)n, stdout) != (size_t)n)
            break; /* main reports it */
    int rc = n < 0 ? error_set(e, errno, "%s: cannot be read: %s", path, strerror(errno)) : 0;
    close(fd);
    return rc;
}

static int follow(const struct machine_row *row, struct error *e)
{
    struct session_result res;
    const struct session_config s = {.row = row, .replay = 2u << 20};
    int rc = session_run(&s, &res, e);
    if (rc < 0)
        return cli_status_of(e);
    free(res.text);
    if (res.outcome == SESSION_LOST)
        error_set(e, EPIPE, "machine %s: its keeper process vanished", row->name);
    return res.outcome == SESSION_SIGNAL ? 128 + res.signal : res.outcome == SESSION_LOST ? CLI_HOST : CLI_OK;
}

int verb_logs(const struct args *a, struct error *e)
{
    struct machine_row row;
    struct registry *r = machine_registry(e);
    if (!r)
        return CLI_HOST;
    int rc = registry_find(r, a->operands[0], &row, e);
    registry_close(r);
    if (rc < 0)
        return cli_status_of(e);
    int status;
    if (a->given[OPT_FOLLOW] && machine_lives(&row))
        status = follow(&row, e);
    else
        status = copy_file(row.log, e) < 0 ? cli_status_of(e) : CLI_OK;
    registry_row_free(&row);
    return status;
}
