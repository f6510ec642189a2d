/* Images of machines: names, mirrors, what NoCloud disks say, the store's drafts, copies. */
#include "image/vmimage.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define HOLE (8u << 20)

struct fixture {
    char top[64];
    struct vmimage_store s;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    snprintf(f->top, sizeof(f->top), "/tmp/trapeze-vmimage-XXXXXX");
    assert_non_null(mkdtemp(f->top));
    assert_int_equal(vmimage_store_open(&f->s, f->top, NULL), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    char command[128];
    vmimage_store_close(&f->s);
    snprintf(command, sizeof(command), "rm -rf '%s'", f->top);
    assert_int_equal(system(command), 0);
    free(f);
    return 0;
}

static void path_of(const struct fixture *f, char out[256], const char *name)
{
    snprintf(out, 256, "%s/%s", f->top, name);
}

static void put(const char *path, const char *text)
{
    FILE *out = fopen(path, "we");
    assert_non_null(out);
    fputs(text, out);
    assert_int_equal(fclose(out), 0);
}

static char *get(const char *path, size_t *size)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0 && fstat(fd, &st) == 0);
    char *text = calloc(1, (size_t)st.st_size + 1);
    assert_int_equal(read(fd, text, (size_t)st.st_size), st.st_size);
    close(fd);
    if (size)
        *size = (size_t)st.st_size;
    return text;
}

