/* `trapeze image ACTION`: a table of actions on the store. */
#include "box/box.h"
#include "cli/bar.h"
#include "cli/cli.h"
#include "cli/json.h"
#include "cli/terminal.h"
#include "cli/vm_image.h"
#include "container/userns.h"
#include "image/image.h"
#include "image/remote.h"
#include "image/vmimage.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SAVE_MAX 64

/* --format json: one line for each thing done, in an array; else lines as they come. */
struct answer {
    json_t *list;
};

static void say(const struct answer *answer, const char *text)
{
    if (answer->list)
        json_array_append_new(answer->list, json_string(text));
    else
        puts(text);
}

static void say_name(void *arg, const char *name)
{
    char shown[REFERENCE_TEXT];
    reference_short(name, shown);
    say(arg, shown);
}

static int full_name(const char *typed, char out[REFERENCE_TEXT], struct error *e)
{
    struct reference ref;
    int r = reference_parse(&ref, typed, e);
    if (r == 0 && ref.digest[0])
        return error_set(e, EINVAL, "image name \"%.100s\": a digest can not be given, only a name and a tag", typed);
    if (r == 0)
        reference_full(&ref, out);
    return r;
}

static int open_input(const char *file, struct error *e)
{
    int fd = !file || !strcmp(file, "-") ? dup(STDIN_FILENO) : open(file, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? error_set(e, errno, "%s: cannot be read: %s", file ? file : "standard input", strerror(errno)) : fd;
}

static void print_row(json_t *row)
{
    char shown[REFERENCE_TEXT], size[24];
    const char *name = json_string_value(json_object_get(row, "name"));
    const char *created = json_string_value(json_object_get(row, "created"));
    reference_short(name, shown);
    printf("%-40s %-10s %-12.12s %10s  %.10s%s\n", *shown ? shown : "-",
           json_string_value(json_object_get(row, "kind")), json_string_value(json_object_get(row, "id")),
           cli_size_name((u64)json_integer_value(json_object_get(row, "size")), size), created ? created : "",
           json_is_true(json_object_get(row, "damaged")) ? " damaged" : "");
}

static int list_images(const struct args *a, const struct image_store *s, struct answer *answer, struct error *e)
{
    size_t i;
    json_t *row, *list = image_list(s, e);
    if (!list)
        return -EIO;
    int r = vm_image_add_rows(list, e);
    if (r < 0)
        return json_decref(list), r;
    if (answer->list)
        return json_array_extend(answer->list, list), json_decref(list), 0;
    printf("%-40s %-10s %-12s %10s  %s\n", "NAME", "KIND", "ID", "SIZE", "CREATED");
    json_array_foreach(list, i, row) print_row(row);
    json_decref(list);
    return 0;
}

static int load(const struct args *a, const struct image_store *s, struct answer *answer, struct error *e)
{
    int fd = open_input(a->n_operands > 1 ? a->operands[1] : NULL, e);
    int r = fd < 0 ? fd : image_load(s, fd, say_name, answer, e);
    if (fd >= 0)
        close(fd);
    return r;
}

static int import(const struct args *a, const struct image_store *s, struct answer *answer, struct error *e)
{
    char name[REFERENCE_TEXT];
    struct image_descriptor top;
    int r = full_name(a->operands[2], name, e), fd = r < 0 ? r : open_input(a->operands[1], e);
    r = fd < 0 ? fd : image_import(s, fd, name, NULL, &top, e);
    if (fd >= 0)
        close(fd);
    if (r == 0)
        say_name(answer, name);
    return r;
}

static int pull(const struct args *a, const struct image_store *s, struct answer *answer, struct error *e)
{
    int r = 0;
    for (int k = 1; r == 0 && k < a->n_operands; k++) {
        struct bar bar;
        struct image_descriptor top;
        struct reference ref;
        char full[REFERENCE_TEXT];
        r = image_pull(s, a->operands[k], bar_begin(&bar, a->operands[k]), &bar, &top, e);
        terminal_status("");
        if (r == 0 && reference_parse(&ref, a->operands[k], NULL) == 0) {
            reference_full(&ref, full);
            say_name(answer, full);
        }
    }
    return r;
}

static int push(const struct args *a, const struct image_store *s, struct answer *answer, struct error *e)
{
    struct bar bar;
    struct image i;
    char full[REFERENCE_TEXT];
    const char *to = a->operands[a->n_operands - 1];
    int r = full_name(to, full, e);
    if (r == 0)
        r = image_find(s, a->operands[1], &i, e);
    if (r < 0)
        return r;
    r = image_push(s, &i, to, bar_begin(&bar, to), &bar, e);
    terminal_status("");
    image_free(&i);
    if (r == 0)
        say_name(answer, full);
    return r;
}

static int save_to(const struct args *a, const struct image_store *s, int fd, struct error *e)
{
    struct image *images = calloc(SAVE_MAX, sizeof(*images));
    const struct image *pointers[SAVE_MAX];
    size_t n = 0, want = (size_t)a->n_operands - 1;
    int r = !images           ? error_set(e, ENOMEM, "out of memory")
            : want > SAVE_MAX ? error_set(e, EINVAL, "save: %zu images; %d are possible", want, SAVE_MAX)
                              : 0;
    for (; r == 0 && n < want; n++) {
        pointers[n] = &images[n];
        if ((r = image_find(s, a->operands[n + 1], &images[n], e)) < 0)
            break;
    }
    if (r == 0)
        r = image_save(s, pointers, n, a->number[OPT_ARCHIVE] == 0, fd, e);
    for (size_t i = 0; i < n; i++)
        image_free(&images[i]);
    free(images);
    return r;
}

static int save(const struct args *a, const struct image_store *s, struct answer *answer, struct error *e)
{
    const char *file = a->text[OPT_TO_FILE];
    if (!file && isatty(STDOUT_FILENO))
        return error_set(e, EINVAL, "save: an archive is nothing for a terminal; give --output FILE");
    int fd = file ? open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666) : dup(STDOUT_FILENO);
    if (fd < 0)
        return error_set(e, errno, "%s: cannot be written: %s", file, strerror(errno));
    int r = save_to(a, s, fd, e);
    if (close(fd) < 0 && r == 0)
        r = error_set(e, errno, "%s: cannot be written: %s", file ? file : "standard output", strerror(errno));
    if (r < 0 && file)
        unlink(file);
    if (r == 0 && !file && answer->list) {
        json_decref(answer->list); /* standard output is the archive's */
        answer->list = NULL;
    }
    return r;
}

