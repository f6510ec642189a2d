/*
 * Matching by a set of states, all places in the pattern where a match may be: time is the product of both lengths, whatever
 * the pattern. A place in "**" that has eaten something, and may only go on behind a "/", is a state of its own.
 */
#include "image/build_pattern.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RULES_MAX 10000

enum token_kind { ONE, ANY, STAR, CLASS, DIRECTORIES, REST };

struct token {
    enum token_kind kind;
    u8 c;
    const char *from, *to; /* of a class, without its brackets */
};

/* The token at *p, which goes behind it. -EINVAL. */
static int take_class(const char **p, struct token *t)
{
    const char *s = *p;
    t->kind = CLASS;
    t->from = s;
    if (*s == '^')
        s++;
    if (*s == ']')
        return -EINVAL;
    for (; *s && *s != ']'; s++)
        if (*s == '\\' && !*++s)
            return -EINVAL;
    t->to = s;
    *p = s + 1;
    return *s ? 0 : -EINVAL;
}

static int take_token(const char **p, bool deep, struct token *t)
{
    char c = *(*p)++;
    *t = (struct token){.kind = ONE, .c = (u8)c};
    if (c == '?') {
        t->kind = ANY;
    } else if (c == '*') {
        t->kind = STAR;
        while (!deep && **p == '*')
            ++*p;
        if (deep && **p == '*') {
            while (**p == '*')
                ++*p;
            *p += **p == '/';
            t->kind = **p ? DIRECTORIES : REST;
        }
    } else if (c == '[') {
        return take_class(p, t);
    } else if (c == '\\') {
        if (!**p)
            return -EINVAL;
        t->c = (u8) * (*p)++;
    }
    return 0;
}

static int compile(const char *pattern, bool deep, struct token *t, size_t *n)
{
    *n = 0;
    if (strlen(pattern) > PATTERN_MAX)
        return -E2BIG;
    for (const char *p = pattern; *p; ++*n) {
        int r = take_token(&p, deep, &t[*n]);
        if (r < 0)
            return r;
    }
    return 0;
}

static bool in_class(const struct token *t, u8 c)
{
    const char *p = t->from;
    bool negated = *p == '^', hit = false;
    for (p += negated; p < t->to;) {
        p += *p == '\\';
        u8 low = (u8)*p++, high = low;
        if (p + 1 < t->to && *p == '-') {
            p++;
            p += *p == '\\' && p + 1 < t->to;
            high = (u8)*p++;
        }
        hit |= low <= c && c <= high;
    }
    return c != '/' && hit != negated;
}

/* States: 2i before token i, 2i + 1 inside a "**" that has begun. */
struct states {
    u8 on[2 * PATTERN_MAX + 4];
};

/* Enter the place before token i, and those behind tokens that may be empty. */
static void enter(struct states *s, const struct token *t, size_t n, size_t i)
{
    for (; !s->on[2 * i]; i++) {
        s->on[2 * i] = 1;
        if (i >= n || (t[i].kind != STAR && t[i].kind != DIRECTORIES && t[i].kind != REST))
            return;
    }
}

static void step(struct states *to, const struct states *from, const struct token *t, size_t n, u8 c)
{
    memset(to->on, 0, 2 * n + 2);
    for (size_t i = 0; i < n; i++) {
        if (from->on[2 * i]) {
            switch (t[i].kind) {
            case ONE:
                if (t[i].c == c)
                    enter(to, t, n, i + 1);
                break;
            case ANY:
                if (c != '/')
                    enter(to, t, n, i + 1);
                break;
            case CLASS:
                if (in_class(&t[i], c))
                    enter(to, t, n, i + 1);
                break;
            case STAR:
                if (c != '/')
                    enter(to, t, n, i);
                break;
            case REST:
                enter(to, t, n, i);
                break;
            case DIRECTORIES:
                break;
            }
        }
        if ((from->on[2 * i] || from->on[2 * i + 1]) && t[i].kind == DIRECTORIES) {
            to->on[2 * i + 1] = 1;
            if (c == '/')
                enter(to, t, n, i + 1);
        }
    }
}

bool pattern_match(const char *pattern, const char *name, bool deep)
{
    struct token t[PATTERN_MAX + 1];
    struct states s[2];
    size_t n;
    u32 now = 0;
    if (compile(pattern, deep, t, &n) < 0)
        return false;
    memset(s[0].on, 0, 2 * n + 2);
    enter(&s[0], t, n, 0);
    for (; *name; name++, now ^= 1)
        step(&s[now ^ 1], &s[now], t, n, (u8)*name);
    return s[now].on[2 * n];
}

