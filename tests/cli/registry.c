/* The registry: names, ends, vanished keepers, and many processes at once. Each test has a state directory of its own. */
#include "vm/paths.h"
#include "vm/registry.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static int set_up(void **state)
{
    char dir[] = "/tmp/trapeze-registry-XXXXXX";
    if (!mkdtemp(dir))
        return -1;
    *state = strdup(dir);
    return setenv("XDG_STATE_HOME", dir, 1);
}

static int tear_down(void **state)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -rf '%s'", (char *)*state);
    free(*state);
    return system(command);
}

static struct registry *open_registry(void)
{
    struct registry *r = NULL;
    struct error e = {0};
    if (registry_open(&r, &e) < 0)
        fail_msg("%s", e.msg);
    return r;
}

static void create(struct registry *r, const char *name, bool auto_remove, struct machine_row *row)
{
    struct error e = {0};
    if (registry_create(r, name, "{\"memory\":1}", auto_remove, row, &e) < 0)
        fail_msg("%s", e.msg);
}

/* One of 280 would be, if nothing were done about it: 5000 without one come about once in 50 million times. */
static void no_id_is_a_number(void **state)
{
    char id[MACHINE_ID_LEN + 1];
    struct error e = {0};
    for (int i = 0; i < 5000; i++) {
        assert_int_equal(registry_make_id(id, &e), 0);
        assert_int_equal(strlen(id), MACHINE_ID_LEN);
        assert_int_equal(strspn(id, "0123456789abcdef"), MACHINE_ID_LEN);
        assert_true(strspn(id, "0123456789") < MACHINE_ID_LEN);
    }
    (void)state;
}

static void a_life(void **state)
{
    struct registry *r = open_registry();
    struct machine_row row, found;
    struct error e = {0};
    create(r, "web", false, &row);
    assert_int_equal(row.state, MACHINE_STARTING);
    assert_int_equal(access(row.dir, F_OK), 0);
    assert_int_equal(registry_started(r, row.id, getpid(), &e), 0);
    assert_int_equal(registry_find(r, "web", &found, &e), 0);
    assert_int_equal(found.state, MACHINE_RUNNING);
    assert_string_equal(found.config, "{\"memory\":1}");
    assert_string_equal(found.socket, row.socket);
    registry_row_free(&found);
    assert_int_equal(registry_sweep(r, &e), 0); /* we live: no change */
    assert_int_equal(registry_ended(r, row.id, 2, "triple fault", &e), 0);
    assert_int_equal(registry_ended(r, row.id, 0, "later word", &e), 0);
    assert_int_equal(registry_find(r, row.id, &found, &e), 0);
    assert_int_equal(found.state, MACHINE_EXITED);
    assert_int_equal(found.exit_code, 2);
    assert_string_equal(found.reason, "triple fault");
    assert_int_equal(registry_remove(r, &found, &e), 0);
    assert_int_equal(access(row.dir, F_OK), -1);
    registry_row_free(&found);
    assert_int_equal(registry_find(r, "web", &found, &e), -ENOENT);
    assert_non_null(strstr(e.msg, "machine web: no such machine"));
    registry_row_free(&row);
    registry_close(r);
}

static size_t count_dirs(void)
{
    char dir[PATH_MAX], command[PATH_MAX + 64];
    size_t n = 0;
    assert_int_equal(paths_state_dir(dir, sizeof(dir), NULL), 0);
    snprintf(command, sizeof(command), "ls '%s/machines' | wc -l", dir);
    FILE *f = popen(command, "r");
    assert_int_equal(fscanf(f, "%zu", &n), 1);
    pclose(f);
    return n;
}

