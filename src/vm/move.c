#include "vm/move.h"
#include "host/host.h"
#include "migrate/handover.h"
#include "migrate/mirror.h"
#include "vm/control.h"
#include "vm/meta.h"
#include "vm/resolve.h"
#include "vm/serve.h"
#include "vm/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S    1000000000ull
#define NS_PER_MS   1000000ull
#define CONNECT_MS  5000
#define OVERHEAD    (4 * NS_PER_MS) /* of the downtime: state, records, messages */
#define ABORT_MS    2000
#define STOP_MS     10000           /* a target that does not get ready in that time has lost */
#define ANSWER_MS   3000            /* after which a committed machine is asked about by a new connection */
#define PATIENCE_NS (30 * NS_PER_S) /* of this process; the watcher has more */
#define WATCH_NS    (3600 * NS_PER_S)
#define WATCH_LOOKS 50
#define FORECAST_MS 1000
#define LOOK_NS     (100 * NS_PER_MS)

struct move {
    const struct machine_row *row;
    const struct move_options *o;
    struct move_result *result;
    struct vm_config config;
    int control, log; /* connections to the keeper: log's too, for it ends with its own */
    struct channel *channel;
    enum handover_source state;
    char id[HANDOVER_ID + 1], host[HANDOVER_ID + 1];
    u8 *ram;
    int ram_fd;
    struct stream_out out;
    struct precopy copy;
    struct mirror_out mirror; /* n 0: no disks go along */
    struct page_store store;  /* what the watcher, too, has of memory, if pages may be named instead of sent */
    bool named;               /* some were */
    bool paused;              /* somebody has paused it: it stays so */
    struct move_status status;
    bool quick;                 /* it is only called off */
    u64 start, stopped, waited; /* waited: ns in sending */
    int lock;                   /* the right to decide */
    int watcher;                /* pipe: whose end tells the watcher that this process is gone; -1: none */
};

static void enter(struct move *m, unsigned stage, const char *name)
{
    m->status.stage = name;
    m->status.ns = host_ns(NULL) - m->start;
    m->result->stage_ns[stage] = MAX(m->status.ns, 1);
    m->o->tell(m->o->ctx, &m->status);
}

/* One step of the table; what is to be done. A step that can not be is a fault of this program. */
static int step(struct move *m, enum handover_event ev)
{
    int acts = handover_source_step(&m->state, ev);
    return MAX(acts, 0);
}

static int ask(struct move *m, json_t *request, struct error *e)
{
    int r = request ? control_call(m->control, request, NULL, e) : error_set(e, ENOMEM, "request: out of memory");
    json_decref(request);
    return r;
}

/* --- stages 0 and 1 --- */

/* From here on the keeper remembers what is written to the disks that go along. */
static int open_disks(struct move *m, struct error *e)
{
    int r = m->config.n_disks ? control_mirror_start(m->log, e) : 0;
    for (unsigned i = 0; i < m->config.n_disks && r == 0; i++) {
        u64 bytes;
        bool direct;
        int file = control_mirror_open(m->log, i, &bytes, &direct, e);
        r = file < 0 ? file : mirror_add(&m->mirror, file, bytes, direct, e);
        if (file >= 0)
            close(file);
        if (r < 0)
            return error_prefix(e, "%.200s", m->config.disks[i].file), r;
        /* The other host has no file by whose name it could tell. */
        snprintf(m->config.disks[i].format, sizeof(m->config.disks[i].format), "raw");
    }
    return r;
}

static json_t *disks_json(const struct move *m)
{
    json_t *a = json_array();
    for (unsigned i = 0; a && i < m->mirror.n; i++)
        json_array_append_new(a, json_pack("{s:I,s:I}", "bytes", (json_int_t)m->mirror.disk[i].todo.bytes, "data",
                                           (json_int_t)m->mirror.disk[i].data));
    return a;
}

