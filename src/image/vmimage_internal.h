/* What the files of machine images say to each other. */
#ifndef TRAPEZE_IMAGE_VMIMAGE_INTERNAL_H
#define TRAPEZE_IMAGE_VMIMAGE_INTERNAL_H

#include "base/error.h"
#include "base/types.h"
#include "image/vmimage.h"

#include <sys/types.h>

/* Made of src/image/debian.sh and guest/trapeze-agent.service by tools/embed. */
extern const char vmimage_debian_sh[];
extern const char vmimage_agent_unit[];

/* The directory of an image: what is opened there is of one image, whoever replaces it meanwhile. -ENOENT with advice. */
int vmimage_open(const struct vmimage_store *s, const char *name, struct error *e);
/* vmimage_describe of that directory. */
int vmimage_describe_at(int dir, const char *name, const char *to, struct vmimage_files *out, struct error *e);

/* A program in namespaces of its own, as root there. */
struct space {
    pid_t pid;
    int pidfd;
    int alive; /* write end of a pipe: its other end tells that we have gone */
};

/* Whether such a program could be started here: -ENOENT, -EPERM with `e` that says what to do. */
int space_check(struct error *e);
/*
 * Start argv[0], an absolute name, with new mount and process namespaces, and as who is not root a user namespace in which
 * he is root and has the numbers that /etc/subuid and /etc/subgid give him. Output goes to `output`. All processes in it
 * end when space_kill is called or this process dies.
 */
int space_start(struct space *s, char *const argv[], char *const env[], int output, struct error *e);
void space_kill(struct space *s);
/* Wait for its end: status as of waitpid(2). */
int space_wait(struct space *s);
/* Remove a directory with what such programs made in it, whoever it belongs to by now. */
int space_remove(const char *path, struct error *e);

/* As which(1), with the directories of administrators; false: not there. */
bool space_find(const char *program, char *out, size_t size);

#endif
