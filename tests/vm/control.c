/* The control socket: clients that garble, flood, stall and vanish; and the console: one types, several watch. */
#include "harness.h"
#include "vm/explain.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define ID       "0123456789abcdef0123456789abcdef"
#define OTHER_ID "1123456789abcdef0123456789abcdef"

static void assert_serves(struct machine *m)
{
    json_t *j;
    assert_int_equal(machine_do(m, &j, "{s:s}", "do", "status"), 0);
    assert_string_equal(json_string_value(json_object_get(j, "state")), "running");
    json_decref(j);
}

static void end(struct machine *m)
{
    assert_int_equal(machine_do(m, NULL, "{s:s}", "do", "kill"), 0);
    assert_int_equal(machine_wait(m, NULL), VM_EXIT_SIGNAL + 9);
    machine_forget(m);
}

static int dial(struct machine *m)
{
    struct error e = {0};
    int fd = control_connect(m->socket, &e);
    if (fd < 0)
        fail_msg("%s", e.msg);
    return fd;
}

/* Send raw bytes; what comes back until the keeper's line ends or the connection does. */
static ssize_t raw(int fd, const void *data, size_t len, char *reply, size_t size)
{
    size_t got = 0;
    send(fd, data, len, MSG_NOSIGNAL);
    while (got < size - 1) {
        ssize_t n = recv(fd, reply + got, size - 1 - got, 0);
        if (n <= 0)
            break;
        got += (size_t)n;
        if (memchr(reply, '\n', got))
            break;
    }
    reply[got] = 0;
    return (ssize_t)got;
}

static void garbage(void **state)
{
    static const char *const lines[] = {
        "\n",
        "hello\n",
        "[]\n",
        "{}\n",
        "{\"do\":1}\n",
        "{\"do\":\"dance\"}\n",
        "{\"do\":\"stop\",\"time\":-1}\n",
        "{\"do\":\"stop\",\"time\":\"soon\"}\n",
        "{\"do\":\"load\",\"bytes\":99999999999}\n",
        "{\"do\":\"status\"\n",
        "\xff\xfe\n",
        "{\"do\":\"a\",\"do\":\"status\"}\n",
    };
    struct machine m;
    char reply[2048];
    START(&m, spin);
    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        int fd = dial(&m);
        assert_true(raw(fd, lines[i], strlen(lines[i]), reply, sizeof(reply)) > 0);
        if (!strstr(reply, "\"ok\":false") || !strstr(reply, "\"error\":"))
            fail_msg("line %zu: %s", i, reply);
        /* The connection is as good as before. */
        assert_true(raw(fd, "{\"do\":\"status\"}\n", 16, reply, sizeof(reply)) > 0);
        assert_non_null(strstr(reply, "\"ok\":true"));
        close(fd);
    }
    assert_serves(&m);
    end(&m);
}

static void endless_line(void **state)
{
    struct machine m;
    char reply[2048], *junk = malloc(4u << 20);
    assert_non_null(junk);
    memset(junk, '{', 4u << 20);
    START(&m, spin);
    int fd = dial(&m);
    raw(fd, junk, 4u << 20, reply, sizeof(reply));
    assert_true(recv(fd, reply, sizeof(reply), 0) <= 0); /* it was closed */
    close(fd);
    junk[CONTROL_LINE_MAX - 1] = '\n'; /* deep nesting in a line that is short enough */
    fd = dial(&m);
    assert_true(raw(fd, junk, CONTROL_LINE_MAX, reply, sizeof(reply)) > 0);
    assert_non_null(strstr(reply, "\"ok\":false"));
    close(fd);
    free(junk);
    assert_serves(&m);
    end(&m);
}

