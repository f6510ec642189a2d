/*
 * A guest that does what it likes with its sockets: rings, packets and registers of the socket device, while the host's side
 * opens, sends, takes and leaves. Device and connections together, with a ring between them as in a machine. Input: a
 * byte chooses a deed, what follows are its numbers.
 *
 * Must hold: what goes up can be a packet; the guest never gets ahead of its credit, nor we of its; each owner hears exactly one end;
 * connections are bounded, and all places are free again in the end; what is saved loads again.
 */
#include "backend/vsock/vsock.h"
#include "device/virtio/devices.h"
#include "device/virtio/virtio_pci.h"
#include "fuzz.h"

#define RAM    (1u << 20)
#define RINGS  0x1000u
#define BAR    0xc0000000ull
#define QUEUE  64u
#define OWNERS 8u
#define SLOT   30u

struct queue {
    struct vsock_packet p[QUEUE];
    u32 at, n;
};

struct owner {
    struct vsock_connection *c;
    bool open;
    u64 got, taken;
};

struct world {
    struct bus bus;
    struct guest_mem mem;
    struct device_env env;
    struct pci_bus *pci;
    struct virtio_pci *fn;
    struct virtio *v;
    struct queue up, down;
    bool up_full, down_full;
    struct vsock_host *host;
    struct owner owner[OWNERS];
    u64 now;
};

static void no_irq(void *ctx, unsigned gsi, int level)
{
}

static void no_msi(void *ctx, u64 address, u32 data)
{
}

static void zeros(void *ctx, u8 *data, size_t len)
{
    memset(data, 0, len);
}

static bool put(struct queue *q, const struct vsock_packet *p)
{
    FUZZ_CHECK(vsock_packet_check(p) && q->n < QUEUE);
    q->p[(q->at + q->n++) % QUEUE] = *p;
    return true;
}

static bool take(struct queue *q, struct vsock_packet *p)
{
    if (!q->n)
        return false;
    *p = q->p[q->at % QUEUE];
    q->at++;
    q->n--;
    return true;
}

/* --- the device's way --- */

static bool ready(void *ctx, unsigned records)
{
    struct world *w = ctx;
    return !w->up_full && w->up.n + records / VSOCK_RECORDS < QUEUE;
}

static void submit(void *ctx, const struct vsock_packet *p, const u8 *data)
{
    struct world *w = ctx;
    u8 copy[VSOCK_DATA_MAX];
    FUZZ_CHECK(p->len <= sizeof(copy));
    if (p->len)
        memcpy(copy, data, p->len); /* the sanitizer looks whether it is there */
    put(&w->up, p);
}

static bool next(void *ctx, struct vsock_packet *p, u8 *data)
{
    struct world *w = ctx;
    if (!take(&w->down, p))
        return false;
    memset(data, 0x5a, p->len);
    return true;
}

/* --- the host's --- */

static bool send_down(void *ctx, const struct vsock_packet *p, const u8 *data)
{
    struct world *w = ctx;
    return !w->down_full && w->down.n < QUEUE && put(&w->down, p);
}

static void opened(void *ctx, void *owner)
{
    struct owner *o = owner;
    FUZZ_CHECK(o->c && !o->open);
    o->open = true;
}

static void over(void *ctx, void *owner)
{
    struct owner *o = owner;
    FUZZ_CHECK(o->c);
    *o = (struct owner){0};
}

static void refused(void *ctx, void *owner, int why)
{
    FUZZ_CHECK(why && !((struct owner *)owner)->open);
    over(ctx, owner);
}

static void data(void *ctx, void *owner, const u8 *bytes, u32 len)
{
    struct owner *o = owner;
    o->got += len;
    FUZZ_CHECK(o->open && len && o->got - o->taken <= VSOCK_BUFFER);
}

static void shut(void *ctx, void *owner, u32 flags)
{
    FUZZ_CHECK(((struct owner *)owner)->open && flags && flags < 4);
}

static const struct vsock_ops ops = {send_down, opened, refused, data, shut, over};

static void make(struct world *w, u8 *ram)
{
    struct error e = {0};
    memset(w, 0, sizeof(*w));
    FUZZ_CHECK(mem_init(&w->mem, ram, RAM, -1, &e) == 0);
    w->env = (struct device_env){
        .bus = &w->bus, .irq_set = no_irq, .msi = no_msi, .mem = &w->mem, .random = zeros, .ram_low = RAM};
    const struct virtio_vsock_config c = {.cid = 3, .ready = ready, .submit = submit, .next = next, .ctx = w};
    FUZZ_CHECK(pci_create(&w->pci, &w->env, &e) == 0);
    FUZZ_CHECK(virtio_vsock_create(&w->v, &w->env, &c, &e) == 0);
    w->v->slot = SLOT;
    FUZZ_CHECK(virtio_pci_create(&w->fn, w->pci, w->v, &e) == 0);
    FUZZ_CHECK((w->host = vsock_create(&ops, w)) != NULL);
}

