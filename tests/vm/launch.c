/* Machines launched for real: how they end, what is left behind, what a person can ask of them meanwhile. */
#include "harness.h"

#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

static bool exists(struct machine *m, const char *file)
{
    char path[128];
    struct stat st;
    snprintf(path, sizeof(path), "%s/%s", m->dir, file);
    return lstat(path, &st) == 0;
}

static void debug_exit(void **state)
{
    struct machine m;
    char reason[200] = "";
    START(&m, hello);
    assert_int_equal(machine_wait(&m, reason), 5 << 1 | 1);
    assert_string_equal(reason, "debug exit, value 5");
    machine_expect(&m, "hello from the guest\n");
    assert_false(exists(&m, VM_FILE_CONTROL));
    assert_false(exists(&m, VM_FILE_LOCK));
    machine_forget(&m);
}

static void triple_fault(void **state)
{
    struct machine m;
    char path[128], text[8192] = "";
    START(&m, triple);
    assert_int_equal(machine_wait(&m, NULL), VM_EXIT_TRIPLE);
    snprintf(path, sizeof(path), "%s/%s", m.dir, VM_FILE_END);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_true(fread(text, 1, sizeof(text) - 1, f) > 0);
    fclose(f);
    assert_non_null(strstr(text, "CR0")); /* the state is shown */
    machine_forget(&m);
}

static void resets(void **state)
{
    struct machine m;
    char reason[200];
    START(&m, reset);
    assert_int_equal(machine_wait(&m, reason), VM_EXIT_POWEROFF);
    assert_string_equal(reason, "power off");
    machine_expect(&m, "123");
    machine_forget(&m);
}

static void no_reboot(void **state)
{
    struct machine m;
    char reason[200];
    PREPARE(&m, reset);
    m.cfg.no_reboot = true;
    machine_launch(&m);
    assert_int_equal(machine_wait(&m, reason), VM_EXIT_POWEROFF);
    assert_string_equal(reason, "reset (--no-reboot)");
    machine_expect(&m, "1");
    machine_forget(&m);
}

static void pause_and_resume(void **state)
{
    struct machine m;
    json_t *a, *b;
    START(&m, spin);
    machine_expect(&m, "S");
    assert_int_equal(machine_do(&m, NULL, "{s:s}", "do", "pause"), 0);
    assert_int_equal(machine_do(&m, NULL, "{s:s}", "do", "pause"), 0);
    assert_int_equal(machine_do(&m, &a, "{s:s}", "do", "status"), 0);
    assert_string_equal(json_string_value(json_object_get(a, "state")), "paused");
    poll(NULL, 0, 50);
    assert_int_equal(machine_do(&m, &b, "{s:s}", "do", "status"), 0);
    assert_int_equal(json_integer_value(json_object_get(a, "instructions")),
                     json_integer_value(json_object_get(b, "instructions")));
    json_decref(b);
    assert_int_equal(machine_do(&m, NULL, "{s:s}", "do", "resume"), 0);
    assert_int_equal(machine_do(&m, &b, "{s:s}", "do", "status"), 0);
    assert_string_equal(json_string_value(json_object_get(b, "state")), "running");
    json_decref(a);
    json_decref(b);
    assert_int_equal(machine_do(&m, NULL, "{s:s}", "do", "kill"), 0);
    assert_int_equal(machine_wait(&m, NULL), VM_EXIT_SIGNAL + 9);
    machine_forget(&m);
}

static void stop_by_button(void **state)
{
    struct machine m;
    json_t *j;
    START(&m, button);
    machine_expect(&m, "B");
    assert_int_equal(machine_do(&m, &j, "{s:s,s:i}", "do", "stop", "time", 600), 0);
    assert_int_equal(json_integer_value(json_object_get(j, "code")), 0);
    assert_string_equal(json_string_value(json_object_get(j, "reason")), "power off");
    json_decref(j);
    machine_wait(&m, NULL);
    machine_forget(&m);
}

static void stop_by_kill(void **state)
{
    struct machine m;
    json_t *j;
    START(&m, idle);
    machine_expect(&m, "I");
    assert_int_equal(machine_do(&m, &j, "{s:s,s:i}", "do", "stop", "time", 0), 0);
    assert_int_equal(json_integer_value(json_object_get(j, "code")), VM_EXIT_SIGNAL + 9);
    json_decref(j);
    machine_wait(&m, NULL);
    machine_forget(&m);
}

