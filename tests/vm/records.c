/*
 * A machine that moves house while it boots: Debian's kernel and the default guest's selftest, saved at random points, each
 * time loaded into a new machine of a new process that goes on.
 *
 *      conductor ──exec──> leg 0: load the kernel, run, pause, save ──> records   (a memfd each,
 *          |                                                            console    handed on by number)
 *          |──exec──> leg 1: refuse damaged copies, load, run, save ──> guest memory
 *          :
 *          |──exec──> the last: run until the guest powers off
 *
 * The legs share no address space, so nothing but the records and guest memory can carry the machine: what an engine
 * or a chip derives from its state must be made again. The guest is its own judge: its selftest must find nothing wrong.
 *
 * The first SPAN instructions, which end within the selftest, are divided among the hops; in each part the seed chooses a
 * point. Two legs of four go on from there until the processor halts (for a quarter of a part at most), so that sleeping
 * machines are saved as well. The clock is the host's: runs with one seed are alike, not the same, and a guest that is
 * done sooner than others misses the last hops.
 *
 * Each leg runs on the next engine of those that this host can run, so that what one saved the other one loads; with --engine NAME
 * all run on that one.
 *
 * With RECORDS_SWING the engine is changed at random points of each leg, too (board_swing).
 *
 *     test-vm-records [--engine NAME] [HOPS [SEED]]
 */
#include "../engines.h"
#include "backend/share/share.h"
#include "boot/boot.h"
#include "host/host.h"
#include "machine/cpu/msr.h"
#include "vm/board.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define RAM_SIZE     (256ull << 20)
#define SPAN         1500000000ull /* of some 1900 million instructions */
#define SLICE        100000u
#define DAMAGES      40
#define HOP          10 /* status of a leg that was saved */
#define SEED         20240611ull
#define CMDLINE      "console=%s panic=-1 reboot=t trapeze.selftest"

#define SWING_SLICES 20

#define DISK_SIZE    (48ull << 20)

enum { FD_RAM = 100, FD_RECORDS, FD_CONSOLE, FD_DISK, FD_SHARE };

struct leg {
    unsigned number, hops;
    u64 seed;   /* what the points follow from */
    u64 random; /* xorshift state of this leg, for the damage */
    u64 tsc_hz; /* measured once: two measurements differ by a few hertz */
    const struct engine_ops *engine;
    struct board *board;
    void *ram;
    struct disk_request asked[DISK_TAGS]; /* of the disk, not done yet; op DISK_NONE: free */
    struct disk_seg segs[DISK_TAGS][DISK_SEGS_MAX];
    struct share_line cell, back; /* both ends of the share's line; each leg has a server of its own */
    struct share_server *server;
    struct share_count count;
    size_t room; /* bytes that the console takes */
};

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    exit(1);
}

static u64 draw(struct leg *l, u64 below)
{
    l->random ^= l->random << 13;
    l->random ^= l->random >> 7;
    l->random ^= l->random << 17;
    return (l->random >> 11) % below;
}

static void write_all(int fd, const void *data, size_t len)
{
    const u8 *p = data;
    while (len) {
        ssize_t n = write(fd, p, len);
        if (n <= 0)
            die("write: %s", strerror(errno));
        p += n;
        len -= (size_t)n;
    }
}

/* The whole of a file; a zero byte stands behind it. */
static u8 *read_all(int fd, size_t *len)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        die("fstat: %s", strerror(errno));
    *len = (size_t)st.st_size;
    u8 *data = malloc(*len + 1);
    if (!data || pread(fd, data, *len, 0) != (ssize_t)*len)
        die("read: %s", strerror(errno));
    data[*len] = 0;
    return data;
}

static u8 *read_guest_file(const char *name, size_t *len)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", getenv("TRAPEZE_GUEST"), name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        die("%s: %s", path, strerror(errno));
    u8 *data = read_all(fd, len);
    close(fd);
    return data;
}

/* A default guest that is older than a device has no module for it. */
static bool guest_has(const char *module)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/modules/%s.ko", getenv("TRAPEZE_GUEST"), module);
    return access(path, R_OK) == 0;
}

/* --- a leg --- */

static size_t console_out(void *ctx, const u8 *data, size_t len)
{
    struct leg *l = ctx;
    size_t n = MIN(len, l->room);
    write_all(FD_CONSOLE, data, n);
    l->room -= n;
    return n;
}

/* RECORDS_CONSOLE=virtio: at hvc0, and nearly always with output that waits for room. */
static bool virtio_console(void)
{
    const char *kind = getenv("RECORDS_CONSOLE");
    return kind && !strcmp(kind, "virtio");
}

