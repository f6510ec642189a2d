/*
 * From a registry into the store.
 *
 * The manifest first, by its tag or digest; where it is an index, the manifest for this machine, by digest. Then the blobs that
 * are missing, REMOTE_PARALLEL at a time, each into a file of its own whose name is the digest's: what breaks off is gone on with
 * (Range), in the same call as well as in a later one. A blob has its name when its digest is right; the image has its when all
 * are there and, where we can unpack, are unpacked.
 */
#include "image/remote.h"
#include "image/layer.h"
#include "container/sys.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define ACCEPT      TYPE_OCI_MANIFEST ", " TYPE_OCI_INDEX ", " TYPE_DOCKER_MANIFEST ", " TYPE_DOCKER_INDEX
#define PROGRESS_MS 100

/* --- documents --- */

/* One document; `digest` NULL: by the tag, whatever it is. It goes into the store. */
static int get_document(struct remote *r, const struct image_store *s, const struct image_descriptor *wanted,
                        struct image_descriptor *out, char **text, size_t *size, struct error *e)
{
    char url[600], is[DIGEST_TEXT];
    struct reply reply;
    const char *which = wanted ? wanted->digest : r->ref.digest[0] ? r->ref.digest : r->ref.tag;
    snprintf(url, sizeof(url), "/v2/%s/manifests/%s", r->ref.path, which);
    int rc = remote_ask(r, "GET", url, ACCEPT, NULL, &reply, e);
    if (rc < 0)
        return rc;
    if (reply.status != 200 || !reply.text) {
        snprintf(url, sizeof(url), "%s:%s", r->ref.path, which);
        rc = remote_refused(r, &reply, url, e);
        remote_reply_free(&reply);
        return rc;
    }
    struct digester d;
    const char *named = strchr(which, ':') ? which : NULL;
    digester_begin(&d, named);
    digester_add(&d, reply.text, reply.size);
    digester_end(&d, is);
    if (named && (strcmp(named, is) || (wanted && wanted->size != reply.size)))
        rc = error_set(e, EBADMSG, "registry %s: %s: what came has another digest or size: damaged or forged, refused",
                       r->ref.host, named);
    json_t *j = rc == 0 ? image_json(reply.text, reply.size, "manifest", e) : NULL;
    const char *type = j ? manifest_type(j) : NULL;
    if (j && !type)
        error_set(e, EBADMSG, "registry %s: %s: is neither a manifest nor an index", r->ref.host, which);
    memset(out, 0, sizeof(*out));
    snprintf(out->type, sizeof(out->type), "%s", type ? type : "");
    snprintf(out->digest, sizeof(out->digest), "%s", is);
    out->size = reply.size;
    *size = reply.size;
    json_decref(j);
    if (type) {
        *text = reply.text;
        return 0;
    }
    free(reply.text);
    return rc < 0 ? rc : -EBADMSG;
}

static int put_document(const struct image_store *s, const struct image_descriptor *d, const char *text,
                        struct error *e)
{
    struct ingest in;
    if (image_has_blob(s, d->digest))
        return 0;
    int rc = ingest_begin(&in, s, d->digest, d->size, false, e);
    if (rc == 0 && (rc = ingest_add(&in, text, d->size, e)) < 0)
        ingest_abort(&in, false);
    return rc < 0 ? rc : ingest_commit(&in, d->size, NULL, e);
}

/* Through indexes to the manifest, which goes into the store. */
static int get_manifest(struct remote *r, const struct image_store *s, struct image_descriptor *top, struct manifest *m,
                        struct error *e)
{
    struct image_descriptor next;
    CLEANUP_FREE char *text = NULL;
    size_t size;
    int rc = get_document(r, s, NULL, top, &text, &size, e);
    for (int depth = 0; rc == 0 && image_type_is_index(top->type); depth++) {
        if (depth >= IMAGE_NESTING_MAX)
            return error_set(e, ELOOP, "registry %s: indexes are nested more than %d deep", r->ref.host,
                             IMAGE_NESTING_MAX);
        rc = manifest_choose(text, size, &next, e);
        free(text);
        text = NULL;
        if (rc == 0)
            rc = get_document(r, s, &next, top, &text, &size, e);
    }
    if (rc == 0)
        rc = manifest_parse(m, text, size, e);
    return rc < 0 ? rc : put_document(s, top, text, e);
}

