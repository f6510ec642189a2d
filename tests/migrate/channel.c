/* The channel without TLS, and the messages on it: what goes in comes out, nothing waits for ever, nothing is believed. */
#include "base/bytes.h"
#include "migrate/channel_internal.h"
#include "migrate/message.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define SECOND   1000000000ull
#define PATIENCE 20000 /* ms: for what comes at once */

static const struct channel_security none;
static char dir[] = "/tmp/channel-XXXXXX";

/* The two ends of a connection. */
struct pair {
    struct channel *here, *there;
};

static struct channel_address address(const char *text)
{
    struct channel_address a;
    struct error e = {0};
    if (channel_address_parse(&a, text, &e) < 0)
        fail_msg("%s", e.msg);
    return a;
}

static struct pair pair_at(const char *text)
{
    struct pair p = {0};
    struct channel_listener l;
    struct channel_address a = address(text);
    struct error e = {0};
    if (channel_listen(&a, &l, &e) < 0 || channel_connect(&l.address, &none, PATIENCE, &p.here, &e) < 0 ||
        channel_accept(&l, &none, PATIENCE, &p.there, &e) < 0 || channel_handshake(p.there, PATIENCE, &e) < 0)
        fail_msg("%s", e.msg);
    channel_listener_close(&l);
    return p;
}

/* Two sockets of the kernel's making; how the side of the machine that does not move would see it. */
static struct pair adopted(void)
{
    int fd[2];
    struct pair p = {0};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
    assert_int_equal(channel_adopt(fd[0], "there", &p.here, NULL), 0);
    assert_int_equal(channel_adopt(fd[1], "here", &p.there, NULL), 0);
    return p;
}

static void close_pair(struct pair *p)
{
    channel_close(p->here);
    channel_close(p->there);
}

/* --- addresses --- */

static void test_addresses(void **state)
{
    static const struct {
        const char *text, *name;
        int port; /* -1: refused, -2: a unix socket */
    } rows[] = {
        {"10.0.0.2:7000", "10.0.0.2", 7000},
        {"host-1.example:1", "host-1.example", 1},
        {"[::1]:65535", "::1", 65535},
        {"[fe80::1%eth0]:7", "fe80::1%eth0", 7},
        {"127.0.0.1:0", "127.0.0.1", 0},
        {"unix:/run/x", "/run/x", -2},
        {"unix:x", "x", -2},
        {"unix:", NULL, -1},
        {"unix:/run/", NULL, -1},
        {"", NULL, -1},
        {":7000", NULL, -1},
        {"host", NULL, -1},
        {"host:", NULL, -1},
        {"host:65536", NULL, -1},
        {"host:-1", NULL, -1},
        {"host:+1", NULL, -1},
        {"host:7x", NULL, -1},
        {"host: 7", NULL, -1},
        {"::1:7000", NULL, -1},
        {"[::1:7000", NULL, -1},
        {"::1]:7000", NULL, -1},
        {"[]:7000", NULL, -1},
        {"[host]:7000", NULL, -1},
        {"ho st:7000", NULL, -1},
        {"ho/st:7000", NULL, -1},
    };
    char out[CHANNEL_TEXT_MAX];
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        struct channel_address a;
        struct error e = {0};
        int r = channel_address_parse(&a, rows[i].text, &e);
        if ((r < 0) != (rows[i].port == -1))
            fail_msg("%s: %d", rows[i].text, r);
        if (r < 0) {
            assert_int_equal(r, -EINVAL);
            assert_true(e.msg[0]);
            continue;
        }
        assert_string_equal(a.name, rows[i].name);
        assert_int_equal(a.local, rows[i].port == -2);
        assert_int_equal(a.port, MAX(rows[i].port, 0));
        assert_string_equal(channel_address_text(&a, out, sizeof(out)), rows[i].text);
    }
}

/* The longest that there is, and one more. */
static void test_long_address(void **state)
{
    char text[PATH_MAX + 8], out[CHANNEL_TEXT_MAX];
    struct channel_address a;
    memset(text, 'x', sizeof(text));
    memcpy(text, "unix:", 5);
    text[5 + PATH_MAX - 1] = 0;
    assert_int_equal(channel_address_parse(&a, text, NULL), 0);
    assert_string_equal(channel_address_text(&a, out, sizeof(out)), text);
    text[5 + PATH_MAX - 1] = 'x';
    text[5 + PATH_MAX] = 0;
    assert_int_equal(channel_address_parse(&a, text, NULL), -EINVAL);
}

