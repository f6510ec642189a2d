/* The channel with TLS: who is let in, what both sides say about who is not, and that nobody waits for ever for a peer that is none. */
#include "base/bytes.h"
#include "certificates.h"
#include "migrate/message.h"

#include <errno.h>
#include <gnutls/gnutls.h>
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

#define PATIENCE 20000 /* ms: for what comes at once */
#define BULK     (5u << 20)

static char top[] = "/tmp/tls-XXXXXX";
static char good[64], other[64], bad[64]; /* directories: both ends' own, and one for what a test wants */
static struct authority ours, theirs;

/* One who listens, in a thread of its own. */
struct server {
    struct channel_listener l;
    struct channel_security s;
    pthread_t thread;
    void (*serve)(struct channel *c, struct server *s); /* after the handshake */
    int deadline_ms;
    int r;
    struct error e;
};

static void *run_server(void *arg)
{
    struct server *s = arg;
    struct channel *c = NULL;
    s->r = channel_accept(&s->l, &s->s, PATIENCE, &c, &s->e);
    if (s->r == 0)
        s->r = channel_handshake(c, s->deadline_ms, &s->e);
    if (s->r == 0 && s->serve)
        s->serve(c, s);
    channel_close(c);
    return NULL;
}

static void start(struct server *s, const char *at)
{
    struct channel_address a;
    assert_int_equal(channel_address_parse(&a, at, NULL), 0);
    assert_int_equal(channel_listen(&a, &s->l, NULL), 0);
    s->deadline_ms = s->deadline_ms ? s->deadline_ms : PATIENCE;
    assert_int_equal(pthread_create(&s->thread, NULL, run_server, s), 0);
}

static void end(struct server *s)
{
    pthread_join(s->thread, NULL);
    channel_listener_close(&s->l);
}

static struct channel *connected(struct server *s, const char *dir)
{
    struct channel_security own = {.tls_dir = dir};
    struct channel *c = NULL;
    struct error e = {0};
    if (channel_connect(&s->l.address, &own, PATIENCE, &c, &e) < 0)
        fail_msg("%s", e.msg);
    assert_true(c->encrypted);
    return c;
}

/* Connect, and see both sides refuse, with these words. */
static void expect(const char *server_dir, const char *client_dir, const char *at, const char *server_words,
                   const char *client_words)
{
    struct server s = {.s.tls_dir = server_dir};
    struct channel_security own = {.tls_dir = client_dir};
    struct channel *c = NULL;
    struct error e = {0};
    start(&s, at);
    int r = channel_connect(&s.l.address, &own, PATIENCE, &c, &e);
    end(&s);
    assert_true((r == 0) == (c != NULL));
    channel_close(c);
    if (r >= 0 || s.r >= 0 || !strstr(e.msg, client_words) || !strstr(s.e.msg, server_words))
        fail_msg("server %d: %s; client %d: %s", s.r, s.e.msg, r, e.msg);
    assert_true(r != -ETIMEDOUT && s.r != -ETIMEDOUT);
}

/* A directory with such a certificate, by our CA and to believe in it. */
static const char *make(const struct certificate *c)
{
    certificate_make(bad, c, &ours, &ours);
    return bad;
}

/* --- good ones --- */

static u8 *pattern(void)
{
    u8 *p = malloc(BULK);
    u32 x = 1;
    assert_non_null(p);
    for (u32 i = 0; i < BULK; i += 4)
        put_le32(p + i, x = x * 1664525 + 1013904223);
    return p;
}

/* Take the pattern and give it back. */
static void echo(struct channel *c, struct server *s)
{
    u8 *p = malloc(BULK);
    s->r = p ? channel_receive(c, p, BULK, &s->e) : -ENOMEM;
    for (u32 at = 0, n; at < BULK && s->r == 0; at += n) {
        n = MIN(BULK - at, 12345u);
        s->r = channel_send(c, p + at, n, &s->e);
    }
    if (s->r == 0)
        s->r = channel_flush(c, &s->e);
    free(p);
}

