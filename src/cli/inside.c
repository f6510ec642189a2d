#include "cli/inside.h"
#include "cli/machine.h"

int inside_find(const char *name, struct inside *t, struct error *e)
{
    t->ops = &inside_machine_ops;
    return machine_find(name, &t->row, e);
}

void inside_free(struct inside *t)
{
    registry_row_free(&t->row);
}
