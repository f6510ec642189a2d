#include "cli/cli.h"
#include "cli/json.h"
#include "engine/engine.h"

int verb_version(const struct args *a, struct error *e)
{
    if (a->number[OPT_FORMAT]) {
        json_t *names = json_array();
        for (size_t i = 0; engine_at(i); i++)
            json_array_append_new(names, json_string(engine_at(i)->name));
        return cli_json_print(json_pack("{s:s, s:s, s:s, s:o}", "name", "trapeze", "version", TRAPEZE_VERSION,
                                        "compiler", __VERSION__, "engines", names),
                              e);
    }
    printf("trapeze %s\ncompiler %s\nengines", TRAPEZE_VERSION, __VERSION__);
    for (size_t i = 0; engine_at(i); i++)
        printf(" %s", engine_at(i)->name);
    putchar('\n');
    return CLI_OK;
}
