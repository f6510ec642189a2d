/* Seals: in a process of its own each, one forbidden call is tried; SIGSYS is the only right answer. */
#include "host/host.h"
#include "vm/config.h"
#include "vm/console_log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#define RAM_SIZE (4u * 4096)

struct fixture {
    int mine, peer, other; /* events */
    int ram, link;         /* guest memory, and what is not */
    int file;              /* that memory is read from */
    u8 *mapped;            /* ram */
    u32 sealed;            /* for another thread */
};

static void *page_of(void)
{
    return mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

/* --- what a cell may do --- */
static void may_work(struct fixture *f)
{
    void *p = malloc(10u << 20);
    memset(p, 1, 10u << 20);
    p = realloc(p, 40u << 20);
    free(p);
    host_event_signal(f->peer);
    host_event_signal(f->mine);
    host_event_wait(f->mine, host_ns(NULL) + 1000000);
    host_event_clear(f->mine);
    mprotect(page_of(), 4096, PROT_READ);
    int word = 1;
    syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, NULL);
    syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1);
}

/* A cell gives pages of guest memory back. */
static void may_give_back(struct fixture *f)
{
    u8 *p = f->mapped;
    memset(p, 1, RAM_SIZE);
    if (!host_give_back(f->ram, p, 4096, 2 * 4096))
        _exit(2);
    if (p[4095] != 1 || p[4096] || p[3 * 4096 - 1] || p[3 * 4096] != 1)
        _exit(3);
}

/* A cell reads its memory's file, and lets it go. */
static void may_read_its_file(struct fixture *f)
{
    char byte = 1;
    if (pread(f->file, &byte, 1, 100) != 1 || byte)
        _exit(2);
    if (close(f->file) < 0)
        _exit(3);
}

