/*
 * Seals: what a process may still ask of the kernel.
 *
 * A seal is a table of rules; each names a system call and up to three conditions on its arguments, (argument & mask) ==
 * value. A few lines turn the table into a classic BPF program for seccomp:
 *
 *     load arch; not x86-64 -> kill
 *     for each rule:  load number; another -> next rule
 *                     for each condition: load low half, and, compare; [the same for the high half]; wrong -> next rule
 *                     allow
 *     kill
 *
 * Several rules may name one call: the first that fits decides, nearly always to allow it. x32 calls have bit 30 in their number and so fit none.
 * What is not allowed ends the whole process at once (SECCOMP_RET_KILL_PROCESS: SIGSYS, and a line in the kernel's audit
 * log), so neither side can be talked into an error path that nobody tested.
 *
 * What must stay true
 *  1. No rule lets the cell make memory executable, open, connect or name anything, or signal anybody. Of files it may make holes
 *     in guest memory, and read the one that its guest's memory is still in.
 *  2. Descriptors, signals and protections are compared, never merely the call.
 *  3. Arguments that the kernel takes as int are compared in their low half, which is all that it looks at.
 *
 * Pointers are not looked into (seccomp can't): the keeper's unlinkat is bound to its directory's descriptor only.
 * SPEC_ALLOW: without it kernels before 5.16 switch off store bypass in sealed processes, which costs the cell dearly;
 * nothing in a cell is secret from its guest.
 */
#include "host/host.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/if_tun.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CONDITIONS 3
#define INT_MASK   0xffffffffull
#define RW         ((u64)(PROT_READ | PROT_WRITE))
#define PROGRAM    512
#define FLAGS      (SECCOMP_FILTER_FLAG_LOG | SECCOMP_FILTER_FLAG_SPEC_ALLOW | SECCOMP_FILTER_FLAG_TSYNC) /* all threads */

struct condition {
    u8 arg; /* 1 to 6; 0 ends the list */
    u64 mask, value;
};

struct rule {
    int nr; /* and perhaps what happens instead of the call */
    struct condition when[CONDITIONS];
};
#define NUMBER  0xffff
#define TRAPPED 0x10000 /* SIGSYS, for a handler (stand_in.c) */
#define REFUSED 0x20000 /* EACCES */

#define ARG_IS(n, v)                                    \
    {                                                   \
        .arg = (n), .mask = INT_MASK, .value = (u32)(v) \
    }
#define ARG_BITS(n, m, v)                     \
    {                                         \
        .arg = (n), .mask = (m), .value = (v) \
    }
#define ARG_WITHIN(n, m)                          \
    {                                             \
        .arg = (n), .mask = ~(u64)(m), .value = 0 \
    }

/* Flags that take what is not the process's own: the host's huge pages, memory that can't be swapped. */
#define MAP_DEAR ((u64)(MAP_HUGETLB | MAP_LOCKED | MAP_GROWSDOWN))

/* Private memory, readable and writable at most. */
#define RULES_MEMORY                                                                                                \
    {SYS_mmap, {ARG_WITHIN(3, RW), ARG_BITS(4, MAP_TYPE | MAP_ANONYMOUS | MAP_DEAR, MAP_PRIVATE | MAP_ANONYMOUS)}}, \
        {SYS_munmap, {{0}}}, {SYS_mremap, {{0}}}, {SYS_brk, {{0}}}, {SYS_mprotect, {ARG_WITHIN(3, RW)}},            \
        {SYS_madvise, {ARG_IS(3, MADV_DONTNEED)}}, {SYS_madvise, {ARG_IS(3, MADV_FREE)}},                           \
        {SYS_madvise, {ARG_IS(3, MADV_HUGEPAGE)}}, {SYS_madvise, {ARG_IS(3, MADV_NOHUGEPAGE)}},                     \
    {                                                                                                               \
        SYS_madvise,                                                                                                \
        {                                                                                                           \
            ARG_IS(3, MADV_DONTDUMP)                                                                                \
        }                                                                                                           \
    }

