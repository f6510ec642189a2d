/* Dockerfiles: lines, words, variables, here-documents, and what is wrong with them; patterns and .dockerignore. */
#include "image/build_pattern.h"
#include "image/dockerfile.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct dockerfile parsed(const char *text)
{
    struct dockerfile d;
    struct error e = {0};
    if (dockerfile_parse(&d, "D", text, strlen(text), &e) < 0)
        fail_msg("%s", e.msg);
    return d;
}

static void refused(const char *text, const char *why)
{
    struct dockerfile d;
    struct error e = {0};
    int r = dockerfile_parse(&d, "D", text, strlen(text), &e);
    assert_true(r < 0);
    if (!strstr(e.msg, why))
        fail_msg("\"%s\" is not about \"%s\"", e.msg, why);
}

static void test_lines(void **state)
{
    struct dockerfile d = parsed("# comment\n\n  from  a as b  \n\tRUN one \\\n  # not this\n\n   two \\ \n three\n"
                                 "CMD [\"a\", \"b c\"]\r\nCMD [broken\nLABEL x=\"# no comment\"");
    assert_int_equal(d.n, 5);
    assert_int_equal(d.v[0].kind, DOCKER_FROM);
    assert_int_equal(d.v[0].line, 3);
    assert_string_equal(d.v[0].rest, "a as b");
    assert_int_equal(d.v[1].line, 4);
    assert_string_equal(d.v[1].rest, "one    two  three");
    assert_true(d.v[2].is_json && d.v[2].json.n == 2);
    assert_string_equal(d.v[2].json.v[1], "b c");
    assert_false(d.v[3].is_json);
    assert_string_equal(d.v[3].rest, "[broken");
    assert_string_equal(d.v[4].rest, "x=\"# no comment\"");
    dockerfile_free(&d);
}

static void test_escape_directive(void **state)
{
    struct dockerfile d = parsed("# escape=`\nFROM a\nRUN dir c:\\\nRUN a `\n b\n");
    assert_int_equal(d.escape, '`');
    assert_int_equal(d.n, 3);
    assert_string_equal(d.v[1].rest, "dir c:\\");
    assert_string_equal(d.v[2].rest, "a  b");
    dockerfile_free(&d);
    d = parsed("# syntax=docker/dockerfile:1\n#escape = `\nFROM a\n");
    assert_int_equal(d.escape, '`');
    dockerfile_free(&d);
    d = parsed("# a comment ends the directives\n# escape=`\nFROM a\n");
    assert_int_equal(d.escape, '\\');
    dockerfile_free(&d);
    d = parsed("\n# escape=`\nFROM a\n");
    assert_int_equal(d.escape, '\\');
    dockerfile_free(&d);
    refused("# escape=x\n", "D:1: directive escape");
    refused("# escape=`\n# escape=`\n", "D:2: directive escape: is given twice");
}

static void test_flags(void **state)
{
    struct dockerfile d = parsed("COPY --from=x --chown=1:2 a b\nCMD --not --flags\nRUN -- --mine\n");
    assert_string_equal(docker_flag(&d.v[0], "from"), "x");
    assert_string_equal(docker_flag(&d.v[0], "chown"), "1:2");
    assert_null(docker_flag(&d.v[0], "cho"));
    assert_string_equal(d.v[0].rest, "a b");
    assert_string_equal(d.v[1].rest, "--not --flags");
    assert_string_equal(d.v[2].rest, "--mine");
    struct error e = {0};
    assert_int_equal(docker_check_flags(&d.v[0], "from|chown", &e), 0);
    assert_int_equal(docker_check_flags(&d.v[0], "fromage|chown", &e), -EINVAL);
    assert_non_null(strstr(e.msg, "--from=x"));
    dockerfile_free(&d);
}

