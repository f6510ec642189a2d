/*
 * The dirty log of running machines, and the proof that it loses nothing: memory is copied while the guest writes to it, page
 * by page, whatever the log names; then the machine is held, the rest is taken and copied, and the copy must be the memory,
 * byte for byte. A bit that was lost would leave a page as it was.
 *
 *     test-vm-log [CYCLES [SEED]]
 *
 * Cycles are a few rounds and a hold each. The guest of log_guest.S writes in all the ways that an engine has for it, rarely
 * enough that most pages stay as they are until the next hold: else the next round would hide what one has lost. The
 * default guest does what a real one does: page tables, devices that write (disk, random numbers, network), code.
 */
#include "harness.h"
#include "../engines.h"
#include "backend/net/net.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>

#define ODD_MEMORY ((16u << 20) + 5 * PAGE_SIZE) /* its last word is not full */

extern const u8 guest_scribble_begin[], guest_scribble_end[];

static unsigned cycles = 24;
static u64 seed = 20261123;

struct copier {
    struct machine *m;
    int fd; /* of the connection that has the log, and the hold */
    u64 size, pages, words;
    const u8 *memory;
    u8 *copy;
    u64 *log;
    u64 random;
    u64 named; /* pages that the last rounds named */
};

static u64 draw(struct copier *c, u64 below)
{
    c->random ^= c->random << 13;
    c->random ^= c->random >> 7;
    c->random ^= c->random << 17;
    return (c->random >> 11) % below;
}

static int dial(struct machine *m)
{
    struct error e = {0};
    int fd = control_connect(m->socket, &e);
    if (fd < 0)
        fail_msg("%s", e.msg);
    return fd;
}

static int say(int fd, const char *what)
{
    json_t *j = json_pack("{s:s}", "do", what);
    int r = control_call(fd, j, NULL, NULL);
    json_decref(j);
    return r;
}

static void must_say(int fd, const char *what)
{
    struct error e = {0};
    json_t *j = json_pack("{s:s}", "do", what);
    if (control_call(fd, j, NULL, &e) < 0)
        fail_msg("%s: %s", what, e.msg);
    json_decref(j);
}

/* --- the copier --- */

static void copier_open(struct copier *c, struct machine *m)
{
    struct error e = {0};
    *c = (struct copier){.m = m, .fd = dial(m), .random = seed};
    int ram = control_memory(c->fd, &c->size, &e);
    if (ram < 0)
        fail_msg("%s", e.msg);
    c->pages = c->size / PAGE_SIZE;
    c->words = (c->pages + 63) / 64;
    c->memory = mmap(NULL, c->size, PROT_READ, MAP_SHARED, ram, 0);
    assert_true(c->memory != MAP_FAILED);
    close(ram);
    c->copy = malloc(c->size);
    c->log = calloc(c->words, 8);
    assert_true(c->copy && c->log);
}

/* The log begins; a copy of everything, while it is being written. */
static void copier_start(struct copier *c)
{
    struct error e = {0};
    if (control_log_start(c->fd, &e) < 0)
        fail_msg("%s", e.msg);
    memcpy(c->copy, c->memory, c->size);
}

static void copier_close(struct copier *c)
{
    munmap((void *)(uintptr_t)c->memory, c->size);
    free(c->copy);
    free(c->log);
    close(c->fd);
}

static bool named(const struct copier *c, u64 page)
{
    return c->log[page / 64] >> page % 64 & 1;
}

static bool differs(const struct copier *c, u64 page)
{
    return memcmp(c->copy + page * PAGE_SIZE, c->memory + page * PAGE_SIZE, PAGE_SIZE) != 0;
}

/* In one request, or in two. */
static void take(struct copier *c)
{
    struct error e = {0};
    u64 first = draw(c, 2) ? draw(c, c->words) : 0;
    if ((first && control_log_take(c->fd, 0, first * 64, c->log, &e) < 0) ||
        control_log_take(c->fd, first * 64, (c->words - first) * 64, c->log + first, &e) < 0)
        fail_msg("%s", e.msg);
}

static void copy_named(struct copier *c)
{
    for (u64 page = 0; page < c->pages; page++)
        if (named(c, page)) {
            memcpy(c->copy + page * PAGE_SIZE, c->memory + page * PAGE_SIZE, PAGE_SIZE);
            c->named++;
        }
}

/* As if the log had lost a page that was written; whether there was one. */
static bool lose_one(struct copier *c)
{
    for (u64 page = 0; page < c->pages; page++)
        if (named(c, page) && differs(c, page)) {
            c->log[page / 64] &= ~BIT(page % 64);
            return true;
        }
    return false;
}