static json_t *hello(struct move *m, struct error *e)
{
    json_t *meta = vm_meta_json(&m->config, e);
    if (!meta)
        return NULL;
    json_t *j = json_pack("{s:i,s:s,s:s,s:I,s:s,s:b,s:b,s:o}", "version", WIRE_VERSION, "id", m->id, "uid", m->row->id,
                          "begun", (json_int_t)host_wall_ns(), "name", m->row->name, "rm", m->row->auto_remove, "dry",
                          m->o->dry_run, "machine", meta);
    if (j && m->mirror.n)
        json_object_set_new(j, WIRE_DISKS, disks_json(m));
    if (j && m->o->postcopy)
        json_object_set_new(j, WIRE_PAGING, json_true());
    return j;
}

/* All its reasons in one line. */
static int refused(struct move *m, const json_t *body, struct error *e)
{
    char text[900] = "";
    size_t i, len = 0;
    const json_t *reasons = json_object_get(body, "reasons"), *one;
    json_array_foreach(reasons, i, one)
    {
        const char *why = json_string_value(one);
        if (why && len < sizeof(text))
            len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%.300s", len ? "; " : "", why);
    }
    for (char *p = text; *p; p++)
        if ((unsigned char)*p < ' ' || *p == 127)
            *p = ' ';
    return error_set(e, EHOSTUNREACH, "%s refuses: %s", m->o->to, *text ? text : "it gives no reason");
}

static int reserve(struct move *m, struct error *e)
{
    json_t *body = NULL, *h = hello(m, e);
    int r = h ? wire_send(m->channel, WIRE_HELLO, h, e) : -EIO;
    if (r == 0)
        r = wire_receive(m->channel, WIRE(WIRE_ACCEPT) | WIRE(WIRE_REFUSE), &body, e);
    const char *host = json_string_value(json_object_get(body, "host"));
    if (r == WIRE_REFUSE) {
        step(m, EVENT_REFUSE);
        r = refused(m, body, e);
    } else if (r == WIRE_ACCEPT && (!wire_is_of(body, m->id) || !handover_id_good(host))) {
        r = error_set(e, EPROTO, "%s: an answer that can not be", m->o->to);
    } else if (r == WIRE_ACCEPT) {
        memcpy(m->host, host, sizeof(m->host));
        step(m, EVENT_ACCEPT);
        r = 0;
        if (m->mirror.n && json_integer_value(json_object_get(body, WIRE_DISKS)) != (json_int_t)m->mirror.n)
            r = error_set(e, EPROTONOSUPPORT, "%s: its trapeze is one that takes no disks; update it", m->o->to);
        if (m->o->postcopy && !m->o->dry_run && !json_is_true(json_object_get(body, WIRE_PAGING)))
            r = error_set(e, EPROTONOSUPPORT, "%s: its trapeze is one that knows no post-copy; update it", m->o->to);
    }
    json_decref(body);
    return r;
}

static int connect_target(struct move *m, struct error *e)
{
    struct channel_address a;
    int r = channel_address_parse(&a, m->o->to, e);
    return r < 0 ? r
                 : channel_connect_cancel(&a, &m->o->security, m->quick ? ABORT_MS : CONNECT_MS,
                                          m->quick ? -1 : m->o->cancel, &m->channel, e);
}

/* --- stage 2 --- */

static int put(void *ctx, const void *data, size_t len, struct error *e)
{
    struct move *m = ctx;
    u64 start = host_ns(NULL);
    int r = channel_send(m->channel, data, len, e);
    m->waited += host_ns(NULL) - start;
    return r;
}

static u64 waited(void *ctx)
{
    const struct move *m = ctx;
    return m->waited;
}

/* What the guest has written to its disks since the last look. */
static int take_marks(struct move *m, struct error *e)
{
    int r = 0;
    for (unsigned i = 0; i < m->mirror.n && r == 0; i++)
        r = control_mirror_take(m->log, i, &m->mirror.disk[i].todo, e);
    return r;
}

static int take_log(void *ctx, u64 *bits, struct error *e)
{
    struct move *m = ctx;
    u64 pages = m->copy.pages, step_pages = 512u << 10;
    u64 *some = malloc(MIN(step_pages, (pages + 63) & ~63ull) / 8);
    int r = some ? take_marks(m, e) : error_set(e, ENOMEM, "migration: out of memory");
    for (u64 at = 0; at < pages && r == 0; at += step_pages) {
        u64 n = MIN(step_pages, pages - at), words = (n + 63) / 64;
        r = control_log_take(m->log, at, words * 64, some, e);
        for (u64 i = 0; r == 0 && i < words; i++)
            bits[at / 64 + i] |= some[i];
    }
    free(some);
    return r;
}

