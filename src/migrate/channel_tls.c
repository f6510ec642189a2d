/*
 * TLS of a channel: version 1.3 alone, with certificates on both sides, by GnuTLS.
 *
 *   connecting side                                accepting side
 *   hello ─────────────────────────────────────>   (its first byte tells TLS from plain text)
 *   <──────────────────────── hello, certificate
 *   judges it: our CA, dates, name, purpose
 *   certificate ───────────────────────────────>   judges it: our CA, dates, purpose
 *   <─────────────────────────────────── welcome   (or an alert that says why not)
 *
 * Theory: the welcome. In TLS 1.3 the connecting side has finished before the other one has seen its certificate, and a refusal would
 * come up in the middle of whatever is said next. So the accepting side says a fixed word first, and the handshake includes
 * reading it.
 *
 * Theory: between GnuTLS and the socket. GnuTLS asks for bytes and gets them from what was read ahead (c->in), for which the raw layer
 * waits with all its bounds; what GnuTLS writes is gathered in `out` and sent when there is enough, or before something is waited for. So
 * GnuTLS never sees a socket that is not ready, and a flush of 256 KiB is one encryption of 16 records and one send.
 * An error of the raw layer is kept in `why`, and GnuTLS is told EAGAIN for one that may be got over, for it would else give the
 * session up.
 *
 * Theory: who may. Both certificates must come from the CA of the directory, which should sign nothing but the hosts that may
 * exchange machines: to have one is to be allowed. The connecting side also wants the name that it was given in the certificate, so
 * that one host can not stand in for another.
 *
 * The library is opened when the first TLS channel begins (dlopen): no other verb pays for it.
 *
 * Not done: lists of revoked certificates; a key in a token; session resumption (a migration connects a few times, once).
 */
#include "migrate/channel_internal.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>

#define LIBRARY "libgnutls.so.30"
#define PRIORITY \
    "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-128-GCM:+AES-256-GCM:+CHACHA20-POLY1305:%PROFILE_MEDIUM"
#define WELCOME     "trapeze1"
#define WELCOME_LEN 8u
#define RECORD      16384u /* bytes of plain text in a TLS record, at most */
#define RECORD_MORE 256u   /* bytes that encryption adds to one: RFC 8446, 5.2 */
#define OUT_MAX     (CHANNEL_BUFFER / RECORD * (RECORD + RECORD_MORE))
#define FILE_MAX    (1u << 20)
#define LINGER_MS   1000

/* X-macro: what is used of the library */
#define FUNCTIONS(X)                              \
    X(gnutls_init)                                \
    X(gnutls_deinit)                              \
    X(gnutls_handshake)                           \
    X(gnutls_bye)                                 \
    X(gnutls_record_send)                         \
    X(gnutls_record_recv)                         \
    X(gnutls_record_check_pending)                \
    X(gnutls_error_is_fatal)                      \
    X(gnutls_strerror)                            \
    X(gnutls_alert_get)                           \
    X(gnutls_alert_get_name)                      \
    X(gnutls_alert_send)                          \
    X(gnutls_alert_send_appropriate)              \
    X(gnutls_priority_set_direct)                 \
    X(gnutls_credentials_set)                     \
    X(gnutls_session_set_ptr)                     \
    X(gnutls_session_set_verify_cert2)            \
    X(gnutls_session_get_verify_cert_status)      \
    X(gnutls_certificate_server_set_request)      \
    X(gnutls_certificate_allocate_credentials)    \
    X(gnutls_certificate_free_credentials)        \
    X(gnutls_certificate_set_x509_trust_mem)      \
    X(gnutls_certificate_set_x509_key_mem2)       \
    X(gnutls_transport_set_ptr)                   \
    X(gnutls_transport_set_errno)                 \
    X(gnutls_transport_set_push_function)         \
    X(gnutls_transport_set_pull_function)         \
    X(gnutls_transport_set_pull_timeout_function) \
    X(gnutls_handshake_set_timeout)

struct library {
#define X(name) __typeof__(&name) name;
    FUNCTIONS(X)
#undef X
};

