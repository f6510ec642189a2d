/*
 * Running cases on the processor itself.
 *
 * A child process, sealed by seccomp, lives inside one signal handler. Each case ends by a trap or a fault; the handler
 * takes the registers out of the signal frame (general registers, flags, XSAVE area, trap number, error code, CR2), puts
 * those of the next case in, and returns from the signal into the next case. So a case costs one signal.
 *
 * What must stay true
 *  1. From the moment FS base is the tested one, nothing in the child uses thread-local storage: no libc calls.
 *  2. The handler's first instructions clear AC and DF, which signal delivery leaves as the case had them.
 *  3. Code is written through an alias: no page is ever writable and executable at one address.
 *  4. The control block is at a fixed address far from what cases aim at; a case that damages it is a failed case.
 *
 * Not done: hosts whose kernel rewrites error codes for user addresses (none known).
 */
#include "oracle.h"

#include <cpuid.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <asm/ldt.h>
#include <asm/prctl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define CONTROL   ((struct control *)0x6f0000000000ull)
#define ALT_STACK 0x20000u
#define DEADLINE  10 /* seconds without a case done before the child counts as hung */

enum component { C_AVX = 2, C_OPMASK = 5, C_ZMM_HI256 = 6, C_HI16_ZMM = 7, COMPONENTS = 8 };

struct control {
    u32 request, reply; /* futexes: batch numbers */
    u32 count, at;
    u32 have_case, no_segments;
    u8 *code_alias;
    u64 xcr0;
    u32 offset[COMPONENTS]; /* of XSAVE components on this host */
    u8 pristine[ORACLE_PATTERNS][ORACLE_DATA_SIZE];
    u8 last_data[ORACLE_DATA_SIZE];
    struct oracle_case cases[ORACLE_BATCH];
    struct oracle_result results[ORACLE_BATCH];
    u8 alt_stack[ALT_STACK] __attribute__((aligned(4096)));
};

struct oracle_native {
    struct control *control; /* the parent's view */
    int control_fd, code_fd;
    pid_t pid;
};

/* ---- in the child ---- */

static long raw_syscall(long nr, long a, long b, long c, long d)
{
    register long r10 __asm__("r10") = d;
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
    return r;
}

static void raw_copy(void *to, const void *from, size_t n)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

static void raw_fill(void *to, u8 value, size_t n)
{
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(value) : "memory");
}

/* Order of general registers in a signal frame. */
static const u8 greg_of[CPU_GPRS] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                     REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

#define XSAVE_HEADER 512u

static u64 *xstate_bv(u8 *xsave)
{
    return (u64 *)(void *)(xsave + XSAVE_HEADER);
}

static void frame_load_vectors(const struct control *ctl, u8 *xs, const struct oracle_state *s)
{
    for (unsigned i = 0; i < 32; i++) {
        const u8 *z = s->zmm[i].b;
        if (i < 16) {
            raw_copy(xs + 160 + 16 * i, z, 16);
            if (ctl->xcr0 & XCR0_AVX)
                raw_copy(xs + ctl->offset[C_AVX] + 16 * i, z + 16, 16);
            if (ctl->xcr0 & XCR0_ZMM_HI256)
                raw_copy(xs + ctl->offset[C_ZMM_HI256] + 32 * i, z + 32, 32);
        } else if (ctl->xcr0 & XCR0_HI16_ZMM) {
            raw_copy(xs + ctl->offset[C_HI16_ZMM] + 64 * (i - 16), z, 64);
        }
    }
    if (ctl->xcr0 & XCR0_OPMASK)
        raw_copy(xs + ctl->offset[C_OPMASK], s->k, sizeof(s->k));
}

#define USER_CS64 0x33
#define USER_CS32 0x23
#define USER_CS16 0x07 /* in the child's own LDT */
#define USER_DS16 0x0f
#define USER_DS   0x2b

