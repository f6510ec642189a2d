/*
 * A guest that asks the server of a shared directory whatever it likes, in a directory of its own for each input. Input, for each
 * question: operation, choices, then arguments and what follows, each behind its length.
 *
 * Must hold: an answer fits its room and says its own length; nothing outside the directory changes; what the server counts is what
 * is there, and within its limits.
 */
#include "backend/share/share.h"
#include "fuzz.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define KNOWN     8u
#define NODES     32u
#define HANDLES   6u
#define QUESTIONS 64u

struct world {
    char base[64];
    int base_fd, root;
    struct share_server *s;
    struct share_count count;
    u64 node[KNOWN], fh[KNOWN];
    unsigned nodes, handles;
    u8 *ask, *answer;
};

static const char *const names[] = {"a", "b", "d", "out", "secret", "..", "fifo", "user.x"};

static void write_file(int dir, const char *name)
{
    int fd = openat(dir, name, O_WRONLY | O_CREAT, 0644);
    FUZZ_CHECK(fd >= 0 && write(fd, "secret", 6) == 6);
    close(fd);
}

static void make(struct world *w)
{
    struct error e = {0};
    memset(w, 0, sizeof(*w));
    strcpy(w->base, "/tmp/fuzz-share-XXXXXX");
    FUZZ_CHECK(mkdtemp(w->base));
    w->base_fd = open(w->base, O_RDONLY | O_DIRECTORY);
    write_file(w->base_fd, "secret");
    FUZZ_CHECK(mkdirat(w->base_fd, "share", 0755) == 0);
    w->root = openat(w->base_fd, "share", O_PATH | O_DIRECTORY);
    write_file(w->root, "a");
    FUZZ_CHECK(mkdirat(w->root, "d", 0755) == 0 && mkfifoat(w->root, "fifo", 0644) == 0 &&
               symlinkat("../secret", w->root, "out") == 0);
    const struct share_options o = {.root = w->root, .nodes = NODES, .handles = HANDLES, .descriptors = 12};
    FUZZ_CHECK(share_server_create(&w->s, &o, &w->count, &e) == 0);
    w->node[w->nodes++] = 1;
    FUZZ_CHECK((w->ask = malloc(SHARE_ASK_MAX)) && (w->answer = malloc(SHARE_ANSWER_MAX)));
}

/* Remove what is in a directory, itself not. */
static void empty(int dir)
{
    DIR *d = fdopendir(dir);
    struct dirent *e;
    while (d && (e = readdir(d))) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        if (unlinkat(dirfd(d), e->d_name, 0) == 0 || unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR) == 0)
            continue;
        fchmodat(dirfd(d), e->d_name, 0700, 0);
        int sub = openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
        if (sub >= 0)
            empty(sub);
        unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR);
    }
    if (d)
        closedir(d);
}

static void end(struct world *w)
{
    struct stat st;
    share_server_destroy(w->s);
    FUZZ_CHECK(!w->count.nodes && !w->count.handles);
    FUZZ_CHECK(fstatat(w->base_fd, "secret", &st, 0) == 0 && st.st_size == 6 && (st.st_mode & 07777) == 0644 &&
               st.st_nlink == 1);
    close(w->root);
    fchmodat(w->base_fd, "share", 0700, 0);
    empty(w->base_fd);
    FUZZ_CHECK(rmdir(w->base) == 0);
    free(w->ask);
    free(w->answer);
}

static void learn(struct world *w, u32 op)
{
    const u8 *p = w->answer + sizeof(struct fuse_out_header);
    u64 v;
    memcpy(&v, p, sizeof(v));
    if (op == FUSE_OPEN || op == FUSE_OPENDIR)
        w->fh[w->handles++ % KNOWN] = v;
    else
        w->node[w->nodes++ % KNOWN] = v;
    if (op == FUSE_CREATE) {
        memcpy(&v, p + sizeof(struct fuse_entry_out), sizeof(v));
        w->fh[w->handles++ % KNOWN] = v;
    }
}

static void question(struct world *w, struct fuzz_input *in)
{
    u32 op = (u32)fuzz_number(in, 1), choice = (u32)fuzz_number(in, 2);
    u32 arg = (u32)fuzz_number(in, 1), tail, at = sizeof(struct fuse_in_header);
    struct fuse_in_header h = {.opcode = op, .unique = 5, .uid = choice & 0x1000 ? 1000 : 0};
    h.nodeid = w->node[choice % MIN(w->nodes, KNOWN)];
    fuzz_take(in, w->ask + at, arg);
    if (choice & 0x100 && w->handles && arg >= 8)
        memcpy(w->ask + at, &w->fh[choice >> 4 & (KNOWN - 1)], 8);
    if (choice & 0x200 && arg >= 8)
        memcpy(w->ask + at, &w->node[choice >> 4 & (KNOWN - 1)], 8);
    at += arg;
    for (unsigned n = choice >> 10 & 3; n; n--) {
        const char *name = names[choice >> 13 & 7];
        memcpy(w->ask + at, name, strlen(name) + 1);
        at += (u32)strlen(name) + 1;
    }
    tail = (u32)fuzz_number(in, 1);
    fuzz_take(in, w->ask + at, tail);
    at += tail;
    h.len = choice & 0x80 ? at ^ (u32)fuzz_number(in, 1) : at;
    memcpy(w->ask, &h, sizeof(h));
    u32 room = choice & 8 ? (u32)fuzz_number(in, 1) : 8192;
    memset(w->answer + room, 0x77, 64);
    u32 n = share_server_ask(w->s, w->ask, at, w->answer, room);
    for (unsigned i = 0; i < 64; i++)
        FUZZ_CHECK(w->answer[room + i] == 0x77);
    struct fuse_out_header out = {0};
    memcpy(&out, w->answer, MIN(n, (u32)sizeof(out)));
    FUZZ_CHECK(!n || (n >= sizeof(out) && n <= room && out.len == n && out.unique == 5 && out.error <= 0 &&
                      (!out.error || n == sizeof(out))));
    FUZZ_CHECK(w->count.nodes < NODES && w->count.handles <= HANDLES);
    if (n >= sizeof(out) + 16 && !out.error && op != FUSE_READ && op != FUSE_READDIR)
        learn(w, op);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
    struct fuzz_input in = {data, len};
    struct rlimit l;
    struct world w;
    getrlimit(RLIMIT_FSIZE, &l);
    l.rlim_cur = MIN(l.rlim_max, (rlim_t)1 << 20); /* no input fills the disk */
    setrlimit(RLIMIT_FSIZE, &l);
    signal(SIGXFSZ, SIG_IGN);
    make(&w);
    for (unsigned i = 0; i < QUESTIONS && in.len; i++)
        question(&w, &in);
    end(&w);
    return 0;
}