static void test_here_documents(void **state)
{
    struct dockerfile d = parsed("RUN <<EOF\necho a\n# kept\n\n EOF\nEOF\n"
                                 "COPY <<a <<-'b' /x/\none\na\n\ttwo\n\tb\n"
                                 "RUN cat <<EOF > /x && echo '<<no'\nin\nEOF\n"
                                 "RUN cat <<<word\nCMD <<x\n");
    assert_int_equal(d.n, 5);
    assert_string_equal(d.v[0].here[0].text, "echo a\n# kept\n\n EOF\n");
    assert_int_equal(d.v[1].line, 7);
    assert_int_equal(d.v[1].n_here, 2);
    assert_false(d.v[1].here[0].literal);
    assert_true(d.v[1].here[1].literal);
    assert_string_equal(d.v[1].here[1].name, "b");
    assert_string_equal(d.v[1].here[1].text, "two\n");
    assert_int_equal(d.v[2].n_here, 1);
    assert_int_equal(d.v[3].n_here, 0);
    assert_int_equal(d.v[4].n_here, 0);
    dockerfile_free(&d);
    refused("FROM a\nRUN <<EOF\nx\n", "D:2: here-document: no line \"EOF\"");
}

static void test_what_is_wrong(void **state)
{
    refused("FROM a\nFLY away\n", "D:2: unknown instruction \"FLY\"");
    refused("FROM a\n\n# x\nRUN\n", "D:4: RUN: needs an argument");
    refused("FROM a\nRUN \\\n\n", "D:2: RUN: needs an argument");
    refused("RUN a\xff\n", "D:1: is no UTF-8");
    struct dockerfile d;
    struct error e = {0};
    assert_int_equal(dockerfile_parse(&d, "D", "FROM a\n\0x", 9, &e), -EINVAL);
    assert_non_null(strstr(e.msg, "value 0"));
    char *large = malloc(DOCKERFILE_MAX + 1);
    memset(large, '\n', DOCKERFILE_MAX + 1);
    e.code = 0;
    assert_int_equal(dockerfile_parse(&d, "D", large, DOCKERFILE_MAX + 1, &e), -EFBIG);
    free(large);
}

/* --- variables --- */

static const char *value_of(void *arg, const char *name)
{
    return !strcmp(name, "set") ? "value" : !strcmp(name, "empty") ? "" : !strcmp(name, "two") ? "a b" : NULL;
}

static const struct docker_scope scope = {.get = value_of, .escape = '\\'};

static void expands(const char *text, const char *wanted)
{
    char *out;
    struct error e = {0};
    if (docker_expand(&scope, text, &out, &e) < 0)
        fail_msg("%s: %s", text, e.msg);
    assert_string_equal(out, wanted);
    free(out);
}

/* The examples of docker's reference, and of BuildKit's own table of cases (envVarTest). */
static void test_expand(void **state)
{
    expands("$set", "value");
    expands("${set}x$set", "valuexvalue");
    expands("$setx|$none|", "||");
    expands("${set:-else} ${empty:-else} ${empty-else} ${none-else} ${none:-$set}", "value else  else value");
    expands("${set:+instead} ${empty:+instead}.${empty+instead}.${none+instead}.", "instead .instead..");
    expands("${none:-${none:-${set}}}", "value");
    expands("\\$set \\\\$set", "$set \\value");
    expands("'$set' \"$set\" '\\' \"\\$set\\\"\\x\"", "$set value \\ $set\"\\x");
    expands("he'll'o \"w'or\"ld", "hello w'orld");
    expands("$", "$");
    expands("a$ b$1c$$", "a$ bc");
    expands("${set:?must}", "value");
    expands("x\\", "x\\");
}

static void expand_refused(const char *text, const char *why)
{
    char *out;
    struct error e = {0};
    assert_true(docker_expand(&scope, text, &out, &e) < 0);
    assert_null(out);
    if (!strstr(e.msg, why))
        fail_msg("%s: \"%s\" is not about \"%s\"", text, e.msg, why);
}