/* The target says when it has read so far: so the time of a round is that of the link. */
static int end_round(void *ctx, const struct precopy_status *s, struct error *e)
{
    struct move *m = ctx;
    char text[160];
    json_t *body = NULL;
    snprintf(text, sizeof(text), "{\"round\":%u,\"pages\":%llu%s}", s->round, (unsigned long long)s->pages,
             m->paused ? ",\"paused\":true" : "");
    int r = stream_put_round(&m->out, text, e);
    if (r == 0 && (r = channel_flush(m->channel, e)) == 0)
        r = wire_receive(m->channel, WIRE(WIRE_ROUND) | WIRE(WIRE_NEVER), &body, e);
    if (r == WIRE_NEVER)
        r = refused(m, body, e);
    json_decref(body);
    return MIN(r, 0);
}

static u64 now(void *ctx)
{
    return host_ns(ctx);
}

static void limit(void *ctx, u64 rate)
{
    const struct move *m = ctx;
    channel_limit(m->channel, rate);
}

static void tell(void *ctx, const struct precopy_status *s)
{
    struct move *m = ctx;
    m->status.copy = *s;
    m->status.ns = host_ns(NULL) - m->start;
    m->o->tell(m->o->ctx, &m->status);
}

static int throttle(void *ctx, unsigned share, struct error *e)
{
    const struct move *m = ctx;
    return control_log_throttle(m->log, share, e);
}

static u64 disks_left(void *ctx)
{
    const struct move *m = ctx;
    return mirror_left(&m->mirror);
}

static int look_at_disks(void *ctx, struct error *e)
{
    struct move *m = ctx;
    u64 ns = host_ns(NULL) - m->start;
    precopy_choose_packing(&m->copy);
    if (ns - m->status.ns < LOOK_NS) /* counting what is left takes a while */
        return 0;
    m->status.disk_sent = m->mirror.sent;
    m->status.disk_left = mirror_left(&m->mirror);
    tell(m, &m->copy.status);
    return 0;
}

static int send_disks(void *ctx, struct error *e)
{
    struct move *m = ctx;
    int r = mirror_send(&m->mirror, &m->out, look_at_disks, m, e);
    m->status.disk_sent = m->mirror.sent;
    m->status.disk_left = 0;
    return r;
}

static const struct precopy_ops copy_ops = {.take = take_log,
                                            .round = end_round,
                                            .now = now,
                                            .waited = waited,
                                            .limit = limit,
                                            .tell = tell,
                                            .beside = disks_left,
                                            .send_beside = send_disks},
                                throttling_ops = {.take = take_log,
                                                  .round = end_round,
                                                  .now = now,
                                                  .waited = waited,
                                                  .limit = limit,
                                                  .tell = tell,
                                                  .throttle = throttle,
                                                  .beside = disks_left,
                                                  .send_beside = send_disks};

static int map_memory(struct move *m, struct error *e)
{
    u64 size;
    m->ram_fd = control_memory(m->control, &size, e);
    if (m->ram_fd < 0)
        return m->ram_fd;
    if (size != m->config.memory)
        return error_set(e, EPROTO, "the machine's keeper: a memory of another size");
    m->ram = host_map_shared(m->ram_fd, size, e);
    return m->ram ? 0 : -ENOMEM;
}

static int begin_stream(struct move *m, struct error *e)
{
    struct stream_head h = {
        .page_size = PAGE_SIZE, .ram_size = m->config.memory, .created = (s64)(host_wall_ns() / (s64)NS_PER_S)};
    char *text = snapshot_describe(&m->config, e);
    int r = text ? 0 : -ENOMEM;
    host_random(h.id, sizeof(h.id));
    m->out = (struct stream_out){.put = put, .ctx = m};
    if (r == 0 && (r = stream_begin(&m->out, &h, e)) == 0)
        r = stream_put_config(&m->out, text, e);
    free(text);
    return r;
}

