#include "oci/oci.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void now(char out[40])
{
    time_t t = time(NULL);
    struct tm tm;
    strftime(out, 40, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&t, &tm));
}

static char *line_of(const struct oci_args *a, const struct error *e)
{
    char time[40];
    now(time);
    if (a->log_format && !strcmp(a->log_format, "json")) {
        json_t *j = json_pack("{s:s,s:s,s:o}", "level", "error", "time", time, "msg", json_string(e->msg));
        if (!json_object_get(j, "msg"))
            json_object_set_new(j, "msg", json_string("(an error whose text is no UTF-8)"));
        char *text = json_dumps(j, JSON_COMPACT);
        json_decref(j);
        return text;
    }
    json_t *quoted = json_string(e->msg);
    char *msg = quoted ? json_dumps(quoted, JSON_ENCODE_ANY) : NULL, *text = NULL;
    json_decref(quoted);
    if (asprintf(&text, "time=\"%s\" level=error msg=%s", time, msg ? msg : "\"?\"") < 0)
        text = NULL;
    free(msg);
    return text;
}

void oci_log(const struct oci_args *a, const struct error *e)
{
    if (a->log && *a->log) {
        char *text = line_of(a, e);
        int fd = open(a->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        if (fd >= 0 && text)
            dprintf(fd, "%s\n", text);
        if (fd >= 0)
            close(fd);
        free(text);
    }
    dprintf(2, "trapeze-oci: %s\n", e->msg);
}
