/*
 * Both ends against each other's opposite: the verbs' side against agents that lie (a child of this process), and the agent's own
 * program (AGENT, over a socket pair) against hosts that do.
 */
#include "agent/agent.h"
#include "base/bytes.h"
#include "cli/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#define SEEDS 150u

static u64 next_random(u64 *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s * 0x2545f4914f6cdd1dull >> 20;
}

/* --- agents that lie --- */

static void send_lie(int fd, u64 *s)
{
    static const u8 kinds[] = "vSoeaxfdzWZE";
    u8 b[5000];
    size_t len = next_random(s) % 3 ? next_random(s) % 12 : next_random(s) % sizeof(b);
    u8 kind = next_random(s) % 8 ? kinds[next_random(s) % (sizeof(kinds) - 1)] : (u8)next_random(s);
    for (size_t i = 0; i < len; i++)
        b[i] = next_random(s) % 2 ? 0 : (u8)next_random(s);
    if (kind == AGENT_FILE && next_random(s) % 2) {
        static const char *const names[] = {"", "a", "../out", "/tmp/out", "a/b", "a/../../out"};
        static const u8 types[] = "-dDlb";
        const struct agent_file f = {.type = types[next_random(s) % 5],
                                     .mode = (u32)next_random(s) & 07777,
                                     .name = names[next_random(s) % ARRAY_LEN(names)],
                                     .target = names[next_random(s) % ARRAY_LEN(names)]};
        u8 *packed = malloc(AGENT_FRAME_MAX);
        agent_send(fd, kind, packed, (size_t)agent_file_pack(&f, packed));
        free(packed);
        return;
    }
    if (next_random(s) % 40 == 0)
        send(fd, b, len, MSG_NOSIGNAL); /* no frame at all */
    else
        agent_send(fd, kind, b, len);
}

