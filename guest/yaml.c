/*
 * By lines. A block is what has the same indent; it is a sequence when its lines begin with a dash, else a mapping. The
 * dash of an item is overwritten by a blank: what follows it is then a block of its own, more indented.
 */
#include "yaml.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct reader {
    struct yaml *y;
    char **lines;
    size_t n, at;
    struct error *e;
};

static int bad(const struct reader *r, int code, const char *what)
{
    return error_set(r->e, code, "line %zu: %s", r->at + 1, what);
}

static size_t indent_of(const char *line)
{
    return strspn(line, " ");
}

static bool is_item(const char *s)
{
    return s[0] == '-' && (!s[1] || s[1] == ' ');
}

/* Go to the next line that says something: its indent, or -1 at the end. */
static int next(struct reader *r)
{
    for (; r->at < r->n; r->at++) {
        const char *s = r->lines[r->at] + indent_of(r->lines[r->at]);
        const char *text = s + strspn(s, " \t");
        if (*text && *text != '#')
            return (int)(s - r->lines[r->at]);
    }
    return -1;
}

static int add(struct reader *r, const char *path, const char *value)
{
    struct yaml *y = r->y;
    if (y->n == YAML_PAIRS_MAX)
        return bad(r, E2BIG, "more values than are read");
    struct yaml_pair *more = realloc(y->v, (y->n + 1) * sizeof(*more));
    if (!more)
        return bad(r, ENOMEM, "out of memory");
    y->v = more;
    snprintf(more[y->n].path, YAML_PATH_MAX, "%s", path);
    more[y->n].value = strdup(value);
    return more[y->n].value ? (y->n++, 0) : bad(r, ENOMEM, "out of memory");
}

static int join(const struct reader *r, char *out, const char *path, const char *name)
{
    return snprintf(out, YAML_PATH_MAX, "%s%s%s", path, *path ? "/" : "", name) < YAML_PATH_MAX
               ? 0
               : bad(r, E2BIG, "names that are too long");
}

/* --- scalars --- */

/* The escapes of double quotes that are one byte; \u of what is ASCII. */
static int unescape(const char **s, char *out)
{
    static const char from[] = "\"\\/nrt0be", to[] = "\"\\/\n\r\t\0\b\033";
    char c = *(*s)++, hex[5] = "";
    const char *p = c ? strchr(from, c) : NULL;
    if (p) {
        *out = to[p - from];
        return *out ? 0 : -1;
    }
    if (c != 'u' || strlen(*s) < 4)
        return -1;
    memcpy(hex, *s, 4);
    if (strspn(hex, "0123456789abcdefABCDEF") != 4)
        return -1;
    unsigned long code = strtoul(hex, NULL, 16);
    *s += 4;
    *out = (char)code;
    return code && code < 128 ? 0 : -1;
}

/* A quoted scalar at *s, rewritten in place; *s goes behind it. NULL: not closed. */
static char *take_quoted(char **s)
{
    char quote = **s, *start = *s + 1, *out = start;
    const char *p = start;
    for (; *p; out++) {
        if (*p == quote && quote == '\'' && p[1] == '\'') {
            *out = '\'';
            p += 2;
        } else if (*p == quote) {
            *s = (char *)(uintptr_t)p + 1;
            *out = 0;
            return start;
        } else if (*p == '\\' && quote == '"') {
            p++;
            if (unescape(&p, out) < 0)
                return NULL;
        } else {
            *out = *p++;
        }
    }
    return NULL;
}

/* Cut a plain scalar before a comment and blanks at its end. */
static char *take_plain(char *s)
{
    char *comment = strstr(s, " #");
    if (comment)
        *comment = 0;
    size_t n = strlen(s);
    while (n && isspace((unsigned char)s[n - 1]))
        s[--n] = 0;
    return s;
}

static bool only_comment(const char *s)
{
    s += strspn(s, " \t");
    return !*s || *s == '#';
}

