/* Payloads that hold strings: numbers first, then strings, each ended by a zero. */
#include "agent/agent.h"
#include "base/bytes.h"

#include <errno.h>

#define EXEC_HEAD 16u
#define FILE_HEAD 32u

/* Append a string and its zero; -1 when there is no room. */
static int put_string(u8 *out, size_t *at, const char *s)
{
    size_t len = strlen(s) + 1;
    if (len > AGENT_FRAME_MAX - *at)
        return -1;
    memcpy(out + *at, s, len);
    *at += len;
    return 0;
}

/* The string at *at of a frame; NULL when none ends inside it. */
static const char *get_string(const struct agent_frame *f, u32 *at)
{
    const char *s = (const char *)f->data + *at;
    size_t len = strnlen(s, f->len - *at);
    if (*at >= f->len || len == f->len - *at)
        return NULL;
    *at += (u32)len + 1;
    return s;
}

s64 agent_exec_pack(const struct agent_exec *x, u8 *out)
{
    size_t at = EXEC_HEAD;
    put_le32(out, x->flags);
    put_le16(out + 4, x->rows);
    put_le16(out + 6, x->columns);
    put_le32(out + 8, x->argc);
    put_le32(out + 12, x->envc);
    int r = x->argc > AGENT_ARGS_MAX || x->envc > AGENT_ARGS_MAX;
    r = r || put_string(out, &at, x->cwd) || put_string(out, &at, x->user);
    for (u32 i = 0; i < x->argc && !r; i++)
        r = put_string(out, &at, x->argv[i]);
    for (u32 i = 0; i < x->envc && !r; i++)
        r = put_string(out, &at, x->env[i]);
    return r ? -E2BIG : (s64)at;
}

int agent_exec_unpack(struct agent_exec *x, const struct agent_frame *f)
{
    u32 at = EXEC_HEAD;
    if (f->len < EXEC_HEAD)
        return -EPROTO;
    *x = (struct agent_exec){.flags = get_le32(f->data),
                             .rows = get_le16(f->data + 4),
                             .columns = get_le16(f->data + 6),
                             .argc = get_le32(f->data + 8),
                             .envc = get_le32(f->data + 12)};
    bool good = x->argc && x->argc <= AGENT_ARGS_MAX && x->envc <= AGENT_ARGS_MAX &&
                !(x->flags & ~(AGENT_EXEC_TTY | AGENT_EXEC_INPUT)) && (x->cwd = get_string(f, &at)) &&
                (x->user = get_string(f, &at));
    for (u32 i = 0; good && i < x->argc; i++)
        good = (x->argv[i] = get_string(f, &at));
    for (u32 i = 0; good && i < x->envc; i++)
        good = (x->env[i] = get_string(f, &at));
    return good && at == f->len ? 0 : -EPROTO;
}

s64 agent_file_pack(const struct agent_file *f, u8 *out)
{
    size_t at = FILE_HEAD;
    put_le32(out, f->type);
    put_le32(out + 4, f->mode);
    put_le64(out + 8, (u64)f->mtime);
    put_le32(out + 16, f->mtime_ns);
    put_le32(out + 20, 0);
    put_le64(out + 24, f->size);
    int r = put_string(out, &at, f->name) || put_string(out, &at, f->target ? f->target : "");
    return r ? -ENAMETOOLONG : (s64)at;
}

int agent_file_unpack(struct agent_file *x, const struct agent_frame *f)
{
    u32 at = FILE_HEAD;
    if (f->len < FILE_HEAD || get_le32(f->data) > 255)
        return -EPROTO;
    *x = (struct agent_file){.type = f->data[0],
                             .mode = get_le32(f->data + 4),
                             .mtime = (s64)get_le64(f->data + 8),
                             .mtime_ns = get_le32(f->data + 16),
                             .size = get_le64(f->data + 24)};
    bool good = x->mode <= 07777 && x->mtime_ns < 1000000000 && (x->name = get_string(f, &at)) &&
                (x->target = get_string(f, &at)) && at == f->len;
    good = good && strlen(x->name) < AGENT_PATH_MAX && strlen(x->target) < AGENT_PATH_MAX;
    return good ? 0 : -EPROTO;
}
