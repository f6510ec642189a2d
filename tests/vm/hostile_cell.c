/*
 * A cell that lies. This program's cells are no guests: each takes its seed from the machine's name and then does at random
 * what a broken-out guest could: writes any word of every ring and door, sends messages of any kind, length and id, floods
 * or starves every queue, says nothing, dies. The keeper has to end the machine with a word, or go on; it never crashes,
 * hangs or leaves anything behind, and its clients are served meanwhile.
 *
 *     test-vm-hostile-cell [SEEDS [FIRST]]
 */
#include "harness.h"
#include "host/host.h"
#include "vm/explain.h"
#include "vm/link.h"

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

#define LIFE_MS 60

static unsigned seeds = 40, first = 1;

static u64 next_random(u64 *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s * 0x2545f4914f6cdd1dull;
}

/* --- the cell --- */

struct liar {
    struct link link;
    struct wire wire; /* of its network card */
    u8 *wire_base;
    struct share_line share; /* of its shared directory */
    u8 *share_base;
    u64 seed;
    u64 last_id; /* of the keeper's requests, when it looked */
};

static u32 any(struct liar *l, u32 below)
{
    return (u32)(next_random(&l->seed) >> 32) % below;
}

/* A number that might matter: small, near a ring's size, near a power of two, or anything. */
static u32 interesting(struct liar *l)
{
    static const u32 near[] = {0, 1, 63, 64, 65, 4095, 4096, 4097, 65535, 65536, 65537, 0x7fffffff, 0x80000000, ~0u};
    return any(l, 2) ? near[any(l, ARRAY_LEN(near))] : (u32)next_random(&l->seed);
}

static void lie_index(struct liar *l)
{
    struct ring *r = &l->link.ring[any(l, LINK_RING_COUNT)];
    u32 *word[] = {&r->shared->head, &r->shared->tail, &r->shared->starved};
    u32 which = any(l, 3);
    *word[which] = any(l, 2) ? *word[which] + interesting(l) : interesting(l);
}

static void lie_door(struct liar *l)
{
    (any(l, 2) ? l->link.own : l->link.peer)->asleep = interesting(l);
}

static void lie_message(struct liar *l)
{
    struct link_msg m = {.kind = any(l, 8) ? 1 + any(l, UP_COUNT - 1) : interesting(l),
                         .len = any(l, 3) ? any(l, 300) : interesting(l),
                         .id = any(l, 2) ? l->last_id : next_random(&l->seed),
                         .result = any(l, 2) ? any(l, 200) : interesting(l),
                         .event = any(l, 2) ? any(l, BOARD_FAILURE + 2) : interesting(l),
                         .value = interesting(l)};
    ring_write(&l->link.ring[LINK_MSG_UP], &m, sizeof(m));
}

/* What a cell may say, but out of place or too often. */
static void lie_politely(struct liar *l)
{
    static const u32 events[] = {BOARD_RESET, BOARD_RESET, BOARD_RESET, BOARD_SHUTDOWN, BOARD_DEBUG_EXIT};
    u8 text[8192];
    memset(text, (int)any(l, 256), sizeof(text));
    struct link_msg m = {.kind = UP_STOPPED, .event = events[any(l, ARRAY_LEN(events))], .value = interesting(l)};
    if (any(l, 3) == 0)
        m.len = any(l, sizeof(text) + 1);
    ring_write(&l->link.ring[LINK_MSG_UP], &m, sizeof(m));
    ring_write(&l->link.ring[LINK_DATA_UP], text, any(l, 20) ? m.len : m.len / 2);
}

