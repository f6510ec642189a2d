#include "certificates.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define HOUR 3600

static gnutls_x509_privkey_t new_key(void)
{
    gnutls_x509_privkey_t key;
    assert_int_equal(gnutls_x509_privkey_init(&key), 0);
    assert_int_equal(
        gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0), 0);
    return key;
}

/* What is common to both kinds; to be signed. */
static gnutls_x509_crt_t new_crt(gnutls_x509_privkey_t key, const char *name, u8 serial, time_t from, time_t to)
{
    gnutls_x509_crt_t crt;
    time_t now = time(NULL);
    assert_int_equal(gnutls_x509_crt_init(&crt), 0);
    assert_int_equal(gnutls_x509_crt_set_version(crt, 3), 0);
    assert_int_equal(gnutls_x509_crt_set_key(crt, key), 0);
    assert_int_equal(gnutls_x509_crt_set_serial(crt, &serial, 1), 0);
    assert_int_equal(gnutls_x509_crt_set_activation_time(crt, from ? from : now - HOUR), 0);
    assert_int_equal(gnutls_x509_crt_set_expiration_time(crt, to ? to : now + HOUR), 0);
    assert_int_equal(gnutls_x509_crt_set_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, name, (unsigned)strlen(name)),
                     0);
    return crt;
}

static void write_file(const char *dir, const char *name, gnutls_datum_t *d, mode_t mode)
{
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    unlink(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0 && write(fd, d->data, d->size) == (ssize_t)d->size && fchmod(fd, mode) == 0);
    close(fd);
    gnutls_free(d->data);
}

void authority_make(struct authority *a, const char *name)
{
    a->key = new_key();
    a->crt = new_crt(a->key, name, 1, 0, 0);
    assert_int_equal(gnutls_x509_crt_set_basic_constraints(a->crt, 1, 0), 0);
    assert_int_equal(gnutls_x509_crt_set_key_usage(a->crt, GNUTLS_KEY_KEY_CERT_SIGN), 0);
    assert_int_equal(gnutls_x509_crt_sign2(a->crt, a->crt, a->key, GNUTLS_DIG_SHA256, 0), 0);
}

void authority_free(struct authority *a)
{
    gnutls_x509_crt_deinit(a->crt);
    gnutls_x509_privkey_deinit(a->key);
}

void certificate_make(const char *dir, const struct certificate *c, const struct authority *by,
                      const struct authority *trusted)
{
    gnutls_x509_privkey_t key = new_key();
    gnutls_x509_crt_t crt = new_crt(key, "a host", 2, c->from, c->to);
    gnutls_datum_t pem;
    u8 ip[16];
    for (unsigned i = 0; i < ARRAY_LEN(c->ip) && c->ip[i]; i++) {
        bool v6 = strchr(c->ip[i], ':');
        assert_int_equal(inet_pton(v6 ? AF_INET6 : AF_INET, c->ip[i], ip), 1);
        assert_int_equal(
            gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_IPADDRESS, ip, v6 ? 16 : 4, GNUTLS_FSAN_APPEND), 0);
    }
    if (c->host)
        assert_int_equal(gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_DNSNAME, c->host,
                                                              (unsigned)strlen(c->host), GNUTLS_FSAN_APPEND),
                         0);
    if (c->purpose)
        assert_int_equal(gnutls_x509_crt_set_key_purpose_oid(crt, c->purpose, 0), 0);
    assert_int_equal(gnutls_x509_crt_sign2(crt, by->crt, by->key, GNUTLS_DIG_SHA256, 0), 0);
    assert_int_equal(gnutls_x509_crt_export2(trusted->crt, GNUTLS_X509_FMT_PEM, &pem), 0);
    write_file(dir, "ca.pem", &pem, 0644);
    assert_int_equal(gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_PEM, &pem), 0);
    write_file(dir, "cert.pem", &pem, 0644);
    assert_int_equal(gnutls_x509_privkey_export2(key, GNUTLS_X509_FMT_PEM, &pem), 0);
    write_file(dir, "key.pem", &pem, c->key_mode ? c->key_mode : 0600);
    gnutls_x509_crt_deinit(crt);
    gnutls_x509_privkey_deinit(key);
}
