/* Little-endian loads and stores of any alignment, and the checksum of records. */
#ifndef TRAPEZE_BASE_BYTES_H
#define TRAPEZE_BASE_BYTES_H

#include "base/types.h"

#include <string.h>

/* The tree runs on little-endian hosts only (x86-64), so these are plain unaligned accesses. */
static inline u16 get_le16(const void *p)
{
    u16 v;
    memcpy(&v, p, 2);
    return v;
}
static inline u32 get_le32(const void *p)
{
    u32 v;
    memcpy(&v, p, 4);
    return v;
}
static inline u64 get_le64(const void *p)
{
    u64 v;
    memcpy(&v, p, 8);
    return v;
}
static inline void put_le16(void *p, u16 v)
{
    memcpy(p, &v, 2);
}
static inline void put_le32(void *p, u32 v)
{
    memcpy(p, &v, 4);
}
static inline void put_le64(void *p, u64 v)
{
    memcpy(p, &v, 8);
}

/* CRC-32C (Castagnoli, reflected 0x82f63b78) of `len` bytes, continuing from `crc` (0 to start). RFC 3720, B.4. */
u32 crc32c(u32 crc, const void *data, size_t len);

#endif