static void names_are_unique(void **state)
{
    struct registry *r = open_registry();
    struct machine_row row, second;
    struct error e = {0};
    create(r, "web", false, &row);
    assert_int_equal(registry_create(r, "web", "{}", false, &second, &e), -EEXIST);
    assert_non_null(strstr(e.msg, "machine web: name taken; remove it with `trapeze rm web`"));
    assert_int_equal(count_dirs(), 1); /* the refused one left no directory */
    static const char *const bad[] = {
        "", "-web", ".web", "a b", "a/b", "ä", "0123456789012345678901234567890123456789012345678901234567890123"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(registry_create(r, bad[i], "{}", false, &second, NULL), -EINVAL);
    registry_row_free(&row);
    registry_close(r);
}

static void names_are_made_up(void **state)
{
    struct registry *r = open_registry();
    for (int i = 0; i < 50; i++) {
        struct machine_row row;
        create(r, NULL, false, &row);
        assert_int_equal(registry_check_name(row.name, NULL), 0);
        assert_non_null(strchr(row.name, '-'));
        registry_row_free(&row);
    }
    registry_close(r);
}

/* A keeper that ends without a word: dead, its socket gone, its row gone if --rm. */
/* Without descriptors nothing is known of a process but that it is there: then it is not taken for dead. */
static void no_descriptors(void **state)
{
    struct rlimit was, none;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
    u64 start = paths_process_start(getpid());
    none = (struct rlimit){.rlim_cur = 0, .rlim_max = was.rlim_max};
    setrlimit(RLIMIT_NOFILE, &none);
    bool self = paths_process_alive(getpid(), start), nobody = paths_process_alive(0x3fffff00, start);
    u64 unknown = paths_process_start(getpid());
    setrlimit(RLIMIT_NOFILE, &was);
    assert_true(self);
    assert_false(nobody);
    assert_true(unknown == PATHS_UNKNOWN);
    assert_true(paths_process_alive(getpid(), unknown));
    assert_false(paths_process_alive(getpid(), start + 1));
}

static void vanished_keepers(void **state)
{
    struct registry *r = open_registry();
    struct machine_row row, gone, found;
    struct error e = {0};
    pid_t child = fork();
    if (child == 0)
        pause();
    create(r, "stays", false, &row);
    create(r, "goes", true, &gone);
    registry_started(r, row.id, child, &e);
    registry_started(r, gone.id, child, &e);
    FILE *f = fopen(row.socket, "w");
    fclose(f);
    assert_true(paths_process_alive(child, paths_process_start(child)));
    kill(child, SIGKILL);
    siginfo_t info;
    waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT); /* a zombie is as good as gone */
    assert_int_equal(registry_sweep(r, &e), 0);
    waitpid(child, NULL, 0);
    assert_int_equal(registry_find(r, "stays", &found, &e), 0);
    assert_int_equal(found.state, MACHINE_DEAD);
    assert_int_equal(access(row.socket, F_OK), -1);
    registry_row_free(&gone);
    assert_int_equal(registry_find(r, "goes", &gone, NULL), -ENOENT);
    registry_row_free(&row);
    registry_row_free(&found);
    registry_close(r);
}

/* A keeper that left its last word in its directory (vm/launch.h) but could not tell the registry. */
static void last_words(void **state)
{
    struct registry *r = open_registry();
    struct machine_row row, found;
    struct error e = {0};
    char path[PATH_MAX];
    create(r, "web", false, &row);
    registry_started(r, row.id, 1 << 30, &e); /* no such process */
    assert_int_equal(paths_join(path, sizeof(path), row.dir, "end.json", &e), 0);
    FILE *f = fopen(path, "w");
    fputs("{\"code\":2,\"reason\":\"triple fault\",\"text\":\"\",\"ended\":1700000000}\n", f);
    fclose(f);
    assert_int_equal(registry_sweep(r, &e), 0);
    assert_int_equal(registry_find(r, "web", &found, &e), 0);
    assert_int_equal(found.state, MACHINE_EXITED);
    assert_int_equal(found.exit_code, 2);
    assert_string_equal(found.reason, "triple fault");
    registry_row_free(&row);
    registry_row_free(&found);
    registry_close(r);
}

/* Who has read a row sweeps late: the machine has been started again, and what belongs to its new life stays. */
static void another_life(void **state)
{
    for (int rm = 0; rm < 2; rm++) {
        struct registry *r = open_registry();
        struct machine_row row, old, found;
        struct error e = {0};
        create(r, rm ? "passing" : "lasting", rm, &row);
        assert_int_equal(registry_started(r, row.id, 1 << 30, &e), 0); /* no such process */
        assert_int_equal(registry_find(r, row.id, &old, &e), 0);
        assert_int_equal(registry_ended(r, row.id, 0, "", &e), 0);
        assert_int_equal(registry_restart(r, &row, &e), 0);
        FILE *f = fopen(row.socket, "w");
        assert_non_null(f);
        fclose(f);
        for (int up = 0; up < 2; up++) {
            assert_int_equal(registry_sweep_row(r, &old, &e), 0);
            assert_int_equal(access(row.socket, F_OK), 0);
            assert_int_equal(registry_find(r, row.id, &found, &e), 0);
            assert_int_equal(found.state, up ? MACHINE_RUNNING : MACHINE_STARTING);
            registry_row_free(&found);
            assert_int_equal(registry_started(r, row.id, getpid(), &e), 0);
        }
        registry_row_free(&old);
        registry_row_free(&row);
        registry_close(r);
    }
}