/* An explanation: true, or with some words of it changed, or too short. */
static void answer_explain(struct liar *l, const struct link_msg *m)
{
    struct engine_explain x = {.start = 0x100000, .n = 2, .code_bytes = 20, .exits = 1};
    u8 asked[sizeof(struct explain_ask)];
    link_read(&l->link, LINK_DATA_DOWN, asked, sizeof(asked));
    for (u32 i = 0; i < x.n; i++)
        x.insn[i] = (struct engine_explain_insn){.rip = x.start + i, .len = 1, .code_off = 10 * i, .code_len = 10};
    for (u32 n = any(l, 4); n; n--) {
        u32 word = interesting(l);
        memcpy((u8 *)&x + any(l, 200) * sizeof(word), &word, sizeof(word));
    }
    struct link_msg a = {.kind = UP_DONE, .id = m->id, .len = any(l, 20) ? sizeof(x) : any(l, sizeof(x))};
    ring_write(&l->link.ring[LINK_MSG_UP], &a, sizeof(a));
    ring_write(&l->link.ring[LINK_DATA_UP], &x, a.len);
}

/* A true answer to what was asked, most of the time: lies are more dangerous in the middle of a conversation. */
static void answer(struct liar *l)
{
    struct link_msg m;
    struct link_stats s;
    struct balloon_ask asked;
    if (link_read(&l->link, LINK_MSG_DOWN, &m, sizeof(m)) <= 0)
        return;
    l->last_id = m.id;
    memset(&s, any(l, 256), sizeof(s));
    if (m.kind == DOWN_EXPLAIN) {
        answer_explain(l, &m);
        return;
    }
    struct link_msg a = {.kind = UP_DONE, .id = m.id, .len = m.kind == DOWN_STATS ? sizeof(s) : 0};
    if (m.kind == DOWN_BALLOON) { /* as the other, of any bytes */
        link_read(&l->link, LINK_DATA_DOWN, &asked, sizeof(asked));
        a.len = any(l, 20) ? sizeof(s.balloon) : any(l, sizeof(s));
    }
    if (m.kind == DOWN_LOG_TAKE) {
        struct log_ask pages = {0};
        link_read(&l->link, LINK_DATA_DOWN, &pages, sizeof(pages));
        a.len = any(l, 20) ? (u32)MIN(pages.pages / 8, sizeof(s)) : any(l, sizeof(s));
    }
    if (m.kind == DOWN_HALT)
        a = (struct link_msg){.kind = UP_STOPPED, .event = BOARD_RESET};
    if (m.kind == DOWN_BOOT || (!m.id && m.kind != DOWN_HALT))
        return;
    ring_write(&l->link.ring[LINK_MSG_UP], &a, sizeof(a));
    if (a.len)
        ring_write(&l->link.ring[LINK_DATA_UP], &s, a.len);
}

static void lie_bytes(struct liar *l)
{
    u8 junk[3000];
    for (size_t i = 0; i < sizeof(junk); i++)
        junk[i] = (u8)next_random(&l->seed);
    ring_write(&l->link.ring[any(l, 2) ? LINK_DATA_UP : LINK_CONSOLE_UP], junk, any(l, sizeof(junk)));
}

static void swallow(struct liar *l)
{
    u8 junk[5000];
    link_read(&l->link, any(l, 2) ? LINK_DATA_DOWN : LINK_CONSOLE_DOWN, junk, any(l, sizeof(junk)));
}

static void lie_everywhere(struct liar *l)
{
    u64 size = link_size();
    for (u32 n = any(l, 200); n; n--)
        l->link.base[next_random(&l->seed) % size] = (u8)next_random(&l->seed);
}

static void rest(struct liar *l)
{
    host_event_signal(l->link.wake_peer);
    poll(NULL, 0, (int)any(l, 4));
}

static void die(struct liar *l)
{
    if (any(l, 40))
        return;
    if (any(l, 2))
        raise(SIGSEGV);
    _exit((int)any(l, 256));
}

