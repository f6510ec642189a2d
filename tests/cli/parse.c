/* The command line: values, suggestions, the parser, and that the table holds together. */
#include "cli/cli.h"
#include "cli/terminal.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void sizes_are_strict(void **state)
{
    static const struct {
        const char *text;
        int result;
        u64 value;
    } rows[] = {
        {"512M", 0, 512ull << 20},
        {"1G", 0, 1ull << 30},
        {"4k", 0, 4096},
        {"16777215T", 0, 16777215ull << 40},
        {"0M", 0, 0},
        {"16777216T", -ERANGE, 0},
        {"99999999999999999999K", -ERANGE, 0},
        {"512", -EINVAL, 0},
        {"512MB", -EINVAL, 0},
        {"1.5G", -EINVAL, 0},
        {"-1G", -EINVAL, 0},
        {"+1G", -EINVAL, 0},
        {" 1G", -EINVAL, 0},
        {"1G ", -EINVAL, 0},
        {"G", -EINVAL, 0},
        {"", -EINVAL, 0},
        {"0x10M", -EINVAL, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        u64 v = 0;
        print_message("size \"%s\"\n", rows[i].text);
        assert_int_equal(cli_size(rows[i].text, &v), rows[i].result);
        assert_int_equal(v, rows[i].value);
    }
}

static void numbers_are_strict(void **state)
{
    u64 v;
    assert_int_equal(cli_number("18446744073709551615", &v), 0);
    assert_int_equal(v, UINT64_MAX);
    assert_int_equal(cli_number("18446744073709551616", &v), -ERANGE);
    assert_int_equal(cli_number("", &v), -EINVAL);
    assert_int_equal(cli_number("-1", &v), -EINVAL);
    assert_int_equal(cli_number("10s", &v), -EINVAL);
}

static void keys(void **state)
{
    u8 key;
    char name[16];
    assert_int_equal(cli_key("^]", &key), 0);
    assert_int_equal(key, 0x1d);
    assert_string_equal(cli_key_name(key, name), "Ctrl-]");
    assert_int_equal(cli_key("^a", &key), 0);
    assert_int_equal(key, 1);
    assert_string_equal(cli_key_name(key, name), "Ctrl-a");
    assert_int_equal(cli_key("none", &key), 0);
    assert_int_equal(key, 0);
    static const char *const bad[] = {"", "^", "x", "^]]", "^1", "^@", "^?", "Ctrl-]"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(cli_key(bad[i], &key), -EINVAL);
}

static void choices(void **state)
{
    assert_int_equal(cli_choice("auto|interp|bt", "auto"), 0);
    assert_int_equal(cli_choice("auto|interp|bt", "bt"), 2);
    assert_int_equal(cli_choice("auto|interp|bt", "b"), -1);
    assert_int_equal(cli_choice("auto|interp|bt", ""), -1);
    assert_int_equal(cli_choice("auto|interp|bt", "auto|interp"), -1);
}

static void distances(void **state)
{
    assert_int_equal(cli_distance("", ""), 0);
    assert_int_equal(cli_distance("memory", "memory"), 0);
    assert_int_equal(cli_distance("memry", "memory"), 1);
    assert_int_equal(cli_distance("mmeory", "memory"), 1);
    assert_int_equal(cli_distance("kitten", "sitting"), 3);
    assert_int_equal(cli_distance("", "abc"), 3);
}

/* Parse the words (NULL at the end) for `verb`; the result, and the message in *e. */
static int parse(struct args *a, const char *verb, const char *const *words, struct error *e)
{
    int n = 0;
    while (words[n])
        n++;
    *e = (struct error){0};
    return cli_parse(a, cli_find_verb(verb), n, (const char **)words, e);
}

static void presets_hold(void **state)
{
    struct args a;
    struct error e;
    assert_int_equal(parse(&a, "run", (const char *[]){NULL}, &e), 0);
    assert_int_equal(a.number[OPT_MEMORY], 512ull << 20);
    assert_int_equal(a.number[OPT_ESCAPE], 0x1d);
    assert_int_equal(a.number[OPT_TIME_RUN], 10);
    assert_string_equal(a.text[OPT_ENGINE], "auto");
    assert_false(a.given[OPT_MEMORY]);
    cli_args_free(&a);
}

static void all_forms_of_options(void **state)
{
    struct args a;
    struct error e;
    const char *words[] = {"-k", "vmlinuz", "--append", "", "-dm1G", "--time=30", "--name", "web", NULL};
    assert_int_equal(parse(&a, "run", words, &e), 0);
    assert_int_equal(a.number[OPT_MEMORY], 1ull << 30);
    assert_string_equal(a.text[OPT_KERNEL], "vmlinuz");
    assert_string_equal(a.text[OPT_APPEND], "");
    assert_true(a.given[OPT_DETACH]);
    assert_int_equal(a.number[OPT_TIME_RUN], 30);
    assert_int_equal(a.n_operands, 0);
    cli_args_free(&a);
    assert_int_equal(parse(&a, "stop", (const char *[]){"a", "--time", "5", "--", "-b", NULL}, &e), 0);
    assert_int_equal(a.n_operands, 2);
    assert_string_equal(a.operands[1], "-b");
    cli_args_free(&a);
    assert_int_equal(parse(&a, "run", (const char *[]){"debian:12", "ls", "--memory", NULL}, &e), 0);
    assert_int_equal(a.n_operands, 3);
    cli_args_free(&a);
}

static void refusals_name_the_cure(void **state)
{
    static const struct {
        const char *verb;
        const char *words[6];
        const char *part; /* of the message */
    } rows[] = {
        {"run", {"--memry", "1G"}, "did you mean --memory?"},
        {"run", {"--kernel"}, "--kernel: needs a value"},
        {"run", {"-x"}, "-x: unknown option"},
        {"run", {"--xyzzy=1"}, "--xyzzy: unknown option; `trapeze run --help`"},
        {"run", {"--memory", "512"}, "--memory 512: not a size"},
        {"run", {"--memory", "1T", "--memory", "1G"}, "given twice"},
        {"run", {"--memory", "2T"}, "out of range"},
        {"run", {"--memory", "1K"}, "out of range; 8 MiB to 1 TiB"},
        {"run", {"--mitigations=off"}, "--mitigations: this is not there yet"},
        {"run", {"--net="}, "--network \"\": needs a value"},
        {"run", {"--cpus", "0"}, "--cpus 0: out of range; 1 to 255"},
        {"run", {"--engine", "qemu"}, "--engine qemu: not one of auto|interp|bt|kvm"},
        {"run", {"--escape", "x"}, "--escape x: not a key"},
        {"run", {"--name", ""}, "--name \"\": needs a value that is not empty"},
        {"run", {"--detach=yes"}, "--detach: takes no value"},
        {"stop", {"--time", "1s", "a"}, "--time 1s: not a whole number"},
        {"stop", {"--tim", "1", "a"}, "did you mean --time?"},
        {"stop", {NULL}, "NAME... is missing"},
        {"console", {"a", "b"}, "b: one argument too many"},
        {"ps", {"a"}, "a: one argument too many"},
        {"version", {"--format", "xml"}, "--format xml: not one of text|json"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct args a;
        struct error e;
        assert_int_equal(parse(&a, rows[i].verb, rows[i].words, &e), -EINVAL);
        print_message("%s\n", e.msg);
        assert_non_null(strstr(e.msg, rows[i].part));
        assert_null(strchr(e.msg, '\n'));
        cli_args_free(&a);
    }
}

static void unknown_verbs(void **state)
{
    struct error e = {0};
    assert_int_equal(cli_unknown_verb("rnu", &e), -EINVAL);
    assert_non_null(strstr(e.msg, "did you mean `trapeze run`?"));
    e = (struct error){0};
    cli_unknown_verb("doc", &e);
    assert_non_null(strstr(e.msg, "`trapeze doctor`"));
    e = (struct error){0};
    cli_unknown_verb("frobnicate", &e);
    assert_non_null(strstr(e.msg, "`trapeze --help` lists them"));
}

/* --help works whatever is missing beside it. */
static void help_needs_nothing(void **state)
{
    for (size_t i = 0; i < cli_n_verbs; i++) {
        struct args a;
        struct error e;
        assert_int_equal(parse(&a, cli_verbs[i].name, (const char *[]){"--help", NULL}, &e), 0);
        assert_true(a.given[OPT_HELP]);
        cli_args_free(&a);
    }
}

static void table_of_options(void **state)
{
    for (int id = OPT_NONE + 1; id < OPT_COUNT; id++) {
        const struct option_def *o = &cli_options[id];
        assert_non_null(o->name);
        assert_non_null(o->help);
        assert_true((o->kind == OPTION_FLAG) == (o->value == NULL));
        assert_true((o->kind == OPTION_CHOICE) == (o->choices != NULL));
        assert_null(strchr(o->help, '\n'));
    }
}

static void table_of_verbs(void **state)
{
    for (size_t i = 0; i < cli_n_verbs; i++) {
        const struct verb *v = &cli_verbs[i];
        assert_non_null(v->run);
        assert_non_null(v->text);
        assert_ptr_equal(cli_find_verb(v->name), v);
        assert_int_equal(v->options[VERB_OPTIONS - 1], OPT_NONE);
        for (int k = 0; v->options[k]; k++)
            for (int m = 0; m < k; m++) {
                const struct option_def *a = &cli_options[v->options[k]], *b = &cli_options[v->options[m]];
                assert_string_not_equal(a->name, b->name);
                assert_true(!a->letter || a->letter != b->letter);
            }
    }
}

/* Every option of the table is in the verb's help, its manual page; no line is wider than a terminal. */
static void help_is_complete(void **state)
{
    for (size_t i = 0; i < cli_n_verbs; i++) {
        const struct verb *v = &cli_verbs[i];
        char *help = NULL, *man = NULL, name[40];
        size_t n, m;
        FILE *f = open_memstream(&help, &n), *g = open_memstream(&man, &m);
        cli_help_verb(f, v);
        cli_man(g, v);
        fclose(f);
        fclose(g);
        for (int k = 0; v->options[k]; k++) {
            snprintf(name, sizeof(name), "--%s", cli_options[v->options[k]].name);
            assert_non_null(strstr(help, name));
        }
        for (const char *line = help; *line; line += strcspn(line, "\n") + 1)
            if (strncmp(line, "  trapeze", 9) && strncmp(line, "      ", 6))
                assert_in_range(strcspn(line, "\n"), 0, 80);
        assert_non_null(strstr(man, ".SH OPTIONS"));
        free(help);
        free(man);
    }
}

/* In pieces of every size: sequences are cut anywhere. */
static void old_questions_are_dropped(void **state)
{
    static const char in[] = "a\033[6nb\033[1;31mc\033[cd\033[5n\033[0me\033[>0cf\033Mg\033[?25h\033[6";
    static const char want[] = "ab\033[1;31mcd\033[0mef\033Mg\033[?25h";
    for (size_t piece = 1; piece < sizeof(in); piece++) {
        struct terminal_filter f = {0};
        u8 out[sizeof(in) + sizeof(f.held)];
        size_t n = 0;
        for (size_t i = 0; i < sizeof(in) - 1; i += piece)
            n += terminal_drop_questions(&f, (const u8 *)in + i, MIN(piece, sizeof(in) - 1 - i), out + n);
        assert_int_equal(n, sizeof(want) - 1);
        assert_memory_equal(out, want, n);
        assert_int_equal(f.n, 3);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_strict),
        cmocka_unit_test(numbers_are_strict),
        cmocka_unit_test(keys),
        cmocka_unit_test(choices),
        cmocka_unit_test(distances),
        cmocka_unit_test(presets_hold),
        cmocka_unit_test(all_forms_of_options),
        cmocka_unit_test(refusals_name_the_cure),
        cmocka_unit_test(unknown_verbs),
        cmocka_unit_test(help_needs_nothing),
        cmocka_unit_test(table_of_options),
        cmocka_unit_test(table_of_verbs),
        cmocka_unit_test(help_is_complete),
        cmocka_unit_test(old_questions_are_dropped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
