/*
 * Architectural checks: corners of the instruction set that emulators get wrong, each as a program sees them.
 *
 * A check that expects a fault runs between `EXPECT` and its result: the handler notes signal and address and jumps back.
 * All run in a child process, so that a guest that loses its way ends the child and is reported.
 */
#include "kit.h"

#include <fenv.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>
#include <x86intrin.h>

static int bad;
static sigjmp_buf back;
static volatile int got_signal, traps;
static volatile u64 got_address;
static volatile u64 sink;

static void result(const char *name, bool ok)
{
    printf("chk_%-14s %s\n", name, ok ? "OK" : "BAD");
    bad += !ok;
}

static void on_fault(int sig, siginfo_t *info, void *context)
{
    (void)context;
    got_signal = sig;
    got_address = (u64)info->si_addr;
    siglongjmp(back, 1);
}

/* Run a statement that is to fault; afterwards got_signal and got_address tell. */
#define EXPECT(statement)            \
    do {                             \
        got_signal = 0;              \
        got_address = 0;             \
        if (sigsetjmp(back, 1) == 0) \
            statement;               \
    } while (0)

static void on_trap(int sig, siginfo_t *info, void *context)
{
    (void)sig;
    (void)info;
    traps++;
    if (traps >= 5)
        ((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] &= ~0x100LL;
}

static void handle(int sig, void (*f)(int, siginfo_t *, void *), int flags)
{
    struct sigaction sa = {.sa_sigaction = f, .sa_flags = SA_SIGINFO | flags};
    sigaction(sig, &sa, NULL);
}

/* --- faults --- */

static void check_arithmetic_faults(void)
{
    volatile int zero = 0, lowest = (int)0x80000000, minus_one = -1;
    EXPECT(sink = (u64)(5 / zero));
    result("div0", got_signal == SIGFPE);
    volatile int quotient = 0;
    EXPECT(__asm__ volatile("cltd; idivl %2; movl %%eax, %0" : "=m"(quotient) : "a"(lowest), "r"(minus_one) : "edx"));
    result("idiv_ovf", got_signal == SIGFPE);
    EXPECT(__asm__ volatile("ud2"));
    result("ud2", got_signal == SIGILL);
    EXPECT(__asm__ volatile("hlt"));
    result("priv_hlt", got_signal == SIGSEGV);
}

static void check_memory_faults(void)
{
    EXPECT(*(volatile int *)0x1238 = 1);
    result("segv_addr", got_signal == SIGSEGV && got_address == 0x1238);
    EXPECT(__asm__ volatile("mov (%0), %%rax" ::"r"(0x8000000000001000ull) : "rax"));
    result("noncanon", got_signal == SIGSEGV);

    u8 *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    p[0] = 0xc3;
    EXPECT(((void (*)(void))p)());
    result("nx", got_signal == SIGSEGV && got_address == (u64)p);

    /* A store across the end of what may be written must change nothing; a string instruction what it reached. */
    mprotect(p + 4096, 4096, PROT_NONE);
    EXPECT(*(volatile u64 *)(p + 4092) = 1);
    result("xpage_fault", got_signal == SIGSEGV && got_address == (u64)(p + 4096) && p[4092] == 0);
    u64 count = 100;
    u8 *to = p + 4046;
    EXPECT(__asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(7) : "memory"));
    result("rep_fault", got_signal == SIGSEGV && p[4095] == 7 && p[4046] == 7);
    munmap(p, 8192);
}

static void check_breakpoint(void)
{
    handle(SIGTRAP, on_trap, 0);
    traps = 0;
    __asm__ volatile("int3");
    result("int3", traps == 1);
}

/* --- flags and registers --- */

static void check_flags(void)
{
    u64 flags, r;
    u8 c1, c2;
    __asm__ volatile("mov $0, %%rax; mov $5, %%rbx; bsf %%rax, %%rbx; setz %0; mov %%rbx, %1"
                     : "=r"(c1), "=r"(r)::"rax", "rbx", "cc");
    result("bsf0", c1 == 1 && r == 5);
    __asm__ volatile("mov $-1, %%rax; add $1, %%rax; adc $0, %%rax; sbb %%rbx, %%rbx; stc; adc $-1, %%rax; "
                     "setc %0; seto %1"
                     : "=r"(c1), "=r"(c2)::"rax", "rbx", "cc");
    result("adc_chain", c1 == 1 && c2 == 0);
    __asm__ volatile("xor %%ecx, %%ecx; stc; mov $1, %%eax; shl %%cl, %%eax; setc %0" : "=r"(c1)::"rax", "rcx", "cc");
    result("shl0_flags", c1 == 1);
    /* Below the red zone: compilers may keep data there. */
    __asm__ volatile("sub $128, %%rsp; mov $0x7f, %%al; add $1, %%al; pushfq; pop %0; add $128, %%rsp"
                     : "=r"(flags)::"rax", "cc", "memory");
    result("flags_add8", (flags & 0x8d5) == 0x890); /* OF SF AF, not CF ZF PF */
    __asm__ volatile("mov $0xffffffff, %%eax; xor %%rdx, %%rdx; dec %%rdx; mov %%eax, %%edx; mov %%rdx, %0"
                     : "=r"(r)::"rax", "rdx");
    result("zext32", r == 0xffffffffull);
}