static u64 count_different(const struct copier *c, u64 *first)
{
    u64 n = 0;
    for (u64 page = 0; page < c->pages; page++)
        if (differs(c, page) && !n++)
            *first = page;
    return n;
}

/* Nothing is left behind a take of a machine that stands still. */
static void assert_nothing_left(struct copier *c)
{
    take(c);
    for (u64 w = 0; w < c->words; w++)
        assert_int_equal(c->log[w], 0);
}

/* A few rounds, then the rest. */
static void cycle(struct copier *c, unsigned number, int rest_ms)
{
    u64 first = 0;
    for (u64 rounds = 1 + draw(c, 6); rounds; rounds--) {
        take(c);
        copy_named(c);
        if (rest_ms)
            poll(NULL, 0, rest_ms);
    }
    must_say(c->fd, "hold");
    take(c);
    copy_named(c);
    u64 lost = count_different(c, &first);
    if (lost)
        fail_msg("cycle %u of seed %llu, %s with %llu CPUs: %llu pages were lost, the first of them is %#llx", number,
                 (unsigned long long)seed, c->m->cfg.engine, (unsigned long long)c->m->cfg.cpus,
                 (unsigned long long)lost, (unsigned long long)first);
    assert_nothing_left(c);
    must_say(c->fd, "release");
}

static void kill_machine(struct machine *m)
{
    assert_int_equal(machine_do(m, NULL, "{s:s}", "do", "kill"), 0);
    assert_int_equal(machine_wait(m, NULL), VM_EXIT_SIGNAL + 9);
    machine_forget(m);
}

/* --- guests --- */

static u32 steps(const struct copier *c, unsigned cpu)
{
    return __atomic_load_n((const u32 *)(const void *)(c->memory + 0x80000 + 0x40 * cpu), __ATOMIC_RELAXED);
}

static bool scribble_start(struct machine *m, const char *engine, unsigned cpus)
{
    if (!engine_find(engine))
        return false;
    machine_prepare(m, "scribble", guest_scribble_begin, guest_scribble_end);
    snprintf(m->cfg.engine, sizeof(m->cfg.engine), "%s", engine);
    m->cfg.cpus = cpus;
    m->cfg.memory = ODD_MEMORY;
    machine_launch(m);
    return true;
}

static void wait_steps(const struct copier *c)
{
    for (unsigned cpu = 0; cpu < c->m->cfg.cpus; cpu++) {
        u32 before = steps(c, cpu);
        for (int i = 0; i < 30000 && steps(c, cpu) == before; i++)
            poll(NULL, 0, 1);
        assert_int_not_equal(steps(c, cpu), before);
    }
}

static void scribble(const char *engine, unsigned cpus)
{
    struct machine m;
    struct copier c;
    if (!scribble_start(&m, engine, cpus))
        return;
    copier_open(&c, &m);
    wait_steps(&c);
    copier_start(&c);
    for (unsigned i = 0; i < cycles; i++) {
        wait_steps(&c); /* it runs on behind each hold */
        cycle(&c, i, 0);
    }
    print_message("%s, %u CPUs: %u cycles, %llu pages named\n", engine, cpus, cycles, (unsigned long long)c.named);
    assert_true(c.named > cycles);
    copier_close(&c);
    kill_machine(&m);
}

static void scribble_bt(void **state)
{
    scribble("bt", 1);
}

static void scribble_bt_cpus(void **state)
{
    scribble("bt", 2);
}

static void scribble_interp(void **state)
{
    scribble("interp", 1);
}

static void scribble_interp_cpus(void **state)
{
    scribble("interp", 2);
}

/* The checker would see it. */
static void planted_loss(void **state)
{
    struct machine m;
    struct copier c;
    u64 first;
    unsigned planted = 0;
    assert_true(scribble_start(&m, "interp", 2));
    copier_open(&c, &m);
    wait_steps(&c);
    copier_start(&c);
    for (int i = 0; i < 10; i++) {
        wait_steps(&c);
        must_say(c.fd, "hold");
        take(&c);
        bool lost = lose_one(&c);
        copy_named(&c);
        assert_int_equal(count_different(&c, &first), lost ? 1 : 0);
        planted += lost;
        memcpy(c.copy, c.memory, c.size);
        must_say(c.fd, "release");
    }
    assert_true(planted > 0);
    copier_close(&c);
    kill_machine(&m);
}

/* --- the default guest --- */

static void type(int console, const char *text)
{
    assert_int_equal(control_frame_send(console, CONTROL_INPUT, text, strlen(text)), 0);
}