/* "[a, "b"]" on one line. */
static int read_flow(struct reader *r, const char *path, char *s)
{
    char name[16], item[YAML_PATH_MAX];
    for (unsigned i = 0;; i++) {
        s += strspn(s, " \t");
        if (*s == ']')
            return only_comment(s + 1) ? 0 : bad(r, EINVAL, "something behind ]");
        snprintf(name, sizeof(name), "%u", i);
        int rc = join(r, item, path, name);
        if (rc < 0)
            return rc;
        bool quoted = *s == '"' || *s == '\'';
        char *value = quoted ? take_quoted(&s) : s;
        if (!quoted)
            s += strcspn(s, ",[]{}#");
        else if (value)
            s += strspn(s, " \t");
        char end = value ? *s : 0;
        if (end != ',' && end != ']')
            return bad(r, EINVAL, "a list in brackets that is not read: it has to be on one line, of single values");
        *s = 0;
        if ((rc = add(r, item, quoted ? value : take_plain(value))) < 0)
            return rc;
        if (end == ']')
            return only_comment(s + 1) ? 0 : bad(r, EINVAL, "something behind ]");
        s++;
    }
}

/* Lines behind "|" or ">": all that are more indented than `indent`. */
static int read_literal(struct reader *r, const char *path, int indent, char kind)
{
    char *text = NULL;
    size_t size = 0;
    int own = -1;
    FILE *f = open_memstream(&text, &size);
    if (!f)
        return bad(r, ENOMEM, "out of memory");
    for (r->at++; r->at < r->n; r->at++) {
        const char *line = r->lines[r->at];
        int here = (int)indent_of(line);
        if (line[here] && here <= indent)
            break;
        if (own < 0 && line[here])
            own = here;
        fprintf(f, "%s%c", own >= 0 && here >= own ? line + own : "", kind == '|' ? '\n' : ' ');
    }
    fclose(f);
    while (size > 1 && isspace((unsigned char)text[size - 1]) && isspace((unsigned char)text[size - 2]))
        text[--size] = 0;
    int rc = add(r, path, text);
    free(text);
    return rc;
}

/* --- blocks --- */

static int read_block(struct reader *r, const char *path, int indent, int depth);

/* What stands behind "key:" or a dash on its line; when nothing does, the block below, if it belongs to it. */
static int read_value(struct reader *r, const char *path, char *s, int indent, bool of_key, int depth)
{
    int rc = 0;
    s += strspn(s, " \t");
    if (*s == '|' || *s == '>')
        return read_literal(r, path, indent, *s);
    if (only_comment(s)) {
        r->at++;
        int below = next(r);
        bool list = below >= 0 && is_item(r->lines[r->at] + below);
        if (below > indent || (of_key && below == indent && list))
            return read_block(r, path, below, depth + 1);
        return add(r, path, "");
    }
    if (*s == '[') {
        rc = read_flow(r, path, s + 1);
    } else if (*s == '"' || *s == '\'') {
        char *value = take_quoted(&s);
        rc = value && only_comment(s) ? add(r, path, value) : bad(r, EINVAL, "a text in quotes that is not read");
    } else if (!strncmp(s, "{}", 2) && only_comment(s + 2)) {
        rc = add(r, path, "");
    } else if (strchr("&*!{}%@`", *s)) {
        rc = bad(r, EINVAL, "a form of YAML that is not read");
    } else {
        rc = add(r, path, take_plain(s));
    }
    r->at++;
    return rc;
}

/* Where the value of a "key: value" begins, the key cut off; NULL: it is none. */
static char *split_key(char *s, char **key)
{
    char *end = s;
    *key = s;
    if (*s == '"' || *s == '\'') {
        *key = take_quoted(&end);
        end += strspn(end, " ");
        return *key && *end == ':' && (!end[1] || end[1] == ' ') ? end + 1 : NULL;
    }
    for (; *end; end++)
        if (*end == ':' && (!end[1] || end[1] == ' ')) {
            *end = 0;
            *key = take_plain(s);
            return end + 1;
        }
    return NULL;
}

/* Whether text has the form "key: ..": then an item is a mapping. */
static bool has_key(const char *s)
{
    char *copy = strdup(s), *key;
    bool yes = copy && *s != '[' && split_key(copy, &key);
    free(copy);
    return yes;
}

