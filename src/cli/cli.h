/*
 * The command line: one table of verbs and options (table.c) that makes the parser, every --help, the manual pages and
 * the completion. A verb is one file, verb_NAME.c, with one function.
 *
 * How to add a verb: a row in `cli_verbs`, its options (if new) in `cli_options`, a file verb_NAME.c, its line in
 * meson.build. Nothing else knows the names.
 */
#ifndef TRAPEZE_CLI_CLI_H
#define TRAPEZE_CLI_CLI_H

#include "base/error.h"
#include "base/types.h"

#include <stdio.h>

/* Exit status of every verb; 128 + n when signal n ended it. */
enum cli_status {
    CLI_OK = 0,     /* done; `run`: the guest powered off, or asked for a reset under --no-reboot */
    CLI_USAGE = 1,  /* usage or configuration: something the caller can put right */
    CLI_TRIPLE = 2, /* the guest ended by a triple fault */
    CLI_HOST = 3,   /* the host failed, or Trapeze did */
};

/* Options bear one name everywhere; where a letter or meaning differs between verbs there are two ids of one name. */
enum option_id {
    OPT_NONE, /* ends a verb's list */
    OPT_HELP,
    OPT_VERSION,
    OPT_NAME,
    OPT_MEMORY,
    OPT_MEMORY_UPDATE, /* has no preset */
    OPT_CPUS_UPDATE,
    OPT_CPUS,
    OPT_CPU,
    OPT_ENGINE,
    OPT_CODE_CACHE,
    OPT_VIRTIO,
    OPT_KERNEL,
    OPT_INITRD,
    OPT_APPEND,
    OPT_CONSOLE,
    OPT_DISK,
    OPT_NETWORK,
    OPT_SHARE,
    OPT_PUBLISH,
    OPT_NO_REBOOT,
    OPT_DETACH,
    OPT_RM,
    OPT_ESCAPE,
    OPT_FORMAT,
    OPT_FORMAT_JSON, /* --format of verbs whose answer is JSON unless asked otherwise */
    OPT_TIME,
    OPT_TIME_RUN, /* without its letter, as run's -t is another's */
    OPT_ALL_MACHINES,
    OPT_ALL_CLASSES,
    OPT_OUTPUT,
    OPT_FORCE,
    OPT_FOLLOW,
    OPT_FOLLOW_EVENTS,
    OPT_INTERVAL,
    OPT_LINES,
    OPT_INTERACTIVE,
    OPT_TTY,
    OPT_ENV,
    OPT_WORKDIR,
    OPT_USER,
    OPT_ARCHIVE,
    OPT_TO_FILE,
    OPT_VOLUME,
    OPT_READ_ONLY,
    OPT_CAP_ADD,
    OPT_CAP_DROP,
    OPT_ENTRYPOINT,
    OPT_HOSTNAME,
    OPT_DNS,
    OPT_ADD_HOST,
    OPT_SUBNET,
    OPT_SIGNAL,
    OPT_DISK_SIZE,
    OPT_SSH_KEY,
    OPT_IMAGE_NAME, /* --name of `image build` */
    OPT_SIZE,
    OPT_MIRROR,
    OPT_INCLUDE,
    OPT_LISTEN,
    OPT_TLS,
    OPT_INSECURE,
    OPT_LIFETIME,
    OPT_MEMORY_ROOM, /* --memory of `receive`: no preset */
    OPT_QUIET,
    OPT_DOWNTIME,
    OPT_BANDWIDTH,
    OPT_MAX_TIME,
    OPT_STOP_ANYWAY,
    OPT_THROTTLE,
    OPT_POSTCOPY,
    OPT_NO_PACKING,
    OPT_WITH_DISKS,
    OPT_DISK_DIR,
    OPT_DRY_RUN,
    OPT_VERIFY,
    OPT_TAG, /* from here: of `image build` for containers */
    OPT_FILE,
    OPT_BUILD_ARG,
    OPT_TARGET,
    OPT_NO_CACHE,
    OPT_QUIET_BUILD,
    OPT_NETWORK_BUILD,
    OPT_AUTHOR, /* of `commit` */
    OPT_MESSAGE,
    OPT_CHANGE,
    OPT_COUNT
};

enum option_kind {
    OPTION_FLAG,   /* no value */
    OPTION_TEXT,   /* anything but the empty string */
    OPTION_STRING, /* anything */
    OPTION_SIZE,   /* 512M: number[] in bytes */
    OPTION_NUMBER, /* decimal: number[] */
    OPTION_TIME,   /* 50ms, 10s, 5m, 1h: number[] in milliseconds */
    OPTION_RATE,   /* 1G: number[] in bits a second */
    OPTION_CHOICE, /* one of `choices`: number[] is its place in the list */
    OPTION_LIST,   /* as OPTION_TEXT, and may be given several times: many[] */
    OPTION_KEY,    /* ^X or none: number[] is the control character, 0 for none */
};

struct option_def {
    const char *name;    /* without the dashes */
    const char *alias;   /* a shorter form; NULL: none */
    char letter;         /* 0: only the long form */
    u8 kind;             /* enum option_kind */
    const char *value;   /* name of the value in usage lines */
    const char *preset;  /* value when not given, parsed as if it were; NULL: none */
    const char *choices; /* "a|b|c" */
    u64 min, max;        /* bounds of sizes and numbers; max 0: none */
    const char *help;    /* one line */
};

/* What a command line was parsed into. Strings belong to argv or to the table. */
struct args {
    const struct verb *verb;
    bool given[OPT_COUNT];
    const char *text[OPT_COUNT];
    u64 number[OPT_COUNT];
    const char **operands;
    int n_operands;
    struct {
        enum option_id id;
        const char *text;
    } * many; /* what options of kind OPTION_LIST were given, in their order */
    int n_many;
};

