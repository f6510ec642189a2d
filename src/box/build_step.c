/*
 * Steps that change files.
 *
 * RUN happens in a container like others (keeper.c), with an image made of the stage so far; it ends when this process does, and
 * its files stay until this process has packed them. COPY, ADD and WORKDIR happen in a child of this process with a mount
 * namespace of its own, for which nobody needs to be started; it is killed when this process ends.
 *
 * The key of a step is a digest of: the kind, the chain id of the layers below, what of the configuration it can see, the
 * instruction with its variables replaced (RUN: variables that it gets), and of what is copied. Times are in none of it.
 */
#include "box/build_parts.h"
#include "container/inroot.h"
#include "container/sys.h"
#include "image/layer.h"
#include "image/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define SCRIPT "/dev/trapeze-run" /* where a here-document that is a program is seen: no layer has it */

/* --- keys --- */

void build_key_add(struct digester *d, const char *text)
{
    char size[24];
    size_t n = strlen(text);
    digester_add(d, size, (size_t)snprintf(size, sizeof(size), "%zu:", n));
    digester_add(d, text, n);
}

void build_key_json(struct digester *d, json_t *j)
{
    CLEANUP_FREE char *text = j ? json_dumps(j, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY) : NULL;
    build_key_add(d, text ? text : "-");
}

static void key_begin(struct digester *d, const struct stage *st, const char *kind)
{
    digester_begin(d, NULL);
    build_key_add(d, "trapeze build 1");
    build_key_add(d, kind);
    build_key_add(d, st->chain);
}

void build_now(char out[32])
{
    time_t now = time(NULL);
    struct tm tm;
    strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
}

/* --- what a step leaves --- */

bool build_is_empty(int dir)
{
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    const struct dirent *entry;
    bool empty = d != NULL;
    while (empty && (entry = readdir(d)))
        empty = !strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..");
    if (d)
        closedir(d);
    return empty;
}

int build_pack(const struct image_store *s, int upper, const char *chain, const char *const *without,
               struct build_entry *out, struct error *e)
{
    memset(out, 0, sizeof(*out));
    snprintf(out->chain, sizeof(out->chain), "%s", chain);
    build_now(out->created);
    out->has_layer = !build_is_empty(upper);
    if (!out->has_layer)
        return 0;
    int r = layer_pack(s, upper, true, without, &out->layer, out->diff_id, e);
    if (r == 0)
        layer_chain(out->chain, out->diff_id);
    return r;
}

