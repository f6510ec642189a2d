/*
 * The checks of `trapeze doctor`, a function a line of its table. A check says what it found and what to do about it;
 * MISSING is only for what no machine starts without.
 */
#include "cli/doctor.h"
#include "backend/net/net.h"
#include "cli/cli.h"
#include "cli/terminal.h"
#include "container/userns.h"
#include "engine/engine.h"
#include "host/host.h"
#include "machine/cpu/cpuid.h"
#include "vm/paths.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

void doctor_found(struct doctor_finding *f, enum doctor_result result, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(f->found, sizeof(f->found), fmt, ap);
    va_end(ap);
    f->result = result;
}

void doctor_advise(struct doctor_finding *f, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(f->advice, sizeof(f->advice), fmt, ap);
    va_end(ap);
}

/* --- processor --- */

static void look_level(struct doctor_finding *f)
{
    static const char *const levels[] = {"x86-64-v4", "x86-64-v3", "x86-64-v2"};
    static struct cpu_model const none;
    struct cpu_model *m = malloc(sizeof(*m));
    for (size_t i = 0; m && i < ARRAY_LEN(levels); i++) {
        *m = none;
        if (cpu_model_make(m, levels[i], 1000000000, 1, NULL) == 0) {
            doctor_found(f, DOCTOR_OK, "%s, %s", m->vendor, levels[i]);
            free(m);
            return;
        }
    }
    free(m);
    doctor_found(f, DOCTOR_LACKS, "below x86-64-v2");
    doctor_advise(f, "guests get what this processor has (--cpu host); newer distributions may refuse it");
}

static void look_tsc(struct doctor_finding *f)
{
    u64 hz = host_tsc_hz();
    if (host_tsc_invariant()) {
        doctor_found(f, DOCTOR_OK, "invariant, %.3f GHz", (double)hz / 1e9);
        return;
    }
    doctor_found(f, DOCTOR_LACKS, "not invariant, about %.3f GHz", (double)hz / 1e9);
    doctor_advise(f, "guests are not told that the TSC is invariant; let them use kvm-clock");
}

static void look_cpus(struct doctor_finding *f)
{
    cpu_set_t set;
    int usable = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 0;
    doctor_found(f, DOCTOR_INFO, "%d usable of %ld online", usable, sysconf(_SC_NPROCESSORS_ONLN));
}

/* Which engine `--engine auto` takes, and why no better one. */
static void look_engine(struct doctor_finding *f)
{
    const struct engine_ops *best = engine_auto();
    const char *why = NULL;
    if (engine_at(0) == best) {
        doctor_found(f, DOCTOR_OK, "--engine auto takes %s, its best", best->name);
        return;
    }
    engine_at(0)->usable(&why);
    doctor_found(f, DOCTOR_LACKS, "--engine auto takes %s; %s: %s", best->name, engine_at(0)->name,
                 why ? why : "this host can not run it");
    doctor_advise(f, "guests run the same, only slower");
}

/* --- memory --- */

/* The number behind `key` in a file of "key number" lines, or -1. */
static s64 file_number(const char *path, const char *key)
{
    char line[256];
    s64 v = -1;
    FILE *fp = fopen(path, "re");
    while (fp && v < 0 && fgets(line, sizeof(line), fp))
        if (!strncmp(line, key, strlen(key)))
            v = strtoll(line + strlen(key), NULL, 10);
    if (fp)
        fclose(fp);
    return v;
}

static void look_memory(struct doctor_finding *f)
{
    char total[24], available[24];
    s64 all = file_number("/proc/meminfo", "MemTotal:"), left = file_number("/proc/meminfo", "MemAvailable:");
    if (all < 0 || left < 0) {
        doctor_found(f, DOCTOR_LACKS, "/proc/meminfo cannot be read");
        doctor_advise(f, "mount /proc");
        return;
    }
    bool enough = left >= 600 * 1024;
    doctor_found(f, enough ? DOCTOR_OK : DOCTOR_LACKS, "%s available of %s", cli_size_name((u64)left << 10, available),
                 cli_size_name((u64)all << 10, total));
    if (!enough)
        doctor_advise(f, "the default guest takes up to 512 MiB; give less with --memory");
}

static void look_memfd(struct doctor_finding *f)
{
    int fd = memfd_create("doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd >= 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0) {
        doctor_found(f, DOCTOR_OK, "memfd with seals");
    } else {
        doctor_found(f, DOCTOR_MISSING, "memfd_create: %s", strerror(errno));
        doctor_advise(f, "guest memory is a memfd: a kernel with CONFIG_MEMFD_CREATE, or a container that permits it");
    }
    if (fd >= 0)
        close(fd);
}

