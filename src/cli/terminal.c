#include "cli/terminal.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

static struct {
    struct termios old;
    volatile sig_atomic_t raw; /* `old` is to be put back */
    bool armed;
    bool status; /* a status line stands there */
} terminal;

bool terminal_interactive(void)
{
    return isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
}

bool terminal_colours(void)
{
    const char *none = getenv("NO_COLOR"), *term = getenv("TERM");
    return isatty(STDOUT_FILENO) && !(none && *none) && term && *term && strcmp(term, "dumb");
}

unsigned terminal_columns(void)
{
    struct winsize w;
    return isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 ? w.ws_col : 0;
}

bool terminal_size(u16 *cols, u16 *rows)
{
    struct winsize w;
    if (ioctl(STDIN_FILENO, TIOCGWINSZ, &w) < 0 || !w.ws_col || !w.ws_row)
        return false;
    *cols = w.ws_col;
    *rows = w.ws_row;
    return true;
}

void terminal_restore(void)
{
    if (!terminal.raw)
        return;
    terminal.raw = 0;
    /* Not TCSAFLUSH: what was typed ahead belongs to the shell. A stopped background process must not block here. */
    tcsetattr(STDIN_FILENO, TCSADRAIN, &terminal.old);
}

/* tcsetattr is async-signal-safe (POSIX.1-2017, 2.4.3). The default action follows: SA_RESETHAND. */
static void on_fatal(int sig)
{
    if (terminal.raw)
        tcsetattr(STDIN_FILENO, TCSANOW, &terminal.old);
    raise(sig);
}

static void arm(void)
{
    static const int fatal[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
    struct sigaction sa = {.sa_handler = on_fatal, .sa_flags = (int)SA_RESETHAND};
    if (terminal.armed)
        return;
    for (size_t i = 0; i < ARRAY_LEN(fatal); i++)
        sigaction(fatal[i], &sa, NULL);
    atexit(terminal_restore);
    terminal.armed = true;
}

int terminal_raw(struct error *e)
{
    struct termios t;
    if (terminal.raw)
        return 0;
    if (tcgetattr(STDIN_FILENO, &terminal.old) < 0)
        return error_set(e, errno, "terminal: its settings cannot be read: %s", strerror(errno));
    arm();
    t = terminal.old;
    cfmakeraw(&t);
    terminal.raw = 1;
    if (tcsetattr(STDIN_FILENO, TCSADRAIN, &t) == 0)
        return 0;
    terminal.raw = 0;
    return error_set(e, errno, "terminal: cannot be put into raw mode: %s", strerror(errno));
}

void terminal_status(const char *text)
{
    struct winsize w;
    int columns = 80;
    if (!*text && !terminal.status)
        return;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 1)
        columns = w.ws_col;
    /* CSI 2K erases the line; one column is left free, or some terminals would wrap. */
    dprintf(STDERR_FILENO, "\r\033[2K%.*s", columns - 1, text);
    terminal.status = *text != 0;
}

/* What the sequence held so far is (ECMA-48, 5.4): still open, a question, or something else that goes through. */
enum sequence { SEQUENCE_OPEN, SEQUENCE_QUESTION, SEQUENCE_OTHER };

static enum sequence classify(const struct terminal_filter *f)
{
    u8 last = f->held[f->n - 1];
    if (f->n == 1)
        return last == 0x1b ? SEQUENCE_OPEN : SEQUENCE_OTHER;
    if (f->n == 2)
        return last == '[' ? SEQUENCE_OPEN : SEQUENCE_OTHER;
    if (last >= 0x20 && last <= 0x3f) /* parameters */
        return f->n < sizeof(f->held) ? SEQUENCE_OPEN : SEQUENCE_OTHER;
    return last == 'n' || last == 'c' ? SEQUENCE_QUESTION : SEQUENCE_OTHER;
}

size_t terminal_drop_questions(struct terminal_filter *f, const u8 *data, size_t len, u8 *out)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        f->held[f->n++] = data[i];
        enum sequence s = classify(f);
        if (s == SEQUENCE_OPEN)
            continue;
        if (s == SEQUENCE_OTHER) {
            memcpy(out + n, f->held, f->n);
            n += f->n;
        }
        f->n = 0;
    }
    return n;
}
