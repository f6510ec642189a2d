/* Kernel and initrd files into a machine of 4 MiB: the first byte chooses, two bytes split the rest. */
#include "boot/boot.h"
#include "fuzz.h"

#include <sys/mman.h>

#define RAM (4u << 20)

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
    static u8 *ram;
    struct fuzz_input in = {data, len};
    u8 flags = (u8)fuzz_number(&in, 1);
    size_t initrd_len = (size_t)fuzz_number(&in, 2);
    if (!(flags & 1) || initrd_len > in.len)
        initrd_len = 0;

    if (!ram) {
        ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        FUZZ_CHECK(ram != MAP_FAILED);
    }
    struct guest_mem m;
    struct error e = {0};
    FUZZ_CHECK(!mem_init(&m, ram, RAM, -1, &e));
    struct boot_config cfg = {.kernel = in.data,
                              .kernel_len = in.len - initrd_len,
                              .kernel_name = "kernel",
                              .initrd = flags & 1 ? in.data + in.len - initrd_len : NULL,
                              .initrd_len = initrd_len,
                              .initrd_name = "initrd",
                              .cmdline = "console=ttyS0",
                              .n_cpus = 1u + (flags >> 1)};
    struct cpu cpu = {0};
    struct boot_result res;
    int rc = boot_load(&m, &cfg, &cpu, &res, &e);
    if (rc) {
        FUZZ_CHECK(rc == -e.code && strchr(e.msg, ':') && !strchr(e.msg, '\n'));
    } else {
        FUZZ_CHECK(mem_at(&m, GPA(cpu.rip), 1) && cpu.rip == res.entry);
        FUZZ_CHECK(res.initrd_len == cfg.initrd_len);
    }
    mem_destroy(&m);
    return 0;
}
