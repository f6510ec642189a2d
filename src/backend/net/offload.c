/*
 * What a network adapter does for a driver, done by hand: checksums, and cutting large TCP segments. For receivers that take
 * neither: sockets by way of libslirp, and machines on a switch whose driver did not agree to it.
 *
 *   | Ethernet 14 | IPv4 20.. or IPv6 40 | TCP 20.. |  data ..                          |      gso_size = n
 *                                                    | n bytes | n bytes | ...  | rest  |
 *
 * Each piece gets a copy of the headers with its own length, identification (IPv4), sequence number and checksums; FIN and PSH go
 * with the last, CWR with the first. Headers come from a hostile guest: lengths are those found in the frame, each checked.
 *
 * Not done: IPv6 extension headers, VLAN tags (such frames are not cut, but dropped).
 */
#include "backend/net/net.h"
#include "base/bytes.h"

#include <string.h>

#define ETH       14u
#define TCP_CSUM  16u
#define TCP_FIN   0x01u
#define TCP_PSH   0x08u
#define TCP_CWR   0x80u
#define PROTO_TCP 6u

/* Sum of 16-bit words in memory order, not folded. */
static u64 sum(const u8 *p, u32 len)
{
    u64 s = 0;
    u32 word;
    for (; len >= 4; p += 4, len -= 4) {
        memcpy(&word, p, 4);
        s += word;
    }
    if (len >= 2) {
        s += (u64)p[0] | (u64)p[1] << 8;
        p += 2;
        len -= 2;
    }
    return len ? s + p[0] : s;
}

/* The checksum that stands for a sum, in memory order. */
static u16 finish(u64 s)
{
    while (s >> 16)
        s = (s & 0xffff) + (s >> 16);
    return (u16)~s;
}

void net_finish_checksum(u8 *frame, u32 len, const struct net_header *h)
{
    u16 c = finish(sum(frame + h->csum_start, len - h->csum_start));
    c = c ? c : 0xffff; /* 0 means none in UDP, and the same to others */
    memcpy(frame + h->csum_start + h->csum_offset, &c, sizeof(c));
}

struct cut {
    u32 ip, tcp, data; /* offsets */
    bool v6;
};

static u16 be16(const u8 *p)
{
    return (u16)(p[0] << 8 | p[1]);
}

static void put_be16(u8 *p, u32 v)
{
    p[0] = (u8)(v >> 8);
    p[1] = (u8)v;
}

static void put_be32(u8 *p, u32 v)
{
    put_be16(p, v >> 16);
    put_be16(p + 2, v & 0xffff);
}

static bool find_headers(const u8 *f, u32 len, const struct net_header *h, struct cut *c)
{
    c->v6 = (h->gso_type & ~NET_GSO_ECN) == NET_GSO_TCP6;
    c->ip = ETH;
    c->tcp = h->csum_start;
    u32 least = ETH + (c->v6 ? 40 : 20);
    if (len < least || be16(f + 12) != (c->v6 ? 0x86dd : 0x0800) || f[ETH] >> 4 != (c->v6 ? 6 : 4))
        return false;
    if (c->tcp != (c->v6 ? least : ETH + 4u * (f[ETH] & 15)) || c->tcp < least || c->tcp + 20 > len)
        return false;
    if (f[c->v6 ? ETH + 6 : ETH + 9] != PROTO_TCP)
        return false;
    c->data = c->tcp + 4u * (f[c->tcp + 12] >> 4);
    return c->data >= c->tcp + 20 && c->data <= len;
}

/* The headers of one piece of `n` bytes, `at` bytes into the data, the `i`th; data stands behind them. */
static void finish_piece(u8 *p, const struct cut *c, u32 at, u32 n, u32 i)
{
    u32 total = c->data - c->ip + n, tcp_len = c->data - c->tcp + n, id = be16(p + c->ip + 4) + i;
    u32 seq = ((u32)be16(p + c->tcp + 4) << 16 | be16(p + c->tcp + 6)) + at;
    u64 s = sum(p + c->ip + (c->v6 ? 8 : 12), c->v6 ? 32 : 8); /* both addresses */
    u8 tail[4] = {0, PROTO_TCP, (u8)(tcp_len >> 8), (u8)tcp_len};
    if (c->v6) {
        put_be16(p + c->ip + 4, total - 40);
    } else {
        put_be16(p + c->ip + 2, total);
        put_be16(p + c->ip + 4, id & 0xffff);
        memset(p + c->ip + 10, 0, 2);
        u16 v = finish(sum(p + c->ip, c->tcp - c->ip));
        memcpy(p + c->ip + 10, &v, sizeof(v));
    }
    put_be32(p + c->tcp + 4, seq);
    memset(p + c->tcp + TCP_CSUM, 0, 2);
    u16 v = finish(s + sum(tail, 4) + sum(p + c->tcp, tcp_len));
    memcpy(p + c->tcp + TCP_CSUM, &v, sizeof(v));
}

bool net_segment(const u8 *frame, u32 len, const struct net_header *h, u8 *buf,
                 void (*out)(void *ctx, const u8 *frame, u32 len), void *ctx)
{
    struct cut c;
    if (!find_headers(frame, len, h, &c) || !h->gso_size)
        return false;
    u32 data = len - c.data, i = 0;
    for (u32 at = 0; at < data || !i; at += h->gso_size, i++) {
        u32 n = MIN(data - at, (u32)h->gso_size);
        memcpy(buf, frame, c.data);
        memcpy(buf + c.data, frame + c.data + at, n);
        if (at + n < data)
            buf[c.tcp + 13] &= (u8) ~(TCP_FIN | TCP_PSH);
        if (at)
            buf[c.tcp + 13] &= (u8)~TCP_CWR;
        finish_piece(buf, &c, at, n, i);
        out(ctx, buf, c.data + n);
    }
    return true;
}
