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

/*
 * Raw mode on standard input: every byte goes to the guest. Also arms the fatal signals (SIGSEGV, SIGBUS, SIGILL, SIGFPE,
 * SIGABRT) and exit() to restore it. 0 or -errno.
 */
int terminal_raw(struct error *e);
/* Undo terminal_raw; may be called at any time, also twice. */
void terminal_restore(void);

/* Replace the status line on standard error by `text` (cut to the width); "" erases it. */
void terminal_status(const char *text);

#endif