static void frame_load(const struct control *ctl, ucontext_t *uc, const struct oracle_state *s, u8 mode)
{
    greg_t *g = uc->uc_mcontext.gregs;
    u8 *xs = (u8 *)uc->uc_mcontext.fpregs;

    for (unsigned i = 0; i < CPU_GPRS; i++)
        g[greg_of[i]] = (greg_t)s->gpr[i];
    g[REG_RIP] = (greg_t)s->rip;
    g[REG_EFL] = (greg_t)s->rflags;
    /* The frame has CS and SS; DS and ES are what they are when the handler returns. */
    u64 cs = mode == ISA_MODE_64 ? USER_CS64 : mode == ISA_MODE_32 ? USER_CS32 : USER_CS16;
    u64 ss = mode == ISA_MODE_16 ? USER_DS16 : USER_DS;
    g[REG_CSGSFS] = (greg_t)(((u64)g[REG_CSGSFS] & 0x0000ffffffff0000ull) | cs | ss << 48);
    __asm__ volatile("mov %0, %%ds\n\tmov %0, %%es" : : "r"((u32)ss));
    raw_copy(xs, s->fx, 28); /* not MXCSR_MASK */
    raw_copy(xs + 32, s->fx + 32, sizeof(s->fx) - 32);
    frame_load_vectors(ctl, xs, s);
    *xstate_bv(xs) |= ctl->xcr0;
}

/* A component in its initial state need not be in the frame. */
static void frame_part(u8 *xs, unsigned component, u32 offset, void *to, size_t n)
{
    if (*xstate_bv(xs) >> component & 1)
        raw_copy(to, xs + offset, n);
    else
        raw_fill(to, 0, n);
}

static void frame_store_vectors(const struct control *ctl, u8 *xs, struct oracle_state *s)
{
    for (unsigned i = 0; i < 32; i++) {
        u8 *z = s->zmm[i].b;
        raw_fill(z, 0, 64);
        if (i < 16) {
            frame_part(xs, 1, 160 + 16 * i, z, 16);
            if (ctl->xcr0 & XCR0_AVX)
                frame_part(xs, C_AVX, ctl->offset[C_AVX] + 16 * i, z + 16, 16);
            if (ctl->xcr0 & XCR0_ZMM_HI256)
                frame_part(xs, C_ZMM_HI256, ctl->offset[C_ZMM_HI256] + 32 * i, z + 32, 32);
        } else if (ctl->xcr0 & XCR0_HI16_ZMM) {
            frame_part(xs, C_HI16_ZMM, ctl->offset[C_HI16_ZMM] + 64 * (i - 16), z, 64);
        }
    }
    raw_fill(s->k, 0, sizeof(s->k));
    if (ctl->xcr0 & XCR0_OPMASK)
        frame_part(xs, C_OPMASK, ctl->offset[C_OPMASK], s->k, sizeof(s->k));
}

static void frame_store(const struct control *ctl, const ucontext_t *uc, struct oracle_result *r)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    u8 *xs = (u8 *)uc->uc_mcontext.fpregs;
    struct oracle_state *s = &r->out;

    for (unsigned i = 0; i < CPU_GPRS; i++)
        s->gpr[i] = (u64)g[greg_of[i]];
    s->rip = (u64)g[REG_RIP];
    s->rflags = (u64)g[REG_EFL];
    raw_copy(s->fx, xs, sizeof(s->fx));
    if (!(*xstate_bv(xs) & 1)) { /* x87 as FNINIT leaves it, registers zero */
        raw_fill(s->fx, 0, 24);
        raw_fill(s->fx + 32, 0, 128);
        s->fx[0] = 0x7f;
        s->fx[1] = 0x03;
    }
    frame_store_vectors(ctl, xs, s);
    r->vector = (u8)g[REG_TRAPNO];
    r->error = (u32)g[REG_ERR];
    r->cr2 = r->vector == VEC_PF ? (u64)g[REG_CR2] : 0;
}

/* Room behind the code that a case may not use, and the code itself: all INT3 again. */
static u32 code_room(const struct oracle_case *c)
{
    return MIN(c->code_len, ORACLE_CODE_SIZE - c->code_off);
}

static void case_begin(struct control *ctl, const struct oracle_case *c, ucontext_t *uc)
{
    raw_copy(ctl->code_alias + c->code_off, c->code, code_room(c));
    raw_copy((void *)ORACLE_DATA, ctl->pristine[c->pattern], ORACLE_DATA_RW);
    if (c->plant_addr)
        raw_copy((void *)(c->plant_addr + oracle_data_base(c->mode)), &c->plant_value, 8);
    frame_load(ctl, uc, &c->in, c->mode);
}

static void case_end(struct control *ctl, const struct oracle_case *c, const ucontext_t *uc)
{
    struct oracle_result *r = &ctl->results[ctl->at];
    frame_store(ctl, uc, r);
    r->memory = oracle_hash((const u8 *)ORACLE_DATA, ctl->pristine[c->pattern]);
    r->hung = 0;
    raw_fill(ctl->code_alias + c->code_off, 0xcc, code_room(c));
    if (ctl->at + 1 == ctl->count)
        raw_copy(ctl->last_data, (const void *)ORACLE_DATA, ORACLE_DATA_SIZE);
}