/* Of the machine, in each leg. */
static unsigned cpus(void)
{
    const char *n = getenv("RECORDS_CPUS");
    return n ? (unsigned)atoi(n) : 1;
}

/* Which transport virtio has in the machine that moves. */
static bool virtio_mmio(void)
{
    const char *v = getenv("RECORDS_VIRTIO");
    return v && !strcmp(v, "mmio");
}

/* --- a disk: what is asked is done between slices, in any order, and all of it before the machine is saved --- */

static bool swings(void)
{
    return getenv("RECORDS_SWING");
}

static bool disk_ready(void *ctx)
{
    return true;
}

static void disk_submit(void *ctx, const struct disk_request *r, const struct disk_seg *segs)
{
    struct leg *l = ctx;
    l->asked[r->tag] = *r;
    memcpy(l->segs[r->tag], segs, r->n_segs * sizeof(*segs));
}

static bool transfer(struct leg *l, const struct disk_request *r)
{
    off_t at = (off_t)(r->sector * DISK_SECTOR);
    for (u32 i = 0; i < r->n_segs; i++) {
        const struct disk_seg *s = &l->segs[r->tag][i];
        void *p = mem_at(board_mem(l->board), GPA(s->at), s->len);
        ssize_t n = r->op == DISK_READ ? pread(FD_DISK, p, s->len, at) : pwrite(FD_DISK, p, s->len, at);
        if (n != (ssize_t)s->len)
            return false;
        at += n;
    }
    return r->op == DISK_READ || r->op == DISK_WRITE || r->op == DISK_FLUSH ||
           fallocate(FD_DISK, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, (off_t)(r->sectors * DISK_SECTOR)) == 0;
}

/* Do what was asked: about half of it, or `all` until nothing is left. */
static void serve_disk(struct leg *l, bool all)
{
    do {
        for (u32 i = 0; i < DISK_TAGS; i++) {
            struct disk_request r = l->asked[i];
            if (r.op == DISK_NONE || (!all && draw(l, 2)))
                continue;
            l->asked[i].op = DISK_NONE;
            struct disk_reply a = {.tag = i, .status = transfer(l, &r) ? DISK_OK : DISK_FAILED};
            if (board_disk_done(l->board, &a) < 0)
                die("leg %u: an answer of the disk was refused", l->number);
        }
        board_disk_settle(l->board);
    } while (all && board_disk_busy(l->board));
}

/* --- a share: the same; to the server of the next leg the guest's numbers mean nothing --- */

static void share_signal(void *ctx, unsigned number)
{
}

static void make_share(struct leg *l)
{
    struct error e = {0};
    void *memory = host_map_anonymous(share_size(), &e);
    const struct share_options o = {.root = FD_SHARE};
    if (!memory || share_server_create(&l->server, &o, &l->count, &e) < 0)
        die("leg %u: %s", l->number, e.msg);
    share_attach(&l->cell, memory, true);
    share_attach(&l->back, memory, false);
    share_set_up(&l->back, true);
}

/* Answer what was asked: some of it, or `all`. */
static void serve_share(struct leg *l, bool all)
{
    struct share_ask a;
    do {
        while ((all || draw(l, 3)) && share_receive(&l->back, &a) > 0) {
            struct share_answer done = {.slot = a.slot};
            done.len = share_server_ask(l->server, share_question_place(&l->back, a.slot), a.len,
                                        share_answer_place(&l->back, a.slot), a.room);
            share_send(&l->back, &done);
        }
        board_share_settle(l->board);
    } while (all && board_share_busy(l->board));
}

static void make_board(struct leg *l)
{
    static const struct share_info share = {.tag = "share"};
    static const struct disk_info disk = {
        .sectors = DISK_SIZE / DISK_SECTOR, .flags = DISK_WRITE_CACHE | DISK_CAN_DISCARD, .serial = "trapeze-0"};
    struct error e = {0};
    l->ram = host_map_shared(FD_RAM, RAM_SIZE, &e);
    struct board_config cfg = {
        .cpus = cpus(),
        .ram = l->ram,
        .ram_size = RAM_SIZE,
        .ram_fd = FD_RAM,
        .cpu_model = "host",
        .engine = l->engine,
        .can_swing = swings(),
        .virtio_mmio = virtio_mmio(),
        .tsc_hz = l->tsc_hz,
        .wall_ns = host_wall_ns(),
        .console_out = console_out,
        .console_ctx = l,
        .virtio_console = virtio_console(),
        .disks = &disk,
        .n_disks = 1,
        .disk_ready = disk_ready,
        .disk_submit = disk_submit,
        .disk_ctx = l,
        .shares = &share,
        .share_lines = &l->cell,
        .n_shares = 1,
        .share_signal = share_signal,
    };
    l->room = virtio_console() ? 0 : SIZE_MAX;
    make_share(l);
    if (!l->ram || board_create(&l->board, &cfg, &e) < 0)
        die("leg %u: %s", l->number, e.msg);
}

