/*
 * Inside the room: messages of DNS (RFC 1035), as far as one that answers for a few names and passes the rest on needs them.
 * Every byte is hostile.
 */
#ifndef TRAPEZE_NETWORK_DNS_H
#define TRAPEZE_NETWORK_DNS_H

#include "base/types.h"

#define DNS_HEADER   12u
#define DNS_NAME_MAX 256u
#define DNS_UDP_MAX  1500u  /* of a question over UDP */
#define DNS_MAX      65535u /* over TCP */
#define DNS_ANSWERS  24u    /* addresses of one name: they fit into the 512 bytes that everybody takes */

#define DNS_A        1u
#define DNS_PTR      12u
#define DNS_ANY      255u
#define DNS_IN       1u

#define DNS_NOERROR  0u
#define DNS_FORMERR  1u
#define DNS_SERVFAIL 2u
#define DNS_NXDOMAIN 3u
#define DNS_NOTIMP   4u

struct dns_question {
    u16 id;
    char name[DNS_NAME_MAX]; /* small letters, dots between, none at the end; what is no letter, digit, - or _ is ? */
    u16 type, class;
    size_t end; /* of the question's section */
};

/*
 * A question: 0; -DNS_FORMERR or -DNS_NOTIMP for what is answered with that code (then at least the header is whole), -EBADMSG for
 * what no answer is given to.
 */
int dns_parse(const u8 *m, size_t n, struct dns_question *q);
/* The question's own fields and this code, nothing else: DNS_HEADER bytes, or with the question when it could be read. */
size_t dns_refuse(u8 *out, size_t room, const u8 *question, const struct dns_question *q, unsigned code);
/* With addresses (numbers) of the name. Bytes, 0: `room` is too small. */
size_t dns_answer(u8 *out, size_t room, const u8 *question, const struct dns_question *q, const u32 *addresses,
                  size_t n);
/* With the name of an address. */
size_t dns_answer_name(u8 *out, size_t room, const u8 *question, const struct dns_question *q, const char *name);
/* Whether `answer` is one to `question`, by its number and what it repeats. */
bool dns_fits(const u8 *question, size_t n, const u8 *answer, size_t m);
/* The address that "4.3.2.10.in-addr.arpa" asks for; false: it does not. */
bool dns_reverse(const char *name, u32 *address);

#endif
