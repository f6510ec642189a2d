/* `trapeze image build vm:..`, and what the other actions of `image` do with images of machines. */
#include "cli/json.h"
#include "cli/terminal.h"
#include "cli/vm_image.h"
#include "image/vmimage.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool vm_image_is_build(const struct args *a)
{
    return a->n_operands > 1 && !strcmp(a->operands[0], "build") && vmimage_is_ref(a->operands[1]);
}

/*
 * The guest's agent: TRAPEZE_AGENT names it, else it is where the build or the installation of this program has put it.
 */
static int find_agent(char *out, size_t size, struct error *e)
{
    static const char *const places[] = {"guest/trapeze-agent", "../lib/trapeze/trapeze-agent",
                                         "../libexec/trapeze/trapeze-agent"};
    const char *given = getenv("TRAPEZE_AGENT");
    char self[PATH_MAX];
    if (given) {
        snprintf(out, size, "%s", given);
        return 0;
    }
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (n <= 0)
        return error_set(e, ENOENT, "image build: /proc/self/exe cannot be read: where is this program?");
    self[n] = 0;
    *strrchr(self, '/') = 0;
    for (size_t i = 0; i < ARRAY_LEN(places); i++)
        if (snprintf(out, size, "%s/%s", self, places[i]) < (int)size && access(out, R_OK) == 0)
            return 0;
    return error_set(
        e, ENOENT,
        "image build: the guest's agent is not there: neither %s/%s nor in ../lib/trapeze; make it, or name "
        "it in TRAPEZE_AGENT",
        self, places[0]);
}

struct progress {
    const char *name;
    bool terminal;
};

static void show(void *arg, const char *step, const char *detail)
{
    const struct progress *p = arg;
    char line[512];
    if (p->terminal) {
        snprintf(line, sizeof(line), "building vm:%s: %.120s%s%.200s", p->name, step, detail ? ": " : "",
                 detail ? detail : "");
        terminal_status(line);
    } else if (!detail) {
        fprintf(stderr, "%s\n", step);
    }
}

static int join_includes(const struct args *a, char *out, size_t size, struct error *e)
{
    size_t used = 0;
    out[0] = 0;
    for (int i = 0; i < a->n_many; i++) {
        if (a->many[i].id != OPT_INCLUDE)
            continue;
        int n = snprintf(out + used, size - used, "%s%s", used ? "," : "", a->many[i].text);
        if (n < 0 || (size_t)n >= size - used)
            return error_set(e, EINVAL, "--include: too long");
        used += (size_t)n;
    }
    return 0;
}

/* From a draft to the image, or to nothing. */
static int build(struct vmimage_build *b, const char *name, struct error *e)
{
    struct vmimage_store s;
    struct vmimage_draft d;
    json_t *about = NULL;
    int r = vmimage_store_open(&s, NULL, e);
    if (r < 0)
        return r;
    r = vmimage_draft_begin(&d, &s, e);
    if (r == 0) {
        r = vmimage_build_debian(b, &d, &about, e);
        if (r == 0)
            r = vmimage_draft_commit(&d, name, about, e);
        else
            vmimage_draft_abort(&d);
    }
    json_decref(about);
    vmimage_store_close(&s);
    return r;
}

static int answer(const struct args *a, const char *name, struct error *e)
{
    char shown[VMIMAGE_NAME + 4];
    snprintf(shown, sizeof(shown), VMIMAGE_REF "%s", name);
    if (a->number[OPT_FORMAT])
        return cli_json_print(json_pack("[s]", shown), e);
    puts(shown);
    return CLI_OK;
}

int verb_image_build(const struct args *a, struct error *e)
{
    char name[VMIMAGE_NAME], own[VMIMAGE_NAME], suite[VMIMAGE_NAME], agent[PATH_MAX], include[1024];
    struct progress p = {.terminal = isatty(STDERR_FILENO)};
    if (a->n_operands != 2)
        return error_set(e, EINVAL, "image build: is written `trapeze image build vm:debian[:SUITE]`"), CLI_USAGE;
    if (vmimage_ref_parse(a->operands[1], name, e) < 0 || !vmimage_distribution(name, suite, e) ||
        join_includes(a, include, sizeof(include), e) < 0)
        return CLI_USAGE;
    if (a->given[OPT_IMAGE_NAME] && vmimage_ref_parse(a->text[OPT_IMAGE_NAME], own, e) < 0)
        return CLI_USAGE;
    if (find_agent(agent, sizeof(agent), e) < 0)
        return CLI_USAGE;
    p.name = a->given[OPT_IMAGE_NAME] ? own : name;
    struct vmimage_build b = {.suite = suite,
                              .mirror = a->text[OPT_MIRROR],
                              .include = include,
                              .agent = agent,
                              .size = a->number[OPT_SIZE],
                              .progress = show,
                              .arg = &p};
    int r = vmimage_build_check(&b, e);
    if (r == 0)
        r = build(&b, p.name, e);
    terminal_status("");
    if (b.signal)
        return 128 + b.signal;
    return r < 0 ? cli_status_of(e) : answer(a, p.name, e);
}

int vm_image_add_rows(json_t *list, struct error *e)
{
    struct vmimage_store s;
    size_t i;
    json_t *row;
    json_array_foreach(list, i, row) json_object_set_new(row, "kind", json_string("container"));
    int r = vmimage_store_open(&s, NULL, e);
    if (r < 0)
        return r;
    json_t *more = vmimage_list(&s, e);
    r = more ? 0 : -EIO;
    if (more)
        json_array_extend(list, more);
    json_decref(more);
    vmimage_store_close(&s);
    return r;
}

int vm_image_rm(const char *ref, char *shown, size_t size, struct error *e)
{
    char name[VMIMAGE_NAME];
    struct vmimage_store s;
    int r = vmimage_ref_parse(ref, name, e);
    if (r == 0)
        r = vmimage_store_open(&s, NULL, e);
    if (r < 0)
        return r;
    r = vmimage_remove(&s, name, e);
    vmimage_store_close(&s);
    snprintf(shown, size, VMIMAGE_REF "%s", name);
    return r;
}

int vm_image_sweep(struct error *e)
{
    struct vmimage_store s;
    int r = vmimage_store_open(&s, NULL, e);
    if (r < 0)
        return r;
    r = vmimage_sweep(&s, e);
    vmimage_store_close(&s);
    return r;
}
