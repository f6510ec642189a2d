/*
 * checkpoint and restore, by criu(8) as a program: dump writes the images of the container's process tree, restore makes the
 * tree anew below the bundle's root.
 *
 * Not done: --lazy-pages (an error); a container with a terminal gets a new one only if criu can (--shell-job).
 */
#include "container/container.h"
#include "container/launch.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define CRIU_WORDS 96

struct criu {
    char *argv[CRIU_WORDS];
    size_t n;
    struct arena arena;
};

static void word(struct criu *c, const char *text)
{
    if (c->n < CRIU_WORDS - 1)
        c->argv[c->n++] = arena_copy(&c->arena, text);
}

static void words(struct criu *c, const char *one, const char *two)
{
    word(c, one);
    word(c, two);
}

static void common_words(struct criu *c, const struct container_checkpoint *k, const char *verb, const char *log)
{
    word(c, "criu");
    word(c, verb);
    words(c, "--images-dir", k->image_path);
    if (k->work_path)
        words(c, "--work-dir", k->work_path);
    words(c, "--log-file", log);
    word(c, "-v3");
    if (k->tcp_established)
        word(c, "--tcp-established");
    if (k->external_unix_sockets)
        word(c, "--ext-unix-sk");
    if (k->shell_job)
        word(c, "--shell-job");
    if (k->file_locks)
        word(c, "--file-locks");
    char mode[64];
    snprintf(mode, sizeof(mode), "--manage-cgroups=%.30s", k->manage_cgroups ? k->manage_cgroups : "soft");
    word(c, mode);
}

/* Bind mounts come from the host: named after their targets, so that restore finds what to put there. */
static void mount_words(struct criu *c, const struct spec *s, bool dump)
{
    for (size_t i = 0; i < s->n_mounts; i++) {
        const struct spec_mount *m = &s->mounts[i];
        bool bind = m->type && !strcmp(m->type, "bind");
        for (size_t k = 0; k < m->options.n; k++)
            bind |= !strcmp(m->options.v[k], "bind") || !strcmp(m->options.v[k], "rbind");
        if (!bind)
            continue;
        char *text = dump ? arena_format(&c->arena, "mnt[%s]:%s", m->destination, m->destination)
                          : arena_format(&c->arena, "mnt[%s]:%s", m->destination, m->source);
        words(c, "--external", text);
    }
}

static int run_criu(struct criu *c, const char *log_dir, const char *log, struct error *e)
{
    c->argv[c->n] = NULL;
    pid_t pid = fork();
    if (pid == 0) {
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        execvp("criu", c->argv);
        _exit(127);
    }
    int status = -1;
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
        return error_set(e, ENOENT, "criu: is not on this host; install it for checkpoint and restore");
    return status == 0 ? 0 : error_set(e, EIO, "criu: failed; see %s/%s", log_dir, log);
}

int container_checkpoint(const struct container_host *h, const struct container_checkpoint *k, struct error *e)
{
    struct criu c = {.n = 0};
    struct launch l;
    char pid[16];
    if (k->lazy_pages)
        return error_set(e, ENOTSUP, "not implemented: --lazy-pages");
    int r = launch_open(&l, h, k->id, true, true, e);
    enum container_status status = r == 0 ? store_status(&l.store, &l.record) : STATUS_STOPPED;
    if (r == 0 && status != STATUS_RUNNING && status != STATUS_PAUSED)
        r = error_set(e, EINVAL, "container %s: is %s, only a running one can be checkpointed", k->id,
                      store_status_name(status));
    if (r == 0 && mkdir(k->image_path, 0700) < 0 && errno != EEXIST)
        r = sys_error(e, "--image-path %s", k->image_path);
    if (r == 0) {
        snprintf(pid, sizeof(pid), "%d", (int)l.record.pid);
        common_words(&c, k, k->pre_dump ? "pre-dump" : "dump", "dump.log");
        words(&c, "--tree", pid);
        words(&c, "--root", l.record.rootfs);
        mount_words(&c, &l.spec, true);
        if (k->parent_path)
            words(&c, "--prev-images-dir", k->parent_path);
        if (k->auto_dedup)
            word(&c, "--auto-dedup");
        if (k->leave_running && !k->pre_dump)
            word(&c, "--leave-running");
        if (k->pre_dump || k->parent_path)
            word(&c, "--track-mem");
        r = run_criu(&c, k->work_path ? k->work_path : k->image_path, "dump.log", e);
    }
    arena_free(&c.arena);
    launch_free(&l);
    return r;
}

