/*
 * Dockerfiles: text into instructions. Pure: nothing is opened, and the text may be anybody's.
 *
 * The language is that of docker's reference, in the words of BuildKit's parser where that is silent: comments, the directive
 * `escape`, continued lines, here-documents, options before the arguments, arrays of JSON, words with variables.
 */
#ifndef TRAPEZE_IMAGE_DOCKERFILE_H
#define TRAPEZE_IMAGE_DOCKERFILE_H

#include "base/error.h"
#include "base/types.h"

#define DOCKERFILE_MAX       (1u << 20) /* bytes of a file, and of what a text with variables becomes */
#define DOCKERFILE_LINES_MAX 4096u      /* instructions */
#define DOCKERFILE_WORDS_MAX 4096u      /* of one instruction */

/* What an instruction may have. */
#define DOCKER_FLAGS BIT(0) /* options, --NAME=VALUE */
#define DOCKER_JSON  BIT(1) /* an array of strings instead of words */
#define DOCKER_HERE  BIT(2) /* here-documents */

/* X-macro: kind, keyword, what it may have */
#define DOCKER_INSTRUCTIONS(X)                                       \
    X(DOCKER_ADD, "ADD", DOCKER_FLAGS | DOCKER_JSON | DOCKER_HERE)   \
    X(DOCKER_ARG, "ARG", 0)                                          \
    X(DOCKER_CMD, "CMD", DOCKER_JSON)                                \
    X(DOCKER_COPY, "COPY", DOCKER_FLAGS | DOCKER_JSON | DOCKER_HERE) \
    X(DOCKER_ENTRYPOINT, "ENTRYPOINT", DOCKER_JSON)                  \
    X(DOCKER_ENV, "ENV", 0)                                          \
    X(DOCKER_EXPOSE, "EXPOSE", 0)                                    \
    X(DOCKER_FROM, "FROM", DOCKER_FLAGS)                             \
    X(DOCKER_HEALTHCHECK, "HEALTHCHECK", DOCKER_FLAGS)               \
    X(DOCKER_LABEL, "LABEL", 0)                                      \
    X(DOCKER_MAINTAINER, "MAINTAINER", 0)                            \
    X(DOCKER_ONBUILD, "ONBUILD", 0)                                  \
    X(DOCKER_RUN, "RUN", DOCKER_FLAGS | DOCKER_JSON | DOCKER_HERE)   \
    X(DOCKER_SHELL, "SHELL", DOCKER_JSON)                            \
    X(DOCKER_STOPSIGNAL, "STOPSIGNAL", 0)                            \
    X(DOCKER_USER, "USER", 0)                                        \
    X(DOCKER_VOLUME, "VOLUME", DOCKER_JSON)                          \
    X(DOCKER_WORKDIR, "WORKDIR", 0)

enum docker_kind {
#define X(kind, keyword, has) kind,
    DOCKER_INSTRUCTIONS(X)
#undef X
        DOCKER_KINDS
};

struct docker_words {
    char **v;
    size_t n;
};

/* <<NAME .. NAME: a file's text inside the Dockerfile. */
struct docker_here {
    char *name, *text;
    bool literal; /* its name was quoted: variables stay as they are */
};

struct docker_line {
    enum docker_kind kind;
    u32 line;                  /* where it begins, from 1 */
    struct docker_words flags; /* with their dashes */
    char *rest;                /* what follows the flags; continued lines joined */
    bool is_json;
    struct docker_words json; /* its strings */
    struct docker_here *here;
    size_t n_here;
};

struct dockerfile {
    char *name;
    char escape; /* '\\' or '`' */
    struct docker_line *v;
    size_t n;
};

const char *docker_keyword(enum docker_kind kind);

/* `name`: for messages, "NAME:LINE: ..". 0, or -EINVAL and the like; *d is empty then. Else free it. */
int dockerfile_parse(struct dockerfile *d, const char *name, const char *text, size_t size, struct error *e);
void dockerfile_free(struct dockerfile *d);

/* The value of --NAME=VALUE; "" for a bare --NAME; NULL: it is not there. */
const char *docker_flag(const struct docker_line *l, const char *name);
/* -EINVAL for an option that is not one of `known`, "a|b|c". */
int docker_check_flags(const struct docker_line *l, const char *known, struct error *e);

/* Values of variables. */
struct docker_scope {
    const char *(*get)(void *arg, const char *name); /* NULL: not set */
    void *arg;
    char escape;
};

/*
 * A text without its quotes, with variables replaced: $X, ${X}, ${X:-else}, ${X:+instead}, ${X:?message}, and these without the
 * colon. *out is the caller's to free. -EINVAL: a quote or brace that is not closed; -E2BIG.
 */
int docker_expand(const struct docker_scope *s, const char *text, char **out, struct error *e);
/* Cut at blanks that no quote or escape protects; quotes stay. Free with docker_words_free. */
int docker_split(const char *text, char escape, struct docker_words *out, struct error *e);
/* Cut, then replace in each word. */
int docker_expand_words(const struct docker_scope *s, const char *text, struct docker_words *out, struct error *e);
int docker_words_add(struct docker_words *w, const char *text, size_t size, struct error *e);
void docker_words_free(struct docker_words *w);

#endif
