/*
 * Whether hardware virtualisation works, found out by doing it.
 *
 * /dev/kvm that opens is not /dev/kvm that works: some hosts offer one that runs no ordinary 64-bit guest and hangs in
 * KVM_RUN. So a child process makes a machine of eight pages, sets it into 64-bit mode with paging on, and lets it
 * compute a number and halt; the parent kills it after a second. The child's exit status says how far it came.
 *
 *   guest-physical 0x0000  PML4 -> 0x1000 PDPT -> 0x2000 PD -> one 2 MiB page, identity
 *                  0x3000  the program
 */
#include "cli/doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define GUEST_SIZE  0x8000u
#define GUEST_CODE  0x3000u
#define DEADLINE_MS 1000
#define ANSWER      0x1122334455667788ull

/* How far the child came: its exit status. */
enum kvm_step { KVM_WORKS, KVM_NO_OPEN, KVM_OTHER_API, KVM_NO_VM, KVM_NO_MEMORY, KVM_NO_CPU, KVM_NO_STATE, KVM_WRONG };

static const char *const step_text[] = {
    [KVM_OTHER_API] = "speaks another API version than 12",
    [KVM_NO_VM] = "makes no virtual machine",
    [KVM_NO_MEMORY] = "takes no guest memory",
    [KVM_NO_CPU] = "makes no virtual CPU",
    [KVM_NO_STATE] = "refuses the state of 64-bit mode",
    [KVM_WRONG] = "runs a 64-bit guest wrongly",
};

static u8 *make_memory(void)
{
    static const u8 movabs_rax[] = {0x48, 0xb8}, add_rax_rax_hlt[] = {0x48, 0x01, 0xc0, 0xf4};
    const u64 half = ANSWER / 2;
    u8 *m = mmap(NULL, GUEST_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (m == MAP_FAILED)
        return NULL;
    const u64 pml4e = 0x1003, pdpte = 0x2003, pde = 0x83; /* present, writable; PS in the last */
    memcpy(m, &pml4e, 8);
    memcpy(m + 0x1000, &pdpte, 8);
    memcpy(m + 0x2000, &pde, 8);
    memcpy(m + GUEST_CODE, movabs_rax, 2);
    memcpy(m + GUEST_CODE + 2, &half, 8);
    memcpy(m + GUEST_CODE + 10, add_rax_rax_hlt, 4);
    return m;
}

/* 64-bit mode: CR0.PE|PG, CR4.PAE, EFER.LME|LMA, flat segments, CS.L. */
static int set_state(int cpu)
{
    struct kvm_sregs s;
    struct kvm_regs r = {.rip = GUEST_CODE, .rsp = GUEST_SIZE, .rflags = 2};
    if (ioctl(cpu, KVM_GET_SREGS, &s) < 0)
        return -1;
    struct kvm_segment data = {.limit = ~0u, .selector = 16, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
    s.ds = s.es = s.fs = s.gs = s.ss = data;
    s.cs = (struct kvm_segment){.limit = ~0u, .selector = 8, .type = 11, .present = 1, .l = 1, .s = 1, .g = 1};
    s.cr0 = 0x80000001 | 1 << 4;
    s.cr3 = 0;
    s.cr4 = 1 << 5;
    s.efer = 1 << 8 | 1 << 10;
    return ioctl(cpu, KVM_SET_SREGS, &s) < 0 || ioctl(cpu, KVM_SET_REGS, &r) < 0 ? -1 : 0;
}

static enum kvm_step run_guest(int cpu, size_t run_size)
{
    struct kvm_regs r;
    struct kvm_run *run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, cpu, 0);
    if (run == MAP_FAILED)
        return KVM_NO_CPU;
    if (set_state(cpu) < 0)
        return KVM_NO_STATE;
    if (ioctl(cpu, KVM_RUN, 0) < 0 || run->exit_reason != KVM_EXIT_HLT || ioctl(cpu, KVM_GET_REGS, &r) < 0)
        return KVM_WRONG;
    return r.rax == ANSWER ? KVM_WORKS : KVM_WRONG;
}

static enum kvm_step try_kvm(void)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0)
        return KVM_NO_OPEN;
    if (ioctl(kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
        return KVM_OTHER_API;
    int vm = ioctl(kvm, KVM_CREATE_VM, 0), run_size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (vm < 0 || run_size <= 0)
        return KVM_NO_VM;
    u8 *memory = make_memory();
    struct kvm_userspace_memory_region region = {.memory_size = GUEST_SIZE, .userspace_addr = (u64)memory};
    if (!memory || ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
        return KVM_NO_MEMORY;
    int cpu = ioctl(vm, KVM_CREATE_VCPU, 0);
    return cpu < 0 ? KVM_NO_CPU : run_guest(cpu, (size_t)run_size);
}

/* Wait for the child until the deadline: its wait status, or -1 when it had to be killed. */
static int wait_child(pid_t child)
{
    const struct timespec tick = {.tv_nsec = 5 * 1000 * 1000};
    int status;
    for (int ms = 0; ms < DEADLINE_MS; ms += 5) {
        if (waitpid(child, &status, WNOHANG) == child)
            return status;
        nanosleep(&tick, NULL);
    }
    kill(child, SIGKILL);
    /* A process stuck in the kernel can outlive SIGKILL for a while: do not hang with it. */
    for (int i = 0; i < 200 && waitpid(child, &status, WNOHANG) == 0; i++)
        nanosleep(&tick, NULL);
    return -1;
}

void doctor_look_kvm(struct doctor_finding *f)
{
    if (access("/dev/kvm", R_OK | W_OK) < 0) {
        int missing = errno == ENOENT;
        doctor_found(f, DOCTOR_LACKS, missing ? "no /dev/kvm" : "/dev/kvm: %s", strerror(errno));
        if (missing)
            doctor_advise(f, "switch virtualisation on in the firmware or the outer hypervisor and load kvm-intel or "
                             "kvm-amd; without it the software engines serve");
        else
            doctor_advise(f, "no engine uses it yet; for the day: `sudo usermod -aG kvm $USER`, then log in again");
        return;
    }
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        _exit(try_kvm());
    }
    int status = child < 0 ? -1 : wait_child(child);
    unsigned step = status >= 0 && WIFEXITED(status) ? (unsigned)WEXITSTATUS(status) : KVM_WRONG;
    if (status < 0)
        doctor_found(f, DOCTOR_LACKS, "/dev/kvm opens, but a 64-bit guest did not end within %d ms", DEADLINE_MS);
    else if (step == KVM_WORKS)
        doctor_found(f, DOCTOR_OK, "a 64-bit guest ran to its end; the engine that uses it is not there yet");
    else if (step == KVM_NO_OPEN)
        doctor_found(f, DOCTOR_LACKS, "/dev/kvm is there but does not open");
    else
        doctor_found(f, DOCTOR_LACKS, "/dev/kvm opens, but %s",
                     step < ARRAY_LEN(step_text) ? step_text[step] : "fails");
    if (step != KVM_WORKS || status < 0)
        doctor_advise(f, "this host's KVM can not be used; the software engines serve (--engine interp)");
}
