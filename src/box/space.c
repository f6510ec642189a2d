/*
 * Containers of who is not root.
 *
 * Their keeper enters a user namespace (container/userns.h) before it opens the image store, and is root there: layers are
 * unpacked, overlayfs is mounted and the container is made as by root, and the container shares that namespace. It can not reach
 * the keeper: it has a process namespace of its own, and the keeper's memory belongs to the namespace that it was executed in.
 *
 * What must stay true
 *  1. Whatever ends or looks at other containers of the user is done outside of such a namespace, where the owner of all of them
 *     has every capability over them; in one he has none over another (user_namespaces(7)).
 *  2. To make a process in a container, or to walk its files, its own namespace is entered: that of its first process.
 *  3. Files of containers that have ended are removed in a new namespace with the same numbers.
 */
#include "box/parts.h"
#include "container/idmap.h"
#include "container/protect.h"
#include "container/sys.h"
#include "container/userns.h"
#include "image/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define MADE_FILE "made.json"

void box_cgroup(const struct box *b, char out[BOX_CGROUP_TEXT])
{
    snprintf(out, BOX_CGROUP_TEXT, "%s%s", b->rootless ? BOX_CGROUP_USER : BOX_CGROUP, b->id);
}

int box_space_enter(struct box_space *s, struct error *e)
{
    s->single[0] = 0;
    return userns_enter(s->single, e);
}

int box_space_join(const struct box *b, struct error *e)
{
    if (geteuid() == 0)
        return 0;
    json_t *j = container_state(&b->host, b->id, false, e);
    pid_t pid = (pid_t)json_integer_value(json_object_get(j, "pid"));
    bool found = j != NULL;
    json_decref(j);
    int r = found ? userns_join(pid, e) : -ESRCH;
    if (r == 0)
        protect_process(); /* now we are root there (container/protect.h) */
    return r;
}

/* What a child says of how it went. */
struct outcome {
    s32 result;
    struct error e;
};

_Noreturn static void do_inside(int (*call)(void *arg, struct error *e), void *arg, int fd)
{
    struct outcome o = {0};
    o.result = userns_enter(NULL, &o.e);
    if (o.result == 0)
        o.result = call(arg, &o.e);
    sys_write_all(fd, &o, sizeof(o));
    _exit(0);
}

int box_space_do(int (*call)(void *arg, struct error *e), void *arg, struct error *e)
{
    struct outcome o;
    int pair[2];
    if (geteuid() == 0)
        return call(arg, e);
    if (pipe2(pair, O_CLOEXEC) < 0)
        return sys_error(e, "pipe");
    pid_t child = fork();
    if (child == 0) {
        close(pair[0]);
        do_inside(call, arg, pair[1]);
    }
    close(pair[1]);
    ssize_t n = child < 0 ? -1 : read(pair[0], &o, sizeof(o));
    close(pair[0]);
    while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR)
        ;
    if (n != sizeof(o))
        return error_set(e, EIO, "user namespace: the process in it vanished");
    return o.result < 0 ? error_set(e, o.e.code, "%s", o.e.msg) : o.result;
}

/* --- what it was made with --- */

static json_t *numbers(const struct box_space *s)
{
    if (!idmap_nested())
        return json_string("all of the host's");
    return s->single[0] ? json_sprintf("one: %s", s->single) : json_string("a range of their own");
}

int box_space_note(const struct box *b, const struct box_space *s, const struct network_link *l, struct error *e)
{
    json_t *j = json_pack("{s:s,s:b,s:o,s:o*}", "root", box_root_is_overlay(b, NULL) == 0 ? "overlayfs" : "copies",
                          "rootless", b->rootless, "numbers", numbers(s), "network", box_net_user_json(l));
    CLEANUP_FREE char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    return text ? tree_write(b->dir, MADE_FILE, text, strlen(text), false, e) : error_set(e, ENOMEM, "out of memory");
}

json_t *box_space_json(const struct box *b)
{
    CLEANUP_FREE char *text = NULL;
    size_t size;
    if (b->dir < 0 || sys_read_at(b->dir, MADE_FILE, 1 << 16, &text, &size) < 0)
        return NULL;
    return json_loadb(text, size, 0, NULL);
}
