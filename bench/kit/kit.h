/*
 * The measuring kit: runs inside any guest, or natively, and prints "name value unit", a line a workload. Every result
 * is checked against a value known beforehand; `BAD` means a wrong one, which weighs more than any speed.
 *
 * A work_*.c file holds the workloads of one kind and ends with their table.
 */
#ifndef KIT_H
#define KIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint8_t u8;

/* A workload is one call that compilers must neither inline nor specialise. */
#ifdef __clang__
#define KEEP_CALL __attribute__((noinline))
#else
#define KEEP_CALL __attribute__((noinline, noclone))
#endif
#define WORK         static KEEP_CALL u64
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define MIB          (1u << 20)

/* CPU features that some workloads need. */
enum need { NEED_NOTHING, NEED_SSE42, NEED_AES, NEED_AVX2, NEED_SHA, NEED_RDTSCP, NEED_COUNT };

struct workload {
    const char *name;
    u64 (*run)(void); /* one unit of work; returns a check value */
    u64 want;         /* what it must return */
    double ops;       /* operations in one unit, or bytes where the unit is MB/s */
    const char *unit; /* "ns/op" or "MB/s" */
    enum need need;
    void (*start)(void); /* before the first unit; may be NULL */
    void (*stop)(void);
};

struct workload_table {
    const struct workload *rows;
    size_t n;
};

extern const struct workload_table work_integer, work_memory, work_float, work_simd, work_code, work_system,
    work_threads;

#define WORK_TABLE(name, rows) const struct workload_table name = {rows, ARRAY_LEN(rows)}

/* Monotonic seconds. */
double kit_now(void);
/* Pseudo-random numbers: 47 good bits a step. */
u64 kit_random(u64 *state);
bool kit_has(enum need need);
/* Directory for files, $KIT_TMP or /tmp. */
const char *kit_tmp(void);
/* A page that is readable, writable and executable, eight of them; made once. */
u8 *kit_code_pages(void);

/* The architectural checks (checks.c): prints "chk_NAME OK|BAD", returns how many are bad. */
int kit_checks(void);

/* Tools (tools.c): exit statuses. */
int kit_simple(double seconds);                            /* rate of simple instructions */
int kit_dirty(double mib_per_s, long mib, double seconds); /* dirty pages at a rate */
/* O_DIRECT reads and writes, every row or one; overwrites the device (block.c). */
int kit_block(const char *device, double seconds, const char *only);
/* Numbered records, without end; says which are flushed (block.c). Overwrites the device. */
int kit_records(const char *device);
int kit_generate(long bytes);      /* deterministic data on standard output */
int kit_time_command(char **argv); /* NAME COMMAND..: wall time of a command */
int kit_parallel(
    long threads); /* integer work by one thread, and by so many, each on a CPU of its own (work_threads.c) */
int kit_contend(long threads, double seconds); /* what threads do to each other in the kernel (contend.c) */

#endif
