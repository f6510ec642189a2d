/* One registry: requests, and who we are to it. */
#include "image/remote.h"
#include "container/sys.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define CONNECT_SECONDS 20
#define STALL_SECONDS   60 /* with less than STALL_BYTES a second */
#define STALL_BYTES     100
#define REDIRECTS       5

/* --- names --- */

static bool is_local(const char *host)
{
    char name[256];
    struct in_addr a;
    snprintf(name, sizeof(name), "%s", host);
    if (name[0] == '[') {
        char *end = strchr(name, ']');
        return end && end == name + 4 && !strncmp(name, "[::1", 4);
    }
    char *colon = strrchr(name, ':');
    if (colon)
        *colon = 0;
    return !strcmp(name, "localhost") || (inet_pton(AF_INET, name, &a) == 1 && ntohl(a.s_addr) >> 24 == 127);
}

/* A part of a URL, "" when there is none; free with curl_free. */
static bool url_part(const struct remote *r, const char *url, CURLUPart part, char out[300])
{
    CURLU *u = r->lib.curl_url();
    char *text = NULL;
    bool good = u && r->lib.curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK &&
                r->lib.curl_url_get(u, part, &text, part == CURLUPART_PORT ? CURLU_DEFAULT_PORT : 0) == CURLUE_OK;
    good = good && snprintf(out, 300, "%s", text) < 300;
    r->lib.curl_free(text);
    r->lib.curl_url_cleanup(u);
    return good;
}

/* The same scheme, host and port. */
static bool same_place(const struct remote *r, const char *a, const char *b)
{
    static const CURLUPart parts[] = {CURLUPART_SCHEME, CURLUPART_HOST, CURLUPART_PORT};
    char x[300], y[300];
    for (size_t i = 0; i < ARRAY_LEN(parts); i++)
        if (!url_part(r, a, parts[i], x) || !url_part(r, b, parts[i], y) || strcasecmp(x, y))
            return false;
    return true;
}

/* --- credentials --- */

