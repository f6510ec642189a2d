/*
 * Native execution of one innocuous instruction on the guest's register state.
 *
 * The host is the same ISA, so x87, SSE, AVX, AVX-512, AES, SHA, BMI and odd integer instructions need no emulation: the
 * instruction's own bytes are copied into a small stub whose memory operand is replaced by a bounce buffer and whose
 * address registers are renamed; the stub loads the registers that the instruction uses from struct cpu, executes it and
 * stores what it writes. Faults that it raises on the host (#UD, #DE, #MF, #XM, alignment #GP) are the guest's.
 */
#ifndef TRAPEZE_ENGINE_NATIVE_H
#define TRAPEZE_ENGINE_NATIVE_H

#include "base/error.h"
#include "isa/isa.h"

struct native;      /* the stub cache: one an engine */
struct native_stub; /* one prepared instruction */

/* Bytes of stubs to keep; beyond that all stubs are dropped and native_generation changes. */
int native_create(struct native **out, size_t cache_bytes, struct error *e);
void native_destroy(struct native *n);

/* Changes whenever all stubs were dropped: a cached pointer from an older generation must not be used. */
u32 native_generation(const struct native *n);

/*
 * Prepare a stub for an ISA_INNOCUOUS instruction (equal instructions share one). NULL when this instruction can not be run natively
 * (then `*why` names the reason): the caller raises #UD or reports it.
 */
const struct native_stub *native_prepare(struct native *n, const struct isa_insn *insn, const char **why);

/*
 * Run it: reads and writes its memory operand through m->ops, checks CR0.EM/TS/MP, CR4.OSFXSR, XCR0 first (#UD, #NM).
 * Does not advance RIP. CPU_OK or CPU_FAULT; on a fault no register or memory changed, but MXCSR or x87 status as on
 * silicon. Memory-operand forms with masks suppress faults of masked-off elements; gathers and scatters go element by
 * element.
 */
int native_run(struct native *n, struct isa *m, const struct isa_insn *insn, const struct native_stub *stub);

#endif
