/*
 * The default system call filter, for fronts that make configurations (engines bring one of their own).
 *
 * Built from what the library knows: every system call of this machine is allowed but those of the table, which are refused
 * with EPERM unless the container has the capability that stands beside them; what the library does not know does not exist
 * (ENOSYS: programs then use something older). So a call that a later kernel brings is shut until somebody has looked at it.
 *
 * The table: what loads code into the kernel, changes the host's clock, swap, modules or quota, looks into other processes'
 * memory or keys, gives access to mounts and namespaces, or has been a way out of containers without being of use in one.
 */
#include "container/container.h"
#include "container/spec.h"

#include <errno.h>
#include <linux/capability.h>
#include <seccomp.h>
#include <stdlib.h>
#include <string.h>

#define NEVER       -1
#define LAST_NUMBER 600

static const struct guarded {
    const char *name;
    int capability; /* that opens it, or NEVER */
} guarded[] = {
    {"acct", CAP_SYS_PACCT},
    {"add_key", NEVER},
    {"bpf", CAP_BPF},
    {"clock_adjtime", CAP_SYS_TIME},
    {"clock_adjtime64", CAP_SYS_TIME},
    {"clock_settime", CAP_SYS_TIME},
    {"clock_settime64", CAP_SYS_TIME},
    {"create_module", NEVER},
    {"delete_module", CAP_SYS_MODULE},
    {"fanotify_init", CAP_SYS_ADMIN},
    {"finit_module", CAP_SYS_MODULE},
    {"fsconfig", CAP_SYS_ADMIN},
    {"fsmount", CAP_SYS_ADMIN},
    {"fsopen", CAP_SYS_ADMIN},
    {"fspick", CAP_SYS_ADMIN},
    {"get_kernel_syms", NEVER},
    {"get_mempolicy", CAP_SYS_NICE},
    {"init_module", CAP_SYS_MODULE},
    {"io_uring_enter", NEVER}, /* its work passes by filters and has been a way out again and again */
    {"io_uring_register", NEVER},
    {"io_uring_setup", NEVER},
    {"ioperm", CAP_SYS_RAWIO},
    {"iopl", CAP_SYS_RAWIO},
    {"kcmp", CAP_SYS_PTRACE},
    {"kexec_file_load", CAP_SYS_BOOT},
    {"kexec_load", CAP_SYS_BOOT},
    {"keyctl", NEVER},
    {"lookup_dcookie", CAP_SYS_ADMIN},
    {"mbind", CAP_SYS_NICE},
    {"migrate_pages", CAP_SYS_NICE},
    {"mount", CAP_SYS_ADMIN},
    {"mount_setattr", CAP_SYS_ADMIN},
    {"move_mount", CAP_SYS_ADMIN},
    {"move_pages", CAP_SYS_NICE},
    {"name_to_handle_at", CAP_DAC_READ_SEARCH},
    {"nfsservctl", NEVER},
    {"open_by_handle_at", CAP_DAC_READ_SEARCH},
    {"open_tree", CAP_SYS_ADMIN},
    {"perf_event_open", CAP_PERFMON},
    {"pivot_root", CAP_SYS_ADMIN},
    {"process_madvise", CAP_SYS_PTRACE},
    {"process_vm_readv", CAP_SYS_PTRACE},
    {"process_vm_writev", CAP_SYS_PTRACE},
    {"query_module", NEVER},
    {"quotactl", CAP_SYS_ADMIN},
    {"quotactl_fd", CAP_SYS_ADMIN},
    {"reboot", CAP_SYS_BOOT},
    {"request_key", NEVER},
    {"set_mempolicy", CAP_SYS_NICE},
    {"set_mempolicy_home_node", CAP_SYS_NICE},
    {"setns", CAP_SYS_ADMIN},
    {"settimeofday", CAP_SYS_TIME},
    {"stime", CAP_SYS_TIME},
    {"swapoff", CAP_SYS_ADMIN},
    {"swapon", CAP_SYS_ADMIN},
    {"sysfs", NEVER},
    {"syslog", CAP_SYSLOG},
    {"_sysctl", NEVER},
    {"umount", CAP_SYS_ADMIN},
    {"umount2", CAP_SYS_ADMIN},
    {"unshare", CAP_SYS_ADMIN},
    {"uselib", NEVER},
    {"userfaultfd", CAP_SYS_PTRACE},
    {"ustat", NEVER},
    {"vhangup", CAP_SYS_TTY_CONFIG},
    {"vm86", NEVER},
    {"vm86old", NEVER},
    {"vserver", NEVER},
    /* These two are allowed with a look at their arguments, see below. */
    {"clone", CAP_SYS_ADMIN},
    {"personality", CAP_SYS_ADMIN},
    /* .. and this has them in memory, where no filter sees them: it does not exist, and programs use clone. */
    {"clone3", CAP_SYS_ADMIN},
};