static void exchange(const char *at)
{
    struct server s = {.s.tls_dir = good, .serve = echo};
    u8 *data = pattern(), *back = calloc(1, BULK), byte;
    struct error e = {0};
    start(&s, at);
    struct channel *c = connected(&s, other);
    assert_int_equal(channel_readable(c, 0), 0);
    assert_int_equal(channel_send(c, data, BULK, NULL), 0);
    for (u32 done = 0, n; done < BULK; done += n) {
        n = MIN(BULK - done, 70001u);
        if (channel_receive(c, back + done, n, &e) < 0)
            fail_msg("%s", e.msg);
    }
    assert_memory_equal(data, back, BULK);
    assert_true(c->sent > BULK && c->sent < BULK + BULK / 100); /* encrypted */
    assert_int_equal(channel_receive(c, &byte, 1, &e), -EPIPE);
    assert_non_null(strstr(e.msg, "ended"));
    channel_close(c);
    end(&s);
    assert_int_equal(s.r, 0);
    free(data);
    free(back);
}

static void test_exchange(void **state)
{
    exchange("127.0.0.1:0");
    exchange("localhost:0"); /* a name */
    struct channel_address a;
    struct channel_listener l;
    assert_int_equal(channel_address_parse(&a, "[::1]:0", NULL), 0);
    if (channel_listen(&a, &l, NULL) < 0) /* a host may have no IPv6 */
        return;
    channel_listener_close(&l);
    exchange("[::1]:0");
    expect(make(&(struct certificate){.ip = {"::2", "127.0.0.1"}}), good, "[::1]:0", "not one of the host",
           "is of another host");
}

static void limited(struct channel *c, struct server *s)
{
    channel_limit(c, 100000000);
    echo(c, s);
}

/* Waiting in the middle, for the bucket, changes nothing. */
static void test_limited(void **state)
{
    struct server s = {.s.tls_dir = good, .serve = limited};
    u8 *data = pattern(), *back = malloc(BULK);
    start(&s, "127.0.0.1:0");
    struct channel *c = connected(&s, other);
    assert_int_equal(channel_send(c, data, BULK, NULL), 0);
    assert_int_equal(channel_receive(c, back, BULK, NULL), 0);
    assert_memory_equal(data, back, BULK);
    channel_close(c);
    end(&s);
    free(data);
    free(back);
}

/* Answer one message with another. */
static void answer(struct channel *c, struct server *s)
{
    static const struct message_kind kinds[] = {{.type = "ASKS", .json = true}};
    struct message m = {0};
    s->r = message_receive(c, kinds, 1, &m, &s->e);
    if (s->r == 0)
        s->r = message_send_json(c, "SAYS", m.json, &s->e);
    if (s->r == 0)
        s->r = channel_flush(c, &s->e);
    message_free(&m);
}

static void test_message(void **state)
{
    static const struct message_kind kinds[] = {{.type = "SAYS", .json = true}};
    struct server s = {.s.tls_dir = good, .serve = answer};
    struct message m = {0};
    json_t *j = json_pack("{s:s}", "name", "web");
    start(&s, "127.0.0.1:0");
    struct channel *c = connected(&s, other);
    assert_int_equal(message_send_json(c, "ASKS", j, NULL), 0);
    assert_int_equal(channel_readable(c, PATIENCE), 1);
    assert_int_equal(message_receive(c, kinds, 1, &m, NULL), 0);
    assert_true(json_equal(m.json, j));
    channel_close(c);
    end(&s);
    message_free(&m);
    json_decref(j);
}

