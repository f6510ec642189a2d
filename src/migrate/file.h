/*
 * The stream as a file, written so that a crash leaves the old file or the new one, whole: it has another name until it is on
 * stable storage (fsync), then takes its own by a rename, which is made durable, too.
 *
 * While it is written it is locked. What a crash leaves under the other name is taken over by the next who writes the same file.
 */
#ifndef TRAPEZE_MIGRATE_FILE_H
#define TRAPEZE_MIGRATE_FILE_H

#include "migrate/stream.h"

#include <limits.h>

struct stream_file {
    int dir, fd;
    char name[NAME_MAX + 1], part[NAME_MAX + 1]; /* in `dir`; while it is written */
};

/*
 * Begin the file `name` in directory `dir` (a descriptor, borrowed until the end). 0 or -errno: -EBUSY when somebody else is
 * writing it. `o` is set up to write there.
 */
int stream_file_create(struct stream_file *f, int dir, const char *name, struct stream_out *o, struct error *e);
/* Make it durable and give it its name, in place of what may be there; or take it away. The file is closed either way. */
int stream_file_commit(struct stream_file *f, struct error *e);
void stream_file_abandon(struct stream_file *f);

/* Open a file for reading; `s` is set up to read it. Close with stream_file_close. */
int stream_file_open(struct stream_file *f, int dir, const char *name, struct stream_in *s, struct error *e);
void stream_file_close(struct stream_file *f);
/* After the stream's end: whether the file ends there, too. */
int stream_file_at_end(struct stream_file *f, struct error *e);

#endif
