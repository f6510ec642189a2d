/*
 * Registries: the distribution protocol (distribution-spec 1.1) over libcurl, with token authentication as docker's registries
 * have it.
 *
 * A registry is not believed: documents are bounded, every blob is checked against the digest that named it, sizes against the
 * manifest. What we send is guarded, too:
 *  1. Only https, but for hosts that are this machine (localhost, 127.0.0.0/8, ::1), which may speak http.
 *  2. Credentials and tokens go to the registry's own host alone, not to where it redirects; a user's name and password to the
 *     token server that it names only by https, or when both are this machine.
 */
#ifndef TRAPEZE_IMAGE_REMOTE_H
#define TRAPEZE_IMAGE_REMOTE_H

#include "image/image.h"
#include "image/weblib.h"

#define REMOTE_TRIES    5
#define REMOTE_PARALLEL 4

struct remote {
    struct web_library lib;
    struct reference ref;
    char base[300];      /* "https://registry-1.docker.io" */
    char *authorization; /* a header, or NULL */
    char *password;      /* "Basic ..", or NULL */
    bool push, local;    /* local: the registry is this machine */
};

/* What came of a request. */
struct reply {
    long status;
    char type[128], location[2048], challenge[2048];
    u64 range_from; /* of Content-Range, ~0 without */
    char *text;     /* the body, bounded; free it */
    size_t size;
};

/* What is sent with a request: of a file or of memory. */
struct body {
    const char *type;
    int fd; /* -1: `text` */
    const char *text;
    u64 size, at;
};

int remote_open(struct remote *r, const struct reference *ref, bool push, struct error *e);
void remote_close(struct remote *r);

/*
 * One request to `url` ("/v2/..": of the registry). Authenticates when it is asked to. A status that is not one of 2xx is no
 * error here. `accept`, `body` may be NULL.
 */
int remote_ask(struct remote *r, const char *method, const char *url, const char *accept, struct body *body,
               struct reply *reply, struct error *e);
void remote_reply_free(struct reply *reply);
/* What the registry says was wrong, into `e`; -EACCES, -ENOENT, -EIO by the status. */
int remote_refused(const struct remote *r, const struct reply *reply, const char *what, struct error *e);

/* --- for transfers --- */

/* Set what is the same for all requests; the list of headers is the caller's to free after the transfer. */
int remote_prepare(struct remote *r, CURL *h, const char *url, const char *accept, struct curl_slist **headers,
                   struct error *e);
/* Collects headers into a reply. */
size_t remote_header(char *line, size_t one, size_t size, void *reply);
/* Get a token, as the reply's challenge wants. */
int remote_authenticate(struct remote *r, const struct reply *reply, struct error *e);

/* --- pull.c, push.c --- */

typedef void image_progress(void *arg, u64 done, u64 total);

/* Bring an image here, unpack it (root only) and name it. */
int image_pull(const struct image_store *s, const char *name, image_progress *progress, void *arg,
               struct image_descriptor *top, struct error *e);
/* Send an image that is here to where `name` says. */
int image_push(const struct image_store *s, const struct image *i, const char *name, image_progress *progress,
               void *arg, struct error *e);

#endif
