/*
 * The classification of instructions (Popek and Goldberg 1974; Robin and Irvine 2000 for x86): one table.
 *
 * An encoding is innocuous only if the table or its instruction set says so; what is not known is ISA_UNSUPPORTED.
 */
#ifndef TRAPEZE_ISA_CLASS_H
#define TRAPEZE_ISA_CLASS_H

#include "isa/decode.h"

/* Which encodings of a mnemonic a row is about. */
enum isa_form {
    ISA_FORM_ANY,
    ISA_FORM_FAR,     /* far CALL, JMP, RET */
    ISA_FORM_SEG,     /* an explicit segment register operand */
    ISA_FORM_CONTROL, /* an explicit control or debug register operand */
};

struct isa_class_row {
    u16 mnemonic;
    u8 cls;
    u8 form;            /* enum isa_form; rows with a form stand before the mnemonic's ISA_FORM_ANY row */
    const char *reason; /* why it is not innocuous: one clause, for `classify` and `explain` */
};

/* All rows, for tests and for the reader: *n of them. */
const struct isa_class_row *isa_class_rows(size_t *n);

/* Class of a decoded instruction (its own `cls` may be unset yet), and the reason ("" for innocuous ones). */
enum isa_class isa_classify(const struct isa_insn *insn, const char **reason);

/* "innocuous", "privileged", ... */
const char *isa_class_name(enum isa_class cls);

/*
 * The CPU feature (FEAT of machine/cpu/cpuid.h) that an instruction needs, or ISA_FEAT_NONE when every 64-bit processor
 * has it. With a feature that the guest's model lacks, it raises #UD.
 */
#define ISA_FEAT_NONE 0xffffffffu
u32 isa_feature(const struct isa_insn *insn);

/*
 * A second feature that it needs as well, or ISA_FEAT_NONE: AVX512VL for the 128- and 256-bit forms of an AVX-512 set,
 * AVX or AVX512F for the vector forms of AES, GFNI, PCLMULQDQ.
 */
u32 isa_feature_also(const struct isa_insn *insn);

/* Its result differs from run to run (RDRAND, RDSEED), so that two engines can not be compared on it. */
bool isa_nondeterministic(const struct isa_insn *insn);

#endif
