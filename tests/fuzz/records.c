/*
 * A machine's records, changed by the input and sealed again with right checksums, into a machine: either refused without a
 * change, or loaded so that what is saved next loads again. Input: changes of 4 bytes each (record, offset, value), then,
 * if the first byte is odd, raw bytes behind it all.
 */
#include "base/bytes.h"
#include "fuzz.h"
#include "vm/board.h"

#include <sys/mman.h>

#define RAM (2u << 20)

static u64 no_time(void *ctx)
{
    return 1000000;
}

static size_t no_console(void *ctx, const u8 *data, size_t len)
{
    return len;
}

static struct board *make_board(void)
{
    void *ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FUZZ_CHECK(ram != MAP_FAILED);
    struct board_config cfg = {.ram = ram,
                               .ram_size = RAM,
                               .ram_fd = -1,
                               .cpu_model = "x86-64-v2",
                               .engine = &engine_interp,
                               .tsc_hz = 1000000000,
                               .host_ns = no_time,
                               .host_tsc = no_time,
                               .console_out = no_console,
                               .virtio_console = true};
    struct board *b = NULL;
    struct error e = {0};
    if (board_create(&b, &cfg, &e))
        fprintf(stderr, "%s\n", e.msg);
    FUZZ_CHECK(b);
    return b;
}

/* Change a payload byte of record number `which`, and make its checksum right. Header: see base/record.h. */
static void change(struct rec_buf *r, unsigned which, u16 offset, u8 value)
{
    size_t at = 0;
    while (at + 16 <= r->len) {
        u32 len = get_le32(r->data + at + 8);
        if (!which--) {
            if (len) {
                r->data[at + 16 + offset % len] = value;
                put_le32(r->data + at + 12, crc32c(0, r->data + at + 16, len));
            }
            return;
        }
        at += 16 + len;
    }
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
    static struct board *b;
    static struct rec_buf fresh;
    if (!b) {
        b = make_board();
        FUZZ_CHECK(!board_save(b, &fresh));
    }
    struct fuzz_input in = {data, len};
    bool raw = fuzz_number(&in, 1) & 1;
    struct error e = {0};
    FUZZ_CHECK(!board_load(b, fresh.data, fresh.len, &e));

    struct rec_buf r = {.data = malloc(fresh.len + len), .len = fresh.len, .cap = fresh.len + len};
    FUZZ_CHECK(r.data);
    memcpy(r.data, fresh.data, fresh.len);
    for (unsigned n = 0; in.len >= 4 && n < 64; n++) {
        unsigned which = (unsigned)fuzz_number(&in, 1);
        u16 offset = (u16)fuzz_number(&in, 2);
        change(&r, which, offset, (u8)fuzz_number(&in, 1));
    }
    if (raw) {
        memcpy(r.data + r.len, in.data, in.len);
        r.len += in.len;
    }

    struct rec_buf before = {0}, after = {0};
    FUZZ_CHECK(!board_save(b, &before));
    int rc = board_load(b, r.data, r.len, &e);
    FUZZ_CHECK(!board_save(b, &after));
    if (rc)
        FUZZ_CHECK(e.code && before.len == after.len && !memcmp(before.data, after.data, after.len));
    else
        FUZZ_CHECK(!board_load(b, after.data, after.len, &e));
    rec_buf_free(&before);
    rec_buf_free(&after);
    free(r.data);
    return 0;
}