/* A pause in which nothing comes, or it is cancelled, ends a call and not the connection. */
static void test_pause(void **state)
{
    struct server s = {.s.tls_dir = good, .serve = answer};
    static const struct message_kind kinds[] = {{.type = "SAYS", .json = true}};
    struct message m = {0};
    json_t *j = json_pack("{s:s}", "name", "web");
    int cancel = eventfd(1, EFD_CLOEXEC);
    struct error e = {0};
    u64 n;
    start(&s, "127.0.0.1:0");
    struct channel *c = connected(&s, other);
    c->silence_ms = 20;
    assert_int_equal(message_receive(c, kinds, 1, &m, &e), -ETIMEDOUT);
    assert_non_null(strstr(e.msg, "silent"));
    c->silence_ms = PATIENCE;
    c->cancel = cancel;
    assert_int_equal(message_receive(c, kinds, 1, &m, NULL), -ECANCELED);
    assert_int_equal(message_send_json(c, "ASKS", j, NULL), 0);
    assert_int_equal(channel_flush(c, NULL), -ECANCELED);
    assert_int_equal(read(cancel, &n, 8), 8);
    assert_int_equal(message_receive(c, kinds, 1, &m, NULL), 0);
    assert_true(json_equal(m.json, j));
    channel_close(c);
    end(&s);
    assert_int_equal(s.r, 0);
    message_free(&m);
    json_decref(j);
    close(cancel);
}

static void nap(struct channel *c, struct server *s)
{
    u8 byte;
    c->silence_ms = PATIENCE;
    s->r = channel_receive(c, &byte, 1, &s->e);
}

/* A peer that takes nothing. */
static void test_full(void **state)
{
    struct server s = {.s.tls_dir = good, .serve = nap};
    static u8 junk[1 << 20];
    int r = 0;
    start(&s, "127.0.0.1:0");
    struct channel *c = connected(&s, other);
    c->silence_ms = 30;
    for (unsigned i = 0; i < 256 && r == 0; i++)
        r = channel_send(c, junk, sizeof(junk), NULL);
    assert_true(r == -ETIMEDOUT || r == -EPIPE || r == -ECONNRESET); /* the nap ends with the first byte */
    assert_int_equal(channel_send(c, junk, 1, NULL), r);
    channel_close(c);
    end(&s);
    assert_int_equal(s.r, 0);
}

/* What is not encrypted by who is in between is seen. */
static void test_flipped(void **state)
{
    struct server s = {.s.tls_dir = good, .serve = answer};
    u8 junk[100] = {0x17, 3, 3, 0, 95};
    start(&s, "127.0.0.1:0");
    struct channel *c = connected(&s, other);
    assert_int_equal(send(c->fd, junk, sizeof(junk), 0), sizeof(junk));
    end(&s);
    assert_int_equal(s.r, -EPROTO);
    assert_non_null(strstr(s.e.msg, "TLS"));
    channel_close(c);
}

/* --- bad ones --- */

static void test_expired(void **state)
{
    time_t now = time(NULL);
    struct certificate old = {.ip = {"127.0.0.1"}, .from = now - 7200, .to = now - 3600};
    struct certificate early = {.ip = {"127.0.0.1"}, .from = now + 3600, .to = now + 7200};
    make(&old);
    expect(bad, good, "127.0.0.1:0", "our certificate has expired", "its certificate has expired");
    expect(good, bad, "127.0.0.1:0", "its certificate has expired", "our certificate has expired");
    make(&early);
    expect(bad, good, "127.0.0.1:0", "not valid yet", "its certificate is not valid yet");
    expect(good, bad, "127.0.0.1:0", "its certificate is not valid yet", "not valid yet");
}

