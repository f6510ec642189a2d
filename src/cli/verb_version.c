#include "cli/cli.h"
#include "cli/json.h"
#include "engine/engine.h"

int verb_version(const struct args *a, struct error *e)
{
    if (a->number[OPT_FORMAT])
        return cli_json_print(json_pack("{s:s, s:s, s:s, s:[s]}", "name", "trapeze", "version", TRAPEZE_VERSION,
                                        "compiler", __VERSION__, "engines", engine_interp.name),
                              e);
    printf("trapeze %s\ncompiler %s\nengines %s\n", TRAPEZE_VERSION, __VERSION__, engine_interp.name);
    return CLI_OK;
}