/* More connections than places, half lines, requests without reading the answers, and gone. */
static void rude_clients(void **state)
{
    struct machine m;
    int fds[64];
    START(&m, spin);
    for (int i = 0; i < 64; i++) {
        fds[i] = dial(&m);
        send(fds[i], "{\"do\":\"sta", (size_t)(i % 10), MSG_NOSIGNAL);
    }
    for (int i = 0; i < 64; i++)
        close(fds[i]);
    int fd = dial(&m);
    const char *line = "{\"do\":\"inspect\"}\n";
    for (int i = 0; i < 20000; i++)
        if (send(fd, line, strlen(line), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
            break;
    assert_serves(&m); /* while the other never reads */
    close(fd);
    for (int i = 0; i < 50; i++) {
        fd = dial(&m);
        send(fd, "{\"do\":\"stats\"}\n{\"do\":\"wait\"}\n", 30, MSG_NOSIGNAL);
        close(fd);
    }
    assert_serves(&m);
    end(&m);
}

static void private_socket(void **state)
{
    struct machine m;
    struct stat st;
    START(&m, spin);
    assert_int_equal(stat(m.socket, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    end(&m);
}

/* --- the console --- */

static int console(struct machine *m, bool input, int replay, bool *granted)
{
    struct error e = {0};
    json_t *j, *r = json_pack("{s:s,s:b,s:i}", "do", "console", "input", input, "replay", replay);
    int fd = dial(m);
    assert_int_equal(control_call(fd, r, &j, &e), 0);
    if (granted)
        *granted = json_is_true(json_object_get(j, "input"));
    json_decref(r);
    json_decref(j);
    return fd;
}

/* Read output frames until `text` has come. */
static void expect_output(int fd, const char *text)
{
    char all[65536];
    size_t len = 0;
    struct control_frame f;
    while (control_frame_receive(fd, &f) == 1) {
        if (f.kind != CONTROL_OUTPUT || len + f.len >= sizeof(all))
            continue;
        memcpy(all + len, f.data, f.len);
        len += f.len;
        if (memmem(all, len, text, strlen(text)))
            return;
    }
    fail_msg("the console ended without \"%s\"", text);
}

static void typing(void **state)
{
    struct machine m;
    bool mine, too;
    char keys[3000];
    struct control_frame f;
    int r;
    START(&m, echo);
    int a = console(&m, true, 1000, &mine), b = console(&m, true, 1000, &too);
    assert_true(mine);
    assert_false(too);
    expect_output(a, ">");
    expect_output(b, ">");                                               /* by replay */
    assert_int_equal(control_frame_send(b, CONTROL_INPUT, "BBB", 3), 0); /* has no right to */
    assert_int_equal(control_frame_send(a, CONTROL_INPUT, "abc", 3), 0);
    expect_output(a, "abc");
    expect_output(b, "abc");
    /* More at once than UART, ring and keeper hold: nothing is lost. */
    for (int round = 0; round < 4; round++) {
        memset(keys, 'a' + round % 16, sizeof(keys));
        assert_int_equal(control_frame_send(a, CONTROL_INPUT, keys, sizeof(keys)), 0);
    }
    assert_int_equal(control_frame_send(a, CONTROL_INPUT, "END", 3), 0);
    expect_output(b, "END");
    machine_expect(&m, "END");
    close(a);
    /* The keyboard is free when its holder has gone. */
    for (int i = 0; i < 300; i++) {
        a = console(&m, true, 0, &mine);
        if (mine)
            break;
        close(a);
        poll(NULL, 0, 10);
    }
    assert_true(mine);
    assert_int_equal(control_frame_send(a, CONTROL_INPUT, "q", 1), 0);
    while ((r = control_frame_receive(a, &f)) == 1 && f.kind != CONTROL_END)
        ;
    assert_int_equal(r, 1);
    assert_non_null(strstr((char *)f.data, "power off"));
    assert_int_equal(control_frame_receive(a, &f), 0);
    close(a);
    close(b);
    assert_int_equal(machine_wait(&m, NULL), 0);
    machine_forget(&m);
}

/* The log has every byte in order though a watcher never reads. */
/* The terminal's size: taken at any rate, from whoever types; a frame that is none ends the connection. */
static void sizes(void **state)
{
    struct machine m;
    struct error e = {0};
    json_t *j, *r = json_pack("{s:s,s:b}", "do", "console", "input", 1);
    u8 size[4] = {80, 0, 25, 0};
    struct control_frame f;
    PREPARE(&m, spin);
    strcpy(m.cfg.console, "virtio");
    machine_launch(&m);
    int a = dial(&m), b = dial(&m), n;
    assert_int_equal(control_call(a, r, &j, &e), 0);
    assert_true(json_is_true(json_object_get(j, "size")));
    json_decref(j);
    assert_int_equal(control_call(b, r, &j, &e), 0);
    assert_false(json_is_true(json_object_get(j, "size"))); /* it may not type, so nobody asks it */
    json_decref(j);
    for (unsigned i = 0; i < 3000; i++) { /* more than there is room for messages */
        size[0] = (u8)i;
        assert_int_equal(control_frame_send(a, CONTROL_SIZE, size, 4), 0);
        if (i % 100 == 0)
            assert_int_equal(control_frame_send(b, CONTROL_SIZE, size, 4), 0);
    }
    assert_int_equal(machine_do(&m, NULL, "{s:s}", "do", "pause"), 0);
    for (unsigned i = 0; i < 300; i++)
        assert_int_equal(control_frame_send(a, CONTROL_SIZE, size, 4), 0);
    assert_int_equal(machine_do(&m, NULL, "{s:s}", "do", "resume"), 0);
    assert_int_equal(control_frame_send(b, CONTROL_SIZE, size, 3), 0);
    while ((n = control_frame_receive(b, &f)) == 1)
        assert_int_not_equal(f.kind, CONTROL_END);
    assert_int_equal(n, 0);
    assert_int_equal(machine_do(&m, NULL, "{s:s}", "do", "stats"), 0); /* the others are served */
    assert_int_equal(control_frame_send(a, CONTROL_SIZE, size, 4), 0);
    json_decref(r);
    close(a);
    close(b);
    end(&m);
}

static void slow_watcher(void **state)
{
    struct machine m;
    char path[128];
    struct stat st;
    START(&m, flood);
    int fd = console(&m, false, 0, NULL);
    snprintf(path, sizeof(path), "%s/%s", m.dir, VM_FILE_LOG);
    off_t top = 0;
    for (int i = 0; i < 6000 && top < 700 << 10; i++) {
        assert_int_equal(stat(path, &st), 0);
        top = MAX(top, st.st_size);
        poll(NULL, 0, 10);
    }
    assert_true(top >= 700 << 10); /* the guest went on far beyond what was kept for the watcher */
    struct control_frame f;
    bool dropped = false;
    while (!dropped && control_frame_receive(fd, &f) == 1)
        dropped = f.kind == CONTROL_DROPPED;
    assert_true(dropped);
    close(fd);
    end(&m);
}

/* Counters and code of a guest that computes: both while it runs and while it stands still. */
static void looking_inside(void **state)
{
    struct machine m;
    PREPARE(&m, spin);
    strcpy(m.cfg.engine, "interp");
    machine_launch(&m);
    machine_expect(&m, "S");
    for (int paused = 0; paused < 2; paused++) {
        json_t *stats, *x;
        assert_int_equal(machine_do(&m, &stats, "{s:s}", "do", "stats"), 0);
#define X(name, text) assert_true(json_is_integer(json_object_get(stats, #name)));
        ENGINE_COUNTERS(X)
#undef X
        assert_true(json_integer_value(json_object_get(stats, "instructions")) > 0);
        json_decref(stats);
        assert_int_equal(machine_do(&m, &x, "{s:s}", "do", "explain"), 0);
        struct engine_explain got;
        assert_int_equal(explain_from_json(&got, x, NULL), 0);
        assert_in_range(got.n, 1, 2); /* inc eax; jmp */
        assert_in_range(got.address, 0x100000, 0x101000);
        json_decref(x);
        assert_int_equal(machine_do(&m, &x, "{s:s,s:s}", "do", "explain", "address", "0x100000"), 0);
        assert_int_equal(explain_from_json(&got, x, NULL), 0);
        assert_int_equal(got.start, 0x100000);
        assert_int_equal(got.insn[0].bytes[0], 0xbc); /* mov esp */
        json_decref(x);
        if (!paused)
            assert_int_equal(machine_do(&m, NULL, "{s:s}", "do", "pause"), 0);
    }
    assert_int_equal(machine_do(&m, NULL, "{s:s,s:s}", "do", "explain", "address", "0xfee00000"), -ENOENT);
    assert_int_equal(machine_do(&m, NULL, "{s:s,s:s}", "do", "explain", "address", "here"), -EINVAL);
    assert_int_equal(machine_do(&m, NULL, "{s:s,s:i}", "do", "explain", "address", 1), -EINVAL);
    end(&m);
}

/* Memory that the machine is to have, of a guest that can not give any back. */
static void memory(void **state)
{
    struct machine m;
    json_t *j;
    PREPARE(&m, idle);
    m.cfg.memory = 128u << 20;
    machine_launch(&m);
    assert_int_equal(machine_do(&m, &j, "{s:s,s:b}", "do", "balloon", "refresh", 1), 0);
    static const char *const sizes[] = {"memory", "memory_target", "memory_actual"};
    for (unsigned i = 0; i < ARRAY_LEN(sizes); i++)
        assert_int_equal(json_integer_value(json_object_get(j, sizes[i])), m.cfg.memory);
    assert_true(json_is_false(json_object_get(j, "driver")));
    assert_int_equal(json_object_size(json_object_get(j, "guest")), 0);
    s64 host = json_integer_value(json_object_get(j, "host"));
    assert_true(host >= 4096 && host < 128 << 20);
    json_decref(j);
    static const struct {
        json_int_t size;
        int answer;
    } cases[] = {{128 << 20, -ENODEV},       {64 << 20, -ENODEV},  {(64 << 20) - 1, -ERANGE}, {0, -ERANGE},
                 {(128 << 20) + 1, -ERANGE}, {1ll << 50, -ERANGE}, {INT64_MAX, -ERANGE},      {-1, -EINVAL},
                 {INT64_MIN, -EINVAL}};
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++)
        assert_int_equal(machine_do(&m, NULL, "{s:s,s:I}", "do", "balloon", "memory", cases[i].size), cases[i].answer);
    assert_int_equal(machine_do(&m, NULL, "{s:s,s:s}", "do", "balloon", "memory", "64M"), -EINVAL);
    assert_int_equal(machine_do(&m, NULL, "{s:s,s:f}", "do", "balloon", "memory", 1e8), -EINVAL);
    assert_int_equal(machine_do(&m, NULL, "{s:s}", "do", "pause"), 0);
    assert_int_equal(machine_do(&m, NULL, "{s:s,s:b}", "do", "balloon", "refresh", 1), 0);
    end(&m);
}

/* A request and the bytes that belong to it in one piece; and frames that can not be, or have nobody to go to. */
static void bytes_follow(void **state)
{
    static const struct {
        const char *line;
        unsigned bytes;
        const char *answer;
    } cases[] = {{"{\"do\":\"frames\",\"action\":\"give\",\"bytes\":40}\n", 40, "can not be"},
                 {"{\"do\":\"frames\",\"action\":\"give\",\"bytes\":0}\n", 0, "has to be 1 to"},
                 {"{\"do\":\"frames\",\"action\":\"give\",\"bytes\":1048577}\n", 0, "has to be 1 to"},
                 {"{\"do\":\"frames\",\"action\":\"take\"}\n", 0, "has not been handed over"},
                 {"{\"do\":\"frames\"}\n", 0, "take or give"},
                 {"{\"do\":\"load\",\"bytes\":8}\n", 8, "pause the machine first"}};
    struct machine m;
    char reply[2048], all[256];
    START(&m, spin);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        int fd = dial(&m);
        size_t n = strlen(cases[i].line);
        memcpy(all, cases[i].line, n);
        memset(all + n, 0, cases[i].bytes);
        assert_true(raw(fd, all, n + cases[i].bytes, reply, sizeof(reply)) > 0);
        if (!strstr(reply, "\"ok\":false") || !strstr(reply, cases[i].answer))
            fail_msg("%s%s", cases[i].line, reply);
        close(fd);
    }
    assert_serves(&m);
    end(&m);
}

/* Disks that are mirrored: by one client at a time, whose marks go with it; what can not be asked is refused. */
static void mirrored(void **state)
{
    static const struct {
        const char *line, *answer;
    } cases[] = {{"{\"do\":\"mirror\"}\n", "has to be \\\"start"},
                 {"{\"do\":\"mirror\",\"action\":\"open\",\"disk\":0}\n", "comes first"},
                 {"{\"do\":\"mirror\",\"action\":\"start\"}\n", NULL},
                 {"{\"do\":\"mirror\",\"action\":\"open\",\"disk\":1}\n", "has to be one that"},
                 {"{\"do\":\"mirror\",\"action\":\"open\",\"disk\":-1}\n", "has to be one that"},
                 {"{\"do\":\"mirror\",\"action\":\"open\",\"disk\":4294967296}\n", "has to be one that"},
                 {"{\"do\":\"mirror\",\"action\":\"take\",\"disk\":0}\n", "multiples of 64"},
                 {"{\"do\":\"mirror\",\"action\":\"take\",\"disk\":0,\"first\":0,\"blocks\":63}\n", "multiples of 64"},
                 {"{\"do\":\"mirror\",\"action\":\"take\",\"disk\":0,\"first\":64,\"blocks\":64}\n", "inside a disk"},
                 {"{\"do\":\"mirror\",\"action\":\"take\",\"disk\":0,\"first\":0,\"blocks\":65600}\n", "at most"},
                 {"{\"do\":\"mirror\",\"action\":\"take\",\"disk\":15,\"first\":0,\"blocks\":64}\n", "inside a disk"},
                 {"{\"do\":\"mirror\",\"action\":\"stop\"}\n", NULL},
                 {"{\"do\":\"mirror\",\"action\":\"stop\"}\n", "comes first"}};
    struct machine m;
    struct error e = {0};
    struct blockmap marks;
    char reply[2048];
    u64 bytes;
    bool direct;
    PREPARE(&m, spin);
    m.cfg.n_disks = 1;
    m.cfg.disks[0] = (struct vm_disk){.format = "raw", .cache = "writeback"};
    snprintf(m.cfg.disks[0].file, PATH_MAX, "%s/disk", m.dir);
    int disk = open(m.cfg.disks[0].file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(disk >= 0 && ftruncate(disk, 1 << 20) == 0);
    machine_launch(&m);
    int fd = dial(&m), other = dial(&m);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_true(raw(fd, cases[i].line, strlen(cases[i].line), reply, sizeof(reply)) > 0);
        if (!strstr(reply, cases[i].answer ? cases[i].answer : "\"ok\":true"))
            fail_msg("%s%s", cases[i].line, reply);
    }
    assert_int_equal(control_mirror_start(fd, &e), 0);
    assert_int_equal(control_mirror_start(other, &e), -EBUSY);
    int got = control_mirror_open(fd, 0, &bytes, &direct, &e);
    struct stat a, b;
    assert_true(got >= 0 && fstat(got, &a) == 0 && fstat(disk, &b) == 0);
    assert_true(a.st_ino == b.st_ino && a.st_dev == b.st_dev && bytes == 1 << 20 && !direct);
    assert_int_equal(blockmap_init(&marks, bytes), 0);
    assert_int_equal(control_mirror_take(fd, 0, &marks, &e), 0);
    assert_int_equal(blockmap_count(&marks), 0);
    close(fd);
    for (int i = 0; i < 200 && control_mirror_start(other, &e) == -EBUSY; i++) /* it has not been seen to go yet */
        poll(NULL, 0, 50);
    assert_int_equal(control_mirror_take(other, 0, &marks, &e), 0);
    close(other);
    close(got);
    close(disk);
    blockmap_free(&marks);
    unlink(m.cfg.disks[0].file);
    end(&m);
}

static s64 instructions(struct machine *m)
{
    json_t *stats;
    assert_int_equal(machine_do(m, &stats, "{s:s}", "do", "stats"), 0);
    s64 n = json_integer_value(json_object_get(stats, "instructions"));
    json_decref(stats);
    return n;
}

static s64 progress(struct machine *m)
{
    s64 before = instructions(m);
    poll(NULL, 0, 300);
    return instructions(m) - before;
}

/* While a migration wants it so its CPUs stand still for most of the time; when that is over, however, no more. */
static void throttled(void **state)
{
    for (unsigned cpus = 1; cpus <= 2; cpus++) {
        struct machine m;
        struct error e = {0};
        PREPARE(&m, spin);
        m.cfg.cpus = cpus;
        machine_launch(&m);
        int fd = dial(&m);
        s64 before = progress(&m);
        assert_int_equal(machine_do(&m, NULL, "{s:s,s:s,s:i}", "do", "log", "action", "throttle", "percent", 50),
                         -EINVAL);
        assert_int_equal(control_log_start(fd, &e), 0);
        assert_int_equal(control_log_throttle(fd, 10000, &e), -EINVAL);
        assert_int_equal(control_log_throttle(fd, 9900, &e), 0);
        assert_true(progress(&m) < before / 4);
        assert_int_equal(control_log_throttle(fd, 9999, &e), 0);
        assert_true(progress(&m) < before / 200); /* also what a turn owes beyond what is waited at once */
        assert_int_equal(machine_do(&m, NULL, "{s:s}", "do", "pause"), 0);
        assert_int_equal(machine_do(&m, NULL, "{s:s}", "do", "resume"), 0);
        close(fd);
        s64 after = 0;
        for (int i = 0; i < 100 && after < before / 2; i++)
            after = progress(&m);
        assert_true(after >= before / 2);
        end(&m);
    }
}

static void assert_state(struct machine *m, const char *state)
{
    json_t *j;
    assert_int_equal(machine_do(m, &j, "{s:s}", "do", "status"), 0);
    assert_string_equal(json_string_value(json_object_get(j, "state")), state);
    json_decref(j);
}

static int commit(int fd)
{
    json_t *j = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:b,s:b}", "do", "handover", "action", "commit", "id", ID, "host",
                          ID, "to", "unix:/nowhere", "tls", "", "insecure", 0, "postcopy", 1);
    int r = control_call(fd, j, NULL, NULL);
    json_decref(j);
    return r;
}