static int copy_while_it_runs(struct move *m, struct error *e)
{
    m->copy = (struct precopy){.ops = m->o->throttle ? &throttling_ops : &copy_ops,
                               .ctx = m,
                               .out = &m->out,
                               .ram = m->ram,
                               .pages = m->config.memory / PAGE_SIZE,
                               .fd = m->ram_fd,
                               .downtime = m->o->downtime,
                               .overhead = OVERHEAD,
                               .cap = m->o->bandwidth,
                               .max_ns = m->o->max_ns,
                               .may_pack = !m->o->plain,
                               .stop_anyway = m->o->stop_anyway,
                               .may_name = m->o->postcopy};
    int r = control_log_start(m->log, e);
    return r < 0 ? r : precopy_run(&m->copy, e);
}

static void pause_ms(unsigned ms)
{
    const struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

/* What a migration would meet: how much is there, how much of it the guest writes in a second. */
static int forecast(struct move *m, struct error *e)
{
    u64 pages = m->config.memory / PAGE_SIZE, words = (pages + 63) / 64, dirty = 0;
    u64 *bits = calloc(words, sizeof(u64));
    struct precopy_status *s = &m->copy.status;
    m->copy.pages = pages;
    int r = bits ? control_log_start(m->log, e) : error_set(e, ENOMEM, "migration: out of memory");
    for (unsigned i = 0; i < m->mirror.n; i++)
        blockmap_clear(&m->mirror.disk[i].todo, 0, m->mirror.disk[i].todo.blocks);
    if (r == 0 && m->mirror.n)
        r = control_mirror_start(m->log, e);
    if (r == 0) {
        pause_ms(FORECAST_MS);
        r = take_log(m, bits, e);
    }
    for (u64 i = 0; r == 0 && i < words; i++)
        dirty += (u64)__builtin_popcountll(bits[i]);
    free(bits);
    if (r < 0)
        return r;
    dirty += mirror_left(&m->mirror) / PAGE_SIZE;
    struct stat st;
    s->pages = fstat(m->ram_fd, &st) == 0 ? (u64)st.st_blocks * 512 / PAGE_SIZE : pages;
    s->dirty_rate = dirty * PAGE_SIZE * 1000 / FORECAST_MS;
    s->bandwidth = m->o->bandwidth;
    s->converges = !s->bandwidth || s->dirty_rate < s->bandwidth;
    return 0;
}

/* --- stage 3 --- */

/* Whether what was sent is what is there: finds a page whose change was missed. */
static int verify(struct move *m, struct error *e)
{
    struct page_sums all;
    u64 bad = 0, first = 0;
    int r = sums_init(&all, m->copy.pages, e);
    if (r < 0)
        return r;
    sums_note(&all, 0, all.n, m->ram);
    for (u64 i = all.n; i-- > 0;)
        if (all.sum[i] != m->out.sums.sum[i])
            bad++, first = i;
    sums_free(&all);
    if (!bad)
        return mirror_verify(&m->mirror, e);
    return error_set(e, EILSEQ, "%llu pages were changed without being noticed, the first is page %llu",
                     (unsigned long long)bad, (unsigned long long)first);
}

/* What is left is named; the keeper is told, and the watcher: later they have to know. */
static int name_rest(struct move *m, struct error *e)
{
    const u64 *named = NULL;
    u64 bytes = (m->copy.pages + 63) / 64 * 8;
    int r = precopy_name(&m->copy, &named, e);
    m->named = r == 0 && m->copy.status.left;
    if (!m->named)
        return r;
    memcpy(m->store.named, named, bytes);
    return control_put(m->control,
                       json_pack("{s:s,s:s,s:I}", "do", "paging", "action", "name", "bytes", (json_int_t)bytes), named,
                       bytes, e);
}

static int send_rest(struct move *m, struct error *e)
{
    u8 *state = NULL;
    size_t len = 0;
    int r = m->copy.names ? name_rest(m, e) : precopy_last(&m->copy, e);
    if (r == 0)
        r = snapshot_get_state(m->control, &state, &len, e);
    if (r == 0 && m->o->verify)
        r = verify(m, e);
    if (r == 0)
        r = mirror_put_digests(&m->mirror, &m->out, e);
    if (r == 0 && (r = stream_put_state(&m->out, state, len, e)) == 0 && (r = stream_put_end(&m->out, e)) == 0)
        r = channel_flush(m->channel, e);
    free(state);
    return r;
}

static int await_ready(struct move *m, struct error *e)
{
    json_t *body = NULL;
    int r = wire_receive(m->channel, WIRE(WIRE_READY) | WIRE(WIRE_NEVER), &body, e);
    if (r == WIRE_NEVER)
        r = refused(m, body, e);
    else if (r == WIRE_READY && !wire_is_of(body, m->id))
        r = error_set(e, EPROTO, "%s: an answer that can not be", m->o->to);
    json_decref(body);
    return MIN(r, 0);
}

/* "paused": it was before it was held. */
static int hold(struct move *m, struct error *e)
{
    json_t *reply = NULL;
    int r = snapshot_ask(m->control, "hold", &reply, e);
    m->paused = r == 0 && json_is_true(json_object_get(reply, "paused"));
    json_decref(reply);
    return r;
}

static int stop_and_copy(struct move *m, struct error *e)
{
    m->stopped = host_ns(NULL);
    step(m, EVENT_STOP);
    channel_until(m->channel, STOP_MS);
    int r = hold(m, e);
    if (r == 0 && m->paused) /* the target has to know; a round more costs a machine nothing that stands still anyway */
        r = end_round(m, &m->copy.status, e);
    if (r == 0 && m->config.n_disks > m->mirror.n) /* the other host reads what is on stable storage */
        r = snapshot_ask(m->control, "sync", NULL, e);
    if (r == 0 && (r = send_rest(m, e)) == 0)
        r = await_ready(m, e);
    channel_until(m->channel, 0);
    return r;
}

/* --- stages 4 and 5 --- */

/* ABRT on a connection of its own: a target that has everything would wait for it all its lifetime. */
static void abort_anew(struct move *m)
{
    struct error ignored = {0};
    struct channel *old = m->channel;
    json_t *body = NULL;
    m->channel = NULL;
    m->quick = true;
    if (connect_target(m, &ignored) == 0) {
        channel_until(m->channel, ABORT_MS);
        if (wire_send(m->channel, WIRE_ABORT, wire_id(m->id, NULL), &ignored) == 0)
            wire_receive(m->channel, WIRE(WIRE_RUNS) | WIRE(WIRE_NEVER), &body, &ignored);
        json_decref(body);
        channel_close_after(m->channel, 200);
    }
    m->channel = old;
}

/* From which pages are served that were named: NULL, if this process has none. */
static struct page_store *store_of(struct move *m)
{
    return m->store.named ? &m->store : NULL;
}

/* What the watcher is told. An end of the pipe without the first means that nothing was handed over. */
#define WATCHER_COMMITS   'c'
#define WATCHER_DISMISSED 'd'

/* The last word, or 0: the verb has died before it had one. */
static char last_word(int pipe)
{
    char word = 0;
    while (read(pipe, &word, 1) == 1 && word != WATCHER_DISMISSED)
        ;
    return word;
}

static void watch(struct move *m, int pipe)
{
    struct error ignored = {0};
    char word = last_word(pipe);
    if (!word) { /* another attempt may begin at once: the target need not wait for anybody */
        close(m->lock);
        abort_anew(m);
    }
    /* The keeper may have the order to commit still before it: what is not there yet is waited for a moment. */
    m->store.tell = NULL;
    for (int i = 0;
         word == WATCHER_COMMITS && i < WATCH_LOOKS && resolve_ask_again(m->row, WATCH_NS, store_of(m), &ignored) == 0;
         i++)
        pause_ms(100);
}

/*
 * A process of its own that outlives this one: it sleeps until the pipe ends, then does what is left to do. Made while the machine
 * still runs: a fork takes a while.
 */
static int leave_watcher(struct move *m, struct error *e)
{
    int p[2];
    if (pipe2(p, O_CLOEXEC) < 0)
        return error_set(e, errno, "pipe: %s", strerror(errno));
    const int keep[] = {p[0], m->lock};
    int forked = host_fork_detached(keep, ARRAY_LEN(keep), e);
    if (forked == 1) {
        host_process_name("trapeze-watcher");
        watch(m, p[0]);
        _exit(0);
    }
    close(p[0]);
    if (forked < 0) {
        close(p[1]);
        return forked;
    }
    m->watcher = p[1];
    return 0;
}

static bool tell_watcher(struct move *m, char word)
{
    return m->watcher >= 0 && write(m->watcher, &word, 1) == 1;
}

/* Pages go to the machine that runs there. */
static void tell_left(void *ctx, u64 left)
{
    struct move *m = ctx;
    m->status.copy.left = left;
    m->status.ns = host_ns(NULL) - m->start;
    m->o->tell(m->o->ctx, &m->status);
}

/* What a commit needs, while there is time for it. */
static int prepare_commit(struct move *m, struct error *e)
{
    struct handover_record was;
    int r = handover_read_at(m->row->dir, &was, e);
    if (r == 0 && was.role == HANDOVER_RUNS) /* it came here once: its word goes elsewhere */
        r = resolve_remember(was.id, e);
    if (r == 0 && m->copy.names)
        r = page_store_make(&m->store, m->ram, m->config.memory, e);
    m->store.rate = m->o->bandwidth;
    m->store.tell = tell_left;
    m->store.ctx = m;
    return r < 0 ? r : leave_watcher(m, e);
}

/* Whether the keeper has written its record, of which it can not tell any more: then it counts, and is made to stay. */
static bool recorded(struct move *m)
{
    struct handover_record h;
    struct error e = {0};
    return handover_read_at(m->row->dir, &h, &e) == 0 && h.role == HANDOVER_COMMITTED && !strcmp(h.id, m->id) &&
           handover_write_at(m->row->dir, &h, &e) == 0;
}

static int commit(struct move *m, struct error *e)
{
    const struct channel_security *s = &m->o->security;
    if (!tell_watcher(m, WATCHER_COMMITS))
        return error_set(e, ECHILD, "the process that was left behind for the case that this one dies has died");
    int r = ask(m,
                json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:b,s:b}", "do", "handover", "action", "commit", "id", m->id,
                          "host", m->host, "to", m->o->to, "tls", s->tls_dir ? s->tls_dir : "", "insecure", s->insecure,
                          "postcopy", m->named),
                e);
    if (r == -EPIPE && recorded(m))
        r = 0;
    if (r == 0)
        step(m, EVENT_RECORDED);
    return r;
}