static void test_names(void **state)
{
    static const struct {
        const char *typed, *name; /* NULL: refused */
    } cases[] = {
        {"vm:debian", "debian:bookworm"},
        {"vm:debian:sid", "debian:sid"},
        {"vm:mine", "mine"},
        {"mine", "mine"},
        {"vm:a.b_c-d:1.0", "a.b_c-d:1.0"},
        {"vm:", NULL},
        {"vm::x", NULL},
        {"vm:x:", NULL},
        {"vm:x:y:z", NULL},
        {"vm:../x", NULL},
        {"vm:.x", NULL},
        {"vm:x/y", NULL},
        {"vm:x y", NULL},
        {"vm:x\n", NULL},
        {"vm:tmp", NULL},
        {"vm:lock", NULL},
        {"vm:failed-build.log", NULL},
        {"vm:" /* 96 */
         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
         NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char name[VMIMAGE_NAME] = "";
        int r = vmimage_ref_parse(cases[i].typed, name, NULL);
        if ((r == 0) != !!cases[i].name)
            print_error("%s: %d\n", cases[i].typed, r);
        assert_int_equal(r, cases[i].name ? 0 : -EINVAL);
        if (cases[i].name)
            assert_string_equal(name, cases[i].name);
    }
    char suite[VMIMAGE_NAME];
    assert_string_equal(vmimage_distribution("debian:sid", suite, NULL), "debian");
    assert_string_equal(suite, "sid");
    assert_null(vmimage_distribution("debianx:sid", suite, NULL));
    assert_null(vmimage_distribution("fedora", suite, NULL));
}

static void test_mirrors(void **state)
{
    static const struct {
        const char *file, *text, *archive, *security;
    } cases[] = {
        {"sources.list", "", "", ""},
        {"sources.list", "deb http://m.example/debian bookworm main\n", "http://m.example/debian", ""},
        {"sources.list", "deb [arch=amd64 signed-by=/x/y] http://m.example/debian/ bookworm main\n",
         "http://m.example/debian", ""},
        {"sources.list", "# deb http://m.example/debian x\ndeb-src http://m.example/debian x main\n", "", ""},
        {"sources.list", "deb http://other.example/tools x main\ndeb http://m.example/debian-security x main\n", "",
         ""},
        {"sources.list", "deb http://m.example/debian x main\ndeb http://s.example/debian-security x main\n",
         "http://m.example/debian", "http://s.example/debian-security"},
        {"sources.list", "deb http://deb.debian.org/debian x main\ndeb http://s.example/debian-security x main\n", "",
         ""},
        {"sources.list.d/a.sources", "Types: deb\nURIs: http://t.example/tools http://m.example/debian\nSuites: x\n",
         "http://m.example/debian", ""},
        {"sources.list.d/a.list", "deb file:/srv/debian x main\n", "file:/srv/debian", ""},
        {"sources.list.d/a.off", "deb http://m.example/debian x main\n", "", ""},
        {"sources.list", "deb\ndeb [\ndeb [a=b\nURIs:\n", "", ""},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct fixture f = {.top = "/tmp/trapeze-apt-XXXXXX"};
        struct vmimage_mirror m;
        char path[256], command[128];
        assert_non_null(mkdtemp(f.top));
        path_of(&f, path, "sources.list.d");
        assert_int_equal(mkdir(path, 0700), 0);
        path_of(&f, path, cases[i].file);
        put(path, cases[i].text);
        vmimage_mirror(f.top, &m);
        snprintf(command, sizeof(command), "rm -rf '%s'", f.top);
        assert_int_equal(system(command), 0);
        assert_string_equal(m.archive, cases[i].archive);
        assert_string_equal(m.security, cases[i].security);
    }
}

static void test_what_machines_are_told(void **state)
{
    static const char *const users[] = {"ada", "_x", "a-b_c9"}, *const no_users[] = {"",    "Ada", "9a",  "-a",
                                                                                     "a b", "a:b", "a/b", "a$"};
    static const char *const hosts[] = {"web", "Web-1.example.org"}, *const no_hosts[] = {"",   "-a",  "a-",
                                                                                          ".a", "a_b", "a b"};
    char host[64];
    for (size_t i = 0; i < ARRAY_LEN(users); i++)
        assert_int_equal(nocloud_check_user(users[i], NULL), 0);
    for (size_t i = 0; i < ARRAY_LEN(no_users); i++)
        assert_int_equal(nocloud_check_user(no_users[i], NULL), -EINVAL);
    for (size_t i = 0; i < ARRAY_LEN(hosts); i++)
        assert_int_equal(nocloud_check_host(hosts[i], NULL), 0);
    for (size_t i = 0; i < ARRAY_LEN(no_hosts); i++)
        assert_int_equal(nocloud_check_host(no_hosts[i], NULL), -EINVAL);
    nocloud_host("My_web.1", host);
    assert_string_equal(host, "my-web-1");
    nocloud_host("__", host);
    assert_string_equal(host, "machine");
    assert_int_equal(nocloud_check_host(host, NULL), 0);
}

static void test_keys(void **state)
{
    static const struct {
        const char *text;
        unsigned n; /* 0: refused */
    } cases[] = {
        {"ssh-ed25519 AAAA me\n", 1},
        {"# mine\n\nssh-ed25519 AAAA\r\n  ecdsa-sha2-nistp256 AAAA x y\nsk-ssh-ed25519@openssh.com AAAA", 3},
        {"", 0},
        {"# nothing\n", 0},
        {"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", 0},
        {"ssh-ed25519\n", 0},
        {"hello\n", 0},
        {"ssh-ed25519 AAAA\nrubbish\n", 0},
    };
    struct fixture *f = *state;
    char path[256];
    path_of(f, path, "keys");
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct nocloud n = {0};
        put(path, cases[i].text);
        int r = nocloud_add_keys(&n, path, NULL);
        assert_int_equal(r, cases[i].n ? 0 : -EINVAL);
        if (r == 0)
            assert_int_equal(n.n_keys, cases[i].n);
        nocloud_free(&n);
    }
    struct nocloud n = {0};
    put(path, cases[0].text);
    for (int i = 0; i < NOCLOUD_KEYS; i++)
        assert_int_equal(nocloud_add_keys(&n, path, NULL), 0);
    assert_int_equal(nocloud_add_keys(&n, path, NULL), -EINVAL);
    nocloud_free(&n);
    assert_int_equal(nocloud_add_keys(&n, "/no/such/file", NULL), -ENOENT);
}

