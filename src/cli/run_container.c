/* `trapeze run IMAGE [CMD]`: options into what the room box takes. */
#include "cli/run_container.h"
#include "box/box.h"
#include "cli/json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int check(const struct args *a, struct error *e)
{
    static const enum option_id machines[] = {OPT_KERNEL,    OPT_INITRD,     OPT_APPEND,    OPT_DISK,     OPT_CPU,
                                              OPT_ENGINE,    OPT_CODE_CACHE, OPT_NO_REBOOT, OPT_TIME_RUN, OPT_SSH_KEY,
                                              OPT_DISK_SIZE, OPT_CONSOLE,    OPT_VIRTIO};
    for (size_t i = 0; i < ARRAY_LEN(machines); i++)
        if (a->given[machines[i]])
            return error_set(e, EINVAL, "--%s: is for machines; %.60s is taken for an image of a container",
                             cli_options[machines[i]].name, a->operands[0]);
    return a->given[OPT_NAME] ? registry_check_name(a->text[OPT_NAME], e) : 0;
}

/* Values of an option that may be given several times; they share one array. */
static struct box_list list_of(const struct args *a, enum option_id id, const char **room, size_t *at)
{
    struct box_list l = {.v = room + *at};
    for (int i = 0; i < a->n_many; i++)
        if (a->many[i].id == id)
            room[(*at)++] = a->many[i].text, l.n++;
    return l;
}

static int network_of(const struct args *a, const char **out, struct error *e)
{
    for (int i = 0; i < a->n_many; i++) {
        if (a->many[i].id != OPT_NETWORK)
            continue;
        if (*out)
            return error_set(e, EINVAL, "--network: given twice; a container has one");
        *out = a->many[i].text;
    }
    return 0;
}

static int print_started(const struct args *a, const struct box_started *s, struct error *e)
{
    if (a->number[OPT_FORMAT])
        return cli_json_print(json_pack("{s:s, s:s, s:i}", "name", s->name, "id", s->id, "keeper", (int)s->keeper), e);
    puts(s->name);
    return CLI_OK;
}

static int run(const struct args *a, const char **room, struct error *e)
{
    struct box_started started;
    size_t n = 0;
    bool left;
    int status = BOX_FAILED;
    struct box_options o = {.image = a->operands[0],
                            .args = {a->operands + 1, a->n_operands - 1},
                            .name = a->text[OPT_NAME],
                            .interactive = a->given[OPT_INTERACTIVE],
                            .tty = a->given[OPT_TTY],
                            .detach = a->given[OPT_DETACH],
                            .remove = a->given[OPT_RM],
                            .read_only = a->given[OPT_READ_ONLY],
                            .workdir = a->text[OPT_WORKDIR],
                            .user = a->text[OPT_USER],
                            .entrypoint = a->text[OPT_ENTRYPOINT],
                            .hostname = a->text[OPT_HOSTNAME],
                            .memory = a->given[OPT_MEMORY] ? a->number[OPT_MEMORY] : 0,
                            .cpus = a->given[OPT_CPUS] ? a->number[OPT_CPUS] : 0,
                            .escape = (u8)a->number[OPT_ESCAPE]};
    o.env = list_of(a, OPT_ENV, room, &n);
    o.ports = list_of(a, OPT_PUBLISH, room, &n);
    o.dns = list_of(a, OPT_DNS, room, &n);
    o.hosts = list_of(a, OPT_ADD_HOST, room, &n);
    o.volumes = list_of(a, OPT_VOLUME, room, &n);
    o.cap_add = list_of(a, OPT_CAP_ADD, room, &n);
    o.cap_drop = list_of(a, OPT_CAP_DROP, room, &n);
    if (network_of(a, &o.network, e) < 0 || box_protect(e) < 0 || box_run(&o, &started, &status, &left, e) < 0)
        return status;
    if (left)
        fprintf(stderr, "\ncontainer %s: goes on; `trapeze attach %s` comes back, `trapeze stop %s` ends it\n",
                started.name, started.name, started.name);
    return o.detach ? print_started(a, &started, e) : left ? CLI_OK : status;
}

int run_container(const struct args *a, struct error *e)
{
    const char **room = calloc((size_t)a->n_many + 1, sizeof(*room));
    int status = BOX_FAILED;
    if (!room)
        error_set(e, ENOMEM, "memory: the host has none left");
    else if (check(a, e) == 0)
        status = run(a, room, e);
    free(room);
    return status;
}