struct channel_tls {
    struct library lib;
    gnutls_certificate_credentials_t credentials;
    gnutls_session_t session;
    gnutls_typed_vdata_st expected[2]; /* purpose and name: GnuTLS keeps a pointer to them */
    bool serves;
    bool begun;     /* the session is there */
    bool not_tls;   /* the peer's first byte was none of TLS */
    int why;        /* -errno of the raw layer, */
    struct error e; /* and its words */
    u8 *out;        /* [at, len): encrypted, to be sent */
    size_t out_at, out_len;
};

/* --- the library and the files --- */

static int open_library(struct library *out, struct error *e)
{
    void *so = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!so)
        return error_set(e, ENOENT, "GnuTLS: %s; install libgnutls30", dlerror());
#define X(name)                                      \
    out->name = (__typeof__(&name))dlsym(so, #name); \
    if (!out->name)                                  \
        return error_set(e, ENOENT, "GnuTLS: has no " #name "; it is too old");
    FUNCTIONS(X)
#undef X
    return 0;
}

/* A key that others can read is nobody's. */
static int check_secret(const struct stat *st, const char *dir, const char *name, struct error *e)
{
    if (st->st_mode & 077)
        return error_set(e, EPERM, "%s/%s: others can read this key: chmod 600 it, and think about whether they have",
                         dir, name);
    if (st->st_uid != geteuid() && st->st_uid != 0)
        return error_set(e, EPERM, "%s/%s: this key belongs to another user", dir, name);
    return 0;
}

static int read_whole(int fd, const struct stat *st, gnutls_datum_t *out)
{
    size_t size = (size_t)st->st_size;
    out->data = malloc(size);
    if (!out->data)
        return -ENOMEM;
    for (out->size = 0; out->size < size;) {
        ssize_t n = read(fd, out->data + out->size, size - out->size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        out->size += (unsigned)n;
    }
    return 0;
}

static void forget(gnutls_datum_t *d)
{
    if (d->data)
        explicit_bzero(d->data, d->size);
    free(d->data);
    *d = (gnutls_datum_t){0};
}

/* A file of the directory; the caller forgets it in any case. */
static int read_pem(const char *dir, const char *name, bool secret, gnutls_datum_t *out, struct error *e)
{
    struct stat st;
    int d = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (d < 0)
        return error_set(e, errno, "--tls %s: %s; it is a directory with ca.pem, cert.pem and key.pem", dir,
                         strerror(errno));
    int fd = openat(d, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK), r = fd < 0 || fstat(fd, &st) < 0 ? -errno : 0;
    close(d);
    if (r < 0)
        error_set(e, -r, "--tls: %s/%s: %s", dir, name, strerror(-r));
    else if (!S_ISREG(st.st_mode) || st.st_size < 1 || st.st_size > FILE_MAX)
        r = error_set(e, EINVAL, "--tls: %s/%s: is no file with a key or certificate", dir, name);
    else if (secret)
        r = check_secret(&st, dir, name, e);
    if (r == 0 && (r = read_whole(fd, &st, out)) < 0)
        error_set(e, -r, "--tls: %s/%s: %s", dir, name, strerror(-r));
    if (fd >= 0)
        close(fd);
    return r;
}

static int load(struct channel_tls *t, const char *dir, struct error *e)
{
    gnutls_datum_t ca = {0}, cert = {0}, key = {0};
    const struct library *l = &t->lib;
    int r = read_pem(dir, "ca.pem", false, &ca, e), n;
    if (r == 0)
        r = read_pem(dir, "cert.pem", false, &cert, e);
    if (r == 0)
        r = read_pem(dir, "key.pem", true, &key, e);
    if (r == 0 && l->gnutls_certificate_allocate_credentials(&t->credentials) < 0)
        r = error_set(e, ENOMEM, "--tls: out of memory");
    if (r == 0 && (n = l->gnutls_certificate_set_x509_trust_mem(t->credentials, &ca, GNUTLS_X509_FMT_PEM)) <= 0)
        r = error_set(e, EINVAL, "--tls: %s/ca.pem: %s", dir, n ? l->gnutls_strerror(n) : "no certificate is in it");
    if (r == 0 &&
        (n = l->gnutls_certificate_set_x509_key_mem2(t->credentials, &cert, &key, GNUTLS_X509_FMT_PEM, NULL, 0)) < 0)
        r = error_set(e, EINVAL, "--tls: %s/cert.pem and key.pem: %s", dir, l->gnutls_strerror(n));
    forget(&ca);
    forget(&cert);
    forget(&key);
    return r;
}

static void tls_free(struct channel_tls *t)
{
    if (!t)
        return;
    if (t->session)
        t->lib.gnutls_deinit(t->session);
    if (t->credentials)
        t->lib.gnutls_certificate_free_credentials(t->credentials);
    free(t->out);
    free(t);
}

static int tls_new(const char *dir, struct channel_tls **out, struct error *e)
{
    struct channel_tls *t = calloc(1, sizeof(*t));
    int r = t && (t->out = malloc(OUT_MAX)) ? open_library(&t->lib, e) : error_set(e, ENOMEM, "--tls: out of memory");
    if (r == 0)
        r = load(t, dir, e);
    if (r < 0) {
        tls_free(t);
        return r;
    }
    *out = t;
    return 0;
}

int channel_tls_check(const char *dir, struct error *e)
{
    struct channel_tls *t;
    int r = tls_new(dir, &t, e);
    if (r == 0)
        tls_free(t);
    return r;
}

/* --- between GnuTLS and the socket --- */

/* Send what is encrypted. 0 or -errno, which is kept. */
static int flush(struct channel *c)
{
    struct channel_tls *t = c->tls;
    size_t done;
    t->e = (struct error){0};
    t->why = channel_raw_send(c, t->out + t->out_at, t->out_len - t->out_at, &done, &t->e);
    t->out_at += done;
    if (t->why == 0)
        t->out_at = t->out_len = 0;
    return t->why;
}

/* What GnuTLS hears of it: that it may be tried again, or not. */
static ssize_t tell(struct channel_tls *t)
{
    bool again = t->why == -ETIMEDOUT || t->why == -ECANCELED;
    t->lib.gnutls_transport_set_errno(t->session, again ? EAGAIN : EIO);
    return -1;
}

static ssize_t push(gnutls_transport_ptr_t ptr, const void *data, size_t len)
{
    struct channel *c = ptr;
    struct channel_tls *t = c->tls;
    if (t->out_len + len > OUT_MAX && flush(c) < 0)
        return tell(t);
    len = MIN(len, OUT_MAX - t->out_len);
    memcpy(t->out + t->out_len, data, len);
    t->out_len += len;
    return (ssize_t)len;
}

static ssize_t pull(gnutls_transport_ptr_t ptr, void *data, size_t len)
{
    struct channel *c = ptr;
    struct channel_tls *t = c->tls;
    bool first = !c->received;
    if (c->in_at == c->in_len) {
        if (flush(c) < 0 || (t->why = channel_raw_fill(c, &t->e)) < 0)
            return tell(t);
        t->not_tls = first && (c->in[0] < 20 || c->in[0] > 23); /* content types: RFC 8446, B.1 */
        if (t->not_tls)
            return tell(t);
    }
    len = MIN(len, c->in_len - c->in_at);
    memcpy(data, c->in + c->in_at, len);
    c->in_at += len;
    return (ssize_t)len;
}

/* GnuTLS may ask whether there is something before it pulls, which waits by itself. */
static int pull_timeout(gnutls_transport_ptr_t ptr, unsigned ms)
{
    return 1;
}

/* --- what went wrong, in words --- */

/* What a certificate may fail by: what the peer is told, and what a person is. The first that is set counts. */
static const struct {
    unsigned status;
    gnutls_alert_description_t alert;
    const char *words;
} faults[] = {
    {GNUTLS_CERT_SIGNER_NOT_FOUND, GNUTLS_A_UNKNOWN_CA, "was not made by the CA in our ca.pem"},
    {GNUTLS_CERT_SIGNER_NOT_CA, GNUTLS_A_UNKNOWN_CA, "was made by somebody who is no CA"},
    {GNUTLS_CERT_SIGNATURE_FAILURE, GNUTLS_A_BAD_CERTIFICATE, "has a wrong signature"},
    {GNUTLS_CERT_EXPIRED, GNUTLS_A_CERTIFICATE_EXPIRED, "has expired, or a clock is wrong"},
    {GNUTLS_CERT_NOT_ACTIVATED, GNUTLS_A_CERTIFICATE_EXPIRED, "is not valid yet, or a clock is wrong"},
    {GNUTLS_CERT_REVOKED, GNUTLS_A_CERTIFICATE_REVOKED, "was revoked"},
    {GNUTLS_CERT_INSECURE_ALGORITHM, GNUTLS_A_INSUFFICIENT_SECURITY, "is signed too weakly"},
    {GNUTLS_CERT_UNEXPECTED_OWNER, GNUTLS_A_BAD_CERTIFICATE, "is of another host than the one that was named"},
    {GNUTLS_CERT_PURPOSE_MISMATCH, GNUTLS_A_UNSUPPORTED_CERTIFICATE,
     "was made for another purpose: it needs both serverAuth and clientAuth, or neither"},
};

/* What the peer may answer to our certificate, in words. */
static const struct {
    gnutls_alert_description_t alert;
    const char *words;
} alerts[] = {
    {GNUTLS_A_UNKNOWN_CA, "our certificate was not made by its CA"},
    {GNUTLS_A_CERTIFICATE_EXPIRED, "our certificate has expired or is not valid yet, or a clock is wrong"},
    {GNUTLS_A_BAD_CERTIFICATE, "our certificate is not one of the host that it wants"},
    {GNUTLS_A_UNSUPPORTED_CERTIFICATE,
     "our certificate was made for another purpose: it needs both serverAuth and clientAuth, or neither"},
    {GNUTLS_A_CERTIFICATE_REQUIRED, "it wants a certificate"},
    {GNUTLS_A_PROTOCOL_VERSION, "it and we have no version of TLS in common: 1.3 it must be"},
    {GNUTLS_A_HANDSHAKE_FAILURE, "it and we have no version or cipher of TLS in common: 1.3 it must be"},
};

static int bad_certificate(struct channel *c, struct error *e)
{
    struct channel_tls *t = c->tls;
    unsigned status = t->lib.gnutls_session_get_verify_cert_status(t->session), i = 0;
    while (i < ARRAY_LEN(faults) && !(status & faults[i].status))
        i++;
    bool known = i < ARRAY_LEN(faults);
    t->lib.gnutls_alert_send(t->session, GNUTLS_AL_FATAL, known ? faults[i].alert : GNUTLS_A_BAD_CERTIFICATE);
    return error_set(e, EPERM, "%s: its certificate %s", c->peer, known ? faults[i].words : "is not valid");
}

static int alerted(struct channel *c, struct error *e)
{
    struct channel_tls *t = c->tls;
    gnutls_alert_description_t a = t->lib.gnutls_alert_get(t->session);
    const char *name = t->lib.gnutls_alert_get_name(a);
    for (unsigned i = 0; i < ARRAY_LEN(alerts); i++)
        if (alerts[i].alert == a)
            return error_set(e, EPERM, "%s: refused: %s", c->peer, alerts[i].words);
    return error_set(e, EPROTO, "%s: refused: TLS alert %d (%s)", c->peer, a, name ? name : "unknown");
}

/* The peer has gone in the middle of the handshake: one without TLS does that. */
static int hung_up(const struct channel *c, struct error *e)
{
    return error_set(e, -c->tls->why, "%s: has hung up in the TLS handshake: was it started with --tls DIR?", c->peer);
}

/* Any error of the library, with the code that it returned. */
static int explain(struct channel *c, ssize_t code, struct error *e)
{
    struct channel_tls *t = c->tls;
    if (t->not_tls)
        return error_set(e, EPROTO, "%s: does not speak TLS: it was not started with --tls DIR", c->peer);
    if (t->why == -EPIPE || t->why == -ECONNRESET)
        return c->encrypted ? error_set(e, -t->why, "%s", t->e.msg) : hung_up(c, e);
    if (t->why < 0)
        return error_set(e, -t->why, "%s", t->e.msg);
    switch (code) {
    case GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR:
        return bad_certificate(c, e);
    case GNUTLS_E_FATAL_ALERT_RECEIVED:
        return alerted(c, e);
    case GNUTLS_E_NO_CERTIFICATE_FOUND:
    case GNUTLS_E_CERTIFICATE_REQUIRED:
        t->lib.gnutls_alert_send(t->session, GNUTLS_AL_FATAL, GNUTLS_A_CERTIFICATE_REQUIRED);
        return error_set(e, EPERM, "%s: shows no certificate", c->peer);
    case GNUTLS_E_UNSUPPORTED_VERSION_PACKET:
    case GNUTLS_E_NO_CIPHER_SUITES: /* what a hello of an older version comes down to */
        t->lib.gnutls_alert_send(t->session, GNUTLS_AL_FATAL, GNUTLS_A_PROTOCOL_VERSION);
        return error_set(e, EPROTO, "%s: knows no TLS 1.3, or none of its ciphers that we use", c->peer);
    case 0:
    case GNUTLS_E_PREMATURE_TERMINATION:
        return error_set(e, EPIPE, "%s: has ended the connection", c->peer);
    default:
        t->lib.gnutls_alert_send_appropriate(t->session, (int)code);
        return error_set(e, EPROTO, "%s: TLS: %s", c->peer, t->lib.gnutls_strerror((int)code));
    }
}

/* --- bytes --- */

/* Whether a call of the library is to be made again: nothing of ours has failed, it only wants to go round once more. */
static bool once_more(const struct channel_tls *t, ssize_t n)
{
    return n < 0 && t->why == 0 && !t->not_tls && !t->lib.gnutls_error_is_fatal((int)n);
}

int channel_tls_send(struct channel *c, const u8 *p, size_t len, size_t *done, struct error *e)
{
    struct channel_tls *t = c->tls;
    *done = 0;
    t->why = 0;
    while (*done < len) {
        /* a record that was begun and not taken by push is given again, as the library wants it */
        ssize_t n = t->lib.gnutls_record_send(t->session, p + *done, MIN(len - *done, (size_t)RECORD));
        if (n > 0)
            *done += (size_t)n;
        else if (!once_more(t, n))
            return explain(c, n, e);
    }
    int r = flush(c);
    return r < 0 ? explain(c, r, e) : 0;
}

int channel_tls_receive(struct channel *c, u8 *p, size_t most, size_t *got, struct error *e)
{
    struct channel_tls *t = c->tls;
    ssize_t n;
    t->why = 0;
    do
        n = t->lib.gnutls_record_recv(t->session, p, most);
    while (once_more(t, n));
    *got = n > 0 ? (size_t)n : 0;
    return n > 0 ? 0 : explain(c, n, e);
}

bool channel_tls_pending(const struct channel *c)
{
    return c->tls->lib.gnutls_record_check_pending(c->tls->session) > 0;
}

/* --- the handshake --- */

/* What the peer's certificate must be made for, and whom it must name. */
static void set_expected(struct channel_tls *t, const char *host)
{
    const char *purpose = t->serves ? GNUTLS_KP_TLS_WWW_CLIENT : GNUTLS_KP_TLS_WWW_SERVER;
    t->expected[0] = (gnutls_typed_vdata_st){.type = GNUTLS_DT_KEY_PURPOSE_OID, .data = (unsigned char *)purpose};
    t->expected[1] = (gnutls_typed_vdata_st){.type = GNUTLS_DT_DNS_HOSTNAME, .data = (unsigned char *)host};
    t->lib.gnutls_session_set_verify_cert2(t->session, t->expected, host ? 2 : 1, 0);
}

static int set_up(struct channel *c, const char *host, struct error *e)
{
    struct channel_tls *t = c->tls;
    const struct library *l = &t->lib;
    unsigned flags =
        (t->serves ? GNUTLS_SERVER : GNUTLS_CLIENT) | GNUTLS_NO_TICKETS | GNUTLS_NO_SIGNAL | GNUTLS_FORCE_CLIENT_CERT;
    int r = l->gnutls_init(&t->session, flags);
    if (r == 0)
        r = l->gnutls_priority_set_direct(t->session, PRIORITY, NULL);
    if (r == 0)
        r = l->gnutls_credentials_set(t->session, GNUTLS_CRD_CERTIFICATE, t->credentials);
    if (r < 0)
        return error_set(e, EINVAL, "TLS: %s: this host's policy for GnuTLS may forbid it", l->gnutls_strerror(r));
    if (t->serves)
        l->gnutls_certificate_server_set_request(t->session, GNUTLS_CERT_REQUIRE);
    set_expected(t, host);
    l->gnutls_handshake_set_timeout(t->session, 0); /* channel_until bounds it */
    l->gnutls_transport_set_ptr(t->session, c);
    l->gnutls_transport_set_push_function(t->session, push);
    l->gnutls_transport_set_pull_function(t->session, pull);
    l->gnutls_transport_set_pull_timeout_function(t->session, pull_timeout);
    return 0;
}

/* See the top. */
static int welcome(struct channel *c, struct error *e)
{
    u8 word[WELCOME_LEN];
    size_t done = 0, n;
    int r = 0;
    if (c->tls->serves)
        return channel_tls_send(c, (const u8 *)WELCOME, WELCOME_LEN, &done, e);
    while (done < WELCOME_LEN && (r = channel_tls_receive(c, word + done, WELCOME_LEN - done, &n, e)) == 0)
        done += n;
    if (r == 0 && memcmp(word, WELCOME, WELCOME_LEN))
        r = error_set(e, EPROTO, "%s: speaks TLS, but is no trapeze", c->peer);
    return r;
}

/*
 * A refusal: what the library has to say about it is sent, and for a peer that speaks no TLS an alert that it can tell from its own
 * protocol; then what the peer still sends is dropped for a moment, for a close would take it back.
 */
static void last_word(struct channel *c)
{
    static const u8 alert[] = {0x15, 3, 3, 0, 2, GNUTLS_AL_FATAL, GNUTLS_A_PROTOCOL_VERSION};
    u64 end = channel_now() + LINGER_MS * NS_PER_MS;
    size_t n;
    if (c->tls->why < 0)
        return;
    if (c->tls->not_tls)
        push(c, alert, sizeof(alert));
    c->until = c->until ? MIN(c->until, end) : end;
    if (flush(c) < 0 || shutdown(c->fd, SHUT_WR) < 0)
        return;
    while (channel_raw_receive(c, c->in, CHANNEL_READ_AHEAD, &n, NULL) == 0)
        ;
}

int channel_tls_begin(struct channel *c, const char *dir, const char *host, struct error *e)
{
    int r = tls_new(dir, &c->tls, e);
    if (r < 0)
        return r;
    struct channel_tls *t = c->tls;
    t->serves = !host;
    if ((r = set_up(c, host, e)) < 0)
        return r;
    do {
        t->why = 0;
        r = t->lib.gnutls_handshake(t->session);
    } while (once_more(t, r));
    r = r < 0 ? explain(c, r, e) : (flush(c), t->why) < 0 ? explain(c, 0, e) : welcome(c, e);
    if (r < 0)
        last_word(c);
    t->begun = r == 0;
    return r;
}

void channel_tls_end(struct channel *c)
{
    struct channel_tls *t = c->tls;
    size_t n = 0;
    if (!t)
        return;
    if (t->begun && !c->failed && t->out_len == t->out_at) {
        t->lib.gnutls_bye(t->session, GNUTLS_SHUT_WR);
        n = t->out_len;
    }
    if (n) /* if it goes at once: nobody waits for a farewell */
        send(c->fd, t->out, n, MSG_NOSIGNAL | MSG_DONTWAIT);
    tls_free(t);
    c->tls = NULL;
}
