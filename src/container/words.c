/* Words of the specification with the numbers the kernel knows them by. */
#include "container/spec.h"

#include <linux/capability.h>
#include <linux/mempolicy.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/resource.h>

const struct word spec_capability_words[] = {
    {"CAP_CHOWN", CAP_CHOWN},
    {"CAP_DAC_OVERRIDE", CAP_DAC_OVERRIDE},
    {"CAP_DAC_READ_SEARCH", CAP_DAC_READ_SEARCH},
    {"CAP_FOWNER", CAP_FOWNER},
    {"CAP_FSETID", CAP_FSETID},
    {"CAP_KILL", CAP_KILL},
    {"CAP_SETGID", CAP_SETGID},
    {"CAP_SETUID", CAP_SETUID},
    {"CAP_SETPCAP", CAP_SETPCAP},
    {"CAP_LINUX_IMMUTABLE", CAP_LINUX_IMMUTABLE},
    {"CAP_NET_BIND_SERVICE", CAP_NET_BIND_SERVICE},
    {"CAP_NET_BROADCAST", CAP_NET_BROADCAST},
    {"CAP_NET_ADMIN", CAP_NET_ADMIN},
    {"CAP_NET_RAW", CAP_NET_RAW},
    {"CAP_IPC_LOCK", CAP_IPC_LOCK},
    {"CAP_IPC_OWNER", CAP_IPC_OWNER},
    {"CAP_SYS_MODULE", CAP_SYS_MODULE},
    {"CAP_SYS_RAWIO", CAP_SYS_RAWIO},
    {"CAP_SYS_CHROOT", CAP_SYS_CHROOT},
    {"CAP_SYS_PTRACE", CAP_SYS_PTRACE},
    {"CAP_SYS_PACCT", CAP_SYS_PACCT},
    {"CAP_SYS_ADMIN", CAP_SYS_ADMIN},
    {"CAP_SYS_BOOT", CAP_SYS_BOOT},
    {"CAP_SYS_NICE", CAP_SYS_NICE},
    {"CAP_SYS_RESOURCE", CAP_SYS_RESOURCE},
    {"CAP_SYS_TIME", CAP_SYS_TIME},
    {"CAP_SYS_TTY_CONFIG", CAP_SYS_TTY_CONFIG},
    {"CAP_MKNOD", CAP_MKNOD},
    {"CAP_LEASE", CAP_LEASE},
    {"CAP_AUDIT_WRITE", CAP_AUDIT_WRITE},
    {"CAP_AUDIT_CONTROL", CAP_AUDIT_CONTROL},
    {"CAP_SETFCAP", CAP_SETFCAP},
    {"CAP_MAC_OVERRIDE", CAP_MAC_OVERRIDE},
    {"CAP_MAC_ADMIN", CAP_MAC_ADMIN},
    {"CAP_SYSLOG", CAP_SYSLOG},
    {"CAP_WAKE_ALARM", CAP_WAKE_ALARM},
    {"CAP_BLOCK_SUSPEND", CAP_BLOCK_SUSPEND},
    {"CAP_AUDIT_READ", CAP_AUDIT_READ},
    {"CAP_PERFMON", CAP_PERFMON},
    {"CAP_BPF", CAP_BPF},
    {"CAP_CHECKPOINT_RESTORE", CAP_CHECKPOINT_RESTORE},
    {NULL, 0},
};

#define LIMIT(name)                    \
    {                                  \
        "RLIMIT_" #name, RLIMIT_##name \
    }
const struct word spec_rlimit_words[] = {
    LIMIT(AS),      LIMIT(CORE),     LIMIT(CPU),        LIMIT(DATA),   LIMIT(FSIZE), LIMIT(LOCKS),
    LIMIT(MEMLOCK), LIMIT(MSGQUEUE), LIMIT(NICE),       LIMIT(NOFILE), LIMIT(NPROC), LIMIT(RSS),
    LIMIT(RTPRIO),  LIMIT(RTTIME),   LIMIT(SIGPENDING), LIMIT(STACK),  {NULL, 0},
};

const struct word spec_namespace_words[] = {
    {"mount", CLONE_NEWNS},
    {"pid", CLONE_NEWPID},
    {"network", CLONE_NEWNET},
    {"uts", CLONE_NEWUTS},
    {"ipc", CLONE_NEWIPC},
    {"user", CLONE_NEWUSER},
    {"cgroup", CLONE_NEWCGROUP},
    {"time", 0x80 /* CLONE_NEWTIME */},
    {NULL, 0},
};

#define SIGNAL(name)     \
    {                    \
#name, SIG##name \
    }
