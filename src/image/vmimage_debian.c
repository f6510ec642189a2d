/*
 * Building a Debian: mmdebstrap and mke2fs, driven by the script debian.sh in namespaces of their own (vmimage_space.c).
 * Here: what the script needs to know, its output read line by line for progress and for what went wrong, signals that
 * cancel it, and what image.json says in the end.
 */
#include "image/vmimage.h"
#include "image/vmimage_internal.h"
#include "image/tree.h"
#include "container/sys.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LOG_FILE "build.log"

struct job {
    struct vmimage_build *b;
    struct vmimage_draft *d;
    struct space space;
    int log;
    char line[1024];
    size_t n_line;
    char step[128];
    char wrong[256];    /* the first line that begins with E: */
    char cause[256];    /* the first that tells of a cause that we know, */
    const char *advice; /* and what to do then; NULL: none came */
};

int vmimage_build_check(const struct vmimage_build *b, struct error *e)
{
    static const struct {
        const char *program, *package;
    } needed[] = {{"mmdebstrap", "mmdebstrap"}, {"mke2fs", "e2fsprogs"}, {"apt-get", "apt"}, {"dpkg", "dpkg"}};
    char path[PATH_MAX];
    for (size_t i = 0; i < ARRAY_LEN(needed); i++)
        if (!space_find(needed[i].program, path, sizeof(path)))
            return error_set(e, ENOENT, "image build: %s is not there; install %s", needed[i].program,
                             needed[i].package);
    if (access(b->agent, R_OK) < 0)
        return error_set(e, ENOENT, "image build: the guest's agent is not there: %s: %s", b->agent, strerror(errno));
    int r = space_check(e);
    if (r < 0)
        error_prefix(e, "image build");
    return r;
}

/* --- output --- */

/* What can tell a terminal something stays out of messages. */
static void copy_clean(char *out, size_t size, const char *text)
{
    size_t n = 0;
    for (; *text && n + 1 < size; text++)
        if (isprint((unsigned char)*text))
            out[n++] = *text;
    out[n] = 0;
}

/* A step by its first words: mmdebstrap tells all of a hook's text. */
static void take_step(struct job *j, const char *text)
{
    static const char *const unsaid[] = {
        "running --", "chroot architecture ", "finding correct ", "success in ", "main()", "/"};
    for (size_t i = 0; i < ARRAY_LEN(unsaid); i++)
        if (!strncmp(text, unsaid[i], strlen(unsaid[i])))
            return;
    snprintf(j->step, sizeof(j->step), "%.120s", text);
    for (size_t n = strlen(j->step); n && j->step[n - 1] == '.';)
        j->step[--n] = 0;
    j->b->progress(j->b->arg, j->step, NULL);
}

/* What went wrong, by apt's words for it. */
static const struct {
    const char *says, *advice;
} causes[] = {
    {"does not have a Release file", "is the suite's name right?"},
    {"Could not resolve", "is there a network, is --mirror right?"},
    {"Temporary failure resolving", "is there a network, is --mirror right?"},
    {"Failed to fetch", "is there a network, is --mirror right?"},
    {"Could not connect", "is there a network, is --mirror right?"},
    {"Unable to connect", "is there a network, is --mirror right?"},
    {"Connection timed out", "is there a network, is --mirror right?"},
    {"Network is unreachable", "is there a network, is --mirror right?"},
    {"No space left on device", "the file system has no more room; `trapeze image rm` makes some"},
};

static void take_cause(struct job *j, const char *text)
{
    for (size_t i = 0; i < ARRAY_LEN(causes) && !j->advice; i++)
        if (strstr(text, causes[i].says)) {
            snprintf(j->cause, sizeof(j->cause), "%s", text);
            j->advice = causes[i].advice;
        }
}

