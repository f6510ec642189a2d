/* config.json: what is read, what is refused and how the refusal names the field; mount options; filters. */
#include "container/filter.h"
#include "container/mount_option.h"
#include "container/spec.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define BASE "'ociVersion':'1.2.0','root':{'path':'r'}"

/* JSON with ' for ". */
static int parse(struct spec *s, const char *text, struct error *e)
{
    char copy[4096];
    size_t n = strlen(text);
    assert_true(n < sizeof(copy));
    for (size_t i = 0; i <= n; i++)
        copy[i] = text[i] == '\'' ? '"' : text[i];
    memset(e, 0, sizeof(*e));
    return spec_parse(s, copy, n, e);
}

static void test_smallest(void **state)
{
    struct spec s;
    struct error e;
    assert_int_equal(parse(&s, "{" BASE "}", &e), 0);
    assert_string_equal(s.root_path, "r");
    assert_false(s.has_process);
    spec_free(&s);
}

static void test_refused(void **state)
{
    /* what is wrong, and what the message must name */
    static const char *const rows[][2] = {
        {"{'root':{'path':'r'}}", "ociVersion: is missing"},
        {"{'ociVersion':'2.0','root':{'path':'r'}}", "ociVersion: \"2.0\""},
        {"{'ociVersion':'1.0'}", "root: is missing"},
        {"{'ociVersion':'1.0','root':{'path':''}}", "root.path: is empty"},
        {"[]", "is no JSON object"},
        {"{'ociVersion'", "no JSON"},
        {"{" BASE ",'root':{}}", "duplicate"},
        {"{" BASE ",'process':{'cwd':'/'}}", "process.args: is missing"},
        {"{" BASE ",'process':{'args':['a'],'cwd':'x'}}", "process.cwd: \"x\" is not absolute"},
        {"{" BASE ",'process':{'args':['a','b\\u0000c'],'cwd':'/'}}", "u0000 is not allowed"},
        {"{" BASE ",'process':{'args':['a',7],'cwd':'/'}}", "process.args[1]: is a number"},
        {"{" BASE ",'process':{'args':['a'],'cwd':'/','env':['X']}}", "process.env"},
        {"{" BASE ",'process':{'args':['a'],'cwd':'/','user':{'uid':-1}}}", "process.user.uid"},
        {"{" BASE ",'process':{'args':['a'],'cwd':'/','user':{'uid':4294967295}}}", "process.user.uid"},
        {"{" BASE ",'process':{'args':['a'],'cwd':'/','capabilities':{'bounding':['KILL']}}}",
         "process.capabilities.bounding"},
        {"{" BASE ",'process':{'args':['a'],'cwd':'/','rlimits':[{'type':'RLIMIT_X','soft':1,'hard':1}]}}",
         "rlimits[0].type"},
        {"{" BASE ",'process':{'args':['a'],'cwd':'/','oomScoreAdj':1001}}", "process.oomScoreAdj"},
        {"{" BASE ",'process':{'args':['a'],'cwd':'/','scheduler':{'policy':'SCHED_X'}}}", "process.scheduler.policy"},
        {"{" BASE ",'process':{'args':['a'],'cwd':'/','ioPriority':{'class':'IOPRIO_CLASS_BE','priority':8}}}",
         "ioPriority.priority"},
        {"{" BASE ",'process':{'args':['a'],'cwd':'/','execCPUAffinity':{'final':'all'}}}", "execCPUAffinity.final"},
        {"{" BASE ",'hostname':'x'}", "hostname: needs a namespace"},
        {"{" BASE ",'mounts':[{'destination':'/x'}]}", "mounts: need a namespace"},
        {"{" BASE ",'hooks':{'prestart':[{'path':'x'}]}}", "hooks.prestart[0].path"},
        {"{" BASE ",'hooks':{'poststop':[{'path':'/x','timeout':0}]}}", "hooks.poststop[0].timeout"},
        {"{" BASE ",'vm':{}}", "vm: not implemented"},
        {"{" BASE ",'annotations':{'a':1}}", "annotations.a"},
        {"{" BASE ",'linux':{'namespaces':[{'type':'pid'},{'type':'pid'}]}}",
         "linux.namespaces[1].type: pid is given twice"},
        {"{" BASE ",'linux':{'namespaces':[{'type':'magic'}]}}", "linux.namespaces[0].type"},
        {"{" BASE ",'linux':{'namespaces':[{'type':'pid','path':'x'}]}}", "linux.namespaces[0].path"},
        {"{" BASE ",'linux':{'namespaces':[{'type':'user'}]}}", "linux.uidMappings"},
        {"{" BASE ",'linux':{'uidMappings':[{'containerID':0,'hostID':4294967295,'size':2}]}}",
         "linux.uidMappings[0].size"},
        {"{" BASE ",'linux':{'devices':[{'type':'x','path':'/d'}]}}", "linux.devices[0].type"},
        {"{" BASE ",'linux':{'devices':[{'type':'c','path':'/d'}]}}", "linux.devices[0]: major and minor"},
        {"{" BASE ",'linux':{'sysctl':{'kernel.panic':'1'}}}", "kernel.panic: would change the host"},
        {"{" BASE ",'linux':{'sysctl':{'net.x':'1'}}}", "needs a namespace of type network"},
        {"{" BASE ",'linux':{'maskedPaths':['x']}}", "linux.maskedPaths"},
        {"{" BASE ",'linux':{'rootfsPropagation':'wide'}}", "linux.rootfsPropagation"},
        {"{" BASE ",'linux':{'resources':{'devices':[{'type':'c'}]}}}", "resources.devices[0].allow: is missing"},
        {"{" BASE ",'linux':{'resources':{'devices':[{'allow':true,'access':'x'}]}}}", "resources.devices[0].access"},
        {"{" BASE ",'linux':{'resources':{'cpu':{'cpus':'a'}}}}", "resources.cpu.cpus"},
        {"{" BASE ",'linux':{'resources':{'hugepageLimits':[{'pageSize':'2M','limit':1}]}}}",
         "hugepageLimits[0].pageSize"},
        {"{" BASE ",'linux':{'resources':{'unified':{'../x.y':'1'}}}}", "resources.unified"},
        {"{" BASE ",'linux':{'resources':{'pids':{}}}}", "resources.pids.limit: is missing"},
        {"{" BASE ",'linux':{'seccomp':{}}}", "linux.seccomp.defaultAction: is missing"},
        {"{" BASE ",'linux':{'seccomp':{'defaultAction':'SCMP_ACT_NOTIFY'}}}", "linux.seccomp.defaultAction"},
        {"{" BASE ",'linux':{'seccomp':{'defaultAction':'SCMP_ACT_ALLOW','flags':['X']}}}", "linux.seccomp.flags"},
        {"{" BASE ",'linux':{'seccomp':{'defaultAction':'SCMP_ACT_ALLOW','syscalls':[{'names':['x'],'action':'SCMP_ACT_"
         "NOTIFY'}]}}}",
         "linux.seccomp.listenerPath"},
        {"{" BASE ",'linux':{'timeOffsets':{'boottime':{'secs':1}}}}", "linux.timeOffsets"},
        {"{" BASE ",'linux':{'netDevices':{'eth0':{}}}}", "linux.netDevices"},
        {"{" BASE ",'linux':{'personality':{'domain':'BSD'}}}", "linux.personality.domain"},
        {"{" BASE ",'linux':{'memoryPolicy':{'mode':'X'}}}", "linux.memoryPolicy.mode"},
        {"{" BASE ",'linux':{'intelRdt':{'closID':'../x'}}}", "linux.intelRdt.closID"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct spec s;
        struct error e;
        int r = parse(&s, rows[i][0], &e);
        spec_free(&s);
        if (r >= 0 || !strstr(e.msg, rows[i][1]))
            fail_msg("%s: %d, said \"%s\", not \"%s\"", rows[i][0], r, e.msg, rows[i][1]);
    }
}

static void test_null_is_absent(void **state)
{
    struct spec s;
    struct error e;
    assert_int_equal(
        parse(&s, "{" BASE ",'hostname':null,'mounts':null,'linux':{'resources':null,'maskedPaths':null}}", &e), 0);
    assert_int_equal(s.n_mounts, 0);
    spec_free(&s);
}

/* 2^64 - 1 and what else is above 2^63 - 1; not inside of strings; fractions stay what they are. */
static void test_wide_numbers(void **state)
{
    static const char text[] = "{'a':18446744073709551615,'b':'18446744073709551615 \\\"','c':9223372036854775807,"
                               "'d':9223372036854775808,'e':1.8446744073709551615,'f':18446744073709551616}";
    char copy[sizeof(text)];
    for (size_t i = 0; i < sizeof(text); i++)
        copy[i] = text[i] == '\'' ? '"' : text[i];
    struct error e = {0};
    struct arena arena = {0};
    json_t *j = reader_parse(copy, sizeof(copy) - 1, "t", &e);
    assert_non_null(j);
    struct reader r = {"t", &arena, &e};
    struct node top = {.json = j};
    assert_true(read_u64(&r, &top, "a", UINT64_MAX).v == UINT64_MAX);
    assert_string_equal(read_string(&r, &top, "b"), "18446744073709551615 \"");
    assert_true(read_u64(&r, &top, "c", UINT64_MAX).v == INT64_MAX);
    assert_true(read_u64(&r, &top, "d", UINT64_MAX).v == 1ull << 63);
    assert_int_equal(e.code, 0);
    assert_false(read_u64(&r, &top, "a", UINT32_MAX).set);
    assert_int_equal(e.code, EINVAL);
    memset(&e, 0, sizeof(e));
    assert_false(read_u64(&r, &top, "f", UINT64_MAX).set);
    memset(&e, 0, sizeof(e));
    assert_false(read_u64(&r, &top, "e", UINT64_MAX).set);
    json_decref(j);
    arena_free(&arena);
}

static struct mount_options sort(struct arena *a, const char *const *words, size_t n)
{
    struct spec_mount m = {.destination = "/x", .type = "tmpfs", .options = {(char **)words, n}};
    struct mount_options o;
    struct error e = {0};
    assert_int_equal(mount_options_sort(&o, &m, a, &e), 0);
    return o;
}

static void test_mount_options(void **state)
{
    struct arena a = {0};
    static const char *const words[] = {"ro",      "nosuid", "rw",     "noatime",  "rro",
                                        "size=5k", "sync",   "rslave", "relatime", "odd"};
    struct mount_options o = sort(&a, words, ARRAY_LEN(words));
    assert_true(o.set == MOUNT_ATTR_NOSUID && o.clear == (MOUNT_ATTR_RDONLY | MOUNT_ATTR__ATIME));
    assert_true(o.recursive_set == MOUNT_ATTR_RDONLY);
    assert_true(o.propagation == MS_SLAVE && o.propagation_recursive && !o.bind);
    assert_int_equal(o.data.n, 2);
    assert_string_equal(o.data.v[0], "size=5k");
    assert_string_equal(o.data.v[1], "odd");
    assert_string_equal(o.superblock.v[0], "sync");
    static const char *const more[] = {"rbind", "ridmap", "strictatime"};
    o = sort(&a, more, ARRAY_LEN(more));
    assert_true(o.bind && o.recursive && o.idmap && o.idmap_recursive && o.set == MOUNT_ATTR_STRICTATIME);
    /* every option that `features` lists is understood, none goes to the file system */
    for (size_t i = 0; mount_option_name(i); i++) {
        const char *one[] = {mount_option_name(i)};
        o = sort(&a, one, 1);
        if (o.data.n)
            fail_msg("%s is listed and not understood", one[0]);
    }
    arena_free(&a);
}

static void test_filter(void **state)
{
    struct spec s;
    struct filter f;
    struct error e;
    assert_int_equal(
        parse(&s,
              "{" BASE
              ",'linux':{'seccomp':{'defaultAction':'SCMP_ACT_ERRNO','architectures':['SCMP_ARCH_X86','SCMP_ARCH_X32'],"
              "'flags':['SECCOMP_FILTER_FLAG_LOG','SECCOMP_FILTER_FLAG_TSYNC'],"
              "'syscalls':[{'names':['read','no_such_call'],'action':'SCMP_ACT_ALLOW'},"
              "{'names':['clone'],'action':'SCMP_ACT_ALLOW','args':[{'index':0,'value':2114060288,'op':'SCMP_CMP_"
              "MASKED_EQ'}]},"
              "{'names':['socket'],'action':'SCMP_ACT_ERRNO','errnoRet':22,'args':[{'index':0,'value':16,'op':'SCMP_"
              "CMP_EQ'},"
              "{'index':0,'value':17,'op':'SCMP_CMP_EQ'}]}]}}}",
              &e),
        0);
    assert_int_equal(filter_compile(&f, &s.seccomp, NULL, &e), 0);
    assert_true(f.length > 10 && f.flags == 2); /* LOG; TSYNC means nothing with one thread */
    filter_free(&f);
    spec_free(&s);
    assert_int_equal(parse(&s, "{" BASE "}", &e), 0);
    assert_int_equal(filter_compile(&f, &s.seccomp, NULL, &e), 0);
    assert_null(f.code);
    spec_free(&s);
}

/* The only file of a directory by its name into `out`. */
static int only_file(const char *dir, char *out, size_t size)
{
    int n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *f; (f = readdir(d));)
        if (f->d_name[0] != '.' && ++n)
            snprintf(out, size, "%s/%.64s", dir, f->d_name);
    closedir(d);
    return n;
}

