/*
 * The one error contract of the tree (docs/errors.md).
 *
 * A function that can fail returns 0 or a negative errno. What a person will read travels in a `struct error` that the
 * caller owns: one line naming the object, the cause and what to do. Passing NULL for it is allowed everywhere.
 */
#ifndef TRAPEZE_BASE_ERROR_H
#define TRAPEZE_BASE_ERROR_H

#include "base/types.h"

struct error {
    int code;      /* a positive errno, 0 while nothing has failed */
    char msg[512]; /* one line, no newline at its end */
};

/*
 * Fill `e` (may be NULL) with a formatted line and return -code, so that `return error_set(e, EINVAL, ...)` reads well.
 * The first error wins: a second call on the same struct leaves the message and returns the new code.
 */
int error_set(struct error *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Put `prefix: ` before the message that `e` carries; no effect when `e` is NULL or empty. */
void error_prefix(struct error *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
