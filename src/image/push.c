/* From the store to a registry: the blobs that it has not, then the manifest, which names them. */
#include "image/remote.h"
#include "container/sys.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct push {
    struct remote *r;
    const struct image_store *s;
    image_progress *progress;
    void *arg;
    u64 done, total;
    struct error *e;
};

static int has_blob(struct push *p, const char *digest, bool *has)
{
    char url[700];
    struct reply reply;
    snprintf(url, sizeof(url), "/v2/%s/blobs/%s", p->r->ref.path, digest);
    int rc = remote_ask(p->r, "HEAD", url, NULL, NULL, &reply, p->e);
    *has = rc == 0 && reply.status == 200;
    remote_reply_free(&reply);
    return rc;
}

/* Where it wants the blob: relative to the registry, or anywhere. */
static int begin_upload(struct push *p, char *out, size_t size)
{
    char url[600];
    struct reply reply;
    struct body nothing = {.type = "application/octet-stream", .fd = -1, .text = ""};
    snprintf(url, sizeof(url), "/v2/%s/blobs/uploads/", p->r->ref.path);
    int rc = remote_ask(p->r, "POST", url, NULL, &nothing, &reply, p->e);
    if (rc < 0)
        return rc;
    if (reply.status != 202)
        rc = remote_refused(p->r, &reply, "sending a blob", p->e);
    else if (reply.location[0] != '/' && strncmp(reply.location, "http", 4))
        rc = error_set(p->e, EPROTO, "registry %s: does not say where to send a blob", p->r->ref.host);
    else
        snprintf(out, size, "%s", reply.location);
    remote_reply_free(&reply);
    return rc;
}

static int send_blob(struct push *p, const struct image_descriptor *d)
{
    char where[2048], url[2300];
    struct reply reply;
    CLEANUP_FD int fd = image_open_blob(p->s, d->digest, p->e);
    int rc = fd < 0 ? fd : begin_upload(p, where, sizeof(where));
    if (rc < 0)
        return rc;
    struct body body = {.type = "application/octet-stream", .fd = fd, .size = d->size};
    snprintf(url, sizeof(url), "%s%sdigest=%s", where, strchr(where, '?') ? "&" : "?", d->digest);
    rc = remote_ask(p->r, "PUT", url, NULL, &body, &reply, p->e);
    if (rc == 0 && reply.status != 201)
        rc = remote_refused(p->r, &reply, d->digest, p->e);
    remote_reply_free(&reply);
    return rc;
}

static int put_blob(struct push *p, const struct image_descriptor *d)
{
    bool has;
    int rc = has_blob(p, d->digest, &has);
    if (rc == 0 && !has)
        rc = send_blob(p, d);
    p->done += d->size;
    if (rc == 0 && p->progress)
        p->progress(p->arg, p->done, p->total);
    return rc;
}

static int put_manifest(struct push *p, const struct image_descriptor *top)
{
    char url[600];
    CLEANUP_FREE char *text = NULL;
    size_t size;
    struct reply reply;
    int rc = image_read_blob(p->s, top->digest, top->size, &text, &size, p->e);
    if (rc < 0)
        return rc;
    struct body body = {.type = top->type, .fd = -1, .text = text, .size = size};
    snprintf(url, sizeof(url), "/v2/%s/manifests/%s", p->r->ref.path, p->r->ref.tag);
    rc = remote_ask(p->r, "PUT", url, NULL, &body, &reply, p->e);
    if (rc == 0 && reply.status != 201)
        rc = remote_refused(p->r, &reply, p->r->ref.tag, p->e);
    remote_reply_free(&reply);
    return rc;
}

int image_push(const struct image_store *s, const struct image *i, const char *name, image_progress *progress,
               void *arg, struct error *e)
{
    struct remote r;
    struct reference ref;
    struct push p = {.r = &r, .s = s, .progress = progress, .arg = arg, .e = e};
    int rc = reference_parse(&ref, name, e);
    if (rc == 0 && ref.digest[0])
        rc = error_set(e, EINVAL, "image name \"%.100s\": give a name and a tag; the digest follows from the image",
                       name);
    if (rc == 0)
        rc = remote_open(&r, &ref, true, e);
    if (rc < 0)
        return rc;
    p.total = i->manifest.config.size;
    for (size_t k = 0; k < i->manifest.n_layers; k++)
        p.total += i->manifest.layers[k].size;
    for (size_t k = 0; rc == 0 && k < i->manifest.n_layers; k++)
        rc = put_blob(&p, &i->manifest.layers[k]);
    if (rc == 0)
        rc = put_blob(&p, &i->manifest.config);
    if (rc == 0)
        rc = put_manifest(&p, &i->top);
    remote_close(&r);
    return rc;
}
