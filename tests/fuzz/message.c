/*
 * Messages of a migration, from whoever: read to the end or refused, by who expects all kinds that there may be. Input: what the peer
 * sends before it ends the connection; the checksums are made right first, so that what they cover is reached, but where the first
 * byte of the input is odd.
 */
#include "base/bytes.h"
#include "fuzz.h"
#include "migrate/message.h"

#include <sys/socket.h>
#include <unistd.h>

#define INPUT_MAX (64u << 10) /* what a socket takes without anybody who reads */

static const struct message_kind kinds[] = {{.type = "HELO", .json = true},
                                            {.type = "TINY", .json = true, .most = 16},
                                            {.type = "PAGE", .most = 8192},
                                            {.type = "DONE"}};

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

/* What must hold of each message that was accepted, and of the error that ended it. */
static void read_all(struct channel *c)
{
    struct message m = {0};
    struct error e = {0};
    while (message_receive(c, kinds, ARRAY_LEN(kinds), &m, &e) == 0) {
        FUZZ_CHECK(m.kind < ARRAY_LEN(kinds));
        u32 most = kinds[m.kind].most ? kinds[m.kind].most : kinds[m.kind].json ? MESSAGE_JSON_MAX : 0;
        FUZZ_CHECK(m.len <= most && (m.json != NULL) == kinds[m.kind].json && (!m.len || m.data));
        FUZZ_CHECK(!m.json || json_is_object(m.json));
    }
    FUZZ_CHECK(e.code && e.msg[0]);
    message_free(&m);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    int fd[2];
    struct channel *c;
    if (!size || size > INPUT_MAX)
        return 0;
    u8 *copy = malloc(size);
    FUZZ_CHECK(copy && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) == 0);
    memcpy(copy, data + 1, size - 1);
    if (!(data[0] & 1))
        seal(copy, size - 1);
    FUZZ_CHECK(send(fd[0], copy, size - 1, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)(size - 1) || size == 1);
    close(fd[0]);
    free(copy);
    FUZZ_CHECK(channel_adopt(fd[1], "peer", &c, NULL) == 0);
    read_all(c);
    channel_close(c);
    return 0;
}
