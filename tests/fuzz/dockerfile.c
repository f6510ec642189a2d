/*
 * Dockerfiles and .dockerignore: the same bytes as either, and as a text with variables, a line for the shell, and a pattern. Must
 * hold: what is read is within its bounds, reading it a second time says the same, an error has a message, and a name that
 * holds nothing special fits itself.
 */
#include "fuzz.h"
#include "image/build_pattern.h"
#include "image/dockerfile.h"

static const char *value_of(void *arg, const char *name)
{
    return strlen(name) % 2 ? "a value \"$x\"" : NULL;
}

static int parse(struct dockerfile *d, const u8 *data, size_t len)
{
    struct error e = {0};
    int r = dockerfile_parse(d, "fuzz", (const char *)data, len, &e);
    FUZZ_CHECK(r == 0 ? d->n <= DOCKERFILE_LINES_MAX : e.msg[0] && !d->n && !d->v);
    return r;
}

static void compare(const struct dockerfile *a, const struct dockerfile *b)
{
    FUZZ_CHECK(a->n == b->n && a->escape == b->escape);
    for (size_t i = 0; i < a->n; i++) {
        const struct docker_line *x = &a->v[i], *y = &b->v[i];
        FUZZ_CHECK(x->kind == y->kind && x->line == y->line && !strcmp(x->rest, y->rest) && *x->rest);
        FUZZ_CHECK(x->json.n <= DOCKERFILE_WORDS_MAX && x->n_here == y->n_here && x->n_here <= 64);
        FUZZ_CHECK(i == 0 || x->line > a->v[i - 1].line);
        for (size_t k = 0; k < x->n_here; k++)
            FUZZ_CHECK(*x->here[k].name && !strcmp(x->here[k].text, y->here[k].text));
        for (size_t k = 0; k < x->flags.n; k++)
            FUZZ_CHECK(!strncmp(x->flags.v[k], "--", 2) && strlen(x->flags.v[k]) > 2);
    }
}

static void expand(const char *text)
{
    static const struct docker_scope scope = {.get = value_of, .escape = '\\'};
    struct docker_words words;
    struct error e = {0};
    char *out;
    if (docker_expand(&scope, text, &out, &e) == 0)
        FUZZ_CHECK(strlen(out) <= DOCKERFILE_MAX);
    else
        FUZZ_CHECK(!out && e.msg[0]);
    free(out);
    if (docker_expand_words(&scope, text, &words, NULL) == 0)
        docker_words_free(&words);
}

static void match(const char *text, size_t len)
{
    struct build_ignore g;
    char clean[PATTERN_MAX];
    bool leaves;
    if (build_ignore_parse(&g, text, len, NULL) == 0) {
        FUZZ_CHECK(!build_ignored(&g, ""));
        build_ignored(&g, "a/b/Dockerfile");
        build_ignore_free(&g);
    }
    if (build_clean(text, clean, sizeof(clean), &leaves) < 0)
        return;
    FUZZ_CHECK(clean[0] != '/' && !strstr(clean, "//") && !strstr(clean, "/../") && strncmp(clean, "../", 3));
    FUZZ_CHECK(pattern_check(clean, NULL) == 0 || !pattern_match(clean, clean, true));
    FUZZ_CHECK(pattern_is(clean) || (pattern_match(clean, clean, true) && pattern_match(clean, clean, false)));
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
    struct dockerfile first, second;
    if (parse(&first, data, len) == 0 && parse(&second, data, len) == 0) {
        compare(&first, &second);
        dockerfile_free(&second);
    }
    dockerfile_free(&first);
    char *text = malloc(len + 1);
    FUZZ_CHECK(text);
    memcpy(text, data, len);
    text[len] = 0;
    expand(text);
    match(text, len);
    free(text);
    return 0;
}
