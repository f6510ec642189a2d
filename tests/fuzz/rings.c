/* A peer that lies on every word of a ring: whatever it writes between two calls, no call leaves the ring or its promise. */
#include "base/ring.h"
#include "fuzz.h"

#include <errno.h>

#define SIZE 256u

static void check_bytes(s64 n, size_t most, u32 unit)
{
    FUZZ_CHECK(n == -EPROTO || (n >= 0 && (size_t)n <= most && n % unit == 0));
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
    struct fuzz_input in = {data, len};
    struct ring_shared *shared = aligned_alloc(64, sizeof(*shared));
    u8 *bytes = malloc(SIZE), buf[3 * SIZE] = {0};
    FUZZ_CHECK(shared && bytes);
    memset(shared, 0, sizeof(*shared));
    memset(bytes, 0, SIZE);
    u32 unit = fuzz_number(&in, 1) & 1 ? RING_RECORD : 1;
    struct ring producer, consumer;
    FUZZ_CHECK(!ring_attach(&producer, shared, bytes, SIZE, unit));
    FUZZ_CHECK(!ring_attach(&consumer, shared, bytes, SIZE, unit));
    while (in.len) {
        u8 what = (u8)fuzz_number(&in, 1);
        size_t n = (size_t)fuzz_number(&in, 2) % sizeof(buf);
        switch (what % 8) {
        case 0:
            check_bytes(ring_write(&producer, buf, n), n, unit);
            break;
        case 1:
            check_bytes(ring_read(&consumer, buf, n), n, unit);
            break;
        case 2:
            check_bytes(ring_used(&consumer), SIZE, unit);
            break;
        case 3:
            check_bytes(ring_room(&producer), SIZE, unit);
            break;
        case 4:
            shared->head = (u32)fuzz_number(&in, 4);
            break;
        case 5:
            shared->tail = (u32)fuzz_number(&in, 4);
            break;
        case 6:
            shared->starved = (u32)fuzz_number(&in, 4);
            ring_take_starved(&consumer);
            break;
        default:
            bytes[n % SIZE] = what;
        }
        /* once broken, a ring stays so */
        FUZZ_CHECK(!producer.broken || ring_room(&producer) == -EPROTO);
        FUZZ_CHECK(!consumer.broken || ring_used(&consumer) == -EPROTO);
    }
    free(bytes);
    free(shared);
    return 0;
}
