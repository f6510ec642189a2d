/* `trapeze image build DIR`: images of containers from Dockerfiles. */
#include "box/build.h"
#include "container/userns.h"
#include "cli/json.h"
#include "cli/terminal.h"
#include "cli/vm_image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct teller {
    bool quiet;
    json_t *steps; /* --format json */
};

static void tell(void *arg, const struct build_report *r)
{
    const struct teller *t = arg;
    size_t line = strcspn(r->text, "\n");
    if (t->steps && r->done)
        json_array_append_new(t->steps, json_pack("{s:i,s:s,s:s,s:b,s:s}", "step", (int)r->step, "stage", r->stage,
                                                  "instruction", r->text, "cached", r->cached, "layer", r->layer));
    if (t->quiet)
        return;
    if (!r->done)
        fprintf(stderr, "STEP %u/%u: %.*s\n", r->step, r->steps, (int)MIN(line, 300), r->text);
    else if (r->cached)
        fprintf(stderr, "  cached\n");
}

static struct box_list list_of(const struct args *a, enum option_id id, const char **room, size_t *at)
{
    struct box_list l = {.v = room + *at};
    for (int i = 0; i < a->n_many; i++)
        if (a->many[i].id == id)
            room[(*at)++] = a->many[i].text, l.n++;
    return l;
}

static int answer(const struct args *a, const struct build_options *o, const char *id, json_t *steps, struct error *e)
{
    if (!steps) {
        puts(id);
        return CLI_OK;
    }
    json_t *names = json_array();
    for (int i = 0; i < o->tags.n; i++)
        json_array_append_new(names, json_string(o->tags.v[i]));
    return cli_json_print(json_pack("{s:s,s:o,s:o}", "id", id, "names", names, "steps", steps), e);
}

static int build(const struct args *a, const char **room, struct error *e)
{
    struct teller t = {.quiet = a->given[OPT_QUIET_BUILD], .steps = a->number[OPT_FORMAT] ? json_array() : NULL};
    struct build_options o = {.context = a->operands[1],
                              .file = a->text[OPT_FILE],
                              .target = a->text[OPT_TARGET],
                              .no_cache = a->given[OPT_NO_CACHE],
                              .output = STDERR_FILENO,
                              .tell = tell,
                              .arg = &t};
    char id[DIGEST_TEXT];
    size_t n = 0;
    o.tags = list_of(a, OPT_TAG, room, &n);
    o.args = list_of(a, OPT_BUILD_ARG, room, &n);
    struct box_list networks = list_of(a, OPT_NETWORK_BUILD, room, &n);
    if (networks.n > 1) {
        error_set(e, EINVAL, "--network: given twice; a container has one");
        return CLI_USAGE;
    }
    o.network = networks.n ? networks.v[0] : NULL;
    int quiet = t.quiet ? open("/dev/null", O_WRONLY | O_CLOEXEC) : -1;
    if (quiet >= 0)
        o.output = quiet;
    int r = box_build(&o, id, e);
    if (quiet >= 0)
        close(quiet);
    if (r == 0)
        return answer(a, &o, id, t.steps, e);
    json_decref(t.steps);
    return o.signal ? 128 + o.signal : cli_status_of(e);
}

int verb_build(const struct args *a, struct error *e)
{
    static const enum option_id machines[] = {OPT_IMAGE_NAME, OPT_MIRROR, OPT_INCLUDE, OPT_SIZE};
    if (a->n_operands != 2) {
        error_set(e, EINVAL, "image build: is written `trapeze image build [-t NAME] DIR`, or vm:debian[:SUITE]");
        return CLI_USAGE;
    }
    for (size_t i = 0; i < ARRAY_LEN(machines); i++) {
        if (a->given[machines[i]]) {
            error_set(e, EINVAL, "--%s: is for images of machines%s", cli_options[machines[i]].name,
                      machines[i] == OPT_IMAGE_NAME ? "; --tag names this one" : "");
            return CLI_USAGE;
        }
    }
    const char **room = calloc((size_t)a->n_many + 1, sizeof(*room));
    int status = CLI_HOST;
    if (!room)
        error_set(e, ENOMEM, "memory: the host has none left");
    else
        status = box_protect(e) < 0 || userns_enter(NULL, e) < 0 ? cli_status_of(e) : build(a, room, e);
    free(room);
    return status;
}
