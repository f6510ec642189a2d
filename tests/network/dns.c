/* Questions of DNS: right ones, and hostile ones. */
#include "network/dns.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

/* "db", type A, with a number and recursion desired. */
static const u8 good[] = "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02"
                         "Db\x00\x00\x01\x00\x01";
#define GOOD (sizeof(good) - 1)

static void question(void **state)
{
    struct dns_question q;
    assert_int_equal(dns_parse(good, GOOD, &q), 0);
    assert_string_equal(q.name, "db");
    assert_int_equal(q.id, 0x1234);
    assert_int_equal(q.type, DNS_A);
    assert_int_equal(q.class, DNS_IN);
    assert_int_equal(q.end, GOOD);
    for (size_t n = 0; n < DNS_HEADER; n++)
        assert_int_equal(dns_parse(good, n, &q), -EBADMSG);
    for (size_t n = DNS_HEADER; n < GOOD; n++)
        assert_int_equal(dns_parse(good, n, &q), -(int)DNS_FORMERR);
}

static int parse_with(size_t at, u8 value, struct dns_question *q)
{
    u8 m[GOOD];
    memcpy(m, good, GOOD);
    m[at] = value;
    return dns_parse(m, GOOD, q);
}

static void hostile(void **state)
{
    struct dns_question q;
    u8 m[600] = {0};
    assert_int_equal(parse_with(2, 0x81, &q), -EBADMSG); /* an answer */
    assert_int_equal(parse_with(2, 0x29, &q), -(int)DNS_NOTIMP);
    assert_int_equal(parse_with(5, 2, &q), -(int)DNS_FORMERR); /* two questions */
    assert_int_equal(parse_with(4, 1, &q), -(int)DNS_FORMERR);
    assert_int_equal(parse_with(7, 1, &q), -(int)DNS_FORMERR);
    assert_int_equal(parse_with(12, 0xc0, &q), -(int)DNS_FORMERR); /* a pointer to itself */
    assert_int_equal(parse_with(12, 63, &q), -(int)DNS_FORMERR);   /* longer than the message */
    assert_int_equal(parse_with(12, 64, &q), -(int)DNS_FORMERR);
    assert_int_equal(parse_with(13, '.', &q), 0); /* a dot in a label is none between two */
    assert_string_equal(q.name, "?b");
    assert_int_equal(parse_with(13, 0, &q), 0);
    assert_string_equal(q.name, "?b");
    /* Labels without end, and too long altogether. */
    memcpy(m, good, DNS_HEADER);
    memset(m + DNS_HEADER, 1, sizeof(m) - DNS_HEADER);
    assert_int_equal(dns_parse(m, sizeof(m), &q), -(int)DNS_FORMERR);
    memset(m + DNS_HEADER, 0, sizeof(m) - DNS_HEADER);
    assert_int_equal(dns_parse(m, sizeof(m), &q), 0);
    assert_string_equal(q.name, "");
}

static void answers(void **state)
{
    static const u32 addresses[] = {0x0a5a0002, 0x0a5a0003};
    static const u8 header[] = "\x12\x34\x85\x80\x00\x01\x00\x02\x00\x00\x00\x00";
    static const u8 record[] = "\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04\x0a\x5a\x00\x02";
    struct dns_question q;
    u8 out[512];
    assert_int_equal(dns_parse(good, GOOD, &q), 0);
    size_t n = dns_answer(out, sizeof(out), good, &q, addresses, 2);
    assert_int_equal(n, GOOD + 32);
    assert_memory_equal(out, header, DNS_HEADER);
    assert_memory_equal(out + DNS_HEADER, good + DNS_HEADER, GOOD - DNS_HEADER);
    assert_memory_equal(out + GOOD, record, 16);
    assert_true(dns_fits(good, GOOD, out, n));
    for (size_t room = 0; room < n; room++)
        assert_int_equal(dns_answer(out, room, good, &q, addresses, 2), 0);
    assert_int_equal(dns_answer(out, sizeof(out), good, &q, NULL, 0), GOOD);
    assert_int_equal(out[7], 0);
    assert_int_equal(dns_refuse(out, sizeof(out), good, &q, DNS_NXDOMAIN), GOOD);
    assert_int_equal(out[3] & 15, DNS_NXDOMAIN);
    assert_int_equal(dns_answer_name(out, sizeof(out), good, &q, "web"), GOOD + 12 + 5);
    assert_memory_equal(out + GOOD + 12, "\3web", 5);
    assert_int_equal(dns_answer_name(out, sizeof(out), good, &q, "a.b"), 0);
    assert_int_equal(dns_answer_name(out, sizeof(out), good, &q, ""), 0);
}

/* What is passed on repeats the question; else it is nobody's answer. */
static void fits(void **state)
{
    struct dns_question q;
    u8 m[GOOD];
    assert_int_equal(dns_parse(good, GOOD, &q), 0);
    dns_refuse(m, sizeof(m), good, &q, DNS_NOERROR);
    m[13] = 'd';
    assert_true(dns_fits(good, GOOD, m, GOOD));
    m[13] = 'e';
    assert_false(dns_fits(good, GOOD, m, GOOD));
    m[13] = 'D';
    for (size_t n = 0; n < GOOD; n++)
        assert_false(dns_fits(good, GOOD, m, n));
    m[0] ^= 1;
    assert_false(dns_fits(good, GOOD, m, GOOD));
    assert_false(dns_fits(good, GOOD, good, GOOD));
}

static void reverse(void **state)
{
    u32 a;
    assert_true(dns_reverse("2.0.90.10.in-addr.arpa", &a));
    assert_int_equal(a, 0x0a5a0002);
    assert_false(dns_reverse("2.0.90.10.in-addr.arpa.x", &a));
    assert_false(dns_reverse("256.0.90.10.in-addr.arpa", &a));
    assert_false(dns_reverse("0.90.10.in-addr.arpa", &a));
    assert_false(dns_reverse("", &a));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(question), cmocka_unit_test(hostile), cmocka_unit_test(answers),
        cmocka_unit_test(fits),     cmocka_unit_test(reverse),
    };
    return cmocka_run_group_tests_name("network-dns", tests, NULL, NULL);
}