/* --- blobs --- */

struct download {
    const struct image_descriptor *d;
    struct ingest in;
    CURL *h; /* NULL: not on its way */
    struct curl_slist *headers;
    struct reply reply;
    u64 from; /* where this try began */
    int tries;
    s64 not_before; /* ms */
    bool begun, done, begins;
    int error; /* of the ingest, in a callback */
};

struct pull {
    struct remote *r;
    const struct image_store *s;
    CURLM *multi;
    struct download *list;
    size_t n, active;
    u64 total, finished;
    image_progress *progress;
    void *arg;
    s64 shown;
    struct error *e;
};

static s64 now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* The first bytes of an answer: is it what we asked for, from where we asked for it? */
static int begin_body(struct pull *p, struct download *w)
{
    long status = 0;
    p->r->lib.curl_easy_getinfo(w->h, CURLINFO_RESPONSE_CODE, &status);
    w->begins = false;
    w->reply.status = status;
    if (status == 206 && w->reply.range_from == w->from)
        return 0;
    if (status == 200 || status == 206)
        return w->from && status == 200 ? ingest_restart(&w->in, p->e) : status == 200 ? 0 : -EPROTO;
    return 0;
}

struct sink {
    struct pull *p;
    struct download *w;
};

static size_t take_blob(char *data, size_t one, size_t size, void *arg)
{
    struct sink *k = arg;
    struct download *w = k->w;
    size_t n = one * size;
    int rc = w->begins ? begin_body(k->p, w) : 0;
    if (rc == 0 && (w->reply.status == 200 || w->reply.status == 206))
        rc = ingest_add(&w->in, data, n, k->p->e);
    w->error = rc;
    return rc < 0 ? 0 : n;
}

static int start(struct pull *p, struct download *w, struct sink *k)
{
    struct web_library *lib = &p->r->lib;
    char url[700], range[40];
    if (!w->begun) {
        int rc = ingest_begin(&w->in, p->s, w->d->digest, w->d->size, true, p->e);
        if (rc < 0)
            return rc;
        w->begun = true;
        if (w->in.size > w->d->size && (rc = ingest_restart(&w->in, p->e)) < 0)
            return rc;
    }
    w->from = w->in.size;
    w->begins = true;
    w->error = 0;
    if (w->from == w->d->size)
        return 1; /* all of it is here already */
    w->h = lib->curl_easy_init();
    if (!w->h)
        return error_set(p->e, ENOMEM, "out of memory");
    snprintf(url, sizeof(url), "/v2/%s/blobs/%s", p->r->ref.path, w->d->digest);
    int rc = remote_prepare(p->r, w->h, url, NULL, &w->headers, p->e);
    if (rc < 0)
        return rc;
    if (w->from) {
        snprintf(range, sizeof(range), "%llu-", (unsigned long long)w->from);
        lib->curl_easy_setopt(w->h, CURLOPT_RANGE, range);
    }
    *k = (struct sink){p, w};
    lib->curl_easy_setopt(w->h, CURLOPT_HTTPHEADER, w->headers);
    lib->curl_easy_setopt(w->h, CURLOPT_HEADERDATA, &w->reply);
    lib->curl_easy_setopt(w->h, CURLOPT_WRITEFUNCTION, take_blob);
    lib->curl_easy_setopt(w->h, CURLOPT_WRITEDATA, k);
    lib->curl_easy_setopt(w->h, CURLOPT_PRIVATE, w);
    p->active++;
    return lib->curl_multi_add_handle(p->multi, w->h) == CURLM_OK ? 0 : error_set(p->e, EIO, "libcurl: refuses");
}