/* Answer the batch that is done, if any, and wait for the parent's next one. */
static void next_batch(struct control *ctl)
{
    if (ctl->have_case) {
        __atomic_store_n(&ctl->reply, ctl->request, __ATOMIC_SEQ_CST);
        raw_syscall(SYS_futex, (long)&ctl->reply, FUTEX_WAKE, 1, 0);
    }
    u32 done = ctl->reply;
    while (__atomic_load_n(&ctl->request, __ATOMIC_SEQ_CST) == done)
        raw_syscall(SYS_futex, (long)&ctl->request, FUTEX_WAIT, done, 0);
}

__attribute__((used)) static void oracle_on_trap(int sig, siginfo_t *info, ucontext_t *uc)
{
    struct control *ctl = CONTROL;
    if (ctl->have_case) {
        case_end(ctl, &ctl->cases[ctl->at], uc);
        ctl->at++;
    }
    while (ctl->at >= ctl->count)
        next_batch(ctl);
    ctl->have_case = 1;
    case_begin(ctl, &ctl->cases[ctl->at], uc);
}

void oracle_trap_entry(int sig, siginfo_t *info, void *uc);
__asm__(".text\n"
        "oracle_trap_entry:\n"
        "    pushfq\n"
        "    andq $~0x40400, (%rsp)\n" /* AC, DF */
        "    popfq\n"
        "    jmp oracle_on_trap\n");

static void child_map(struct oracle_native *n)
{
    int fixed = MAP_FIXED_NOREPLACE;
    void *ctl = mmap(CONTROL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED | fixed, n->control_fd, 0);
    void *code = mmap((void *)ORACLE_CODE, ORACLE_CODE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED | fixed, n->code_fd, 0);
    u8 *data = mmap((void *)ORACLE_DATA, ORACLE_DATA_SIZE, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | fixed, -1, 0);
    void *alias = mmap(NULL, ORACLE_CODE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, n->code_fd, 0);
    if (ctl != CONTROL || code != (void *)ORACLE_CODE || data != (void *)ORACLE_DATA || alias == MAP_FAILED)
        _exit(10);
    CONTROL->code_alias = alias;
    memset(alias, 0xcc, ORACLE_CODE_SIZE);
    memcpy(data, CONTROL->pristine[0], ORACLE_DATA_SIZE);
    if (mprotect(data + ORACLE_DATA_RW, ORACLE_DATA_SIZE - ORACLE_DATA_RW, PROT_READ))
        _exit(11);
}

/* Segments of 16 bits. Where the kernel offers none, such cases fault at once. */
static void child_segments(void)
{
    struct user_desc code = {.entry_number = USER_CS16 >> 3,
                             .base_addr = ORACLE_CODE,
                             .limit = ORACLE_LIMIT16,
                             .contents = MODIFY_LDT_CONTENTS_CODE};
    struct user_desc data = {.entry_number = USER_DS16 >> 3,
                             .base_addr = ORACLE_DATA,
                             .limit = ORACLE_LIMIT16,
                             .contents = MODIFY_LDT_CONTENTS_DATA};
    CONTROL->no_segments =
        syscall(SYS_modify_ldt, 0x11, &code, sizeof(code)) || syscall(SYS_modify_ldt, 0x11, &data, sizeof(data));
}

static void child_signals(void)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
    stack_t ss = {.ss_sp = CONTROL->alt_stack, .ss_size = ALT_STACK};
    struct sigaction sa = {.sa_sigaction = oracle_trap_entry, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigfillset(&sa.sa_mask);
    if (sigaltstack(&ss, NULL))
        _exit(12);
    for (size_t i = 0; i < ARRAY_LEN(signals); i++)
        if (sigaction(signals[i], &sa, NULL))
            _exit(13);
}

/* Without libc: FS base is the tested one already. */
static void child_seal(void)
{
#define ALLOW(nr) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
    struct sock_filter f[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        ALLOW(SYS_rt_sigreturn),
        ALLOW(SYS_futex),
        ALLOW(SYS_exit_group),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
#undef ALLOW
    struct sock_fprog p = {.len = ARRAY_LEN(f), .filter = f};
    if (raw_syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, (long)&p, 0))
        raw_syscall(SYS_exit_group, 14, 0, 0, 0);
}

