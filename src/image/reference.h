/*
 * Names of images: [HOST[:PORT]/]PATH[:TAG][@DIGEST], as people write them and as they are stored.
 *
 * A first part that holds a dot or a colon, or is "localhost", is a host. Without one the host is docker.io, and a path of
 * one part gets "library/" before it; without tag and digest the tag is "latest". (The rules of github.com/distribution/
 * reference, which every engine follows.)
 */
#ifndef TRAPEZE_IMAGE_REFERENCE_H
#define TRAPEZE_IMAGE_REFERENCE_H

#include "image/digest.h"

struct reference {
    char host[256]; /* with the port: "docker.io", "127.0.0.1:5000" */
    char path[256]; /* "library/debian" */
    char tag[129];  /* "" when there is only a digest */
    char digest[DIGEST_TEXT];
};

#define REFERENCE_TEXT 800

/* -EINVAL with `e` that says what is wrong. */
int reference_parse(struct reference *r, const char *text, struct error *e);
/* In full: what the store's index holds. */
void reference_full(const struct reference *r, char out[REFERENCE_TEXT]);
/* As short as a person would write it: a full name without what the rules put in. */
void reference_short(const char *full, char out[REFERENCE_TEXT]);

#endif
