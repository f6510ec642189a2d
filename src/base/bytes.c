#include "base/bytes.h"

#include <nmmintrin.h>

/* A bit at a time: for what is short, and for processors without SSE4.2. */
static u32 slowly(u32 crc, const u8 *p, size_t len)
{
    while (len--) {
        crc ^= *p++;
        for (int i = 0; i < 8; i++)
            crc = crc >> 1 ^ (0x82f63b78u & -(crc & 1));
    }
    return crc;
}

__attribute__((target("sse4.2"))) static u32 by_instruction(u32 crc, const u8 *p, size_t len)
{
    u64 wide = crc;
    for (; len >= 8; p += 8, len -= 8)
        wide = _mm_crc32_u64(wide, get_le64(p));
    crc = (u32)wide;
    while (len--)
        crc = _mm_crc32_u8(crc, *p++);
    return crc;
}

u32 crc32c(u32 crc, const void *data, size_t len)
{
    return ~(__builtin_cpu_supports("sse4.2") ? by_instruction : slowly)(~crc, data, len);
}
