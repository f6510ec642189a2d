#include "base/net.h"

static bool gso_check(const struct net_header *h, u32 len, u32 takes)
{
    switch (h->gso_type & ~NET_GSO_ECN) {
    case NET_GSO_TCP4:
        if (!(takes & NET_TAKES_TSO4))
            return false;
        break;
    case NET_GSO_TCP6:
        if (!(takes & NET_TAKES_TSO6))
            return false;
        break;
    default:
        return false;
    }
    /* Segments get new checksums, so there must be one; 20 bytes of TCP header lie behind its start. */
    return h->flags & NET_NEEDS_CSUM && h->gso_size && h->hdr_len <= len && (u32)h->csum_start + 20 <= len;
}

bool net_header_check(const struct net_header *h, u32 len, u32 takes)
{
    if (len < NET_FRAME_MIN || len > NET_FRAME_MAX || h->flags & ~(NET_NEEDS_CSUM | NET_DATA_VALID))
        return false;
    if (h->flags & NET_NEEDS_CSUM &&
        (!(takes & NET_TAKES_CSUM) || h->csum_start < NET_FRAME_MIN || (u32)h->csum_start + h->csum_offset + 2 > len))
        return false;
    return h->gso_type == NET_GSO_NONE || gso_check(h, len, takes);
}
