/*
 * An engine's answer to `explain` on its way from the cell to a person: what it must be like to be believed, and the form
 * in which the control socket carries it.
 */
#ifndef TRAPEZE_VM_EXPLAIN_H
#define TRAPEZE_VM_EXPLAIN_H

#include "engine/engine.h"

#include <jansson.h>

/* What DOWN_EXPLAIN asks. */
struct explain_ask {
    u64 address; /* linear */
    u32 at_rip;  /* 1: the code at the CPU's RIP; `address` does not count */
    u32 zero;
};

/* "copied", "memory" ...: names of enum engine_how for programs, written to `out`; and its text for people. */
#define EXPLAIN_HOW_NAME 16
const char *explain_how_name(enum engine_how h, char out[EXPLAIN_HOW_NAME]);
const char *explain_how_text(enum engine_how h);

/*
 * Whether every count, length, offset and enumeration is one that can be: the cell made it. Instructions have 1 to 15
 * bytes, their code is in code[] and in their order. 0, or -EPROTO with what is wrong.
 */
int explain_check(const struct engine_explain *x, struct error *e);

/*
 * {"address", "start", "code_address": "0x..", "cpl", "links", "exits", "code": hex digits, "instructions": [{"rip",
 * "bits": 16, 32 or 64, "bytes": hex digits, "how", "code_offset", "code_length"}]}. A new reference, NULL when out of memory.
 */
json_t *explain_to_json(const struct engine_explain *x);

/* The opposite, checked. 0, -EPROTO. */
int explain_from_json(struct engine_explain *x, const json_t *j, struct error *e);

/* A linear address: hexadecimal digits, at most 16, with or without 0x before them. 0 or -EINVAL. */
int explain_address(const char *s, u64 *out);

#endif