static void test_wrong_ca(void **state)
{
    struct certificate c = {.ip = {"127.0.0.1"}};
    /* a stranger who would believe us */
    certificate_make(bad, &c, &theirs, &ours);
    expect(bad, good, "127.0.0.1:0", "our certificate was not made by its CA", "was not made by the CA in our ca.pem");
    expect(good, bad, "127.0.0.1:0", "was not made by the CA in our ca.pem", "our certificate was not made by its CA");
    /* and one who would not */
    certificate_make(bad, &c, &theirs, &theirs);
    expect(bad, good, "127.0.0.1:0", "our certificate was not made by its CA", "was not made by the CA in our ca.pem");
    expect(good, bad, "127.0.0.1:0", "our certificate was not made by its CA", "was not made by the CA in our ca.pem");
    /* a CA of the same name with another key */
    struct authority twin;
    authority_make(&twin, "ours");
    certificate_make(bad, &c, &twin, &ours);
    expect(bad, good, "127.0.0.1:0", "our certificate", "its certificate");
    expect(good, bad, "127.0.0.1:0", "its certificate", "our certificate");
    authority_free(&twin);
}

static void test_wrong_name(void **state)
{
    struct certificate ip = {.ip = {"127.0.0.2"}}, name = {.host = "elsewhere"}, none = {0};
    static const char *words = "is of another host";
    expect(make(&ip), good, "127.0.0.1:0", "not one of the host", words);
    expect(make(&name), good, "127.0.0.1:0", "not one of the host", words);
    expect(make(&name), good, "localhost:0", "not one of the host", words);
    expect(make(&none), good, "127.0.0.1:0", "not one of the host", words);
    /* who connects is not asked for its name: it may come from anywhere */
    struct server s = {.s.tls_dir = good};
    start(&s, "127.0.0.1:0");
    channel_close(connected(&s, make(&ip)));
    end(&s);
    assert_int_equal(s.r, 0);
}

static void test_wrong_purpose(void **state)
{
    struct certificate server = {.ip = {"127.0.0.1"}, .purpose = GNUTLS_KP_TLS_WWW_SERVER};
    struct certificate client = {.ip = {"127.0.0.1"}, .purpose = GNUTLS_KP_TLS_WWW_CLIENT};
    expect(make(&client), good, "127.0.0.1:0", "another purpose", "its certificate was made for another purpose");
    expect(good, make(&server), "127.0.0.1:0", "its certificate was made for another purpose", "another purpose");
    struct server s = {.s.tls_dir = make(&server)};
    start(&s, "127.0.0.1:0");
    channel_close(connected(&s, good));
    end(&s);
}

static void test_files(void **state)
{
    static const char *names[] = {"ca.pem", "cert.pem", "key.pem"};
    struct certificate c = {.ip = {"127.0.0.1"}}, open_to_all = {.ip = {"127.0.0.1"}, .key_mode = 0644};
    struct channel_address a;
    struct channel_listener l;
    struct channel_security s = {.tls_dir = bad}, nowhere = {.tls_dir = "/nonexistent"};
    struct channel *channel = NULL;
    char path[100];
    assert_int_equal(channel_address_parse(&a, "127.0.0.1:0", NULL), 0);
    assert_int_equal(channel_listen(&a, &l, NULL), 0);
    make(&c);
    assert_int_equal(channel_listener_check(&l, &s, NULL), 0);
    struct error e = {0};
    make(&open_to_all);
    assert_int_equal(channel_listener_check(&l, &s, &e), -EPERM);
    assert_non_null(strstr(e.msg, "key.pem: others can read"));
    assert_int_equal(channel_connect(&l.address, &s, PATIENCE, &channel, NULL), -EPERM);
    for (unsigned i = 0; i < 3; i++) {
        make(&c);
        snprintf(path, sizeof(path), "%s/%s", bad, names[i]);
        assert_int_equal(unlink(path), 0);
        e = (struct error){0};
        assert_int_equal(channel_listener_check(&l, &s, &e), -ENOENT);
        assert_non_null(strstr(e.msg, names[i]));
        FILE *f = fopen(path, "w");
        assert_true(f && fputs("nothing\n", f) >= 0 && fclose(f) == 0 && chmod(path, 0600) == 0);
        e = (struct error){0};
        assert_int_equal(channel_listener_check(&l, &s, &e), -EINVAL);
        assert_non_null(strstr(e.msg, names[i]));
        assert_int_equal(truncate(path, 0), 0);
        assert_int_equal(channel_listener_check(&l, &s, NULL), -EINVAL);
    }
    assert_int_equal(channel_listener_check(&l, &nowhere, NULL), -ENOENT);
    assert_null(channel);
    channel_listener_close(&l);
}