static void asked_reset(void **state)
{
    struct machine m;
    PREPARE(&m, idle);
    m.cfg.no_reboot = true; /* what a person asks for is done all the same */
    machine_launch(&m);
    machine_expect(&m, "I");
    assert_int_equal(machine_do(&m, NULL, "{s:s}", "do", "reset"), 0);
    machine_expect(&m, "II");
    assert_int_equal(machine_do(&m, NULL, "{s:s}", "do", "kill"), 0);
    machine_wait(&m, NULL);
    machine_forget(&m);
}

/* The kernel's file changes under a running machine: a reset says so instead of starting something else. */
static void changed_kernel(void **state)
{
    struct machine m;
    char reason[200];
    START(&m, idle);
    machine_expect(&m, "I");
    assert_int_equal(truncate(m.cfg.kernel, 10), 0);
    assert_int_equal(machine_do(&m, NULL, "{s:s}", "do", "reset"), 0);
    assert_int_equal(machine_wait(&m, reason), VM_EXIT_HOST);
    assert_non_null(strstr(reason, "changed"));
    machine_forget(&m);
}

static void keeper_killed(void **state)
{
    struct machine m;
    json_t *j;
    int code;
    START(&m, spin);
    assert_int_equal(machine_do(&m, &j, "{s:s}", "do", "status"), 0);
    pid_t cell = (pid_t)json_integer_value(json_object_get(j, "cell"));
    json_decref(j);
    assert_true(process_lives(cell));
    kill(m.keeper, SIGKILL);
    for (int i = 0; i < 3000 && (process_lives(cell) || process_lives(m.keeper)); i++)
        poll(NULL, 0, 10);
    assert_false(process_lives(cell));
    assert_int_equal(vm_end_read(m.dir, &code, NULL, 0, NULL), -ENOENT);
    assert_int_equal(machine_do(&m, NULL, "{s:s}", "do", "status"), -ECONNREFUSED);
    machine_launch(&m); /* the dead machine's socket and lock are in nobody's way */
    assert_int_equal(machine_do(&m, NULL, "{s:s}", "do", "kill"), 0);
    machine_wait(&m, NULL);
    machine_forget(&m);
}

static void cell_killed(void **state)
{
    struct machine m;
    json_t *j;
    char reason[200];
    START(&m, spin);
    assert_int_equal(machine_do(&m, &j, "{s:s}", "do", "status"), 0);
    kill((pid_t)json_integer_value(json_object_get(j, "cell")), SIGKILL);
    json_decref(j);
    assert_int_equal(machine_wait(&m, reason), VM_EXIT_HOST);
    assert_non_null(strstr(reason, "signal 9"));
    machine_forget(&m);
}

static void terminated(void **state)
{
    struct machine m;
    START(&m, button);
    machine_expect(&m, "B");
    kill(m.keeper, SIGTERM);
    assert_int_equal(machine_wait(&m, NULL), VM_EXIT_POWEROFF);
    machine_forget(&m);
}

/* Records out of one machine, into another process that never ran that guest's code. */
static void save_and_load(void **state)
{
    struct machine m, n;
    struct error e = {0};
    json_t *j, *request = json_pack("{s:s}", "do", "save");
    START(&m, idle);
    START(&n, idle);
    machine_expect(&m, "I");
    machine_expect(&n, "I");
    assert_int_equal(machine_do(&m, NULL, "{s:s}", "do", "save"), -EBUSY); /* not paused */
    assert_int_equal(machine_do(&m, NULL, "{s:s}", "do", "pause"), 0);
    assert_int_equal(machine_do(&n, NULL, "{s:s}", "do", "pause"), 0);
    int fd = control_connect(m.socket, &e);
    assert_true(fd >= 0);
    assert_int_equal(control_call(fd, request, &j, &e), 0);
    json_decref(request);
    size_t len = (size_t)json_integer_value(json_object_get(j, "bytes")), got = 0;
    json_decref(j);
    u8 *data = malloc(len);
    assert_non_null(data);
    while (got < len) {
        ssize_t r = read(fd, data + got, len - got);
        assert_true(r > 0);
        got += (size_t)r;
    }
    close(fd);
    for (int damaged = 0; damaged < 2; damaged++) {
        data[len / 2] ^= (u8)damaged;
        fd = control_connect(n.socket, &e);
        assert_true(fd >= 0);
        request = json_pack("{s:s,s:I}", "do", "load", "bytes", (json_int_t)len);
        assert_int_equal(control_send(fd, request, &e), 0);
        json_decref(request);
        assert_int_equal(write(fd, data, len), (ssize_t)len);
        assert_int_equal(control_receive(fd, NULL, &e), damaged ? -EINVAL : 0);
        close(fd);
    }
    free(data);
    assert_int_equal(machine_do(&n, NULL, "{s:s}", "do", "resume"), 0);
    assert_int_equal(machine_do(&m, NULL, "{s:s}", "do", "kill"), 0);
    assert_int_equal(machine_do(&n, NULL, "{s:s}", "do", "kill"), 0);
    machine_wait(&m, NULL);
    machine_wait(&n, NULL);
    machine_forget(&m);
    machine_forget(&n);
}