/* Waiting and waking; not the operations with priority inheritance or on two words, which nothing here uses. */
#define FUTEX_IS(op)                                                                        \
    {                                                                                       \
        SYS_futex,                                                                          \
        {                                                                                   \
            ARG_BITS(2, INT_MASK & ~(u64)(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME), (op)) \
        }                                                                                   \
    }

#define RULES_COMMON                                                                                      \
    FUTEX_IS(FUTEX_WAIT), FUTEX_IS(FUTEX_WAKE), FUTEX_IS(FUTEX_WAIT_BITSET), FUTEX_IS(FUTEX_WAKE_BITSET), \
        {SYS_ppoll, {{0}}}, {SYS_poll, {{0}}}, {SYS_clock_gettime, {{0}}}, {SYS_gettimeofday, {{0}}},     \
        {SYS_rt_sigreturn, {{0}}}, {SYS_rt_sigprocmask, {{0}}}, {SYS_sigaltstack, {{0}}},                 \
        {SYS_restart_syscall, {{0}}}, {SYS_exit, {{0}}},                                                  \
    {                                                                                                     \
        SYS_exit_group,                                                                                   \
        {                                                                                                 \
            {                                                                                             \
                0                                                                                         \
            }                                                                                             \
        }                                                                                                 \
    }

#define DISK_RULES 6u /* at the end of the keeper's table */

struct program {
    struct sock_filter code[PROGRAM];
    unsigned n;
};

static void emit(struct program *p, u16 code, u32 k, u8 jt, u8 jf)
{
    if (p->n < PROGRAM)
        p->code[p->n] = (struct sock_filter){code, jt, jf, k};
    p->n++; /* beyond PROGRAM: found when installing */
}

/* Compare a half of the argument; what does not fit jumps to the next rule, patched by emit_rule. */
static void emit_half(struct program *p, u32 offset, u32 mask, u32 value)
{
    if (!mask)
        return;
    emit(p, BPF_LD | BPF_W | BPF_ABS, offset, 0, 0);
    if (mask != ~0u)
        emit(p, BPF_ALU | BPF_AND | BPF_K, mask, 0, 0);
    emit(p, BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1);
}

static void emit_rule(struct program *p, const struct rule *r)
{
    emit(p, BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr), 0, 0);
    unsigned first = p->n;
    emit(p, BPF_JMP | BPF_JEQ | BPF_K, (u32)r->nr & NUMBER, 0, 1);
    for (unsigned i = 0; i < CONDITIONS && r->when[i].arg; i++) {
        const struct condition *c = &r->when[i];
        u32 at = (u32)offsetof(struct seccomp_data, args) + 8u * (c->arg - 1u);
        emit_half(p, at, (u32)c->mask, (u32)c->value);
        emit_half(p, at + 4, (u32)(c->mask >> 32), (u32)(c->value >> 32));
    }
    u32 action = r->nr & TRAPPED ? SECCOMP_RET_TRAP : r->nr & REFUSED ? SECCOMP_RET_ERRNO | EACCES : SECCOMP_RET_ALLOW;
    emit(p, BPF_RET | BPF_K, action, 0, 0);
    for (unsigned i = first; i < p->n && i < PROGRAM; i++)
        if (BPF_CLASS(p->code[i].code) == BPF_JMP)
            p->code[i].jf = (u8)(p->n - i - 1);
}

static int seal(const struct rule *rules, size_t n, struct error *e)
{
    struct program p = {.n = 0};
    emit(&p, BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch), 0, 0);
    emit(&p, BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
    emit(&p, BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS, 0, 0);
    for (size_t i = 0; i < n; i++)
        emit_rule(&p, &rules[i]);
    emit(&p, BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS, 0, 0);
    if (p.n > PROGRAM)
        return error_set(e, E2BIG, "seal: %u instructions of BPF, %u fit", p.n, PROGRAM);
    struct sock_fprog prog = {.len = (u16)p.n, .filter = p.code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, FLAGS, &prog))
        return error_set(e, errno, "seccomp: %s; the kernel needs CONFIG_SECCOMP_FILTER (4.17 or newer)",
                         strerror(errno));
    return 0;
}