/* A connection to a child that lies for a while and ends. */
static int start_liar(u64 seed, pid_t *child)
{
    int s[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
    *child = fork();
    if (*child == 0) {
        struct agent_frame *f = malloc(sizeof(*f));
        close(s[0]);
        agent_receive(s[1], f);
        if (next_random(&seed) % 2)
            agent_send(s[1], AGENT_STARTED, "\1\0\0\0", 4);
        for (u64 n = next_random(&seed) % 60; n; n--)
            send_lie(s[1], &seed);
        _exit(0);
    }
    close(s[1]);
    return s[0];
}

/* Into the void, and back. */
static int silence(int fd)
{
    int old = dup(fd), none = open("/dev/null", O_WRONLY);
    dup2(none, fd);
    close(none);
    return old;
}

static void speak(int old, int fd)
{
    fflush(stdout);
    fflush(stderr);
    dup2(old, fd);
    close(old);
}

static void lying_agents(void **state)
{
    char dir[] = "/tmp/trapeze-liars-XXXXXX", dest[64], command[128];
    const char *argv[] = {"true"};
    const struct inside_program p = {.argv = argv, .argc = 1};
    assert_non_null(mkdtemp(dir));
    snprintf(dest, sizeof(dest), "%s/dest", dir);
    assert_int_equal(mkdir(dest, 0700), 0);
    for (unsigned i = 0; i < SEEDS; i++) {
        struct error e = {0};
        pid_t child;
        u64 seed = (i + 1) * 0x9e3779b97f4a7c15ull;
        int fd = start_liar(seed, &child), out = silence(STDOUT_FILENO), err = silence(STDERR_FILENO);
        int r = i % 3 == 0   ? inside_agent_exec(fd, "liar", &p, &e)
                : i % 3 == 1 ? inside_agent_copy_out(fd, "/x", dest, &e)
                             : inside_agent_copy_in(fd, "/etc/hostname", "/x", &e);
        speak(out, STDOUT_FILENO);
        speak(err, STDERR_FILENO);
        close(fd);
        assert_int_equal(waitpid(child, NULL, 0), child);
        /* An end with a word, or one that an honest agent could have come to. */
        if (!(e.code ? e.msg[0] != 0 : i % 3 == 0 ? r >= 0 && r < 256 : r == 0))
            fail_msg("seed %u: returned %d, error %d: %s", i, r, e.code, e.msg);
        for (const char *c = e.msg; *c; c++)
            assert_true(*c >= ' ' && *c <= '~');
    }
    snprintf(command, sizeof(command), "test $(ls -A %s | wc -l) = 1 && chmod -R u+rwx %s && rm -rf %s", dir, dir, dir);
    assert_int_equal(system(command), 0);
}

/* --- hosts that lie --- */

static int start_agent(pid_t *child)
{
    int s[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
    *child = fork();
    if (*child == 0) {
        dup2(s[1], STDIN_FILENO);
        close(s[0]);
        close(s[1]);
        execl(getenv("AGENT"), "trapeze-agent", "--stdio", (char *)NULL);
        _exit(99);
    }
    close(s[1]);
    return s[0];
}

/* It ends by itself once we are gone, by no signal. */
static void must_end(pid_t child, int fd)
{
    int status;
    close(fd);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void lying_hosts(void **state)
{
    static const u8 kinds[] = "PXGUTDiwsfdzZ";
    u8 b[3000];
    for (unsigned i = 0; i < SEEDS; i++) {
        u64 s = (i + 1) * 0x9e3779b97f4a7c15ull;
        pid_t child;
        int fd = start_agent(&child);
        for (u64 n = 1 + next_random(&s) % 5; n; n--) {
            size_t len = next_random(&s) % sizeof(b);
            u8 kind = kinds[next_random(&s) % (sizeof(kinds) - 1)];
            for (size_t k = 0; k < len; k++)
                b[k] = next_random(&s) % 2 ? 0 : (u8)next_random(&s);
            /* no request that would do something to this host if it happened to be one */
            if (kind == AGENT_DOWN || kind == AGENT_TIME)
                len = 3;
            if (kind == AGENT_PUT)
                b[len ? len - 1 : 0] = 1;
            if (kind == AGENT_EXEC && len > 8)
                put_le32(b + 8, 0); /* no arguments: no program */
            agent_send(fd, kind, b, len);
        }
        must_end(child, fd);
    }
}

static void asks_and_answers(void **state)
{
    struct agent_frame *f = malloc(sizeof(*f));
    struct error e = {0};
    pid_t child;
    int fd = start_agent(&child);
    agent_send(fd, AGENT_PING, NULL, 0);
    assert_int_equal(agent_receive(fd, f), 1);
    assert_int_equal(f->kind, AGENT_HELLO);
    assert_int_equal(get_le32(f->data), AGENT_VERSION);
    assert_int_equal(agent_receive(fd, f), 0);
    must_end(child, fd);
    fd = start_agent(&child);
    agent_send(fd, '?', NULL, 0);
    assert_int_equal(agent_receive(fd, f), 1);
    assert_int_equal(f->kind, AGENT_FAILED);
    assert_int_equal(agent_failure(f, &e), -ENOSYS);
    must_end(child, fd);
    free(f);
}

/* More input than the window: the program is not drowned, the connection ends. */
static void too_much_input(void **state)
{
    static const u8 bytes[AGENT_FRAME_MAX];
    struct agent_exec *x = calloc(1, sizeof(*x));
    struct agent_frame *f = malloc(sizeof(*f));
    u8 *b = malloc(AGENT_FRAME_MAX);
    pid_t child;
    int fd = start_agent(&child), r;
    *x = (struct agent_exec){.flags = AGENT_EXEC_INPUT, .argc = 2, .cwd = "/", .user = "", .argv = {"sleep", "1000"}};
    agent_send(fd, AGENT_EXEC, b, (size_t)agent_exec_pack(x, b));
    assert_int_equal(agent_receive(fd, f), 1);
    if (f->kind == AGENT_STARTED) { /* else: we are not root, and may not become it */
        signal(SIGPIPE, SIG_IGN);
        for (int i = 0; i < 4; i++)
            agent_send(fd, AGENT_INPUT, bytes, sizeof(bytes));
        while ((r = agent_receive(fd, f)) == 1)
            assert_int_not_equal(f->kind, AGENT_EXITED);
    }
    must_end(child, fd);
    free(x);
    free(f);
    free(b);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {cmocka_unit_test(lying_agents), cmocka_unit_test(lying_hosts),
                                       cmocka_unit_test(asks_and_answers), cmocka_unit_test(too_much_input)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
