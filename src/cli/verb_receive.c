/* `trapeze receive`: take machines that `trapeze migrate` sends; a process for each connection (vm/arrive.h). */
#include "cli/machine.h"
#include "cli/terminal.h"
#include "host/host.h"
#include "vm/arrive.h"
#include "vm/resolve.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHILDREN     32 /* connections at once; more wait */
#define HANDSHAKE_MS 10000
#define SWEEP_MS     3000

struct server {
    const struct args *a;
    struct channel_listener l;
    struct channel_security security;
    char disk_dir[PATH_MAX]; /* "": the machines' own */
    pid_t child[CHILDREN];
    unsigned n;
};

static void say(void *ctx, const char *line)
{
    const struct server *s = ctx;
    char clean[800];
    size_t n = 0;
    for (; *line && n < sizeof(clean) - 2; line++)
        clean[n++] = (unsigned char)*line < ' ' || *line == 127 ? ' ' : *line; /* a peer may have said it */
    clean[n++] = '\n';
    if (!s->a->given[OPT_QUIET] && write(STDOUT_FILENO, clean, n) != (ssize_t)n)
        return; /* nobody listens any more */
}

static void activated(void *ctx, const struct machine_row *row)
{
    machine_set_clock(row);
}

/* The whole life of a child. */
static int serve(struct server *s, struct channel *c)
{
    struct error e = {0};
    const struct arrive_options o = {.memory = s->a->given[OPT_MEMORY_ROOM] ? s->a->number[OPT_MEMORY_ROOM] : 0,
                                     .lifetime = s->a->number[OPT_LIFETIME],
                                     .disk_dir = s->disk_dir[0] ? s->disk_dir : NULL,
                                     .say = say,
                                     .activated = activated,
                                     .ctx = s};
    channel_listener_drop(&s->l);
    int r = channel_handshake(c, HANDSHAKE_MS, &e);
    if (r == 0)
        r = arrive_serve(c, &o, &e);
    if (r < 0 && e.msg[0])
        fprintf(stderr, "trapeze: receive: %s\n", e.msg);
    channel_close_after(c, 1000);
    return r < 0 ? 1 : 0;
}

static void reap(struct server *s)
{
    for (unsigned i = 0; i < s->n;) {
        if (waitpid(s->child[i], NULL, WNOHANG) == s->child[i])
            s->child[i] = s->child[--s->n];
        else
            i++;
    }
}

static void take(struct server *s)
{
    struct channel *c;
    struct error e = {0};
    int r = channel_accept(&s->l, &s->security, 0, &c, &e);
    if (r < 0) {
        if (r != -EAGAIN)
            fprintf(stderr, "trapeze: receive: %s\n", e.msg);
        return;
    }
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0)
        _exit(serve(s, c));
    if (pid > 0)
        s->child[s->n++] = pid;
    else
        fprintf(stderr, "trapeze: receive: no process for %s: %s\n", c->peer, strerror(errno));
    channel_close(c);
}

/* Until a signal comes. Connections that are being served go on to their end. */
static int loop(struct server *s, int term)
{
    for (;;) {
        struct pollfd p[] = {{.fd = term, .events = POLLIN}, {.fd = s->n < CHILDREN ? s->l.fd : -1, .events = POLLIN}};
        if (poll(p, 2, s->n ? 100 : -1) < 0 && errno != EINTR)
            return -errno;
        reap(s);
        if (p[0].revents)
            return 0;
        if (p[1].revents)
            take(s);
    }
}

static int listen_on(struct server *s, struct error *e)
{
    struct channel_address a;
    const char *text = s->a->text[OPT_LISTEN];
    s->security = (struct channel_security){.tls_dir = s->a->text[OPT_TLS], .insecure = s->a->given[OPT_INSECURE]};
    int r = channel_address_parse(&a, text, e);
    if (r < 0 || (r = channel_listen(&a, &s->l, e)) < 0)
        return r;
    if ((r = channel_listener_check(&s->l, &s->security, e)) < 0)
        channel_listener_close(&s->l);
    return r;
}

/* Its whole name: who clears up later may be elsewhere. */
static int find_disk_dir(struct server *s, struct error *e)
{
    const char *dir = s->a->text[OPT_DISK_DIR];
    struct stat st;
    if (!dir)
        return 0;
    if (!realpath(dir, s->disk_dir) || stat(s->disk_dir, &st) < 0)
        return error_set(e, errno, "--disk-dir %s: %s", dir, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return error_set(e, ENOTDIR, "--disk-dir %s: is no directory", dir);
    return access(s->disk_dir, W_OK | X_OK) == 0 ? 0 : error_set(e, errno, "--disk-dir %s: %s", dir, strerror(errno));
}

int verb_receive(const struct args *a, struct error *e)
{
    struct server s = {.a = a};
    char where[CHANNEL_PEER_MAX];
    if (find_disk_dir(&s, e) < 0)
        return CLI_USAGE;
    struct registry *r = machine_registry(e);
    if (!r)
        return cli_status_of(e);
    resolve_sweep(r, SWEEP_MS);
    registry_close(r);
    int rc = listen_on(&s, e);
    if (rc < 0)
        return cli_status_of(e);
    int term = host_term_signals(e);
    if (term >= 0) {
        char line[300];
        channel_address_text(&s.l.address, where, sizeof(where));
        snprintf(line, sizeof(line), "listening on %s", where);
        say(&s, line);
        rc = loop(&s, term);
    }
    channel_listener_close(&s.l);
    for (unsigned i = 0; i < s.n; i++)
        waitpid(s.child[i], NULL, 0);
    return rc < 0 || term < 0 ? CLI_HOST : CLI_OK;
}
