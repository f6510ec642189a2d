#include "base/bytes.h"

u32 crc32c(u32 crc, const void *data, size_t len)
{
    const u8 *p = data;
    crc = ~crc;
    while (len--) {
        crc ^= *p++;
        for (int i = 0; i < 8; i++)
            crc = crc >> 1 ^ (0x82f63b78u & -(crc & 1));
    }
    return ~crc;
}