static void discard(struct world *w)
{
    virtio_pci_destroy(w->fn);
    pci_destroy(w->pci);
    mem_destroy(&w->mem);
    vsock_destroy(w->host);
}

static void host_receives(struct world *w)
{
    static const u8 bytes[VSOCK_DATA_MAX];
    struct vsock_packet p;
    while (take(&w->up, &p))
        vsock_receive(w->host, &p, bytes);
    vsock_pump(w->host, w->now);
}

/* Queues of 8, whole. */
static void bring_up(struct world *w, u64 features)
{
    pci_config_write(w->pci, SLOT, PCI_BAR0, 4, (u32)BAR);
    pci_config_write(w->pci, SLOT, PCI_BAR0 + 4, 4, 0);
    pci_config_write(w->pci, SLOT, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    const u64 begin[][3] = {
        {20, 1, 0}, {20, 1, 3}, {8, 4, 0}, {12, 4, (u32)features}, {8, 4, 1}, {12, 4, 1 | features >> 32}, {20, 1, 11}};
    for (unsigned i = 0; i < ARRAY_LEN(begin); i++)
        bus_mmio_write(&w->bus, BAR + begin[i][0], (unsigned)begin[i][1], begin[i][2]);
    for (u64 q = 0; q < 3; q++) {
        const u64 at = RINGS + q * 512,
                  steps[][3] = {{22, 2, q}, {24, 2, 8}, {32, 8, at}, {40, 8, at + 128}, {48, 8, at + 256}, {28, 2, 1}};
        for (unsigned i = 0; i < ARRAY_LEN(steps); i++)
            bus_mmio_write(&w->bus, BAR + steps[i][0], (unsigned)steps[i][1], steps[i][2]);
    }
    bus_mmio_write(&w->bus, BAR + 20, 1, 15);
}

/* One more chain of queue `q` is offered, as drivers do. */
static void offer(struct world *w, u8 *ram, u64 q, u8 head)
{
    u8 *avail = ram + RINGS + q * 512 + 128;
    u16 idx;
    memcpy(&idx, avail + 2, 2);
    avail[4 + 2 * (idx % 8)] = head;
    avail[5 + 2 * (idx % 8)] = 0;
    idx++;
    memcpy(avail + 2, &idx, 2);
    bus_mmio_write(&w->bus, BAR + 0x3000 + 4 * q, 2, q);
}

/* A packet as a driver sends it, for a connection that there is, with one word of it changed perhaps. */
static void send_packet(struct world *w, struct fuzz_input *in, u8 *ram)
{
    u8 *h = ram + 0x4000, which = (u8)fuzz_number(in, 1);
    u32 words[11] = {3, 0, 2, 0, 1024, 0x40000000u + which % OWNERS, 0, 1, 0, 4096, 0};
    words[7] = 1 | (u32)fuzz_number(in, 1) % 9 << 16; /* stream, operation */
    words[6] = (words[7] >> 16) == VSOCK_OP_RW ? (u32)fuzz_number(in, 2) : 0;
    words[9] = (u32)fuzz_number(in, 2);
    words[10] = (u32)fuzz_number(in, 2);
    words[8] = (u32)fuzz_number(in, 1) % 4;
    if (which & 0x80)
        words[fuzz_number(in, 1) % 11] = (u32)fuzz_number(in, 4);
    memcpy(h, words, 44);
    u64 at = 0x4000;
    u32 len = 44 + ((which & 0x40) ? (u32)fuzz_number(in, 2) : MIN(words[6], 60000u));
    u8 *d = ram + RINGS + 512;
    memset(d, 0, 16);
    memcpy(d, &at, 8);
    memcpy(d + 8, &len, 4);
    offer(w, ram, 1, 0);
}

static void host_deed(struct world *w, struct fuzz_input *in)
{
    static const u8 bytes[VSOCK_DATA_MAX];
    u8 what = (u8)fuzz_number(in, 1);
    struct owner *o = &w->owner[what / 8 % OWNERS];
    u32 n = (u32)fuzz_number(in, 2);
    if (what % 8 == 0 && !o->c) {
        o->c = vsock_open(w->host, o, 1024, w->now);
    } else if (what % 8 == 1 && o->c) {
        u32 room = vsock_room(o->c);
        n = MIN(MIN(n, room), VSOCK_DATA_MAX);
        if (n && vsock_send(o->c, bytes, n))
            FUZZ_CHECK(vsock_room(o->c) == room - n);
    } else if (what % 8 == 2 && o->c) {
        o->taken += MIN(n, o->got - o->taken);
        vsock_forwarded(o->c, o->taken);
    } else if (what % 8 == 3 && o->c) {
        vsock_finish(o->c);
        FUZZ_CHECK(!vsock_room(o->c) || !o->open);
    } else if (what % 8 == 4 && o->c) {
        vsock_leave(o->c, w->now);
        *o = (struct owner){0};
    } else if (what % 8 == 5) {
        w->now += (u64)n << 20;
        vsock_pump(w->host, w->now);
    } else {
        w->up_full = n & 1;
        w->down_full = n >> 1 & 1;
        virtio_vsock_settle(w->v);
    }
}

static void deed(struct world *w, struct fuzz_input *in, u8 *ram)
{
    u8 what = (u8)fuzz_number(in, 1);
    unsigned size = 1u << (what >> 6);
    switch (what % 16) {
    case 0:
        pci_config_write(w->pci, SLOT, (unsigned)fuzz_number(in, 1), MIN(size, 4u), (u32)fuzz_number(in, 4));
        break;
    case 1: { /* a register */
        u64 at = BAR + fuzz_number(in, 2) % 0x5000;
        bus_mmio_write(&w->bus, at, size, fuzz_number(in, size));
        break;
    }
    case 2:
        bring_up(w, fuzz_number(in, 1) << 28);
        break;
    case 3: { /* words of the rings */
        u64 at = RINGS + fuzz_number(in, 2) % 1536;
        fuzz_take(in, ram + at, size);
        break;
    }
    case 4: { /* a buffer to receive into */
        u8 i = (u8)fuzz_number(in, 1) % 8, *d = ram + RINGS + 16 * i;
        u64 at = 0x20000 + fuzz_number(in, 2);
        u32 len = (u32)fuzz_number(in, 2);
        const u16 flags[2] = {2, 0};
        memcpy(d, &at, 8);
        memcpy(d + 8, &len, 4);
        memcpy(d + 12, flags, 4);
        offer(w, ram, 0, i);
        break;
    }
    case 5:
        offer(w, ram, fuzz_number(in, 1) % 3, (u8)fuzz_number(in, 1));
        break;
    case 6:
        host_receives(w);
        virtio_vsock_settle(w->v);
        break;
    case 7:
    case 8:
    case 9:
        host_deed(w, in);
        virtio_vsock_settle(w->v);
        break;
    case 10: { /* a record that a lying cell may put: whatever passes the check */
        static const u8 bytes[VSOCK_DATA_MAX];
        struct vsock_packet p;
        fuzz_take(in, &p, sizeof(p));
        p.len %= VSOCK_DATA_MAX + 1;
        if (vsock_packet_check(&p))
            vsock_receive(w->host, &p, bytes);
        break;
    }
    default:
        send_packet(w, in, ram);
    }
    FUZZ_CHECK(vsock_count(w->host) <= VSOCK_CONNECTIONS && w->bus.n_mmio <= 5);
}

static void save_and_load(struct world *w, struct world *other)
{
    struct rec_buf b = {0};
    struct rec_view v;
    struct error e = {0};
    size_t pos = 0;
    FUZZ_CHECK(pci_save(w->pci, &b) == 0 && virtio_pci_save(w->fn, &b) == 0);
    while (rec_next(b.data, b.len, &pos, &v, &e) == 1) {
        int r = pci_load(other->pci, &v, false, &e);
        FUZZ_CHECK(r == 1 || (r == 0 && virtio_pci_load(other->fn, &v, false, &e) == 1));
    }
    virtio_vsock_settle(other->v);
    host_receives(other);
    rec_buf_free(&b);
}

int LLVMFuzzerTestOneInput(const u8 *bytes, size_t len)
{
    struct fuzz_input in = {bytes, len};
    u8 *ram = aligned_alloc(4096, RAM), *ram2 = aligned_alloc(4096, RAM);
    struct world *w = malloc(sizeof(*w)), *other = malloc(sizeof(*w));
    FUZZ_CHECK(ram && ram2 && w && other);
    memset(ram, 0, RAM);
    make(w, ram);
    while (in.len)
        deed(w, &in, ram);
    memcpy(ram2, ram, RAM);
    make(other, ram2);
    save_and_load(w, other);
    /* The driver goes: all of its connections with it. */
    w->up_full = w->down_full = false;
    pci_reset(w->pci);
    virtio_pci_reset(w->fn);
    for (int i = 0; i < 4; i++) {
        virtio_vsock_settle(w->v);
        host_receives(w);
    }
    FUZZ_CHECK(!vsock_count(w->host) && !vsock_owes(w->host));
    for (unsigned i = 0; i < OWNERS; i++)
        FUZZ_CHECK(!w->owner[i].c);
    discard(w);
    discard(other);
    free(w);
    free(other);
    free(ram);
    free(ram2);
    return 0;
}