/* --- what can't be launched: one line, and nothing left behind --- */

static void refuses(const char *expect, void (*spoil)(struct machine *))
{
    struct machine m;
    struct error e = {0};
    PREPARE(&m, idle);
    spoil(&m);
    assert_true(vm_launch(&m.cfg, m.dir, &m.keeper, &e) < 0);
    if (!strstr(e.msg, expect) || strchr(e.msg, '\n'))
        fail_msg("\"%s\" is not in \"%s\"", expect, e.msg);
    assert_false(exists(&m, VM_FILE_CONTROL));
    assert_false(exists(&m, VM_FILE_LOCK));
    assert_false(exists(&m, VM_FILE_LOG));
    assert_false(exists(&m, VM_FILE_END));
    machine_gone(&m);
    machine_forget(&m);
}

static void no_change(struct machine *m)
{
}
static void no_kernel(struct machine *m)
{
    unlink(m->cfg.kernel);
}
static void empty_kernel(struct machine *m)
{
    assert_int_equal(truncate(m->cfg.kernel, 0), 0);
}
static void short_kernel(struct machine *m)
{
    assert_int_equal(truncate(m->cfg.kernel, 100), 0);
}
static void dir_kernel(struct machine *m)
{
    strcpy(m->cfg.kernel, "/");
}
static void fifo_kernel(struct machine *m)
{
    unlink(m->cfg.kernel);
    assert_int_equal(mkfifo(m->cfg.kernel, 0600), 0);
}
static void no_initrd(struct machine *m)
{
    strcpy(m->cfg.initrd, "/nonexistent/initrd");
}
static void many_cpus(struct machine *m)
{
    m->cfg.cpus = VM_CPUS_MAX + 1;
}
static void odd_cpu(struct machine *m)
{
    strcpy(m->cfg.cpu_model, "z80");
}
static void odd_engine(struct machine *m)
{
    strcpy(m->cfg.engine, "steam");
}
static void no_memory(struct machine *m)
{
    m->cfg.memory = 4096;
}

static void refusals(void **state)
{
    refuses("No such file", no_kernel);
    refuses("is empty", empty_kernel);
    refuses("kernel", short_kernel);
    refuses("no regular file", dir_kernel);
    refuses("no regular file", fifo_kernel);
    refuses("/nonexistent/initrd", no_initrd);
    refuses("--cpus 65", many_cpus);
    refuses("z80", odd_cpu);
    refuses("steam", odd_engine);
    refuses("--memory", no_memory);
}

/* A limit on the size of files is told like any other want, not by a keeper that vanishes. */
static void file_limit(void **state)
{
    struct rlimit old, low;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    low = (struct rlimit){1u << 20, old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    signal(SIGXFSZ, SIG_IGN); /* writing the kernel below must not end the test */
    refuses("File too large", no_change);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
}

static void name_taken(void **state)
{
    struct machine m;
    struct error e = {0};
    pid_t other;
    START(&m, idle);
    assert_int_equal(vm_launch(&m.cfg, m.dir, &other, &e), -EEXIST);
    assert_int_equal(machine_do(&m, NULL, "{s:s}", "do", "status"), 0); /* the first one is not disturbed */
    assert_int_equal(machine_do(&m, NULL, "{s:s}", "do", "kill"), 0);
    machine_wait(&m, NULL);
    machine_forget(&m);
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], CELL_ARG))
        return cell_main(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(debug_exit),       cmocka_unit_test(triple_fault),   cmocka_unit_test(resets),
        cmocka_unit_test(no_reboot),        cmocka_unit_test(stop_by_button), cmocka_unit_test(stop_by_kill),
        cmocka_unit_test(pause_and_resume), cmocka_unit_test(asked_reset),    cmocka_unit_test(changed_kernel),
        cmocka_unit_test(keeper_killed),    cmocka_unit_test(cell_killed),    cmocka_unit_test(terminated),
        cmocka_unit_test(save_and_load),    cmocka_unit_test(refusals),       cmocka_unit_test(name_taken),
        cmocka_unit_test(file_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