/* --- rate --- */

/* Send as fast as the bucket lets, for ten seconds of a clock of our own. */
static void run_bucket(u64 rate, u64 want)
{
    struct channel_bucket b = {.rate = rate};
    const u64 start = 77 * SECOND, end = start + 10 * SECOND;
    const u64 burst = MAX(rate * (CHANNEL_BURST_NS / 1000000) / 1000, 4096);
    u64 sent = 0, calls = 0;
    for (u64 now = start; now < end; calls++) {
        u64 wait, n = bucket_allows(&b, now, want, &wait);
        assert_true(n <= want && (n > 0) != (wait > 0));
        bucket_spend(&b, now, n);
        sent += n;
        now += wait;
        /* never ahead by more than the burst */
        assert_true(sent <= (u64)((unsigned __int128)rate * (now - start) / SECOND) + burst + 1);
    }
    assert_true(sent >= rate * 10 - rate / 100);
    assert_true(calls < 20000 + 2 * (sent / want)); /* in pieces of some size */
}

/* What a link moves in a round trip, and a short queue; never so little that nothing moves, never without end. */
static void test_queue(void **state)
{
    assert_int_equal(channel_queue_bytes(125000000, 300), 287500);
    assert_int_equal(channel_queue_bytes(125000000, 40000), 6250000);
    assert_int_equal(channel_queue_bytes(1000, 300), 64 << 10);
    assert_int_equal(channel_queue_bytes(0, 0), 64 << 10);
    assert_int_equal(channel_queue_bytes(UINT64_MAX, UINT32_MAX), 256 << 20);
}

static void test_bucket(void **state)
{
    struct channel_bucket b = {0};
    u64 wait;
    assert_int_equal(bucket_allows(&b, 5, 1 << 20, &wait), 1 << 20); /* no limit */
    static const u64 rates[] = {1000, 125000, 12500000, 125000000, 12500000000ull};
    for (unsigned i = 0; i < ARRAY_LEN(rates); i++) {
        run_bucket(rates[i], 256 << 10);
        if (rates[i] <= 125000)
            run_bucket(rates[i], 16);
    }
    /* time that was not used is not saved up */
    b = (struct channel_bucket){.rate = 1000000};
    bucket_spend(&b, 0, 1000000);
    assert_int_equal(bucket_allows(&b, SECOND / 2, 100, &wait), 0);
    assert_true(wait > SECOND / 3 && wait <= SECOND / 2);
    assert_true(bucket_allows(&b, 100 * SECOND, 1 << 20, &wait) <= 5000);
}

static void test_meter(void **state)
{
    struct channel_meter m = {0};
    u64 now = 9 * SECOND, bytes = 0;
    assert_int_equal(meter_rate(&m, now, 0), 0);
    for (unsigned i = 0; i < 5000; i++) { /* 100 MB/s, in steps of a millisecond */
        if (meter_due(&m, now))
            meter_note(&m, now, bytes);
        now += SECOND / 1000;
        bytes += 100000;
    }
    assert_int_equal(meter_rate(&m, now, bytes), 100000000);
    for (unsigned i = 0; i < 300; i++) { /* then half */
        if (meter_due(&m, now))
            meter_note(&m, now, bytes);
        now += SECOND / 1000;
        bytes += 50000;
    }
    assert_int_equal(meter_rate(&m, now, bytes), 50000000);
    assert_true(meter_rate(&m, now + SECOND, bytes) < 10000000);
    assert_int_equal(meter_rate(&m, now, 0), 0); /* a counter that went back */
}

/* --- bytes --- */

#define BULK (3u << 20)

static u8 *pattern(void)
{
    u8 *p = malloc(BULK);
    u32 x = 1;
    assert_non_null(p);
    for (u32 i = 0; i < BULK; i += 4)
        put_le32(p + i, x = x * 1664525 + 1013904223);
    return p;
}

struct sender {
    struct channel *c;
    const u8 *data;
    int r;
};