/* The attributes of a directory of the root in the layers below, the topmost that has it. */
static bool stat_below(const struct build *b, const struct stage *st, const char *name, struct stat *out)
{
    json_t *ids = json_object_get(json_object_get(st->config, "rootfs"), "diff_ids");
    char chain[DIGEST_TEXT] = "", path[64];
    bool found = false;
    for (size_t i = 0; i < json_array_size(ids); i++) {
        struct stat here;
        layer_chain(chain, json_string_value(json_array_get(ids, i)));
        snprintf(path, sizeof(path), "layers/d/%d/%.20s", layer_find(&b->store, chain), name);
        if (fstatat(b->store.dir, path, &here, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        found = S_ISDIR(here.st_mode);
        *out = here;
    }
    return found;
}

/*
 * What the container's mounts needed to be there: empty, made by us, and nobody's files. /etc came up from below with them; when
 * it is empty and as it is there it tells nothing.
 */
static void remove_mount_points(const struct build *b, const struct stage *stage, int upper)
{
    static const char *const files[] = {"etc/hosts", "etc/hostname", "etc/resolv.conf"};
    static const char *const dirs[] = {"dev", "proc", "sys"};
    struct stat st, below = {.st_mode = S_IFDIR | 0755};
    CLEANUP_FD int etc = openat(upper, "etc", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    for (size_t i = 0; i < ARRAY_LEN(files) && etc >= 0; i++)
        if (fstatat(etc, files[i] + 4, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) && !st.st_size)
            unlinkat(etc, files[i] + 4, 0);
    for (size_t i = 0; i < ARRAY_LEN(dirs); i++)
        unlinkat(upper, dirs[i], AT_REMOVEDIR);
    char opaque[4];
    stat_below(b, stage, "etc", &below);
    CLEANUP_FD int dir = etc < 0 ? -1 : openat(etc, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir >= 0 && fstat(dir, &st) == 0 && st.st_mode == below.st_mode && st.st_uid == below.st_uid &&
        st.st_gid == below.st_gid && fgetxattr(dir, layer_opaque_name(), opaque, sizeof(opaque)) < 0)
        unlinkat(upper, "etc", AT_REMOVEDIR);
}

/* --- RUN --- */

struct run {
    json_t *argv, *env;
    const char *network;
    const char *script; /* text of a program, or NULL */
    char mount[PATH_MAX + 40];
};

/* "<<EOF" and nothing else on the line. */
static bool is_only_here(const struct docker_line *l)
{
    return l->n_here == 1 && !strncmp(l->rest, "<<", 2) && !strpbrk(l->rest, " \t");
}

/* The shell gets its here-documents as they stood. */
static char *shell_text(const struct docker_line *l)
{
    char *out = NULL;
    size_t size;
    if (is_only_here(l))
        return strdup(l->here[0].text);
    FILE *f = open_memstream(&out, &size);
    if (!f)
        return NULL;
    fputs(l->rest, f);
    for (size_t i = 0; i < l->n_here; i++)
        fprintf(f, "\n%s%s", l->here[i].text, l->here[i].name);
    return fclose(f) == 0 ? out : (free(out), NULL);
}

static int run_command(struct run *r, const struct stage *st, const struct docker_line *l, struct error *e)
{
    if (l->is_json) {
        r->argv = json_array();
        for (size_t i = 0; i < l->json.n; i++)
            json_array_append_new(r->argv, json_string(l->json.v[i]));
        return l->json.n ? 0 : error_set(e, EINVAL, "RUN []: names no program");
    }
    if (is_only_here(l) && !strncmp(l->here[0].text, "#!", 2)) {
        r->script = l->here[0].text;
        r->argv = json_pack("[s]", SCRIPT);
        return 0;
    }
    CLEANUP_FREE char *text = shell_text(l);
    r->argv = build_shell(st);
    return text && json_array_append_new(r->argv, json_string(text)) == 0 ? 0 : error_set(e, ENOMEM, "out of memory");
}

/* ARG's values, where no ENV goes before them; and proxies that were given, which no key holds. */
static void run_variables(struct run *r, const struct build *b, const struct stage *st, struct digester *key)
{
    static const char *const proxies[] = {"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "FTP_PROXY",
                                          "ftp_proxy",  "NO_PROXY",   "no_proxy",    "ALL_PROXY",   "all_proxy"};
    const char *name;
    json_t *value, *declared = json_array();
    r->env = json_array();
    json_object_foreach(st->args, name, value)
    {
        if (json_is_string(value) && !stage_env(st, name))
            json_array_append_new(declared, json_sprintf("%s=%s", name, json_string_value(value)));
    }
    build_key_json(key, declared);
    json_array_extend(r->env, declared);
    json_decref(declared);
    for (size_t i = 0; i < ARRAY_LEN(proxies); i++) {
        const char *given = json_string_value(json_object_get(b->given, proxies[i]));
        if (!given || stage_env(st, proxies[i]) || json_object_get(st->args, proxies[i]))
            continue;
        json_object_set_new(b->used, proxies[i], json_true());
        json_array_append_new(r->env, json_sprintf("%s=%s", proxies[i], given));
    }
}

static int run_network(struct run *r, const struct build *b, const struct docker_line *l, struct error *e)
{
    const char *network = docker_flag(l, "network");
    r->network = network && strcmp(network, "default") ? network : b->o->network;
    return !network || !strcmp(network, "default") || !strcmp(network, "none") || !strcmp(network, "host")
               ? 0
               : error_set(e, EINVAL, "RUN --network=%.40s: is default, none or host", network);
}

static int write_script(struct run *r, const struct build *b, struct error *e)
{
    CLEANUP_FD int fd = openat(b->context.work, "script", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
    if (fd < 0 || sys_write_all(fd, r->script, strlen(r->script)) < 0 || fchmod(fd, 0755) < 0)
        return sys_error(e, "%.200s/script", b->context.path);
    snprintf(r->mount, sizeof(r->mount), "%s/script:" SCRIPT ":ro", b->context.path);
    return 0;
}

static const char **strings_of(json_t *list)
{
    size_t i;
    json_t *v;
    const char **out = calloc(json_array_size(list) + 1, sizeof(*out));
    json_array_foreach(out ? list : NULL, i, v) out[i] = json_string_value(v);
    return out;
}

static int run_ended(struct build *b, const struct stage *st, struct box_step *step, int status,
                     struct build_entry *out, struct error *e)
{
    struct box box;
    if (b->o->signal)
        return error_set(e, EINTR, "RUN: was interrupted");
    if (status)
        return error_set(e, ECANCELED, "RUN: its command ended with status %d", status);
    int r = box_open(&box, step->started.id, false, e);
    CLEANUP_FD int upper = r == 0 ? openat(box.dir, "upper", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (r == 0 && upper < 0)
        r = sys_error(e, "%s/upper", box.data);
    if (r == 0) {
        remove_mount_points(b, st, upper);
        r = build_pack(&b->store, upper, st->chain, NULL, out, e);
    }
    box_close(&box);
    return r;
}

static int run_now(struct build *b, struct stage *st, struct run *run, struct build_entry *out, struct error *e)
{
    struct image image;
    struct box_step step;
    int status = 0, r = run->script ? write_script(run, b, e) : 0;
    if (r == 0)
        r = stage_image(st, &image, e);
    if (r < 0)
        return r;
    CLEANUP_FREE const char **argv = strings_of(run->argv), **env = strings_of(run->env);
    const char *const volumes[] = {run->mount};
    const struct box_options o = {.image = "build",
                                  .made = &image,
                                  .remove = true,
                                  .entrypoint = "",
                                  .args = {argv, (int)json_array_size(run->argv)},
                                  .env = {env, (int)json_array_size(run->env)},
                                  .volumes = {volumes, run->script != NULL},
                                  .network = run->network};
    r = argv && env ? box_step_run(&step, &o, b->o->output, &status, &b->o->signal, e)
                    : error_set(e, ENOMEM, "out of memory");
    if (r == 0) {
        r = run_ended(b, st, &step, status, out, e);
        box_step_end(&step);
    } else if (b->o->signal == 0) {
        error_prefix(e, "RUN");
    }
    image_free(&image);
    return r;
}

static int step_run(struct build *b, struct stage *st, const struct docker_line *l, struct build_entry *out,
                    bool *cached, struct error *e)
{
    static const char *const seen[] = {"Env", "User", "WorkingDir"};
    struct run run = {0};
    struct digester d;
    char key[DIGEST_TEXT];
    int r = docker_flag(l, "mount") || docker_flag(l, "security")
                ? error_set(e, ENOTSUP, "RUN %.40s: not implemented", l->flags.v[0])
                : docker_check_flags(l, "network", e);
    if (r == 0)
        r = run_network(&run, b, l, e);
    if (r == 0)
        r = run_command(&run, st, l, e);
    key_begin(&d, st, "RUN");
    run_variables(&run, b, st, &d);
    for (size_t i = 0; i < ARRAY_LEN(seen); i++)
        build_key_json(&d, json_object_get(st->run, seen[i]));
    build_key_json(&d, run.argv);
    build_key_add(&d, run.script ? run.script : "");
    digester_end(&d, key);
    *cached = r == 0 && !b->o->no_cache && build_cache_find(&b->store, key, out) == 0;
    if (r == 0 && !*cached) {
        r = run_now(b, st, &run, out, e);
        if (r == 0)
            r = build_cache_put(&b->store, key, out, e);
    }
    json_decref(run.argv);
    json_decref(run.env);
    return r;
}

/* --- files --- */

/* What a child does to the root of a stage. */
struct files {
    struct build *b;
    struct stage *st;
    int (*work)(struct files *f, int root, struct error *e);
    const char *path;            /* WORKDIR */
    const struct docker_line *l; /* COPY, ADD .. */
    struct docker_words words;   /* its sources and, last, its target */
    char target[PATH_MAX];
    struct build_copy copy;
    const char *owner;        /* --chown, or NULL */
    const struct image *from; /* --from: what this is made of; NULL: the context */
};

/* What it says; shared with the child. */
struct verdict {
    int status;
    char digest[DIGEST_TEXT];
    struct error e;
};

static int mount_from(const struct files *f, const struct box *box, struct error *e)
{
    u32 layers[IMAGE_LAYERS_MAX];
    int r = layer_unpack_all(&f->b->store, f->from, layers, NULL, e);
    if (r == 0)
        r = box_root_view(box, "from", f->b->store.path, layers, f->from->manifest.n_layers, NULL, e);
    if (r < 0)
        return r;
    int fd = openat(box->dir, "from", O_PATH | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? sys_error(e, "%s/from", box->data) : fd;
}

static int child_work(struct files *f, const struct image *image, struct error *e)
{
    struct box box = {.dir = openat(f->b->context.work, "step", O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    u32 layers[IMAGE_LAYERS_MAX];
    bool overlay;
    snprintf(box.data, sizeof(box.data), "%.*s/step", PATH_MAX - 8, f->b->context.path);
    int r =
        box.dir < 0 ? sys_error(e, "%s", box.data) : box_root_prepare(&box, &f->b->store, image, layers, &overlay, e);
    if (r == 0)
        r = box_root_mount(&box, image, f->b->store.path, layers, image->manifest.n_layers, overlay, true, e);
    if (r == 0)
        r = box_root_is_overlay(&box, e);
    if (r == 0 && f->from) {
        f->copy.from.root = mount_from(f, &box, e);
        r = MIN(f->copy.from.root, 0);
    }
    int root = r == 0 ? openat(box.dir, "root", O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
    if (r == 0 && root < 0)
        r = sys_error(e, "%s/root", box.data);
    return r == 0 ? f->work(f, root, e) : r;
}

static _Noreturn void child(struct files *f, const struct image *image, struct verdict *v, pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    digester_begin(&f->copy.digest, NULL);
    int r = child_work(f, image, &v->e);
    digester_end(&f->copy.digest, v->digest);
    v->status = r;
    _exit(0);
}

/* `digest`: of what was copied. */
static int in_child(struct files *f, char digest[DIGEST_TEXT], struct error *e)
{
    struct image image;
    int raw, r = stage_image(f->st, &image, e);
    if (r < 0)
        return r;
    struct verdict *v = mmap(NULL, sizeof(*v), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (v == MAP_FAILED) {
        image_free(&image);
        return sys_error(e, "mmap");
    }
    v->status = -ECHILD;
    pid_t parent = getpid(), pid = fork();
    if (pid == 0)
        child(f, &image, v, parent);
    if (pid < 0)
        r = sys_error(e, "fork");
    while (pid > 0 && waitpid(pid, &raw, 0) < 0 && errno == EINTR)
        ;
    if (pid > 0 && v->status < 0)
        r = error_set(e, v->e.code ? v->e.code : ECHILD, "%s", v->e.code ? v->e.msg : "its process was killed");
    memcpy(digest, v->digest, DIGEST_TEXT);
    munmap(v, sizeof(*v));
    image_free(&image);
    return r;
}

/* Do `f` on an overlay of its own, and pack what it leaves. */
static int change_files(struct files *f, char digest[DIGEST_TEXT], struct build_entry *out, struct error *e)
{
    CLEANUP_FD int dir = tree_make_at(f->b->context.work, "step", 0700, e);
    int r = dir < 0 ? dir : in_child(f, digest, e);
    CLEANUP_FD int upper = r == 0 ? openat(dir, "upper", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (r == 0)
        r = upper < 0 ? sys_error(e, "%.200s/step/upper", f->b->context.path)
                      : build_pack(&f->b->store, upper, f->st->chain, NULL, out, e);
    int gone = tree_remove(f->b->context.work, "step", r == 0 ? e : NULL);
    return r < 0 ? r : gone;
}

/* --- WORKDIR --- */

static int make_directory(struct files *f, int root, struct error *e)
{
    struct stat st;
    CLEANUP_FD int fd = inroot_make(root, f->path, true, e);
    if (fd < 0)
        return fd;
    return fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)
               ? 0
               : error_set(e, ENOTDIR, "WORKDIR %.200s: is no directory", f->path);
}

static int step_workdir(struct build *b, struct stage *st, const struct docker_line *l, struct build_entry *out,
                        bool *cached, struct error *e)
{
    struct docker_scope scope = stage_scope(st, b->file.escape);
    CLEANUP_FREE char *text = NULL;
    char path[PATH_MAX], key[DIGEST_TEXT], digest[DIGEST_TEXT];
    struct digester d;
    int r = docker_expand(&scope, l->rest, &text, e);
    if (r == 0 && !*text)
        r = error_set(e, EINVAL, "WORKDIR: an empty path");
    if (r == 0)
        r = build_path(st, text, path, e);
    if (r < 0)
        return r;
    size_t n = strlen(path);
    if (n > 1 && path[n - 1] == '/')
        path[n - 1] = 0;
    json_object_set_new(st->run, "WorkingDir", json_string(path));
    key_begin(&d, st, "WORKDIR");
    build_key_add(&d, path);
    digester_end(&d, key);
    *cached = !b->o->no_cache && build_cache_find(&b->store, key, out) == 0;
    if (*cached)
        return 0;
    struct files f = {.b = b, .st = st, .work = make_directory, .path = path};
    r = change_files(&f, digest, out, e);
    return r == 0 ? build_cache_put(&b->store, key, out, e) : r;
}

/* --- COPY, ADD --- */

/* A number is user and group; a name has the group of its line in passwd. */
static int find_owner(struct files *f, int root, struct error *e)
{
    struct box_user user;
    char *end;
    unsigned long number = strtoul(f->owner, &end, 10);
    bool numeric = *f->owner && !*end && strspn(f->owner, "0123456789") == strlen(f->owner) && number < UINT32_MAX;
    int r = numeric ? 0 : box_user_find(root, f->owner, &user, e);
    f->copy.uid = numeric ? (u32)number : user.uid;
    f->copy.gid = numeric ? (u32)number : user.gid;
    f->copy.chown = true;
    return r;
}

/* Here-documents first, then files; the digest is made of both in this order. */
static int copy_all(struct files *f, int root, struct error *e)
{
    struct docker_scope scope = stage_scope(f->st, f->b->file.escape);
    size_t n = f->words.n - 1;
    int r = 0;
    f->copy.to = root;
    if (root >= 0 && f->owner)
        r = find_owner(f, root, e);
    for (size_t i = 0; r == 0 && i < f->l->n_here; i++) {
        const struct docker_here *h = &f->l->here[i];
        char *text = NULL;
        if (!h->literal)
            r = docker_expand(&(struct docker_scope){scope.get, scope.arg, scope.escape}, h->text, &text, e);
        if (r == 0)
            r = build_copy_text(&f->copy, h->name, text ? text : h->text, f->target, f->l->n_here + n > 1, e);
        free(text);
    }
    return r == 0 && n ? build_copy(&f->copy, f->words.v, n, f->target, e) : r;
}

static bool is_url(const char *word)
{
    return !strncmp(word, "http://", 7) || !strncmp(word, "https://", 8) || !strncmp(word, "git@", 4);
}

/* Sources and target, without here-documents; variables are replaced. */
static int copy_words(struct files *f, struct error *e)
{
    struct docker_scope scope = stage_scope(f->st, f->b->file.escape);
    struct docker_words raw = {0};
    const struct docker_words *from = f->l->is_json ? &f->l->json : &raw;
    int r = f->l->is_json ? 0 : docker_split(f->l->rest, scope.escape, &raw, e);
    for (size_t i = 0; r == 0 && i < from->n; i++) {
        char *done = NULL;
        if (!f->l->is_json && f->l->n_here && !strncmp(from->v[i] + strspn(from->v[i], "0123456789"), "<<", 2))
            continue;
        r = docker_expand(&scope, from->v[i], &done, e);
        if (r == 0)
            r = docker_words_add(&f->words, done, strlen(done), e);
        free(done);
    }
    docker_words_free(&raw);
    if (r == 0 && f->words.n + f->l->n_here < 2)
        r = error_set(e, EINVAL, "%s: needs a source and a target", docker_keyword(f->l->kind));
    if (r == 0 && !f->words.n)
        r = error_set(e, EINVAL, "%s: needs a target", docker_keyword(f->l->kind));
    for (size_t i = 0; r == 0 && i + 1 < f->words.n; i++)
        if (f->l->kind == DOCKER_ADD && is_url(f->words.v[i]))
            r = error_set(e, ENOTSUP, "ADD %.100s: addresses are not implemented; fetch it with RUN", f->words.v[i]);
    return r == 0 ? build_path(f->st, f->words.v[f->words.n - 1], f->target, e) : r;
}

static int copy_mode(struct files *f, struct error *e)
{
    const char *text = docker_flag(f->l, "chmod");
    char *end;
    f->copy.mode = -1;
    if (!text)
        return 0;
    long mode = strtol(text, &end, 8);
    if (!*text || *end || mode < 0 || mode > 07777)
        return error_set(e, EINVAL, "%s --chmod=%.30s: is no octal number like 755", docker_keyword(f->l->kind), text);
    f->copy.mode = (s32)mode;
    return 0;
}

/* The store may lie in the context: what is copied must not be copied again. */
static int from_context(struct files *f, struct error *e)
{
    struct stat st;
    if (fstat(f->b->context.work, &st) < 0)
        return sys_error(e, "%.200s", f->b->context.path);
    f->copy.from = (struct build_source){
        .root = f->b->context.dir, .ignore = &f->b->context.ignore, .without_dev = st.st_dev, .without_ino = st.st_ino};
    return 0;
}

/* --from: a stage before this one, or an image. */
static int copy_from(struct files *f, struct image *image, struct error *e)
{
    const char *name = docker_flag(f->l, "from");
    struct error why = {0};
    if (!name)
        return from_context(f, e);
    struct stage *from = build_find_stage(f->b, name, (size_t)(f->st - f->b->stages));
    int r = from && !from->done ? build_stage(f->b, (size_t)(from - f->b->stages), e) : 0;
    if (r == 0)
        r = from ? stage_image(from, image, &why) : image_find(&f->b->store, name, image, &why);
    if (r < 0)
        return error_set(e, why.code ? why.code : -r, "--from=%.100s: %s", name, why.msg);
    f->from = image;
    f->copy.from.owners = true;
    return 0;
}

static void image_chain(const struct image *image, char chain[DIGEST_TEXT])
{
    chain[0] = 0;
    for (size_t i = 0; i < image->config.n_layers; i++)
        layer_chain(chain, image->config.diff_ids[i]);
}

/* `digest`: of what is copied from the context, and of here-documents. */
static void copy_key(const struct files *f, const char *digest, char key[DIGEST_TEXT])
{
    struct digester d;
    char mode[16], chain[DIGEST_TEXT] = "context";
    key_begin(&d, f->st, docker_keyword(f->l->kind));
    if (f->from)
        image_chain(f->from, chain);
    build_key_add(&d, chain);
    for (size_t i = 0; f->from && i + 1 < f->words.n; i++)
        build_key_add(&d, f->words.v[i]);
    build_key_add(&d, f->target);
    build_key_add(&d, f->owner ? f->owner : "-");
    snprintf(mode, sizeof(mode), "%o", (u32)f->copy.mode);
    build_key_add(&d, mode);
    build_key_add(&d, f->from ? "" : digest);
    digester_end(&d, key);
}

/* The digest without copying: only of the context. */
static int digest_context(const struct files *f, char digest[DIGEST_TEXT], struct error *e)
{
    struct files dry = *f;
    if (f->from)
        return 0;
    digester_begin(&dry.copy.digest, NULL);
    int r = copy_all(&dry, -1, e);
    digester_end(&dry.copy.digest, digest);
    return r;
}

static int copy_prepared(struct files *f, struct build_entry *out, bool *cached, struct error *e)
{
    char digest[DIGEST_TEXT] = "", key[DIGEST_TEXT];
    int r = digest_context(f, digest, e);
    if (r < 0)
        return r;
    copy_key(f, digest, key);
    *cached = !f->b->o->no_cache && build_cache_find(&f->b->store, key, out) == 0;
    if (*cached)
        return 0;
    r = change_files(f, digest, out, e);
    if (r < 0)
        return r;
    copy_key(f, digest, key); /* what was copied now may be other than what was there before */
    return build_cache_put(&f->b->store, key, out, e);
}

static int step_copy(struct build *b, struct stage *st, const struct docker_line *l, struct build_entry *out,
                     bool *cached, struct error *e)
{
    struct docker_scope scope = stage_scope(st, b->file.escape);
    CLEANUP_FREE char *owner = NULL;
    struct image image = {0};
    struct files f = {.b = b, .st = st, .work = copy_all, .l = l};
    f.copy = (struct build_copy){.to = -1,
                                 .extract = l->kind == DOCKER_ADD,
                                 .bytes_max = b->store.layer_bytes_max,
                                 .entries_max = b->store.layer_entries_max};
    int r = docker_check_flags(l, l->kind == DOCKER_ADD ? "chown|chmod|link" : "from|chown|chmod|link", e);
    if (r == 0 && docker_flag(l, "chown"))
        r = docker_expand(&scope, docker_flag(l, "chown"), &owner, e);
    f.owner = owner;
    if (r == 0)
        r = copy_mode(&f, e);
    if (r == 0)
        r = copy_words(&f, e);
    if (r == 0)
        r = copy_from(&f, &image, e);
    if (r == 0) {
        r = copy_prepared(&f, out, cached, e);
        if (r < 0)
            error_prefix(e, "%s", docker_keyword(l->kind));
    }
    if (f.from)
        image_free(&image);
    docker_words_free(&f.words);
    return r;
}

/* --- --- */

int build_step(struct build *b, struct stage *st, const struct docker_line *l, struct build_entry *out, bool *cached,
               struct error *e)
{
    *cached = false;
    int r = l->kind == DOCKER_RUN       ? step_run(b, st, l, out, cached, e)
            : l->kind == DOCKER_WORKDIR ? step_workdir(b, st, l, out, cached, e)
                                        : step_copy(b, st, l, out, cached, e);
    return r;
}