static void look_mappings(struct doctor_finding *f)
{
    s64 n = file_number("/proc/sys/vm/max_map_count", "");
    bool enough = n >= 65530;
    doctor_found(f, enough ? DOCTOR_OK : DOCTOR_LACKS, "%lld mappings a process", (long long)n);
    if (!enough)
        doctor_advise(f, "sysctl vm.max_map_count=65530");
}

/* --- kernel --- */

static void look_kernel(struct doctor_finding *f)
{
    struct utsname u;
    uname(&u);
    doctor_found(f, DOCTOR_INFO, "%s %s", u.sysname, u.release);
}

static void look_seccomp(struct doctor_finding *f)
{
    u32 action = SECCOMP_RET_KILL_PROCESS;
    if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0) {
        doctor_found(f, DOCTOR_OK, "filters, ending the process");
        return;
    }
    doctor_found(f, DOCTOR_MISSING, "seccomp: %s", strerror(errno));
    doctor_advise(f, "guests run sealed by a seccomp filter: a kernel with CONFIG_SECCOMP_FILTER is needed");
}

static void look_namespaces(struct doctor_finding *f)
{
    int status = -1;
    pid_t child = fork();
    if (child == 0)
        _exit(unshare(CLONE_NEWUSER) < 0 ? errno & 0xff : 0);
    if (child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        doctor_found(f, DOCTOR_OK, "user namespaces can be made");
        return;
    }
    doctor_found(f, DOCTOR_LACKS, "user namespaces: %s",
                 status >= 0 && WIFEXITED(status) ? strerror(WEXITSTATUS(status)) : "not tried");
    doctor_advise(f, "machines do not need them; containers without root do (sysctl user.max_user_namespaces, "
                     "kernel.unprivileged_userns_clone=1)");
}

/* What containers have of users, tried as their keepers do. */
static void look_numbers(struct doctor_finding *f)
{
    char why[200] = "not tried";
    int pipes[2];
    if (geteuid() == 0) {
        doctor_found(f, DOCTOR_INFO, "root's containers have all of the host's");
        return;
    }
    if (pipe2(pipes, O_CLOEXEC) < 0) {
        doctor_found(f, DOCTOR_LACKS, "pipe: %s", strerror(errno));
        return;
    }
    pid_t child = fork();
    if (child == 0) {
        struct error e = {0};
        if (userns_enter(why, &e) < 0)
            snprintf(why, sizeof(why), "%.190s", e.msg);
        _exit(write(pipes[1], why, sizeof(why)) != sizeof(why));
    }
    if (child > 0 && read(pipes[0], why, sizeof(why)) == sizeof(why) && !why[0])
        doctor_found(f, DOCTOR_OK, "containers have a range of their own");
    else
        doctor_found(f, DOCTOR_LACKS, "%.190s", why);
    if (why[0])
        doctor_advise(
            f, "containers have root and nobody else; as root: apt-get install uidmap, and usermod --add-subuids "
               "100000-165535 --add-subgids 100000-165535 and the user's name");
    if (child > 0)
        waitpid(child, NULL, 0);
    close(pipes[0]);
    close(pipes[1]);
}

static void look_userfaultfd(struct doctor_finding *f)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    struct uffdio_api api = {.api = UFFD_API};
    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0) {
        doctor_found(f, DOCTOR_LACKS, "userfaultfd: %s", strerror(errno));
        doctor_advise(f, "memory traces will use mprotect instead, which is slower");
    } else {
        bool wp = api.features & UFFD_FEATURE_PAGEFAULT_FLAG_WP;
        doctor_found(f, wp ? DOCTOR_OK : DOCTOR_LACKS, "userfaultfd %s write protection", wp ? "with" : "without");
    }
    if (fd >= 0)
        close(fd);
}

static void look_landlock(struct doctor_finding *f)
{
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (abi > 0) {
        doctor_found(f, DOCTOR_OK, "version %ld", abi);
        return;
    }
    doctor_found(f, DOCTOR_LACKS, "landlock: %s", strerror(errno));
    doctor_advise(f, "a second fence around the keeper's files; boot the kernel with lsm=landlock,... to have it");
}

