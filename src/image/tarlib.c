#include "image/tarlib.h"

#include <dlfcn.h>
#include <errno.h>

int archive_library(struct archive_library *out, struct error *e)
{
    void *so = dlopen("libarchive.so.13", RTLD_NOW | RTLD_LOCAL);
    if (!so)
        return error_set(e, ENOENT, "libarchive: %s; install libarchive13", dlerror());
#define X(name)                                      \
    out->name = (__typeof__(&name))dlsym(so, #name); \
    if (!out->name)                                  \
        return error_set(e, ENOENT, "libarchive: has no " #name "; it is too old");
    ARCHIVE_FUNCTIONS(X)
#undef X
    return 0;
}
