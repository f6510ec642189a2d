/*
 * The integer and address types of the whole tree.
 *
 * Guest addresses are structs so that the compiler refuses to mix them up, to add them to host pointers or to
 * dereference them. The one way from a guest-physical address to host memory is machine/mem/mem.h.
 */
#ifndef TRAPEZE_BASE_TYPES_H
#define TRAPEZE_BASE_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
/* The same where they may stand at any address: in a guest's memory. */
typedef u8 u8_any;
typedef u16 u16_any __attribute__((aligned(1), may_alias));
typedef u32 u32_any __attribute__((aligned(1), may_alias));
typedef u64 u64_any __attribute__((aligned(1), may_alias));

typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;

/* A guest-virtual (linear) address: what paging translates. */
typedef struct {
    u64 v;
} gva_t;

/* A guest-physical address: what a guest's page tables yield. */
typedef struct {
    u64 v;
} gpa_t;

#define GVA(x)                        ((gva_t){(u64)(x)})
#define GPA(x)                        ((gpa_t){(u64)(x)})

#define PAGE_SHIFT                    12
#define PAGE_SIZE                     4096u
#define PAGE_MASK                     (~(u64)0xfff)

#define ARRAY_LEN(a)                  (sizeof(a) / sizeof((a)[0]))
#define BIT(n)                        (1ull << (n))

#define MIN(a, b)                     ((a) < (b) ? (a) : (b))
#define MAX(a, b)                     ((a) > (b) ? (a) : (b))

#define container_of(p, type, member) ((type *)((char *)(p)-offsetof(type, member)))

#define likely(x)                     __builtin_expect(!!(x), 1)
#define unlikely(x)                   __builtin_expect(!!(x), 0)

#endif
