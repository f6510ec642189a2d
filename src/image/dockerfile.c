/*
 * Lines into instructions.
 *
 * A physical line ends at a newline. A logical one goes on while it ends in the escape character and blanks; lines between that
 * are empty or comments are left out. What a logical line announces as here-documents are the physical lines that follow, taken as
 * they are. Directives ("# escape=`") count at the top only, before anything else: any other line ends that part.
 *
 * What must stay true
 *  1. Everything that is allocated hangs on the struct dockerfile from the moment it is made, so dockerfile_free frees it.
 *  2. Work is linear in the text, and text, instructions and words are bounded.
 */
#include "image/dockerfile.h"

#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct reader {
    struct dockerfile *d;
    const char *at, *end;
    u32 line; /* number of the line that comes next */
    bool directives, escape_given;
    struct error *e;
};

static const struct {
    const char *keyword;
    u32 has;
} instructions[] = {
#define X(kind, keyword, has) [kind] = {keyword, has},
    DOCKER_INSTRUCTIONS(X)
#undef X
};

const char *docker_keyword(enum docker_kind kind)
{
    return instructions[kind].keyword;
}

static int no_memory(struct error *e)
{
    return error_set(e, ENOMEM, "out of memory");
}

/* --- physical lines --- */

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\f' || c == '\v';
}

/* The next physical line without its newline, and "\r" before that. */
static bool next_line(struct reader *r, const char **line, size_t *size)
{
    if (r->at >= r->end)
        return false;
    const char *nl = memchr(r->at, '\n', (size_t)(r->end - r->at)), *stop = nl ? nl : r->end;
    *line = r->at;
    *size = (size_t)(stop - r->at);
    if (*size && stop[-1] == '\r')
        --*size;
    r->at = nl ? nl + 1 : r->end;
    r->line++;
    return true;
}

static void trim_left(const char **line, size_t *size)
{
    while (*size && is_blank(**line))
        ++*line, --*size;
}

/* "# NAME = VALUE" at the top. False: a comment like others. */
static bool directive(struct reader *r, const char *line, size_t size, int *status)
{
    char name[32], value[200], text[256];
    snprintf(text, sizeof(text), "%.*s", (int)MIN(size, sizeof(text) - 1), line);
    *status = 0;
    if (sscanf(text, "# %31[A-Za-z0-9] = %199s", name, value) != 2 &&
        sscanf(text, "#%31[A-Za-z0-9] = %199s", name, value) != 2)
        return false;
    if (!strcasecmp(name, "syntax") || !strcasecmp(name, "check"))
        return true;
    if (strcasecmp(name, "escape"))
        return false;
    if (r->escape_given)
        *status = error_set(r->e, EINVAL, "directive escape: is given twice");
    else if (strcmp(value, "\\") && strcmp(value, "`"))
        *status = error_set(r->e, EINVAL, "directive escape: is \\ or `, not \"%.20s\"", value);
    r->d->escape = value[0];
    return r->escape_given = true;
}

/* --- logical lines --- */

struct text {
    char *s;
    size_t n, room;
};

static int put(struct text *t, const char *s, size_t n, struct error *e)
{
    if (t->n + n + 1 > t->room) {
        size_t room = MAX(2 * t->room, t->n + n + 1);
        char *more = realloc(t->s, room);
        if (!more)
            return no_memory(e);
        t->s = more;
        t->room = room;
    }
    memcpy(t->s + t->n, s, n);
    t->n += n;
    t->s[t->n] = 0;
    return 0;
}

/* Does a line go on? *size becomes what is before the escape character. */
static bool continues(const struct reader *r, const char *line, size_t *size)
{
    size_t n = *size;
    while (n && is_blank(line[n - 1]))
        n--;
    if (!n || line[n - 1] != r->d->escape)
        return false;
    *size = n - 1;
    return true;
}

/* The rest of a logical line whose first part is in `t`. */
static int join(struct reader *r, struct text *t, bool goes_on)
{
    const char *line;
    size_t size;
    int rc = 0;
    while (rc == 0 && goes_on && next_line(r, &line, &size)) {
        const char *start = line;
        size_t left = size;
        trim_left(&start, &left);
        if (!left || *start == '#')
            continue;
        goes_on = continues(r, line, &size);
        rc = put(t, line, size, r->e);
    }
    while (t->n && is_blank(t->s[t->n - 1]))
        t->s[--t->n] = 0;
    return rc;
}

/* --- parts of an instruction --- */

static int find_kind(const char *word, size_t size, enum docker_kind *kind, struct error *e)
{
    for (size_t i = 0; i < ARRAY_LEN(instructions); i++) {
        if (strlen(instructions[i].keyword) == size && !strncasecmp(instructions[i].keyword, word, size)) {
            *kind = (enum docker_kind)i;
            return 0;
        }
    }
    return error_set(e, EINVAL, "unknown instruction \"%.*s\"", (int)MIN(size, 40), word);
}

