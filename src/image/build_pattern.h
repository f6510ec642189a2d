/*
 * Patterns of names: the sources of COPY (Go's filepath.Match) and the lines of .dockerignore (moby/patternmatcher). Pure.
 *
 *     *        any characters but /          ?        one character but /
 *     [a-z]    one of them, [^a-z] none      \c       c itself
 *     **       in .dockerignore: any number of directories, none too
 */
#ifndef TRAPEZE_IMAGE_BUILD_PATTERN_H
#define TRAPEZE_IMAGE_BUILD_PATTERN_H

#include "base/error.h"
#include "base/types.h"

#define PATTERN_MAX 1024 /* bytes of one */

/* -EINVAL: a class that is not closed, an escape at the end; -E2BIG. */
int pattern_check(const char *pattern, struct error *e);
/* `deep`: ** has its meaning. A pattern that pattern_check refuses matches nothing. */
bool pattern_match(const char *pattern, const char *name, bool deep);
/* Whether it holds anything special. */
bool pattern_is(const char *text);

struct build_rule {
    char *pattern;
    bool keep; /* "!": what an earlier line left out is in again */
};

/* A .dockerignore. The last rule that a name, or a directory that it lies in, matches decides. */
struct build_ignore {
    struct build_rule *v;
    size_t n;
    bool keeps; /* there is a "!": directories that are left out must be gone through all the same */
};

int build_ignore_parse(struct build_ignore *g, const char *text, size_t size, struct error *e);
void build_ignore_free(struct build_ignore *g);
/* `path`: from the context's root, without / in front. */
bool build_ignored(const struct build_ignore *g, const char *path);

/*
 * Go's filepath.Clean below a root: without ".", "..", empty parts, and / at either end; "" is the root itself. *leaves: ".." led
 * out of it, and was left away there. -ENAMETOOLONG.
 */
int build_clean(const char *path, char *out, size_t size, bool *leaves);

#endif
