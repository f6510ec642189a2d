/* System instructions that are done in place. */
#include "engine/bt/bt_internal.h"

bool bt_system_goes_on(const struct bt_gen *g, const struct isa_insn *insn)
{
    return false;
}

bool bt_system(struct bt_gen *g, const struct isa_insn *insn)
{
    return false;
}
