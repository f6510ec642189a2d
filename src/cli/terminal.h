/*
 * The person's terminal: raw mode that is always undone, the size, the one status line.
 *
 * There is one terminal and signal handlers must find its old settings, so this file keeps them in a static: the one
 * place of the program that does.
 */
#ifndef TRAPEZE_CLI_TERMINAL_H
#define TRAPEZE_CLI_TERMINAL_H

#include "base/error.h"
#include "base/types.h"

/* Whether both standard input and output are terminals: somebody sits there. */
bool terminal_interactive(void);

/* Whether colours belong on standard output: a terminal, NO_COLOR unset, TERM not dumb. */
bool terminal_colours(void);

/* Columns of the terminal at standard output; 0 when it is none. */
unsigned terminal_columns(void);

/* Size of the terminal at standard input, in characters; false when it is none, or does not say. */
bool terminal_size(u16 *cols, u16 *rows);

/*
 * Raw mode on standard input: every byte goes to the guest. Also arms the fatal signals (SIGSEGV, SIGBUS, SIGILL, SIGFPE,
 * SIGABRT) and exit() to restore it. 0 or -errno.
 */
int terminal_raw(struct error *e);
/* Undo terminal_raw; may be called at any time, also twice. */
void terminal_restore(void);

/* Replace the status line on standard error by `text` (cut to the width); "" erases it. */
void terminal_status(const char *text);

/*
 * Old output shown again must not ask the terminal questions (where is the cursor: CSI 6 n, what are you: CSI c): nobody
 * waits for the answers, and they would be typed into whatever reads next. Start with a zeroed one.
 */
struct terminal_filter {
    u8 held[24]; /* the beginning of a sequence that may be a question */
    size_t n;
};

/*
 * Copy data[0..len) without questions to out, which has room for len + sizeof(f->held). Returns the bytes in out; an
 * unfinished sequence stays in `f`.
 */
size_t terminal_drop_questions(struct terminal_filter *f, const u8 *data, size_t len, u8 *out);

#endif