static int tag(const struct args *a, const struct image_store *s, struct answer *answer, struct error *e)
{
    char name[REFERENCE_TEXT];
    struct image i;
    int r = full_name(a->operands[2], name, e);
    if (r == 0)
        r = image_find(s, a->operands[1], &i, e);
    if (r < 0)
        return r;
    r = image_tag(s, name, &i.top, e);
    image_free(&i);
    if (r == 0)
        say_name(answer, name);
    return r;
}

/* What containers are made of stays. */
static int collect(const struct image_store *s, bool partial, struct image_gc *gc, struct error *e)
{
    char **chains;
    size_t n;
    int r = box_chains(&chains, &n, e);
    if (r == 0)
        r = image_collect(s, (const char *const *)chains, n, partial, gc, e);
    box_chains_free(chains, n);
    return r;
}

/* Whether somebody typed a name of the image, and not its id. */
static bool by_name(const char *typed, const struct image *i)
{
    struct reference ref;
    char full[REFERENCE_TEXT];
    if (!i->name[0] || reference_parse(&ref, typed, NULL) < 0)
        return false;
    reference_full(&ref, full);
    return !strcmp(full, i->name);
}

/* What can not be read has its name still. */
static int rm_damaged(const char *typed, const struct image_store *s, struct answer *answer)
{
    char name[REFERENCE_TEXT];
    int r = full_name(typed, name, NULL);
    if (r == 0)
        r = image_untag(s, name, NULL);
    if (r == 0)
        say_name(answer, name);
    return r;
}

/* A name goes; with an id, all names of it. */
static int rm_one(const char *typed, const struct image_store *s, struct answer *answer, struct error *e)
{
    struct image i;
    struct error why = {0};
    int r = image_find(s, typed, &i, &why);
    if (r < 0)
        return rm_damaged(typed, s, answer) == 0 ? 0 : error_set(e, why.code, "%s", why.msg);
    r = by_name(typed, &i) ? image_untag(s, i.name, e) : image_forget(s, i.top.digest, e);
    if (r == 0)
        say_name(answer, i.name[0] ? i.name : i.top.digest);
    image_free(&i);
    return r;
}

static int rm_machine(const char *typed, struct answer *answer, struct error *e)
{
    char shown[VMIMAGE_NAME + sizeof(VMIMAGE_REF)];
    int r = vm_image_rm(typed, shown, sizeof(shown), e);
    if (r == 0)
        say(answer, shown);
    return r;
}

/* And then what nothing needs. */
static int rm(const struct args *a, const struct image_store *s, struct answer *answer, struct error *e)
{
    struct image_gc gc;
    int r = 0;
    for (int k = 1; r == 0 && k < a->n_operands; k++)
        r = vmimage_is_ref(a->operands[k]) ? rm_machine(a->operands[k], answer, e)
                                           : rm_one(a->operands[k], s, answer, e);
    return r < 0 ? r : collect(s, false, &gc, e);
}

