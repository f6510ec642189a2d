/*
 * trapeze-oci: the command line that engines (conmon, go-runc, podman) call, on top of container/container.h.
 *
 * How to add a verb: a row in `oci_verbs` with its options, and a function. Options that engines pass and that mean nothing
 * here are in the table as well, with OPT_NOTHING: they are accepted in their right form.
 */
#ifndef TRAPEZE_OCI_OCI_H
#define TRAPEZE_OCI_OCI_H

#include "base/error.h"
#include "container/container.h"

#include <stdio.h>

#define OCI_LIST 64

/* What the command line said; the places of `oci_option.at`. */
struct oci_args {
    struct container_host host;
    const char *log, *log_format;
    bool debug, version, help;
    struct container_launch launch;
    struct container_exec exec;
    struct container_checkpoint checkpoint;
    bool tty, no_tty, nnp;
    const char *env[OCI_LIST], *capabilities[OCI_LIST];
    u32 groups[OCI_LIST];
    bool all, force, quiet, stats, rootless, filtered;
    const char *format, *interval, *resources;
    /* update */
    const char *limit[32];
    char **operands;
    int n_operands;
};

enum oci_kind {
    OCI_NOTHING_FLAG, /* accepted, means nothing here */
    OCI_NOTHING_TEXT,
    OCI_FLAG,   /* bool */
    OCI_TEXT,   /* const char * */
    OCI_NUMBER, /* u32 */
    OCI_LIST_TEXT,
    OCI_LIST_NUMBER,
};

struct oci_option {
    const char *name;
    char letter;
    u8 kind;
    size_t at; /* offset in struct oci_args */
    const char *help;
};

struct oci_verb {
    const char *name, *operands, *summary;
    s8 min_operands, max_operands;    /* -1: any number, options end at the first but one */
    const struct oci_option *options; /* ended by a NULL name */
    int (*run)(struct oci_args *a, int *status, struct error *e);
};

extern const struct oci_option oci_globals[];
extern const struct oci_verb oci_verbs[];

/* Parse argv[0..argc) by `options`; stops at the first operand when `stop`. Number of words used or -EINVAL. */
int oci_parse(struct oci_args *a, const struct oci_option *options, int argc, char **argv, bool stop, struct error *e);
const struct oci_verb *oci_find(const char *name);
void oci_help(FILE *out, const struct oci_verb *v);

/* Write an error to --log in its format; and, for people and conmon, to standard error. */
void oci_log(const struct oci_args *a, const struct error *e);

int oci_verb_ps(struct oci_args *a, int *status, struct error *e);
int oci_verb_list(struct oci_args *a, int *status, struct error *e);
int oci_verb_state(struct oci_args *a, int *status, struct error *e);
int oci_verb_events(struct oci_args *a, int *status, struct error *e);
int oci_verb_features(struct oci_args *a, int *status, struct error *e);
int oci_verb_spec(struct oci_args *a, int *status, struct error *e);
int oci_verb_update(struct oci_args *a, int *status, struct error *e);

#endif
