/* Trees from somebody who means harm: nothing is written outside, no link is followed, no bit is set that the receiver masks. */
#include "agent/agent.h"
#include "base/bytes.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

struct place {
    char dir[64], dest[96];
    struct agent_tree t;
    struct agent_frame f;
    struct error e;
};

static int setup(void **state)
{
    struct place *p = calloc(1, sizeof(*p));
    char secret[96];
    assert_non_null(p);
    snprintf(p->dir, sizeof(p->dir), "/tmp/trapeze-tree-XXXXXX");
    assert_non_null(mkdtemp(p->dir));
    snprintf(p->dest, sizeof(p->dest), "%s/dest", p->dir);
    assert_int_equal(mkdir(p->dest, 0700), 0);
    snprintf(secret, sizeof(secret), "%s/secret", p->dir);
    FILE *f = fopen(secret, "w");
    assert_non_null(f);
    fputs("secret", f);
    fclose(f);
    *state = p;
    return 0;
}

/* All that is outside of dest is as it was. */
static int teardown(void **state)
{
    struct place *p = *state;
    char command[200], text[20] = "";
    snprintf(command, sizeof(command), "%s/secret", p->dir);
    FILE *f = fopen(command, "r");
    assert_non_null(f);
    assert_int_equal(fread(text, 1, sizeof(text), f), 6);
    fclose(f);
    assert_string_equal(text, "secret");
    snprintf(command, sizeof(command), "test $(ls -A %s | wc -l) = 2", p->dir);
    assert_int_equal(system(command), 0);
    snprintf(command, sizeof(command), "chmod -R u+rwx %s; rm -rf %s", p->dir, p->dir);
    assert_int_equal(system(command), 0);
    agent_tree_end(&p->t);
    free(p);
    return 0;
}

static int give(struct place *p, u8 kind, const void *data, size_t len)
{
    p->e = (struct error){0};
    p->f.kind = kind;
    p->f.len = (u32)len;
    memcpy(p->f.data, data, len);
    p->f.data[len] = 0;
    return agent_tree_take(&p->t, &p->f, &p->e);
}

static int give_entry(struct place *p, u8 type, const char *name, u32 mode, const char *target)
{
    const struct agent_file f = {.type = type, .mode = mode, .mtime = 1, .name = name, .target = target};
    u8 *b = malloc(AGENT_FRAME_MAX);
    s64 n = agent_file_pack(&f, b);
    assert_true(n > 0);
    int r = give(p, AGENT_FILE, b, (size_t)n);
    free(b);
    return r;
}

/* A tree whose root is there. */
static void begin(struct place *p)
{
    agent_tree_end(&p->t);
    agent_tree_begin(&p->t, p->dest, "tree", 0, 0777);
    assert_int_equal(give_entry(p, AGENT_TYPE_DIR, "", 0755, ""), 0);
}

static void names(void **state)
{
    static const char *const bad[] = {"..", "../secret", "/secret",  "a/../../secret", "a//b",
                                      "a/", ".",         "./a",      "a/./b",          "a/..",
                                      "/",  "//",        "../dest/x"};
    struct place *p = *state;
    static const u8 types[] = {AGENT_TYPE_FILE, AGENT_TYPE_DIR, AGENT_TYPE_LINK, AGENT_TYPE_DIR_END};
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        for (unsigned t = 0; t < ARRAY_LEN(types); t++) {
            begin(p);
            assert_int_equal(give_entry(p, types[t], bad[i], 0644, "x"), -EPROTO);
        }
    char longest[400];
    memset(longest, 'a', sizeof(longest));
    longest[300] = 0;
    begin(p);
    assert_int_equal(give_entry(p, AGENT_TYPE_FILE, longest, 0644, ""), -EPROTO);
    /* the root's name is the caller's word, but not every caller's path has one */
    agent_tree_end(&p->t);
    agent_tree_begin(&p->t, p->dest, "..", 0, 0777);
    assert_int_equal(give_entry(p, AGENT_TYPE_FILE, "", 0644, ""), -EINVAL);
}

