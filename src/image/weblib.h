/* libcurl, loaded when the first registry is spoken with, as libarchive is (tarlib.h). Its functions are called through this table. */
#ifndef TRAPEZE_IMAGE_WEBLIB_H
#define TRAPEZE_IMAGE_WEBLIB_H

#include "base/error.h"
#include "base/types.h"

#define CURL_DISABLE_TYPECHECK
#include <curl/curl.h>

/* X-macro: what is used of it. */
#define WEB_FUNCTIONS(X)        \
    X(curl_global_init)         \
    X(curl_easy_init)           \
    X(curl_easy_setopt)         \
    X(curl_easy_perform)        \
    X(curl_easy_getinfo)        \
    X(curl_easy_cleanup)        \
    X(curl_easy_reset)          \
    X(curl_easy_strerror)       \
    X(curl_easy_escape)         \
    X(curl_free)                \
    X(curl_slist_append)        \
    X(curl_slist_free_all)      \
    X(curl_multi_init)          \
    X(curl_multi_add_handle)    \
    X(curl_multi_remove_handle) \
    X(curl_multi_perform)       \
    X(curl_multi_poll)          \
    X(curl_multi_info_read)     \
    X(curl_multi_cleanup)       \
    X(curl_url)                 \
    X(curl_url_set)             \
    X(curl_url_get)             \
    X(curl_url_cleanup)

struct web_library {
#define X(name) __typeof__(&name) name;
    WEB_FUNCTIONS(X)
#undef X
};

/* -ENOENT with `e` when the host has none. Safe to call again. */
int web_library(struct web_library *out, struct error *e);

#endif