const struct word spec_signal_words[] = {
    SIGNAL(HUP),  SIGNAL(INT),   SIGNAL(QUIT),   SIGNAL(ILL),  SIGNAL(TRAP), SIGNAL(ABRT), SIGNAL(IOT),
    SIGNAL(BUS),  SIGNAL(FPE),   SIGNAL(KILL),   SIGNAL(USR1), SIGNAL(SEGV), SIGNAL(USR2), SIGNAL(PIPE),
    SIGNAL(ALRM), SIGNAL(TERM),  SIGNAL(STKFLT), SIGNAL(CHLD), SIGNAL(CLD),  SIGNAL(CONT), SIGNAL(STOP),
    SIGNAL(TSTP), SIGNAL(TTIN),  SIGNAL(TTOU),   SIGNAL(URG),  SIGNAL(XCPU), SIGNAL(XFSZ), SIGNAL(VTALRM),
    SIGNAL(PROF), SIGNAL(WINCH), SIGNAL(IO),     SIGNAL(POLL), SIGNAL(PWR),  SIGNAL(SYS),  {NULL, 0},
};

const struct word spec_policy_words[] = {
    {"SCHED_OTHER", SCHED_OTHER},
    {"SCHED_FIFO", SCHED_FIFO},
    {"SCHED_RR", SCHED_RR},
    {"SCHED_BATCH", SCHED_BATCH},
    {"SCHED_ISO", 4},
    {"SCHED_IDLE", SCHED_IDLE},
    {"SCHED_DEADLINE", SCHED_DEADLINE},
    {NULL, 0},
};

/* The last three are newer than the headers of Debian 12. */
const struct word spec_memory_mode_words[] = {
    {"MPOL_DEFAULT", MPOL_DEFAULT},       {"MPOL_BIND", MPOL_BIND},
    {"MPOL_INTERLEAVE", MPOL_INTERLEAVE}, {"MPOL_PREFERRED", MPOL_PREFERRED},
    {"MPOL_LOCAL", MPOL_LOCAL},           {"MPOL_PREFERRED_MANY", 5},
    {"MPOL_WEIGHTED_INTERLEAVE", 6},      {NULL, 0},
};

const struct word spec_memory_flag_words[] = {
    {"MPOL_F_NUMA_BALANCING", 1 << 13},
    {"MPOL_F_RELATIVE_NODES", 1 << 14},
    {"MPOL_F_STATIC_NODES", 1 << 15},
    {NULL, 0},
};

const struct word spec_hook_words[] = {
    {"prestart", HOOK_PRESTART},
    {"createRuntime", HOOK_CREATE_RUNTIME},
    {"createContainer", HOOK_CREATE_CONTAINER},
    {"startContainer", HOOK_START_CONTAINER},
    {"poststart", HOOK_POSTSTART},
    {"poststop", HOOK_POSTSTOP},
    {NULL, 0},
};

#define ACTION(name, number)      \
    {                             \
        "SCMP_ACT_" #name, number \
    }
const struct word spec_action_words[] = {
    ACTION(KILL, SCMP_ACT_KILL_THREAD),
    ACTION(KILL_PROCESS, SCMP_ACT_KILL_PROCESS),
    ACTION(KILL_THREAD, SCMP_ACT_KILL_THREAD),
    ACTION(TRAP, SCMP_ACT_TRAP),
    ACTION(ERRNO, SCMP_ACT_ERRNO(0)),
    ACTION(TRACE, SCMP_ACT_TRACE(0)),
    ACTION(ALLOW, SCMP_ACT_ALLOW),
    ACTION(LOG, SCMP_ACT_LOG),
    ACTION(NOTIFY, SCMP_ACT_NOTIFY),
    {NULL, 0},
};

#define OPERATOR(name)                     \
    {                                      \
        "SCMP_CMP_" #name, SCMP_CMP_##name \
    }
const struct word spec_operator_words[] = {
    OPERATOR(NE), OPERATOR(LT), OPERATOR(LE), OPERATOR(EQ), OPERATOR(GE), OPERATOR(GT), OPERATOR(MASKED_EQ), {NULL, 0},
};

#define ARCH(name)                           \
    {                                        \
        "SCMP_ARCH_" #name, SCMP_ARCH_##name \
    }
const struct word spec_architecture_words[] = {
    ARCH(X86),       ARCH(X86_64), ARCH(X32),      ARCH(ARM),         ARCH(AARCH64), ARCH(MIPS),  ARCH(MIPS64),
    ARCH(MIPS64N32), ARCH(MIPSEL), ARCH(MIPSEL64), ARCH(MIPSEL64N32), ARCH(PPC),     ARCH(PPC64), ARCH(PPC64LE),
    ARCH(S390),      ARCH(S390X),  ARCH(PARISC),   ARCH(PARISC64),    ARCH(RISCV64), {NULL, 0},
};

const struct word spec_seccomp_flag_words[] = {
    {"SECCOMP_FILTER_FLAG_TSYNC", SECCOMP_FILTER_FLAG_TSYNC},
    {"SECCOMP_FILTER_FLAG_LOG", SECCOMP_FILTER_FLAG_LOG},
    {"SECCOMP_FILTER_FLAG_SPEC_ALLOW", SECCOMP_FILTER_FLAG_SPEC_ALLOW},
    {"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV},
    {NULL, 0},
};
