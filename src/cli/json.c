#include "cli/json.h"
#include "cli/cli.h"

#include <errno.h>
#include <time.h>

int cli_json_print(json_t *root, struct error *e)
{
    if (!root) {
        error_set(e, ENOMEM, "memory: the host has none left");
        return CLI_HOST;
    }
    int r = json_dumpf(root, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(root);
    return r < 0 ? CLI_HOST : CLI_OK;
}

json_t *cli_json_time(s64 seconds)
{
    char text[32];
    struct tm tm;
    time_t t = seconds;
    if (seconds == 0 || !gmtime_r(&t, &tm))
        return json_null();
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
    return json_string(text);
}
