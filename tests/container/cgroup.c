/* Cgroups: finding hierarchies in texts of any host, placing containers, conversions, device rules, limits in files. */
#include "container/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static const char hybrid_mounts[] =
    "24 30 0:22 / /proc rw - proc proc rw\n"
    "31 24 0:27 / /sys/fs/cgroup rw shared:5 - tmpfs tmpfs ro,mode=755\n"
    "32 31 0:28 / /sys/fs/cgroup/unified rw shared:6 - cgroup2 cgroup2 rw\n"
    "33 31 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
    "34 31 0:30 /docker/abc /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:31 / /with\\040blank rw - cgroup cgroup rw,memory\n"
    "36 31 0:31 / /second/memory rw - cgroup cgroup rw,memory\n";
static const char hybrid_own[] =
    "9:name=systemd:/user.slice\n4:cpu,cpuacct:/docker/abc/own\n3:memory:/\n2:rdma:/\n0::/user.slice/x\n";

static void parse_hybrid(struct cgroup *g)
{
    struct error e = {0};
    memset(g, 0, sizeof(*g));
    assert_int_equal(cgroup_parse(g, hybrid_mounts, hybrid_own, &e), 0);
}

static void test_hybrid(void **state)
{
    static struct cgroup g;
    parse_hybrid(&g);
    assert_int_equal(g.n, 4); /* rdma is mounted nowhere */
    assert_false(g.unified);
    const struct cgroup_hierarchy *h = cgroup_with(&g, "cpuacct");
    assert_non_null(h);
    assert_string_equal(h->mount, "/sys/fs/cgroup/cpu,cpuacct");
    assert_string_equal(h->path, "/own"); /* counted from what the mount shows */
    assert_string_equal(cgroup_with(&g, "memory")->mount, "/with blank");
    assert_string_equal(cgroup_with(&g, "")->path, "/user.slice/x");
    assert_string_equal(cgroup_with(&g, "name=systemd")->mount, "/sys/fs/cgroup/systemd");
    assert_null(cgroup_with(&g, "cp"));
    assert_null(cgroup_with(&g, "rdma"));
}

static void test_unified(void **state)
{
    static struct cgroup g;
    struct error e = {0};
    assert_int_equal(
        cgroup_parse(&g, "31 24 0:27 / /sys/fs/cgroup rw shared:5 - cgroup2 cgroup2 rw\n", "0::/a/b\n", &e), 0);
    assert_true(g.unified && g.n == 1);
    assert_int_equal(cgroup_place(&g, NULL, "id", false, &e), 0);
    assert_string_equal(g.h[0].path, "/a/trapeze-id"); /* beside the runtime, not below it */
}

static void test_nonsense(void **state)
{
    static const char *const texts[] = {
        "", "\n\n", ":", "::", "1:2", "a b c - cgroup", "1 2 3 / /x rw - cgroup", " - cgroup2 \n - ", "0::"};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        for (size_t k = 0; k < ARRAY_LEN(texts); k++) {
            static struct cgroup g;
            assert_int_equal(cgroup_parse(&g, texts[i], texts[k], NULL), 0);
            assert_int_equal(g.n, 0);
        }
}

static void test_place(void **state)
{
    static struct cgroup g;
    struct error e = {0};
    parse_hybrid(&g);
    assert_int_equal(cgroup_place(&g, "/a/b/", "id", false, &e), 0);
    assert_string_equal(cgroup_with(&g, "memory")->path, "/a/b");
    assert_string_equal(cgroup_with(&g, "cpu")->path, "/a/b");
    parse_hybrid(&g);
    assert_int_equal(cgroup_place(&g, "rel", "id", false, &e), 0);
    assert_string_equal(cgroup_with(&g, "cpu")->path, "/own/rel");
    assert_string_equal(cgroup_with(&g, "memory")->path, "/rel");
    static const char *const bad[] = {"/", "//", "/..", "/a/../b", "../x", "a/.."};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        memset(&e, 0, sizeof(e));
        parse_hybrid(&g);
        assert_int_equal(cgroup_place(&g, bad[i], "id", false, &e), -EINVAL);
        assert_non_null(strstr(e.msg, "cgroupsPath"));
    }
    memset(&e, 0, sizeof(e));
    assert_int_equal(cgroup_place(&g, "/..x/y..", "id", false, &e), 0);
}

static void test_systemd_path(void **state)
{
    char out[256];
    struct error e = {0};
    assert_int_equal(cgroup_systemd_path(out, sizeof(out), "user-1000.slice:libpod:abc", &e), 0);
    assert_string_equal(out, "/user.slice/user-1000.slice/libpod-abc.scope");
    assert_int_equal(cgroup_systemd_path(out, sizeof(out), "::abc", &e), 0);
    assert_string_equal(out, "/system.slice/abc.scope");
    static const char *const bad[] = {"abc",        "a:b",          "x:y:z",         ".slice:a:b",
                                      "a.slice:b:", "a.slice:/b:c", "a.slice:b:../c"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        memset(&e, 0, sizeof(e));
        if (cgroup_systemd_path(out, sizeof(out), bad[i], &e) >= 0)
            fail_msg("%s became %s", bad[i], out);
    }
    memset(&e, 0, sizeof(e));
    assert_int_equal(cgroup_systemd_path(out, 20, "user-1000.slice:libpod:abc", &e), -ENAMETOOLONG);
}