/* A disk request that is one, or nearly: each of its words may be off. What it reads lands in guest memory. */
static void ask_disk(struct liar *l, bool honest)
{
    u8 buf[DISK_RECORDS_MAX * RING_RECORD];
    struct disk_request r = {.tag = any(l, DISK_TAGS),
                             .op = 1 + any(l, DISK_OP_COUNT - 1),
                             .sector = any(l, 1000),
                             .sectors = 1 + any(l, 8)};
    bool data = r.op == DISK_READ || r.op == DISK_WRITE;
    struct disk_segs *segs = (struct disk_segs *)(buf + RING_RECORD);
    memset(buf, 0, sizeof(buf));
    r.n_segs = data ? 1 + any(l, 3) : 0;
    r.sectors = r.op == DISK_FLUSH ? 0 : data ? r.n_segs : r.sectors;
    for (u32 i = 0; i < r.n_segs; i++)
        segs->seg[i] = (struct disk_seg){.at = any(l, 8192) * 512, .len = 512};
    for (u32 n = honest ? 0 : 1 + any(l, 3); n; n--) {
        u32 word = interesting(l);
        if (any(l, 2))
            memcpy((u8 *)&r + 4 * any(l, 9), &word, sizeof(word));
        else
            memcpy(buf + RING_RECORD + 4 * any(l, 16), &word, sizeof(word));
    }
    memcpy(buf, &r, sizeof(r));
    u32 records = honest || any(l, 4) ? 1 + disk_seg_records(MIN(r.n_segs, DISK_SEGS_MAX)) : any(l, DISK_RECORDS_MAX);
    ring_write(&l->link.ring[LINK_DISK_UP], buf, records * RING_RECORD);
    link_knock(&l->link);
}

static void use_disk(struct liar *l)
{
    struct disk_reply r;
    while (any(l, 3) && link_read(&l->link, LINK_DISK_DOWN, &r, sizeof(r)) > 0)
        ;
    ask_disk(l, true);
}

static void lie_disk(struct liar *l)
{
    ask_disk(l, false);
}

/* Frames of any content, which libslirp gets to see. */
static void use_net(struct liar *l)
{
    struct net_header h = {0};
    struct wire_frame f;
    for (u32 n = any(l, 4); n; n--) {
        u32 len = NET_FRAME_MIN + any(l, any(l, 8) ? 200 : 60000);
        u8 *p = wire_reserve(&l->wire, len);
        for (u32 i = 0; p && i < MIN(len, 200u); i++)
            p[i] = (u8)next_random(&l->seed);
        static const u8 types[][2] = {{8, 0}, {8, 6}, {0x86, 0xdd}};
        if (p && any(l, 8))
            memcpy(p + 12, types[any(l, 3)], 2);
        if (p && any(l, 4)) {
            p[14] = p[12] == 8 ? 0x45 : 0x60;
            p[23] = (u8)(any(l, 2) ? 6 : 17);
        }
        if (p)
            wire_commit(&l->wire, &h, len);
    }
    wire_look(&l->wire);
    while (any(l, 3) && wire_peek(&l->wire, &f))
        wire_release(&l->wire, &f);
    host_event_signal(LINK_FD_END);
}

/* Lanes and words of the wire as they can not be. */
static void lie_net(struct liar *l)
{
    u32 word = interesting(l);
    memcpy(l->wire_base + (any(l, 2) ? any(l, 256) * 4 : any(l, (u32)wire_size() / 4) * 4), &word, sizeof(word));
    host_event_signal(LINK_FD_END);
}

#define SHARE_WAKE (LINK_FD_END + 2)

/* Questions about files, most of them of an operation that there is; more than there are slots. */
static void use_share(struct liar *l)
{
    struct share_answer done;
    for (u32 n = any(l, 12); n; n--) {
        struct share_ask a = {.slot = any(l, SHARE_SLOTS), .len = 40 + any(l, 200), .room = any(l, 8192)};
        u8 *p = share_question_place(&l->share, a.slot);
        const u64 words[] = {(u64)any(l, 53) << 32 | a.len, 7, any(l, 3) ? 1 : interesting(l), 0, 0};
        for (u32 i = 0; i < a.len; i++)
            p[i] = any(l, 3) ? 0 : (u8)next_random(&l->seed);
        memcpy(p, words, sizeof(words));
        share_send(&l->share, &a);
    }
    while (any(l, 3) && share_receive(&l->share, &done) > 0)
        ;
    host_event_signal(SHARE_WAKE);
}