/* A program that is kept is used for what it was made of, whole, and from a directory that is nobody else's. */
static void test_kept_filter(void **state)
{
    struct spec s;
    struct filter f, g;
    struct error e = {0};
    char dir[] = "/tmp/trapeze-filter-XXXXXX", file[128];
    assert_non_null(mkdtemp(dir));
    assert_int_equal(parse(&s,
                           "{" BASE ",'linux':{'seccomp':{'defaultAction':'SCMP_ACT_ALLOW',"
                           "'syscalls':[{'names':['mount'],'action':'SCMP_ACT_ERRNO'}]}}}",
                           &e),
                     0);
    assert_int_equal(filter_compile(&f, &s.seccomp, dir, &e), 0);
    assert_int_equal(only_file(dir, file, sizeof(file)), 1);
    int fd = open(file, O_RDWR | O_CLOEXEC);
    off_t size = lseek(fd, 0, SEEK_END);
    /* What is in the file is what is used: its last instruction is changed. */
    const struct sock_filter mark = {.code = BPF_RET | BPF_K, .k = SECCOMP_RET_KILL_PROCESS};
    assert_int_equal(pwrite(fd, &mark, sizeof(mark), size - (off_t)sizeof(mark)), sizeof(mark));
    assert_int_equal(filter_compile(&g, &s.seccomp, dir, &e), 0);
    assert_int_equal(g.length, f.length);
    assert_memory_equal(&g.code[g.length - 1], &mark, sizeof(mark));
    filter_free(&g);
    /* Not from where others may write. */
    assert_return_code(chmod(dir, 0770), errno);
    assert_int_equal(filter_compile(&g, &s.seccomp, dir, &e), 0);
    assert_memory_equal(g.code, f.code, f.length * sizeof(*f.code));
    filter_free(&g);
    assert_return_code(chmod(dir, 0700), errno);
    /* Made of something else: compiled anew, and kept in its place. */
    assert_int_equal(pwrite(fd, "2", 1, 0), 1);
    assert_int_equal(filter_compile(&g, &s.seccomp, dir, &e), 0);
    assert_memory_equal(g.code, f.code, f.length * sizeof(*f.code));
    filter_free(&g);
    /* Cut off. */
    close(fd);
    assert_return_code(truncate(file, size - 3), errno);
    assert_int_equal(filter_compile(&g, &s.seccomp, dir, &e), 0);
    assert_memory_equal(g.code, f.code, f.length * sizeof(*f.code));
    filter_free(&g);
    filter_free(&f);
    spec_free(&s);
    assert_int_equal(only_file(dir, file, sizeof(file)), 1);
    unlink(file);
    rmdir(dir);
}

