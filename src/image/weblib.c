#include "image/weblib.h"

#include <dlfcn.h>
#include <errno.h>

int web_library(struct web_library *out, struct error *e)
{
    void *so = dlopen("libcurl.so.4", RTLD_NOW | RTLD_LOCAL);
    if (!so)
        so = dlopen("libcurl-gnutls.so.4", RTLD_NOW | RTLD_LOCAL);
    if (!so)
        return error_set(e, ENOENT, "libcurl: %s; install libcurl4", dlerror());
#define X(name)                                      \
    out->name = (__typeof__(&name))dlsym(so, #name); \
    if (!out->name)                                  \
        return error_set(e, ENOENT, "libcurl: has no " #name "; it is too old");
    WEB_FUNCTIONS(X)
#undef X
    return out->curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK ? 0 : error_set(e, EIO, "libcurl: does not start");
}
