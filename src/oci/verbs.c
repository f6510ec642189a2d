/* The table of verbs and their options, and the verbs that act. */
#include "oci/oci.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

#define AT(field) offsetof(struct oci_args, field)

const struct oci_option oci_globals[] = {
    {"root", 0, OCI_TEXT, AT(host.root), "directory where states are kept"},
    {"systemd-cgroup", 0, OCI_FLAG, AT(host.systemd_cgroup), "cgroupsPath is slice:prefix:name"},
    {"log", 0, OCI_TEXT, AT(log), "file that gets errors"},
    {"log-format", 0, OCI_TEXT, AT(log_format), "text or json"},
    {"debug", 0, OCI_FLAG, AT(debug), NULL},
    {"version", 'v', OCI_FLAG, AT(version), "print the version"},
    {"help", 'h', OCI_FLAG, AT(help), "print this"},
    {"rootless", 0, OCI_NOTHING_TEXT, 0, NULL},
    {"criu", 0, OCI_NOTHING_TEXT, 0, NULL},
    {"log-level", 0, OCI_NOTHING_TEXT, 0, NULL},
    {"cgroup-manager", 0, OCI_TEXT, AT(format), NULL},
    {NULL, 0, 0, 0, NULL},
};

#define HELP_OPTION                           \
    {                                         \
        "help", 'h', OCI_FLAG, AT(help), NULL \
    }
#define NO_MORE             \
    {                       \
        NULL, 0, 0, 0, NULL \
    }
#define LAUNCH_OPTIONS                                                                              \
    {"bundle", 'b', OCI_TEXT, AT(launch.bundle), "directory with config.json"},                     \
        {"config", 'f', OCI_TEXT, AT(launch.config), "another file than the bundle's config.json"}, \
        {"console-socket", 0, OCI_TEXT, AT(launch.console_socket), "gets the terminal's master"},   \
        {"pid-file", 0, OCI_TEXT, AT(launch.pid_file), "gets the process's number"},                \
        {"pidfd-socket", 0, OCI_TEXT, AT(launch.pidfd_socket), "gets a pidfd of the process"},      \
        {"preserve-fds", 0, OCI_NUMBER, AT(launch.preserve_fds),                                    \
         "that many descriptors from 3 on go into the container"},                                  \
        {"no-pivot", 0, OCI_FLAG, AT(launch.no_pivot), "chroot instead of pivot_root"},             \
        {"no-new-keyring", 0, OCI_FLAG, AT(launch.no_new_keyring), "keep the session keyring"},     \
        {"no-subreaper", 0, OCI_NOTHING_FLAG, 0, NULL}, HELP_OPTION

static const struct oci_option create_options[] = {LAUNCH_OPTIONS, NO_MORE};
static const struct oci_option run_options[] = {
    LAUNCH_OPTIONS,
    {"detach", 'd', OCI_FLAG, AT(launch.detach), "do not wait"},
    {"keep", 0, OCI_FLAG, AT(launch.keep), "do not delete it at its end"},
    NO_MORE,
};
static const struct oci_option none_options[] = {HELP_OPTION, NO_MORE};
static const struct oci_option kill_options[] = {
    {"all", 'a', OCI_FLAG, AT(all), "all processes of the container"}, HELP_OPTION, NO_MORE};
static const struct oci_option delete_options[] = {
    {"force", 'f', OCI_FLAG, AT(force), "kill it first; not being there is no error"}, HELP_OPTION, NO_MORE};
static const struct oci_option exec_options[] = {
    {"process", 'p', OCI_TEXT, AT(exec.process_file), "file with a process object"},
    {"tty", 't', OCI_FLAG, AT(tty), "with a terminal"},
    {"cwd", 0, OCI_TEXT, AT(exec.cwd), "working directory"},
    {"user", 'u', OCI_TEXT, AT(exec.user), "UID[:GID]"},
    {"additional-gids", 'g', OCI_LIST_NUMBER, AT(groups), "one more group"},
    {"env", 'e', OCI_LIST_TEXT, AT(env), "NAME=VALUE"},
    {"cap", 'c', OCI_LIST_TEXT, AT(capabilities), "one more capability"},
    {"no-new-privs", 0, OCI_FLAG, AT(nnp), "no new privileges by execve"},
    {"apparmor", 0, OCI_TEXT, AT(exec.apparmor), "profile"},
    {"process-label", 0, OCI_TEXT, AT(exec.selinux_label), "SELinux label"},
    {"cgroup", 0, OCI_TEXT, AT(exec.cgroup), "cgroup below the container's"},
    {"detach", 'd', OCI_FLAG, AT(exec.detach), "do not wait"},
    {"pid-file", 0, OCI_TEXT, AT(exec.pid_file), "gets the process's number"},
    {"console-socket", 0, OCI_TEXT, AT(exec.console_socket), "gets the terminal's master"},
    {"pidfd-socket", 0, OCI_TEXT, AT(exec.pidfd_socket), "gets a pidfd of the process"},
    {"preserve-fds", 0, OCI_NUMBER, AT(exec.preserve_fds), "that many descriptors from 3 on go into the container"},
    {"ignore-paused", 0, OCI_FLAG, AT(exec.ignore_paused), "also into a paused container"},
    {"no-subreaper", 0, OCI_NOTHING_FLAG, 0, NULL},
    HELP_OPTION,
    NO_MORE,
};
static const struct oci_option list_options[] = {{"format", 'f', OCI_TEXT, AT(format), "table or json"},
                                                 {"quiet", 'q', OCI_FLAG, AT(quiet), "names alone"},
                                                 HELP_OPTION,
                                                 NO_MORE};