int host_seal_cell(const struct host_cell_seal *s, struct error *e)
{
    const struct rule rules[] = {
        {SYS_write, {ARG_IS(1, s->wake_peer)}},
        {SYS_write, {ARG_IS(1, s->wake_self)}}, /* between its threads */
        {SYS_read, {ARG_IS(1, s->wake_self)}},
        {SYS_getrandom, {ARG_IS(3, 0)}},
        {SYS_fallocate, {ARG_IS(1, s->ram), ARG_IS(2, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)}},
        {SYS_pread64, {ARG_IS(1, s->file)}},
        {SYS_close, {ARG_IS(1, s->file)}},
        RULES_COMMON,
        RULES_MEMORY,
        {SYS_sched_yield, {{0}}},
        /* the last ones are for back ends, as many as there are */
        {SYS_write, {ARG_IS(1, s->wake_back[0])}},
        {SYS_write, {ARG_IS(1, s->wake_back[1])}},
        {SYS_write, {ARG_IS(1, s->wake_back[2])}},
        {SYS_write, {ARG_IS(1, s->wake_back[3])}},
        {SYS_write, {ARG_IS(1, s->wake_back[4])}},
        {SYS_write, {ARG_IS(1, s->wake_back[5])}},
        {SYS_write, {ARG_IS(1, s->wake_back[6])}},
        {SYS_write, {ARG_IS(1, s->wake_back[7])}},
        {SYS_write, {ARG_IS(1, s->wake_back[8])}},
        {SYS_write, {ARG_IS(1, s->wake_back[9])}},
        {SYS_write, {ARG_IS(1, s->wake_back[10])}},
    };
    _Static_assert(HOST_WAKE_MAX == 11, "a rule for each");
    return seal(rules, ARRAY_LEN(rules) - HOST_WAKE_MAX + MIN(s->n_wake_back, HOST_WAKE_MAX), e);
}

