/*
 * A session at a machine's console: bytes both ways between the person (or a script) and the keeper, until the machine
 * ends, the escape key is pressed or a signal comes.
 */
#ifndef TRAPEZE_CLI_SESSION_H
#define TRAPEZE_CLI_SESSION_H

#include "base/error.h"
#include "vm/registry.h"

struct session_config {
    const struct machine_row *row;
    bool input;            /* send standard input to the guest */
    u8 escape;             /* key that leaves, 0 for none; only looked for on a terminal */
    u64 replay;            /* bytes of earlier output to show first */
    bool old_replay;       /* they were shown before: drop the questions to a terminal in them */
    bool stop_on_signal;   /* a signal stops the machine; else it only ends the session */
    unsigned stop_seconds; /* grace of that stop */
};

enum session_outcome {
    SESSION_LEFT,   /* escape key: the machine goes on */
    SESSION_ENDED,  /* the machine ended: code, reason, text */
    SESSION_LOST,   /* the keeper vanished */
    SESSION_SIGNAL, /* the session was ended by a signal; the machine goes on */
};

struct session_result {
    enum session_outcome outcome;
    int signal; /* the first signal that came, whatever the outcome; 0 for none */
    int code;   /* the machine's exit status */
    char reason[200];
    char *text;     /* the CPU's state where there is one to show, else NULL; owned by the caller */
    bool read_only; /* another connection holds the input */
};

/* Block the signals that a session handles, so that one that comes between launch and session is not lost. */
void session_block_signals(void);

/* Run the session. 0 with `result`, or -errno when it could not begin. The terminal is as before on return. */
int session_run(const struct session_config *cfg, struct session_result *result, struct error *e);

#endif