static const struct oci_option events_options[] = {
    {"stats", 0, OCI_FLAG, AT(stats), "usage once"},
    {"interval", 0, OCI_TEXT, AT(interval), "time between two of them: 5s, 500ms"},
    HELP_OPTION,
    NO_MORE,
};
static const struct oci_option spec_options[] = {
    {"bundle", 'b', OCI_TEXT, AT(launch.bundle), "directory that gets it"},
    {"rootless", 0, OCI_FLAG, AT(rootless), "for who is not root"},
    {"seccomp", 0, OCI_FLAG, AT(filtered), "with the default system call filter"},
    HELP_OPTION,
    NO_MORE,
};
static const struct oci_option update_options[] = {
    {"resources", 'r', OCI_TEXT, AT(resources), "file with a resources object, - for standard input"},
    {"blkio-weight", 0, OCI_TEXT, AT(limit[0]), "10 to 1000"},
    {"cpu-period", 0, OCI_TEXT, AT(limit[1]), "microseconds"},
    {"cpu-quota", 0, OCI_TEXT, AT(limit[2]), "microseconds a period"},
    {"cpu-burst", 0, OCI_TEXT, AT(limit[3]), "microseconds"},
    {"cpu-share", 0, OCI_TEXT, AT(limit[4]), "weight, 1024 is the usual one"},
    {"cpu-rt-period", 0, OCI_TEXT, AT(limit[5]), "microseconds"},
    {"cpu-rt-runtime", 0, OCI_TEXT, AT(limit[6]), "microseconds"},
    {"cpuset-cpus", 0, OCI_TEXT, AT(limit[7]), "CPUs"},
    {"cpuset-mems", 0, OCI_TEXT, AT(limit[8]), "nodes"},
    {"memory", 0, OCI_TEXT, AT(limit[9]), "bytes"},
    {"memory-reservation", 0, OCI_TEXT, AT(limit[10]), "bytes"},
    {"memory-swap", 0, OCI_TEXT, AT(limit[11]), "bytes of memory and swap together"},
    {"pids-limit", 0, OCI_TEXT, AT(limit[12]), "processes"},
    {"cpu-idle", 0, OCI_TEXT, AT(limit[13]), "0 or 1"},
    {"kernel-memory", 0, OCI_NOTHING_TEXT, 0, NULL},
    {"kernel-memory-tcp", 0, OCI_NOTHING_TEXT, 0, NULL},
    {"l3-cache-schema", 0, OCI_NOTHING_TEXT, 0, NULL},
    {"mem-bw-schema", 0, OCI_NOTHING_TEXT, 0, NULL},
    HELP_OPTION,
    NO_MORE,
};
#define CRIU_OPTIONS                                                                                              \
    {"image-path", 0, OCI_TEXT, AT(checkpoint.image_path), "directory of the images"},                            \
        {"work-path", 0, OCI_TEXT, AT(checkpoint.work_path), "directory of criu's logs"},                         \
        {"tcp-established", 0, OCI_FLAG, AT(checkpoint.tcp_established), "open connections too"},                 \
        {"ext-unix-sk", 0, OCI_FLAG, AT(checkpoint.external_unix_sockets), "sockets to the outside"},             \
        {"shell-job", 0, OCI_FLAG, AT(checkpoint.shell_job), "with a terminal"},                                  \
        {"file-locks", 0, OCI_FLAG, AT(checkpoint.file_locks), "file locks too"},                                 \
        {"manage-cgroups-mode", 0, OCI_TEXT, AT(checkpoint.manage_cgroups), "soft, full, strict, ignore"},        \
        {"lazy-pages", 0, OCI_FLAG, AT(checkpoint.lazy_pages), NULL}, {"empty-ns", 0, OCI_NOTHING_TEXT, 0, NULL}, \
        {"lsm-profile", 0, OCI_NOTHING_TEXT, 0, NULL}, {"lsm-mount-context", 0, OCI_NOTHING_TEXT, 0, NULL},       \
    {                                                                                                             \
        "auto-dedup", 0, OCI_FLAG, AT(checkpoint.auto_dedup), NULL                                                \
    }