/* Records, indices and words of the line as they can not be. */
static void lie_share(struct liar *l)
{
    u32 word = interesting(l), ask[RING_RECORD / 4] = {any(l, SHARE_SLOTS), interesting(l), interesting(l)};
    if (any(l, 2))
        share_send(&l->share, ask);
    else
        memcpy(l->share_base + any(l, 4096) * 4, &word, sizeof(word));
    host_event_signal(SHARE_WAKE);
}

/* Packets of a guest's sockets: honest ones, which answer the keeper's requests and send more than they may, or any. */
static void use_sockets(struct liar *l)
{
    static const u16 often[] = {VSOCK_OP_RESPONSE, VSOCK_OP_RESPONSE,      VSOCK_OP_RW,
                                VSOCK_OP_RW,       VSOCK_OP_CREDIT_UPDATE, VSOCK_OP_CREDIT_REQUEST,
                                VSOCK_OP_SHUTDOWN, VSOCK_OP_RST,           VSOCK_OP_REQUEST};
    u8 buf[RING_RECORD + 1024] = {0};
    struct vsock_packet asked = {.src_port = 0x40000000, .dst_port = VSOCK_AGENT_PORT};
    link_read(&l->link, LINK_VSOCK_DOWN, &asked, sizeof(asked));
    struct vsock_packet p = {.kind = VSOCK_PACKET,
                             .src_cid = VSOCK_GUEST_CID,
                             .dst_cid = VSOCK_HOST_CID,
                             .src_port = asked.dst_port,
                             .dst_port = asked.src_port,
                             .type = VSOCK_TYPE_STREAM,
                             .op = often[any(l, ARRAY_LEN(often))],
                             .flags = any(l, 4),
                             .buf_alloc = interesting(l),
                             .fwd_cnt = any(l, 4) ? 0 : interesting(l)};
    for (u32 n = any(l, 3) ? 1 : any(l, 300); n; n--) {
        p.len = p.op == VSOCK_OP_RW ? any(l, 1025) : 0;
        memcpy(buf, &p, sizeof(p));
        ring_write(&l->link.ring[LINK_VSOCK_UP], buf, RING_RECORD + vsock_padded(p.len));
    }
    link_knock(&l->link);
}

static void lie_sockets(struct liar *l)
{
    u32 words[RING_RECORD / 4] = {VSOCK_PACKET, 0, VSOCK_GUEST_CID, 0, VSOCK_HOST_CID, 0};
    words[any(l, ARRAY_LEN(words))] = interesting(l);
    words[any(l, ARRAY_LEN(words))] = any(l, 5);
    ring_write(&l->link.ring[LINK_VSOCK_UP], words, sizeof(words));
    link_knock(&l->link);
}

/* Pages of guest memory vanish, those that its disk reads and writes as well. */
static void give_pages(struct liar *l)
{
    for (u32 n = any(l, 30); n; n--)
        host_give_back(LINK_FD_RAM, NULL, (u64)any(l, 4096) * PAGE_SIZE, (u64)(1 + any(l, 64)) * PAGE_SIZE);
}

/* How a liar spends its time. The seed decides how many of these, from the left, it uses: each is worse than the last. */
static void (*const deeds[])(struct liar *) = {
    answer,       answer,   answer,      rest,        rest,        rest,      swallow,       lie_door,
    die,          use_disk, use_net,     use_sockets, give_pages,  use_share, lie_net,       lie_share,
    lie_politely, lie_disk, lie_sockets, lie_bytes,   lie_message, lie_index, lie_everywhere};
#define MILDEST 9u