static void boot(struct leg *l)
{
    struct error e = {0};
    struct boot_result res;
    struct boot_config cfg = {
        .kernel_name = "vmlinuz", .initrd_name = "initrd.cpio", .n_cpus = cpus(), .virtio_mmio = virtio_mmio()};
    char cmdline[200];
    snprintf(cmdline, sizeof(cmdline), CMDLINE "%s%s", virtio_console() ? "hvc0" : "ttyS0",
             guest_has("virtio_blk") ? " trapeze.disk" : "", guest_has("virtiofs") ? " trapeze.share" : "");
    cfg.cmdline = cmdline;
    u8 *kernel = read_guest_file("vmlinuz", &cfg.kernel_len), *initrd = read_guest_file("initrd.cpio", &cfg.initrd_len);
    struct rec_buf rec = {0};
    struct cpu *cpu = board_cpu(l->board, 0);
    cfg.kernel = kernel;
    cfg.initrd = initrd;
    if (boot_load(board_mem(l->board), &cfg, cpu, &res, &e) < 0)
        die("boot: %s", e.msg);
    if (rec_save(&rec, &cpu_record, 0, cpu) < 0 || board_boot(l->board, rec.data, rec.len, &e) < 0)
        die("boot: %s", e.msg);
    rec_buf_free(&rec);
    free(kernel);
    free(initrd);
}

static void save(struct leg *l, struct rec_buf *out)
{
    serve_disk(l, true);
    serve_share(l, true);
    if (board_save(l->board, out) < 0)
        die("leg %u: records can not be saved", l->number);
}

/* One bit differs, or the end is missing. */
static size_t damage(struct leg *l, u8 *data, size_t len)
{
    if (draw(l, 4) == 0)
        return (size_t)draw(l, len);
    data[draw(l, len)] ^= (u8)(1u << draw(l, 8));
    return len;
}

/* Damaged records must be refused with a reason, and the machine must be what it was. It stands still: time as well. */
static void refuse_damaged(struct leg *l, const u8 *data, size_t len)
{
    struct rec_buf before = {0}, after = {0};
    u8 *copy = malloc(len);
    save(l, &before);
    for (unsigned i = 0; i < DAMAGES; i++) {
        struct error e = {0};
        memcpy(copy, data, len);
        size_t n = damage(l, copy, len);
        if (board_load(l->board, copy, n, &e) >= 0)
            die("leg %u: damaged records were loaded (damage %u)", l->number, i);
        if (!e.msg[0])
            die("leg %u: damaged records were refused without a reason (damage %u)", l->number, i);
    }
    save(l, &after);
    if (before.len != after.len || memcmp(before.data, after.data, before.len))
        die("leg %u: refused records changed the machine", l->number);
    rec_buf_free(&before);
    rec_buf_free(&after);
    free(copy);
}

/* What was loaded is saved again as it was. */
static void compare(const struct leg *l, const u8 *data, size_t len, const struct rec_buf *again)
{
    struct rec_view a, b;
    struct error e = {0};
    size_t at = 0, again_at = 0;
    int r;
    while ((r = rec_next(data, len, &at, &a, &e)) == 1) {
        if (rec_next(again->data, again->len, &again_at, &b, &e) != 1 || a.type != b.type || a.instance != b.instance)
            die("leg %u: record %.4s is not saved again", l->number, (const char *)&a.type);
        if (a.type == REC_TYPE('R', 'T', 'C', ' '))
            continue; /* the date goes on while a machine is packed */
        for (u32 i = 0; i < a.len; i++)
            if (i >= b.len || a.payload[i] != b.payload[i])
                die("leg %u: record %.4s differs at byte %u when it is saved again", l->number, (const char *)&a.type,
                    i);
    }
    if (r < 0 || again_at != again->len)
        die("leg %u: other records are saved than were loaded", l->number);
}

static void load(struct leg *l)
{
    struct error e = {0};
    struct rec_buf again = {0};
    size_t len;
    u8 *data = read_all(FD_RECORDS, &len);
    board_pause(l->board);
    refuse_damaged(l, data, len);
    if (board_load(l->board, data, len, &e) < 0)
        die("leg %u: %s", l->number, e.msg);
    save(l, &again);
    compare(l, data, len, &again);
    board_resume(l->board);
    rec_buf_free(&again);
    free(data);
}