static int open_console(struct machine *m)
{
    struct error e = {0};
    int fd = dial(m);
    json_t *j = json_pack("{s:s,s:b}", "do", "console", "input", 1), *reply;
    if (control_call(fd, j, &reply, &e) < 0)
        fail_msg("%s", e.msg);
    assert_true(json_is_true(json_object_get(reply, "input")));
    json_decref(j);
    json_decref(reply);
    return fd;
}

static void add_disk(struct machine *m)
{
    struct error e = {0};
    char text[200], block[65536];
    snprintf(text, sizeof(text), "%s/disk.img", m->dir);
    FILE *f = fopen(text, "w");
    assert_non_null(f);
    for (int i = 0; i < 256; i++) {
        memset(block, i, sizeof(block));
        assert_int_equal(fwrite(block, sizeof(block), 1, f), 1);
    }
    fclose(f);
    assert_int_equal(vm_disk_parse(&m->cfg.disks[0], text, &e), 0);
    m->cfg.n_disks = 1;
    assert_true(vm_net_parse(&m->cfg.nets[0], "user", &e) >= 0);
    m->cfg.n_nets = 1;
}

static void prepare_linux(struct machine *m, const char *engine, unsigned cpus)
{
    const char *guest = getenv("TRAPEZE_GUEST");
    machine_prepare(m, "linux", guest_scribble_begin, guest_scribble_end);
    snprintf(m->cfg.engine, sizeof(m->cfg.engine), "%s", engine);
    snprintf(m->cfg.kernel, sizeof(m->cfg.kernel), "%s/vmlinuz", guest);
    snprintf(m->cfg.initrd, sizeof(m->cfg.initrd), "%s/initrd.cpio", guest);
    strcpy(m->cfg.append, "console=ttyS0 panic=-1 reboot=t");
    m->cfg.memory = 128u << 20;
    m->cfg.cpus = cpus;
    add_disk(m);
}

static void linux_guest(const char *engine, unsigned cpus, unsigned n)
{
    struct machine m;
    struct copier c;
    if (!getenv("TRAPEZE_GUEST") || !engine_find(engine))
        skip();
    prepare_linux(&m, engine, cpus);
    machine_launch(&m);
    copier_open(&c, &m);
    copier_start(&c);
    for (unsigned i = 0; i < n / 2; i++) /* while it boots */
        cycle(&c, i, 20);
    machine_expect(&m, "# ");
    int console = open_console(&m);
    type(console, "while :; do dd if=/dev/vda of=/dev/null bs=256k count=64 iflag=direct; done 2>/dev/null &\n"
                  "while :; do head -c 200000 /dev/hwrng >/tmp/random; cp /tmp/random /tmp/again; done &\n"
                  "while :; do echo x | nc 10.0.2.2 9; udhcpc -n -q -t 1; done >/dev/null 2>&1 &\n"
                  "while :; do dd if=/dev/zero of=/dev/vda bs=64k count=8 conv=fsync; done 2>/dev/null &\n"
                  "echo be''gun\n");
    machine_expect(&m, "begun");
    for (unsigned i = n / 2; i < n; i++)
        cycle(&c, i, 20);
    print_message("%s, %u CPUs, the default guest: %u cycles, %llu pages named\n", engine, cpus, n,
                  (unsigned long long)c.named);
    assert_true(c.named > n);
    close(console);
    copier_close(&c);
    kill_machine(&m);
}

static void linux_bt_cpus(void **state)
{
    linux_guest("bt", 2, MAX(cycles / 4, 4u));
}

static void linux_bt(void **state)
{
    linux_guest("bt", 1, MAX(cycles / 4, 4u));
}

static void linux_interp_cpus(void **state)
{
    if (cycles <= 100)
        skip(); /* minutes until it is up */
    linux_guest("interp", 2, cycles / 4);
}

/* --- rules --- */

static int ask_take(int fd, json_t *first, json_t *pages)
{
    json_t *j = json_pack("{s:s,s:s,s:o,s:o}", "do", "log", "action", "take", "first", first, "pages", pages);
    assert_non_null(j);
    int r = control_call(fd, j, NULL, NULL);
    json_decref(j);
    return r;
}

