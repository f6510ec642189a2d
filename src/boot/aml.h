/*
 * A writer of AML, the byte code of ACPI's tables: one function an object, into a buffer that never overflows.
 *
 * Packages (objects with a length in front) nest: `mark = aml_begin(..)`, contents, `aml_end(.., mark)`, which inserts the
 * length in its shortest form. A buffer that ran full stays full: ask `full` once at the end.
 *
 * Source: ACPI specification 6.4, chapter 20 (AML grammar), chapter 6.4 (resource descriptors).
 */
#ifndef TRAPEZE_BOOT_AML_H
#define TRAPEZE_BOOT_AML_H

#include "base/types.h"

struct aml {
    u8 *data; /* the caller's */
    size_t len, cap;
    bool full; /* something did not fit */
};

/* Raw bytes. */
void aml_bytes(struct aml *a, const void *data, size_t len);
void aml_u8(struct aml *a, u8 v);

/* Scope (\name), Device (name): what follows up to aml_end is in them. `name` has four characters, or "\_SB_". */
size_t aml_begin_scope(struct aml *a, const char *name);
size_t aml_begin_device(struct aml *a, const char *name);
/* ResourceTemplate() named _CRS. */
size_t aml_begin_crs(struct aml *a);
void aml_end(struct aml *a, size_t mark);
void aml_end_crs(struct aml *a, size_t mark);

/* Name (name, value): an integer, an EISA identifier such as "PNP0501", a string, Package () {...} of integers. */
void aml_name_int(struct aml *a, const char *name, u64 value);
void aml_name_eisa(struct aml *a, const char *name, const char *id);
void aml_name_string(struct aml *a, const char *name, const char *value);
void aml_name_package(struct aml *a, const char *name, const u8 *values, u8 n);

/* Resource descriptors, inside a _CRS: `len` ports from `base` on (16-bit decode); an ISA interrupt (edge, active high). */
void aml_io(struct aml *a, u16 base, u8 len);
void aml_irq(struct aml *a, unsigned irq);
/* A global system interrupt: a level, active high, shared with other devices. */
void aml_interrupt(struct aml *a, u32 gsi);
/* `len` bytes of memory at `base`, which the device uses itself. */
void aml_memory(struct aml *a, u32 base, u32 len);
/* What a bridge hands on: buses, ports, memory (uncached), from `first` to `last`. */
void aml_bus_window(struct aml *a, u8 first, u8 last);
void aml_io_window(struct aml *a, u16 first, u16 last);
void aml_memory_window(struct aml *a, u32 first, u32 last);

/* Method (name, args); Name (name, Package (n)); Package (n), inside another one; an integer in either. */
size_t aml_begin_method(struct aml *a, const char *name, u8 args);
size_t aml_begin_name_package(struct aml *a, const char *name, u8 n);
size_t aml_begin_package(struct aml *a, u8 n);
void aml_int(struct aml *a, u64 v);
/* Notify (\_SB.device, value), in a method. */
void aml_notify(struct aml *a, const char *device, u8 value);
/* If (Arg0 is the 16 bytes of `uuid`); Else: both up to aml_end. */
size_t aml_begin_if_uuid(struct aml *a, const u8 uuid[16]);
size_t aml_begin_else(struct aml *a);

#endif