/* Sleep as the cell does while the guest halts. */
static void wait_for_timer(struct leg *l)
{
    u64 deadline = board_next_deadline(l->board), now = host_ns(NULL);
    if (deadline == UINT64_MAX)
        die("leg %u: the guest halts and no timer would wake it", l->number);
    if (deadline > now)
        usleep((useconds_t)MIN((deadline - now) / 1000 + 1, 100000u));
}

static u64 instructions(struct leg *l)
{
    struct engine_stats s;
    board_stats(l->board, &s);
    return s.instructions;
}

/* The instruction, counted from the start, at which leg `n` may be saved. */
static u64 point(const struct leg *l, unsigned n)
{
    u64 part = SPAN / l->hops, x = (l->seed + n) * 0x9e3779b97f4a7c15ull;
    x = (x ^ x >> 32) * 0xd6e8feb86659fd93ull; /* neighbours shall have nothing in common */
    return n * part + 1 + (x ^ x >> 32) % part;
}

/* Now and then another one of the engines, or the same, for some slices. */
static void maybe_swing(struct leg *l)
{
    struct error e = {0};
    if (!swings() || draw(l, SWING_SLICES))
        return;
    const struct engine_ops *next = engine_find(draw(l, 3) ? "bt" : "interp");
    if (next && board_swing(l->board, next->name, &e) < 0)
        die("leg %u: %s", l->number, e.msg);
}

/* Run to the point of saving, or to the guest's end. The last leg has no such point. */
static int run(struct leg *l)
{
    char text[1024];
    bool last = l->number == l->hops, at_halt = l->number >> 1 & 1;
    u64 limit = last ? UINT64_MAX : point(l, l->number) - (l->number ? point(l, l->number - 1) : 0);
    u64 patience = at_halt && !last ? limit + SPAN / l->hops / 4 : limit;
    for (;;) {
        u64 done = instructions(l);
        if (done >= patience)
            return HOP;
        if (virtio_console()) {
            l->room = draw(l, 300);
            board_console_flush(l->board, true);
        }
        maybe_swing(l);
        enum board_event event = board_run(l->board, MIN(patience - done, SLICE), text, sizeof(text));
        serve_disk(l, false);
        serve_share(l, false);
        if (event == BOARD_POWEROFF)
            return 0;
        if (event == BOARD_WAIT && instructions(l) >= limit)
            return HOP;
        if (event == BOARD_WAIT && virtio_console() && !l->room)
            continue;
        if (event == BOARD_WAIT && (board_disk_busy(l->board) || board_share_busy(l->board)))
            continue;
        if (event == BOARD_WAIT)
            wait_for_timer(l);
        else if (event != BOARD_RUN)
            die("leg %u: the guest ended by event %d: %s", l->number, event, text);
    }
}

/* Another size of memory is wanted from each leg on, and statistics, just before the machine is saved: it learns of both elsewhere. */
static void want_memory(struct leg *l)
{
    struct balloon_info b;
    board_balloon_ask(l->board);
    board_balloon_set(l->board, (u64)(l->number % 3 + 1) * (24u << 20), NULL); /* or it has no driver yet */
    board_balloon_info(l->board, &b);
    printf("leg %u: balloon of %llu MiB, wanted %llu\n", l->number, (unsigned long long)b.actual >> 20,
           (unsigned long long)b.target >> 20);
}

static int leg_main(unsigned number, unsigned hops, u64 seed, u64 tsc_hz, const char *engine)
{
    struct leg l = {.number = number,
                    .hops = hops,
                    .seed = seed,
                    .random = seed ^ (number + 1) * 0x9e3779b97f4a7c15ull,
                    .tsc_hz = tsc_hz,
                    .engine = test_engine(engine)};
    struct rec_buf rec = {0};
    make_board(&l);
    if (number)
        load(&l);
    else
        boot(&l);
    int status = run(&l);
    printf("leg %u on %s: %llu instructions, %s\n", number, engine, (unsigned long long)instructions(&l),
           status ? board_cpu(l.board, 0)->halted ? "saved while it halts" : "saved" : "powered off");
    if (status == HOP) {
        want_memory(&l);
        board_pause(l.board);
        save(&l, &rec);
        if (ftruncate(FD_RECORDS, 0) < 0 || lseek(FD_RECORDS, 0, SEEK_SET) < 0)
            die("records: %s", strerror(errno));
        write_all(FD_RECORDS, rec.data, rec.len);
    }
    rec_buf_free(&rec);
    board_destroy(l.board);
    host_unmap(l.ram, RAM_SIZE);
    return status;
}

/* --- the conductor --- */