static int liar_main(const char *name)
{
    struct error e = {0};
    struct liar l = {.seed = strtoull(name + strcspn(name, "0123456789"), NULL, 10) * 0x9e3779b97f4a7c15ull + 1};
    void *base = host_map_shared(LINK_FD_LINK, link_size(), &e);
    if (!base)
        return 1;
    link_attach(&l.link, base, true, LINK_FD_WAKE_CELL, LINK_FD_WAKE_KEEPER);
    if (!(l.wire_base = host_map_shared(LINK_FD_END + 1, wire_size(), &e)))
        return 1;
    wire_attach(&l.wire, l.wire_base, true);
    if (!(l.share_base = host_map_shared(SHARE_WAKE + 1, share_size(), &e)))
        return 1;
    share_attach(&l.share, l.share_base, true);
    u32 wild = MILDEST + any(&l, ARRAY_LEN(deeds) - MILDEST + 1);
    if (!any(&l, 10)) {
        wild = ARRAY_LEN(deeds); /* it starts with a lie; a silent one would be waited for, for a minute */
    } else {
        struct link_msg ready = {.kind = UP_READY};
        ring_write(&l.link.ring[LINK_MSG_UP], &ready, sizeof(ready));
        link_knock(&l.link);
    }
    for (;;)
        deeds[any(&l, wild)](&l);
}

/* --- the test --- */

/* Its log is taken, and the connection closed whatever comes of it. */
static void follow_log(int fd)
{
    json_t *start = json_pack("{s:s,s:s}", "do", "log", "action", "start");
    json_t *take = json_pack("{s:s,s:s,s:i,s:i}", "do", "log", "action", "take", "first", 64, "pages", 512);
    control_send(fd, start, NULL);
    control_send(fd, take, NULL);
    json_decref(start);
    json_decref(take);
}