/* "--NAME=VALUE" and "--NAME" before the arguments; "--" ends them. */
static int take_flags(struct docker_line *l, const char **at, struct error *e)
{
    int r = 0;
    while (r == 0 && !strncmp(*at, "--", 2)) {
        size_t n = strcspn(*at, " \t");
        if (n > 2)
            r = docker_words_add(&l->flags, *at, n, e);
        *at += n;
        *at += strspn(*at, " \t");
        if (n == 2)
            break;
    }
    return r;
}

/* An array of strings, or words after all. */
static int take_json(struct docker_line *l, struct error *e)
{
    size_t i;
    json_t *v, *j = l->rest[0] == '[' ? json_loads(l->rest, 0, NULL) : NULL;
    int r = 0;
    bool strings = json_is_array(j);
    json_array_foreach(j, i, v) strings &= json_is_string(v);
    l->is_json = strings;
    json_array_foreach(strings ? j : NULL, i, v) if (r == 0) r =
        docker_words_add(&l->json, json_string_value(v), json_string_length(v), e);
    json_decref(j);
    return r;
}

static int add_here(struct docker_line *l, const char *name, size_t size, bool literal, struct error *e)
{
    if (l->n_here >= 64)
        return error_set(e, E2BIG, "more than 64 here-documents in one instruction");
    struct docker_here *more = realloc(l->here, (l->n_here + 1) * sizeof(*more));
    if (!more)
        return no_memory(e);
    l->here = more;
    more[l->n_here] = (struct docker_here){.name = strndup(name, size), .literal = literal};
    return more[l->n_here++].name ? 0 : no_memory(e);
}

/* `word` is "<<NAME", "<<-NAME", "3<<'NAME'": keeps the dash in front of the name until its text is read. */
static int here_word(struct docker_line *l, const char *word, struct error *e)
{
    char name[256];
    size_t n = 0;
    bool literal = false;
    const char *p = word + strspn(word, "0123456789");
    if (strncmp(p, "<<", 2))
        return 0;
    p += 2;
    if (*p == '-')
        name[n++] = *p++;
    for (char quote = 0; *p && n < sizeof(name) - 1; p++) {
        if (*p == '<')
            return 0; /* "<<<": a shell's own */
        if (quote ? *p == quote : *p == '"' || *p == '\'') {
            quote = quote ? 0 : *p;
            literal = true;
        } else {
            name[n++] = *p;
        }
    }
    name[n] = 0;
    return n == 0 || !strcmp(name, "-") || *p ? 0 : add_here(l, name, n, literal, e);
}

static int find_heres(const struct reader *r, struct docker_line *l)
{
    struct docker_words words = {0};
    if (l->is_json || !strstr(l->rest, "<<"))
        return 0;
    /* A shell's line may have quotes that are none to us: then it has no here-documents that we see. */
    if (docker_split(l->rest, r->d->escape, &words, NULL) < 0)
        return 0;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < words.n; i++)
        rc = here_word(l, words.v[i], r->e);
    docker_words_free(&words);
    return rc;
}

/* What images say is JSON, and so UTF-8. */
static int check_text(const char *text, struct error *e)
{
    json_t *j = json_string(text);
    json_decref(j);
    return j ? 0 : error_set(e, EINVAL, "is no UTF-8");
}

/* The lines up to the one that is its name. */
static int read_here(struct reader *r, struct docker_here *h)
{
    struct text t = {0};
    const char *line;
    size_t size;
    bool tabs = h->name[0] == '-', ended = false;
    if (tabs)
        memmove(h->name, h->name + 1, strlen(h->name));
    int rc = put(&t, "", 0, r->e);
    while (rc == 0 && !ended && next_line(r, &line, &size)) {
        while (tabs && size && *line == '\t')
            line++, size--;
        ended = size == strlen(h->name) && !memcmp(line, h->name, size);
        if (!ended && (rc = put(&t, line, size, r->e)) == 0)
            rc = put(&t, "\n", 1, r->e);
    }
    h->text = t.s;
    if (rc == 0)
        rc = check_text(t.s, r->e);
    return rc == 0 && !ended ? error_set(r->e, EINVAL, "here-document: no line \"%.60s\" ends it", h->name) : rc;
}

static int add_line(struct reader *r, struct docker_line **out)
{
    struct dockerfile *d = r->d;
    if (d->n >= DOCKERFILE_LINES_MAX)
        return error_set(r->e, E2BIG, "more than %u instructions", DOCKERFILE_LINES_MAX);
    if (!(d->n & (d->n - 1))) {
        struct docker_line *more = realloc(d->v, (d->n ? 2 * d->n : 1) * sizeof(*more));
        if (!more)
            return no_memory(r->e);
        d->v = more;
    }
    *out = &d->v[d->n++];
    memset(*out, 0, sizeof(**out));
    return 0;
}