static void test_expand_refuses(void **state)
{
    expand_refused("${set", "}");
    expand_refused("${}", "no name");
    expand_refused("${set:=x}", "nothing else");
    expand_refused("'open", "not closed");
    expand_refused("\"open", "not closed");
    expand_refused("${none:-'}", "not closed");
    expand_refused("${none:?must be given}", "none: must be given");
    expand_refused(
        "${a:-${a:-${a:-${a:-${a:-${a:-${a:-${a:-${a:-${a:-${a:-${a:-${a:-${a:-${a:-${a:-${a:-${a:-x}}}}}}}}}}}}}}}}}}",
        "nested");
}

static void test_expand_is_bounded(void **state)
{
    char *text = malloc(DOCKERFILE_MAX + 8), *out;
    struct error e = {0};
    for (size_t i = 0; i < DOCKERFILE_MAX; i += 4)
        memcpy(text + i, "$set", 4);
    text[DOCKERFILE_MAX] = 0;
    assert_int_equal(docker_expand(&scope, text, &out, &e), -E2BIG);
    free(text);
}

static void test_words(void **state)
{
    struct docker_words w;
    struct error e = {0};
    assert_int_equal(docker_expand_words(&scope, "  a=\"x y\" 'q r'  $two\\ z  ", &w, &e), 0);
    assert_int_equal(w.n, 3);
    assert_string_equal(w.v[0], "a=x y");
    assert_string_equal(w.v[1], "q r");
    assert_string_equal(w.v[2], "a b z");
    docker_words_free(&w);
    assert_int_equal(docker_split("a 'b", '\\', &w, &e), -EINVAL);
    assert_int_equal(w.n, 0);
}

/* --- patterns --- */

/* Of Go's path/filepath/match_test.go, and moby/patternmatcher's tests. */
static const struct {
    const char *pattern, *name;
    bool deep, fits;
} matches[] = {
    {"abc", "abc", false, true},
    {"*", "abc", false, true},
    {"*c", "abc", false, true},
    {"a*", "a", false, true},
    {"a*", "ab/c", false, false},
    {"a*/b", "abc/b", false, true},
    {"a*/b", "a/c/b", false, false},
    {"a*b*c*d*e*/f", "axbxcxdxe/f", false, true},
    {"a*b*c*d*e*/f", "axbxcxdxexxx/f", false, true},
    {"a*b*c*d*e*/f", "axbxcxdxe/xxx/f", false, false},
    {"a*b?c*x", "abxbbxdbxebxczzx", false, true},
    {"a*b?c*x", "abxbbxdbxebxczzy", false, false},
    {"ab[c]", "abc", false, true},
    {"ab[b-d]", "abc", false, true},
    {"ab[e-g]", "abc", false, false},
    {"ab[^c]", "abc", false, false},
    {"ab[^e-g]", "abc", false, true},
    {"a\\*b", "a*b", false, true},
    {"a\\*b", "ab", false, false},
    {"a?b", "a\xe2", false, false},
    {"a?b", "a/b", false, false},
    {"a[^a]b", "a/b", false, false},
    {"[\\]a]", "]", false, true},
    {"[\\-x]", "-", false, true},
    {"[x\\-]", "x", false, true},
    {"[a-b-d]", "d", false, true},
    {"*x", "xxx", false, true},
    {"arr[[]0].txt", "arr[0].txt", false, true},
    {"**", "file", true, true},
    {"**", "dir/file", true, true},
    {"**/", "file", true, true},
    {"**/file", "file", true, true},
    {"**/file", "dir/file", true, true},
    {"**/file", "dir/dir/file", true, true},
    {"**/file", "dir/notfile", true, false},
    {"**/file*", "dir/dir/file.txt", true, true},
    {"**/**", "dir/file", true, true},
    {"**/**/*.txt", "dir/file.txt", true, true},
    {"a**/*.txt", "a/dir/file.txt", true, true},
    {"a**/*.txt", "dir/file.txt", true, false},
    {"a/*.txt", "a/b/file.txt", true, false},
    {"dir/**", "dir/dir2/file", true, true},
    {"dir/**", "dirx/file", true, false},
    {"**/dir2/*", "dir/dir2/dir2/file", true, true},
    {"abc.def", "abcxdef", true, false},
    {"**/*.go", ".go", true, true},
    {"*.rb", "a/b.rb", true, false},
    {"", "", true, true},
    {"[a", "a", true, false},
};