/* "auths": {HOST: {"auth": base64 of user:password}} of a docker configuration. */
static char *find_password(json_t *config, const char *host)
{
    const char *key = strcmp(host, "docker.io") ? host : "https://index.docker.io/v1/";
    const char *auth =
        json_string_value(json_object_get(json_object_get(json_object_get(config, "auths"), key), "auth"));
    char *out = NULL;
    bool good = auth && *auth &&
                strspn(auth, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=") == strlen(auth);
    return good && asprintf(&out, "Authorization: Basic %s", auth) > 0 ? out : NULL;
}

static void read_password(struct remote *r)
{
    const char *file = getenv("REGISTRY_AUTH_FILE"), *dir = getenv("DOCKER_CONFIG"), *home = getenv("HOME");
    char path[PATH_MAX];
    if (file)
        snprintf(path, sizeof(path), "%s", file);
    else if (dir)
        snprintf(path, sizeof(path), "%s/config.json", dir);
    else
        snprintf(path, sizeof(path), "%s/.docker/config.json", home ? home : "");
    json_t *j = json_load_file(path, 0, NULL);
    r->password = find_password(j, r->ref.host);
    json_decref(j);
}

/* --- requests --- */

static void cut_end(char *s)
{
    size_t n = strlen(s);
    while (n && strchr("\r\n \t", s[n - 1]))
        s[--n] = 0;
}

static void take_value(const char *line, size_t n, const char *name, char *out, size_t size)
{
    size_t len = strlen(name);
    if (n <= len || strncasecmp(line, name, len))
        return;
    snprintf(out, size, "%.*s", (int)MIN(n - len, size - 1), line + len + strspn(line + len, " "));
    cut_end(out);
}

size_t remote_header(char *line, size_t one, size_t size, void *arg)
{
    struct reply *reply = arg;
    char text[2100], range[100] = "", challenge[2048] = "";
    size_t n = MIN(one * size, sizeof(text) - 1);
    memcpy(text, line, n);
    text[n] = 0;
    if (!strncmp(text, "HTTP/", 5)) { /* another answer: after a redirect */
        reply->type[0] = reply->location[0] = reply->challenge[0] = 0;
        reply->range_from = ~0ull;
    }
    take_value(text, n, "content-type:", reply->type, sizeof(reply->type));
    take_value(text, n, "location:", reply->location, sizeof(reply->location));
    take_value(text, n, "content-range:", range, sizeof(range));
    take_value(text, n, "www-authenticate:", challenge, sizeof(challenge));
    if (!strncasecmp(range, "bytes ", 6))
        reply->range_from = strtoull(range + 6, NULL, 10);
    if (challenge[0] && strncasecmp(reply->challenge, "bearer", 6)) /* several: a token goes first */
        memcpy(reply->challenge, challenge, sizeof(challenge));
    reply->type[strcspn(reply->type, "; ")] = 0;
    return one * size;
}

static size_t take_text(char *data, size_t one, size_t size, void *arg)
{
    struct reply *reply = arg;
    size_t n = one * size;
    if (n > IMAGE_JSON_MAX - reply->size)
        return 0;
    char *more = realloc(reply->text, reply->size + n + 1);
    if (!more)
        return 0;
    memcpy(more + reply->size, data, n);
    reply->text = more;
    reply->size += n;
    more[reply->size] = 0;
    return n;
}

static size_t give_body(char *data, size_t one, size_t size, void *arg)
{
    struct body *b = arg;
    size_t n = (size_t)MIN((u64)(one * size), b->size - b->at);
    if (b->fd < 0)
        memcpy(data, b->text + b->at, n);
    else {
        ssize_t got = pread(b->fd, data, n, (off_t)b->at);
        if (got < 0 || (n && !got))
            return CURL_READFUNC_ABORT;
        n = (size_t)got;
    }
    b->at += n;
    return n;
}

static int seek_body(void *arg, curl_off_t offset, int origin)
{
    struct body *b = arg;
    if (origin != SEEK_SET || offset < 0 || (u64)offset > b->size)
        return CURL_SEEKFUNC_FAIL;
    b->at = (u64)offset;
    return CURL_SEEKFUNC_OK;
}

int remote_prepare(struct remote *r, CURL *h, const char *url, const char *accept, struct curl_slist **headers,
                   struct error *e)
{
    struct web_library *lib = &r->lib;
    char full[4096], line[600];
    if (snprintf(full, sizeof(full), "%s%s", url[0] == '/' ? r->base : "", url) >= (int)sizeof(full))
        return error_set(e, ENAMETOOLONG, "registry %s: a URL of more than %zu bytes", r->ref.host, sizeof(full));
    const char *protocols = r->local ? "http,https" : "https";
    if (lib->curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, protocols) != CURLE_OK ||
        lib->curl_easy_setopt(h, CURLOPT_REDIR_PROTOCOLS_STR, protocols) != CURLE_OK ||
        lib->curl_easy_setopt(h, CURLOPT_URL, full) != CURLE_OK)
        return error_set(e, EINVAL, "registry %s: %.200s is no URL", r->ref.host, full);
    lib->curl_easy_setopt(h, CURLOPT_FOLLOWLOCATION, 1L);
    lib->curl_easy_setopt(h, CURLOPT_MAXREDIRS, (long)REDIRECTS);
    lib->curl_easy_setopt(h, CURLOPT_UNRESTRICTED_AUTH, 0L); /* our header is not sent on to another host */
    lib->curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    lib->curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_SECONDS);
    lib->curl_easy_setopt(h, CURLOPT_LOW_SPEED_LIMIT, (long)STALL_BYTES);
    lib->curl_easy_setopt(h, CURLOPT_LOW_SPEED_TIME, (long)STALL_SECONDS);
    lib->curl_easy_setopt(h, CURLOPT_USERAGENT, "trapeze/" TRAPEZE_VERSION);
    lib->curl_easy_setopt(h, CURLOPT_HEADERFUNCTION, remote_header);
    if (accept) {
        snprintf(line, sizeof(line), "Accept: %s", accept);
        *headers = lib->curl_slist_append(*headers, line);
    }
    if (r->authorization && same_place(r, full, r->base))
        *headers = lib->curl_slist_append(*headers, r->authorization);
    return 0;
}

static void set_body(struct remote *r, CURL *h, const char *method, struct body *body, struct curl_slist **headers)
{
    struct web_library *lib = &r->lib;
    char line[200];
    lib->curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, method);
    if (!strcmp(method, "HEAD"))
        lib->curl_easy_setopt(h, CURLOPT_NOBODY, 1L);
    if (!body)
        return;
    body->at = 0;
    snprintf(line, sizeof(line), "Content-Type: %s", body->type);
    *headers = lib->curl_slist_append(*headers, line);
    *headers = lib->curl_slist_append(*headers, "Expect:");
    lib->curl_easy_setopt(h, CURLOPT_UPLOAD, 1L);
    lib->curl_easy_setopt(h, CURLOPT_READFUNCTION, give_body);
    lib->curl_easy_setopt(h, CURLOPT_READDATA, body);
    lib->curl_easy_setopt(h, CURLOPT_SEEKFUNCTION, seek_body);
    lib->curl_easy_setopt(h, CURLOPT_SEEKDATA, body);
    lib->curl_easy_setopt(h, CURLOPT_INFILESIZE_LARGE, (curl_off_t)body->size);
}