/* Links are made as they are told, and never gone through. */
static void links(void **state)
{
    struct place *p = *state;
    char path[200];
    begin(p);
    assert_int_equal(give_entry(p, AGENT_TYPE_LINK, "out", 0777, "../.."), 0);
    assert_int_equal(give_entry(p, AGENT_TYPE_FILE, "out/secret", 0644, ""), -ENOTDIR);
    begin(p);
    assert_int_equal(give_entry(p, AGENT_TYPE_DIR, "out", 0755, ""), -ENOTDIR);
    begin(p);
    assert_int_equal(give_entry(p, AGENT_TYPE_DIR_END, "out", 0777, ""), -ENOTDIR);
    /* a file over a link replaces the link, not what it names */
    begin(p);
    assert_int_equal(give_entry(p, AGENT_TYPE_LINK, "to", 0777, "../../secret"), 0);
    assert_int_equal(give_entry(p, AGENT_TYPE_FILE, "to", 0644, ""), 0);
    assert_int_equal(give(p, AGENT_DATA, "harm", 4), 0);
    assert_int_equal(give(p, AGENT_FILE_END, "", 0), 0);
    snprintf(path, sizeof(path), "%s/tree/to", p->dest);
    struct stat st;
    assert_int_equal(lstat(path, &st), 0);
    assert_true(S_ISREG(st.st_mode) && st.st_size == 4);
    /* the root itself, where somebody has put a link */
    snprintf(path, sizeof(path), "%s/trap", p->dest);
    assert_int_equal(symlink("..", path), 0);
    agent_tree_end(&p->t);
    agent_tree_begin(&p->t, p->dest, "trap", 0, 0777);
    assert_int_equal(give_entry(p, AGENT_TYPE_DIR, "", 0755, ""), -ENOTDIR);
}

static void modes(void **state)
{
    struct place *p = *state;
    char path[200];
    struct stat st;
    begin(p);
    assert_int_equal(give_entry(p, AGENT_TYPE_FILE, "su", 06755, ""), 0);
    assert_int_equal(give(p, AGENT_FILE_END, "", 0), 0);
    assert_int_equal(give_entry(p, AGENT_TYPE_DIR, "d", 07777, ""), 0);
    assert_int_equal(give_entry(p, AGENT_TYPE_DIR_END, "d", 07777, ""), 0);
    snprintf(path, sizeof(path), "%s/tree/su", p->dest);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0755);
    assert_int_equal(st.st_mtim.tv_sec, 1);
    snprintf(path, sizeof(path), "%s/tree/d", p->dest);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0777);
}

/* Frames in an order that makes no sense. */
static void order(void **state)
{
    struct place *p = *state;
    agent_tree_begin(&p->t, p->dest, "tree", 0, 0777);
    assert_int_equal(give(p, AGENT_DATA, "x", 1), -EPROTO);
    assert_int_equal(give(p, AGENT_FILE_END, "", 0), -EPROTO);
    assert_int_equal(give(p, AGENT_DONE, "", 0), -EPROTO);
    assert_int_equal(give(p, 'q', "", 0), -EPROTO);
    assert_int_equal(give_entry(p, AGENT_TYPE_FILE, "inside", 0644, ""), -EPROTO);
    assert_int_equal(give_entry(p, 'b', "", 0644, ""), -EPROTO);
    begin(p);
    assert_int_equal(give_entry(p, AGENT_TYPE_DIR, "", 0755, ""), -EPROTO); /* a second root */
    assert_int_equal(give_entry(p, 'c', "null", 0644, ""), -EPROTO);
    assert_int_equal(give_entry(p, AGENT_TYPE_FILE, "f", 0644, ""), 0);
    assert_int_equal(give_entry(p, AGENT_TYPE_FILE, "g", 0644, ""), -EPROTO); /* one in another */
    assert_int_equal(give(p, AGENT_DONE, "", 0), -EPROTO);
    assert_int_equal(give(p, AGENT_FAILED, "\x1c\0\0\0full\x1b[2J", 12), -ENOSPC);
    assert_non_null(strstr(p->e.msg, "full?[2J"));
    assert_int_equal(give(p, AGENT_FILE_END, "", 0), 0);
    assert_int_equal(give(p, AGENT_DONE, "", 0), 1);
}