int host_seal_keeper(const struct host_keeper_seal *s, struct error *e)
{
    const struct rule rules[] = {
        {SYS_read, {{0}}},
        {SYS_write, {{0}}},
        {SYS_pread64, {{0}}},
        {SYS_pwrite64, {{0}}},
        {SYS_recvfrom, {{0}}},
        {SYS_sendto, {ARG_BITS(5, ~0ull, 0)}}, /* to the peer only, no address */
        {SYS_sendmsg,
         {{0}}}, /* guest memory's descriptor to a client: there are stream sockets only, which ignore addresses */
        {SYS_shutdown, {ARG_IS(2, SHUT_WR)}},
        {SYS_accept4, {ARG_IS(1, s->listener)}},
        {SYS_getsockopt, {ARG_IS(2, SOL_SOCKET), ARG_IS(3, SO_PEERCRED)}},
        {SYS_close, {{0}}},
        {SYS_newfstatat, {ARG_IS(4, AT_EMPTY_PATH)}}, /* fstat */
        {SYS_fstat, {{0}}},
        {SYS_ftruncate, {ARG_IS(1, s->log)}},
        {SYS_ftruncate, {ARG_IS(1, s->end)}},
        {SYS_unlinkat, {ARG_IS(1, s->dir), ARG_IS(3, 0)}},
        {SYS_mmap, {ARG_WITHIN(3, RW), ARG_BITS(4, MAP_TYPE, MAP_SHARED), ARG_IS(5, s->ram)}},
        {SYS_pidfd_send_signal, {ARG_IS(1, s->cell), ARG_IS(2, SIGKILL)}},
        {SYS_pidfd_send_signal, {ARG_IS(1, s->backs[0]), ARG_IS(2, SIGKILL)}},
        {SYS_pidfd_send_signal, {ARG_IS(1, s->backs[1]), ARG_IS(2, SIGKILL)}},
        {SYS_pidfd_send_signal, {ARG_IS(1, s->backs[2]), ARG_IS(2, SIGKILL)}},
        {SYS_pidfd_send_signal, {ARG_IS(1, s->backs[3]), ARG_IS(2, SIGKILL)}},
        {SYS_pidfd_send_signal, {ARG_IS(1, s->backs[4]), ARG_IS(2, SIGKILL)}},
        {SYS_pidfd_send_signal, {ARG_IS(1, s->backs[5]), ARG_IS(2, SIGKILL)}},
        {SYS_pidfd_send_signal, {ARG_IS(1, s->backs[6]), ARG_IS(2, SIGKILL)}},
        {SYS_pidfd_send_signal, {ARG_IS(1, s->backs[7]), ARG_IS(2, SIGKILL)}},
        {SYS_pidfd_send_signal, {ARG_IS(1, s->backs[8]), ARG_IS(2, SIGKILL)}},
        {SYS_pidfd_send_signal, {ARG_IS(1, s->backs[9]), ARG_IS(2, SIGKILL)}},
        {SYS_waitid, {{0}}},
        {SYS_getpid, {{0}}},
        {SYS_geteuid, {{0}}},
        {SYS_getrandom, {{0}}},
        {SYS_fdatasync, {{0}}}, /* the record of a handover; disks */
        RULES_COMMON,
        RULES_MEMORY,
        /* the last ones are for disks */
        {SYS_sched_yield, {{0}}},
        {SYS_preadv, {{0}}},
        {SYS_pwritev, {{0}}},
        {SYS_fcntl, {ARG_IS(2, F_OFD_SETLK)}},
        {SYS_fallocate, {{0}}},
        {SYS_io_uring_enter, {ARG_IS(1, s->disk_ring)}},
    };
    return seal(rules, ARRAY_LEN(rules) - (s->disks ? 0 : DISK_RULES), e);
}

/* What a file's stand-in needs (stand_in.c). */
#define RULES_STAND_IN                                                                                   \
    {SYS_newfstatat, {ARG_IS(4, AT_EMPTY_PATH)}}, {SYS_newfstatat | TRAPPED, {{0}}}, {SYS_fstat, {{0}}}, \
        {SYS_openat | TRAPPED, {{0}}}, {SYS_lseek, {{0}}},                                               \
    {                                                                                                    \
        SYS_dup,                                                                                         \
        {                                                                                                \
            {                                                                                            \
                0                                                                                        \
            }                                                                                            \
        }                                                                                                \
    }

int host_seal_net_user(int tap, struct error *e)
{
    const struct rule rules[] = {
        {SYS_read, {{0}}},
        {SYS_write, {{0}}},
        {SYS_readv, {ARG_IS(1, tap)}},
        {SYS_writev, {ARG_IS(1, tap)}},
        {SYS_recvfrom, {{0}}},
        {SYS_sendto, {{0}}},
        {SYS_recvmsg, {{0}}},
        {SYS_sendmsg, {{0}}},
        {SYS_close, {{0}}},
        {SYS_socket, {ARG_IS(1, AF_INET), ARG_BITS(2, INT_MASK & ~(u64)(SOCK_CLOEXEC | SOCK_NONBLOCK), SOCK_STREAM)}},
        {SYS_socket, {ARG_IS(1, AF_INET), ARG_BITS(2, INT_MASK & ~(u64)(SOCK_CLOEXEC | SOCK_NONBLOCK), SOCK_DGRAM)}},
        {SYS_socket, {ARG_IS(1, AF_INET6), ARG_BITS(2, INT_MASK & ~(u64)(SOCK_CLOEXEC | SOCK_NONBLOCK), SOCK_STREAM)}},
        {SYS_socket, {ARG_IS(1, AF_INET6), ARG_BITS(2, INT_MASK & ~(u64)(SOCK_CLOEXEC | SOCK_NONBLOCK), SOCK_DGRAM)}},
        {SYS_socket | REFUSED, {{0}}}, /* raw ones for ICMP are tried when datagrams are refused */
        {SYS_connect, {{0}}},
        {SYS_bind, {{0}}},
        {SYS_listen, {{0}}},
        {SYS_accept, {{0}}},
        {SYS_accept4, {{0}}},
        {SYS_shutdown, {{0}}},
        {SYS_getsockname, {{0}}},
        {SYS_getpeername, {{0}}},
        {SYS_getsockopt, {{0}}},
        {SYS_setsockopt, {{0}}},
        {SYS_ioctl, {ARG_IS(2, FIONREAD)}},
        {SYS_ioctl, {ARG_IS(2, FIONBIO)}},
        {SYS_fcntl, {ARG_IS(2, F_GETFL)}},
        {SYS_fcntl, {ARG_IS(2, F_SETFL)}},
        {SYS_fcntl, {ARG_IS(2, F_SETFD)}},
        {SYS_getpid, {{0}}},
        {SYS_getrandom, {{0}}},
        RULES_STAND_IN,
        RULES_COMMON,
        RULES_MEMORY,
    };
    return seal(rules, ARRAY_LEN(rules), e);
}