static void child_main(struct oracle_native *n)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    alarm(3600);
    child_map(n);
    child_segments();
    child_signals();
    if (raw_syscall(SYS_arch_prctl, ARCH_SET_GS, (long)ORACLE_GS_BASE, 0, 0) ||
        raw_syscall(SYS_arch_prctl, ARCH_SET_FS, (long)ORACLE_FS_BASE, 0, 0))
        raw_syscall(SYS_exit_group, 15, 0, 0, 0);
    child_seal();
    /* compatibility mode needs them, 64-bit mode does not look */
    __asm__ volatile("mov %0, %%ds\n\tmov %0, %%es" ::"r"(USER_DS));
    for (;;)
        __asm__ volatile("int3");
}

/* ---- in the parent ---- */

static void find_components(struct control *ctl)
{
    static const u8 wanted[] = {C_AVX, C_OPMASK, C_ZMM_HI256, C_HI16_ZMM};
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
        unsigned a, b, c, d;
        if (__get_cpuid_count(0xd, wanted[i], &a, &b, &c, &d))
            ctl->offset[wanted[i]] = b;
    }
}

static void child_start(struct oracle_native *n)
{
    fflush(NULL);
    n->control->request = n->control->reply;
    n->control->count = n->control->at = n->control->have_case = 0;
    n->pid = fork();
    if (n->pid == 0)
        child_main(n);
    if (n->pid < 0) {
        perror("fork");
        exit(1);
    }
}

static int memory_file(const char *name, size_t size)
{
    int fd = memfd_create(name, MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)size)) {
        perror("memfd");
        exit(1);
    }
    return fd;
}

struct oracle_native *oracle_native_start(u64 xcr0)
{
    struct oracle_native *n = calloc(1, sizeof(*n));
    n->control_fd = memory_file("oracle-control", sizeof(struct control));
    n->code_fd = memory_file("oracle-code", ORACLE_CODE_SIZE);
    n->control = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, n->control_fd, 0);
    if (n->control == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    n->control->xcr0 = xcr0;
    find_components(n->control);
    for (u32 i = 0; i < ORACLE_PATTERNS; i++)
        oracle_pattern(i, n->control->pristine[i]);
    child_start(n);
    return n;
}

static void child_end(struct oracle_native *n)
{
    kill(n->pid, SIGKILL);
    waitpid(n->pid, NULL, 0);
}

/* Wait for the child's answer: 0, or -1 when it is dead or hangs (and is gone afterwards). */
static int wait_reply(struct oracle_native *n, u32 number)
{
    struct timespec slice = {.tv_nsec = 100000000};
    struct control *ctl = n->control;
    u32 progress = UINT32_MAX;
    for (unsigned idle = 0; idle < DEADLINE * 10;) {
        u32 seen = __atomic_load_n(&ctl->reply, __ATOMIC_SEQ_CST);
        if (seen == number)
            return 0;
        syscall(SYS_futex, &ctl->reply, FUTEX_WAIT, seen, &slice, NULL, 0);
        int status;
        if (waitpid(n->pid, &status, WNOHANG) == n->pid) {
            fprintf(stderr, "# native child ended, status %x, case %u\n", status, ctl->at);
            return -1;
        }
        u32 at = __atomic_load_n(&ctl->at, __ATOMIC_SEQ_CST);
        idle = at == progress ? idle + 1 : 0;
        progress = at;
    }
    child_end(n);
    return -1;
}

void oracle_native_run(struct oracle_native *n, const struct oracle_case *cases, u32 count,
                       struct oracle_result *results)
{
    struct control *ctl = n->control;
    for (u32 first = 0; first < count;) {
        u32 part = count - first, number = ctl->request + 1;
        memcpy(ctl->cases, cases + first, part * sizeof(*cases));
        ctl->count = part;
        ctl->at = ctl->have_case = 0;
        __atomic_store_n(&ctl->request, number, __ATOMIC_SEQ_CST);
        syscall(SYS_futex, &ctl->request, FUTEX_WAKE, 1, NULL, NULL, 0);
        u32 done = wait_reply(n, number) ? MIN(ctl->at, part - 1) : part;
        memcpy(results + first, ctl->results, done * sizeof(*results));
        first += done;
        if (done < part) {
            memset(&results[first], 0, sizeof(results[first]));
            results[first++].hung = 1;
            child_start(n);
        }
    }
}

bool oracle_native_narrow(const struct oracle_native *n)
{
    return !n->control->no_segments;
}

const u8 *oracle_native_data(const struct oracle_native *n)
{
    return n->control->last_data;
}

void oracle_native_stop(struct oracle_native *n)
{
    child_end(n);
    munmap(n->control, sizeof(struct control));
    close(n->control_fd);
    close(n->code_fd);
    free(n);
}
