#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int error_set(struct error *e, int code, const char *fmt, ...)
{
    if (e && !e->code) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
        va_end(ap);
        e->code = code;
    }
    return -code;
}

void error_prefix(struct error *e, const char *fmt, ...)
{
    if (!e || !e->code)
        return;
    char head[256], whole[sizeof(e->msg) + sizeof(head) + 4];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(head, sizeof(head), fmt, ap);
    va_end(ap);
    snprintf(whole, sizeof(whole), "%s: %s", head, e->msg);
    memcpy(e->msg, whole, sizeof(e->msg) - 1);
    e->msg[sizeof(e->msg) - 1] = 0;
}