/* Entries cut short anywhere, or with any byte changed, are refused or are an entry. */
static void damaged_entries(void **state)
{
    struct place *p = *state;
    struct agent_file f = {.type = AGENT_TYPE_LINK, .mode = 0777, .name = "name", .target = "target"}, out;
    u8 *b = malloc(AGENT_FRAME_MAX);
    s64 n = agent_file_pack(&f, b);
    for (s64 len = 0; len < n; len++) {
        p->f.len = (u32)len;
        memcpy(p->f.data, b, (size_t)len);
        p->f.data[len] = 0;
        assert_int_equal(agent_file_unpack(&out, &p->f), -EPROTO);
    }
    for (s64 i = 0; i < n * 255; i++) {
        p->f.len = (u32)n;
        memcpy(p->f.data, b, (size_t)n);
        p->f.data[i / 255] ^= (u8)(i % 255 + 1);
        if (agent_file_unpack(&out, &p->f) == 0)
            assert_true(strlen(out.name) + strlen(out.target) + 2 + 32 == (size_t)n && out.mode <= 07777);
    }
    struct agent_exec *x = calloc(1, sizeof(*x)), *y = calloc(1, sizeof(*y));
    *x = (struct agent_exec){.argc = 2, .envc = 1, .cwd = "/", .user = "u", .argv = {"a", "bc"}, .env = {"D=e"}};
    n = agent_exec_pack(x, b);
    for (s64 i = 0; i < n * 255; i++) {
        p->f.len = (u32)n;
        memcpy(p->f.data, b, (size_t)n);
        p->f.data[i / 255] ^= (u8)(i % 255 + 1);
        if (agent_exec_unpack(y, &p->f) == 0)
            for (u32 k = 0; k < y->argc; k++)
                assert_true((const u8 *)y->argv[k] > p->f.data && (const u8 *)y->argv[k] < p->f.data + n);
    }
    free(x);
    free(y);
    free(b);
}

/* Heads of frames that can not be; a stream that ends in the middle. */
static void frames(void **state)
{
    static const u8 heads[][8] = {{'o', 1, 0, 0, 0, 0, 0, 0},
                                  {'o', 0, 0, 9, 0, 0, 0, 0},
                                  {'o', 0, 0, 0, 1, 0, 1, 0},
                                  {'o', 0, 0, 0, 255, 255, 255, 255},
                                  {'o', 0, 0, 0, 5, 0, 0, 0}};
    struct place *p = *state;
    struct agent_channel *c = calloc(1, sizeof(*c));
    for (unsigned i = 0; i < ARRAY_LEN(heads); i++) {
        int s[2];
        for (int way = 0; way < 2; way++) {
            assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
            assert_int_equal(send(s[1], heads[i], 8, 0), 8);
            close(s[1]);
            *c = (struct agent_channel){.fd = s[0]};
            if (way == 0) {
                assert_int_equal(agent_receive(s[0], &p->f), -EPROTO);
            } else {
                assert_int_equal(agent_channel_fill(c), 0);
                assert_int_equal(agent_channel_next(c, &p->f), i == 4 ? 0 : -EPROTO);
                assert_int_equal(agent_channel_fill(c), 0);
                assert_true(c->eof);
            }
            close(s[0]);
        }
    }
    free(c);
    *state = p;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(names, setup, teardown),
        cmocka_unit_test_setup_teardown(links, setup, teardown),
        cmocka_unit_test_setup_teardown(modes, setup, teardown),
        cmocka_unit_test_setup_teardown(order, setup, teardown),
        cmocka_unit_test_setup_teardown(damaged_entries, setup, teardown),
        cmocka_unit_test_setup_teardown(frames, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
