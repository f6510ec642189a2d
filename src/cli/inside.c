#include "cli/inside.h"
#include "cli/machine.h"

int inside_find(const char *name, struct inside *t, struct error *e)
{
    int r = machine_find(name, &t->row, e);
    t->ops = t->row.kind == KIND_CONTAINER ? &inside_container_ops : &inside_machine_ops;
    return r;
}

void inside_free(struct inside *t)
{
    registry_row_free(&t->row);
}