static int forget_unnamed(const struct image_store *s, struct error *e)
{
    size_t i;
    int r = 0;
    json_t *row, *list = image_list(s, e);
    json_array_foreach(list, i, row)
    {
        if (r == 0 && !*json_string_value(json_object_get(row, "name")))
            r = image_forget(s, json_string_value(json_object_get(row, "digest")), e);
    }
    json_decref(list);
    return list ? r : -EIO;
}

static int prune(const struct args *a, const struct image_store *s, struct answer *answer, struct error *e)
{
    struct image_gc gc;
    char size[24];
    int r = forget_unnamed(s, e);
    if (r == 0)
        r = collect(s, true, &gc, e);
    if (r == 0)
        r = vm_image_sweep(e);
    if (r < 0)
        return r;
    if (answer->list)
        json_array_append_new(answer->list, json_pack("{s:I,s:I,s:I}", "blobs", (json_int_t)gc.blobs, "layers",
                                                      (json_int_t)gc.layers, "bytes", (json_int_t)gc.bytes));
    else
        printf("%llu blobs, %llu layers, %s\n", (unsigned long long)gc.blobs, (unsigned long long)gc.layers,
               cli_size_name(gc.bytes, size));
    return 0;
}

static int verify(const struct args *a, const struct image_store *s, struct answer *answer, struct error *e)
{
    return image_verify(s, e);
}

static const struct action {
    const char *name, *operands;
    int min, max;
    bool exclusive; /* it removes */
    bool unpacks;   /* or removes what was unpacked: layers belong to many users */
    int (*run)(const struct args *a, const struct image_store *s, struct answer *answer, struct error *e);
} actions[] = {
    {"list", "", 0, 0, false, false, list_images},
    {"pull", "NAME...", 1, 100, false, true, pull},
    {"push", "NAME [TO]", 1, 2, false, false, push},
    {"load", "[FILE]", 0, 1, false, false, load},
    {"import", "FILE NAME", 2, 2, false, true, import},
    {"save", "NAME...", 1, 1000, false, false, save},
    {"tag", "NAME NEW", 2, 2, false, false, tag},
    {"rm", "NAME...", 1, 1000, true, true, rm},
    {"prune", "", 0, 0, true, true, prune},
    {"verify", "", 0, 0, false, false, verify},
};

static const struct action *find_action(const struct args *a, struct error *e)
{
    const char *name = strcmp(a->verb->name, "images") ? a->operands[0] : "list";
    int n = MAX(0, a->n_operands - 1);
    for (size_t i = 0; i < ARRAY_LEN(actions); i++) {
        if (strcmp(actions[i].name, name))
            continue;
        if (n >= actions[i].min && n <= actions[i].max)
            return &actions[i];
        error_set(e, EINVAL, "image %s: is written `trapeze image %s%s%s`", name, name, *actions[i].operands ? " " : "",
                  actions[i].operands);
        return NULL;
    }
    if (!strcmp(name, "export"))
        error_set(e, EINVAL, "image export: `trapeze export CONTAINER` writes files, `image save` an image");
    else
        error_set(e, EINVAL, "image %.60s: no such action; `trapeze image --help` lists them", name);
    return NULL;
}

/* Images of machines are no blobs: most actions can not mean them. */
static int check_names(const struct action *action, const struct args *a, struct error *e)
{
    if (cli_choice("pull|push|import|save|tag", action->name) < 0)
        return 0;
    for (int i = 1; i < a->n_operands; i++)
        if (vmimage_is_ref(a->operands[i]))
            return error_set(e, ENOTSUP,
                             "image %s: %.100s: images of machines can be built, listed and removed, nothing else yet",
                             action->name, a->operands[i]);
    return 0;
}

int verb_image(const struct args *a, struct error *e)
{
    if (vm_image_is_build(a))
        return verb_image_build(a, e);
    if (!strcmp(a->verb->name, "image") && !strcmp(a->operands[0], "build"))
        return verb_build(a, e);
    struct answer answer = {.list = a->number[OPT_FORMAT] ? json_array() : NULL};
    struct image_store store;
    const struct action *action = find_action(a, e);
    int r = action ? check_names(action, a, e) : -EINVAL;
    if (r == 0 && action->unpacks)
        userns_enter(NULL, NULL); /* where there can be none, what needs it says so */
    if (r == 0)
        r = image_store_open(&store, NULL, action->exclusive, e);
    if (r == 0) {
        r = action->run(a, &store, &answer, e);
        image_store_close(&store);
    }
    if (r == 0 && answer.list)
        return cli_json_print(answer.list, e);
    json_decref(answer.list);
    return r < 0 ? cli_status_of(e) : CLI_OK;
}