static void test_conversions(void **state)
{
    assert_int_equal(cgroup_weight_of_shares(2), 1);
    assert_int_equal(cgroup_weight_of_shares(0), 1);
    assert_int_equal(cgroup_weight_of_shares(1024), 39);
    assert_int_equal(cgroup_weight_of_shares(262144), 10000);
    assert_int_equal(cgroup_weight_of_shares(UINT64_MAX), 10000);
    assert_int_equal(cgroup_io_weight(10), 1);
    assert_int_equal(cgroup_io_weight(1000), 10000);
}

/* Version 2 without a kernel: a directory of plain files shows what would be written. */
static char *written(const char *dir, const char *file, char out[128])
{
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", dir, file);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    size_t n = fread(out, 1, 127, f);
    out[n] = 0;
    fclose(f);
    return out;
}

static void test_limits_of_version_2(void **state)
{
    static const char *const files[] = {"cpu.weight", "cpu.max",         "cpu.max.burst",   "cpu.idle", "cpuset.cpus",
                                        "memory.max", "memory.low",      "memory.swap.max", "pids.max", "io.max",
                                        "io.weight",  "hugetlb.2MB.max", "memory.high"};
    char dir[] = "/tmp/trapeze-cgroup-XXXXXX", path[256], text[128];
    assert_non_null(mkdtemp(dir));
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, files[i]);
        close(open(path, O_CREAT | O_WRONLY, 0644));
    }
    struct spec_block_device disk = {8, 16, .rate = {true, 1048576}};
    struct spec_huge huge = {"2MB", 4194304};
    char *unified[] = {"memory.high", "1000", NULL};
    struct spec_resources r = {
        .given = true,
        .cpu_shares = {true, 2},
        .cpu_quota = {true, 50000},
        .cpu_period = {true, 200000},
        .cpu_burst = {true, 1000},
        .cpus = "0-1",
        .memory = {true, 1000000},
        .memory_swap = {true, 3000000},
        .memory_reservation = {true, 500000},
        .pids = {true, -1},
        .block_weight = {true, 1000},
        .throttle[THROTTLE_WRITE_BPS] = {&disk, 1},
        .huge = &huge,
        .n_huge = 1,
        .unified = {unified, 2},
    };
    static struct cgroup_hierarchy h;
    struct error e = {0};
    h.v2 = true;
    h.dir = open(dir, O_PATH | O_DIRECTORY);
    if (cgroup_limit_v2(&h, &r, &e) < 0)
        fail_msg("%s", e.msg);
    assert_string_equal(written(dir, "cpu.weight", text), "1");
    assert_string_equal(written(dir, "cpu.max", text), "50000 200000");
    assert_string_equal(written(dir, "memory.max", text), "1000000");
    assert_string_equal(written(dir, "memory.swap.max", text), "2000000"); /* swap alone */
    assert_string_equal(written(dir, "pids.max", text), "max");
    assert_string_equal(written(dir, "io.max", text), "8:16 wbps=1048576");
    assert_string_equal(written(dir, "io.weight", text), "default 10000");
    assert_string_equal(written(dir, "hugetlb.2MB.max", text), "4194304");
    assert_string_equal(written(dir, "memory.high", text), "1000");
    struct spec_resources bad = {.given = true, .memory = {true, 100}, .memory_swap = {true, 50}};
    assert_int_equal(cgroup_limit_v2(&h, &bad, &e), -EINVAL);
    close(h.dir);
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, files[i]);
        unlink(path);
    }
    rmdir(dir);
}

static void test_device_rules(void **state)
{
    struct arena a = {0};
    struct spec_device_rule deny = {false, 'a', -1, -1, "rwm"};
    struct spec_resources r = {.given = true, .devices = &deny, .n_devices = 1};
    size_t n;
    const struct spec_device_rule *all = cgroup_device_rules(&r, &a, &n);
    assert_true(n > 5 && !all[0].allow);
    bool null = false;
    for (size_t i = 1; i < n; i++)
        null |= all[i].allow && all[i].type == 'c' && all[i].major == 1 && all[i].minor == 3;
    assert_true(null);
    arena_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hybrid),
        cmocka_unit_test(test_unified),
        cmocka_unit_test(test_nonsense),
        cmocka_unit_test(test_place),
        cmocka_unit_test(test_systemd_path),
        cmocka_unit_test(test_conversions),
        cmocka_unit_test(test_limits_of_version_2),
        cmocka_unit_test(test_device_rules),
    };
    return cmocka_run_group_tests_name("container-cgroup", tests, NULL, NULL);
}