/* --- who speaks no TLS, or another --- */

/* A plain peer: what it is told by a side that wants TLS. */
static void test_plain_client(void **state)
{
    struct channel_security none = {0};
    u8 junk[1000] = {'H', 'E', 'L', 'O'}, byte;
    for (unsigned i = 0; i < 2; i++) {
        struct server s = {.s.tls_dir = good};
        struct channel *c = NULL;
        struct error e = {0};
        start(&s, "127.0.0.1:0");
        assert_int_equal(channel_connect(&s.l.address, &none, PATIENCE, &c, NULL), 0);
        assert_int_equal(channel_send(c, junk, sizeof(junk), NULL), 0);
        assert_int_equal(channel_flush(c, NULL), 0);
        int r = 0;
        if (i) /* one that goes on sending without listening */
            while (r == 0 && (r = channel_send(c, junk, sizeof(junk), &e)) == 0)
                r = channel_flush(c, &e);
        else
            r = channel_receive(c, &byte, 1, &e);
        channel_close(c);
        end(&s);
        assert_int_equal(s.r, -EPROTO);
        assert_non_null(strstr(s.e.msg, "does not speak TLS"));
        if (r != -EPROTO || !strstr(e.msg, "speaks TLS"))
            fail_msg("%d: %s", r, e.msg);
    }
}

static void read_one(struct channel *c, struct server *s)
{
    u8 byte;
    s->r = channel_receive(c, &byte, 1, &s->e);
}

static void greet(struct channel *c, struct server *s)
{
    s->r = channel_send(c, "220 ftp\r\n", 9, &s->e);
    s->r = channel_flush(c, &s->e);
    read_one(c, s);
}

static void test_plain_server(void **state)
{
    struct channel_security tls = {.tls_dir = good};
    for (unsigned i = 0; i < 2; i++) {
        struct server s = {.serve = i ? greet : read_one};
        struct channel *c = NULL;
        struct error e = {0};
        start(&s, "127.0.0.1:0");
        int r = channel_connect(&s.l.address, &tls, PATIENCE, &c, &e);
        end(&s);
        assert_null(c);
        if (i ? r != -EPROTO || !strstr(e.msg, "does not speak TLS") : !strstr(e.msg, "--tls DIR"))
            fail_msg("%d: %s", r, e.msg);
        assert_int_equal(s.r, -EPROTO);
        assert_non_null(strstr(s.e.msg, "speaks TLS"));
    }
}

/* A peer of another make on the other end of a plain channel: TLS of that version, with our certificate or none. The alert it got, or -1. */
static int speak_foreign(struct channel *c, unsigned side, const char *priority, bool certificate)
{
    gnutls_session_t s;
    gnutls_certificate_credentials_t x;
    char cert[100], key[100];
    u8 byte;
    assert_int_equal(gnutls_certificate_allocate_credentials(&x), 0);
    snprintf(cert, sizeof(cert), "%s/cert.pem", good);
    snprintf(key, sizeof(key), "%s/key.pem", good);
    if (certificate)
        assert_int_equal(gnutls_certificate_set_x509_key_file(x, cert, key, GNUTLS_X509_FMT_PEM), 0);
    assert_int_equal(gnutls_init(&s, side | GNUTLS_NO_SIGNAL), 0);
    assert_int_equal(gnutls_priority_set_direct(s, priority, NULL), 0);
    assert_int_equal(gnutls_credentials_set(s, GNUTLS_CRD_CERTIFICATE, x), 0);
    gnutls_transport_set_int(s, c->fd);
    int r;
    do
        r = gnutls_handshake(s);
    while (r < 0 && !gnutls_error_is_fatal(r));
    if (r < 0 && side == GNUTLS_SERVER)
        gnutls_alert_send_appropriate(s, r);
    while (r == 0 || r == GNUTLS_E_AGAIN || r == GNUTLS_E_INTERRUPTED)
        r = (int)gnutls_record_recv(s, &byte, 1);
    int alert = r == GNUTLS_E_FATAL_ALERT_RECEIVED ? (int)gnutls_alert_get(s) : -1;
    gnutls_deinit(s);
    gnutls_certificate_free_credentials(x);
    return alert;
}