static void look_cgroups(struct doctor_finding *f)
{
    if (access("/sys/fs/cgroup/cgroup.controllers", R_OK) == 0) {
        doctor_found(f, DOCTOR_OK, "version 2");
        return;
    }
    doctor_found(f, DOCTOR_LACKS, access("/sys/fs/cgroup", R_OK) == 0 ? "version 1 only" : "not mounted");
    doctor_advise(f,
                  "machines do not need them; limits of containers will: boot with systemd.unified_cgroup_hierarchy=1");
}

/* --- network --- */

static void look_slirp(struct doctor_finding *f)
{
    const char *why = net_user_missing();
    doctor_found(f, why ? DOCTOR_LACKS : DOCTOR_OK, "%s", why ? why : "libslirp");
    if (why)
        doctor_advise(f, "apt-get install libslirp0, or start machines with --network none");
}

static void look_tun(struct doctor_finding *f)
{
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (fd >= 0) {
        doctor_found(f, DOCTOR_OK, "/dev/net/tun");
        close(fd);
        return;
    }
    doctor_found(f, DOCTOR_LACKS, "/dev/net/tun: %s", strerror(errno));
    doctor_advise(f, "only --network tap and bridge need it; as root: modprobe tun");
}

/* --- files --- */

static void look_state(struct doctor_finding *f)
{
    char dir[PATH_MAX - 1];
    struct error e = {0};
    if (paths_state_dir(dir, sizeof(dir), &e) == 0) {
        doctor_found(f, DOCTOR_OK, "%.150s", dir);
        return;
    }
    doctor_found(f, DOCTOR_MISSING, "%.150s", e.msg);
    doctor_advise(f, "set XDG_STATE_HOME to a directory you may write");
}

static void look_busybox(struct doctor_finding *f)
{
    static const char *const at[] = {"/bin/busybox", "/usr/bin/busybox"};
    for (size_t i = 0; i < ARRAY_LEN(at); i++)
        if (access(at[i], X_OK) == 0) {
            doctor_found(f, DOCTOR_OK, "%s", at[i]);
            return;
        }
    doctor_found(f, DOCTOR_LACKS, "no busybox");
    doctor_advise(f, "only the default guest needs it: `make deps`, or apt-get install busybox-static");
}

static void look_vmlinuz(struct doctor_finding *f)
{
    glob_t g;
    if (glob("/boot/vmlinuz-*", 0, NULL, &g) == 0) {
        const char *last = g.gl_pathv[g.gl_pathc - 1];
        doctor_found(f, access(last, R_OK) == 0 ? DOCTOR_OK : DOCTOR_LACKS, "%.150s", last);
        if (f->result != DOCTOR_OK)
            doctor_advise(f, "it can not be read by this user; copy it to where it can");
        globfree(&g);
        return;
    }
    doctor_found(f, DOCTOR_INFO, "none in /boot");
    doctor_advise(f, "any kernel given with --kernel serves; `make run` fetches Debian's linux-image-cloud-amd64");
}

static void look_terminal(struct doctor_finding *f)
{
    const char *term = getenv("TERM");
    if (terminal_interactive())
        doctor_found(f, DOCTOR_OK, "%s, %s", term ? term : "TERM unset", terminal_colours() ? "colours" : "no colours");
    else
        doctor_found(f, DOCTOR_INFO, "standard input or output is none: no console, output is copied");
}

const struct doctor_check doctor_checks[] = {
    {"Processor", "level", look_level},
    {"Processor", "time stamp", look_tsc},
    {"Processor", "cpus", look_cpus},
    {"Processor", "kvm", doctor_look_kvm},
    {"Processor", "engine", look_engine},
    {"Memory", "memory", look_memory},
    {"Memory", "memfd", look_memfd},
    {"Memory", "mappings", look_mappings},
    {"Kernel", "kernel", look_kernel},
    {"Kernel", "seccomp", look_seccomp},
    {"Kernel", "user namespaces", look_namespaces},
    {"Kernel", "user numbers", look_numbers},
    {"Kernel", "userfaultfd", look_userfaultfd},
    {"Kernel", "landlock", look_landlock},
    {"Kernel", "cgroups", look_cgroups},
    {"Network", "user mode", look_slirp},
    {"Network", "taps", look_tun},
    {"Files", "state directory", look_state},
    {"Files", "busybox", look_busybox},
    {"Files", "guest kernel", look_vmlinuz},
    {"Files", "terminal", look_terminal},
};
const size_t doctor_n_checks = ARRAY_LEN(doctor_checks);
