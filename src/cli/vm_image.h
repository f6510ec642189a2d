/* Images of machines, "vm:NAME", as the verbs `image` and `run` use them. */
#ifndef TRAPEZE_CLI_VM_IMAGE_H
#define TRAPEZE_CLI_VM_IMAGE_H

#include "cli/cli.h"
#include "vm/config.h"
#include "vm/registry.h"

/* --- for `image` (verb_image_build.c) --- */

/* Whether it is `image build vm:..`, which does without the store of containers. */
bool vm_image_is_build(const struct args *a);
/* `image build DIR`, for containers (verb_build.c): an exit status. */
int verb_build(const struct args *a, struct error *e);
/* `image build vm:NAME`: an exit status. */
int verb_image_build(const struct args *a, struct error *e);
/* Rows of the list, added to `list`; those that are there get the kind of containers' images. 0 or -errno. */
int vm_image_add_rows(json_t *list, struct error *e);
/* `image rm vm:NAME`; the name into shown. 0 or -errno. */
int vm_image_rm(const char *ref, char *shown, size_t size, struct error *e);

/* `image prune`: what builds that were killed have left. 0 or -errno. */
int vm_image_sweep(struct error *e);

/* --- for `run` (run_image.c; verb_run.c) --- */

/* Does one of the words of a command line say what Linux's console is? */
bool run_names_console(const char *append);

/* Whether what is run is an image of a machine. */
bool run_image_is(const struct args *a);
/* Refuse what the options can not mean. Sets *c up as the image says: kernel, disk, command line. 0 or -errno. */
int run_image_config(struct vm_config *c, const struct args *a, struct error *e);
/* The machine has a directory: copy the image there, make the NoCloud disk, and have *c name these. 0 or -errno. */
int run_image_prepare(struct vm_config *c, const struct args *a, const struct machine_row *row, struct error *e);

#endif
