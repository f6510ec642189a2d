/* Vector code, AES, SHA and CRC instructions. AES starts with FIPS 197's example, CRC-32C with its check value. */
#include "kit.h"
#include "sha256.h"

#include <immintrin.h>
#include <string.h>

#define TARGET(t) __attribute__((target(t)))

WORK simd_sse2(void)
{
    __m128i x = _mm_set_epi32(1, 2, 3, 4), acc = _mm_setzero_si128();
    __m128 f = _mm_set1_ps(1.0f), g = _mm_set_ps(.5f, .25f, .125f, 2.f);
    u64 o[2], p[2];
    for (int i = 0; i < 100000; i++) {
        acc = _mm_add_epi32(acc, _mm_xor_si128(x, _mm_slli_epi32(x, 3)));
        x = _mm_shuffle_epi32(_mm_add_epi32(x, _mm_set1_epi32(i)), 0x39);
        acc = _mm_sub_epi8(acc, _mm_cmpgt_epi16(x, acc));
        f = _mm_add_ps(_mm_mul_ps(f, _mm_set1_ps(.999f)), g);
    }
    _mm_storeu_si128((__m128i *)o, acc);
    memcpy(p, &f, 16);
    return (o[0] * 31) ^ o[1] ^ (p[0] * 7) ^ p[1];
}

TARGET("avx2") WORK simd_avx2(void)
{
    const __m256i rotate = _mm256_set_epi32(6, 5, 4, 3, 2, 1, 0, 7);
    __m256i x = _mm256_set_epi32(1, 2, 3, 4, 5, 6, 7, 8), acc = _mm256_setzero_si256();
    __m256d f = _mm256_set1_pd(1.0);
    u64 o[4], p[4];
    for (int i = 0; i < 100000; i++) {
        acc = _mm256_add_epi64(acc, _mm256_mul_epu32(x, x));
        x = _mm256_permutevar8x32_epi32(_mm256_add_epi32(x, _mm256_set1_epi32(i)), rotate);
        f = _mm256_add_pd(_mm256_mul_pd(f, _mm256_set1_pd(.99)), _mm256_set1_pd(.25));
    }
    _mm256_storeu_si256((__m256i *)o, acc);
    memcpy(p, &f, 32);
    return o[0] ^ (o[1] * 3) ^ (o[2] * 5) ^ (o[3] * 7) ^ p[0] ^ (p[3] * 11);
}

TARGET("aes,sse4.1") static __m128i next_key(__m128i k, __m128i assist)
{
    assist = _mm_shuffle_epi32(assist, 0xff);
    for (int i = 0; i < 3; i++)
        k = _mm_xor_si128(k, _mm_slli_si128(k, 4));
    return _mm_xor_si128(k, assist);
}

TARGET("aes,sse4.1") static void expand_key(__m128i k[11], const u8 key[16])
{
    k[0] = _mm_loadu_si128((const void *)key);
#define KEY(i, rcon) k[i] = next_key(k[(i)-1], _mm_aeskeygenassist_si128(k[(i)-1], rcon))
    KEY(1, 1);
    KEY(2, 2);
    KEY(3, 4);
    KEY(4, 8);
    KEY(5, 16);
    KEY(6, 32);
    KEY(7, 64);
    KEY(8, 128);
    KEY(9, 27);
    KEY(10, 54);
#undef KEY
}

/* FIPS 197, C.1, then a chain of 4096 blocks. */
TARGET("aes,sse4.1") WORK aes_ni(void)
{
    static const u8 want[16] = {0x69, 0xc4, 0xe0, 0xd8, 0x6a, 0x7b, 0x04, 0x30,
                                0xd8, 0xcd, 0xb7, 0x80, 0x70, 0xb4, 0xc5, 0x5a};
    u8 key[16], plain[16];
    __m128i k[11], first = _mm_setzero_si128();
    u64 o[2];
    for (int i = 0; i < 16; i++) {
        key[i] = (u8)i;
        plain[i] = (u8)(i * 0x11);
    }
    expand_key(k, key);
    __m128i b = _mm_loadu_si128((const void *)plain);
    for (int n = 0; n < 4096; n++) {
        b = _mm_xor_si128(b, k[0]);
        for (int r = 1; r < 10; r++)
            b = _mm_aesenc_si128(b, k[r]);
        b = _mm_aesenclast_si128(b, k[10]);
        if (n == 0)
            first = b;
    }
    if (memcmp(&first, want, 16))
        return 0xbad;
    _mm_storeu_si128((void *)o, b);
    return o[0] ^ o[1];
}

