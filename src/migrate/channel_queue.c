/*
 * How much of a channel's bytes may be on their way in the network.
 *
 * Theory: TCP fills the queue before the slowest link until that drops something, and whoever shares the link waits behind it: the
 * guest's own connections, for tens of milliseconds, for as long as its memory goes over. A link is kept busy by as many bytes as it
 * moves in one round trip; all above stand in its queue. The kernel measures both (TCP_INFO: rate of delivery, least round trip), so
 * the socket's buffer, which bounds what is not acknowledged, is set to their product and a short queue more. What was measured while
 * nobody had more to send says nothing about the link and lowers nothing. A bound that was too low shows a rate of itself by
 * the round trip, and so grows by queue / round trip with each look. (After BBR, Cardwell et al., ACM Queue 14(5), 2016.)
 */
#include "migrate/channel_internal.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#define LOOK_NS   5000000u
#define QUEUE_US  2000u        /* of the bytes that are on their way, at least: in the queue */
#define QUEUE_OF  4u           /* ... and this part of the round trip */
#define LEAST     (64u << 10)  /* bytes */
#define MOST      (256u << 20) /* bytes */
#define US_PER_S  1000000u
#define KERNEL_OF 2u /* the kernel takes twice of what it is told, for what it needs itself */

u32 channel_queue_bytes(u64 rate, u32 rtt_us)
{
    u64 us = (u64)rtt_us + MAX((u64)QUEUE_US, (u64)rtt_us / QUEUE_OF);
    unsigned __int128 bytes = (unsigned __int128)rate * us / US_PER_S;
    return (u32)MIN(MAX(bytes, (unsigned __int128)LEAST), (unsigned __int128)MOST);
}

void channel_queue_bound(struct channel *c, u64 now)
{
    struct tcp_info i = {0};
    socklen_t len = sizeof(i);
    if (!c->tcp || now - c->queue_looked < LOOK_NS)
        return;
    c->queue_looked = now;
    if (getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &i, &len) < 0 || !i.tcpi_delivery_rate || !i.tcpi_min_rtt)
        return; /* kernels before 4.9: as they do it themselves */
    u32 bytes = channel_queue_bytes(i.tcpi_delivery_rate, i.tcpi_min_rtt);
    if (c->queue_bound && bytes < c->queue_bound && i.tcpi_delivery_rate_app_limited)
        return;
    if (bytes > c->queue_bound - c->queue_bound / 8 && bytes < c->queue_bound + c->queue_bound / 8)
        return;
    int value = (int)(bytes / KERNEL_OF);
    if (setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &value, sizeof(value)) == 0)
        c->queue_bound = bytes;
}
