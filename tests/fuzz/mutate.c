/*
 * A driver for slow targets that needs no instrumentation: many more inputs a second than libFuzzer, but blind. Each input is
 * one of the corpus, changed: bytes set, bits flipped, pieces of other inputs put over or into it.
 *
 *   fuzz-mutate-TARGET CORPUS COUNT [SEED]
 *
 * The input at work is in the file that is named at the end when the target dies: ./fuzz-mutate-TARGET-PID
 */
#include "fuzz.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#define MAX_INPUTS 4096u
#define MAX_LEN    8192u

struct input {
    u8 *data;
    size_t len;
};

static struct {
    u64 random;
    struct input corpus[MAX_INPUTS];
    unsigned n;
    u8 now[MAX_LEN]; /* the input at work */
    size_t len;
    char culprit[256];
} m;

static u64 draw(u64 below)
{
    m.random ^= m.random << 13;
    m.random ^= m.random >> 7;
    m.random ^= m.random << 17;
    return (m.random >> 11) % below;
}

static void read_input(const char *path)
{
    FILE *f = fopen(path, "rb");
    u8 *data = malloc(MAX_LEN);
    if (!f || !data || m.n == MAX_INPUTS)
        exit(1);
    m.corpus[m.n++] = (struct input){data, fread(data, 1, MAX_LEN, f)};
    fclose(f);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

/* In the order of names, so that a seed means the same everywhere. */
static void read_corpus(const char *directory)
{
    struct dirent **list;
    int n = scandir(directory, &list, NULL, by_name);
    for (int i = 0; i < n; i++) {
        char path[4096];
        snprintf(path, sizeof(path), "%s/%s", directory, list[i]->d_name);
        if (list[i]->d_name[0] != '.')
            read_input(path);
        free(list[i]);
    }
    free(n >= 0 ? list : NULL);
}

/* A piece of another input over, or into, this one. */
static void put_piece(bool insert)
{
    const struct input *from = &m.corpus[draw(m.n)];
    if (!from->len || !m.len)
        return;
    size_t at = draw(m.len), start = draw(from->len), n = 1 + draw(MIN(from->len - start, 64u));
    n = MIN(n, insert ? MAX_LEN - m.len : MAX_LEN - at);
    if (insert) {
        memmove(m.now + at + n, m.now + at, m.len - at);
        m.len += n;
    }
    memcpy(m.now + at, from->data + start, n);
    m.len = MAX(m.len, at + n);
}

static void mutate(void)
{
    const struct input *from = &m.corpus[draw(m.n)];
    memcpy(m.now, from->data, from->len);
    m.len = from->len;
    for (u64 n = 1 + draw(1 + draw(12)); n && m.len; n--) {
        size_t at = draw(2) ? draw(m.len) : draw(MIN(m.len, 64u));
        switch (draw(5)) {
        case 0:
            m.now[at] = (u8)draw(256);
            break;
        case 1:
            m.now[at] ^= (u8)(1u << draw(8));
            break;
        case 2:
            memmove(m.now + at, m.now + at + 1, m.len - at - 1);
            m.len--;
            break;
        default:
            put_piece(draw(2));
        }
    }
}

/* Leave the input behind, then die of the same signal. */
static void on_death(int signal_number)
{
    int fd = open(m.culprit, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd >= 0 && write(fd, m.now, m.len) == (ssize_t)m.len) {
        static const char text[] = "\n# the input is in ";
        ssize_t r = write(1, text, sizeof(text) - 1) + write(1, m.culprit, strlen(m.culprit)) + write(1, "\n", 1);
        (void)r;
    }
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

int main(int argc, char **argv)
{
    static const int deadly[] = {SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGALRM};
    if (argc < 3)
        return 1;
    u64 count = strtoull(argv[2], NULL, 0), seed = argc > 3 ? strtoull(argv[3], NULL, 0) : 1;
    const char *name = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0];
    snprintf(m.culprit, sizeof(m.culprit), "./%s-%d", name, (int)getpid());
    m.random = seed * 0x9e3779b97f4a7c15ull | 1;
    read_corpus(argv[1]);
    if (!m.n)
        return 1;
    for (size_t i = 0; i < ARRAY_LEN(deadly); i++)
        signal(deadly[i], on_death);
    for (u64 i = 0; i < count; i++) {
        mutate();
        alarm(20);
        LLVMFuzzerTestOneInput(m.now, m.len);
    }
    alarm(0);
    printf("ok 1 - %llu inputs from seed %llu\n", (unsigned long long)count, (unsigned long long)seed);
    return 0;
}