/* A memfd that legs inherit as descriptor `at`. */
static void make_fd(int at, const char *name, u64 size)
{
    int fd = memfd_create(name, MFD_CLOEXEC);
    if (fd < 0 || dup2(fd, at) < 0 || ftruncate(at, (off_t)size) < 0)
        die("%s: %s", name, strerror(errno));
    close(fd);
}

/* A directory that they inherit. */
static void make_directory(int at, char *path)
{
    int fd = mkdtemp(path) ? open(path, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd < 0 || dup2(fd, at) < 0)
        die("%s: %s", path, strerror(errno));
    close(fd);
}

/* The engine of leg `n`: they take turns. */
static const char *engine_of(unsigned n)
{
    unsigned usable = 0;
    for (size_t i = 0; engine_at(i); i++)
        usable += engine_find(engine_at(i)->name) != NULL;
    n %= usable;
    for (size_t i = 0; engine_at(i); i++)
        if (engine_find(engine_at(i)->name) && n-- == 0)
            return engine_at(i)->name;
    die("no engine runs here");
}

/* Status of a leg in a process and an address space of its own. */
static int run_leg(unsigned number, unsigned hops, u64 seed, u64 tsc_hz, const char *engine)
{
    char n[16], h[16], s[32], hz[32];
    int status;
    snprintf(n, sizeof(n), "%u", number);
    snprintf(h, sizeof(h), "%u", hops);
    snprintf(s, sizeof(s), "%llu", (unsigned long long)seed);
    snprintf(hz, sizeof(hz), "%llu", (unsigned long long)tsc_hz);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        execl("/proc/self/exe", "test-vm-records", "--leg", n, h, s, hz, engine, NULL);
        _exit(127);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        die("leg %u: %s", number, strerror(errno));
    if (!WIFEXITED(status))
        die("leg %u: ended by signal %d", number, WTERMSIG(status));
    return WEXITSTATUS(status);
}

/* The guest's own verdict in what it printed, from the first leg to the last. (hvc0 shows nothing from before its driver.) */
static bool selftest_is_good(const char *console)
{
    const char *verdict = strstr(console, "selftest: ");
    unsigned ok = 0, bad = 1;
    return (virtio_console() || strstr(console, "Linux version ")) && verdict &&
           sscanf(verdict, "selftest: %u ok, %u bad", &ok, &bad) == 2 && ok > 0 && bad == 0;
}

int main(int argc, char **argv)
{
    const char *engine = NULL;
    if (argc == 7 && !strcmp(argv[1], "--leg"))
        return leg_main((unsigned)atoi(argv[2]), (unsigned)atoi(argv[3]), strtoull(argv[4], NULL, 0),
                        strtoull(argv[5], NULL, 0), argv[6]);
    if (argc > 2 && !strcmp(argv[1], "--engine")) {
        engine = test_engine(argv[2])->name;
        argc -= 2;
        argv += 2;
    }
    if (!getenv("TRAPEZE_GUEST")) {
        puts("skipped: TRAPEZE_GUEST is not set");
        return TEST_SKIPPED;
    }
    if (virtio_mmio() && !guest_has("virtio_mmio")) {
        puts("skipped: the default guest is older than virtio-mmio");
        return TEST_SKIPPED;
    }
    unsigned hops = argc > 1 ? (unsigned)atoi(argv[1]) : 5, number = 0;
    u64 seed = argc > 2 ? strtoull(argv[2], NULL, 0) : SEED;
    u64 tsc_hz = host_tsc_hz();
    char share[] = "/tmp/trapeze-records-XXXXXX";
    size_t len;
    int status;
    printf("%u hops, seed %llu\n", hops, (unsigned long long)seed);
    make_fd(FD_RAM, "records-ram", RAM_SIZE);
    make_fd(FD_RECORDS, "records", 0);
    make_fd(FD_CONSOLE, "records-console", 0);
    make_fd(FD_DISK, "records-disk", DISK_SIZE);
    make_directory(FD_SHARE, share);
    do
        status = run_leg(number, hops, seed, tsc_hz, engine ? engine : engine_of(number));
    while (status == HOP && number++ < hops);
    if (rmdir(share) < 0) /* the guest has removed what it made */
        printf("%s: %s\n", share, strerror(errno));
    char *console = (char *)read_all(FD_CONSOLE, &len);
    if (status || number < hops - hops / 4 || !selftest_is_good(console)) {
        printf("%.*s\n", (int)len, console);
        die("leg %u of %u: status %d; the selftest was%s good", number, hops, status,
            selftest_is_good(console) ? "" : " not");
    }
    free(console);
    return 0;
}