void remote_reply_free(struct reply *reply)
{
    free(reply->text);
    memset(reply, 0, sizeof(*reply));
}

/* As it is, without authenticating. `password`: instead of the token. */
static int ask_once(struct remote *r, const char *method, const char *url, const char *accept, const char *password,
                    struct body *body, struct reply *reply, struct error *e)
{
    struct curl_slist *headers = NULL;
    CURL *h = r->lib.curl_easy_init();
    memset(reply, 0, sizeof(*reply));
    int rc = h ? remote_prepare(r, h, url, accept, &headers, e) : error_set(e, ENOMEM, "out of memory");
    if (rc == 0) {
        if (password)
            headers = r->lib.curl_slist_append(headers, password);
        set_body(r, h, method, body, &headers);
        r->lib.curl_easy_setopt(h, CURLOPT_HTTPHEADER, headers);
        r->lib.curl_easy_setopt(h, CURLOPT_HEADERDATA, reply);
        r->lib.curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, take_text);
        r->lib.curl_easy_setopt(h, CURLOPT_WRITEDATA, reply);
        CURLcode c = r->lib.curl_easy_perform(h);
        if (c == CURLE_WRITE_ERROR)
            rc = error_set(e, EFBIG, "registry %s: answers with more than %u bytes", r->ref.host, IMAGE_JSON_MAX);
        else if (c != CURLE_OK)
            rc = error_set(e, EIO, "registry %s: %s", r->ref.host, r->lib.curl_easy_strerror(c));
        r->lib.curl_easy_getinfo(h, CURLINFO_RESPONSE_CODE, &reply->status);
    }
    r->lib.curl_slist_free_all(headers);
    if (h)
        r->lib.curl_easy_cleanup(h);
    if (rc < 0)
        remote_reply_free(reply);
    return rc;
}

/* --- tokens --- */

/* The value of NAME="VALUE" in a challenge (RFC 9110, 11.2). */
static bool challenge_value(const char *challenge, const char *name, char *out, size_t size)
{
    size_t len = strlen(name);
    for (const char *p = challenge; (p = strcasestr(p, name)); p += len) {
        if (p[len] != '=' || p[len + 1] != '"' || (p > challenge && !strchr(" ,", p[-1])))
            continue;
        const char *value = p + len + 2, *end = strchr(value, '"');
        if (!end || (size_t)(end - value) >= size)
            return false;
        snprintf(out, size, "%.*s", (int)(end - value), value);
        return true;
    }
    return false;
}

/* Rule 2. */
static bool may_have_password(const struct remote *r, const char *url)
{
    char scheme[300], host[300];
    return url_part(r, url, CURLUPART_SCHEME, scheme) && url_part(r, url, CURLUPART_HOST, host) &&
           (!strcasecmp(scheme, "https") || (r->local && is_local(host)));
}

static int token_url(struct remote *r, const struct reply *reply, char *out, size_t size, struct error *e)
{
    char realm[1024], service[512] = "", scope[400];
    if (!challenge_value(reply->challenge, "realm", realm, sizeof(realm)))
        return error_set(e, EPROTO, "registry %s: wants a token and does not say where from", r->ref.host);
    challenge_value(reply->challenge, "service", service, sizeof(service));
    /* Of what we want, not of what it says. */
    snprintf(scope, sizeof(scope), "repository:%s:%s", r->ref.path, r->push ? "pull,push" : "pull");
    char *s = r->lib.curl_easy_escape(NULL, service, 0), *c = r->lib.curl_easy_escape(NULL, scope, 0);
    int n =
        snprintf(out, size, "%s%sservice=%s&scope=%s", realm, strchr(realm, '?') ? "&" : "?", s ? s : "", c ? c : "");
    r->lib.curl_free(s);
    r->lib.curl_free(c);
    return n >= (int)size ? error_set(e, ENAMETOOLONG, "registry %s: its token server's name is too long", r->ref.host)
                          : 0;
}

static int set_token(struct remote *r, const struct reply *answer, struct error *e)
{
    json_t *j = answer->text ? json_loadb(answer->text, answer->size, 0, NULL) : NULL;
    const char *token = json_string_value(json_object_get(j, "token"));
    char *line = NULL;
    if (!token)
        token = json_string_value(json_object_get(j, "access_token"));
    bool good = token && *token;
    for (const char *p = token; good && *p; p++) /* what ends a header's line must not be in it */
        good = *p > ' ' && *p < 0x7f;
    if (good && asprintf(&line, "Authorization: Bearer %s", token) < 0)
        line = NULL;
    json_decref(j);
    if (!line)
        return error_set(e, EPROTO, "registry %s: its token server answers without a token", r->ref.host);
    free(r->authorization);
    r->authorization = line;
    return 0;
}

