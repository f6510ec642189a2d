/*
 * Images from Dockerfiles.
 *
 * A build reads the Dockerfile (image/dockerfile.h), takes the stages that are needed, and goes through their instructions. What
 * only changes the configuration is done at once (build_config.c); RUN, COPY, ADD and WORKDIR change files (build_step.c): each
 * happens on an overlayfs of the layers so far, and what it leaves in the upper directory becomes a layer. What a step makes is
 * remembered by all that went into it (image/build_cache.h), and not done again.
 *
 * What must stay true
 *  1. The image store is held shared from beginning to end: nothing that the build has found or made is collected meanwhile.
 *  2. What a build makes on the way lies in the store's tmp and in a container of its own, whose keeper ends it when the build
 *     does: who is killed leaves garbage of the store, and nothing else.
 *  3. Files of the context are reached through image/build_tree.h only, those of the image through that and the container.
 *  4. A step is remembered with the digest of what was copied, not of what was there before.
 */
#ifndef TRAPEZE_BOX_BUILD_H
#define TRAPEZE_BOX_BUILD_H

#include "box/box.h"
#include "image/digest.h"

struct build_report {
    unsigned step, steps;
    const char *stage; /* its name, or number */
    const char *text;  /* the instruction */
    bool done;         /* false: it begins */
    bool cached;
    const char *layer; /* digest of the layer that it made, "" */
};

struct build_options {
    const char *context;  /* a directory; "-": a tar, or a Dockerfile, on standard input */
    const char *file;     /* of the Dockerfile; NULL: Dockerfile in the context; "-": standard input */
    struct box_list tags; /* names of the image */
    struct box_list args; /* NAME=VALUE, or NAME: from here */
    const char *target;   /* a stage; NULL: the last */
    const char *network;  /* of RUN, as for box_options */
    bool no_cache;        /* do all of it, and remember it */
    int output;           /* what RUN prints goes there */
    void (*tell)(void *arg, const struct build_report *report); /* may be NULL */
    void *arg;
    int signal; /* out: it was ended by this one */
};

/* Before: box_protect. `id` gets the image's. 0 or -errno; messages begin with file and line of the instruction. */
int box_build(struct build_options *o, char id[DIGEST_TEXT], struct error *e);

/*
 * An image of a container: its image's layers, and one of what the container has written. It is paused meanwhile if it runs.
 * `changes`: instructions of a Dockerfile that change the configuration. `name` may be NULL.
 */
struct commit_options {
    const char *name, *author, *message;
    struct box_list changes;
};
int box_commit(const struct machine_row *row, const struct commit_options *o, char id[DIGEST_TEXT], struct error *e);

/*
 * The root of a container, running or not, without what is mounted in it, as a tar. This process gets a mount namespace of its own.
 */
int box_export(const struct machine_row *row, int fd, struct error *e);

#endif
