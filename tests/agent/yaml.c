/* The part of YAML that the guest's first boot reads: what is taken, what is refused, what our own documents say. */
#include "image/vmimage.h"
#include "yaml.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* All values as "path=value;" */
static char *flat(const struct yaml *y)
{
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    for (size_t i = 0; i < y->n; i++)
        fprintf(f, "%s=%s;", y->v[i].path, y->v[i].value);
    fclose(f);
    return text;
}

static int parse(struct yaml *y, const char *text, struct error *e)
{
    char *copy = strdup(text);
    int r = yaml_parse(y, copy, e);
    free(copy);
    return r;
}

static void test_taken(void **state)
{
    static const struct {
        const char *text, *flat;
    } cases[] = {
        {"", ""},
        {"# nothing\n\n", ""},
        {"{}", ""},
        {"a: 1", "a=1;"},
        {"---\na: 1\n", "a=1;"},
        {"a: 1\r\nb: 2\r\n", "a=1;b=2;"},
        {"a: x # said\n", "a=x;"},
        {"a: x#y\n", "a=x#y;"},
        {"a: http://x/y: z\n", "a=http://x/y: z;"},
        {"a:\n", "a=;"},
        {"a:\nb: 1\n", "a=;b=1;"},
        {"a:\n  b:\n    c: 1\n  d: 2\n", "a/b/c=1;a/d=2;"},
        {"- 1\n- 2\n", "0=1;1=2;"},
        {"a:\n- 1\n- 2\nb: 3\n", "a/0=1;a/1=2;b=3;"},
        {"a:\n  - b: 1\n    c: 2\n  - b: 3\n", "a/0/b=1;a/0/c=2;a/1/b=3;"},
        {"a:\n  -\n    b: 1\n", "a/0/b=1;"},
        {"- - 1\n  - 2\n- 3\n", "0/0=1;0/1=2;1=3;"},
        {"a: [1, 'x, y', \"z\"] # all\n", "a/0=1;a/1=x, y;a/2=z;"},
        {"a: []\n", ""},
        {"a: {}\n", "a=;"},
        {"a: \"q\\\"\\\\\\n\\u0041\"\n", "a=q\"\\\nA;"},
        {"a: 'it''s'\n", "a=it's;"},
        {"\"a b\": 1\n", "a b=1;"},
        {"a: |\n  one\n   two\n\n  three\nb: 1\n", "a=one\n two\n\nthree\n;b=1;"},
        {"a: ALL=(ALL) NOPASSWD:ALL\n", "a=ALL=(ALL) NOPASSWD:ALL;"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct yaml y;
        struct error e = {0};
        if (parse(&y, cases[i].text, &e) < 0)
            print_error("%s: %s\n", cases[i].text, e.msg);
        char *got = flat(&y);
        assert_string_equal(got, cases[i].flat);
        free(got);
        yaml_free(&y);
    }
}

static void test_refused(void **state)
{
    static const char *const cases[] = {"a",
                                        "a: \"x",
                                        "a: 'x",
                                        "a: \"\\x41\"",
                                        "a: \"\\u00e4\"",
                                        "a: \"\\u0000\"",
                                        "a: \"\\0\"",
                                        "a: \"x\" y",
                                        "a: [1",
                                        "a: [1, [2]]",
                                        "a: [1] 2",
                                        "a: [{b: 1}]",
                                        "a: {b: 1}",
                                        "a: &x 1",
                                        "a: *x",
                                        "a: !!str 1",
                                        "a: 1\n b",
                                        "  a: 1\nb: 2",
                                        "a: 1\n  b: 2",
                                        "- 1\na: 2",
                                        "a: 1\n- 2",
                                        "\ta: 1",
                                        "- a: 1\n   b: 2",
                                        "a: @x",
                                        "a: 1\n---\nb: 2"};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct yaml y;
        struct error e = {0};
        int r = parse(&y, cases[i], &e);
        if (r != -EINVAL)
            print_error("not refused: %s\n", cases[i]);
        assert_int_equal(r, -EINVAL);
        assert_non_null(strstr(e.msg, "line "));
        yaml_free(&y);
    }
}