/*
 * What has come for the guest since it was stopped goes after it: with the commit what came until then, later the rest. Networks lose
 * frames: so nothing depends on this.
 */
static void send_frames(struct move *m)
{
    struct error ignored = {0};
    u8 *data = NULL;
    size_t len = 0;
    if (m->config.n_nets && control_frames_take(m->control, &data, &len, &ignored) == 0 && len)
        wire_send_frames(m->channel, data, len, &ignored);
    free(data);
}

/* Send COMMIT on the connection that there is. WIRE_RUNS (*lacks: but for pages), WIRE_NEVER, -errno. */
static int commit_there(struct move *m, bool *lacks, struct error *e)
{
    json_t *body = NULL;
    m->channel->silence_ms = ANSWER_MS;
    m->channel->cancel = -1; /* too late for that */
    send_frames(m);
    int r = wire_send(m->channel, WIRE_COMMIT, wire_id(m->id, NULL), e);
    if (r == 0)
        r = wire_receive(m->channel, WIRE(WIRE_RUNS) | WIRE(WIRE_NEVER), &body, e);
    if (r >= 0 && !wire_is_of(body, m->id))
        r = error_set(e, EPROTO, "%s: an answer that can not be", m->o->to);
    *lacks = r == WIRE_RUNS && wire_lacks(body);
    json_decref(body);
    return r;
}

