/*
 * What a guest says and counts, in either mode.
 */
#ifndef GUESTS_OUTPUT_H
#define GUESTS_OUTPUT_H

#include <stdbool.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

/* One check: prints ok or BAD; true if good. */
bool check(const char *name, u64 got, u64 want);
/* One of many generated checks: counts, prints only what is bad. */
bool tally(const char *name, u64 id, u64 got, u64 want);
/* Prints one "ok NAME (N)" for the good ones since the last call. */
void tally_end(const char *name);
void skip(const char *name, const char *why);
void print(const char *s);
void print_hex(u64 v);
/* The two halves of check(). */
void check_good(const char *name);
void check_bad(const char *name, const char *what, u64 got, u64 want);
/* "done N ok M bad", and the end: power-off, or the debug exit port if something was bad or nothing was checked. */
_Noreturn void finish(void);
/* The same, something being bad. */
_Noreturn void finish_early(void);
_Noreturn void power_off(void);

static inline void out8(u16 port, u8 v)
{
    asm volatile("outb %0, %1" ::"a"(v), "Nd"(port) : "memory");
}

static inline u8 in8(u16 port)
{
    u8 v;
    asm volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory");
    return v;
}

#endif