/* True when the filter is to say no. */
static bool is_shut(const char *name, u64 capabilities)
{
    for (size_t i = 0; i < ARRAY_LEN(guarded); i++)
        if (!strcmp(guarded[i].name, name))
            return guarded[i].capability == NEVER || !(capabilities & BIT(guarded[i].capability));
    return false;
}

static json_t *rule(const char *name, const char *action, int errno_ret)
{
    json_t *j = json_pack("{s:[s],s:s}", "names", name, "action", action);
    if (errno_ret)
        json_object_set_new(j, "errnoRet", json_integer(errno_ret));
    return j;
}

static json_t *rule_with(const char *name, int index, json_int_t value, json_int_t value_two, const char *op)
{
    return json_pack("{s:[s],s:s,s:[{s:i,s:I,s:I,s:s}]}", "names", name, "action", "SCMP_ACT_ALLOW", "args", "index",
                     index, "value", value, "valueTwo", value_two, "op", op);
}

/* Calls of 32-bit programs that have no namesake of 64 bits. */
static const char *const of_32_bits[] = {"socketcall",
                                         "ipc",
                                         "_llseek",
                                         "_newselect",
                                         "mmap2",
                                         "fcntl64",
                                         "stat64",
                                         "lstat64",
                                         "fstat64",
                                         "fstatat64",
                                         "getuid32",
                                         "getgid32",
                                         "geteuid32",
                                         "getegid32",
                                         "setuid32",
                                         "setgid32",
                                         "setresuid32",
                                         "setresgid32",
                                         "getgroups32",
                                         "setgroups32",
                                         "chown32",
                                         "fchown32",
                                         "lchown32",
                                         "waitpid",
                                         "truncate64",
                                         "ftruncate64",
                                         "statfs64",
                                         "fstatfs64",
                                         "sendfile64",
                                         "ugetrlimit",
                                         "sigreturn",
                                         "sigaction",
                                         "sigprocmask",
                                         "clock_gettime64",
                                         "clock_getres_time64",
                                         "clock_nanosleep_time64",
                                         "futex_time64",
                                         "ppoll_time64",
                                         "pselect6_time64",
                                         "recvmmsg_time64",
                                         "semtimedop_time64",
                                         "timer_gettime64",
                                         "timer_settime64",
                                         "timerfd_gettime64",
                                         "timerfd_settime64",
                                         "utimensat_time64",
                                         "get_thread_area",
                                         "set_thread_area",
                                         "fadvise64_64",
                                         "rt_sigtimedwait_time64",
                                         "mq_timedsend_time64",
                                         "nice",
                                         "signal"};

static void add_known(json_t *rules, json_t *allowed, u64 capabilities)
{
    for (int number = 0; number < LAST_NUMBER; number++) {
        char *name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, number);
        if (!name)
            continue;
        if (!is_shut(name, capabilities))
            json_array_append_new(allowed, json_string(name));
        else if (strcmp(name, "clone") && strcmp(name, "personality") && strcmp(name, "clone3"))
            json_array_append_new(rules, rule(name, "SCMP_ACT_ERRNO", EPERM));
        free(name);
    }
    for (size_t i = 0; i < ARRAY_LEN(of_32_bits); i++)
        json_array_append_new(allowed, json_string(of_32_bits[i]));
}

json_t *container_profile(u64 capabilities)
{
    static const json_int_t personalities[] = {0x0, 0x0008, 0x20000, 0x20008, 0xffffffff};
    json_t *rules = json_array(), *allowed = json_array();
    add_known(rules, allowed, capabilities);
    json_array_append_new(rules, json_pack("{s:o,s:s}", "names", allowed, "action", "SCMP_ACT_ALLOW"));
    if (is_shut("clone", capabilities)) /* no new namespaces: CLONE_NEW* but CLONE_NEWTIME, which is no flag of clone */
        json_array_append_new(rules, rule_with("clone", 0, 0x7e020000, 0, "SCMP_CMP_MASKED_EQ"));
    for (size_t i = 0; is_shut("personality", capabilities) && i < ARRAY_LEN(personalities); i++)
        json_array_append_new(rules, rule_with("personality", 0, personalities[i], 0, "SCMP_CMP_EQ"));
    return json_pack("{s:s,s:i,s:[s,s,s],s:o}", "defaultAction", "SCMP_ACT_ERRNO", "defaultErrnoRet", ENOSYS,
                     "architectures", "SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "syscalls", rules);
}
