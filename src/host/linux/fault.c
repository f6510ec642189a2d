/*
 * Synchronous faults of code that runs on a guest's behalf, turned into return values.
 *
 * Signal dispositions belong to the process, so this file has the tree's rare process-wide state: which handlers stood
 * before ours, and a small table of code regions. Two services share one handler:
 *
 *  - A region, [start, end) of code memory with a recovery address. When an instruction inside it faults, the handler
 *    changes the interrupted context: RIP = recover, RAX and RDX tell what happened (host.h), and returns (what these two
 *    held can be kept below the stack pointer). All other
 *    registers, x87, MXCSR and vectors are as at the fault, because the kernel restores them from the signal frame. No
 *    set-up per execution: this is what the interpreter's stubs use.
 *  - host_fault_call, for a call now and then: a frame of saved registers, linked to the thread, that the handler
 *    returns to.
 *
 * What must stay true
 *  1. The handler makes no system call: it runs in a sealed process. It takes no lock; regions are published by storing
 *     `end` last and withdrawn by clearing it first.
 *  2. A fault that is nobody's has its usual effect: the earlier handler is called, or, where there was none, the same
 *     fault is raised again with its signal blocked, which the kernel answers by ending the process.
 *  3. A signal sent by a process (si_code <= 0) is nobody's fault.
 *
 * Source: Linux arch/x86/kernel/signal.c (frame layout), traps.c (trap numbers in the frame).
 */
#include "host/host.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <ucontext.h>

#define REGIONS     256         /* two a CPU of a machine, and some to spare */
#define STACK_ROOM  (32u << 10) /* for the handler itself, beyond the kernel's frame */
#define STACK_FRAME (16u << 10) /* a frame with AVX-512 and tile state, if the kernel does not tell */

#ifndef AT_MINSIGSTKSZ
#define AT_MINSIGSTKSZ 51
#endif

/* A host_fault_call in progress. */
struct fault_frame {
    struct fault_frame *outer;
    u64 rsp; /* callee-saved registers stand here */
    const u8 *start, *end;
    struct host_fault *out;
};

struct fault_region {
    const u8 *start, *recover;
    bool keep;
    const u8 *end; /* NULL: free; atomic */
};

static const int fault_signals[] = {SIGILL, SIGFPE, SIGSEGV, SIGBUS, SIGTRAP};
static const u8 fault_kinds[] = {HOST_FAULT_ILL, HOST_FAULT_FPE, HOST_FAULT_SEGV, HOST_FAULT_BUS, HOST_FAULT_TRAP};

static pthread_mutex_t fault_lock = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction fault_before[ARRAY_LEN(fault_signals)];
static struct fault_region fault_regions[REGIONS];
static __thread struct fault_frame *fault_current __attribute__((tls_model("initial-exec")));

static int signal_index(int sig)
{
    for (unsigned i = 0; i < ARRAY_LEN(fault_signals); i++)
        if (fault_signals[i] == sig)
            return (int)i;
    return -1;
}

/* --- host_fault_call: fn(arg) with a way back --- */

/* Returns 0 after fn returned, 1 after the handler jumped to fault_call_recover. */
int fault_call_enter(void (*fn)(void *), void *arg, u64 *rsp);
void fault_call_recover(void);

__asm__(".pushsection .text\n"
        ".globl fault_call_enter, fault_call_recover\n"
        ".hidden fault_call_enter, fault_call_recover\n"
        ".type fault_call_enter, @function\n"
        "fault_call_enter:\n"
        "    push %rbx\n    push %rbp\n    push %r12\n    push %r13\n    push %r14\n    push %r15\n"
        "    sub $8, %rsp\n"
        "    mov %rsp, (%rdx)\n"
        "    mov %rdi, %rax\n"
        "    mov %rsi, %rdi\n"
        "    call *%rax\n"
        "    xor %eax, %eax\n"
        "1:  add $8, %rsp\n"
        "    pop %r15\n    pop %r14\n    pop %r13\n    pop %r12\n    pop %rbp\n    pop %rbx\n"
        "    ret\n"
        "fault_call_recover:\n"
        "    mov $1, %eax\n"
        "    jmp 1b\n"
        ".size fault_call_enter, . - fault_call_enter\n"
        ".popsection\n");

int host_fault_call(void (*fn)(void *), void *arg, const u8 *start, const u8 *end, struct host_fault *f)
{
    struct fault_frame frame = {.outer = fault_current, .start = start, .end = end, .out = f};
    u32 mxcsr;
    u16 fcw;
    *f = (struct host_fault){.kind = HOST_FAULT_NONE};
    __asm__ volatile("stmxcsr %0\n\tfnstcw %1" : "=m"(mxcsr), "=m"(fcw));
    fault_current = &frame;
    int faulted = fault_call_enter(fn, arg, &frame.rsp);
    fault_current = frame.outer;
    if (!faulted)
        return 0;
    __asm__ volatile("fnstsw %0\n\tstmxcsr %1" : "=m"(f->fsw), "=m"(f->mxcsr));
    __asm__ volatile("fninit\n\tfldcw %1\n\tldmxcsr %0" ::"m"(mxcsr), "m"(fcw));
    return f->kind;
}

/* --- the handler --- */

