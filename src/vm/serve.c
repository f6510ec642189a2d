#include "vm/serve.h"
#include "host/host.h"
#include "migrate/paging.h"
#include "vm/control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static u64 map_bytes(u64 size)
{
    return (size / PAGE_SIZE + 63) / 64 * 8;
}

int page_store_make(struct page_store *s, u8 *ram, u64 size, struct error *e)
{
    *s = (struct page_store){.ram = ram, .size = size};
    int fd = host_memfd("trapeze-named", 2 * map_bytes(size), e);
    s->named = fd < 0 ? NULL : host_map_shared(fd, 2 * map_bytes(size), e);
    if (fd >= 0)
        close(fd);
    if (!s->named)
        return -ENOMEM;
    s->left = s->named + map_bytes(size) / 8;
    return 0;
}

void page_store_close(struct page_store *s)
{
    host_unmap(s->named, s->named ? 2 * map_bytes(s->size) : 0);
    if (s->mapped)
        host_unmap(s->ram, s->size);
    *s = (struct page_store){0};
}

static int get_named(int control, u64 *named, u64 bytes, struct error *e)
{
    json_t *j = json_pack("{s:s,s:s}", "do", "paging", "action", "named"), *reply = NULL;
    int r = j ? control_call(control, j, &reply, e) : error_set(e, ENOMEM, "request: out of memory");
    if (r == 0 && (u64)json_integer_value(json_object_get(reply, "bytes")) != bytes)
        r = error_set(e, EPROTO, "the machine's keeper: a map of another size than its memory's");
    json_decref(j);
    json_decref(reply);
    return r < 0 ? r : control_bytes(control, named, bytes, e);
}

int page_store_open(struct page_store *s, const struct machine_row *row, struct error *e)
{
    u64 size = 0;
    *s = (struct page_store){0};
    int control = control_connect(row->socket, e);
    if (control < 0)
        return control;
    int fd = control_memory(control, &size, e), r = fd;
    u8 *ram = fd < 0 ? NULL : host_map_shared(fd, size, e);
    if (fd >= 0 && (!ram || (r = page_store_make(s, ram, size, e)) < 0))
        r = -ENOMEM;
    s->mapped = ram;
    if (r >= 0)
        r = get_named(control, s->named, map_bytes(size), e);
    if (fd >= 0)
        close(fd);
    close(control);
    if (r < 0)
        page_store_close(s);
    return MIN(r, 0);
}

static void tell(void *ctx, u64 left)
{
    struct page_store *s = ctx;
    if (s->tell)
        s->tell(s->ctx, left);
}

int serve_pages(struct page_store *s, const char *id, struct channel *c, struct error *e)
{
    struct paging_source p = {
        .ram = s->ram, .pages = s->size / PAGE_SIZE, .named = s->named, .left = s->left, .tell = tell, .ctx = s};
    int r = wire_send(c, WIRE_SERVES, wire_id(id, NULL), e);
    channel_limit(c, s->rate);
    if (r == 0)
        r = paging_serve(&p, c, e);
    s->sent += p.sent;
    s->wished += p.wished;
    return r < 0 ? r : WIRE_RUNS;
}

int serve_gone(const char *id, struct channel *c, struct error *e)
{
    json_t *body = NULL;
    int r = wire_send(c, WIRE_GONE, wire_id(id, NULL), e);
    if (r == 0)
        r = wire_receive(c, WIRE(WIRE_RUNS), &body, e);
    if (r >= 0 && (!wire_is_of(body, id) || wire_lacks(body)))
        r = error_set(e, EPROTO, "%s: an answer that can not be", c->peer);
    json_decref(body);
    return r;
}