/* Four rounds at a time; the message schedule runs in a ring of four vectors. */
TARGET("sha,sse4.1") static void rounds(__m128i *s0, __m128i *s1, __m128i m[4])
{
    for (int i = 0; i < 16; i++) {
        __m128i w = m[i & 3], k = _mm_add_epi32(w, _mm_loadu_si128((const void *)(sha256_k + 4 * i)));
        *s1 = _mm_sha256rnds2_epu32(*s1, *s0, k);
        *s0 = _mm_sha256rnds2_epu32(*s0, *s1, _mm_shuffle_epi32(k, 0x0e));
        if (i < 12) {
            __m128i w1 = m[(i + 1) & 3], w2 = m[(i + 2) & 3], w3 = m[(i + 3) & 3];
            m[i & 3] = _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32(w, w1), _mm_alignr_epi8(w3, w2, 4)), w3);
        }
    }
}

TARGET("sha,sse4.1") static void sha256_block_ni(u32 state[8], const u8 *block)
{
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bull, 0x0405060700010203ull);
    __m128i t = _mm_shuffle_epi32(_mm_loadu_si128((const void *)state), 0xb1), m[4];
    __m128i s1 = _mm_shuffle_epi32(_mm_loadu_si128((const void *)(state + 4)), 0x1b);
    __m128i s0 = _mm_alignr_epi8(t, s1, 8);
    s1 = _mm_blend_epi16(s1, t, 0xf0);
    const __m128i old0 = s0, old1 = s1;
    for (int i = 0; i < 4; i++)
        m[i] = _mm_shuffle_epi8(_mm_loadu_si128((const void *)(block + 16 * i)), swap);
    rounds(&s0, &s1, m);
    t = _mm_shuffle_epi32(_mm_add_epi32(s0, old0), 0x1b);
    s1 = _mm_shuffle_epi32(_mm_add_epi32(s1, old1), 0xb1);
    _mm_storeu_si128((void *)state, _mm_blend_epi16(t, s1, 0xf0));
    _mm_storeu_si128((void *)(state + 4), _mm_alignr_epi8(s1, t, 8));
}

WORK sha_ni(void)
{
    return sha256_run(sha256_block_ni, 500);
}

TARGET("sse4.2") WORK crc32(void)
{
    const char *digits = "123456789";
    u32 c = ~0u;
    u64 x = 0;
    for (int i = 0; i < 9; i++)
        c = _mm_crc32_u8(c, (u8)digits[i]);
    if (~c != 0xe3069283u)
        return 0xbad;
    for (u64 i = 0; i < 50000; i++)
        x = _mm_crc32_u64(x, i * 0x9e3779b97f4a7c15ull);
    return x;
}

static const struct workload rows[] = {
    {"simd_sse2", simd_sse2, 0x3953f766b6518ee2, 1, "ns/op", 0, 0, 0},
    {"simd_avx2", simd_avx2, 0x824a1ec9819ae6d0, 1, "ns/op", NEED_AVX2, 0, 0},
    {"aes_ni", aes_ni, 0xd5420b55fdb8997f, 65536.0, "MB/s", NEED_AES, 0, 0},
    {"sha_ni", sha_ni, 0x62b1ce259241b387, 1, "ns/op", NEED_SHA, 0, 0},
    {"crc32", crc32, 0x8bb95858, 1, "ns/op", NEED_SSE42, 0, 0},
};
WORK_TABLE(work_simd, rows);