/* It runs there and lacks what was named. WIRE_RUNS: no more; -errno: the connection is broken. */
static int send_named(struct move *m, struct error *e)
{
    step(m, EVENT_LACKS);
    m->status.stage = "post-copy";
    tell_left(m, m->copy.status.left);
    ask(m, json_pack("{s:s,s:s,s:s}", "do", "paging", "action", "serve", "id", m->id), &(struct error){0});
    m->channel->silence_ms = CHANNEL_SILENCE_MS;
    return store_of(m) ? serve_pages(&m->store, m->id, m->channel, e)
                       : error_set(e, EPROTO, "%s: lacks pages, of which it has all", m->o->to);
}

/* What was settled without our knowing how it ended: what the record says. WIRE_RUNS, WIRE_NEVER, -errno. */
static int settled_already(const struct move *m, struct error *e)
{
    struct handover_record h;
    int r = handover_read_at(m->row->dir, &h, e);
    if (r < 0)
        return r;
    return h.role == HANDOVER_MOVED && !strcmp(h.id, m->id) ? WIRE_RUNS : WIRE_NEVER;
}

/* The target has to see its end before it takes pages from another connection. */
static void hang_up(struct move *m)
{
    m->result->bytes = m->channel->sent;
    channel_close(m->channel);
    m->channel = NULL;
}

