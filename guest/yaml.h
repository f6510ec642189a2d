/*
 * The part of YAML that cloud-config documents are written in, as a flat list: a value is named by its path, "users/0/name".
 *
 * Taken: mappings and sequences in block form, sequences of scalars in flow form ([a, b]), scalars plain, quoted, and as
 * literal or folded blocks, comments. Everything else is refused: anchors, tags, flow mappings but {}, several documents.
 */
#ifndef TRAPEZE_GUEST_YAML_H
#define TRAPEZE_GUEST_YAML_H

#include "base/error.h"
#include "base/types.h"

#define YAML_TEXT_MAX  (64u << 10)
#define YAML_PAIRS_MAX 1024
#define YAML_DEPTH_MAX 8
#define YAML_PATH_MAX  160

struct yaml {
    struct yaml_pair {
        char path[YAML_PATH_MAX];
        char *value;
    } * v;
    size_t n;
};

/* `text` is changed. 0, or -EINVAL, -E2BIG with the number of the line in `e`; free it in both cases. */
int yaml_parse(struct yaml *y, char *text, struct error *e);
void yaml_free(struct yaml *y);

/* The value at a path, or NULL. */
const char *yaml_get(const struct yaml *y, const char *path, ...) __attribute__((format(printf, 2, 3)));
/* Whether something is at the path or below it. */
bool yaml_has(const struct yaml *y, const char *path, ...) __attribute__((format(printf, 2, 3)));

#endif