static void take_line(struct job *j, const char *line)
{
    char clean[256];
    copy_clean(clean, sizeof(clean), line);
    const char *text = clean + strspn(clean, " "), *bare = text;
    if (!strncmp(bare, "E: ", 3) || !strncmp(bare, "W: ", 3))
        bare += 3;
    take_cause(j, bare);
    if (!strncmp(text, "E: ", 3) && !j->wrong[0])
        snprintf(j->wrong, sizeof(j->wrong), "%s", bare);
    if (!j->b->progress)
        return;
    if (!strncmp(text, "I: ", 3))
        take_step(j, text + 3);
    else if (text[0])
        j->b->progress(j->b->arg, j->step, text);
}

static void take_output(struct job *j, const char *data, size_t n)
{
    sys_write_all(j->log, data, n); /* a log that can not be written is no reason to fail */
    for (size_t i = 0; i < n; i++) {
        if (data[i] != '\n' && data[i] != '\r') {
            if (j->n_line + 1 < sizeof(j->line))
                j->line[j->n_line++] = data[i];
            continue;
        }
        j->line[j->n_line] = 0;
        j->n_line = 0;
        take_line(j, j->line);
    }
}

/* Read until the other side has closed it, or a signal comes. */
static void attend(struct job *j, int output, int signals)
{
    struct pollfd p[] = {{.fd = output, .events = POLLIN}, {.fd = signals, .events = POLLIN}};
    struct signalfd_siginfo info;
    char buf[4096];
    for (;;) {
        if (poll(p, 2, -1) < 0 && errno != EINTR)
            return;
        if (p[1].revents && read(signals, &info, sizeof(info)) == sizeof(info)) {
            j->b->signal = (int)info.ssi_signo;
            space_kill(&j->space);
            return;
        }
        if (!p[0].revents)
            continue;
        ssize_t n = read(output, buf, sizeof(buf));
        if (n == 0 || (n < 0 && errno != EINTR))
            return;
        if (n > 0)
            take_output(j, buf, (size_t)n);
    }
}

/* --- the script --- */

#define VARIABLES 16

struct variables {
    char *v[VARIABLES + 1];
    size_t n;
};

__attribute__((format(printf, 2, 3))) static void add(struct variables *env, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    if (env->n < VARIABLES && vasprintf(&env->v[env->n], fmt, args) >= 0)
        env->n++;
    va_end(args);
}

