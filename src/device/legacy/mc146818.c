/*
 * The MC146818A real-time clock with 128 bytes of CMOS RAM. Source: Motorola MC146818A datasheet; memory sizes and century
 * as PC firmware leaves them (IBM PC/AT technical reference, Ralf Brown's CMOS list).
 *
 *   00 seconds   02 minutes   04 hours   06 weekday   07 day   08 month   09 year   32 century
 *   01, 03, 05   alarm for seconds, minutes, hours; C0-FF there means "any"
 *   0A  | UIP | DV 6-4 | RS 3-0 |          0B  | SET | PIE | AIE | UIE | SQWE | DM | 24/12 | DSE |
 *   0C  | IRQF | PF | AF | UF | 0 |        0D  | VRT | 0 |
 *
 * The time is the machine's wall clock plus `offset`, which changes when the guest sets its clock; the ten registers are
 * made from it when they are read. While SET is on (or the divider is held in reset) the ten registers stand still and hold
 * what is written; leaving that state turns them into a new offset.
 *
 * Flags are derived as well: catch_up() looks at how many seconds and periods passed since it last ran and sets PF, AF and
 * UF, as the chip does whether enabled or not. A timer runs only for flags whose interrupt is enabled. Ticks that passed
 * together are one interrupt.
 *
 * UIP is 1 during the last 244 us of each second; the update itself takes no time here (1984 us on the chip, with UIP set).
 *
 * Not done: daylight saving (DSE), square wave, the chip's power-down modes.
 */
#include "device/legacy/legacy.h"
#include "machine/platform.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    RTC_SECOND,
    RTC_SECOND_ALARM,
    RTC_MINUTE,
    RTC_MINUTE_ALARM,
    RTC_HOUR,
    RTC_HOUR_ALARM,
    RTC_WEEKDAY,
    RTC_DAY,
    RTC_MONTH,
    RTC_YEAR,
    RTC_A,
    RTC_B,
    RTC_C,
    RTC_D,
    RTC_CENTURY = 0x32
};

#define A_UIP    0x80
#define A_DV     0x70
#define A_DV_RUN 0x20 /* 32.768 kHz time base */
#define B_SET    0x80
#define B_UIE    0x10
#define B_BINARY 0x04
#define B_24H    0x02
#define F_IRQ    0x80
#define F_P      0x40
#define F_A      0x20
#define F_U      0x10
#define D_VRT    0x80
#define PM       0x80
#define ANY      0xc0

#define NS       1000000000ll
#define UIP_NS   244000
#define DAY      86400
/* Years 1 to 9999 in seconds around 1970: wall clocks beyond are taken as this. */
#define TIME_MAX 253402300799ll
#define TIME_MIN (-62135596800ll)
/* More than any date that fits into the registers is away from any other */
#define OFFSET_MAX (1ll << 41)

struct mc146818 {
    u8 index;
    u8 ram[128];
    s64 offset;    /* seconds: RTC time - wall clock */
    s64 last_sec;  /* RTC second up to which AF and UF are accounted for */
    u64 last_tick; /* 32.768 kHz clocks of guest time up to which PF is accounted for */
    u8 weekday_shift;
    struct irq_line irq;
    struct vtimer timer;
    const struct device_env *env;
};

struct civil {
    s64 year;
    unsigned month, day, hour, minute, second; /* month and day from 1 */
};

/* --- calendar (proleptic Gregorian; days counted from 1970-01-01) --- */

static s64 floor_div(s64 a, s64 b)
{
    return a / b - (a % b < 0);
}