int host_seal_names(int file, int listener, struct error *e)
{
    const struct rule rules[] = {
        {SYS_recvfrom, {{0}}},
        {SYS_sendto, {{0}}},
        {SYS_close, {{0}}},
        {SYS_socket, {ARG_IS(1, AF_INET), ARG_BITS(2, INT_MASK & ~(u64)(SOCK_CLOEXEC | SOCK_NONBLOCK), SOCK_STREAM)}},
        {SYS_socket, {ARG_IS(1, AF_INET), ARG_BITS(2, INT_MASK & ~(u64)(SOCK_CLOEXEC | SOCK_NONBLOCK), SOCK_DGRAM)}},
        {SYS_socket, {ARG_IS(1, AF_INET6), ARG_BITS(2, INT_MASK & ~(u64)(SOCK_CLOEXEC | SOCK_NONBLOCK), SOCK_STREAM)}},
        {SYS_socket, {ARG_IS(1, AF_INET6), ARG_BITS(2, INT_MASK & ~(u64)(SOCK_CLOEXEC | SOCK_NONBLOCK), SOCK_DGRAM)}},
        {SYS_connect, {{0}}},
        {SYS_accept4, {ARG_IS(1, listener)}},
        {SYS_getsockopt, {ARG_IS(2, SOL_SOCKET), ARG_IS(3, SO_ERROR)}},
        {SYS_fcntl, {ARG_IS(1, file), ARG_IS(2, F_OFD_GETLK)}},
        {SYS_fcntl, {ARG_IS(1, file), ARG_IS(2, F_OFD_SETLK)}},
        {SYS_getrandom, {{0}}},
        RULES_COMMON,
        RULES_MEMORY,
    };
    return seal(rules, ARRAY_LEN(rules), e);
}

int host_seal_net_tap(int tap, struct error *e)
{
    const struct rule rules[] = {
        {SYS_read, {{0}}},
        {SYS_write, {{0}}},
        {SYS_readv, {ARG_IS(1, tap)}},
        {SYS_writev, {ARG_IS(1, tap)}},
        {SYS_ioctl, {ARG_IS(1, tap), ARG_IS(2, TUNSETOFFLOAD)}},
        {SYS_sched_yield, {{0}}},
        {SYS_close, {{0}}},
        RULES_COMMON,
        RULES_MEMORY,
    };
    return seal(rules, ARRAY_LEN(rules), e);
}