/* Whatever bytes come, the parser ends, and leaks nothing (the sanitizers' build sees that). */
static void test_mutations(void **state)
{
    static const char seed_text[] =
        "{'ociVersion':'1.2.0','process':{'args':['sh'],'cwd':'/','rlimits':[{'type':'RLIMIT_NOFILE','soft':1,"
        "'hard':18446744073709551615}]},'root':{'path':'r'},'linux':{'namespaces':[{'type':'mount'}],"
        "'seccomp':{'defaultAction':'SCMP_ACT_ALLOW'}},'mounts':[{'destination':'/p','options':['ro']}]}";
    u64 random = 88172645463325252ull; /* fixed: the same every time */
    for (int round = 0; round < 20000; round++) {
        char text[sizeof(seed_text)];
        for (size_t i = 0; i < sizeof(text); i++)
            text[i] = seed_text[i] == '\'' ? '"' : seed_text[i];
        for (int k = 0; k < 3; k++) {
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            text[random % (sizeof(text) - 1)] = "{}[]\",:0919-\\ax"[(random >> 32) % 15];
        }
        struct spec s;
        struct error e = {0};
        spec_parse(&s, text, sizeof(text) - 1 - (random >> 50) % 8, &e);
        spec_free(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_smallest),       cmocka_unit_test(test_refused),
        cmocka_unit_test(test_null_is_absent), cmocka_unit_test(test_wide_numbers),
        cmocka_unit_test(test_mount_options),  cmocka_unit_test(test_filter),
        cmocka_unit_test(test_kept_filter),    cmocka_unit_test(test_mutations),
    };
    return cmocka_run_group_tests_name("container-spec", tests, NULL, NULL);
}
