/*
 * Results: serial output, counting, the end. The same in 64-bit and in 32-bit guests.
 */
#include "output.h"

#define COM1       0x3f8
#define DEBUG_EXIT 0xf4
#define PM_CONTROL 0x604
#define POWER_OFF  0x3400 /* SLP_EN, SLP_TYP 5 (src/machine/platform.h) */

static unsigned n_ok, n_bad, n_group;

static void put(char c)
{
    while (!(in8(COM1 + 5) & 0x20))
        ;
    out8(COM1, (u8)c);
}

void print(const char *s)
{
    for (; *s; s++)
        put(*s);
}

void print_hex(u64 v)
{
    int shift = 60;

    while (shift && !(v >> shift))
        shift -= 4;
    for (; shift >= 0; shift -= 4)
        put("0123456789abcdef"[v >> shift & 15]);
}

static void print_number(unsigned n)
{
    if (n > 9)
        print_number(n / 10);
    put((char)('0' + n % 10));
}

void check_bad(const char *name, const char *what, u64 got, u64 want)
{
    n_bad++;
    print("BAD ");
    print(name);
    print(what);
    print(" got=");
    print_hex(got);
    print(" want=");
    print_hex(want);
    print("\n");
}

void check_good(const char *name)
{
    n_ok++;
    print("ok ");
    print(name);
    print("\n");
}

bool check(const char *name, u64 got, u64 want)
{
    if (got == want)
        check_good(name);
    else
        check_bad(name, "", got, want);
    return got == want;
}

bool tally(const char *name, u64 id, u64 got, u64 want)
{
    if (got == want) {
        n_group++;
        return true;
    }
    print("case ");
    print_hex(id);
    print(": ");
    check_bad(name, "", got, want);
    return false;
}

void tally_end(const char *name)
{
    n_ok += n_group;
    print("ok ");
    print(name);
    print(" (");
    print_number(n_group);
    print(")\n");
    n_group = 0;
}

void skip(const char *name, const char *why)
{
    print("skip ");
    print(name);
    print(": ");
    print(why);
    print("\n");
}

void power_off(void)
{
    asm volatile("outw %0, %1" ::"a"((u16)POWER_OFF), "d"((u16)PM_CONTROL));
    for (;;)
        asm volatile("cli; hlt");
}

void finish(void)
{
    print("done ");
    print_number(n_ok);
    print(" ok ");
    print_number(n_bad);
    print(" bad\n");
    if (n_bad || !n_ok)
        out8(DEBUG_EXIT, 1);
    power_off();
}

void finish_early(void)
{
    n_bad++;
    finish();
}
