/* Comparing two CPUs by all that a guest can see of them. */
#ifndef TRAPEZE_TESTS_SAME_CPU_H
#define TRAPEZE_TESTS_SAME_CPU_H

#include "machine/cpu/cpu.h"

#include <stdio.h>
#include <string.h>

#define PART(field, size)                         \
    {                                             \
#field, offsetof(struct cpu, field), size \
    }
#define PART_WHOLE(field) PART(field, sizeof(((struct cpu *)0)->field))
#define PART_SEGMENT(n)   PART(seg[n], offsetof(struct cpu_segment, reserved))
#define PART_TABLE(field) PART(field, offsetof(struct cpu_table, reserved))
/* Of the FXSAVE image: the x87 environment and MXCSR; not its mask; the x87 registers. The XMM part is scratch. */
#define PART_FX PART(fpu.fx, 28), PART(fpu.fx[32], 128)

static const struct {
    const char *name;
    size_t offset, size;
} cpu_parts[] = {
    PART_WHOLE(gpr),         PART_WHOLE(rip),       PART_WHOLE(zero),
    PART_WHOLE(sysflags),    PART_WHOLE(arith),     PART_WHOLE(cpl),
    PART_WHOLE(shadow),      PART_WHOLE(halted),    PART_WHOLE(nmi_blocked),
    PART_WHOLE(nmi_pending), PART_WHOLE(attention), PART_SEGMENT(SEG_ES),
    PART_SEGMENT(SEG_CS),    PART_SEGMENT(SEG_SS),  PART_SEGMENT(SEG_DS),
    PART_SEGMENT(SEG_FS),    PART_SEGMENT(SEG_GS),  PART_SEGMENT(SEG_LDTR),
    PART_SEGMENT(SEG_TR),    PART_TABLE(gdtr),      PART_TABLE(idtr),
    PART_WHOLE(cr0),         PART_WHOLE(cr2),       PART_WHOLE(cr3),
    PART_WHOLE(cr4),         PART_WHOLE(cr8),       PART_WHOLE(efer),
    PART_WHOLE(xcr0),        PART_WHOLE(dr),        PART_WHOLE(msr),
    PART_WHOLE(tsc_offset),  PART_WHOLE(fpu.zmm),   PART_FX,
    PART_WHOLE(fpu.k),       PART_WHOLE(pdpte),
};

static inline bool cpu_same_part(const struct cpu *a, const struct cpu *b, size_t i)
{
    return !memcmp((const u8 *)a + cpu_parts[i].offset, (const u8 *)b + cpu_parts[i].offset, cpu_parts[i].size);
}

static inline bool cpu_same(const struct cpu *a, const struct cpu *b)
{
    for (size_t i = 0; i < ARRAY_LEN(cpu_parts); i++)
        if (!cpu_same_part(a, b, i))
            return false;
    return true;
}

/* A line for each eight bytes that differ, with their offset in the field: gpr+24 is RBX. */
static inline void cpu_show_difference(const struct cpu *a, const struct cpu *b)
{
    for (size_t i = 0; i < ARRAY_LEN(cpu_parts); i++) {
        size_t unit = MIN(cpu_parts[i].size, 8u);
        for (size_t at = cpu_parts[i].offset; at < cpu_parts[i].offset + cpu_parts[i].size; at += unit) {
            u64 x = 0, y = 0;
            memcpy(&x, (const u8 *)a + at, unit);
            memcpy(&y, (const u8 *)b + at, unit);
            if (x != y)
                printf("# %s+%zu: A %016llx  B %016llx\n", cpu_parts[i].name, at - cpu_parts[i].offset,
                       (unsigned long long)x, (unsigned long long)y);
        }
    }
}

#endif