static bool recover_region(const siginfo_t *info, greg_t *regs)
{
    const u8 *rip = (const u8 *)regs[REG_RIP];
    for (unsigned i = 0; i < REGIONS; i++) {
        struct fault_region *r = &fault_regions[i];
        const u8 *end = __atomic_load_n(&r->end, __ATOMIC_ACQUIRE);
        if (!end || rip < r->start || rip >= end)
            continue;
        u64 offset = (u64)(rip - r->start), kept[] = {(u64)regs[REG_RDX], (u64)regs[REG_RAX]};
        if (r->keep) /* RSP need not be aligned */
            memcpy((u8 *)regs[REG_RSP] - sizeof(kept), kept, sizeof(kept));
        regs[REG_RAX] = (greg_t)(offset << 32 | (u64)(regs[REG_ERR] & 0xffff) << 16 | HOST_FAULT_TAKEN |
                                 (u64)(regs[REG_TRAPNO] & 0xff));
        regs[REG_RDX] = (greg_t)(uintptr_t)info->si_addr;
        regs[REG_RIP] = (greg_t)r->recover;
        return true;
    }
    return false;
}

static bool recover_call(int index, const siginfo_t *info, greg_t *regs)
{
    const u8 *rip = (const u8 *)regs[REG_RIP];
    for (struct fault_frame *f = fault_current; f; f = f->outer) {
        if (rip < f->start || rip >= f->end)
            continue;
        f->out->kind = fault_kinds[index];
        f->out->si_code = info->si_code;
        f->out->trap = (u8)regs[REG_TRAPNO];
        f->out->address = (u64)(uintptr_t)info->si_addr;
        f->out->rip = (u64)rip;
        fault_current = f; /* frames inside it are gone */
        regs[REG_RSP] = (greg_t)f->rsp;
        regs[REG_RIP] = (greg_t)fault_call_recover;
        return true;
    }
    return false;
}

/* Raise a fault whose signal is blocked: the kernel then ends the process with it, whatever handler is set. */
static void __attribute__((noreturn)) raise_again(int sig)
{
    if (sig == SIGSEGV)
        __asm__ volatile("movb $0, 8" ::: "memory");
    if (sig == SIGFPE)
        __asm__ volatile("xor %%eax, %%eax\n\txor %%edx, %%edx\n\tdiv %%eax" ::: "eax", "edx", "cc");
    for (;;)
        __asm__ volatile("ud2");
}

static void pass_on(int index, int sig, siginfo_t *info, void *context)
{
    const struct sigaction *before = &fault_before[index];
    if (before->sa_flags & SA_SIGINFO)
        before->sa_sigaction(sig, info, context);
    else if (before->sa_handler != SIG_DFL && before->sa_handler != SIG_IGN)
        before->sa_handler(sig);
    else if (before->sa_handler == SIG_DFL || info->si_code > 0)
        raise_again(sig); /* the kernel does not ignore a fault either */
}

static void fault_handler(int sig, siginfo_t *info, void *context)
{
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    int index = signal_index(sig);
    if (info->si_code > 0 && (recover_region(info, regs) || recover_call(index, info, regs)))
        return;
    pass_on(index, sig, info, context);
}

/* --- set-up --- */

static int install_handlers(struct error *e)
{
    struct sigaction ours = {.sa_sigaction = fault_handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&ours.sa_mask);
    for (unsigned i = 0; i < ARRAY_LEN(fault_signals); i++) {
        struct sigaction now;
        if (sigaction(fault_signals[i], NULL, &now) < 0)
            return error_set(e, errno, "signal %d: sigaction: %s", fault_signals[i], strerror(errno));
        if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == fault_handler)
            continue;
        fault_before[i] = now;
        if (sigaction(fault_signals[i], &ours, NULL) < 0)
            return error_set(e, errno, "signal %d: sigaction: %s", fault_signals[i], strerror(errno));
    }
    return 0;
}

static size_t stack_size(void)
{
    size_t frame = (size_t)getauxval(AT_MINSIGSTKSZ);
    return ((frame ? frame : STACK_FRAME) + STACK_ROOM + PAGE_SIZE - 1) & PAGE_MASK;
}

/* A stack for this thread's handlers, unless it has one that is large enough. */
static int install_stack(struct error *e)
{
    stack_t now, ours = {.ss_size = stack_size()};
    if (sigaltstack(NULL, &now) == 0 && !(now.ss_flags & SS_DISABLE) && now.ss_size >= ours.ss_size)
        return 0;
    ours.ss_sp = host_map_guarded(ours.ss_size, e);
    if (!ours.ss_sp)
        return -ENOMEM;
    if (sigaltstack(&ours, NULL) == 0)
        return 0;
    int err = errno;
    host_unmap_guarded(ours.ss_sp, ours.ss_size);
    return error_set(e, err, "signal stack: sigaltstack: %s", strerror(err));
}

int host_fault_init(struct error *e)
{
    int rc = install_stack(e);
    if (rc)
        return rc;
    pthread_mutex_lock(&fault_lock);
    rc = install_handlers(e);
    pthread_mutex_unlock(&fault_lock);
    return rc;
}

int host_fault_region_add(const u8 *start, const u8 *end, const u8 *recover, bool keep)
{
    int rc = -ENOSPC;
    pthread_mutex_lock(&fault_lock);
    for (unsigned i = 0; i < REGIONS && rc; i++) {
        struct fault_region *r = &fault_regions[i];
        if (r->end)
            continue;
        r->start = start;
        r->recover = recover;
        r->keep = keep;
        __atomic_store_n(&r->end, end, __ATOMIC_RELEASE);
        rc = 0;
    }
    pthread_mutex_unlock(&fault_lock);
    return rc;
}

void host_fault_region_remove(const u8 *start)
{
    pthread_mutex_lock(&fault_lock);
    for (unsigned i = 0; i < REGIONS; i++)
        if (fault_regions[i].end && fault_regions[i].start == start)
            __atomic_store_n(&fault_regions[i].end, NULL, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&fault_lock);
}
