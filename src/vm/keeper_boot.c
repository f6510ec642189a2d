/*
 * Kernel and initrd: opened once when the machine is launched, read into memory only while they are put into guest memory,
 * at launch and at each reset. The descriptors stay open, so a reset needs no file system and finds the same files.
 *
 * At a reset the cell is alive and could write to guest memory while the loader does: the loader only writes there, and
 * what the guest's memory holds is the guest's business anyway.
 */
#include "machine/cpu/msr.h"
#include "vm/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_MAX (4ull << 30)

static int open_file(struct keeper_file *f, const char *path, const char *what, struct error *e)
{
    f->path = path;
    /* O_NONBLOCK: a FIFO must not keep us waiting before it is refused. */
    f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (f->fd < 0)
        return error_set(e, errno, "%s %s: %s; check what --%s names", what, path, strerror(errno), what);
    if (fstat(f->fd, &f->st) < 0)
        return error_set(e, errno, "%s %s: %s", what, path, strerror(errno));
    if (!S_ISREG(f->st.st_mode))
        return error_set(e, EINVAL, "%s %s: is no regular file; give a plain file", what, path);
    if (!f->st.st_size)
        return error_set(e, EINVAL, "%s %s: is empty; fetch or make it again", what, path);
    if ((u64)f->st.st_size > FILE_MAX)
        return error_set(e, EFBIG, "%s %s: is larger than 4 GiB; give a smaller one", what, path);
    return 0;
}

int keeper_open_files(struct keeper *k, struct error *e)
{
    int r = open_file(&k->kernel, k->cfg.kernel, "kernel", e);
    if (r == 0 && k->cfg.initrd[0])
        r = open_file(&k->initrd, k->cfg.initrd, "initrd", e);
    return r;
}

static int read_file(struct keeper_file *f, struct error *e)
{
    struct stat now;
    if (f->fd < 0)
        return 0;
    size_t len = (size_t)f->st.st_size, got = 0;
    if (fstat(f->fd, &now) < 0 || now.st_size != f->st.st_size || now.st_mtim.tv_sec != f->st.st_mtim.tv_sec ||
        now.st_mtim.tv_nsec != f->st.st_mtim.tv_nsec)
        return error_set(e, ESTALE, "%s: was changed while the machine ran; start it again", f->path);
    if (!(f->data = host_map_anonymous(len, e)))
        return -ENOMEM;
    while (got < len) {
        ssize_t n = pread(f->fd, f->data + got, len - got, (off_t)got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return error_set(e, n ? errno : EIO, "%s: %s", f->path, n ? strerror(errno) : "became shorter");
        got += (size_t)n;
    }
    return 0;
}

static void forget_file(struct keeper_file *f)
{
    host_unmap(f->data, (u64)f->st.st_size);
    f->data = NULL;
}

static int load_into(struct keeper *k, void *ram, struct rec_buf *rec, struct error *e)
{
    struct guest_mem mem;
    struct cpu cpu = {.model = &k->model};
    struct boot_config b = {
        .kernel = k->kernel.data,
        .kernel_len = (size_t)k->kernel.st.st_size,
        .kernel_name = k->kernel.path,
        .initrd = k->initrd.data,
        .initrd_len = k->initrd.data ? (size_t)k->initrd.st.st_size : 0,
        .initrd_name = k->initrd.data ? k->initrd.path : NULL,
        .cmdline = k->cfg.append,
        .n_cpus = k->cfg.cpus,
        .virtio_mmio = vm_config_virtio_mmio(&k->cfg),
    };
    int r = mem_init(&mem, ram, k->cfg.memory, k->ram_fd, e);
    if (r < 0)
        return r;
    cpu_reset(&cpu);
    cpu_msr_firmware(&cpu);
    r = boot_load(&mem, &b, &cpu, &k->boot, e);
    if (r == 0 && (r = rec_save(rec, &cpu_record, 0, &cpu)) < 0)
        error_set(e, ENOMEM, "out of memory");
    mem_destroy(&mem);
    return r;
}

int keeper_load(struct keeper *k, struct rec_buf *rec, struct error *e)
{
    int r = read_file(&k->kernel, e);
    if (r == 0)
        r = read_file(&k->initrd, e);
    /* Mapped only now: between resets the keeper does not see guest memory. */
    void *ram = r == 0 ? host_map_shared(k->ram_fd, k->cfg.memory, e) : NULL;
    if (r == 0)
        r = ram ? load_into(k, ram, rec, e) : -ENOMEM;
    host_unmap(ram, k->cfg.memory);
    forget_file(&k->kernel);
    forget_file(&k->initrd);
    return r;
}
