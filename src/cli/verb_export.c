#include "box/build.h"
#include "cli/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static int export(const struct args *a, const struct machine_row *row, struct error *e)
{
    const char *file = a->text[OPT_TO_FILE];
    if (row->kind != KIND_CONTAINER)
        return error_set(e, ENOTSUP, "machine %s: is no container; its disk is a file of the host", row->name);
    if (!file && isatty(STDOUT_FILENO))
        return error_set(e, EINVAL, "export: an archive is nothing for a terminal; give --output FILE");
    int fd = file ? open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666) : dup(STDOUT_FILENO);
    if (fd < 0)
        return error_set(e, errno, "%s: cannot be written: %s", file ? file : "standard output", strerror(errno));
    int r = box_export(row, fd, e);
    if (close(fd) < 0 && r == 0)
        r = error_set(e, errno, "%s: cannot be written: %s", file ? file : "standard output", strerror(errno));
    if (r < 0 && file)
        unlink(file);
    return r;
}

int verb_export(const struct args *a, struct error *e)
{
    struct machine_row row;
    if (machine_find(a->operands[0], &row, e) < 0)
        return CLI_USAGE;
    int r = export(a, &row, e);
    registry_row_free(&row);
    return r < 0 ? cli_status_of(e) : CLI_OK;
}