#define VERB_OPTIONS 48

struct verb {
    const char *name;
    const char *operands; /* as shown in the usage line, "" for none */
    s8 min_operands;
    s8 max_operands;             /* -1: any number */
    bool operands_end;           /* options end at the first operand: what follows is somebody else's command line */
    bool hidden;                 /* not listed in the overview */
    const char *summary;         /* one line, for lists */
    const char *text;            /* paragraphs, for --help and the manual page */
    const char *const *examples; /* command line, explanation, .. NULL */
    u8 options[VERB_OPTIONS];    /* enum option_id, OPT_NONE at the end; --help is everybody's */
    /* Do it: an exit status. A message for the person goes into `e`, once; main prints it. */
    int (*run)(const struct args *a, struct error *e);
};

extern const struct option_def cli_options[OPT_COUNT];
extern const struct verb cli_verbs[];
extern const size_t cli_n_verbs;

/* --- parsing (parse.c) --- */

/* The verb of that name, or NULL. */
const struct verb *cli_find_verb(const char *name);

/*
 * Parse argv[0..argc) (what stands after the verb) by the verb's row. The operands array is allocated; free with
 * cli_args_free. 0, or -EINVAL with one line in `e`.
 */
int cli_parse(struct args *a, const struct verb *verb, int argc, const char **argv, struct error *e);
void cli_args_free(struct args *a);

/* Fill `e` with "unknown verb" and the nearest name; returns -EINVAL. */
int cli_unknown_verb(const char *name, struct error *e);

/* The exit status that an error means: CLI_HOST for what the host refuses, else CLI_USAGE. */
int cli_status_of(const struct error *e);

/* --- values (value.c) --- */

/* "512M" into bytes: decimal digits and one of K, M, G, T (powers of 1024). 0, or -EINVAL, -ERANGE. */
/* 50ms, 10s, 5m, 1h: milliseconds. */
int cli_time(const char *s, u64 *out);
/* Bits a second, decimal: 800M, 1G. */
int cli_rate(const char *s, u64 *out);
int cli_size(const char *s, u64 *out);
/* Decimal digits only. 0, or -EINVAL, -ERANGE. */
int cli_number(const char *s, u64 *out);
/* "^]" or "none" into a control character, 0 for none. 0 or -EINVAL. */
int cli_key(const char *s, u8 *out);
/* How a person presses it: "Ctrl-]". */
const char *cli_key_name(u8 key, char out[16]);
/* "512 MiB", "1.5 GiB": for people. */
const char *cli_size_name(u64 bytes, char out[24]);
/* Place of `s` in "a|b|c", or -1. */
int cli_choice(const char *choices, const char *s);

/* --- suggestions (suggest.c) --- */

/* Edits (insert, delete, replace, swap neighbours) from a to b. */
unsigned cli_distance(const char *a, const char *b);
/* Keep in *best the candidate nearest to `typed` if near enough to be a slip; start with *best NULL, *distance 0. */
void cli_suggest(const char *typed, const char *candidate, const char **best, unsigned *distance);

/* --- help and what else the table makes (help.c, man.c) --- */

void cli_help_overview(FILE *out);
void cli_help_verb(FILE *out, const struct verb *v);
/* The usage line's part after "trapeze VERB". */
void cli_usage(FILE *out, const struct verb *v);
/* Rows of "status: meaning", ended by a NULL meaning; for help and manual pages. */
struct cli_exit_row {
    const char *status, *meaning;
};
extern const struct cli_exit_row cli_exit_rows[];

/* Manual page in roff (man(7)) of a verb; NULL: trapeze(1) itself. */
void cli_man(FILE *out, const struct verb *v);

/* --- verbs, one file each --- */

int verb_run(const struct args *a, struct error *e);
int verb_image(const struct args *a, struct error *e);
int verb_network(const struct args *a, struct error *e);
int verb_ps(const struct args *a, struct error *e);
int verb_events(const struct args *a, struct error *e);
int verb_exec(const struct args *a, struct error *e);
int verb_attach(const struct args *a, struct error *e);
int verb_wait(const struct args *a, struct error *e);
int verb_cp(const struct args *a, struct error *e);
int verb_migrate(const struct args *a, struct error *e);
int verb_receive(const struct args *a, struct error *e);
int verb_system(const struct args *a, struct error *e);
int verb_snapshot(const struct args *a, struct error *e);
int verb_clone(const struct args *a, struct error *e);
int verb_suspend(const struct args *a, struct error *e);
int verb_start(const struct args *a, struct error *e);
int verb_commit(const struct args *a, struct error *e);
int verb_export(const struct args *a, struct error *e);
int verb_top(const struct args *a, struct error *e);
int verb_stop(const struct args *a, struct error *e);
int verb_kill(const struct args *a, struct error *e);
int verb_pause(const struct args *a, struct error *e);
int verb_update(const struct args *a, struct error *e);
int verb_swing(const struct args *a, struct error *e);
int verb_resume(const struct args *a, struct error *e);
int verb_inspect(const struct args *a, struct error *e);
int verb_stats(const struct args *a, struct error *e);
int verb_explain(const struct args *a, struct error *e);
int verb_console(const struct args *a, struct error *e);
int verb_rm(const struct args *a, struct error *e);
int verb_logs(const struct args *a, struct error *e);
int verb_classify(const struct args *a, struct error *e);
int verb_doctor(const struct args *a, struct error *e);
int verb_version(const struct args *a, struct error *e);
int verb_help(const struct args *a, struct error *e);
int verb_man(const struct args *a, struct error *e);
int verb_completion(const struct args *a, struct error *e);

#endif