/* What of our own environment it may see: where to look for programs, and how to get out to the network. */
static void add_own(struct variables *env)
{
    static const char *const names[] = {"PATH", "HOME", "http_proxy", "https_proxy", "no_proxy", "ftp_proxy"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (getenv(names[i]))
            add(env, "%s=%s", names[i], getenv(names[i]));
}

static int run_script(struct job *j, const char *suite, const char *uuid, const struct vmimage_mirror *m, int signals,
                      struct error *e)
{
    struct variables env = {0};
    int out[2];
    char *const argv[] = {(char *)"/bin/sh",   (char *)"-c", (char *)(uintptr_t)vmimage_debian_sh,
                          (char *)"debian.sh", j->d->path,   NULL};
    if (pipe2(out, O_CLOEXEC) < 0)
        return sys_error(e, "a pipe");
    add_own(&env);
    add(&env, "suite=%s", suite);
    add(&env, "size=%llu", (unsigned long long)j->b->size);
    add(&env, "uuid=%s", uuid);
    add(&env, "mirror=%s", m->archive);
    add(&env, "security=%s", m->security);
    add(&env, "include=%s", j->b->include ? j->b->include : "");
    add(&env, "agent=%s", j->b->agent);
    add(&env, "unit=%s", vmimage_agent_unit);
    int r = space_start(&j->space, argv, env.v, out[1], e);
    close(out[1]);
    if (r == 0) {
        attend(j, out[0], signals);
        r = space_wait(&j->space);
    }
    close(out[0]);
    for (size_t i = 0; i < env.n; i++)
        free(env.v[i]);
    return r;
}

/* The log of a build that failed is kept in the store. */
static int explain(const struct job *j, const char *suite, const char *mirror, struct error *e)
{
    const char *from = *mirror ? mirror : "Debian's mirrors";
    const struct vmimage_store *s = j->d->store;
    if (renameat(j->d->dir, LOG_FILE, s->dir, VMIMAGE_FAILED_LOG) < 0)
        return sys_error(e, "image build: failed, and its log is lost");
    if (j->advice)
        return error_set(e, EHOSTUNREACH, "image build: %.60s from %.80s: %.180s; %s (log: %.80s/%s)", suite, from,
                         j->cause, j->advice, s->path, VMIMAGE_FAILED_LOG);
    return error_set(e, EIO, "image build: %.60s: %.200s (log: %.120s/%s)", suite,
                     j->wrong[0] ? j->wrong : "the build ended early", s->path, VMIMAGE_FAILED_LOG);
}

static void random_uuid(char out[37])
{
    sys_read_small(AT_FDCWD, "/proc/sys/kernel/random/uuid", out, 37);
}

static json_t *describe(const struct job *j, const char *suite, const char *uuid, const char *mirror)
{
    char created[32], release[128] = "", id[13], append[128];
    time_t now = time(NULL);
    struct tm tm;
    strftime(created, sizeof(created), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    sys_read_small(j->d->dir, "release", release, sizeof(release));
    unlinkat(j->d->dir, "release", 0);
    unlinkat(j->d->dir, LOG_FILE, 0);
    snprintf(append, sizeof(append), "console=ttyS0 root=UUID=%s loglevel=4", uuid);
    /* twelve digits of it, as ids of other images are shown */
    size_t n = 0;
    for (const char *p = uuid; *p && n < sizeof(id) - 1; p++)
        if (*p != '-')
            id[n++] = *p;
    id[n] = 0;
    return json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:I,s:s,s:s}", "id", id, "created", created, "distribution",
                     "debian", "suite", suite, "mirror", mirror, "architecture", "amd64", "kernel_release", release,
                     "disk_size", (json_int_t)j->b->size, "append", append, "include",
                     j->b->include ? j->b->include : "");
}

static int check_words(const struct vmimage_build *b, const char *mirror, struct error *e)
{
    static const char names[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-.:,";
    const char *include = b->include ? b->include : "";
    if (include[0] == '-' || include[strspn(include, names)])
        return error_set(e, EINVAL, "--include: names of packages, separated by commas");
    if (strlen(mirror) > VMIMAGE_MIRROR - 2)
        return error_set(e, EINVAL, "--mirror %.60s..: is too long", mirror);
    if (*mirror && (!strstr(mirror, ":/") || mirror[0] == '-' || strpbrk(mirror, " \t\n")))
        return error_set(e, EINVAL, "--mirror %.100s: is no address such as http://deb.debian.org/debian", mirror);
    return 0;
}

int vmimage_build_debian(struct vmimage_build *b, struct vmimage_draft *d, json_t **about, struct error *e)
{
    char uuid[37] = "";
    struct vmimage_mirror m = {0};
    const char *suite = b->suite;
    struct job j = {.b = b, .d = d, .log = -1, .step = "starting"};
    sigset_t set, before;
    if (b->mirror)
        snprintf(m.archive, sizeof(m.archive), "%s", b->mirror);
    else
        vmimage_mirror("/etc/apt", &m);
    int r = check_words(b, m.archive, e);
    if (r < 0)
        return r;
    random_uuid(uuid);
    CLEANUP_FD int log = openat(d->dir, LOG_FILE, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    j.log = log;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, &before);
    CLEANUP_FD int signals = signalfd(-1, &set, SFD_CLOEXEC);
    r = signals < 0 ? sys_error(e, "signals") : run_script(&j, suite, uuid, &m, signals, e);
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (b->signal)
        return error_set(e, EINTR, "image build: cancelled");
    if (r > 0)
        return explain(&j, suite, m.archive, e);
    if (r == 0 && !(*about = describe(&j, suite, uuid, m.archive)))
        r = error_set(e, ENOMEM, "out of memory");
    return r;
}