static void stop(struct pull *p, struct download *w)
{
    if (!w->h)
        return;
    p->r->lib.curl_multi_remove_handle(p->multi, w->h);
    p->r->lib.curl_easy_cleanup(w->h);
    p->r->lib.curl_slist_free_all(w->headers);
    w->h = NULL;
    w->headers = NULL;
    p->active--;
}

/* All bytes are here: right, or not. What was put together of two tries gets one more from the beginning. */
static int finish(struct pull *p, struct download *w)
{
    struct error why = {0};
    u64 size = w->in.size;
    bool pieced = w->from > 0;
    int rc = ingest_commit(&w->in, w->d->size, NULL, &why);
    w->begun = false;
    if (rc == 0) {
        w->done = true;
        p->finished += size;
        return 0;
    }
    if (rc == -EBADMSG && pieced && w->tries++ < REMOTE_TRIES)
        return 0;
    return error_set(p->e, why.code, "registry %s: %s", p->r->ref.host, why.msg);
}

/* It did not come. Again after a while, but for what another try would not change. */
static int retry(struct pull *p, struct download *w, CURLcode c)
{
    long status = w->reply.status;
    bool hopeless = w->error < 0 && w->error != -EPROTO;
    if (hopeless)
        return w->error;
    if (status == 401 && w->tries == 0) {
        int rc = remote_authenticate(p->r, &w->reply, p->e);
        if (rc < 0)
            return rc;
    } else if (status == 416 ||
               w->error == -EPROTO) { /* what we have is not a beginning of it, or it gives another part */
        int rc = ingest_restart(&w->in, p->e);
        if (rc < 0)
            return rc;
    } else if (c == CURLE_OK && status >= 300 && status != 429 && status < 500) {
        return remote_refused(p->r, &w->reply, w->d->digest, p->e);
    }
    if (w->in.size > w->from)
        w->tries = 0; /* it comes in pieces, but it comes */
    if (++w->tries >= REMOTE_TRIES)
        return c == CURLE_OK ? remote_refused(p->r, &w->reply, w->d->digest, p->e)
                             : error_set(p->e, EIO, "registry %s: %s: %s; what came is kept, pull again to go on",
                                         p->r->ref.host, w->d->digest, p->r->lib.curl_easy_strerror(c));
    w->not_before = now_ms() + (status == 401 ? 0 : 100ll << w->tries);
    return 0;
}

static int collect(struct pull *p)
{
    struct web_library *lib = &p->r->lib;
    CURLMsg *m;
    int left, rc = 0;
    while (rc == 0 && (m = lib->curl_multi_info_read(p->multi, &left))) {
        struct download *w = NULL;
        CURLcode c = m->data.result;
        if (m->msg != CURLMSG_DONE)
            continue;
        lib->curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&w);
        lib->curl_easy_getinfo(m->easy_handle, CURLINFO_RESPONSE_CODE, &w->reply.status);
        stop(p, w);
        bool whole = c == CURLE_OK && (w->reply.status == 200 || w->reply.status == 206) && w->in.size == w->d->size;
        if (c == CURLE_OK && (w->reply.status == 200 || w->reply.status == 206) && !whole)
            return error_set(p->e, EBADMSG, "registry %s: %s: has %llu bytes, its manifest says %llu: refused",
                             p->r->ref.host, w->d->digest, (unsigned long long)w->in.size,
                             (unsigned long long)w->d->size);
        rc = whole ? finish(p, w) : retry(p, w, c);
    }
    return rc;
}

static void show(struct pull *p)
{
    u64 done = p->finished;
    if (!p->progress || now_ms() - p->shown < PROGRESS_MS)
        return;
    for (size_t i = 0; i < p->n; i++)
        if (p->list[i].begun)
            done += p->list[i].in.size;
    p->shown = now_ms();
    p->progress(p->arg, done, p->total);
}