/* A disk as the guest looks for it: ISO 9660 with the label at the place where ECMA-119 has it. */
static void test_disk(void **state)
{
    struct fixture *f = *state;
    struct nocloud n = {.instance = "77", .hostname = "web", .user = "ada"};
    char path[256];
    size_t size;
    path_of(f, path, "cidata.img");
    assert_int_equal(nocloud_write(&n, path, NULL), 0);
    char *data = get(path, &size);
    assert_true(size > 40960 && size % 512 == 0);
    assert_memory_equal(data + 32769, "CD001", 5);
    assert_int_equal(strncasecmp(data + 32808, "cidata ", 7), 0); /* in capitals, as d-characters are */
    char *meta = nocloud_meta_data(&n), *user = nocloud_user_data(&n);
    assert_non_null(memmem(data, size, meta, strlen(meta)));
    assert_non_null(memmem(data, size, user, strlen(user)));
    free(meta);
    free(user);
    free(data);
}

/* --- the store --- */

/* A draft with a disk that has a hole between two blocks of data. */
static void fill(const struct vmimage_draft *d, const char *mark)
{
    char path[PATH_MAX + 16];
    static const char *const files[] = {VMIMAGE_KERNEL, VMIMAGE_INITRD};
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        snprintf(path, sizeof(path), "%s/%s", d->path, files[i]);
        put(path, mark);
    }
    int fd = openat(d->dir, VMIMAGE_DISK, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, mark, strlen(mark), 0), strlen(mark));
    assert_int_equal(pwrite(fd, mark, strlen(mark), HOLE), strlen(mark));
    assert_int_equal(ftruncate(fd, 2 * HOLE), 0);
    close(fd);
}

static void make_image(struct fixture *f, const char *name, const char *mark)
{
    struct vmimage_draft d;
    struct error e = {0};
    assert_int_equal(vmimage_draft_begin(&d, &f->s, &e), 0);
    fill(&d, mark);
    json_t *about = json_pack("{s:s,s:s}", "append", "console=ttyS0", "id", mark);
    assert_int_equal(vmimage_draft_commit(&d, name, about, &e), 0);
    json_decref(about);
}

static size_t entries_of_tmp(const struct fixture *f)
{
    char command[128];
    snprintf(command, sizeof(command), "ls '%s/tmp' | wc -l", f->top);
    FILE *p = popen(command, "re");
    unsigned n = 99;
    assert_int_equal(fscanf(p, "%u", &n), 1);
    pclose(p);
    return n;
}

static void check_list(const struct fixture *f, const char *const names[], size_t n)
{
    json_t *list = vmimage_list(&f->s, NULL);
    assert_int_equal(json_array_size(list), n);
    for (size_t i = 0; i < n; i++)
        assert_string_equal(json_string_value(json_object_get(json_array_get(list, i), "name")), names[i]);
    json_decref(list);
}

static void test_drafts(void **state)
{
    struct fixture *f = *state;
    struct vmimage_draft d;
    struct vmimage_files files;
    static const char *const both[] = {"vm:a", "vm:debian:bookworm"};
    check_list(f, both, 0);
    make_image(f, "debian:bookworm", "one");
    make_image(f, "a", "two");
    check_list(f, both, 2);
    make_image(f, "a", "three"); /* in the place of the older one */
    check_list(f, both, 2);
    json_t *list = vmimage_list(&f->s, NULL);
    assert_string_equal(json_string_value(json_object_get(json_array_get(list, 0), "id")), "three");
    json_decref(list);
    assert_int_equal(entries_of_tmp(f), 0);
    assert_int_equal(vmimage_draft_begin(&d, &f->s, NULL), 0);
    fill(&d, "never");
    assert_int_equal(entries_of_tmp(f), 2);
    assert_int_equal(vmimage_sweep(&f->s, NULL), 0); /* somebody works on it */
    assert_int_equal(entries_of_tmp(f), 2);
    close(d.lock); /* as a kill does */
    close(d.dir);
    assert_int_equal(vmimage_sweep(&f->s, NULL), 0);
    assert_int_equal(entries_of_tmp(f), 0);
    assert_int_equal(vmimage_draft_begin(&d, &f->s, NULL), 0);
    vmimage_draft_abort(&d);
    assert_int_equal(entries_of_tmp(f), 0);
    assert_int_equal(vmimage_remove(&f->s, "a", NULL), 0);
    assert_int_equal(vmimage_remove(&f->s, "a", NULL), -ENOENT);
    assert_int_equal(vmimage_describe(&f->s, "a", "/x", &files, NULL), -ENOENT);
    check_list(f, both + 1, 1);
    assert_int_equal(entries_of_tmp(f), 0);
}