/* The pattern, in pieces of very different sizes. */
static void *send_pattern(void *arg)
{
    struct sender *s = arg;
    static const u32 sizes[] = {1, 16, 4096, 70000, 262144, 3, 1000000};
    u32 at = 0;
    for (unsigned i = 0; at < BULK && s->r == 0; i++) {
        u32 n = MIN(sizes[i % ARRAY_LEN(sizes)], BULK - at);
        s->r = channel_send(s->c, s->data + at, n, NULL);
        at += n;
    }
    if (s->r == 0)
        s->r = channel_flush(s->c, NULL);
    return NULL;
}

static void receive_pattern(struct channel *c, const u8 *data)
{
    static const u32 sizes[] = {16, 1, 100000, 4096, 65535, 65536, 777777};
    u8 *got = malloc(BULK);
    u32 at = 0;
    assert_non_null(got);
    for (unsigned i = 0; at < BULK; i++) {
        u32 n = MIN(sizes[i % ARRAY_LEN(sizes)], BULK - at);
        assert_int_equal(channel_receive(c, got + at, n, NULL), 0);
        at += n;
    }
    assert_memory_equal(got, data, BULK);
    free(got);
}

/* Both ways, one after the other. */
static void exchange(struct pair p)
{
    u8 *data = pattern();
    for (unsigned way = 0; way < 2; way++) {
        struct sender s = {.c = way ? p.there : p.here, .data = data};
        pthread_t t;
        assert_int_equal(pthread_create(&t, NULL, send_pattern, &s), 0);
        receive_pattern(way ? p.here : p.there, data);
        pthread_join(t, NULL);
        assert_int_equal(s.r, 0);
    }
    assert_int_equal(p.here->sent, BULK);
    assert_int_equal(p.here->received, BULK);
    assert_false(p.here->encrypted);
    close_pair(&p);
    free(data);
}

static void test_exchange(void **state)
{
    char text[200];
    exchange(pair_at("127.0.0.1:0"));
    exchange(adopted());
    snprintf(text, sizeof(text), "unix:%s/s", dir);
    exchange(pair_at(text));
    int v6 = socket(AF_INET6, SOCK_STREAM, 0);
    struct channel_address a = address("[::1]:0");
    struct channel_listener l;
    if (v6 >= 0 && channel_listen(&a, &l, NULL) == 0) { /* a host may have none */
        channel_listener_close(&l);
        exchange(pair_at("[::1]:0"));
    }
    close(v6);
}

/* Slower, but all of it. The bucket alone says how much slower: see above. */
static void test_limited(void **state)
{
    struct pair p = pair_at("127.0.0.1:0");
    channel_limit(p.here, 50000000);
    exchange(p);
}

