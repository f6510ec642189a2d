/* Files into a guest and out of it, by its agent (docs/agent.md); agent/tree_in.c has what is believed of a tree. */
#include "base/bytes.h"
#include "cli/agent_call.h"
#include "cli/copy_tar.h"
#include "cli/inside.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HOST_MODES 0777u /* no set-user-id bits of a guest's choosing */

static void print_warning(const struct agent_frame *f)
{
    char text[512];
    snprintf(text, sizeof(text), "%.500s", (const char *)f->data);
    agent_clean_text(text);
    fprintf(stderr, "trapeze: %s\n", text);
}

/* The next frame of a tree; warnings are shown on the way. 0 or -errno. */
static int next_frame(int fd, struct agent_frame *f, struct error *e)
{
    int r;
    while ((r = agent_receive(fd, f)) == 1 && f->kind == AGENT_WARNING)
        print_warning(f);
    if (r == 1 && f->kind == AGENT_FAILED) {
        r = agent_failure(f, e);
        error_prefix(e, "in the guest");
        return r;
    }
    return r == 1 ? 0 : error_set(e, EPIPE, "the connection to the guest's agent ended in the middle");
}

static int receive_tree(int fd, const char *from, const char *to, struct agent_frame *f, struct error *e)
{
    struct agent_tree t;
    char name[NAME_MAX + 1];
    u32 flags = 0;
    int r;
    agent_tree_name(from, name, sizeof(name), &flags);
    agent_tree_begin(&t, to, name, flags, HOST_MODES);
    while ((r = next_frame(fd, f, e)) == 0 && (r = agent_tree_take(&t, f, e)) == 0)
        ;
    agent_tree_end(&t);
    return MIN(r, 0);
}

static int receive_tar(int fd, const char *from, struct agent_frame *f, struct error *e)
{
    struct copy_tar_out *t;
    char name[NAME_MAX + 1];
    u32 flags = 0;
    agent_tree_name(from, name, sizeof(name), &flags);
    int r = copy_tar_create(&t, STDOUT_FILENO, flags & AGENT_TREE_CONTENTS ? "" : name, e);
    if (r < 0)
        return r;
    while ((r = next_frame(fd, f, e)) == 0 && (r = copy_tar_put(t, f, e)) == 0)
        ;
    return copy_tar_finish(t, r < 0 ? NULL : e) < 0 || r < 0 ? -EIO : 0;
}

int inside_agent_copy_out(int fd, const char *from, const char *to, struct error *e)
{
    struct agent_frame *f = malloc(sizeof(*f));
    int r = f ? agent_send(fd, AGENT_GET, from, strlen(from) + 1) : -ENOMEM;
    if (r < 0)
        error_set(e, -r, "the connection to the guest's agent: %s", strerror(-r));
    else
        r = strcmp(to, "-") ? receive_tree(fd, from, to, f, e) : receive_tar(fd, from, f, e);
    free(f);
    return r;
}

int inside_machine_copy_out(struct inside *t, const char *from, const char *to, struct error *e)
{
    int fd = agent_connect(&t->row, true, e);
    int r = fd < 0 ? fd : inside_agent_copy_out(fd, from, to, e);
    if (fd >= 0)
        close(fd);
    return r;
}

/* Flags, destination, name. */
static int ask_to_put(int fd, const char *from, const char *to, bool tar, struct error *e)
{
    u8 b[4 + 2 * (PATH_MAX + 1)];
    char name[NAME_MAX + 1] = "";
    u32 flags = tar ? AGENT_TREE_CONTENTS : 0;
    if (!tar)
        agent_tree_name(from, name, sizeof(name), &flags);
    size_t to_len = strlen(to) + 1, name_len = strlen(name) + 1;
    if (to_len > PATH_MAX)
        return error_set(e, ENAMETOOLONG, "%.60s..: the name is too long", to);
    put_le32(b, flags);
    memcpy(b + 4, to, to_len);
    memcpy(b + 4 + to_len, name, name_len);
    int r = agent_send(fd, AGENT_PUT, b, 4 + to_len + name_len);
    return r < 0 ? error_set(e, -r, "the connection to the guest's agent: %s", strerror(-r)) : 0;
}

int inside_agent_copy_in(int fd, const char *from, const char *to, struct error *e)
{
    bool tar = !strcmp(from, "-");
    struct agent_frame *f = malloc(sizeof(*f));
    int r = f ? ask_to_put(fd, from, to, tar, e) : error_set(e, ENOMEM, "memory: the host has none left");
    if (r == 0)
        r = tar ? copy_tar_send(STDIN_FILENO, fd, e) : agent_tree_send(fd, from, e);
    if (r == 0)
        r = next_frame(fd, f, e);
    if (r == 0 && f->kind != AGENT_DONE)
        r = error_set(e, EPROTO, "the guest's agent ended without an answer");
    free(f);
    return r;
}

int inside_machine_copy_in(struct inside *t, const char *from, const char *to, struct error *e)
{
    int fd = agent_connect(&t->row, true, e);
    int r = fd < 0 ? fd : inside_agent_copy_in(fd, from, to, e);
    if (fd >= 0)
        close(fd);
    return r;
}

const struct inside_ops inside_machine_ops = {
    .exec = inside_machine_exec, .copy_in = inside_machine_copy_in, .copy_out = inside_machine_copy_out};