static int foreign_client(const struct channel_address *a, const char *priority, bool certificate)
{
    struct channel_security none = {0};
    struct channel *c = NULL;
    assert_int_equal(channel_connect(a, &none, PATIENCE, &c, NULL), 0);
    int alert = speak_foreign(c, GNUTLS_CLIENT, priority, certificate);
    channel_close(c);
    return alert;
}

static void serve_old(struct channel *c, struct server *s)
{
    speak_foreign(c, GNUTLS_SERVER, "NORMAL:-VERS-ALL:+VERS-TLS1.2", true);
}

static void serve_stranger(struct channel *c, struct server *s)
{
    speak_foreign(c, GNUTLS_SERVER, "NORMAL:-VERS-ALL:+VERS-TLS1.3", true);
}

/* One who listens and knows no TLS 1.3; one who does, has a good certificate, and is something else than a trapeze. */
static void test_foreign_server(void **state)
{
    struct channel_security tls = {.tls_dir = other};
    struct server old = {.serve = serve_old};
    struct channel *c = NULL;
    struct error e = {0};
    start(&old, "127.0.0.1:0");
    assert_int_equal(channel_connect(&old.l.address, &tls, PATIENCE, &c, &e), -EPERM);
    assert_non_null(strstr(e.msg, "1.3 it must be"));
    end(&old);
    struct server stranger = {.serve = serve_stranger};
    start(&stranger, "127.0.0.1:0");
    assert_int_equal(channel_connect(&stranger.l.address, &tls, 100, &c, NULL), -ETIMEDOUT);
    end(&stranger);
    assert_null(c);
}

static void test_foreign(void **state)
{
    static const struct {
        const char *priority;
        bool certificate;
        int alert;
        const char *words;
    } rows[] = {
        {"NORMAL:-VERS-ALL:+VERS-TLS1.2", true, GNUTLS_A_PROTOCOL_VERSION, "TLS 1.3"},
        {"NORMAL:-VERS-ALL:+VERS-TLS1.3", false, GNUTLS_A_CERTIFICATE_REQUIRED, "shows no certificate"},
    };
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        struct server s = {.s.tls_dir = good};
        start(&s, "127.0.0.1:0");
        int alert = foreign_client(&s.l.address, rows[i].priority, rows[i].certificate);
        end(&s);
        if (s.r >= 0 || !strstr(s.e.msg, rows[i].words) || alert != rows[i].alert)
            fail_msg("row %u: %d, alert %d: %s", i, s.r, alert, s.e.msg);
    }
}

/* A peer that connects and says nothing; one that stops in the middle of its hello. */
static void test_silent(void **state)
{
    struct channel_security none = {0};
    static const u8 part[] = {0x16, 3, 1, 2, 0, 1, 0};
    for (unsigned i = 0; i < 2; i++) {
        struct server s = {.s.tls_dir = good, .deadline_ms = 30};
        struct channel *c = NULL;
        start(&s, "127.0.0.1:0");
        assert_int_equal(channel_connect(&s.l.address, &none, PATIENCE, &c, NULL), 0);
        if (i) {
            assert_int_equal(channel_send(c, part, sizeof(part), NULL), 0);
            assert_int_equal(channel_flush(c, NULL), 0);
        }
        end(&s);
        assert_int_equal(s.r, -ETIMEDOUT);
        assert_non_null(strstr(s.e.msg, "in the time"));
        channel_close(c);
    }
    /* a listener that takes nobody */
    struct channel_address a;
    struct channel_listener l;
    struct channel_security tls = {.tls_dir = good};
    struct channel *c = NULL;
    assert_int_equal(channel_address_parse(&a, "127.0.0.1:0", NULL), 0);
    assert_int_equal(channel_listen(&a, &l, NULL), 0);
    assert_int_equal(channel_connect(&l.address, &tls, 30, &c, NULL), -ETIMEDOUT);
    int cancel = eventfd(1, EFD_CLOEXEC);
    assert_int_equal(channel_connect_cancel(&l.address, &tls, PATIENCE, cancel, &c, NULL), -ECANCELED);
    assert_null(c);
    close(cancel);
    channel_listener_close(&l);
}

