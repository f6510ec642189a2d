#include "container/filter.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* From this many system calls on, the filter is a binary tree: it costs more to compile and less on each call. */
#define FILTER_TREE_FROM 32

/* --- the parser's part --- */

/* The errno of an action that takes one goes into its low half. */
static u32 with_errno(u32 action, struct opt_u64 number, u32 preset)
{
    bool takes = action == SCMP_ACT_ERRNO(0) || action == SCMP_ACT_TRACE(0);
    return takes ? action | (number.set ? (u32)number.v : preset) : action;
}

static void read_args(struct reader *r, const struct node *up, struct spec_seccomp_rule *rule)
{
    struct node list, n;
    u64 op = 0;
    rule->args = read_list(r, up, "args", sizeof(*rule->args), &list, &rule->n_args);
    for (size_t i = 0; i < rule->n_args && read_element(r, &list, i, &n); i++) {
        struct spec_seccomp_arg *a = &rule->args[i];
        a->index = (u32)read_needed_u64(r, &n, "index", 5);
        a->value = read_needed_u64(r, &n, "value", UINT64_MAX);
        a->value_two = read_u64(r, &n, "valueTwo", UINT64_MAX).v;
        if (read_needed(r, &n, "op") && read_word(r, &n, "op", spec_operator_words, &op))
            a->op = (u32)op;
    }
}

static void read_rules(struct reader *r, const struct node *up, struct spec_seccomp *s)
{
    struct node list, n;
    u64 action = 0;
    s->rules = read_list(r, up, "syscalls", sizeof(*s->rules), &list, &s->n_rules);
    for (size_t i = 0; i < s->n_rules && read_element(r, &list, i, &n); i++) {
        struct spec_seccomp_rule *rule = &s->rules[i];
        rule->names = read_strings(r, &n, "names");
        if (!rule->names.n)
            reader_wrong(r, &n, "names", "is missing or empty");
        if (!read_needed(r, &n, "action") || !read_word(r, &n, "action", spec_action_words, &action))
            return;
        rule->action = with_errno((u32)action, read_u64(r, &n, "errnoRet", 4095), EPERM);
        read_args(r, &n, rule);
        if (rule->action != SCMP_ACT_NOTIFY)
            continue;
        for (size_t k = 0; k < rule->names.n; k++)
            if (!strcmp(rule->names.v[k], "write"))
                reader_wrong(r, &n, "action", "SCMP_ACT_NOTIFY can not watch write: the start itself needs it");
    }
}

void spec_read_seccomp(struct reader *r, const struct node *n, struct spec_seccomp *s)
{
    u64 action = 0, arch = 0;
    s->given = true;
    if (read_needed(r, n, "defaultAction") && read_word(r, n, "defaultAction", spec_action_words, &action))
        s->default_action = with_errno((u32)action, read_u64(r, n, "defaultErrnoRet", 4095), EPERM);
    if (s->default_action == SCMP_ACT_NOTIFY)
        reader_wrong(r, n, "defaultAction", "SCMP_ACT_NOTIFY is for single system calls");
    s->flags = read_words(r, n, "flags", spec_seccomp_flag_words);
    struct strings names = read_strings(r, n, "architectures");
    s->architectures = arena_array(r->arena, names.n, sizeof(u32));
    for (size_t i = 0; i < names.n && s->architectures; i++) {
        if (!word_value(spec_architecture_words, names.v[i], &arch))
            reader_wrong(r, n, "architectures", "\"%.60s\" is unknown", names.v[i]);
        s->architectures[s->n_architectures++] = (u32)arch;
    }
    read_rules(r, n, s);
    s->listener_path = read_string(r, n, "listenerPath");
    s->listener_metadata = read_string(r, n, "listenerMetadata");
    bool notifies = false;
    for (size_t i = 0; i < s->n_rules; i++)
        notifies |= s->rules[i].action == SCMP_ACT_NOTIFY;
    if (notifies && !s->listener_path)
        reader_wrong(r, n, "listenerPath", "is missing, and a rule says SCMP_ACT_NOTIFY");
    if (s->listener_metadata && !s->listener_path)
        reader_wrong(r, n, "listenerMetadata", "needs listenerPath");
}

/* --- the compiler's part --- */