static int read_item(struct reader *r, const char *path, int indent, int depth)
{
    char *s = r->lines[r->at] + indent, *rest = s + 1 + strspn(s + 1, " ");
    if (*rest && *rest != '#' && (is_item(rest) || has_key(rest))) {
        *s = ' ';
        return read_block(r, path, (int)(rest - r->lines[r->at]), depth + 1);
    }
    return read_value(r, path, s + 1, indent, false, depth);
}

static int read_block(struct reader *r, const char *path, int indent, int depth)
{
    char name[16], below[YAML_PATH_MAX];
    bool list = is_item(r->lines[r->at] + indent);
    if (depth > YAML_DEPTH_MAX)
        return bad(r, E2BIG, "nested too deep");
    for (unsigned i = 0;; i++) {
        int here = next(r);
        if (here < indent || (here == indent && list && !is_item(r->lines[r->at] + indent)))
            return 0;
        char *s = r->lines[r->at] + indent, *key = name, *value = s;
        if (here > indent || *s == '\t' || is_item(s) != list)
            return bad(r, EINVAL, "the indent does not fit");
        snprintf(name, sizeof(name), "%u", i);
        if (!list && !(value = split_key(s, &key)))
            return bad(r, EINVAL, "neither `name: value` nor `- item`");
        int rc = join(r, below, path, key);
        if (rc == 0)
            rc = list ? read_item(r, below, indent, depth) : read_value(r, below, value, indent, true, depth);
        if (rc < 0)
            return rc;
    }
}

static int split_lines(struct reader *r, char *text)
{
    size_t n = 1;
    for (const char *p = text; *p; p++)
        n += *p == '\n';
    r->lines = calloc(n, sizeof(*r->lines));
    if (!r->lines)
        return -ENOMEM;
    for (char *line = text, *end; line; line = end) {
        end = strchr(line, '\n');
        if (end)
            *end++ = 0;
        size_t len = strlen(line);
        if (len && line[len - 1] == '\r')
            line[len - 1] = 0;
        r->lines[r->n++] = line;
    }
    return 0;
}

int yaml_parse(struct yaml *y, char *text, struct error *e)
{
    struct reader r = {.y = y, .e = e};
    *y = (struct yaml){0};
    if (strlen(text) > YAML_TEXT_MAX)
        return error_set(e, E2BIG, "more than %u bytes", YAML_TEXT_MAX);
    if (split_lines(&r, text) < 0)
        return error_set(e, ENOMEM, "out of memory");
    int at = next(&r), rc = 0;
    if (at >= 0 && !strcmp(r.lines[r.at], "---")) {
        r.at++;
        at = next(&r);
    }
    if (at >= 0 && strcmp(r.lines[r.at] + at, "{}")) {
        rc = read_block(&r, "", at, 1);
        if (rc == 0 && next(&r) >= 0)
            rc = bad(&r, EINVAL, "the indent does not fit");
    }
    free(r.lines);
    return rc;
}

void yaml_free(struct yaml *y)
{
    for (size_t i = 0; i < y->n; i++)
        free(y->v[i].value);
    free(y->v);
    *y = (struct yaml){0};
}

const char *yaml_get(const struct yaml *y, const char *path, ...)
{
    char name[YAML_PATH_MAX];
    va_list args;
    va_start(args, path);
    vsnprintf(name, sizeof(name), path, args);
    va_end(args);
    for (size_t i = 0; i < y->n; i++)
        if (!strcmp(y->v[i].path, name))
            return y->v[i].value;
    return NULL;
}

bool yaml_has(const struct yaml *y, const char *path, ...)
{
    char name[YAML_PATH_MAX];
    va_list args;
    va_start(args, path);
    vsnprintf(name, sizeof(name), path, args);
    va_end(args);
    size_t n = strlen(name);
    for (size_t i = 0; i < y->n; i++)
        if (!strncmp(y->v[i].path, name, n) && (!y->v[i].path[n] || y->v[i].path[n] == '/'))
            return true;
    return false;
}
