/* What `trapeze doctor` looks at: a table of checks (doctor_checks.c), each answering with a finding. */
#ifndef TRAPEZE_CLI_DOCTOR_H
#define TRAPEZE_CLI_DOCTOR_H

#include "base/types.h"

/* X-macro: result, name in JSON, mark in the table, escape sequence of its colour */
#define DOCTOR_RESULTS(X)                                                                  \
    X(DOCTOR_OK, "ok", "ok", "\033[32m")                                                   \
    X(DOCTOR_INFO, "info", "--", "")                    /* a fact, neither good nor bad */ \
    X(DOCTOR_LACKS, "lacks", "lacks", "\033[33m")       /* works without, but less well */ \
    X(DOCTOR_MISSING, "missing", "MISSING", "\033[31m") /* nothing runs without it */

enum doctor_result {
#define X(result, name, mark, colour) result,
    DOCTOR_RESULTS(X)
#undef X
        DOCTOR_RESULT_COUNT
};

struct doctor_finding {
    enum doctor_result result;
    char found[160];  /* what there is */
    char advice[240]; /* what to do about it; "" for nothing */
};

struct doctor_check {
    const char *group; /* heading */
    const char *name;
    void (*look)(struct doctor_finding *f);
};

extern const struct doctor_check doctor_checks[];
extern const size_t doctor_n_checks;

/* Fill a finding: result and what was found; then, by a second call, the advice. */
void doctor_found(struct doctor_finding *f, enum doctor_result result, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void doctor_advise(struct doctor_finding *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Does KVM run an ordinary 64-bit guest here? Tried in a child process under a deadline (doctor_kvm.c). */
void doctor_look_kvm(struct doctor_finding *f);

#endif