/* Years run from March so that the leap day is the last; 400 years are 146097 days. */
static s64 days_from_civil(s64 year, s64 month, s64 day)
{
    s64 m = month - 1;
    year += floor_div(m, 12);
    m -= floor_div(m, 12) * 12;
    s64 y = m < 2 ? year - 1 : year, mp = (m + 10) % 12, era = floor_div(y, 400), yoe = y - era * 400;
    s64 doy = (153 * mp + 2) / 5 + day - 1;
    return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

static struct civil civil_from_seconds(s64 t)
{
    s64 days = floor_div(t, DAY), rest = t - days * DAY;
    s64 z = days + 719468, era = floor_div(z, 146097), doe = z - era * 146097;
    s64 yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    s64 doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
    s64 month = mp < 10 ? mp + 3 : mp - 9;
    return (struct civil){
        .year = yoe + era * 400 + (month <= 2),
        .month = (unsigned)month,
        .day = (unsigned)(doy - (153 * mp + 2) / 5 + 1),
        .hour = (unsigned)(rest / 3600),
        .minute = (unsigned)(rest / 60 % 60),
        .second = (unsigned)(rest % 60),
    };
}

/* --- formats (register B) --- */

static u8 encode(const struct mc146818 *r, unsigned v)
{
    return (u8)(r->ram[RTC_B] & B_BINARY ? v : v / 10 % 10 << 4 | v % 10);
}

static unsigned decode(const struct mc146818 *r, u8 v)
{
    return r->ram[RTC_B] & B_BINARY ? v : (v >> 4) * 10u + (v & 15);
}

static u8 encode_hour(const struct mc146818 *r, unsigned h)
{
    if (r->ram[RTC_B] & B_24H)
        return encode(r, h);
    return encode(r, h % 12 ? h % 12 : 12) | (h >= 12 ? PM : 0);
}

static unsigned decode_hour(const struct mc146818 *r, u8 v)
{
    if (r->ram[RTC_B] & B_24H)
        return decode(r, v);
    return decode(r, v & 0x7f) % 12 + (v & PM ? 12 : 0);
}

/* --- time --- */

static bool runs(const struct mc146818 *r)
{
    return !(r->ram[RTC_B] & B_SET) && (r->ram[RTC_A] & A_DV) == A_DV_RUN;
}

static s64 wall_ns(const struct mc146818 *r)
{
    return vclock_wall_ns(r->env->clock);
}

static s64 seconds_at(const struct mc146818 *r, s64 wall)
{
    s64 t = floor_div(wall, NS) + r->offset;
    return t < TIME_MIN ? TIME_MIN : MIN(t, TIME_MAX);
}

static s64 rtc_seconds(const struct mc146818 *r)
{
    return seconds_at(r, wall_ns(r));
}

/* Put the present time into the ten registers. */
static void time_to_ram(struct mc146818 *r)
{
    s64 t = rtc_seconds(r), days = floor_div(t, DAY);
    struct civil c = civil_from_seconds(t);
    s64 weekday = days + 4 + r->weekday_shift; /* 1970-01-01 was a Thursday; Sunday is 1 */
    r->ram[RTC_SECOND] = encode(r, c.second);
    r->ram[RTC_MINUTE] = encode(r, c.minute);
    r->ram[RTC_HOUR] = encode_hour(r, c.hour);
    r->ram[RTC_WEEKDAY] = encode(r, (unsigned)(weekday - floor_div(weekday, 7) * 7) + 1);
    r->ram[RTC_DAY] = encode(r, c.day);
    r->ram[RTC_MONTH] = encode(r, c.month);
    r->ram[RTC_YEAR] = encode(r, (unsigned)(c.year % 100));
    r->ram[RTC_CENTURY] = encode(r, (unsigned)(c.year / 100));
}

/* Make the ten registers the present time. Values that no date has carry over, as a sum of days and seconds. */
static void time_from_ram(struct mc146818 *r)
{
    s64 year = (s64)decode(r, r->ram[RTC_CENTURY]) * 100 + decode(r, r->ram[RTC_YEAR]);
    s64 days = days_from_civil(year, decode(r, r->ram[RTC_MONTH]), decode(r, r->ram[RTC_DAY]));
    s64 t = days * DAY + decode_hour(r, r->ram[RTC_HOUR]) * 3600 + decode(r, r->ram[RTC_MINUTE]) * 60 +
            decode(r, r->ram[RTC_SECOND]);
    r->offset = t - floor_div(wall_ns(r), NS);
    r->last_sec = rtc_seconds(r);
    s64 weekday = floor_div(r->last_sec, DAY) + 4;
    s64 shift = (s64)decode(r, r->ram[RTC_WEEKDAY]) - 1 - weekday;
    r->weekday_shift = (u8)(shift - floor_div(shift, 7) * 7);
}

/* --- alarm --- */

static bool alarm_matches(const struct mc146818 *r, unsigned reg, unsigned v)
{
    u8 a = r->ram[reg];
    if (a >= ANY)
        return true;
    return v == (reg == RTC_HOUR_ALARM ? decode_hour(r, a) : decode(r, a));
}

static bool alarm_possible(const struct mc146818 *r)
{
    const u8 *m = r->ram;
    return (m[RTC_SECOND_ALARM] >= ANY || decode(r, m[RTC_SECOND_ALARM]) < 60) &&
           (m[RTC_MINUTE_ALARM] >= ANY || decode(r, m[RTC_MINUTE_ALARM]) < 60) &&
           (m[RTC_HOUR_ALARM] >= ANY || decode_hour(r, m[RTC_HOUR_ALARM]) < 24);
}

/* The first second after `t` at which the alarm goes off; INT64_MAX if its registers hold no time of day. */
static s64 next_alarm(const struct mc146818 *r, s64 t)
{
    s64 end = t + 2 * DAY;
    if (!alarm_possible(r))
        return INT64_MAX;
    for (t++; t < end;) {
        s64 of_day = t - floor_div(t, DAY) * DAY;
        if (!alarm_matches(r, RTC_HOUR_ALARM, (unsigned)(of_day / 3600)))
            t += 3600 - of_day % 3600;
        else if (!alarm_matches(r, RTC_MINUTE_ALARM, (unsigned)(of_day / 60 % 60)))
            t += 60 - of_day % 60;
        else if (!alarm_matches(r, RTC_SECOND_ALARM, (unsigned)(of_day % 60)))
            t++;
        else
            return t;
    }
    return INT64_MAX;
}

/* --- flags and interrupts --- */

/* Periodic rate in 32.768 kHz clocks, 0 for none (table 5 of the datasheet) */
static u64 period(const struct mc146818 *r)
{
    unsigned rs = r->ram[RTC_A] & 15;
    if (!rs || (r->ram[RTC_A] & A_DV) != A_DV_RUN)
        return 0;
    return rs < 3 ? 64ull << rs : 1ull << (rs - 1);
}

static u64 now_tick(const struct mc146818 *r)
{
    return (u64)((unsigned __int128)vclock_ns(r->env->clock) * 32768 / NS);
}

/* Set the flags of everything that happened since the last call, and the line. */
static void catch_up(struct mc146818 *r)
{
    u8 *c = &r->ram[RTC_C];
    u64 tick = now_tick(r), p = period(r);
    if (p && tick / p != r->last_tick / p)
        *c |= F_P;
    r->last_tick = tick;
    s64 now = rtc_seconds(r);
    if (runs(r) && now > r->last_sec) {
        *c |= F_U;
        if (next_alarm(r, r->last_sec) <= now)
            *c |= F_A;
    }
    r->last_sec = now;
    bool irq = *c & r->ram[RTC_B] & (F_P | F_A | F_U);
    *c = (u8)((*c & ~F_IRQ) | (irq ? F_IRQ : 0));
    irq_line_set(&r->irq, irq);
}

/* Guest ns at which the RTC's second `sec` begins. */
static u64 second_ns(const struct mc146818 *r, s64 sec)
{
    s64 wall = wall_ns(r), into = wall - floor_div(wall, NS) * NS;
    s64 wait = (sec - seconds_at(r, wall)) * NS - into;
    return vclock_ns(r->env->clock) + (u64)MAX(wait, 0);
}

/* Wake for the first flag that would interrupt. A flag that is already set needs no waking. */
static void arm(struct mc146818 *r)
{
    u8 want = r->ram[RTC_B] & (u8)~r->ram[RTC_C];
    u64 at = UINT64_MAX, p = period(r);
    if (want & F_P && p)
        at = (u64)(((unsigned __int128)(r->last_tick / p + 1) * p * NS + 32767) / 32768);
    if (want & F_U && runs(r))
        at = MIN(at, second_ns(r, r->last_sec + 1));
    s64 alarm = want & F_A && runs(r) ? next_alarm(r, r->last_sec) : INT64_MAX;
    if (alarm != INT64_MAX)
        at = MIN(at, second_ns(r, alarm));
    vtimer_set(r->env->clock, &r->timer, at);
}

static void fire(void *ctx)
{
    catch_up(ctx);
    arm(ctx);
}

/* --- registers --- */

static bool is_time(unsigned i)
{
    return i == RTC_SECOND || i == RTC_MINUTE || i == RTC_HOUR || (i >= RTC_WEEKDAY && i <= RTC_YEAR) ||
           i == RTC_CENTURY;
}

static bool update_near(const struct mc146818 *r)
{
    s64 wall = wall_ns(r);
    return runs(r) && wall - floor_div(wall, NS) * NS >= NS - UIP_NS;
}

/* Registers A and B: time stops or goes on when `runs` changes. */
static void write_ab(struct mc146818 *r, unsigned i, u8 v)
{
    bool was = runs(r);
    if (was)
        time_to_ram(r);
    if (i == RTC_A)
        v &= 0x7f;
    else if (v & B_SET)
        v &= (u8)~B_UIE; /* SET clears UIE */
    r->ram[i] = v;
    if (!was && runs(r))
        time_from_ram(r);
}

static void write_ram(struct mc146818 *r, unsigned i, u8 v)
{
    if (i == RTC_C || i == RTC_D)
        return; /* read-only */
    if (i == RTC_A || i == RTC_B) {
        write_ab(r, i, v);
        return;
    }
    if (!is_time(i) || !runs(r)) {
        r->ram[i] = v;
        return;
    }
    time_to_ram(r);
    r->ram[i] = v;
    time_from_ram(r);
}

static u8 read_ram(struct mc146818 *r, unsigned i)
{
    u8 v = r->ram[i];
    if (i == RTC_A)
        return update_near(r) ? v | A_UIP : v;
    if (i == RTC_C)
        r->ram[RTC_C] = 0;
    return v;
}

static u64 rtc_read(void *dev, u64 offset, unsigned size)
{
    struct mc146818 *r = dev;
    if (offset == 0)
        return 0xff; /* the index is write-only */
    catch_up(r);
    if (is_time(r->index) && runs(r))
        time_to_ram(r);
    u8 v = read_ram(r, r->index);
    catch_up(r);
    arm(r);
    return v;
}

static void rtc_write(void *dev, u64 offset, unsigned size, u64 value)
{
    struct mc146818 *r = dev;
    if (offset == 0) {
        r->index = value & 0x7f; /* bit 7 masks NMI on a PC; nothing raises one through that gate here */
        return;
    }
    catch_up(r);
    write_ram(r, r->index, (u8)value);
    catch_up(r);
    arm(r);
}

static const struct bus_ops rtc_ops = {rtc_read, rtc_write, 1};

static void put16(u8 *p, u64 v)
{
    p[0] = (u8)v;
    p[1] = (u8)(v >> 8);
}

/* What firmware leaves in CMOS: equipment, memory sizes, checksum of 10h-2Dh. */
static void fill_cmos(struct mc146818 *r)
{
    u64 low = r->env->ram_low, kib = low >> 10, high = r->env->ram_high >> 16;
    u8 *m = r->ram;
    m[0x14] = 0x06;       /* FPU, pointing device */
    put16(m + 0x15, 640); /* KiB of base memory */
    put16(m + 0x17, kib > 1024 ? MIN(kib - 1024, 0xffff) : 0);
    put16(m + 0x30, kib > 1024 ? MIN(kib - 1024, 0xffff) : 0);
    put16(m + 0x34, low > 16 << 20 ? MIN((low - (16 << 20)) >> 16, 0xffff) : 0); /* 64 KiB units above 16 MiB */
    put16(m + 0x5b, high);
    m[0x5d] = (u8)(high >> 16); /* 64 KiB units above 4 GiB */
    unsigned sum = 0;
    for (unsigned i = 0x10; i <= 0x2d; i++)
        sum += m[i];
    m[0x2e] = (u8)(sum >> 8);
    m[0x2f] = (u8)sum;
}

/* RESET clears the interrupt enables and flags; time, alarm and RAM are battery-backed. */
static void mc146818_reset(void *dev)
{
    struct mc146818 *r = dev;
    r->index = 0;
    r->ram[RTC_B] &= (u8) ~(F_P | F_A | F_U | 0x08);
    r->ram[RTC_C] = 0;
    catch_up(r);
    r->ram[RTC_C] = 0;
    arm(r);
}

static void mc146818_destroy(void *dev)
{
    struct mc146818 *r = dev;
    vtimer_remove(r->env->clock, &r->timer);
    free(r);
}

static int mc146818_create(void **dev, const struct device_env *env, struct error *e)
{
    struct mc146818 *r = calloc(1, sizeof(*r));
    if (!r)
        return error_set(e, ENOMEM, "mc146818: out of memory");
    r->env = env;
    r->irq = device_irq(env, GSI_RTC);
    r->ram[RTC_A] = A_DV_RUN | 6; /* 1024 Hz, as firmware sets it */
    r->ram[RTC_B] = B_24H;
    r->ram[RTC_D] = D_VRT;
    vtimer_init(env->clock, &r->timer, fire, r);
    r->last_sec = rtc_seconds(r);
    r->last_tick = now_tick(r);
    fill_cmos(r);
    time_to_ram(r);
    int err = bus_add_pio(env->bus, PORT_RTC, 2, &rtc_ops, r, "mc146818", e);
    if (err)
        mc146818_destroy(r);
    else
        *dev = r;
    return err;
}

static int mc146818_check(const void *candidate, struct error *e)
{
    const struct mc146818 *r = candidate;
    if (r->index > 127 || r->ram[RTC_A] & A_UIP || r->ram[RTC_C] & 15 || r->ram[RTC_D] != D_VRT || r->weekday_shift > 6)
        return error_set(e, EINVAL, "a register has a value that it can not have");
    if (r->offset < -OFFSET_MAX || r->offset > OFFSET_MAX || r->last_sec < TIME_MIN || r->last_sec > TIME_MAX ||
        r->last_tick > INT64_MAX)
        return error_set(e, EINVAL, "its time is not between the years 1 and 9999");
    return 0;
}

/* The wall clock may have moved while the machine was stored: seconds that passed then are no ticks. */
static void mc146818_loaded(void *object)
{
    struct mc146818 *r = object;
    if (rtc_seconds(r) < r->last_sec)
        r->last_sec = rtc_seconds(r);
    catch_up(r);
    arm(r);
}

static const struct rec_field mc146818_fields[] = {
    REC_FIELD(struct mc146818, index),     REC_FIELD(struct mc146818, ram),
    REC_FIELD(struct mc146818, offset),    REC_FIELD(struct mc146818, last_sec),
    REC_FIELD(struct mc146818, last_tick), REC_FIELD(struct mc146818, weekday_shift),
};

static const struct rec_desc mc146818_record = {
    .name = "mc146818",
    .type = REC_TYPE('R', 'T', 'C', ' '),
    .version = 1,
    .object_size = sizeof(struct mc146818),
    .fields = mc146818_fields,
    .n_fields = ARRAY_LEN(mc146818_fields),
    .check = mc146818_check,
    .loaded = mc146818_loaded,
};

const struct device_type mc146818_device = {
    .name = "mc146818",
    .record = &mc146818_record,
    .create = mc146818_create,
    .destroy = mc146818_destroy,
    .reset = mc146818_reset,
};
