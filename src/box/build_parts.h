/* Inside the builder: what its files share. */
#ifndef TRAPEZE_BOX_BUILD_PARTS_H
#define TRAPEZE_BOX_BUILD_PARTS_H

#include "box/build.h"
#include "box/parts.h"
#include "image/build_cache.h"
#include "image/build_tree.h"
#include "image/dockerfile.h"

#define BUILD_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* --- build_context.c --- */

struct build_context {
    int dir;             /* what COPY takes from; -1: not open */
    int work;            /* a directory in the store's tmp, ours */
    char path[PATH_MAX]; /* of work */
    struct build_ignore ignore;
    char *text; /* of the Dockerfile */
    size_t size;
    const char *file; /* its name, for messages */
};

int build_context_open(struct build_context *c, const struct build_options *o, const struct image_store *s,
                       struct error *e);
void build_context_close(struct build_context *c, const struct image_store *s);

/* --- build.c --- */

struct stage {
    const char *name;  /* NULL: it has none */
    size_t first, end; /* its instructions, FROM the first */
    bool needed, done;
    json_t *config; /* the image's configuration as it grows */
    json_t *run;    /* its "config" */
    json_t *args;   /* NAME: value, or null: declared with ARG */
    struct manifest manifest;
    char chain[DIGEST_TEXT];
    bool has_cmd; /* CMD stood in this stage */
};

struct build {
    struct build_options *o;
    struct image_store store;
    struct build_context context;
    struct dockerfile file;
    json_t *given;   /* --build-arg */
    json_t *used;    /* which of them were */
    json_t *globals; /* ARG before the first FROM */
    struct stage *stages;
    size_t n;
    unsigned step, steps;
    const char *stage_label;
};

/* A stage that stands before `before`, by name or number; built if it was not. NULL: there is none (no error), or `e`. */
struct stage *build_find_stage(struct build *b, const char *name, size_t before);
int build_stage(struct build *b, size_t index, struct error *e);
/* What a stage is so far, as an image: free with image_free. */
int stage_image(const struct stage *st, struct image *out, struct error *e);
void stage_free(struct stage *st);
/* Begin with an image of the store. */
int stage_from_image(struct stage *st, const struct image *image, struct error *e);
/* A layer, and a line of history. */
int stage_record(struct stage *st, const struct build_entry *made, const char *text, struct error *e);

/* --- build_config.c --- */

/* Variables of a stage: ENV, then ARG. `arg` of the scope. */
struct docker_scope stage_scope(const struct stage *st, char escape);
const char *stage_env(const struct stage *st, const char *name);
/*
 * Do an instruction that changes the configuration only. -ENOSYS: it is none of these. `b` may be NULL where no ARG can be (commit).
 */
int build_config_line(struct build *b, struct stage *st, const struct docker_line *l, char escape, struct error *e);
/* `text` as a path from the stage's WORKDIR; keeps a "/" (or ".") at the end as "/". */
int build_path(const struct stage *st, const char *text, char out[PATH_MAX], struct error *e);
/* ARG: declare a variable in `scope`. */
int build_arg(struct build *b, json_t *args, const struct docker_scope *s, const char *rest, bool global,
              struct error *e);
/* ["/bin/sh", "-c"] or what SHELL said; a new reference. */
json_t *build_shell(const struct stage *st);

/* --- build_step.c --- */

/* RUN, COPY, ADD, WORKDIR. *out: what it made; *cached. */
int build_step(struct build *b, struct stage *st, const struct docker_line *l, struct build_entry *out, bool *cached,
               struct error *e);
/* Pack what is in `upper`, above `chain`; nothing there: no layer. `without`: as of layer_pack. */
int build_pack(const struct image_store *s, int upper, const char *chain, const char *const *without,
               struct build_entry *out, struct error *e);
void build_now(char out[32]);
/* A directory with nothing in it. */
bool build_is_empty(int dir);
/* Part of a key: each with its length, so that no two lists of parts are the same. */
void build_key_add(struct digester *d, const char *text);
void build_key_json(struct digester *d, json_t *j);

#endif
