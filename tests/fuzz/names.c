/* Messages of DNS: any question is read inside its bounds, and what is said about it is a message that fits it. */
#include "network/dns.h"
#include "fuzz.h"

static void check(const u8 *m, size_t len, const struct dns_question *q)
{
    static const u32 addresses[DNS_ANSWERS + 2] = {1, 2, 3};
    u8 out[1024];
    size_t n = dns_answer(out, sizeof(out), m, q, addresses, DNS_ANSWERS + 2);
    FUZZ_CHECK(n == q->end + DNS_ANSWERS * 16 && dns_fits(m, len, out, n));
    n = dns_answer(out, q->end + 20, m, q, addresses, 2); /* room for one */
    FUZZ_CHECK(!n);
    n = dns_answer_name(out, sizeof(out), m, q, "name");
    FUZZ_CHECK(n == q->end + 18 && dns_fits(m, len, out, n));
    n = dns_refuse(out, sizeof(out), m, q, DNS_NXDOMAIN);
    FUZZ_CHECK(n == q->end && dns_fits(m, len, out, n));
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
    struct dns_question q, again;
    u8 out[DNS_UDP_MAX];
    u32 address;
    /* A question, and behind it what a server says: the first byte is where. */
    size_t n = len ? data[0] * 4u : 0;
    if (len < 2 || n > len - 1)
        return 0;
    const u8 *m = data + 1;
    int r = dns_parse(m, n, &q);
    FUZZ_CHECK(strlen(q.name) < DNS_NAME_MAX);
    dns_reverse(q.name, &address);
    dns_fits(m, n, m + n, len - 1 - n);
    if (r == 0) {
        FUZZ_CHECK(q.end <= n && q.end >= DNS_HEADER + 5);
        check(m, n, &q);
    } else if (n >= DNS_HEADER && r > -16) {
        size_t size = dns_refuse(out, sizeof(out), m, &q, (unsigned)-r);
        FUZZ_CHECK(size == DNS_HEADER && dns_parse(out, size, &again) < 0);
    }
    return 0;
}
