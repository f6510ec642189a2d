/*
 * What the fuzz targets share. Each target is one file with LLVMFuzzerTestOneInput: libFuzzer drives it in
 * `make test-long`, and replay.c feeds it the corpus in `make test`.
 *
 * A target must end by itself for each input, keep no state from one input to the next, and check with FUZZ_CHECK what must
 * hold, besides what the sanitizers see.
 */
#ifndef TRAPEZE_TESTS_FUZZ_H
#define TRAPEZE_TESTS_FUZZ_H

#include "base/types.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

#define FUZZ_CHECK(condition)                                                         \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                  \
        }                                                                             \
    } while (0)

/* Take the next bytes of the input; zeros when it is used up. */
struct fuzz_input {
    const u8 *data;
    size_t len;
};

static inline void fuzz_take(struct fuzz_input *in, void *out, size_t len)
{
    size_t n = len < in->len ? len : in->len;
    memcpy(out, in->data, n);
    memset((u8 *)out + n, 0, len - n);
    in->data += n;
    in->len -= n;
}

static inline u64 fuzz_number(struct fuzz_input *in, unsigned bytes)
{
    u64 v = 0;
    fuzz_take(in, &v, bytes);
    return v;
}

#endif