static void test_patterns(void **state)
{
    for (size_t i = 0; i < ARRAY_LEN(matches); i++)
        if (pattern_match(matches[i].pattern, matches[i].name, matches[i].deep) != matches[i].fits)
            fail_msg("\"%s\" and \"%s\"", matches[i].pattern, matches[i].name);
    struct error e = {0};
    assert_int_equal(pattern_check("a[b", &e), -EINVAL);
    assert_int_equal(pattern_check("[]a]", NULL), -EINVAL);
    assert_int_equal(pattern_check("a\\", NULL), -EINVAL);
    assert_int_equal(pattern_check("a/**/[b-c]?\\*", NULL), 0);
}

/* Time is the product of both lengths: with backtracking this would end with the universe. */
static void test_pattern_is_quick(void **state)
{
    char pattern[201], name[4001];
    for (size_t i = 0; i < 200; i += 2)
        memcpy(pattern + i, "*a", 2);
    pattern[200] = 0;
    memset(name, 'a', 4000);
    strcpy(name + 3999, "b");
    assert_false(pattern_match(pattern, name, true));
}

static void test_ignore(void **state)
{
    static const char text[] =
        "# comment\n\n  /node_modules/ \r\n**/*.log\n!keep.log\ndoc/*\n!doc/README*\ntemp?\n!../x\n";
    static const struct {
        const char *path;
        bool out;
    } cases[] = {{"node_modules", true}, {"node_modules/a/b", true}, {"src/node_modules", false}, {"a.log", true},
                 {"a/b/c.log", true},    {"keep.log", false},        {"a/keep.log", true},        {"doc", false},
                 {"doc/a", true},        {"doc/README.md", false},   {"doc/a/README", true},      {"tempx", true},
                 {"temp", false},        {"tempx/y", true},          {"# comment", false},        {"", false}};
    struct build_ignore g;
    struct error e = {0};
    assert_int_equal(build_ignore_parse(&g, text, sizeof(text) - 1, &e), 0);
    assert_true(g.keeps);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        if (build_ignored(&g, cases[i].path) != cases[i].out)
            fail_msg("%s", cases[i].path);
    build_ignore_free(&g);
    assert_int_equal(build_ignore_parse(&g, "a\nb[\n", 5, &e), -EINVAL);
    assert_non_null(strstr(e.msg, ".dockerignore:2:"));
    assert_int_equal(build_ignore_parse(&g, "*\n!Dockerfile\n", 14, NULL), 0);
    assert_true(build_ignored(&g, "x") && build_ignored(&g, "x/Dockerfile") && !build_ignored(&g, "Dockerfile"));
    build_ignore_free(&g);
}

static void cleans(const char *path, const char *wanted, bool leaves)
{
    char out[64];
    bool left;
    assert_int_equal(build_clean(path, out, sizeof(out), &left), 0);
    assert_string_equal(out, wanted);
    assert_int_equal(left, leaves);
}

static void test_clean(void **state)
{
    cleans("/a//b/./c/", "a/b/c", false);
    cleans("a/../b", "b", false);
    cleans("a/b/..", "a", false);
    cleans(".", "", false);
    cleans("../a", "a", true);
    cleans("a/../../b", "b", true);
    cleans("/", "", false);
    char out[8];
    bool left;
    assert_int_equal(build_clean("123456789", out, sizeof(out), &left), -ENAMETOOLONG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),          cmocka_unit_test(test_escape_directive),  cmocka_unit_test(test_flags),
        cmocka_unit_test(test_here_documents), cmocka_unit_test(test_what_is_wrong),     cmocka_unit_test(test_expand),
        cmocka_unit_test(test_expand_refuses), cmocka_unit_test(test_expand_is_bounded), cmocka_unit_test(test_words),
        cmocka_unit_test(test_patterns),       cmocka_unit_test(test_pattern_is_quick),  cmocka_unit_test(test_ignore),
        cmocka_unit_test(test_clean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
