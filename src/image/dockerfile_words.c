/*
 * Words of a Dockerfile: quotes, escapes, variables.
 *
 * As a shell's, but smaller (BuildKit's shell_parser): 'single quotes' hold all as it is; in "double quotes" variables are
 * replaced, and the escape character protects ", $ and itself; outside it protects any character. What a variable holds is not
 * looked at again. ENV a=$b$b over and over doubles a text each time: what comes out is bounded by DOCKERFILE_MAX.
 */
#include "image/dockerfile.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NESTING_MAX 16 /* ${a:-${b:-..}} */

struct expansion {
    const struct docker_scope *s;
    const char *at;
    char *out;
    size_t n, room;
    u32 depth;
    struct error *e;
};

static int put(struct expansion *x, const char *s, size_t n)
{
    if (x->n + n > DOCKERFILE_MAX)
        return error_set(x->e, E2BIG, "its variables make more than %u bytes of it", DOCKERFILE_MAX);
    if (x->n + n + 1 > x->room) {
        size_t room = MAX(2 * x->room, x->n + n + 1);
        char *more = realloc(x->out, room);
        if (!more)
            return error_set(x->e, ENOMEM, "out of memory");
        x->out = more;
        x->room = room;
    }
    memcpy(x->out + x->n, s, n);
    x->n += n;
    x->out[x->n] = 0;
    return 0;
}

static int expand_until(struct expansion *x, char stop);

/* What stands after "${NAME" and an operator, up to "}". *value is the caller's. */
static int operand(struct expansion *x, char **value)
{
    struct expansion inner = {.s = x->s, .at = x->at, .depth = x->depth + 1, .e = x->e};
    int r = inner.depth > NESTING_MAX ? error_set(x->e, E2BIG, "variables are nested more than %d deep", NESTING_MAX)
                                      : put(&inner, "", 0);
    if (r == 0)
        r = expand_until(&inner, '}');
    x->at = inner.at;
    if (r == 0)
        *value = inner.out;
    else
        free(inner.out);
    return r;
}

/* The value of "${NAME:+word}" and the like. */
static int choose(struct expansion *x, const char *name, char op, bool colon)
{
    char *word = NULL;
    int r = operand(x, &word);
    if (r < 0)
        return r;
    const char *value = x->s->get(x->s->arg, name);
    bool there = value && (!colon || *value);
    if (op == '?' && !there)
        r = error_set(x->e, EINVAL, "%.60s: %.200s", name, *word ? word : "is not set");
    else if (op == '+')
        r = there ? put(x, word, strlen(word)) : 0;
    else
        r = there ? put(x, value, strlen(value)) : op == '-' ? put(x, word, strlen(word)) : 0;
    free(word);
    return r;
}

static int put_variable(struct expansion *x, const char *name)
{
    const char *value = x->s->get(x->s->arg, name);
    return value ? put(x, value, strlen(value)) : 0;
}

/* NAME at `at`: letters, digits and _, or one of a shell's own, which are never set here. */
static int take_name(struct expansion *x, char name[256])
{
    size_t n = 0;
    if (isalpha((u8)*x->at) || *x->at == '_')
        while (isalnum((u8)x->at[n]) || x->at[n] == '_')
            n++;
    else if (*x->at && strchr("0123456789@*#?-$!", *x->at))
        n = 1;
    if (n >= 256)
        return error_set(x->e, E2BIG, "the name of a variable is longer than 255 letters");
    memcpy(name, x->at, n);
    name[n] = 0;
    x->at += n;
    return 0;
}

/* `at` is behind the "$". */
static int variable(struct expansion *x)
{
    char name[256];
    bool braces = *x->at == '{';
    x->at += braces;
    int r = take_name(x, name);
    if (r < 0)
        return r;
    if (!braces)
        return *name ? put_variable(x, name) : put(x, "$", 1);
    if (!*name)
        return error_set(x->e, EINVAL, "${: no name of a variable follows");
    bool colon = *x->at == ':';
    char op = x->at[colon];
    if (!colon && op == '}') {
        x->at++;
        return put_variable(x, name);
    }
    if (!op)
        return error_set(x->e, EINVAL, "${%.60s: is not closed by }", name);
    if (!strchr("-+?", op))
        return error_set(x->e, EINVAL, "${%.60s%s%c..}: there are :- :+ :? - + and ?, nothing else", name,
                         colon ? ":" : "", op);
    x->at += 1 + colon;
    return choose(x, name, op, colon);
}

