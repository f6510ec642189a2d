#include "cli/cli.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

/* Digits at *s; moves *s behind them. strtoull would take spaces and signs. */
static int digits(const char **s, u64 *out)
{
    u64 v = 0;
    if (!isdigit((unsigned char)**s))
        return -EINVAL;
    for (; isdigit((unsigned char)**s); (*s)++)
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, (u64)(**s - '0'), &v))
            return -ERANGE;
    *out = v;
    return 0;
}

int cli_number(const char *s, u64 *out)
{
    int r = digits(&s, out);
    return r < 0 ? r : *s ? -EINVAL : 0;
}

int cli_size(const char *s, u64 *out)
{
    static const char units[] = "KMGT";
    u64 v;
    int r = digits(&s, &v);
    if (r < 0)
        return r;
    const char *unit = *s ? strchr(units, toupper((unsigned char)*s)) : NULL;
    if (!unit || s[1])
        return -EINVAL;
    unsigned shift = 10 * (unsigned)(unit - units + 1);
    if (v > UINT64_MAX >> shift)
        return -ERANGE;
    *out = v << shift;
    return 0;
}

int cli_time(const char *s, u64 *out)
{
    static const struct {
        const char *unit;
        u64 ms;
    } units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}};
    u64 v;
    int r = digits(&s, &v);
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(units); i++)
        if (!strcmp(s, units[i].unit))
            return __builtin_mul_overflow(v, units[i].ms, out) ? -ERANGE : 0;
    return r < 0 ? r : -EINVAL;
}

int cli_rate(const char *s, u64 *out)
{
    static const char units[] = "KMGT";
    u64 v, scale = 1000;
    int r = digits(&s, &v);
    if (r < 0)
        return r;
    const char *unit = *s ? strchr(units, toupper((unsigned char)*s)) : NULL;
    if (!unit || s[1])
        return -EINVAL;
    for (const char *p = units; p < unit; p++)
        scale *= 1000;
    return __builtin_mul_overflow(v, scale, out) ? -ERANGE : 0;
}

int cli_key(const char *s, u8 *out)
{
    if (!strcmp(s, "none")) {
        *out = 0;
        return 0;
    }
    if (s[0] != '^' || !s[1] || s[2])
        return -EINVAL;
    int c = toupper((unsigned char)s[1]);
    if (c < 'A' || c > '_') /* ^A .. ^Z ^[ ^\ ^] ^^ ^_ : 01h .. 1Fh */
        return -EINVAL;
    *out = (u8)(c & 0x1f);
    return 0;
}

const char *cli_key_name(u8 key, char out[16])
{
    if (key)
        snprintf(out, 16, "Ctrl-%c", key < 27 ? 'a' + key - 1 : '@' + key);
    else
        snprintf(out, 16, "none");
    return out;
}

const char *cli_size_name(u64 bytes, char out[24])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    unsigned u = 0;
    double v = (double)bytes;
    while (v >= 1024 && u + 1 < ARRAY_LEN(units)) {
        v /= 1024;
        u++;
    }
    snprintf(out, 24, v == (double)(u64)v ? "%.0f %s" : "%.1f %s", v, units[u]);
    return out;
}

int cli_choice(const char *choices, const char *s)
{
    size_t n = strlen(s);
    for (int i = 0; *choices; i++) {
        size_t len = strcspn(choices, "|");
        if (len == n && !memcmp(choices, s, n))
            return i;
        choices += len + (choices[len] == '|');
    }
    return -1;
}
