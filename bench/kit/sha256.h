/* SHA-256 blocks (FIPS 180-4), in C and with the SHA extensions, for two workloads that must agree. */
#ifndef KIT_SHA256_H
#define KIT_SHA256_H

#include "kit.h"

extern const u32 sha256_k[64];

/* Work one 64-byte block into the state. */
void sha256_block_c(u32 state[8], const u8 *block);

/* Hash "abc" with known answer, then n - 1 blocks that depend on each other; 0xbad when the answer is wrong. */
u64 sha256_run(void (*block)(u32 *, const u8 *), int n);

#endif