/* --- floating point --- */

static u64 bits(double d)
{
    u64 v;
    memcpy(&v, &d, 8);
    return v;
}

static void check_conversion(void)
{
    volatile double large = 1e300;
    double v = large * 1e10;
    int q;
    long ql;
    __asm__("cvttsd2si %1, %0" : "=r"(q) : "x"(v));
    __asm__("cvttsd2si %1, %0" : "=r"(ql) : "x"(v));
    result("cvt_ovf", q == (int)0x80000000 && ql == (long)0x8000000000000000);
}

static void check_float(void)
{
    volatile double one = 1.0, three = 3.0, zero = 0;
    fesetround(FE_UPWARD);
    volatile double up = one / three;
    fesetround(FE_DOWNWARD);
    volatile double down = one / three;
    fesetround(FE_TONEAREST);
    result("mxcsr_round", bits(up) == bits(down) + 1);
    volatile double least = 4.9406564584124654e-324;
    result("denormal", bits(least * 2) == 2);
    volatile long double l = 1.0L;
    long double k = l + 0x1p-63L;
    result("x87_80bit", k != 1.0L && (double)k == 1.0);
    feclearexcept(FE_ALL_EXCEPT);
    sink = (one / zero) > 0;
    result("fp_flags", fetestexcept(FE_DIVBYZERO) != 0);
    feclearexcept(FE_ALL_EXCEPT);
}

/* --- the rest --- */

static void check_cmpxchg16b(void)
{
    unsigned __int128 v = (unsigned __int128)2 << 64 | 1;
    u64 low = 1, high = 2;
    u8 ok;
    __asm__ volatile("lock cmpxchg16b %1; setz %0"
                     : "=q"(ok), "+m"(v), "+a"(low), "+d"(high)
                     : "b"(7ull), "c"(9ull)
                     : "cc");
    result("cmpxchg16b", ok && (u64)v == 7 && (u64)(v >> 64) == 9);
}

/* An instruction that changes the operand of the next one: mov byte [rip + 1], 7; mov eax, 1; ret */
static void check_self_modification(void)
{
    static const u8 code[] = {0xc6, 0x05, 0x01, 0, 0, 0, 7, 0xb8, 1, 0, 0, 0, 0xc3};
    u8 *p = kit_code_pages() + 16384;
    memcpy(p, code, sizeof(code));
    result("smc_same_bb", ((u32(*)(void))p)() == 7);
}

/* Overlapping, backwards: as memmove does. */
static void check_backward_string(void)
{
    u8 a[64], b[64];
    for (int i = 0; i < 64; i++)
        a[i] = b[i] = (u8)i;
    u8 *from = a + 40, *to = a + 45;
    u64 n = 30;
    __asm__ volatile("std; rep movsb; cld" : "+S"(from), "+D"(to), "+c"(n)::"memory", "cc");
    memmove(b + 16, b + 11, 30);
    result("rep_std", !memcmp(a, b, 64));
}

static void check_time_stamp(void)
{
    if (kit_has(NEED_RDTSCP)) {
        u32 aux;
        u64 first = __rdtscp(&aux), second = __rdtscp(&aux);
        result("rdtscp", second >= first);
    }
    double t = kit_now();
    u64 ticks = __rdtsc();
    usleep(20000);
    t = kit_now() - t;
    printf("info_tsc_mhz   %.0f\n", (double)(__rdtsc() - ticks) / t / 1e6);
}

static void all_checks(void)
{
    static const int faults[] = {SIGFPE, SIGILL, SIGSEGV, SIGBUS};
    for (size_t i = 0; i < ARRAY_LEN(faults); i++)
        handle(faults[i], on_fault, SA_NODEFER);
    check_arithmetic_faults();
    check_memory_faults();
    check_breakpoint();
    check_flags();
    check_conversion();
    check_float();
    check_cmpxchg16b();
    check_self_modification();
    check_backward_string();
    check_time_stamp();
}

/* TF set by POPF traps after the next instruction, and then after each until the handler clears it in the frame. */
static void check_single_step(void)
{
    handle(SIGTRAP, on_trap, 0);
    traps = 0;
    __asm__ volatile(
        "sub $128, %%rsp; pushfq; orq $0x100, (%%rsp); popfq; nop; nop; nop; nop; nop; nop; nop; nop; nop; "
        "add $128, %%rsp" ::
            : "cc", "memory");
    result("single_step", traps == 5);
}

static int in_child(const char *name, void (*f)(void))
{
    int status;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        f();
        fflush(stdout);
        _exit(bad);
    }
    waitpid(child, &status, 0);
    if (WIFEXITED(status))
        return WEXITSTATUS(status);
    printf("chk_%-14s BAD killed by signal %d\n", name, WTERMSIG(status));
    return 1;
}

int kit_checks(void)
{
    return in_child("all", all_checks) + in_child("single_step", check_single_step);
}