/* A path that is far longer than a socket's address. */
static void test_long_path(void **state)
{
    char path[1200], text[1300];
    int n = snprintf(path, sizeof(path), "%s", dir);
    for (unsigned i = 0; i < 5; i++) {
        n += snprintf(path + n, sizeof(path) - (size_t)n, "/%0200u", i);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    snprintf(text, sizeof(text), "unix:%s/s", path);
    exchange(pair_at(text));
    while (strcmp(path, dir)) {
        assert_int_equal(rmdir(path), 0); /* the socket was removed */
        *strrchr(path, '/') = 0;
    }
}

/* Who is alive keeps his socket, whoever was killed does not, and it is for its owner alone. */
static void test_unix_listener(void **state)
{
    char text[200];
    struct stat st;
    struct channel_address a;
    struct channel_listener first, second;
    struct error e = {0};
    snprintf(text, sizeof(text), "unix:%s/s", dir);
    a = address(text);
    assert_int_equal(channel_listen(&a, &first, NULL), 0);
    assert_int_equal(stat(text + 5, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(channel_listen(&a, &second, &e), -EADDRINUSE);
    channel_listener_drop(&first); /* as if killed */
    assert_int_equal(channel_listen(&a, &second, NULL), 0);
    channel_listener_close(&second);
    assert_int_equal(stat(text + 5, &st), -1);
    /* what is no socket is left alone */
    int fd = open(text + 5, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(channel_listen(&a, &second, NULL), -EADDRINUSE);
    assert_int_equal(unlink(text + 5), 0);
}

/* --- an end of waiting --- */

static void fill_up(struct channel *c, int want)
{
    static u8 junk[1 << 20];
    struct error e = {0};
    int r = 0;
    for (unsigned i = 0; i < 256 && r == 0; i++)
        r = channel_send(c, junk, sizeof(junk), &e);
    assert_int_equal(r, want);
    assert_true(e.msg[0]);
    assert_int_equal(channel_flush(c, NULL), want); /* it is over */
    assert_int_equal(channel_receive(c, junk, 1, NULL), want);
}

static void test_silence(void **state)
{
    struct pair p = pair_at("127.0.0.1:0");
    struct error e = {0};
    u8 two[2];
    p.here->silence_ms = 30;
    assert_int_equal(channel_receive(p.here, two, 2, &e), -ETIMEDOUT);
    assert_non_null(strstr(e.msg, "silent"));
    /* nothing was lost: it may go on */
    assert_int_equal(channel_send(p.there, "abc", 3, NULL), 0);
    assert_int_equal(channel_flush(p.there, NULL), 0);
    assert_int_equal(channel_readable(p.here, PATIENCE), 1);
    assert_int_equal(channel_receive(p.here, two, 2, NULL), 0);
    assert_memory_equal(two, "ab", 2);
    /* one byte of two has come: that is over */
    assert_int_equal(channel_receive(p.here, two, 2, NULL), -ETIMEDOUT);
    assert_int_equal(channel_send(p.here, two, 2, NULL), -ETIMEDOUT);
    close_pair(&p);
    p = pair_at("127.0.0.1:0");
    p.here->silence_ms = 30;
    fill_up(p.here, -ETIMEDOUT);
    close_pair(&p);
}

static void test_cancel(void **state)
{
    int cancel = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    u64 one = 1;
    u8 byte;
    struct error e = {0};
    for (unsigned i = 0; i < 2; i++) {
        struct pair p = i ? adopted() : pair_at("127.0.0.1:0");
        p.here->cancel = cancel;
        assert_int_equal(channel_readable(p.here, 0), 0);
        assert_int_equal(write(cancel, &one, 8), 8);
        assert_int_equal(channel_receive(p.here, &byte, 1, &e), -ECANCELED);
        assert_int_equal(channel_readable(p.here, PATIENCE), -ECANCELED);
        assert_int_equal(channel_send(p.here, "x", 1, NULL), 0); /* into the buffer */
        assert_int_equal(channel_flush(p.here, NULL), -ECANCELED);
        assert_int_equal(read(cancel, &one, 8), 8);
        /* what was kept back goes out now, once */
        assert_int_equal(channel_flush(p.here, NULL), 0);
        assert_int_equal(channel_receive(p.there, &byte, 1, NULL), 0);
        assert_int_equal(byte, 'x');
        assert_int_equal(channel_readable(p.there, 0), 0);
        one = 1;
        assert_int_equal(write(cancel, &one, 8), 8);
        fill_up(p.here, -ECANCELED);
        assert_int_equal(read(cancel, &one, 8), 8);
        close_pair(&p);
    }
    close(cancel);
}

/* A blocked sender and a receiver that waits are woken by it, too. */
static void *cancel_later(void *arg)
{
    u64 one = 1;
    usleep(20000);
    return write(*(int *)arg, &one, 8) == 8 ? arg : NULL;
}

static void test_cancel_waiting(void **state)
{
    int cancel = eventfd(0, EFD_CLOEXEC);
    for (unsigned i = 0; i < 2; i++) {
        struct pair p = pair_at("127.0.0.1:0");
        pthread_t t;
        u8 byte;
        u64 n;
        void *done;
        p.here->cancel = cancel;
        assert_int_equal(pthread_create(&t, NULL, cancel_later, &cancel), 0);
        if (i)
            fill_up(p.here, -ECANCELED);
        else
            assert_int_equal(channel_receive(p.here, &byte, 1, NULL), -ECANCELED);
        pthread_join(t, &done);
        assert_non_null(done);
        assert_int_equal(read(cancel, &n, 8), 8);
        close_pair(&p);
    }
    close(cancel);
}

static void test_until(void **state)
{
    struct pair p = pair_at("127.0.0.1:0");
    struct error e = {0};
    u8 byte;
    channel_until(p.here, 20);
    assert_int_equal(channel_receive(p.here, &byte, 1, &e), -ETIMEDOUT);
    assert_non_null(strstr(e.msg, "in the time"));
    /* and when there is something, too: time is over */
    assert_int_equal(channel_send(p.there, "x", 1, NULL), 0);
    assert_int_equal(channel_flush(p.there, NULL), 0);
    assert_int_equal(channel_receive(p.here, &byte, 1, NULL), -ETIMEDOUT);
    channel_until(p.here, 0);
    assert_int_equal(channel_receive(p.here, &byte, 1, NULL), 0);
    /* a rate that can not be kept in that time */
    channel_limit(p.here, 1000);
    channel_until(p.here, 20);
    u8 much[10000] = {0};
    assert_int_equal(channel_send(p.here, much, sizeof(much), NULL), 0);
    assert_int_equal(channel_flush(p.here, NULL), -ETIMEDOUT);
    close_pair(&p);
}

static void reset(struct channel *c)
{
    struct linger now = {.l_onoff = 1};
    assert_int_equal(setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now)), 0);
    channel_close(c);
}

static void test_ends(void **state)
{
    u8 two[2];
    struct error e = {0};
    struct pair p = pair_at("127.0.0.1:0");
    reset(p.there);
    assert_int_equal(channel_receive(p.here, two, 1, &e), -ECONNRESET);
    assert_non_null(strstr(e.msg, "127.0.0.1:"));
    assert_int_equal(channel_readable(p.here, 0), -ECONNRESET);
    channel_close(p.here);
    /* an end in the middle; then sending, without a signal */
    p = pair_at("127.0.0.1:0");
    assert_int_equal(channel_send(p.there, "x", 1, NULL), 0);
    assert_int_equal(channel_flush(p.there, NULL), 0);
    channel_close(p.there);
    e = (struct error){0};
    assert_int_equal(channel_readable(p.here, PATIENCE), 1);
    assert_int_equal(channel_receive(p.here, two, 2, &e), -EPIPE);
    assert_non_null(strstr(e.msg, "ended"));
    channel_close(p.here);
    p = adopted();
    channel_close(p.there);
    fill_up(p.here, -EPIPE);
    channel_close(p.here);
}

/* From now on nothing that is sent to this end arrives, as if its host had gone. */
static void vanish(struct channel *c)
{
    struct sock_filter drop = BPF_STMT(BPF_RET | BPF_K, 0);
    struct sock_fprog all = {.len = 1, .filter = &drop};
    assert_int_equal(setsockopt(c->fd, SOL_SOCKET, SO_ATTACH_FILTER, &all, sizeof(all)), 0);
}

/* A peer whose host is gone is told from one that has nothing to say: with something on its way, and without. */
static void test_dead_link(void **state)
{
    for (unsigned idle = 0; idle < 2; idle++) {
        struct pair p = pair_at("127.0.0.1:0");
        struct error e = {0};
        u8 byte;
        p.here->silence_ms = PATIENCE;
        channel_link_timeout(p.here, idle ? 1000 : 300);
        vanish(p.there);
        if (!idle)
            assert_int_equal(channel_send(p.here, "x", 1, NULL), 0);
        int r = channel_receive(p.here, &byte, 1, &e);
        if (r != -ETIMEDOUT || !strstr(e.msg, "link is dead"))
            fail_msg("%d: %s", r, e.msg);
        assert_int_equal(channel_send(p.here, "x", 1, NULL), -ETIMEDOUT); /* over */
        close_pair(&p);
    }
}

/* A last word arrives, though the other side is sending. */
static void *speak_last(void *arg)
{
    channel_close_after(arg, PATIENCE);
    return NULL;
}

static void test_last_word(void **state)
{
    struct pair p = pair_at("127.0.0.1:0");
    static u8 junk[100000];
    u8 word[2];
    pthread_t t;
    assert_int_equal(channel_send(p.here, junk, sizeof(junk), NULL), 0);
    assert_int_equal(channel_flush(p.here, NULL), 0);
    assert_int_equal(channel_send(p.there, "no", 2, NULL), 0);
    assert_int_equal(pthread_create(&t, NULL, speak_last, p.there), 0);
    assert_int_equal(channel_receive(p.here, word, 2, NULL), 0);
    assert_memory_equal(word, "no", 2);
    assert_int_equal(channel_send(p.here, junk, sizeof(junk), NULL), 0);
    assert_int_equal(channel_flush(p.here, NULL), 0);
    channel_close(p.here);
    pthread_join(t, NULL);
}

/* --- who may --- */

static void test_rule(void **state)
{
    struct channel_security insecure = {.insecure = true}, both = {.tls_dir = dir, .insecure = true},
                            tls = {.tls_dir = dir};
    struct channel_address any = address("0.0.0.0:0"), far = address("192.0.2.1:7"), local = address("unix:x");
    struct channel_listener l;
    struct channel *c = NULL;
    struct error e = {0};
    assert_int_equal(channel_listen(&any, &l, NULL), 0);
    assert_false(l.here);
    assert_int_equal(channel_listener_check(&l, &none, &e), -EPERM);
    assert_non_null(strstr(e.msg, "--tls"));
    assert_non_null(strstr(e.msg, "--insecure"));
    assert_int_equal(channel_accept(&l, &none, 0, &c, NULL), -EPERM);
    assert_int_equal(channel_listener_check(&l, &insecure, NULL), 0);
    assert_int_equal(channel_accept(&l, &insecure, 0, &c, NULL), -EAGAIN);
    assert_int_equal(channel_listener_check(&l, &both, NULL), -EINVAL);
    assert_int_equal(channel_listener_check(&l, &tls, NULL), -ENOENT); /* there are no files */
    channel_listener_close(&l);
    e = (struct error){0};
    assert_int_equal(channel_connect(&far, &none, PATIENCE, &c, &e), -EPERM);
    assert_non_null(strstr(e.msg, "192.0.2.1:7"));
    assert_int_equal(channel_connect(&local, &tls, PATIENCE, &c, NULL), -EINVAL);
    assert_null(c);
}

static void test_nobody(void **state)
{
    struct channel_listener l;
    struct channel_address a = address("127.0.0.1:0"), local;
    struct channel *c = NULL;
    struct error e = {0};
    char text[200];
    assert_int_equal(channel_listen(&a, &l, NULL), 0);
    a = l.address;
    channel_listener_close(&l);
    assert_int_equal(channel_connect(&a, &none, PATIENCE, &c, &e), -ECONNREFUSED);
    assert_non_null(strstr(e.msg, "receive"));
    snprintf(text, sizeof(text), "unix:%s/nothing", dir);
    local = address(text);
    assert_int_equal(channel_connect(&local, &none, PATIENCE, &c, NULL), -ENOENT);
    a.port = 0;
    assert_int_equal(channel_connect(&a, &none, PATIENCE, &c, NULL), -EINVAL);
    assert_null(c);
}

/* A unix socket whose queue is full keeps a client waiting: until its time is over, or it is cancelled. */
static void test_full_queue(void **state)
{
    char text[200];
    struct channel *c[512];
    struct channel_listener l;
    struct error e = {0};
    int r = 0, n = 0, cancel = eventfd(1, EFD_CLOEXEC);
    snprintf(text, sizeof(text), "unix:%s/s", dir);
    struct channel_address a = address(text);
    assert_int_equal(channel_listen(&a, &l, NULL), 0);
    while (n < 512 && (r = channel_connect(&a, &none, 30, &c[n], &e)) == 0)
        n++;
    assert_int_equal(r, -ETIMEDOUT);
    struct channel *other = NULL;
    assert_int_equal(channel_connect_cancel(&a, &none, PATIENCE, cancel, &other, NULL), -ECANCELED);
    while (n)
        channel_close(c[--n]);
    channel_listener_close(&l);
    close(cancel);
}

/* A peer that speaks TLS meets one that does not: see tls.c for the other way round. */
static void test_tls_to_plain(void **state)
{
    static const u8 hello[] = {0x16, 3, 1, 0, 5, 1, 0, 0, 1, 3};
    struct pair p = pair_at("127.0.0.1:0");
    struct error e = {0};
    u8 byte;
    assert_int_equal(channel_send(p.here, hello, sizeof(hello), NULL), 0);
    assert_int_equal(channel_flush(p.here, NULL), 0);
    assert_int_equal(channel_receive(p.there, &byte, 1, &e), -EPROTO);
    assert_non_null(strstr(e.msg, "--tls"));
    close_pair(&p);
}

/* --- messages --- */

static const struct message_kind kinds[] = {
    {.type = "HELO", .json = true}, {.type = "PAGE", .most = 100000}, {.type = "DONE"}};

static void test_messages(void **state)
{
    struct pair p = adopted();
    struct message m = {0};
    static u8 big[100000];
    json_t *j = json_pack("{s:s, s:i}", "name",
                          "w\xc3\xa4"
                          "b",
                          "memory", 512);
    const struct message_part parts[] = {{"ab", 2}, {NULL, 0}, {big, 1000}};
    memset(big, 7, sizeof(big));
    assert_int_equal(message_send_json(p.here, "HELO", j, NULL), 0);
    assert_int_equal(message_send(p.here, "DONE", NULL, 0, NULL), 0);
    assert_int_equal(message_send_parts(p.here, "PAGE", parts, 3, NULL), 0);
    assert_int_equal(message_send(p.here, "PAGE", big, sizeof(big), NULL), 0);
    assert_int_equal(message_send_json(p.here, "HELO", j, NULL), 0);
    assert_int_equal(channel_flush(p.here, NULL), 0);
    assert_int_equal(message_receive(p.there, kinds, 3, &m, NULL), 0);
    assert_int_equal(m.kind, 0);
    assert_true(json_equal(m.json, j));
    assert_int_equal(message_receive(p.there, kinds, 3, &m, NULL), 0);
    assert_int_equal(m.kind, 2);
    assert_null(m.json);
    assert_int_equal(m.len, 0);
    assert_int_equal(message_receive(p.there, kinds, 3, &m, NULL), 0);
    assert_int_equal(m.kind, 1);
    assert_int_equal(m.len, 1002);
    assert_memory_equal(m.data, "ab\7\7", 4);
    assert_int_equal(message_receive(p.there, kinds, 3, &m, NULL), 0);
    assert_int_equal(m.len, sizeof(big));
    assert_memory_equal(m.data, big, sizeof(big));
    assert_int_equal(message_receive(p.there, kinds, 3, &m, NULL), 0);
    assert_true(json_equal(m.json, j));
    message_free(&m);
    json_decref(j);
    close_pair(&p);
}

/* Give these bytes, then the end, to a reader. */
static int read_message(const u8 *data, size_t len, const struct message_kind *k, unsigned n, struct error *e)
{
    struct pair p = adopted();
    struct message m = {0};
    assert_int_equal(channel_send(p.here, data, len, NULL), 0);
    assert_int_equal(channel_flush(p.here, NULL), 0);
    channel_close(p.here);
    int r = message_receive(p.there, k, n, &m, e);
    if (r == 0)
        assert_true((m.json != NULL) == k[m.kind].json);
    channel_close(p.there);
    message_free(&m);
    return r;
}

static struct rec_buf record(const char *type, u16 version, u16 instance, const void *payload, size_t len)
{
    struct rec_buf b = {0};
    assert_int_equal(rec_save_raw(&b, get_le32(type), version, instance, payload, len), 0);
    return b;
}

static void expect_refused(struct rec_buf b, int code, const char *words)
{
    struct error e = {0};
    int r = read_message(b.data, b.len, kinds, 3, &e);
    if (r != -code || (words && !strstr(e.msg, words)))
        fail_msg("%d: %s", r, e.msg);
    rec_buf_free(&b);
}

static void test_refused(void **state)
{
    static const u8 payload[MESSAGE_JSON_MAX + 1];
    expect_refused(record("EVIL", 1, 0, "", 0), EPROTO, "\"EVIL\" where there may be HELO, PAGE, DONE");
    expect_refused(record("\1\2\3\xff", 1, 0, "", 0), EPROTO, "ff030201");
    expect_refused(record("GET ", 1, 0, "", 0), EPROTO, "GET ");
    expect_refused(record("PAGE", 2, 0, "", 0), EPROTONOSUPPORT, "version 2");
    expect_refused(record("PAGE", 0, 0, "", 0), EPROTONOSUPPORT, "version 0");
    expect_refused(record("PAGE", 1, 1, "", 0), EBADMSG, "number 1");
    expect_refused(record("PAGE", 1, 0, payload, 100001), EBADMSG, "100001 bytes; 100000");
    expect_refused(record("DONE", 1, 0, payload, 1), EBADMSG, "1 bytes; 0");
    expect_refused(record("HELO", 1, 0, "", 0), EBADMSG, "no JSON");
    expect_refused(record("HELO", 1, 0, "{} {}", 5), EBADMSG, "no JSON");
    expect_refused(record("HELO", 1, 0, "{}\0", 3), EBADMSG, "no JSON");
    expect_refused(record("HELO", 1, 0, "{\"a\":1,\"a\":2}", 13), EBADMSG, "no JSON");
    expect_refused(record("HELO", 1, 0, "{\"a\":\"\xff\"}", 9), EBADMSG, "no JSON");
    expect_refused(record("HELO", 1, 0, "{\"a\":\"\\u0000\"}", 14), EBADMSG, "no JSON");
    expect_refused(record("HELO", 1, 0, "[]", 2), EBADMSG, "no object");
    /* the length alone decides, before anything is read or allocated */
    struct rec_buf b = record("HELO", 1, 0, "{}", 2);
    put_le32(b.data + 8, 0xffffffff);
    expect_refused(b, EBADMSG, "4294967295 bytes");
    b = record("HELO", 1, 0, payload, MESSAGE_JSON_MAX + 1);
    b.len = REC_HEADER; /* only that is needed for it */
    expect_refused(b, EBADMSG, "are allowed");
}

/* Every change of every bit is seen, and so is every shorter one. */
static void test_every_bit(void **state)
{
    static const char text[] = "{\"name\":\"web\"}";
    struct rec_buf b = record("HELO", 1, 0, text, strlen(text));
    struct error e = {0};
    assert_int_equal(read_message(b.data, b.len, kinds, 3, &e), 0);
    for (size_t i = 0; i < b.len * 8; i++) {
        e = (struct error){0};
        b.data[i / 8] ^= (u8)(1 << i % 8);
        int r = read_message(b.data, b.len, kinds, 3, &e);
        if (r >= 0 || !e.msg[0])
            fail_msg("bit %zu: %d", i, r);
        b.data[i / 8] ^= (u8)(1 << i % 8);
    }
    for (size_t len = 0; len < b.len; len++)
        assert_int_equal(read_message(b.data, len, kinds, 3, NULL), -EPIPE);
    rec_buf_free(&b);
}

static void test_too_long_to_send(void **state)
{
    struct pair p = adopted();
    struct error e = {0};
    char *text = calloc(1, MESSAGE_JSON_MAX + 1);
    memset(text, 'x', MESSAGE_JSON_MAX);
    json_t *j = json_pack("{s:s}", "text", text);
    assert_int_equal(message_send_json(p.here, "HELO", j, &e), -EMSGSIZE);
    const struct message_part parts[] = {{text, 1}, {text, SIZE_MAX}};
    assert_int_equal(message_send_parts(p.here, "PAGE", parts, 2, NULL), -EMSGSIZE);
    assert_int_equal(channel_readable(p.there, 0), 0); /* nothing of them went out */
    json_decref(j);
    free(text);
    close_pair(&p);
}

static int make_dir(void **state)
{
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_addresses),  cmocka_unit_test(test_long_address), cmocka_unit_test(test_bucket),
        cmocka_unit_test(test_queue),      cmocka_unit_test(test_meter),        cmocka_unit_test(test_exchange),
        cmocka_unit_test(test_limited),    cmocka_unit_test(test_long_path),    cmocka_unit_test(test_unix_listener),
        cmocka_unit_test(test_silence),    cmocka_unit_test(test_cancel),       cmocka_unit_test(test_cancel_waiting),
        cmocka_unit_test(test_until),      cmocka_unit_test(test_ends),         cmocka_unit_test(test_dead_link),
        cmocka_unit_test(test_last_word),  cmocka_unit_test(test_rule),         cmocka_unit_test(test_nobody),
        cmocka_unit_test(test_full_queue), cmocka_unit_test(test_tls_to_plain), cmocka_unit_test(test_messages),
        cmocka_unit_test(test_refused),    cmocka_unit_test(test_every_bit),    cmocka_unit_test(test_too_long_to_send),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