static const struct oci_option checkpoint_options[] = {
    CRIU_OPTIONS,
    {"leave-running", 0, OCI_FLAG, AT(checkpoint.leave_running), "do not stop it"},
    {"parent-path", 0, OCI_TEXT, AT(checkpoint.parent_path), "images of an earlier pre-dump"},
    {"pre-dump", 0, OCI_FLAG, AT(checkpoint.pre_dump), "memory alone, it runs on"},
    {"status-fd", 0, OCI_NOTHING_TEXT, 0, NULL},
    {"page-server", 0, OCI_NOTHING_TEXT, 0, NULL},
    HELP_OPTION,
    NO_MORE,
};
static const struct oci_option restore_options[] = {
    CRIU_OPTIONS, LAUNCH_OPTIONS, {"detach", 'd', OCI_FLAG, AT(launch.detach), "do not wait"}, NO_MORE};

static int verb_create(struct oci_args *a, int *status, struct error *e)
{
    a->launch.id = a->operands[0];
    return container_create(&a->host, &a->launch, e);
}

static int verb_run(struct oci_args *a, int *status, struct error *e)
{
    a->launch.id = a->operands[0];
    return container_run(&a->host, &a->launch, status, e);
}

static int verb_start(struct oci_args *a, int *status, struct error *e)
{
    return container_start(&a->host, a->operands[0], e);
}

static int verb_exec(struct oci_args *a, int *status, struct error *e)
{
    struct container_exec *x = &a->exec;
    x->id = a->operands[0];
    x->args = a->operands + 1;
    x->env = a->env;
    x->capabilities = a->capabilities;
    x->groups = a->groups;
    x->terminal = a->tty ? 1 : x->process_file ? -1 : 0;
    x->no_new_privileges = a->nnp ? 1 : -1;
    return container_exec(&a->host, x, status, e);
}

static int verb_kill(struct oci_args *a, int *status, struct error *e)
{
    const char *name = a->n_operands > 1 ? a->operands[1] : "TERM";
    int signal = container_signal(name);
    if (signal < 0)
        return error_set(e, EINVAL, "kill: \"%.40s\" is no signal", name);
    return container_kill(&a->host, a->operands[0], signal, a->all, e);
}

static int verb_delete(struct oci_args *a, int *status, struct error *e)
{
    return container_delete(&a->host, a->operands[0], a->force, e);
}

static int verb_pause(struct oci_args *a, int *status, struct error *e)
{
    return container_pause(&a->host, a->operands[0], true, e);
}

static int verb_resume(struct oci_args *a, int *status, struct error *e)
{
    return container_pause(&a->host, a->operands[0], false, e);
}

static int verb_checkpoint(struct oci_args *a, int *status, struct error *e)
{
    a->checkpoint.id = a->operands[0];
    if (!a->checkpoint.image_path)
        a->checkpoint.image_path = "checkpoint";
    return container_checkpoint(&a->host, &a->checkpoint, e);
}

static int verb_restore(struct oci_args *a, int *status, struct error *e)
{
    a->launch.id = a->operands[0];
    if (!a->checkpoint.image_path)
        a->checkpoint.image_path = "checkpoint";
    return container_restore(&a->host, &a->launch, &a->checkpoint, status, e);
}

const struct oci_verb oci_verbs[] = {
    {"create", "ID", "make a container from a bundle", 1, 1, create_options, verb_create},
    {"start", "ID", "start a container that was made", 1, 1, none_options, verb_start},
    {"run", "ID", "make and start a container, wait for it, delete it", 1, 1, run_options, verb_run},
    {"exec", "ID COMMAND [ARG]..", "run one more process in a container", 1, -1, exec_options, verb_exec},
    {"kill", "ID [SIGNAL]", "send a signal (TERM)", 1, 2, kill_options, verb_kill},
    {"delete", "ID", "delete a container that has stopped", 1, 1, delete_options, verb_delete},
    {"state", "ID", "print its state as JSON", 1, 1, none_options, oci_verb_state},
    {"list", "", "list containers", 0, 0, list_options, oci_verb_list},
    {"ps", "ID [PS OPTION]..", "list its processes", 1, -1, list_options, oci_verb_ps},
    {"pause", "ID", "freeze its processes", 1, 1, none_options, verb_pause},
    {"resume", "ID", "let them go on", 1, 1, none_options, verb_resume},
    {"update", "ID", "change its limits", 1, 1, update_options, oci_verb_update},
    {"events", "ID", "print usage and events as JSON, a line each", 1, 1, events_options, oci_verb_events},
    {"checkpoint", "ID", "write its processes to files, by criu", 1, 1, checkpoint_options, verb_checkpoint},
    {"restore", "ID", "make a container from such files", 1, 1, restore_options, verb_restore},
    {"features", "", "print what this runtime can do, as JSON", 0, 0, none_options, oci_verb_features},
    {"spec", "", "write a config.json to begin with", 0, 0, spec_options, oci_verb_spec},
    {NULL, NULL, NULL, 0, 0, NULL, NULL},
};

const struct oci_verb *oci_find(const char *name)
{
    for (const struct oci_verb *v = oci_verbs; v->name; v++)
        if (!strcmp(v->name, name))
            return v;
    return NULL;
}