/* Used without the handshake, an accepted channel does nothing. */
static void test_skipped(void **state)
{
    struct channel_security tls = {.tls_dir = good}, none = {0};
    struct channel_address a;
    struct channel_listener l;
    struct channel *c = NULL, *client = NULL;
    u8 byte;
    assert_int_equal(channel_address_parse(&a, "127.0.0.1:0", NULL), 0);
    assert_int_equal(channel_listen(&a, &l, NULL), 0);
    assert_int_equal(channel_connect(&l.address, &none, PATIENCE, &client, NULL), 0);
    assert_int_equal(channel_accept(&l, &tls, PATIENCE, &c, NULL), 0);
    assert_int_equal(channel_send(c, "x", 1, NULL), -ENOTCONN);
    assert_int_equal(channel_flush(c, NULL), -ENOTCONN);
    assert_int_equal(channel_receive(c, &byte, 1, NULL), -ENOTCONN);
    assert_int_equal(channel_readable(c, 0), -ENOTCONN);
    channel_close(c);
    channel_close(client);
    channel_listener_close(&l);
}

static int make_all(void **state)
{
    struct certificate c = {.ip = {"127.0.0.1", "::1"}, .host = "localhost"};
    if (!mkdtemp(top))
        return -1;
    snprintf(good, sizeof(good), "%s/good", top);
    snprintf(other, sizeof(other), "%s/other", top);
    snprintf(bad, sizeof(bad), "%s/bad", top);
    if (mkdir(good, 0700) < 0 || mkdir(other, 0700) < 0 || mkdir(bad, 0700) < 0)
        return -1;
    authority_make(&ours, "ours");
    authority_make(&theirs, "theirs");
    certificate_make(good, &c, &ours, &ours);
    certificate_make(other, &c, &ours, &ours);
    return 0;
}

static int remove_all(void **state)
{
    static const char *names[] = {"ca.pem", "cert.pem", "key.pem"}, *dirs[] = {good, other, bad};
    char path[100];
    for (unsigned i = 0; i < 9; i++) {
        snprintf(path, sizeof(path), "%s/%s", dirs[i / 3], names[i % 3]);
        unlink(path);
    }
    authority_free(&ours);
    authority_free(&theirs);
    return rmdir(good) || rmdir(other) || rmdir(bad) || rmdir(top);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exchange),      cmocka_unit_test(test_limited),  cmocka_unit_test(test_message),
        cmocka_unit_test(test_pause),         cmocka_unit_test(test_full),     cmocka_unit_test(test_flipped),
        cmocka_unit_test(test_expired),       cmocka_unit_test(test_wrong_ca), cmocka_unit_test(test_wrong_name),
        cmocka_unit_test(test_wrong_purpose), cmocka_unit_test(test_files),    cmocka_unit_test(test_plain_client),
        cmocka_unit_test(test_plain_server),  cmocka_unit_test(test_foreign),  cmocka_unit_test(test_foreign_server),
        cmocka_unit_test(test_silent),        cmocka_unit_test(test_skipped),
    };
    return cmocka_run_group_tests(tests, make_all, remove_all);
}