static int name_pages(int fd, const u8 *map, u64 bytes)
{
    return control_put(fd, json_pack("{s:s,s:s,s:I}", "do", "paging", "action", "name", "bytes", (json_int_t)bytes),
                       map, bytes, NULL);
}

/* What only a pager may have, or who has handed a machine over but for some pages, nobody else gets. */
static void paging_is_refused(void **state)
{
    static const struct {
        const char *action;
        int r;
    } cases[] = {{"dance", -EINVAL},  {"begin", -ESTALE}, {"part", -ESTALE},     {"full", -ESTALE},
                 {"named", -ENODATA}, {"serve", -ESTALE}, {"perished", -ESTALE}, {"name", -ESTALE}};
    struct machine m;
    START(&m, spin);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        assert_int_equal(machine_do(&m, NULL, "{s:s,s:s,s:s,s:s}", "do", "paging", "action", cases[i].action, "id", ID,
                                    "which", "memory"),
                         cases[i].r);
    assert_int_equal(machine_do(&m, NULL, "{s:s}", "do", "paging"), -EINVAL);
    assert_serves(&m);
    end(&m);
}

/* A machine that is handed over but for some pages keeps them, until it is told that it has left. */
static void serves(void **state)
{
    struct machine m;
    struct error e = {0};
    json_t *j;
    START(&m, spin);
    u64 bytes = m.cfg.memory / PAGE_SIZE / 8;
    u8 *map = malloc(bytes), *back = malloc(bytes);
    for (u64 i = 0; i < bytes; i++)
        map[i] = (u8)(i * 7);
    int fd = dial(&m);
    assert_int_equal(machine_do(&m, NULL, "{s:s,s:s}", "do", "handover", "action", "prepare"), 0);
    assert_int_equal(control_call(fd, j = json_pack("{s:s}", "do", "hold"), NULL, &e), 0);
    json_decref(j);
    assert_int_equal(commit(fd), -EINVAL); /* nothing was named */
    j = json_pack("{s:s,s:s,s:i}", "do", "paging", "action", "name", "bytes", (int)bytes - 8);
    assert_int_equal(control_call(fd, j, NULL, &e), -EINVAL);
    json_decref(j);
    assert_int_equal(name_pages(fd, map, bytes), 0);
    assert_int_equal(machine_do(&m, NULL, "{s:s,s:s}", "do", "paging", "action", "named"), -ENODATA);
    assert_int_equal(commit(fd), 0);
    close(fd);
    assert_state(&m, "committed");
    fd = dial(&m);
    j = json_pack("{s:s,s:s}", "do", "paging", "action", "named");
    assert_int_equal(control_call(fd, j, NULL, &e), 0);
    json_decref(j);
    assert_int_equal(control_bytes(fd, back, bytes, &e), 0);
    assert_memory_equal(back, map, bytes);
    assert_int_equal(machine_do(&m, NULL, "{s:s,s:s,s:s}", "do", "paging", "action", "serve", "id", OTHER_ID), -ESTALE);
    for (int i = 0; i < 2; i++)
        assert_int_equal(machine_do(&m, NULL, "{s:s,s:s,s:s}", "do", "paging", "action", "serve", "id", ID), 0);
    assert_state(&m, "serving");
    assert_int_equal(machine_do(&m, NULL, "{s:s,s:s,s:s}", "do", "handover", "action", "back", "id", ID), -EBUSY);
    assert_int_equal(machine_do(&m, NULL, "{s:s}", "do", "stop"), -EBUSY);
    assert_int_equal(machine_do(&m, NULL, "{s:s}", "do", "resume"), -EBUSY);
    assert_state(&m, "serving");
    assert_int_equal(machine_do(&m, NULL, "{s:s,s:s,s:s}", "do", "handover", "action", "left", "id", ID), 0);
    char reason[200];
    assert_int_equal(machine_wait(&m, reason), VM_EXIT_POWEROFF);
    assert_string_equal(reason, "moved to unix:/nowhere");
    close(fd);
    free(map);
    free(back);
    machine_forget(&m);
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], CELL_ARG))
        return cell_main(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(garbage),
        cmocka_unit_test(endless_line),
        cmocka_unit_test(rude_clients),
        cmocka_unit_test(private_socket),
        cmocka_unit_test(typing),
        cmocka_unit_test(slow_watcher),
        cmocka_unit_test(sizes),
        cmocka_unit_test(looking_inside),
        cmocka_unit_test(memory),
        cmocka_unit_test(mirrored),
        cmocka_unit_test(bytes_follow),
        cmocka_unit_test(throttled),
        cmocka_unit_test(paging_is_refused),
        cmocka_unit_test(serves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