static int single_quoted(struct expansion *x)
{
    const char *end = strchr(x->at, '\'');
    if (!end)
        return error_set(x->e, EINVAL, "a ' is not closed");
    int r = put(x, x->at, (size_t)(end - x->at));
    x->at = end + 1;
    return r;
}

static int double_quoted(struct expansion *x)
{
    int r = 0;
    while (r == 0) {
        char c = *x->at++;
        if (!c)
            return x->at--, error_set(x->e, EINVAL, "a \" is not closed");
        if (c == '"')
            return 0;
        if (c == '$') {
            r = variable(x);
            continue;
        }
        if (c == x->s->escape && *x->at && (strchr("\"$", *x->at) || *x->at == c))
            c = *x->at++;
        r = put(x, &c, 1);
    }
    return r;
}

static int expand_until(struct expansion *x, char stop)
{
    int r = 0;
    while (r == 0) {
        char c = *x->at;
        if (!c)
            return stop ? error_set(x->e, EINVAL, "a ${ is not closed by }") : 0;
        x->at++;
        if (c == stop)
            return 0;
        if (c == '\'') {
            r = single_quoted(x);
        } else if (c == '"') {
            r = double_quoted(x);
        } else if (c == '$') {
            r = variable(x);
        } else {
            if (c == x->s->escape && *x->at)
                c = *x->at++;
            r = put(x, &c, 1);
        }
    }
    return r;
}

int docker_expand(const struct docker_scope *s, const char *text, char **out, struct error *e)
{
    struct expansion x = {.s = s, .at = text, .e = e};
    int r = put(&x, "", 0);
    if (r == 0)
        r = expand_until(&x, 0);
    *out = r == 0 ? x.out : NULL;
    if (r < 0)
        free(x.out);
    return r;
}

/* --- words --- */

int docker_words_add(struct docker_words *w, const char *text, size_t size, struct error *e)
{
    if (w->n >= DOCKERFILE_WORDS_MAX)
        return error_set(e, E2BIG, "more than %u words", DOCKERFILE_WORDS_MAX);
    if (!(w->n & (w->n - 1))) {
        char **more = realloc(w->v, (w->n ? 2 * w->n : 1) * sizeof(*more));
        if (!more)
            return error_set(e, ENOMEM, "out of memory");
        w->v = more;
    }
    w->v[w->n] = strndup(text, size);
    return w->v[w->n] ? (w->n++, 0) : error_set(e, ENOMEM, "out of memory");
}

void docker_words_free(struct docker_words *w)
{
    for (size_t i = 0; i < w->n; i++)
        free(w->v[i]);
    free(w->v);
    *w = (struct docker_words){0};
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n';
}

/* Where a word ends; NULL: a quote is not closed. */
static const char *word_end(const char *p, char escape)
{
    char quote = 0;
    for (; *p && (quote || !is_blank(*p)); p++) {
        if (*p == escape && p[1] && quote != '\'')
            p++;
        else if (quote && *p == quote)
            quote = 0;
        else if (!quote && (*p == '"' || *p == '\''))
            quote = *p;
    }
    return quote ? NULL : p;
}

int docker_split(const char *text, char escape, struct docker_words *out, struct error *e)
{
    int r = 0;
    *out = (struct docker_words){0};
    for (const char *p = text; r == 0;) {
        while (is_blank(*p))
            p++;
        if (!*p)
            break;
        const char *end = word_end(p, escape);
        r = end ? docker_words_add(out, p, (size_t)(end - p), e) : error_set(e, EINVAL, "a quote is not closed");
        p = end;
    }
    if (r < 0)
        docker_words_free(out);
    return r;
}

int docker_expand_words(const struct docker_scope *s, const char *text, struct docker_words *out, struct error *e)
{
    int r = docker_split(text, s->escape, out, e);
    for (size_t i = 0; r == 0 && i < out->n; i++) {
        char *done;
        r = docker_expand(s, out->v[i], &done, e);
        if (r == 0) {
            free(out->v[i]);
            out->v[i] = done;
        }
    }
    if (r < 0)
        docker_words_free(out);
    return r;
}
