/* Holds, snapshots and machines that go on from one: what each promises, also when somebody vanishes in the middle. */
#include "harness.h"
#include "migrate/lazy.h"
#include "vm/snapshot.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

static const struct snapshot_progress nobody_looks;

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

static void assert_state(struct machine *m, const char *state)
{
    json_t *j;
    char seen[32] = "";
    for (int i = 0; i < 1000 && strcmp(seen, state); i++) {
        if (i)
            poll(NULL, 0, 10);
        assert_int_equal(machine_do(m, &j, "{s:s}", "do", "status"), 0);
        snprintf(seen, sizeof(seen), "%s", json_string_value(json_object_get(j, "state")));
        json_decref(j);
    }
    assert_string_equal(seen, state);
}

static bool exists(struct machine *m, const char *file)
{
    char path[256];
    struct stat st;
    snprintf(path, sizeof(path), "%s/%s", m->dir, file);
    return lstat(path, &st) == 0;
}

static int directory(struct machine *m)
{
    int dir = open(m->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(dir >= 0);
    return dir;
}

static void end(struct machine *m)
{
    assert_int_equal(machine_do(m, NULL, "{s:s}", "do", "kill"), 0);
    assert_int_equal(machine_wait(m, NULL), VM_EXIT_SIGNAL + 9);
    machine_forget(m);
}

/* One that was restored runs: it sees its power button. */
static void end_by_button(struct machine *m)
{
    assert_int_equal(machine_do(m, NULL, "{s:s}", "do", "power"), 0);
    assert_int_equal(machine_wait(m, NULL), VM_EXIT_POWEROFF);
    machine_forget(m);
}

/* --- holds --- */

static void hold_rules(void **state)
{
    static const char *const refused[] = {"hold", "pause", "resume", "reset"};
    struct machine m;
    START(&m, button);
    int a = dial(&m), b = dial(&m);
    assert_int_equal(say(a, "release"), -ESTALE);
    assert_int_equal(say(a, "leave"), -ESTALE);
    assert_int_equal(say(a, "sync"), -ESTALE);
    assert_int_equal(say(a, "hold"), 0);
    assert_state(&m, "paused");
    for (size_t i = 0; i < ARRAY_LEN(refused); i++)
        assert_int_equal(say(b, refused[i]), -EBUSY);
    assert_int_equal(say(b, "release"), -ESTALE);
    assert_int_equal(say(a, "sync"), 0);
    assert_int_equal(say(a, "release"), 0);
    assert_state(&m, "running");
    assert_int_equal(say(b, "hold"), 0);
    close(b); /* whatever became of it */
    assert_state(&m, "running");
    close(a);
    end_by_button(&m);
}

/* What was paused before stays so. */
static void hold_of_a_paused_one(void **state)
{
    struct machine m;
    START(&m, button);
    int a = dial(&m);
    assert_int_equal(say(a, "pause"), 0);
    assert_int_equal(say(a, "hold"), 0);
    assert_int_equal(say(a, "release"), 0);
    assert_state(&m, "paused");
    assert_int_equal(say(a, "hold"), 0);
    close(a);
    a = dial(&m);
    assert_int_equal(say(a, "hold"), 0); /* so the other's is over */
    assert_state(&m, "paused");
    close(a);
    end(&m);
}

/* A person's word counts more than a hold; who had it hears so. */
static void hold_is_broken(void **state)
{
    struct machine m;
    START(&m, button);
    int a = dial(&m);
    assert_int_equal(say(a, "hold"), 0);
    assert_int_equal(machine_do(&m, NULL, "{s:s,s:i}", "do", "stop", "time", 30), 0);
    assert_int_equal(machine_wait(&m, NULL), VM_EXIT_POWEROFF);
    assert_true(say(a, "release") < 0);
    close(a);
    machine_forget(&m);

    START(&m, spin);
    a = dial(&m);
    assert_int_equal(say(a, "hold"), 0);
    assert_int_equal(machine_do(&m, NULL, "{s:s}", "do", "kill"), 0);
    assert_true(say(a, "leave") < 0);
    close(a);
    assert_int_equal(machine_wait(&m, NULL), VM_EXIT_SIGNAL + 9);
    machine_forget(&m);
}

static void memory_descriptor(void **state)
{
    struct machine m;
    struct stat st;
    u64 size = 0;
    START(&m, spin);
    int a = dial(&m);
    for (int i = 0; i < 3; i++) {
        int fd = control_memory(a, &size, NULL);
        assert_true(fd >= 0);
        assert_int_equal(size, m.cfg.memory);
        assert_int_equal(fstat(fd, &st), 0);
        assert_int_equal(st.st_size, m.cfg.memory);
        assert_int_equal(ftruncate(fd, 4096), -1); /* nobody can take memory away */
        assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        close(fd);
        assert_int_equal(say(a, "status"), 0); /* the connection goes on */
    }
    /* Asked for and not taken. */
    const char *line = "{\"do\":\"memory\"}\n{\"do\":\"memory\"}\n{\"do\":\"memory\"}\n";
    assert_true(send(a, line, strlen(line), MSG_NOSIGNAL) > 0);
    close(a);
    assert_state(&m, "running");
    end(&m);
}

/* --- snapshots --- */

static void go_on(struct machine *m, const char *name, const char *engine, const char *consumed)
{
    struct snapshot s;
    struct vm_config c;
    struct vm_incoming in;
    struct error e = {0};
    int dir = directory(m);
    if (snapshot_open(&s, dir, name, &e) < 0 || snapshot_config(&s, &c, &e) < 0 || snapshot_check(&s, &c, &e) < 0 ||
        snapshot_load(&s, &nobody_looks, &in, &e) < 0)
        fail_msg("%s", e.msg);
    assert_string_equal(c.kernel, m->cfg.kernel);
    snprintf(c.engine, sizeof(c.engine), "%s", engine);
    in.consumed = consumed;
    if (vm_launch_incoming(&c, &in, m->dir, &m->keeper, &e) < 0)
        fail_msg("%s", e.msg);
    snapshot_close(&s);
    close(dir);
    assert_state(m, "running");
}

static void suspend(struct machine *m)
{
    char reason[200];
    struct error e = {0};
    int dir = directory(m), a = dial(m);
    if (snapshot_suspend(a, dir, &nobody_looks, &e) < 0)
        fail_msg("%s", e.msg);
    close(a);
    close(dir);
    assert_int_equal(machine_wait(m, reason), 0);
    assert_string_equal(reason, VM_REASON_SUSPENDED);
    assert_true(exists(m, SNAPSHOT_SUSPENDED));
}

/* Under one engine, then the other, and back. */
static void suspend_and_go_on(void **state)
{
    static const char *const engines[] = {"interp", "auto", "interp"};
    struct machine m;
    START(&m, button);
    machine_expect(&m, "B");
    for (size_t i = 0; i < ARRAY_LEN(engines); i++) {
        suspend(&m);
        go_on(&m, SNAPSHOT_SUSPENDED, engines[i], SNAPSHOT_SUSPENDED);
        assert_false(exists(&m, SNAPSHOT_SUSPENDED));
    }
    end_by_button(&m);
}

/* A machine that runs on, and goes back as often as one likes; a reset loads its kernel again. */
static void back_again(void **state)
{
    struct machine m;
    struct error e = {0};
    START(&m, button);
    machine_expect(&m, "B");
    int dir = directory(&m), a = dial(&m);
    if (snapshot_create(a, dir, "one.snapshot", &nobody_looks, &e) < 0)
        fail_msg("%s", e.msg);
    close(a);
    assert_state(&m, "running");
    for (int i = 0; i < 2; i++) {
        assert_int_equal(machine_do(&m, NULL, "{s:s}", "do", "kill"), 0);
        assert_int_equal(machine_wait(&m, NULL), VM_EXIT_SIGNAL + 9);
        go_on(&m, "one.snapshot", "auto", NULL);
    }
    assert_true(exists(&m, "one.snapshot"));
    assert_int_equal(machine_do(&m, NULL, "{s:s}", "do", "reset"), 0);
    machine_expect(&m, "B");
    close(dir);
    end_by_button(&m);
}

/*
 * While a page is still in the file: the machine runs, who wants all of memory waits, and others are served. The page is one that
 * nobody touches, and this test claims it first.
 */
static void memory_is_waited_for(void **state)
{
    struct machine m;
    struct snapshot s;
    struct vm_config c;
    struct vm_incoming in;
    struct lazy l;
    struct error e = {0};
    char byte, *other = malloc(PAGE_SIZE);
    START(&m, button);
    machine_expect(&m, "B");
    int dir = directory(&m), a = dial(&m);
    u64 size, page = m.cfg.memory / PAGE_SIZE - 5;
    int ram_fd = control_memory(a, &size, &e);
    memset(other, 'x', PAGE_SIZE);
    assert_int_equal(pwrite(ram_fd, other, PAGE_SIZE, (off_t)(page * PAGE_SIZE)), PAGE_SIZE);
    close(ram_fd);
    assert_int_equal(snapshot_create(a, dir, "one.snapshot", &nobody_looks, &e), 0);
    close(a);
    assert_int_equal(machine_do(&m, NULL, "{s:s}", "do", "kill"), 0);
    machine_gone(&m);

    assert_int_equal(snapshot_open(&s, dir, "one.snapshot", &e), 0);
    assert_int_equal(snapshot_config(&s, &c, &e), 0);
    assert_int_equal(snapshot_load(&s, &nobody_looks, &in, &e), 0);
    assert_true(in.lazy);
    u64 pages = m.cfg.memory / PAGE_SIZE;
    void *base = mmap(NULL, lazy_size(pages), PROT_READ | PROT_WRITE, MAP_SHARED, in.table, 0);
    assert_int_equal(lazy_attach(&l, base, pages, -1, &e), 0);
    assert_true(l.absent[page / 64] >> (page % 64) & 1);
    l.claimed[page / 64] |= BIT(page % 64);
    assert_int_equal(vm_launch_incoming(&c, &in, m.dir, &m.keeper, &e), 0);
    snapshot_close(&s);
    assert_state(&m, "running");
    a = dial(&m);
    assert_int_equal(dprintf(a, "{\"do\":\"memory\"}\n"), 16);
    struct pollfd answer = {.fd = a, .events = POLLIN};
    /* All the others come, and that one does not. */
    for (int i = 0; i < 3000 && __atomic_load_n(&l.head->left, __ATOMIC_ACQUIRE) != 1; i++)
        poll(NULL, 0, 10);
    assert_int_equal(l.head->left, 1);
    assert_state(&m, "running");
    assert_int_equal(poll(&answer, 1, 50), 0);
    /* Now it does. */
    __atomic_fetch_and(&l.absent[page / 64], ~BIT(page % 64), __ATOMIC_RELEASE);
    __atomic_fetch_sub(&l.head->left, 1, __ATOMIC_RELEASE);
    assert_int_equal(poll(&answer, 1, 30000), 1);
    assert_int_equal(read(a, &byte, 1), 1);
    assert_int_equal(byte, '{');
    close(a);
    munmap(base, lazy_size(pages));
    free(other);
    close(dir);
    end_by_button(&m);
}

/* Launches that must fail, and leave neither a process nor the snapshot changed. */
static void refuse(struct machine *m, const struct vm_incoming *in, const char *what)
{
    struct error e = {0};
    pid_t keeper = 0;
    if (vm_launch_incoming(&m->cfg, in, m->dir, &keeper, &e) == 0)
        fail_msg("%s: it was taken", what);
    assert_true(e.msg[0]);
    assert_true(exists(m, SNAPSHOT_SUSPENDED));
    assert_false(exists(m, VM_FILE_CONTROL));
}

static void what_can_not_be_taken_over(void **state)
{
    struct machine m;
    struct snapshot s;
    struct vm_incoming in;
    struct error e = {0};
    START(&m, button);
    suspend(&m);
    int dir = directory(&m);
    assert_int_equal(snapshot_open(&s, dir, SNAPSHOT_SUSPENDED, &e), 0);
    assert_int_equal(snapshot_load(&s, &nobody_looks, &in, &e), 0);
    in.consumed = SNAPSHOT_SUSPENDED;
    struct vm_incoming bad = in;
    bad.len = in.len / 2;
    refuse(&m, &bad, "half of the records");
    u8 *records = malloc(in.len);
    assert_non_null(records);
    for (size_t at = 0; at < in.len; at += 1 + in.len / 7) {
        memcpy(records, in.records, in.len);
        records[at] ^= 0x10;
        bad = in;
        bad.records = records;
        refuse(&m, &bad, "a flipped bit");
    }
    free(records);
    bad = in;
    bad.ram_fd = memfd_create("small", MFD_CLOEXEC);
    assert_true(bad.ram_fd >= 0 && ftruncate(bad.ram_fd, 1 << 20) == 0);
    refuse(&m, &bad, "a small memory");
    close(bad.ram_fd);
    /* After all that it still goes on. */
    assert_int_equal(vm_launch_incoming(&m.cfg, &in, m.dir, &m.keeper, &e), 0);
    snapshot_close(&s);
    close(dir);
    end_by_button(&m);
}

/* A file that can not be written: the machine goes on, and nothing is left. */
static void no_room(void **state)
{
    struct machine m;
    struct error e = {0};
    const struct rlimit small = {4096, RLIM_INFINITY}, none = {RLIM_INFINITY, RLIM_INFINITY};
    START(&m, button);
    int dir = directory(&m), a = dial(&m);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    int r = snapshot_suspend(a, dir, &nobody_looks, &e);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
    if (r != -EFBIG)
        fail_msg("%d: %s", r, e.msg);
    close(a);
    close(dir);
    assert_state(&m, "running");
    assert_false(exists(&m, SNAPSHOT_SUSPENDED));
    assert_false(exists(&m, SNAPSHOT_SUSPENDED ".part"));
    end_by_button(&m);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hold_rules),
        cmocka_unit_test(hold_of_a_paused_one),
        cmocka_unit_test(hold_is_broken),
        cmocka_unit_test(memory_descriptor),
        cmocka_unit_test(suspend_and_go_on),
        cmocka_unit_test(back_again),
        cmocka_unit_test(memory_is_waited_for),
        cmocka_unit_test(no_room),
        cmocka_unit_test(what_can_not_be_taken_over),
    };
    if (argc > 1 && !strcmp(argv[1], CELL_ARG))
        return cell_main(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
