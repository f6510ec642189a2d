/* Certificates for tests, made with GnuTLS: a CA, and directories with ca.pem, cert.pem and key.pem as --tls wants them. */
#ifndef TRAPEZE_TESTS_CERTIFICATES_H
#define TRAPEZE_TESTS_CERTIFICATES_H

#include "base/types.h"

#include <gnutls/x509.h>
#include <time.h>

struct authority {
    gnutls_x509_privkey_t key;
    gnutls_x509_crt_t crt;
};

struct certificate {
    const char *ip[4];   /* whom it names: addresses in numbers, up to the first NULL, */
    const char *host;    /* and a host's name, or NULL */
    const char *purpose; /* an OID, or NULL: any */
    time_t from, to;     /* 0: from an hour ago, for an hour */
    unsigned key_mode;   /* of key.pem; 0: 0600 */
};

void authority_make(struct authority *a, const char *name);
void authority_free(struct authority *a);
/* Fill `dir`, which is there: a certificate by `by`, to believe in what `trusted` has signed. */
void certificate_make(const char *dir, const struct certificate *c, const struct authority *by,
                      const struct authority *trusted);

#endif