/* Any way of taking memory, in pieces that a host has: it has to end at HOST_CELL_MEMORY. */
static void may_not_grow(struct fixture *f)
{
    u64 got = 0;
    while (got <= HOST_CELL_MEMORY && mmap(NULL, 1u << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED)
        got += 1u << 20;
    if (got < HOST_CELL_MEMORY / 2 || got > HOST_CELL_MEMORY)
        _exit(2);
    if (mremap(page_of(), 4096, HOST_CELL_MEMORY, MREMAP_MAYMOVE) != MAP_FAILED)
        _exit(3);
}

/* --- what it may not --- */
static void try_open(struct fixture *f)
{
    syscall(SYS_openat, AT_FDCWD, "/dev/null", O_RDONLY);
}
static void try_open_old(struct fixture *f)
{
    syscall(SYS_open, "/dev/null", O_RDONLY);
}
static void try_socket(struct fixture *f)
{
    socket(AF_INET, SOCK_STREAM, 0);
}
static void try_fork(struct fixture *f)
{
    fork();
}
static void try_exec(struct fixture *f)
{
    char *const argv[] = {NULL};
    execve("/bin/true", argv, argv);
}
static void try_exec_memory(struct fixture *f)
{
    mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}
static void try_make_executable(struct fixture *f)
{
    mprotect(page_of(), 4096, PROT_READ | PROT_EXEC);
}
static void try_high_protection(struct fixture *f)
{
    syscall(SYS_mprotect, page_of(), 4096ul, 1ul << 32 | PROT_READ);
}
static void try_map_fd(struct fixture *f)
{
    mmap(NULL, 4096, PROT_READ, MAP_SHARED, f->other, 0);
}
static void try_other_event(struct fixture *f)
{
    host_event_signal(f->other);
}
static void *other_thread(void *arg)
{
    const struct fixture *f = arg;
    while (!__atomic_load_n(&f->sealed, __ATOMIC_ACQUIRE))
        __builtin_ia32_pause();
    setsid(); /* what no kind may */
    return NULL;
}
/* The seal is on the threads that were there before it, too. */
static void try_thread(struct fixture *f)
{
    __atomic_store_n(&f->sealed, 1, __ATOMIC_RELEASE);
    host_event_wait(f->mine, host_ns(NULL) + 10000000000ull);
}
static void try_read_peer(struct fixture *f)
{
    host_event_clear(f->peer);
}
static void try_kill(struct fixture *f)
{
    kill(getppid(), 0);
}
static void try_ioctl(struct fixture *f)
{
    syscall(SYS_ioctl, f->mine, 0, 0);
}
static void try_dup(struct fixture *f)
{
    syscall(SYS_dup, f->mine);
}
static void try_poison(struct fixture *f)
{
    madvise(page_of(), 4096, 100 /* MADV_HWPOISON */);
}
static void try_hole_elsewhere(struct fixture *f)
{
    host_give_back(f->link, NULL, 0, 4096);
}
static void try_read_elsewhere(struct fixture *f)
{
    char byte;
    syscall(SYS_pread64, f->link, &byte, 1ul, 0ul);
}
static void try_close(struct fixture *f)
{
    syscall(SYS_close, f->link);
}
static void try_take_room(struct fixture *f)
{
    fallocate(f->ram, 0, 0, 4096);
}
static void try_remove_pages(struct fixture *f)
{
    madvise(page_of(), 4096, MADV_REMOVE);
}
static void try_x32(struct fixture *f)
{
    syscall(SYS_getpid | 0x40000000);
}
static void try_int80(struct fixture *f)
{
    long r;
    __asm__ volatile("int $0x80" : "=a"(r) : "a"(20) : "memory"); /* getpid of the 32-bit table */
}
static void map_flags(int flags)
{
    mmap(NULL, 2u << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
}
static void try_huge_pages(struct fixture *f)
{
    map_flags(MAP_HUGETLB);
}
static void try_locked(struct fixture *f)
{
    map_flags(MAP_LOCKED);
}
static void try_grows_down(struct fixture *f)
{
    map_flags(MAP_GROWSDOWN);
}
static void try_futex_pi(struct fixture *f)
{
    int word = 0;
    syscall(SYS_futex, &word, FUTEX_TRYLOCK_PI_PRIVATE, 0, NULL, NULL, 0);
}
static void try_futex_requeue(struct fixture *f)
{
    int word[2] = {0};
    syscall(SYS_futex, word, FUTEX_REQUEUE | FUTEX_PRIVATE_FLAG, 1, 1ul, &word[1], 0);
}
static void try_prctl(struct fixture *f)
{
    prctl(PR_SET_DUMPABLE, 1);
}
static void try_sigaction(struct fixture *f)
{
    signal(SIGSEGV, SIG_IGN);
}

static void try_create(struct fixture *f)
{
    syscall(SYS_openat, AT_FDCWD, "/tmp/trapeze-forbidden", O_WRONLY | O_CREAT, 0600);
}
static void try_make_device(struct fixture *f)
{
    syscall(SYS_mknodat, AT_FDCWD, "/tmp/trapeze-forbidden", S_IFCHR | 0600, 0x103);
}
static void try_open_to_write(struct fixture *f)
{
    syscall(SYS_openat, AT_FDCWD, "/dev/null", O_WRONLY);
}
static void try_remove(struct fixture *f)
{
    syscall(SYS_unlinkat, f->mine, "none", 0);
}
static void try_write_file(struct fixture *f)
{
    syscall(SYS_pwrite64, f->mine, "x", 1ul, 0ul);
}

/* Which seal. */
enum kind { CELL, KEEPER, USER, TAP, SWITCH, SHARE, READER, KINDS };
static const char *const kinds[KINDS] = {"cell", "keeper", "user network", "tap", "switch", "share", "read-only share"};
#define ONLY(kind) (1u << (kind))

static int seal(enum kind kind, const struct fixture *f)
{
    const struct host_cell_seal c = {.wake_self = f->mine, .wake_peer = f->peer, .ram = f->ram, .file = f->file};
    const struct host_keeper_seal k = {.listener = 90, .dir = 91, .log = 92, .end = 93, .ram = 94, .cell = 95};
    switch (kind) {
    case CELL:
        return host_seal_cell(&c, NULL);
    case KEEPER:
        return host_seal_keeper(&k, NULL);
    case USER:
        return host_seal_net_user(-1, NULL);
    case TAP:
        return host_seal_net_tap(90, NULL);
    case SHARE:
    case READER:
        return host_seal_share(kind == READER, NULL);
    default:
        return host_seal_net_switch(90, 91, NULL);
    }
}

static const struct {
    const char *name;
    void (*fn)(struct fixture *);
    u32 except; /* kinds that may, are told that they may not, or for which it makes no sense */
} attempts[] = {
#define TRY(what, except)         \
    {                             \
#what, try_##what, except \
    }
    TRY(open, ONLY(SHARE) | ONLY(READER)),
    TRY(open_old, 0),
    TRY(socket, ONLY(USER)),
    TRY(fork, 0),
    TRY(exec, 0),
    TRY(exec_memory, 0),
    TRY(make_executable, 0),
    TRY(high_protection, 0),
    TRY(map_fd, ONLY(SWITCH)),
    TRY(other_event, ~ONLY(CELL)),
    TRY(thread, 0),
    TRY(read_peer, ~ONLY(CELL)),
    TRY(kill, ~ONLY(CELL)),
    TRY(ioctl, 0),
    TRY(dup, ONLY(USER)),
    TRY(poison, 0),
    TRY(hole_elsewhere, ONLY(SHARE)),
    TRY(read_elsewhere, ONLY(SHARE) | ONLY(READER) | ONLY(KEEPER)),
    TRY(close, ~ONLY(CELL)),
    TRY(take_room, ONLY(SHARE)),
    TRY(remove_pages, 0),
    TRY(x32, 0),
    TRY(int80, 0),
    TRY(prctl, 0),
    TRY(sigaction, 0),
    TRY(huge_pages, 0),
    TRY(locked, 0),
    TRY(grows_down, 0),
    TRY(futex_pi, 0),
    TRY(futex_requeue, 0),
    TRY(create, 0),
    TRY(make_device, 0),
    TRY(open_to_write, ONLY(SHARE)),
    TRY(remove, ONLY(SHARE)),
    TRY(write_file, ONLY(SHARE) | ONLY(KEEPER)),
#undef TRY
};

/* Seal, do it, exit 0. Returns the signal that ended the process, 0 for none. */
static int sealed(enum kind kind, void (*fn)(struct fixture *))
{
    struct fixture f = {.mine = host_event_create(NULL),
                        .peer = host_event_create(NULL),
                        .other = host_event_create(NULL),
                        .ram = host_memfd("ram", RAM_SIZE, NULL),
                        .link = host_memfd("link", 4096, NULL),
                        .file = host_memfd("file", 4096, NULL)};
    int status;
    f.mapped = host_map_shared(f.ram, RAM_SIZE, NULL);
    pid_t pid = fork();
    assert_true(pid >= 0 && f.mapped);
    if (pid == 0) {
        for (int sig = 1; sig < NSIG; sig++)
            signal(sig, SIG_DFL); /* cmocka's handlers */
        if (fn == try_thread && host_thread_start(other_thread, &f, NULL) < 0)
            _exit(1);
        if (host_confine(kind == CELL, NULL) < 0 || seal(kind, &f) < 0)
            _exit(1);
        fn(&f);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    close(f.mine);
    close(f.peer);
    close(f.other);
    host_unmap(f.mapped, RAM_SIZE);
    close(f.ram);
    close(f.link);
    close(f.file);
    if (WIFEXITED(status) && WEXITSTATUS(status))
        fail_msg("the process ended with status %d", WEXITSTATUS(status));
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void work_goes_on(void **state)
{
    for (enum kind kind = 0; kind < KINDS; kind++)
        if (sealed(kind, may_work))
            fail_msg("%s: it can not work", kinds[kind]);
}

static void cell_has_bounds(void **state)
{
    assert_int_equal(sealed(CELL, may_not_grow), 0);
}

static void cell_reads_memory(void **state)
{
    assert_int_equal(sealed(CELL, may_read_its_file), 0);
}

static void cell_gives_back(void **state)
{
    assert_int_equal(sealed(CELL, may_give_back), 0);
}

static void nothing_else(void **state)
{
    for (size_t i = 0; i < ARRAY_LEN(attempts); i++)
        for (enum kind kind = 0; kind < KINDS; kind++) {
            int sig = attempts[i].except & ONLY(kind) ? SIGSYS : sealed(kind, attempts[i].fn);
            if (sig != SIGSYS)
                fail_msg("%s in a sealed %s: signal %d", attempts[i].name, kinds[kind], sig);
        }
}

/* Of sockets a user-mode network gets those of the internet, without a signal for the others: libslirp tries. */
static void no_local_sockets(struct fixture *f)
{
    if (socket(AF_UNIX, SOCK_STREAM, 0) >= 0 || socket(AF_NETLINK, SOCK_RAW, 0) >= 0 ||
        socket(AF_INET, SOCK_RAW, 1) >= 0)
        _exit(2);
    if (socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0) < 0 || socket(AF_INET6, SOCK_DGRAM, 0) < 0)
        _exit(3);
}

static void sockets_of_a_network(void **state)
{
    assert_int_equal(sealed(USER, no_local_sockets), 0);
}

/* --- Landlock --- */

/* A process that stays beneath `dir`, with a file beside it: its status, each bit a thing that went otherwise. */
static int beneath(const char *dir, const char *beside, bool read_only)
{
    int status;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int d = open(dir, O_PATH | O_DIRECTORY), r = host_stay_beneath(d, read_only, NULL);
        if (r <= 0)
            _exit(r < 0 ? 64 : 77);
        int wrong = open(beside, O_RDONLY) >= 0 || errno != EACCES;
        wrong |= (openat(d, "inside", O_RDONLY) < 0) << 1;
        wrong |= ((openat(d, "made", O_WRONLY | O_CREAT, 0600) >= 0) == read_only) << 2;
        wrong |= (mknodat(d, "device", S_IFCHR | 0600, 0x103) == 0) << 3;
        wrong |= ((unlinkat(d, "inside", 0) == 0) == read_only) << 4;
        _exit(wrong);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WEXITSTATUS(status);
}

static void one_directory(void **state)
{
    char base[] = "/tmp/trapeze-test-XXXXXX", dir[64], file[64], beside[64], made[64];
    assert_non_null(mkdtemp(base));
    snprintf(dir, sizeof(dir), "%s/dir", base);
    snprintf(file, sizeof(file), "%s/dir/inside", base);
    snprintf(made, sizeof(made), "%s/dir/made", base);
    snprintf(beside, sizeof(beside), "%s/beside", base);
    assert_int_equal(mkdir(dir, 0700), 0);
    close(open(file, O_WRONLY | O_CREAT, 0600));
    close(open(beside, O_WRONLY | O_CREAT, 0600));
    int reader = beneath(dir, beside, true), writer = beneath(dir, beside, false);
    unlink(made);
    unlink(file);
    unlink(beside);
    rmdir(dir);
    rmdir(base);
    if (reader == 77)
        skip(); /* no Landlock here */
    assert_int_equal(reader, 0);
    assert_int_equal(writer, 0);
}

/* --- smaller parts of the keeper --- */

static void log_keeps_the_end(void **state)
{
    char dir[] = "/tmp/trapeze-test-XXXXXX", line[64];
    struct console_log l;
    struct stat st;
    u8 *tail = malloc(CONSOLE_LOG_MAX + 1);
    assert_non_null(tail);
    assert_non_null(mkdtemp(dir));
    int d = open(dir, O_RDONLY | O_DIRECTORY);
    assert_int_equal(console_log_open(&l, d, "log", NULL), 0);
    for (unsigned i = 0; i < 500000; i++) {
        int n = snprintf(line, sizeof(line), "line %u\n", i);
        console_log_append(&l, (u8 *)line, (size_t)n);
        if (i % 1000 == 0) {
            assert_int_equal(fstat(l.fd, &st), 0);
            assert_int_equal((u64)st.st_size, l.size);
            assert_true(st.st_size <= CONSOLE_LOG_MAX);
        }
    }
    assert_int_equal(l.lost, 0);
    size_t n = console_log_tail(&l, tail, CONSOLE_LOG_MAX);
    assert_true(n >= CONSOLE_LOG_KEEP);
    unsigned expect = 499999; /* backwards: every whole line in order */
    for (size_t at = n; at > 20; expect--) {
        int len = snprintf(line, sizeof(line), "line %u\n", expect);
        at -= (size_t)len;
        assert_memory_equal(tail + at, line, (size_t)len);
    }
    free(tail);
    close(l.fd);
    unlinkat(d, "log", 0);
    close(d);
    rmdir(dir);
}

static void config_json(void **state)
{
    struct vm_config c, d;
    struct error e = {0};
    vm_config_init(&c);
    strcpy(c.name, "web-1");
    strcpy(c.kernel, "/boot/vmlinuz");
    strcpy(c.append, "console=ttyS0 \"quoted\"");
    c.no_reboot = true;
    c.code_cache = 64u << 20;
    strcpy(c.virtio, "mmio");
    assert_int_equal(vm_disk_parse(&c.disks[0], "/data/a.img,cache=none,readonly", &e), 0);
    assert_int_equal(vm_disk_parse(&c.disks[1], "/data/b,format=raw", &e), 0);
    c.n_disks = 2;
    assert_int_equal(vm_config_check(&c, &e), 0);
    json_t *j = vm_config_to_json(&c);
    assert_int_equal(vm_config_from_json(&d, j, &e), 0);
    assert_memory_equal(&c, &d, sizeof(c));
    strcpy(d.virtio, "isa");
    assert_int_equal(vm_config_check(&d, &e), -EINVAL);
    assert_non_null(strstr(e.msg, "--virtio isa"));
    json_object_del(j, "virtio"); /* of a machine that was made before there was a choice */
    assert_int_equal(vm_config_from_json(&d, j, &e), 0);
    assert_string_equal(d.virtio, "pci");
    json_object_set_new(j, "virtio", json_string("a-transport"));
    assert_int_equal(vm_config_from_json(&d, j, &e), -EINVAL);
    json_object_set_new(j, "virtio", json_string("mmio"));
    json_object_set_new(j, "memory", json_string("much"));
    assert_int_equal(vm_config_from_json(&d, j, &e), -EINVAL);
    json_object_set_new(j, "memory", json_integer(-1));
    assert_int_equal(vm_config_from_json(&d, j, NULL), -EINVAL);
    char *longer = malloc(10000);
    memset(longer, 'x', 9999);
    longer[9999] = 0;
    json_object_set_new(j, "memory", json_integer(1 << 30));
    json_object_set_new(j, "name", json_string(longer));
    assert_int_equal(vm_config_from_json(&d, j, NULL), -EINVAL);
    free(longer);
    json_decref(j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(work_goes_on),    cmocka_unit_test(sockets_of_a_network), cmocka_unit_test(one_directory),
        cmocka_unit_test(cell_has_bounds), cmocka_unit_test(cell_gives_back),      cmocka_unit_test(cell_reads_memory),
        cmocka_unit_test(nothing_else),    cmocka_unit_test(log_keeps_the_end),    cmocka_unit_test(config_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