/* A draft that lacks a file does not get a name. */
static void test_incomplete(void **state)
{
    struct fixture *f = *state;
    struct vmimage_draft d;
    struct error e = {0};
    assert_int_equal(vmimage_draft_begin(&d, &f->s, NULL), 0);
    json_t *about = json_pack("{s:s}", "append", "");
    assert_int_equal(vmimage_draft_commit(&d, "a", about, &e), -ENOENT);
    json_decref(about);
    assert_non_null(strstr(e.msg, VMIMAGE_DISK));
    check_list(f, NULL, 0);
    assert_int_equal(entries_of_tmp(f), 0);
}

static void test_copies(void **state)
{
    struct fixture *f = *state;
    struct vmimage_files files;
    struct error e = {0};
    struct stat st;
    char to[256], path[256];
    size_t size;
    make_image(f, "a", "mark");
    path_of(f, to, "machine");
    assert_int_equal(mkdir(to, 0700), 0);
    assert_int_equal(vmimage_copy(&f->s, "a", to, HOLE, &files, &e), -EINVAL);
    assert_non_null(strstr(e.msg, "--disk-size"));
    assert_int_equal(vmimage_copy(&f->s, "a", to, 3 * HOLE, &files, NULL), 0);
    assert_string_equal(files.append, "console=ttyS0");
    path_of(f, path, "machine/" VMIMAGE_DISK);
    assert_string_equal(files.disk, path);
    char *data = get(path, &size);
    assert_int_equal(size, 3 * HOLE);
    assert_string_equal(data, "mark");
    assert_string_equal(data + HOLE, "mark");
    for (size_t i = 4; i < HOLE; i += 509)
        assert_int_equal(data[i], 0);
    free(data);
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_blocks * 512 < HOLE); /* the hole is one still */
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(vmimage_copy(&f->s, "a", to, 0, &files, NULL), -EEXIST);
}

/* What somebody wrote into the store: named, not believed. */
static void test_damaged(void **state)
{
    static const char *const texts[] = {"", "[]", "{", "{\"append\": 1}", "{}"};
    struct fixture *f = *state;
    char path[256];
    make_image(f, "a", "x");
    path_of(f, path, "a/image.json");
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct vmimage_files files;
        struct error e = {0};
        put(path, texts[i]);
        assert_int_equal(vmimage_describe(&f->s, "a", "/x", &files, &e), -EBADMSG);
        assert_non_null(strstr(e.msg, "vm:a"));
        json_t *list = vmimage_list(&f->s, NULL);
        assert_int_equal(json_array_size(list), 1);
        json_decref(list);
    }
    assert_int_equal(vmimage_remove(&f->s, "a", NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_mirrors),
        cmocka_unit_test(test_what_machines_are_told),
        cmocka_unit_test_setup_teardown(test_keys, setup, teardown),
        cmocka_unit_test_setup_teardown(test_disk, setup, teardown),
        cmocka_unit_test_setup_teardown(test_drafts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_incomplete, setup, teardown),
        cmocka_unit_test_setup_teardown(test_copies, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