static void ids_by_their_beginning(void **state)
{
    struct registry *r = open_registry();
    struct machine_row row, found;
    struct error e = {0};
    char prefix[6];
    create(r, "web", false, &row);
    snprintf(prefix, sizeof(prefix), "%.5s", row.id);
    assert_int_equal(registry_find(r, prefix, &found, &e), 0);
    assert_string_equal(found.name, "web");
    registry_row_free(&found);
    assert_int_equal(registry_find(r, "", &found, &e), -ENOENT);
    registry_row_free(&row);
    registry_close(r);
}

/* One name, eight processes that open the database for the first time: exactly one gets it. */
static void one_name_many_processes(void **state)
{
    int winners = 0;
    pid_t child[8];
    for (size_t i = 0; i < ARRAY_LEN(child); i++) {
        child[i] = fork();
        if (child[i])
            continue;
        struct registry *r;
        struct machine_row row;
        if (registry_open(&r, NULL) < 0)
            _exit(9);
        int rc = registry_create(r, "web", "{}", false, &row, NULL);
        for (int k = 0; k < 5 && (rc == 0 || rc == -EEXIST); k++) {
            struct machine_row more;
            if (registry_create(r, NULL, "{}", false, &more, NULL) < 0)
                _exit(8);
        }
        _exit(rc == 0 ? 0 : rc == -EEXIST ? 1 : 7);
    }
    for (size_t i = 0; i < ARRAY_LEN(child); i++) {
        int status;
        waitpid(child[i], &status, 0);
        assert_true(WIFEXITED(status));
        assert_in_range(WEXITSTATUS(status), 0, 1);
        winners += WEXITSTATUS(status) == 0;
    }
    assert_int_equal(winners, 1);
    struct registry *r = open_registry();
    struct machine_row *rows;
    size_t n;
    assert_int_equal(registry_list(r, &rows, &n, NULL), 0);
    assert_int_equal(n, 41);
    registry_rows_free(rows, n);
    registry_close(r);
}

/* Words of events, one after the other; how many there are and the numbers of the first and the last. */
struct heard {
    char words[200];
    size_t n;
    s64 first, last;
    int code;
};

static int hear(void *arg, const struct machine_event *v)
{
    struct heard *h = arg;
    h->first = h->n ? h->first : v->seq;
    h->last = v->seq;
    h->n++;
    if (v->has_code)
        h->code = v->exit_code;
    snprintf(h->words + strlen(h->words), sizeof(h->words) - strlen(h->words), "%s ", v->what);
    return strlen(h->words) > sizeof(h->words) - 20 ? (h->words[0] = 0) : 0;
}

static void events_tell_a_life(void **state)
{
    struct registry *r = open_registry();
    struct machine_row row;
    struct heard h = {.n = 0};
    assert_int_equal(registry_create(r, "a", "{}", false, &row, NULL), 0);
    assert_int_equal(registry_started(r, row.id, getpid(), NULL), 0);
    assert_int_equal(registry_note(r, &row, "pause", NULL), 0);
    assert_int_equal(registry_ended(r, row.id, 7, "done", NULL), 0);
    assert_int_equal(registry_ended(r, row.id, 8, "again", NULL), 0); /* the first word stays */
    assert_int_equal(registry_remove(r, &row, NULL), 0);
    registry_row_free(&row);
    assert_int_equal(registry_events(r, 0, hear, &h, NULL), 0);
    assert_string_equal(h.words, "create start pause end remove ");
    assert_int_equal(h.code, 7);
    /* One that goes as it ends, and nothing twice for who has heard the others. */
    assert_int_equal(registry_create_kind(r, KIND_CONTAINER, "b", "{}", true, &row, NULL), 0);
    assert_int_equal(registry_remove_ended(r, &row, 9, "ended", NULL), 0);
    registry_row_free(&row);
    struct heard more = {.n = 0};
    assert_int_equal(registry_events(r, h.last, hear, &more, NULL), 0);
    assert_string_equal(more.words, "create start end remove ");
    assert_int_equal(more.code, 9);
    registry_close(r);
}

