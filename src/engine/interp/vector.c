/* The commonest vector moves without a stub: whole XMM registers between each other and memory. */
#include "engine/interp/interp_internal.h"

op_fn vector_choose(const struct isa_insn *insn, struct op *op)
{
    return NULL;
}