/* One name of one rule. What the library does not know by that name does not exist here: left out. */
static int add_name(scmp_filter_ctx ctx, const struct spec_seccomp *s, const struct spec_seccomp_rule *rule,
                    const char *name)
{
    struct scmp_arg_cmp cmp[6];
    u32 used = 0, twice = 0;
    int number = seccomp_syscall_resolve_name(name);
    if (number == __NR_SCMP_ERROR || rule->action == s->default_action)
        return 0;
    for (size_t i = 0; i < rule->n_args; i++) {
        const struct spec_seccomp_arg *a = &rule->args[i];
        twice |= used & (1u << a->index);
        used |= 1u << a->index;
        if (i < ARRAY_LEN(cmp))
            cmp[i] = SCMP_CMP64(a->index, (enum scmp_compare)a->op, a->value, a->value_two);
    }
    int r = 0;
    if (!twice && rule->n_args <= ARRAY_LEN(cmp)) {
        r = seccomp_rule_add_array(ctx, rule->action, number, (unsigned)rule->n_args, cmp);
    } else {
        /* An argument compared twice: the comparisons are alternatives, as the other runtimes hold it. */
        for (size_t i = 0; i < rule->n_args && r == 0; i++) {
            const struct spec_seccomp_arg *a = &rule->args[i];
            struct scmp_arg_cmp one = SCMP_CMP64(a->index, (enum scmp_compare)a->op, a->value, a->value_two);
            r = seccomp_rule_add_array(ctx, rule->action, number, 1, &one);
        }
    }
    return r == -EDOM || r == -EEXIST ? 0 : r;
}

static int fill(scmp_filter_ctx ctx, const struct spec_seccomp *s, struct error *e)
{
    size_t names = 0;
    int r;
    for (size_t i = 0; i < s->n_architectures; i++) {
        r = seccomp_arch_add(ctx, s->architectures[i]);
        if (r < 0 && r != -EEXIST)
            return error_set(e, -r, "seccomp: architecture %zu of the list: %s", i, strerror(-r));
    }
    for (size_t i = 0; i < s->n_rules; i++)
        names += s->rules[i].names.n;
    if (names >= FILTER_TREE_FROM)
        seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    for (size_t i = 0; i < s->n_rules; i++)
        for (size_t k = 0; k < s->rules[i].names.n; k++) {
            r = add_name(ctx, s, &s->rules[i], s->rules[i].names.v[k]);
            if (r < 0)
                return error_set(e, -r, "seccomp: rule %zu, %.60s: %s", i, s->rules[i].names.v[k], strerror(-r));
        }
    return 0;
}

/* The library writes its programs to files: one in memory. */
static int export(scmp_filter_ctx ctx, struct filter *p, struct error *e)
{
    struct stat st;
    CLEANUP_FD int fd = memfd_create("seccomp", MFD_CLOEXEC);
    if (fd < 0)
        return sys_error(e, "seccomp: memfd_create");
    int r = seccomp_export_bpf(ctx, fd);
    if (r < 0)
        return error_set(e, -r, "seccomp: compiling: %s", strerror(-r));
    if (fstat(fd, &st) < 0)
        return sys_error(e, "seccomp: fstat");
    size_t n = (size_t)st.st_size / sizeof(struct sock_filter);
    if (!n || n > BPF_MAXINSNS)
        return error_set(e, E2BIG, "seccomp: the filter is %zu instructions long, the kernel takes %d", n,
                         BPF_MAXINSNS);
    p->code = malloc((size_t)st.st_size);
    if (!p->code || pread(fd, p->code, (size_t)st.st_size, 0) != st.st_size)
        return error_set(e, ENOMEM, "seccomp: reading the program back failed");
    p->length = (u16)n;
    return 0;
}

/* --- programs kept --- */

/*
 * A file holds what the program was made of, word for word, and the program: it is used when all of that is the same again, so
 * the hash in its name need not be a good one. Who may write to the directory may choose filters: only its owner may.
 */
struct kept {
    int dir; /* -1: no cache */
    char name[24];
    char *key;
    size_t key_size;
};