/* criu wants the root to be a mount, in a namespace that is ours alone. */
static int mount_root(const struct record *r, struct error *e)
{
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) < 0 ||
        mount(r->rootfs, r->rootfs, NULL, MS_BIND | MS_REC, NULL) < 0)
        return sys_error(e, "restore: mounting root %s", r->rootfs);
    return 0;
}

static int read_pid(struct launch *l, struct error *e)
{
    char text[16], *end;
    if (sys_read_small(l->store.dir, "restored", text, sizeof(text)) <= 0)
        return error_set(e, EIO, "restore: criu has not said which process it made");
    unlinkat(l->store.dir, "restored", 0);
    l->pid = l->record.pid = (pid_t)strtol(text, &end, 10);
    l->record.start_time = sys_start_time(l->pid);
    l->pidfd = sys_pidfd_open(l->pid);
    return l->pid > 0 && l->pidfd >= 0 ? 0 : error_set(e, ESRCH, "restore: the process has ended at once");
}

static int restore(struct launch *l, const struct container_launch *how, const struct container_checkpoint *k,
                   struct error *e)
{
    struct criu c = {.n = 0};
    char pid_file[PATH_MAX + 16];
    int r = store_create(&l->store, l->host, how->id, e);
    if (r == 0)
        r = store_write(&l->store, STORE_CONFIG, l->config, l->config_size, e);
    if (r == 0)
        r = cgroup_find(&l->record.cgroup, e);
    if (r == 0)
        r = cgroup_place(&l->record.cgroup, l->spec.cgroups_path, how->id, l->host->systemd_cgroup, e);
    if (r == 0)
        r = cgroup_create(&l->record.cgroup, e);
    if (r == 0)
        r = cgroup_limit(&l->record.cgroup, &l->spec.resources, false, e);
    if (r == 0)
        r = mount_root(&l->record, e);
    if (r == 0) {
        snprintf(pid_file, sizeof(pid_file), "%s/restored", l->store.path);
        common_words(&c, k, "restore", "restore.log");
        words(&c, "--root", l->record.rootfs);
        mount_words(&c, &l->spec, false);
        words(&c, "--pidfile", pid_file);
        word(&c, "--restore-detached");
        word(&c, "--restore-sibling");
        r = run_criu(&c, k->work_path ? k->work_path : k->image_path, "restore.log", e);
    }
    if (r == 0)
        r = read_pid(l, e);
    arena_free(&c.arena);
    cgroup_close(&l->record.cgroup);
    if (r == 0)
        r = store_save(&l->store, &l->record, e);
    if (r == 0)
        r = launch_pid_file(l->cwd, how->pid_file, l->pid, e);
    return r;
}

int container_restore(const struct container_host *h, const struct container_launch *how,
                      const struct container_checkpoint *k, int *status, struct error *e)
{
    struct launch l;
    memset(&l, 0, sizeof(l));
    l.host = h;
    l.cwd = l.pidfd = l.sync = l.store.dir = -1;
    *status = 0;
    if (k->lazy_pages)
        return error_set(e, ENOTSUP, "not implemented: --lazy-pages");
    int r = launch_read(&l, how, e);
    if (r == 0)
        launch_block_signals();
    if (r == 0 && (r = restore(&l, how, k, e)) < 0)
        launch_undo(&l);
    if (r == 0 && !how->detach) {
        r = launch_wait(l.pid, l.pidfd, status, e);
        l.pid = 0;
        int removed = how->keep ? 0 : launch_remove(&l, r == 0 ? e : NULL);
        r = r < 0 ? r : removed;
    }
    launch_free(&l);
    return r;
}