static int start_more(struct pull *p, struct sink *sinks)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < p->n && p->active < REMOTE_PARALLEL; i++) {
        struct download *w = &p->list[i];
        if (w->done || w->h || now_ms() < w->not_before)
            continue;
        rc = start(p, w, &sinks[i]);
        if (rc == 1)
            rc = finish(p, w);
    }
    return rc;
}

static bool all_done(const struct pull *p)
{
    for (size_t i = 0; i < p->n; i++)
        if (!p->list[i].done)
            return false;
    return true;
}

static int get_all(struct pull *p)
{
    struct sink sinks[IMAGE_LAYERS_MAX + 1];
    int rc = 0, running;
    while (rc == 0 && !all_done(p)) {
        rc = start_more(p, sinks);
        if (rc == 0 && p->r->lib.curl_multi_perform(p->multi, &running) != CURLM_OK)
            rc = error_set(p->e, EIO, "libcurl: refuses");
        if (rc == 0)
            rc = collect(p);
        show(p);
        if (rc == 0 && !all_done(p))
            p->r->lib.curl_multi_poll(p->multi, NULL, 0, PROGRESS_MS, NULL);
    }
    return rc;
}

static void want(struct pull *p, const struct image_descriptor *d)
{
    for (size_t i = 0; i < p->n; i++)
        if (!strcmp(p->list[i].d->digest, d->digest))
            return;
    if (image_has_blob(p->s, d->digest))
        return;
    p->list[p->n++].d = d;
    p->total += d->size;
}

static int get_blobs(struct pull *p, const struct manifest *m)
{
    p->list = calloc(m->n_layers + 1, sizeof(*p->list));
    p->multi = p->r->lib.curl_multi_init();
    int rc = p->list && p->multi ? 0 : error_set(p->e, ENOMEM, "out of memory");
    if (rc == 0) {
        want(p, &m->config);
        for (size_t i = 0; i < m->n_layers; i++)
            want(p, &m->layers[i]);
        rc = get_all(p);
    }
    for (size_t i = 0; p->list && i < p->n; i++) {
        stop(p, &p->list[i]);
        if (p->list[i].begun)
            ingest_abort(&p->list[i].in, true);
    }
    if (p->multi)
        p->r->lib.curl_multi_cleanup(p->multi);
    free(p->list);
    return rc;
}

/* What was said of it must be true of what is here. */
static int check(const struct image_store *s, const struct image_descriptor *top, struct error *e)
{
    struct image i;
    int rc = image_read(s, top, &i, e);
    if (rc < 0)
        return rc;
    for (size_t k = 0; rc == 0 && k < i.manifest.n_layers; k++)
        rc = image_check_size(s, &i.manifest.layers[k], e);
    if (rc == 0 && geteuid() == 0)
        rc = layer_unpack_all(s, &i, NULL, NULL, e);
    image_free(&i);
    if (rc == -EOPNOTSUPP) { /* they will be copied (box/root.c) */
        *e = (struct error){0};
        rc = 0;
    }
    return rc;
}

int image_pull(const struct image_store *s, const char *name, image_progress *progress, void *arg,
               struct image_descriptor *top, struct error *e)
{
    struct remote r;
    struct reference ref;
    struct manifest *m = malloc(sizeof(*m));
    char full[REFERENCE_TEXT];
    struct pull p = {.r = &r, .s = s, .progress = progress, .arg = arg, .e = e};
    int rc = m ? reference_parse(&ref, name, e) : error_set(e, ENOMEM, "out of memory");
    if (rc == 0)
        rc = remote_open(&r, &ref, false, e);
    if (rc < 0) {
        free(m);
        return rc;
    }
    rc = get_manifest(&r, s, top, m, e);
    if (rc == 0)
        rc = get_blobs(&p, m);
    remote_close(&r);
    free(m);
    if (rc == 0)
        rc = check(s, top, e);
    reference_full(&ref, full);
    return rc < 0 ? rc : image_tag(s, full, top, e);
}
