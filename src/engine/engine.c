#include "engine/engine.h"

#include <string.h>

/* The best first: what "auto" takes. */
static const struct engine_ops *const engines[] = {&engine_bt, &engine_interp};

const struct engine_ops *engine_at(size_t i)
{
    return i < ARRAY_LEN(engines) ? engines[i] : NULL;
}

const struct engine_ops *engine_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(engines); i++)
        if (!strcmp(engines[i]->name, name) && (!engines[i]->usable || engines[i]->usable(NULL)))
            return engines[i];
    return NULL;
}

const struct engine_ops *engine_auto(void)
{
    for (size_t i = 0; i < ARRAY_LEN(engines); i++)
        if (!engines[i]->usable || engines[i]->usable(NULL))
            return engines[i];
    return NULL;
}