int pattern_check(const char *pattern, struct error *e)
{
    struct token t[PATTERN_MAX + 1];
    size_t n;
    int r = compile(pattern, true, t, &n);
    if (r == -E2BIG)
        return error_set(e, E2BIG, "pattern \"%.40s..\": longer than %d letters", pattern, PATTERN_MAX);
    return r < 0 ? error_set(e, EINVAL, "pattern \"%.100s\": a [ is not closed, or a \\ stands at its end", pattern)
                 : 0;
}

bool pattern_is(const char *text)
{
    return strpbrk(text, "*?[\\") != NULL;
}

int build_clean(const char *path, char *out, size_t size, bool *leaves)
{
    size_t n = 0;
    *leaves = false;
    for (const char *p = path; *p; p += *p == '/') {
        size_t len = strcspn(p, "/");
        if (len == 2 && p[0] == '.' && p[1] == '.') {
            *leaves |= !n;
            while (n && out[--n] != '/')
                ;
        } else if (len && !(len == 1 && *p == '.')) {
            if (n + len + 2 > size)
                return -ENAMETOOLONG;
            if (n)
                out[n++] = '/';
            memcpy(out + n, p, len);
            n += len;
        }
        p += len;
    }
    out[n] = 0;
    return 0;
}

/* --- .dockerignore --- */

static int add_rule(struct build_ignore *g, char *line, struct error *e)
{
    char clean[PATTERN_MAX + 1];
    bool keep = *line == '!', leaves;
    line += keep;
    line += strspn(line, " \t");
    if (build_clean(line, clean, sizeof(clean), &leaves) < 0)
        return error_set(e, E2BIG, "pattern \"%.40s..\": longer than %d letters", line, PATTERN_MAX);
    if (!*clean) /* the root itself is always in */
        return 0;
    int r = pattern_check(clean, e);
    if (r < 0)
        return r;
    if (g->n >= RULES_MAX)
        return error_set(e, E2BIG, "more than %d patterns", RULES_MAX);
    struct build_rule *more = realloc(g->v, (g->n + 1) * sizeof(*more));
    if (!more)
        return error_set(e, ENOMEM, "out of memory");
    g->v = more;
    g->v[g->n] = (struct build_rule){.pattern = strdup(clean), .keep = keep};
    g->keeps |= keep;
    return g->v[g->n].pattern ? (g->n++, 0) : error_set(e, ENOMEM, "out of memory");
}

int build_ignore_parse(struct build_ignore *g, const char *text, size_t size, struct error *e)
{
    struct error why = {0};
    u32 number = 0;
    int r = 0;
    *g = (struct build_ignore){0};
    if (size >= 3 && !memcmp(text, "\xef\xbb\xbf", 3))
        text += 3, size -= 3;
    char *copy = strndup(text, size), *at = copy;
    if (!copy)
        return error_set(e, ENOMEM, "out of memory");
    for (char *line; r == 0 && (line = strsep(&at, "\n"));) {
        number++;
        if (*line == '#')
            continue;
        line += strspn(line, " \t\r");
        for (size_t n = strlen(line); n && strchr(" \t\r", line[n - 1]); n--)
            line[n - 1] = 0;
        if (*line)
            r = add_rule(g, line, &why);
    }
    free(copy);
    if (r < 0) {
        build_ignore_free(g);
        error_set(e, why.code, ".dockerignore:%u: %s", number, why.msg);
    }
    return r;
}

void build_ignore_free(struct build_ignore *g)
{
    for (size_t i = 0; i < g->n; i++)
        free(g->v[i].pattern);
    free(g->v);
    *g = (struct build_ignore){0};
}

/* The name itself, or a directory above it. */
static bool rule_matches(const struct build_rule *rule, const char *path)
{
    char part[4096];
    if (strlen(path) >= sizeof(part))
        return false;
    strcpy(part, path);
    for (;;) {
        if (pattern_match(rule->pattern, part, true))
            return true;
        char *slash = strrchr(part, '/');
        if (!slash)
            return false;
        *slash = 0;
    }
}

bool build_ignored(const struct build_ignore *g, const char *path)
{
    bool out = false;
    /* A rule that would change nothing need not be asked. */
    for (size_t i = 0; g && *path && i < g->n; i++)
        if (g->v[i].keep == out && rule_matches(&g->v[i], path))
            out = !g->v[i].keep;
    return out;
}