static void wrong_requests(void **state)
{
    static const struct {
        s64 first, pages;
    } wrong[] = {{0, 0},
                 {0, 63},
                 {1, 64},
                 {64, -64},
                 {-64, 64},
                 {0, 524288 + 64},
                 {0, 4101},
                 {4160, 64},
                 {4096, 128},
                 {INT64_MAX - 63, 64},
                 {64, INT64_MAX - 63},
                 {0, 1ll << 32},
                 {1ll << 40, 64}};
    struct machine m;
    u64 words[(4101 + 63) / 64];
    assert_true(scribble_start(&m, "interp", 1));
    int a = dial(&m), b = dial(&m);
    assert_int_equal(control_log_take(a, 0, 64, words, NULL), -EINVAL); /* before there is a log */
    assert_int_equal(control_log_stop(a, NULL), -EINVAL);
    assert_int_equal(control_log_start(a, NULL), 0);
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        assert_int_equal(ask_take(a, json_integer(wrong[i].first), json_integer(wrong[i].pages)), -EINVAL);
    assert_int_equal(ask_take(a, json_string("0"), json_integer(64)), -EINVAL);
    assert_int_equal(ask_take(a, json_real(0.5), json_null()), -EINVAL);
    assert_int_equal(say(a, "log"), -EINVAL);
    assert_int_equal(machine_do(&m, NULL, "{s:s,s:s}", "do", "log", "action", "dance"), -EINVAL);
    assert_int_equal(machine_do(&m, NULL, "{s:s,s:i}", "do", "log", "action", 1), -EINVAL);
    /* The last page is in a word that is not full. */
    assert_int_equal(control_log_take(a, 4096, 64, words, NULL), 0);
    assert_int_equal(words[0] >> 5, 0);
    assert_int_equal(control_log_take(a, 0, 4160, words, NULL), 0);
    /* One at a time. */
    assert_int_equal(control_log_start(b, NULL), -EBUSY);
    assert_int_equal(control_log_take(b, 0, 64, words, NULL), -EBUSY);
    assert_int_equal(control_log_stop(b, NULL), -EBUSY);
    assert_int_equal(control_log_start(a, NULL), 0); /* again */
    close(a);
    for (int i = 0; i < 1000 && control_log_start(b, NULL) < 0; i++)
        poll(NULL, 0, 10); /* until the keeper has noticed */
    assert_int_equal(control_log_take(b, 0, 4160, words, NULL), 0);
    assert_int_equal(control_log_stop(b, NULL), 0);
    assert_int_equal(control_log_take(b, 0, 64, words, NULL), -EINVAL);
    close(b);
    kill_machine(&m);
}

/* What does not write is not named; and a machine that was paused by somebody else is as good as held. */
static void still_machines(void **state)
{
    struct machine m;
    struct copier c;
    START(&m, spin);
    machine_expect(&m, "S");
    copier_open(&c, &m);
    copier_start(&c);
    for (int i = 0; i < 5; i++) {
        take(&c);
        copy_named(&c);
    }
    assert_true(c.named <= 5); /* at most a clock that the kernel's stand-in has not asked for */
    must_say(c.fd, "pause");
    take(&c);
    assert_nothing_left(&c);
    must_say(c.fd, "resume");
    copier_close(&c);
    kill_machine(&m);
}

/* The keeper writes the kernel to memory again, and the cell sees nothing of it: everything counts as written. */
static void reset_is_seen(void **state)
{
    for (unsigned cpus = 1; cpus <= 2; cpus++) {
        struct machine m;
        struct copier c;
        u64 first;
        assert_true(scribble_start(&m, "interp", cpus));
        copier_open(&c, &m);
        wait_steps(&c);
        copier_start(&c);
        take(&c);
        copy_named(&c);
        must_say(c.fd, "reset");
        while (say(c.fd, "hold") < 0) /* until it is up again */
            poll(NULL, 0, 1);
        take(&c);
        c.named = 0;
        copy_named(&c);
        assert_int_equal(c.named, c.pages);
        assert_int_equal(count_different(&c, &first), 0);
        must_say(c.fd, "release");
        wait_steps(&c);
        cycle(&c, 0, 0);
        copier_close(&c);
        kill_machine(&m);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_requests),  cmocka_unit_test(still_machines),       cmocka_unit_test(reset_is_seen),
        cmocka_unit_test(planted_loss),    cmocka_unit_test(scribble_bt),          cmocka_unit_test(scribble_bt_cpus),
        cmocka_unit_test(scribble_interp), cmocka_unit_test(scribble_interp_cpus), cmocka_unit_test(linux_bt),
        cmocka_unit_test(linux_bt_cpus),   cmocka_unit_test(linux_interp_cpus),
    };
    if (argc > 1 && !strcmp(argv[1], CELL_ARG))
        return cell_main(argc, argv);
    if (argc > 1 && !strcmp(argv[1], NET_ARG))
        return net_main(argc, argv);
    if (argc > 1)
        cycles = (unsigned)strtoul(argv[1], NULL, 0);
    if (argc > 2)
        seed = strtoull(argv[2], NULL, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
