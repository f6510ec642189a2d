#include "cli/agent_call.h"
#include "base/vsock.h"
#include "cli/terminal.h"
#include "vm/control.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BOOT_SECONDS 60.0 /* that a guest has, from the start of its machine, until it must answer */
#define RETRY_MS     100

static int connect_once(const struct machine_row *row, struct error *e)
{
    json_t *request = json_pack("{s:s, s:i}", "do", "vsock", "port", (int)VSOCK_AGENT_PORT);
    int fd = request ? machine_connect(row, 10, e) : error_set(e, ENOMEM, "memory: the host has none left");
    int rc = fd < 0 ? fd : control_call(fd, request, NULL, e);
    json_decref(request);
    if (rc == -EPIPE || rc == -ECONNRESET)
        error_prefix(e, "machine %s", row->name); /* the keeper's own words name it */
    if (rc < 0 && fd >= 0)
        close(fd);
    return rc < 0 ? rc : fd;
}

/* Whether the machine was started so lately that its guest may still be on its way. */
static bool may_be_booting(const struct machine_row *row)
{
    json_t *reply = NULL;
    double uptime = 0;
    const char *state = "";
    bool young = machine_call(row, 10, json_pack("{s:s}", "do", "status"), &reply, NULL) == 0 &&
                 json_unpack(reply, "{s:F, s:s}", "uptime", &uptime, "state", &state) == 0 && uptime < BOOT_SECONDS &&
                 strcmp(state, "paused");
    json_decref(reply);
    return young;
}

int agent_connect(const struct machine_row *row, bool patient, struct error *e)
{
    const struct timespec pause = {.tv_nsec = RETRY_MS * 1000000l};
    bool told = false;
    for (;;) {
        struct error why = {0};
        int fd = connect_once(row, &why);
        bool again = patient && (fd == -ENODEV || fd == -ECONNREFUSED || fd == -EBUSY || fd == -ETIMEDOUT);
        if (fd >= 0 || !again || !may_be_booting(row)) {
            if (told)
                terminal_status("");
            return fd < 0 ? error_set(e, why.code, "%s%s", why.msg,
                                      why.code == ECONNREFUSED ? "; is trapeze-agent installed and running?" : "")
                          : fd;
        }
        if (!told && isatty(STDERR_FILENO))
            terminal_status("the guest is still booting ..");
        told = isatty(STDERR_FILENO);
        nanosleep(&pause, NULL);
    }
}

static int await_done(int fd, struct agent_frame *f, unsigned seconds, struct error *e)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (poll(&p, 1, (int)seconds * 1000) != 1)
        return error_set(e, ETIMEDOUT, "the guest's agent does not answer");
    int r = agent_receive(fd, f);
    if (r == 1 && f->kind == AGENT_DONE)
        return 0;
    if (r == 1 && f->kind == AGENT_FAILED)
        return agent_failure(f, e);
    return error_set(e, EPROTO, "the guest's agent ended without an answer");
}

int agent_call(const struct machine_row *row, u8 kind, const void *data, size_t len, unsigned seconds, struct error *e)
{
    struct agent_frame *f = malloc(sizeof(*f));
    int fd = f ? agent_connect(row, false, e) : error_set(e, ENOMEM, "memory: the host has none left");
    int rc = fd < 0 ? fd : agent_send(fd, kind, data, len);
    if (rc == 0)
        rc = await_done(fd, f, seconds, e);
    if (fd >= 0)
        close(fd);
    free(f);
    return MIN(rc, 0);
}