/* It has been recorded: from here on only the target's word counts. */
static int activate(struct move *m, struct error *e)
{
    struct error lost = {0};
    bool lacks = false;
    int r = commit_there(m, &lacks, &lost);
    if (r >= 0) {
        m->result->downtime = host_ns(NULL) - m->stopped;
        if (r == WIRE_RUNS)
            send_frames(m);
        if (lacks)
            r = send_named(m, &lost);
    }
    if (r >= 0) {
        int settled = resolve_settle(m->row, m->id, r == WIRE_RUNS, &lost);
        if (settled == 0)
            wire_send(m->channel, WIRE_DONE, wire_id(m->id, NULL), &lost);
        else
            r = settled;
    }
    if (r < 0) {
        step(m, EVENT_LOST);
        if (lacks)
            hang_up(m);
        r = resolve_ask_again(m->row, PATIENCE_NS, m->named ? store_of(m) : NULL, &lost);
        if (r == 0)
            r = settled_already(m, &lost);
        if (!lacks)
            m->result->downtime = host_ns(NULL) - m->stopped;
    }
    if (r < 0 && lacks)
        return error_set(
            e, EINPROGRESS,
            "it runs at %s, but a part of its memory is still here, and the link is broken: %s. Its guest stands still "
            "when it needs what is missing, and is lost if this host fails; a process that was left behind goes on "
            "trying for an hour, `trapeze system recover` after that",
            m->o->to, lost.msg);
    if (r < 0)
        return error_set(
            e, EINPROGRESS,
            "it has been handed over, but %s has not said that it runs there: %s. It stands still here and goes on "
            "when "
            "that is known; a process that was left behind asks for an hour, `trapeze system recover` after that",
            m->o->to, lost.msg);
    tell_watcher(m, WATCHER_DISMISSED);
    step(m, r == WIRE_RUNS ? EVENT_RUNS : EVENT_NEVER);
    return r == WIRE_RUNS ? 0 : error_set(e, ECONNABORTED, "%s gave it up; it goes on here", m->o->to);
}

/* --- the whole --- */

static int get_ready(struct move *m, struct error *e)
{
    int r = snapshot_get_config(m->control, &m->config, e);
    if (r == 0 && m->o->with_disks)
        r = open_disks(m, e);
    if (r == 0)
        r = connect_target(m, e);
    if (r == 0 && (r = reserve(m, e)) == 0 && !m->o->dry_run)
        r = ask(m, json_pack("{s:s,s:s}", "do", "handover", "action", "prepare"), e);
    return r < 0 || (r = map_memory(m, e)) < 0 || m->o->dry_run ? r : begin_stream(m, e);
}

static int go_through(struct move *m, struct error *e)
{
    enter(m, 0, "pre-migration");
    enter(m, 1, "reservation");
    int r = get_ready(m, e);
    if (r < 0)
        return r;
    enter(m, 2, "pre-copy");
    if (m->o->dry_run)
        return forecast(m, e);
    if ((r = copy_while_it_runs(m, e)) < 0 || (r = prepare_commit(m, e)) < 0)
        return r;
    enter(m, 3, "stop-and-copy");
    if ((r = stop_and_copy(m, e)) < 0)
        return r;
    enter(m, 4, "commitment");
    if ((r = commit(m, e)) < 0)
        return r;
    enter(m, 5, "activation");
    return activate(m, e);
}