int remote_authenticate(struct remote *r, const struct reply *reply, struct error *e)
{
    char url[2600];
    struct reply answer;
    if (!strncasecmp(reply->challenge, "basic", 5)) {
        if (!r->password || !may_have_password(r, r->base))
            return error_set(e, EACCES,
                             "registry %s: wants a user and password; `docker login` and `podman login` write "
                             "them where we look (~/.docker/config.json, REGISTRY_AUTH_FILE)",
                             r->ref.host);
        free(r->authorization);
        r->authorization = strdup(r->password);
        return r->authorization ? 0 : error_set(e, ENOMEM, "out of memory");
    }
    if (strncasecmp(reply->challenge, "bearer", 6))
        return error_set(e, EACCES, "registry %s: wants to know who we are in a way that is not known here",
                         r->ref.host);
    int rc = token_url(r, reply, url, sizeof(url), e);
    if (rc < 0)
        return rc;
    free(r->authorization);
    r->authorization = NULL;
    rc = ask_once(r, "GET", url, NULL, may_have_password(r, url) ? r->password : NULL, NULL, &answer, e);
    if (rc < 0)
        return rc;
    rc = answer.status == 200 ? set_token(r, &answer, e)
                              : error_set(e, EACCES,
                                          "registry %s: its token server refuses (%ld); the image may need "
                                          "`docker login`, or not exist",
                                          r->ref.host, answer.status);
    remote_reply_free(&answer);
    return rc;
}

int remote_ask(struct remote *r, const char *method, const char *url, const char *accept, struct body *body,
               struct reply *reply, struct error *e)
{
    int rc = ask_once(r, method, url, accept, NULL, body, reply, e);
    if (rc < 0 || reply->status != 401)
        return rc;
    rc = remote_authenticate(r, reply, e);
    remote_reply_free(reply);
    return rc < 0 ? rc : ask_once(r, method, url, accept, NULL, body, reply, e);
}

int remote_refused(const struct remote *r, const struct reply *reply, const char *what, struct error *e)
{
    char said[200] = "";
    json_t *j = reply->text ? json_loadb(reply->text, reply->size, 0, NULL) : NULL;
    const char *text = json_string_value(json_object_get(json_array_get(json_object_get(j, "errors"), 0), "message"));
    if (text)
        snprintf(said, sizeof(said), ": %s", text);
    for (char *p = said; *p; p++) /* it goes to a terminal */
        if ((u8)*p < ' ' || *p == 0x7f)
            *p = '?';
    json_decref(j);
    int code = reply->status == 404 ? ENOENT : reply->status == 401 || reply->status == 403 ? EACCES : EIO;
    return error_set(e, code, "registry %s: %s: %s (%ld)%s", r->ref.host, what,
                     code == ENOENT   ? "is not there"
                     : code == EACCES ? "is not ours to have"
                                      : "failed",
                     reply->status, said);
}

/* --- */

int remote_open(struct remote *r, const struct reference *ref, bool push, struct error *e)
{
    struct reply reply;
    struct error first = {0};
    const char *host = strcmp(ref->host, "docker.io") ? ref->host : "registry-1.docker.io";
    memset(r, 0, sizeof(*r));
    r->ref = *ref;
    r->push = push;
    r->local = is_local(host);
    int rc = web_library(&r->lib, e);
    if (rc < 0)
        return rc;
    read_password(r);
    snprintf(r->base, sizeof(r->base), "https://%s", host);
    rc = ask_once(r, "GET", "/v2/", NULL, NULL, NULL, &reply, &first);
    if (rc < 0 && r->local) {
        first = (struct error){0};
        snprintf(r->base, sizeof(r->base), "http://%s", host);
        rc = ask_once(r, "GET", "/v2/", NULL, NULL, NULL, &reply, &first);
    }
    if (rc == 0 && reply.status == 401)
        rc = remote_authenticate(r, &reply, &first);
    else if (rc == 0 && reply.status != 200)
        rc = error_set(&first, EPROTO, "registry %s: is none: answers %ld to /v2/", ref->host, reply.status);
    if (rc < 0)
        error_set(e, first.code, "%s", first.msg);
    remote_reply_free(&reply);
    if (rc < 0)
        remote_close(r);
    return rc;
}

void remote_close(struct remote *r)
{
    free(r->authorization);
    free(r->password);
    r->authorization = r->password = NULL;
}
