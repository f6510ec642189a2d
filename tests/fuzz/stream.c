/*
 * A stream of a machine, from whoever: read to its end or refused, and nothing outside of the memory touched. Input: the stream;
 * its checksums are made right first, so that what they cover is reached.
 */
#include "base/bytes.h"
#include "fuzz.h"
#include "migrate/stream.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#define RAM_MAX (1u << 20)

struct input {
    const u8 *data;
    size_t len, at;
};

static int get(void *ctx, void *buf, size_t len, struct error *e)
{
    struct input *in = ctx;
    FUZZ_CHECK(len <= STREAM_STATE_MAX);
    if (in->len - in->at < len)
        return error_set(e, EBADMSG, "it is cut short");
    memcpy(buf, in->data + in->at, len);
    in->at += len;
    return 0;
}

static void seal(u8 *data, size_t len)
{
    for (size_t at = 0; len - at >= REC_HEADER;) {
        u32 n = get_le32(data + at + 8);
        if (n > len - at - REC_HEADER)
            return;
        put_le32(data + at + 12, crc32c(0, data + at + REC_HEADER, n));
        at += REC_HEADER + n;
    }
}

static void read_machine(struct stream_in *s)
{
    struct error e = {0};
    struct rec_buf state = {0};
    u64 size = s->head.ram_size;
    u8 *ram = mmap(NULL, size + 2 * PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FUZZ_CHECK(ram != MAP_FAILED && mprotect(ram + PAGE_SIZE, size, PROT_READ | PROT_WRITE) == 0);
    if (stream_get_machine(s, ram + PAGE_SIZE, &state, &e) < 0)
        FUZZ_CHECK(e.code && e.msg[0]);
    rec_buf_free(&state);
    munmap(ram, size + 2 * PAGE_SIZE);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    u8 *copy = malloc(size + 1);
    char *config = NULL;
    struct error e = {0};
    FUZZ_CHECK(copy);
    memcpy(copy, data, size);
    seal(copy, size);
    struct input in = {copy, size, 0};
    struct stream_in s = {.get = get, .ctx = &in};
    if (stream_open(&s, &e) == 0 && stream_get_config(&s, &config, &e) == 0 && s.head.ram_size <= RAM_MAX)
        read_machine(&s);
    stream_in_free(&s);
    free(config);
    free(copy);
    return 0;
}