static int take_instruction(struct reader *r, const char *text, u32 line)
{
    struct docker_line *l = NULL;
    size_t n = strcspn(text, " \t");
    int rc = add_line(r, &l);
    if (rc == 0)
        rc = find_kind(text, n, &l->kind, r->e);
    if (rc < 0)
        return rc;
    l->line = line;
    const char *at = text + n + strspn(text + n, " \t");
    u32 has = instructions[l->kind].has;
    if (has & DOCKER_FLAGS)
        rc = take_flags(l, &at, r->e);
    if (rc == 0 && !(l->rest = strdup(at)))
        rc = no_memory(r->e);
    if (rc == 0)
        rc = check_text(text, r->e);
    if (rc == 0 && !*at)
        rc = error_set(r->e, EINVAL, "%s: needs an argument", docker_keyword(l->kind));
    if (rc == 0 && has & DOCKER_JSON)
        rc = take_json(l, r->e);
    if (rc == 0 && has & DOCKER_HERE)
        rc = find_heres(r, l);
    for (size_t i = 0; rc == 0 && i < l->n_here; i++)
        rc = read_here(r, &l->here[i]);
    return rc;
}

static int take_line(struct reader *r, const char *line, size_t size)
{
    struct text t = {0};
    int rc = 0;
    u32 number = r->line - 1;
    trim_left(&line, &size);
    if (!size)
        return r->directives = false, 0;
    if (*line == '#') {
        r->directives = r->directives && directive(r, line, size, &rc);
        return rc;
    }
    r->directives = false;
    bool goes_on = continues(r, line, &size);
    rc = put(&t, line, size, r->e);
    if (rc == 0)
        rc = join(r, &t, goes_on);
    if (rc == 0 && t.n)
        rc = take_instruction(r, t.s, number);
    free(t.s);
    if (rc < 0)
        r->line = number + 1; /* for the message */
    return rc;
}

int dockerfile_parse(struct dockerfile *d, const char *name, const char *text, size_t size, struct error *e)
{
    struct error why = {0};
    struct reader r = {.d = d, .at = text, .end = text + size, .line = 1, .directives = true, .e = &why};
    const char *line;
    size_t n;
    memset(d, 0, sizeof(*d));
    d->escape = '\\';
    d->name = strdup(name);
    int rc = d->name ? 0 : no_memory(&why);
    if (rc == 0 && size > DOCKERFILE_MAX)
        rc = error_set(&why, EFBIG, "more than %u bytes: is this a Dockerfile?", DOCKERFILE_MAX);
    else if (rc == 0 && memchr(text, 0, size))
        rc = error_set(&why, EINVAL, "holds bytes of value 0: is no text");
    if (size >= 3 && !memcmp(text, "\xef\xbb\xbf", 3)) /* a mark of UTF-8 */
        r.at += 3;
    while (rc == 0 && next_line(&r, &line, &n))
        rc = take_line(&r, line, n);
    if (rc == 0)
        return 0;
    dockerfile_free(d);
    return error_set(e, why.code, "%.100s:%u: %s", name, MAX(r.line, 2) - 1, why.msg);
}

void dockerfile_free(struct dockerfile *d)
{
    for (size_t i = 0; i < d->n; i++) {
        struct docker_line *l = &d->v[i];
        docker_words_free(&l->flags);
        docker_words_free(&l->json);
        free(l->rest);
        for (size_t k = 0; k < l->n_here; k++) {
            free(l->here[k].name);
            free(l->here[k].text);
        }
        free(l->here);
    }
    free(d->v);
    free(d->name);
    memset(d, 0, sizeof(*d));
}

/* --- options --- */

const char *docker_flag(const struct docker_line *l, const char *name)
{
    size_t n = strlen(name);
    const char *value = NULL;
    for (size_t i = 0; i < l->flags.n; i++) {
        const char *f = l->flags.v[i] + 2;
        if (!strncmp(f, name, n) && (f[n] == '=' || !f[n]))
            value = f[n] ? f + n + 1 : "";
    }
    return value;
}

int docker_check_flags(const struct docker_line *l, const char *known, struct error *e)
{
    for (size_t i = 0; i < l->flags.n; i++) {
        const char *f = l->flags.v[i] + 2, *k = known;
        size_t n = strcspn(f, "=");
        while (*k && !(strcspn(k, "|") == n && !strncmp(k, f, n))) {
            k += strcspn(k, "|");
            k += *k == '|';
        }
        if (!*k || !n)
            return error_set(e, EINVAL, "%s: option %.60s: is not known or not there yet", docker_keyword(l->kind),
                             l->flags.v[i]);
    }
    return 0;
}