static void put_rules(FILE *f, const struct spec_seccomp *s)
{
    const struct scmp_version *v = seccomp_version();
    fprintf(f, "1 %u.%u.%u %u %x", v->major, v->minor, v->micro, seccomp_api_get(), s->default_action);
    for (size_t i = 0; i < s->n_architectures; i++)
        fprintf(f, " a%x", s->architectures[i]);
    for (size_t i = 0; i < s->n_rules; i++) {
        const struct spec_seccomp_rule *rule = &s->rules[i];
        fprintf(f, "\nr%x", rule->action);
        for (size_t k = 0; k < rule->n_args; k++)
            fprintf(f, " %u,%u,%llx,%llx", rule->args[k].index, rule->args[k].op,
                    (unsigned long long)rule->args[k].value, (unsigned long long)rule->args[k].value_two);
        for (size_t k = 0; k < rule->names.n; k++)
            fprintf(f, " %s", rule->names.v[k]);
    }
    fputc(0, f);
}

static void kept_open(struct kept *k, const struct spec_seccomp *s, const char *cache)
{
    u64 hash = 14695981039346656037ull; /* FNV-1a */
    FILE *f;
    memset(k, 0, sizeof(*k));
    k->dir = -1;
    if (!cache || !(f = open_memstream(&k->key, &k->key_size)))
        return;
    put_rules(f, s);
    if (fclose(f) != 0)
        return;
    for (size_t i = 0; i < k->key_size; i++)
        hash = (hash ^ (u8)k->key[i]) * 1099511628211ull;
    snprintf(k->name, sizeof(k->name), "%016llx", (unsigned long long)hash);
    mkdir(cache, 0700);
    k->dir = open(cache, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

static void kept_close(struct kept *k)
{
    sys_close(&k->dir);
    free(k->key);
}

static bool kept_read(const struct kept *k, struct filter *p)
{
    char *text;
    size_t size;
    struct stat st;
    if (k->dir < 0 || fstat(k->dir, &st) < 0 || st.st_uid != geteuid() || st.st_mode & 022 ||
        sys_read_at(k->dir, k->name, k->key_size + BPF_MAXINSNS * sizeof(*p->code), &text, &size) < 0)
        return false;
    size_t rest = size > k->key_size ? size - k->key_size : 0;
    bool same = rest && rest % sizeof(*p->code) == 0 && !memcmp(text, k->key, k->key_size);
    p->code = same ? malloc(rest) : NULL;
    if (p->code) {
        memcpy(p->code, text + k->key_size, rest);
        p->length = (u16)(rest / sizeof(*p->code));
    }
    free(text);
    return p->code != NULL;
}

/* Failing costs only time, the next time. */
static void kept_write(const struct kept *k, const struct filter *p)
{
    char temporary[48];
    snprintf(temporary, sizeof(temporary), "%s.%d", k->name, (int)getpid());
    CLEANUP_FD int fd =
        k->dir < 0 ? -1 : openat(k->dir, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    if (sys_write_all(fd, k->key, k->key_size) < 0 || sys_write_all(fd, p->code, p->length * sizeof(*p->code)) < 0 ||
        renameat(k->dir, temporary, k->dir, k->name) < 0)
        unlinkat(k->dir, temporary, 0);
}

static int compile(struct filter *p, const struct spec_seccomp *s, struct error *e)
{
    scmp_filter_ctx ctx = seccomp_init(s->default_action);
    if (!ctx)
        return error_set(e, ENOMEM, "seccomp: the library makes no filter");
    int r = fill(ctx, s, e);
    if (r == 0)
        r = export(ctx, p, e);
    seccomp_release(ctx);
    return r;
}

int filter_compile(struct filter *p, const struct spec_seccomp *s, const char *cache, struct error *e)
{
    struct kept kept;
    int r = 0;
    memset(p, 0, sizeof(*p));
    if (!s->given)
        return 0;
    kept_open(&kept, s, cache);
    if (!kept_read(&kept, p)) {
        r = compile(p, s, e);
        if (r == 0)
            kept_write(&kept, p);
    }
    kept_close(&kept);
    p->flags = (u32)s->flags & ~(u32)SECCOMP_FILTER_FLAG_TSYNC; /* one thread: nothing to synchronise */
    if (s->listener_path)
        p->flags |= SECCOMP_FILTER_FLAG_NEW_LISTENER;
    else
        p->flags &= ~(u32)SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    return r;
}

void filter_free(struct filter *p)
{
    free(p->code);
    memset(p, 0, sizeof(*p));
}

int filter_install(const struct filter *p, struct error *e)
{
    struct sock_fprog program = {.len = p->length, .filter = p->code};
    if (!p->code)
        return 0;
    long r = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, p->flags, &program);
    return r < 0 ? sys_error(e, "seccomp: installing the filter") : (int)r;
}