static void pester(struct machine *m)
{
    struct error e = {0};
    static const char *const verbs[] = {"status", "stats",   "explain", "pause", "inspect",
                                        "resume", "balloon", "reset",   "save"};
    int console = control_connect(m->socket, &e);
    if (console >= 0) {
        json_t *j = json_pack("{s:s,s:b,s:i}", "do", "console", "input", 1, "replay", 100);
        control_send(console, j, NULL);
        json_decref(j);
        control_frame_send(console, CONTROL_INPUT, "typed into the void", 19);
    }
    /* Connections to its sockets, one of which is dropped at once. */
    int stream[3];
    for (int i = 0; i < 3; i++) {
        stream[i] = control_connect(m->socket, NULL);
        json_t *j = json_pack("{s:s,s:i}", "do", "vsock", "port", (int)VSOCK_AGENT_PORT);
        if (stream[i] >= 0)
            control_send(stream[i], j, NULL);
        json_decref(j);
        if (stream[i] >= 0 && i == 1) {
            shutdown(stream[i], SHUT_RDWR);
            close(stream[i]);
            stream[i] = -1;
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
        /* Not waiting for answers: a cell that is silent may keep them for seconds. */
        int fd = control_connect(m->socket, NULL);
        if (fd < 0)
            break;
        json_t *j = json_pack("{s:s,s:b}", "do", verbs[i], "refresh", 1);
        control_send(fd, j, NULL);
        json_decref(j);
        follow_log(fd);
        poll(NULL, 0, LIFE_MS / (int)ARRAY_LEN(verbs));
        close(fd);
    }
    for (int i = 0; i < 3; i++) {
        if (stream[i] >= 0)
            close(stream[i]);
    }
    if (console >= 0)
        close(console);
}

static void add_disk(struct machine *m)
{
    struct error e = {0};
    char text[200];
    snprintf(text, sizeof(text), "%s/disk.img", m->dir);
    FILE *f = fopen(text, "w");
    assert_non_null(f);
    assert_int_equal(ftruncate(fileno(f), 1 << 20), 0);
    fclose(f);
    assert_int_equal(vm_disk_parse(&m->cfg.disks[0], text, &e), 0);
    m->cfg.n_disks = 1;
}

/* Its back end is libslirp's process, which sees what the liar sends. */
static void add_net(struct machine *m)
{
    struct error e = {0};
    assert_int_equal(vm_net_parse(&m->cfg.nets[0], "user", &e), 1);
    m->cfg.n_nets = 1;
    vm_net_addresses(&m->cfg);
}

/* The directory given away is a sub-directory of the machine's. */
static void add_share(struct machine *m)
{
    struct error e = {0};
    char text[200];
    snprintf(text, sizeof(text), "%s/share", m->dir);
    assert_int_equal(mkdir(text, 0700), 0);
    strcat(text, ":work");
    assert_int_equal(vm_share_parse(&m->cfg.shares[0], text, &e), 0);
    m->cfg.n_shares = 1;
}

static void remove_share(struct machine *m)
{
    char command[600];
    snprintf(command, sizeof(command), "chmod -R u+rwx '%.200s'; rm -rf '%.200s'", m->cfg.shares[0].dir,
             m->cfg.shares[0].dir);
    assert_int_equal(system(command), 0);
}

/* The back ends have outlived what they were sent: they end with their machine, not by a fault or their seals. */
static void check_back_ends(struct machine *m)
{
    json_t *reply = NULL;
    if (machine_do(m, &reply, "{s:s}", "do", "inspect") == 0) {
        const json_t *card = json_array_get(json_object_get(reply, "networks"), 0);
        assert_non_null(card);
        assert_null(strstr(json_string_value(json_object_get(card, "link")), "ended"));
        const json_t *share = json_array_get(json_object_get(reply, "shares"), 0);
        assert_non_null(share);
        assert_null(strstr(json_string_value(json_object_get(share, "state")), "ended"));
    }
    json_decref(reply);
}

/* The image is as large as it was, and what lies beside it is untouched. */
static void check_disk(const struct machine *m)
{
    struct stat st;
    assert_int_equal(stat(m->cfg.disks[0].file, &st), 0);
    assert_int_equal(st.st_size, 1 << 20);
}

static void one(unsigned seed)
{
    struct machine m;
    struct error e = {0};
    char name[32], reason[200] = "";
    snprintf(name, sizeof(name), "hostile-%u", seed);
    machine_prepare(&m, name, guest_idle_begin, guest_idle_end);
    add_disk(&m);
    add_net(&m);
    add_share(&m);
    if (vm_launch(&m.cfg, m.dir, &m.keeper, &e) == 0) {
        pester(&m);
        check_back_ends(&m);
        /* Whatever the cell does: the keeper can be asked to end it, or has ended by itself. */
        machine_do(&m, NULL, "{s:s}", "do", "kill");
        int code = machine_wait(&m, reason);
        if (code != VM_EXIT_SIGNAL + 9 && code != VM_EXIT_HOST && code != VM_EXIT_POWEROFF && code != VM_EXIT_TRIPLE &&
            !(code & 1)) /* debug exit */
            fail_msg("seed %u: exit code %d (%s)", seed, code, reason);
    } else if (!e.msg[0] || strstr(e.msg, "before it could say why")) {
        fail_msg("seed %u: the keeper failed: %s", seed, e.msg);
    }
    machine_gone(&m);
    check_disk(&m);
    remove_share(&m);
    printf("# seed %u: %s\n", seed, e.code ? e.msg : reason);
    machine_forget(&m);
}

static void liars(void **state)
{
    for (unsigned i = 0; i < seeds; i++)
        one(first + i);
}

int main(int argc, char **argv)
{
    if (argc > 2 && !strcmp(argv[1], CELL_ARG))
        return liar_main(argv[2]);
    if (argc > 1 && !strcmp(argv[1], NET_ARG))
        return net_main(argc, argv);
    if (argc > 1 && !strcmp(argv[1], SHARE_ARG))
        return share_main(argc, argv);
    if (argc > 1)
        seeds = (unsigned)strtoul(argv[1], NULL, 10);
    if (argc > 2)
        first = (unsigned)strtoul(argv[2], NULL, 10);
    const struct CMUnitTest tests[] = {cmocka_unit_test(liars)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