/* Sizes that would take the reader's stack or memory. */
static void test_bounds(void **state)
{
    static char text[YAML_TEXT_MAX + 64];
    struct yaml y;
    memset(text, 0, sizeof(text));
    for (size_t i = 0; i < YAML_TEXT_MAX; i += 2)
        memcpy(text + i, "- ", 2);
    assert_int_equal(yaml_parse(&y, text, NULL), -E2BIG); /* each dash is a level */
    yaml_free(&y);
    memset(text, 'a', YAML_PATH_MAX + 1);
    memcpy(text + YAML_PATH_MAX + 1, ": 1\n", 5);
    assert_int_equal(yaml_parse(&y, text, NULL), -E2BIG);
    yaml_free(&y);
    size_t n = 0;
    for (int i = 0; i < YAML_PAIRS_MAX + 1; i++)
        n += (size_t)sprintf(text + n, "- %d\n", i);
    assert_int_equal(yaml_parse(&y, text, NULL), -E2BIG);
    yaml_free(&y);
    memset(text, 'a', YAML_TEXT_MAX + 1);
    text[YAML_TEXT_MAX + 1] = 0;
    assert_int_equal(yaml_parse(&y, text, NULL), -E2BIG);
    yaml_free(&y);
}

static void test_lookup(void **state)
{
    struct yaml y;
    assert_int_equal(parse(&y, "users:\n  - name: a\n    keys: [k, l]\nuser: b\n", NULL), 0);
    assert_string_equal(yaml_get(&y, "users/%u/keys/%u", 0, 1), "l");
    assert_null(yaml_get(&y, "users/%u/keys/%u", 0, 2));
    assert_null(yaml_get(&y, "users/0"));
    assert_true(yaml_has(&y, "users/0"));
    assert_true(yaml_has(&y, "users"));
    assert_false(yaml_has(&y, "users/1"));
    assert_false(yaml_has(&y, "use"));
    yaml_free(&y);
}

/* What the host writes is what the guest reads, whatever the texts are. */
static void test_own_documents(void **state)
{
    static const char key[] = "ssh-ed25519 AAAA it's \"me\" # \\ : [x] \t end";
    struct nocloud n = {
        .instance = "0123", .hostname = "web", .user = "ada", .keys = {(char *)(uintptr_t)key}, .n_keys = 1};
    struct yaml y;
    struct error e = {0};
    char *text = nocloud_user_data(&n);
    assert_non_null(text);
    assert_memory_equal(text, "#cloud-config\n", 14);
    assert_int_equal(yaml_parse(&y, text, &e), 0);
    assert_string_equal(yaml_get(&y, "hostname"), "web");
    assert_string_equal(yaml_get(&y, "users/0/name"), "ada");
    assert_string_equal(yaml_get(&y, "users/0/groups/0"), "sudo");
    assert_string_equal(yaml_get(&y, "users/0/ssh_authorized_keys/0"), key);
    assert_false(yaml_has(&y, "users/1"));
    yaml_free(&y);
    free(text);
    text = nocloud_meta_data(&n);
    assert_int_equal(yaml_parse(&y, text, &e), 0);
    assert_string_equal(yaml_get(&y, "instance-id"), "0123");
    assert_string_equal(yaml_get(&y, "local-hostname"), "web");
    yaml_free(&y);
    free(text);
    n.user = NULL; /* then root has the keys */
    text = nocloud_user_data(&n);
    assert_int_equal(yaml_parse(&y, text, &e), 0);
    assert_string_equal(yaml_get(&y, "users/0/name"), "root");
    assert_false(yaml_has(&y, "users/0/sudo"));
    yaml_free(&y);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_taken),  cmocka_unit_test(test_refused),       cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_lookup), cmocka_unit_test(test_own_documents),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