int host_seal_net_switch(int listener, int dir, struct error *e)
{
    const struct rule rules[] = {
        {SYS_read, {{0}}},
        {SYS_write, {{0}}},
        {SYS_recvmsg, {{0}}},
        {SYS_sendto, {ARG_BITS(5, ~0ull, 0)}},
        {SYS_accept4, {ARG_IS(1, listener)}},
        {SYS_getsockopt, {ARG_IS(2, SOL_SOCKET), ARG_IS(3, SO_PEERCRED)}},
        {SYS_fcntl, {ARG_IS(2, F_GET_SEALS)}},
        {SYS_geteuid, {{0}}},
        {SYS_newfstatat, {ARG_IS(4, AT_EMPTY_PATH)}},
        {SYS_fstat, {{0}}},
        {SYS_mmap, {ARG_WITHIN(3, RW), ARG_BITS(4, MAP_TYPE, MAP_SHARED)}}, /* wires that machines bring */
        {SYS_flock, {{0}}},
        {SYS_unlinkat, {ARG_IS(1, dir), ARG_IS(3, 0)}},
        {SYS_close, {{0}}},
        RULES_COMMON,
        RULES_MEMORY,
    };
    return seal(rules, ARRAY_LEN(rules), e);
}

#define SHARE_WRITE_RULES 25u /* at the end of the share's table */

int host_seal_share(bool read_only, struct error *e)
{
    const struct rule rules[] = {
        {SYS_read, {{0}}},
        {SYS_write, {{0}}}, /* events, the word to the keeper */
        {SYS_close, {{0}}},
        /* By path only what /proc says of a descriptor; names through openat2, whose flags can not be seen from here. */
        {SYS_openat, {ARG_IS(1, AT_FDCWD), ARG_BITS(3, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY)}},
        {SYS_openat2, {{0}}},
        {SYS_pread64, {{0}}},
        {SYS_lseek, {{0}}},
        {SYS_getdents64, {{0}}},
        {SYS_statx, {{0}}},
        {SYS_fstatfs, {{0}}},
        {SYS_readlinkat, {{0}}},
        {SYS_getxattr, {{0}}},
        {SYS_listxattr, {{0}}},
        {SYS_fsync, {{0}}},
        {SYS_fdatasync, {{0}}},
        {SYS_syncfs, {{0}}},
        {SYS_getrandom, {{0}}},
        RULES_COMMON,
        RULES_MEMORY,
        /* the last ones change something */
        {SYS_openat, {ARG_IS(1, AT_FDCWD), ARG_BITS(3, O_CREAT, 0)}},
        {SYS_pwrite64, {{0}}},
        {SYS_fcntl, {ARG_IS(2, F_SETFL)}},
        {SYS_ftruncate, {{0}}},
        {SYS_fallocate, {{0}}},
        {SYS_copy_file_range, {{0}}},
        {SYS_mkdirat, {{0}}},
        {SYS_mknodat, {ARG_BITS(3, S_IFMT, S_IFREG)}},
        {SYS_mknodat, {ARG_BITS(3, S_IFMT, S_IFIFO)}},
        {SYS_mknodat, {ARG_BITS(3, S_IFMT, S_IFSOCK)}},
        {SYS_symlinkat, {{0}}},
        {SYS_linkat, {ARG_IS(1, AT_FDCWD), ARG_IS(5, AT_SYMLINK_FOLLOW)}},
        {SYS_unlinkat, {{0}}},
        {SYS_renameat2, {{0}}},
        {SYS_fchmodat, {ARG_IS(1, AT_FDCWD)}},
        {SYS_fchownat, {ARG_IS(5, AT_EMPTY_PATH)}},
        {SYS_utimensat, {ARG_IS(4, AT_EMPTY_PATH)}},
        {SYS_setxattr, {{0}}},
        {SYS_removexattr, {{0}}},
        {SYS_setfsuid, {{0}}},
        {SYS_setfsgid, {{0}}},
        {SYS_capget, {{0}}},
        {SYS_capset, {{0}}}, /* within what it has */
        {SYS_geteuid, {{0}}},
        {SYS_getegid, {{0}}},
    };
    return seal(rules, ARRAY_LEN(rules) - (read_only ? SHARE_WRITE_RULES : 0), e);
}