static void old_events_go(void **state)
{
    char path[PATH_MAX];
    struct registry *r = open_registry();
    struct heard h = {.n = 0};
    sqlite3 *db;
    snprintf(path, sizeof(path), "%s/trapeze/machines.db", (char *)*state);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(
        sqlite3_exec(db,
                     "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000) INSERT "
                     "INTO events (time, kind, id, name, what) SELECT 0, 'machine', 'x', 'x', 'pause' FROM n",
                     NULL, NULL, NULL),
        SQLITE_OK);
    sqlite3_close(db);
    assert_int_equal(registry_events(r, 0, hear, &h, NULL), 0);
    assert_int_equal(h.last, 10000);
    assert_in_range(h.n, 4096, 4096 + 256);
    registry_close(r);
}

static void newer_schemas_are_refused(void **state)
{
    char path[PATH_MAX];
    struct registry *r = open_registry();
    struct error e = {0};
    sqlite3 *db;
    registry_close(r);
    snprintf(path, sizeof(path), "%s/trapeze/machines.db", (char *)*state);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA user_version = 99", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    assert_int_equal(registry_open(&r, &e), -EPROTO);
    assert_non_null(strstr(e.msg, "newer trapeze"));
}

static void damaged_databases_are_refused(void **state)
{
    char path[PATH_MAX];
    struct registry *r;
    struct error e = {0};
    snprintf(path, sizeof(path), "%s/trapeze", (char *)*state);
    mkdir(path, 0700);
    snprintf(path, sizeof(path), "%s/trapeze/machines.db", (char *)*state);
    FILE *f = fopen(path, "w");
    for (int i = 0; i < 5000; i++)
        fputc(i * 37 & 0xff, f);
    fclose(f);
    assert_int_equal(registry_open(&r, &e), -EIO);
    assert_non_null(strstr(e.msg, "machines.db"));
    assert_null(strchr(e.msg, '\n'));
}

static void unwritable_state_directory(void **state)
{
    struct registry *r;
    struct error e = {0};
    setenv("XDG_STATE_HOME", "/proc/no/such", 1);
    assert_true(registry_open(&r, &e) < 0);
    assert_non_null(strstr(e.msg, "set XDG_STATE_HOME"));
}

/* Whoever can write to the state directory chooses what `rm` deletes: nobody else may. */
static void others_are_kept_out(void **state)
{
    char dir[PATH_MAX];
    struct error e = {0};
    assert_int_equal(paths_state_dir(dir, sizeof(dir), &e), 0);
    assert_int_equal(chmod(dir, 0770), 0);
    assert_int_equal(paths_state_dir(dir, sizeof(dir), &e), -EPERM);
    assert_non_null(strstr(e.msg, "others may write there (mode 770)"));
    assert_int_equal(chmod(dir, 0755), 0);
    assert_int_equal(paths_state_dir(dir, sizeof(dir), NULL), 0);
    if (geteuid() != 0)
        return; /* only root can give a directory away */
    assert_int_equal(chown(dir, 65534, (gid_t)-1), 0);
    memset(&e, 0, sizeof(e));
    assert_int_equal(paths_state_dir(dir, sizeof(dir), &e), -EPERM);
    assert_non_null(strstr(e.msg, "belongs to user 65534"));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(others_are_kept_out),
        TEST(no_id_is_a_number),
        TEST(a_life),
        TEST(names_are_unique),
        TEST(names_are_made_up),
        TEST(vanished_keepers),
        TEST(last_words),
        TEST(another_life),
        TEST(ids_by_their_beginning),
        TEST(one_name_many_processes),
        TEST(events_tell_a_life),
        TEST(old_events_go),
        TEST(newer_schemas_are_refused),
        TEST(damaged_databases_are_refused),
        TEST(unwritable_state_directory),
        TEST(no_descriptors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