static void close_fd(int fd)
{
    if (fd >= 0)
        close(fd);
}

/* Before the record: the target is told, if it can be; the machine goes on when the connection that holds it closes. */
static void call_off(struct move *m)
{
    struct error ignored = {0};
    bool stopped = m->state == SOURCE_STOPPED;
    tell_watcher(m, WATCHER_DISMISSED);
    if (!m->channel || !(step(m, EVENT_LOST) & ACT(ACT_SEND_ABORT)))
        return;
    close_fd(m->control); /* the machine goes on at once */
    m->control = -1;
    m->channel->cancel = -1;
    channel_until(m->channel, 500);
    if (wire_send(m->channel, WIRE_ABORT, wire_id(m->id, NULL), &ignored) < 0 || stopped)
        abort_anew(m);
}

static void fill_result(struct move *m)
{
    const struct precopy_status *s = &m->copy.status;
    struct move_result *r = m->result;
    r->ns = host_ns(NULL) - m->start;
    r->bytes += m->channel ? m->channel->sent : 0;
    r->pages = s->sent;
    r->disk_bytes = m->mirror.sent;
    for (unsigned i = 0; m->o->dry_run && i < m->mirror.n; i++)
        r->disk_bytes += m->mirror.disk[i].data;
    for (u64 i = 0; m->out.sums.sum && i < m->out.sums.n; i++)
        r->resident += m->out.sums.sum[i] == m->out.sums.zero ? 0 : PAGE_SIZE;
    r->rounds = s->round;
    r->throttle = s->throttle;
    r->dirty_rate = s->dirty_rate;
    r->bandwidth = s->bandwidth;
    r->expected = s->expected;
    r->moved = m->state == SOURCE_MOVED;
    r->postcopy = m->named;
    r->named_bytes = m->named ? s->left * PAGE_SIZE : 0;
    r->paged = m->store.sent;
    r->wished = m->store.wished;
}

/* One that is handed over is the target's: another try would take the name there from it. */
static int check_free(struct move *m, struct error *e)
{
    struct handover_record h;
    int r = handover_read_at(m->row->dir, &h, e);
    if (r == 0 && h.role == HANDOVER_RUNS && h.postcopy)
        r = error_set(
            e, EBUSY,
            "machine %s: a part of its memory is still at the host that it came from; try again when it is here",
            m->row->name);
    if (r == 0 && h.role == HANDOVER_COMMITTED)
        r = error_set(e, EBUSY,
                      "machine %s: has been handed over to %s, which has not said what became of it; `trapeze system "
                      "recover` asks again",
                      m->row->name, h.to);
    return r;
}

static int open_all(struct move *m, struct error *e)
{
    m->lock = resolve_lock(m->row->dir, e);
    if (m->lock < 0)
        return m->lock;
    int r = check_free(m, e);
    if (r < 0)
        return r;
    m->control = control_connect(m->row->socket, e);
    if (m->control < 0)
        return m->control;
    m->log = control_connect(m->row->socket, e);
    return m->log < 0 ? m->log : 0;
}

int move_run(const struct machine_row *row, const struct move_options *o, struct move_result *result, struct error *e)
{
    struct move m = {
        .row = row, .o = o, .result = result, .control = -1, .log = -1, .ram_fd = -1, .lock = -1, .watcher = -1};
    *result = (struct move_result){0};
    m.start = host_ns(NULL);
    resolve_new_id(m.id);
    int r = open_all(&m, e);
    if (r == 0)
        r = go_through(&m, e);
    if (m.state < SOURCE_COMMITTED)
        call_off(&m);
    fill_result(&m);
    page_store_close(&m.store);
    host_unmap(m.ram, m.ram ? m.config.memory : 0);
    precopy_free(&m.copy);
    mirror_out_free(&m.mirror);
    stream_out_free(&m.out);
    channel_close_after(m.channel, 200);
    close_fd(m.ram_fd);
    close_fd(m.log);
    close_fd(m.control);
    close_fd(m.lock);
    close_fd(m.watcher);
    return r;
}
