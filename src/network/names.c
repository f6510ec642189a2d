/*
 * The process that answers for names: one a network, on the bridge's address, for containers of that network only.
 *
 *     container ──question──> its name, its hostname or its id are in the file of the network ──> an answer at once
 *                             else ──> the servers of this host (or those of --dns), one after the other, ──> their answer
 *
 * UDP and TCP. Each question that is passed on has a socket of its own, connected to the server: the kernel chooses the port and
 * takes answers from nobody else, the number is a random one of ours, and what comes back must repeat the question.
 *
 * Theory: trust. It parses what hostile containers and any server send. It has the sockets that were bound for it, the network's
 * file, mapped to be read, and the seal of host_seal_names: internet sockets, no file. Bounds: PENDING questions and STREAMS
 * connections at a time, a share of them for each container; the oldest question makes room.
 *
 * It ends when nobody was in the network for two looks (LOOK_MS): with the header's lock in its hand, so that nobody who joins
 * can find it there and then not.
 *
 * Not done: names of other networks, search domains of its own, a cache (the host's resolver has one).
 */
#include "network/dns.h"
#include "network/state.h"
#include "container/sys.h"
#include "host/host.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define PORT        53
#define PENDING     128u
#define STREAMS     16u
#define SHARE       4u /* one container's part of these: a quarter */
#define LOOK_MS     3000u
#define SERVER_MS   2000u
#define STREAM_MS   10000u
#define PREFIX_SIZE 2u /* of a message over TCP: its length */

enum names_fd { FD_FILE = HOST_FIRST_FD, FD_UDP, FD_TCP };

/* A question that a server was asked, over UDP. */
struct pending {
    int fd; /* -1: free */
    struct sockaddr_in from;
    u16 id; /* the container's number; ours is in the question */
    u64 deadline;
    unsigned server; /* that was asked last */
    size_t size;
    u8 question[DNS_UDP_MAX];
};

enum phase { READ_QUESTION, CONNECT, ASK, READ_ANSWER, ANSWER };

/* A connection of a container, and the one to a server. */
struct stream {
    int fd, server_fd; /* fd -1: free */
    u32 from;
    enum phase phase;
    u64 deadline;
    size_t at, size; /* of data, with its prefix */
    size_t question_size;
    u8 *data, *question; /* DNS_MAX + PREFIX_SIZE each */
};

struct names {
    const struct state_file *map;
    struct pending pending[PENDING];
    struct stream streams[STREAMS];
    u64 look_at;
    unsigned lonely;
};

/* --- servers --- */

bool names_server_parse(struct state_server *s, const char *text)
{
    memset(s, 0, sizeof(*s));
    s->family = inet_pton(AF_INET, text, s->bytes) == 1 ? 4 : inet_pton(AF_INET6, text, s->bytes) == 1 ? 6 : 0;
    return s->family;
}

size_t names_servers(const char *text, struct state_server *out)
{
    size_t n = 0;
    for (const char *line = text; *line && n < NETWORK_DNS_MAX; line += strcspn(line, "\n"), line += *line == '\n') {
        char word[64];
        if (sscanf(line, " nameserver %63[0-9a-fA-F.:]", word) == 1 && names_server_parse(&out[n], word))
            n++;
    }
    return n;
}

/* Those that a container has chosen, else the host's. The n-th, or NULL. */
static const struct state_server *server_for(const struct names *s, u32 from, unsigned n)
{
    const struct state_header *h = &s->map->header;
    const struct state_server *list = h->servers;
    u32 slot = from - state_address(h, 0);
    if (slot < state_slots(h) && s->map->slot[slot].used && s->map->slot[slot].servers[0].family)
        list = s->map->slot[slot].servers;
    return n < NETWORK_DNS_MAX && list[n].family ? &list[n] : NULL;
}

static int connect_server(const struct state_server *s, int type)
{
    union {
        struct sockaddr any;
        struct sockaddr_in four;
        struct sockaddr_in6 six;
    } a = {.any = {0}};
    CLEANUP_FD int fd = socket(s->family == 4 ? AF_INET : AF_INET6, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->family == 4) {
        a.four.sin_family = AF_INET;
        a.four.sin_port = htons(PORT);
        memcpy(&a.four.sin_addr, s->bytes, 4);
    } else {
        a.six.sin6_family = AF_INET6;
        a.six.sin6_port = htons(PORT);
        memcpy(&a.six.sin6_addr, s->bytes, 16);
    }
    if (fd < 0 || (connect(fd, &a.any, s->family == 4 ? sizeof(a.four) : sizeof(a.six)) < 0 && errno != EINPROGRESS))
        return -1;
    return sys_take(&fd);
}

static u64 now_ms(void)
{
    return host_ns(NULL) / 1000000;
}

/* --- what is known here --- */

static bool same_name(const char *a, const char *b)
{
    return *b && !strcasecmp(a, b);
}

static size_t find_name(const struct names *s, const char *name, u32 out[DNS_ANSWERS])
{
    const struct state_header *h = &s->map->header;
    struct state_slot slot;
    size_t n = 0;
    for (u32 i = 0; i < state_slots(h) && n < DNS_ANSWERS; i++)
        if (s->map->slot[i].used && state_read(&s->map->slot[i], &slot) &&
            (same_name(name, slot.name) || same_name(name, slot.hostname) || same_name(name, slot.id)))
            out[n++] = state_address(h, i);
    return n;
}

/* An answer from the file, 0: somebody else must be asked. */
static size_t answer_here(const struct names *s, const u8 *m, const struct dns_question *q, u8 *out, size_t room)
{
    const struct state_header *h = &s->map->header;
    u32 found[DNS_ANSWERS], address;
    struct state_slot slot;
    if (q->class != DNS_IN)
        return 0;
    size_t n = find_name(s, q->name, found);
    if (n) /* of another type there is none: that is an answer as well */
        return dns_answer(out, room, m, q, found, q->type == DNS_A || q->type == DNS_ANY ? n : 0);
    if (!dns_reverse(q->name, &address) || (address ^ h->subnet) >> (32 - h->prefix))
        return 0;
    u32 i = address - state_address(h, 0);
    size_t size = q->type == DNS_PTR && i < state_slots(h) && state_read(&s->map->slot[i], &slot)
                      ? dns_answer_name(out, room, m, q, slot.name)
                      : 0;
    return size ? size : dns_refuse(out, room, m, q, DNS_NXDOMAIN);
}

/* What can be said without asking anybody: bytes; 0: ask; < 0: say nothing. */
static ssize_t answer_now(const struct names *s, const u8 *m, size_t n, u8 *out, size_t room)
{
    struct dns_question q;
    int r = dns_parse(m, n, &q);
    if (r == -EBADMSG)
        return -1;
    return (ssize_t)(r < 0 ? dns_refuse(out, room, m, &q, (unsigned)-r) : answer_here(s, m, &q, out, room));
}

static bool is_ours(const struct names *s, const struct sockaddr_in *from)
{
    const struct state_header *h = &s->map->header;
    return from->sin_family == AF_INET && (ntohl(from->sin_addr.s_addr) ^ h->subnet) >> (32 - h->prefix) == 0;
}

/* --- UDP --- */

static void drop(struct pending *p)
{
    sys_close(&p->fd);
    p->fd = -1;
}

static void refuse(struct pending *p)
{
    u8 out[DNS_UDP_MAX];
    struct dns_question q;
    if (dns_parse(p->question, p->size, &q) == 0) {
        size_t n = dns_refuse(out, sizeof(out), p->question, &q, DNS_SERVFAIL);
        out[0] = (u8)(p->id >> 8);
        out[1] = (u8)p->id;
        sendto(FD_UDP, out, n, MSG_DONTWAIT | MSG_NOSIGNAL, (const struct sockaddr *)&p->from, sizeof(p->from));
    }
    drop(p);
}

/* The next server that takes it; none is left: that is the answer. */
static void ask_next(const struct names *s, struct pending *p)
{
    const struct state_server *server;
    sys_close(&p->fd);
    p->fd = -1;
    while ((server = server_for(s, ntohl(p->from.sin_addr.s_addr), p->server++))) {
        p->fd = connect_server(server, SOCK_DGRAM);
        if (p->fd >= 0 && send(p->fd, p->question, p->size, MSG_NOSIGNAL) == (ssize_t)p->size) {
            p->deadline = now_ms() + SERVER_MS;
            return;
        }
        sys_close(&p->fd);
        p->fd = -1;
    }
    refuse(p);
}

/* A free place, or that of the oldest: of the same container, when it has more than its share. */
static struct pending *place(struct names *s, u32 from)
{
    struct pending *oldest = NULL, *own = NULL, *free = NULL;
    unsigned n = 0;
    for (unsigned i = 0; i < PENDING; i++) {
        struct pending *p = &s->pending[i];
        if (p->fd < 0) {
            free = p;
            continue;
        }
        if (!oldest || p->deadline < oldest->deadline)
            oldest = p;
        if (p->from.sin_addr.s_addr != from)
            continue;
        n++;
        if (!own || p->deadline < own->deadline)
            own = p;
    }
    struct pending *p = n >= PENDING / SHARE ? own : free ? free : oldest;
    drop(p);
    return p;
}

static void take_question(struct names *s)
{
    u8 m[DNS_UDP_MAX], out[DNS_UDP_MAX];
    struct sockaddr_in from;
    socklen_t length = sizeof(from);
    ssize_t n = recvfrom(FD_UDP, m, sizeof(m), MSG_DONTWAIT | MSG_TRUNC, (struct sockaddr *)&from, &length);
    if (n < 0 || (size_t)n > sizeof(m) || length != sizeof(from) || !is_ours(s, &from))
        return;
    ssize_t size = answer_now(s, m, (size_t)n, out, sizeof(out));
    if (size > 0)
        sendto(FD_UDP, out, (size_t)size, MSG_DONTWAIT | MSG_NOSIGNAL, (const struct sockaddr *)&from, sizeof(from));
    if (size)
        return;
    struct pending *p = place(s, from.sin_addr.s_addr);
    p->from = from;
    p->id = (u16)(m[0] << 8 | m[1]);
    p->server = 0;
    p->size = (size_t)n;
    memcpy(p->question, m, (size_t)n);
    host_random(p->question, 2);
    ask_next(s, p);
}

static void take_answer(const struct names *s, struct pending *p)
{
    u8 m[DNS_MAX];
    ssize_t n = recv(p->fd, m, sizeof(m), MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN && errno != EINTR) {
        ask_next(s, p); /* nobody serves there */
        return;
    }
    if (n < 0 || !dns_fits(p->question, p->size, m, (size_t)n))
        return;
    m[0] = (u8)(p->id >> 8);
    m[1] = (u8)p->id;
    sendto(FD_UDP, m, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL, (const struct sockaddr *)&p->from, sizeof(p->from));
    drop(p);
}

/* --- TCP --- */

static void hang_up(struct stream *t)
{
    sys_close(&t->fd);
    sys_close(&t->server_fd);
    free(t->data);
    free(t->question);
    *t = (struct stream){.fd = -1, .server_fd = -1};
}

static void accept_stream(struct names *s)
{
    struct sockaddr_in from;
    socklen_t length = sizeof(from);
    struct stream *free = NULL;
    unsigned n = 0;
    CLEANUP_FD int fd = accept4(FD_TCP, (struct sockaddr *)&from, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0 || length != sizeof(from) || !is_ours(s, &from))
        return;
    for (unsigned i = 0; i < STREAMS; i++) {
        if (s->streams[i].fd < 0)
            free = &s->streams[i];
        else
            n += s->streams[i].from == ntohl(from.sin_addr.s_addr);
    }
    if (!free || n >= STREAMS / SHARE)
        return;
    *free = (struct stream){.fd = sys_take(&fd),
                            .server_fd = -1,
                            .from = ntohl(from.sin_addr.s_addr),
                            .deadline = now_ms() + STREAM_MS,
                            .data = malloc(DNS_MAX + PREFIX_SIZE),
                            .question = malloc(DNS_MAX + PREFIX_SIZE)};
    if (!free->data || !free->question)
        hang_up(free);
}

/* A whole message into data: 1, 0: not yet, -1: it will not come. */
static int read_message(struct stream *t, int fd)
{
    for (;;) {
        size_t want = t->at < PREFIX_SIZE ? PREFIX_SIZE : PREFIX_SIZE + (size_t)(t->data[0] << 8 | t->data[1]);
        if (t->at >= PREFIX_SIZE && t->at == want)
            return t->size = want, 1;
        ssize_t n = recv(fd, t->data + t->at, want - t->at, MSG_DONTWAIT);
        if (n <= 0)
            return n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
        t->at += (size_t)n;
    }
}

static int write_message(struct stream *t, int fd)
{
    while (t->at < t->size) {
        ssize_t n = send(fd, t->data + t->at, t->size - t->at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n <= 0)
            return n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
        t->at += (size_t)n;
    }
    return 1;
}

static int begin_answer(struct stream *t, size_t size)
{
    t->data[0] = (u8)(size >> 8);
    t->data[1] = (u8)size;
    t->size = PREFIX_SIZE + size;
    t->at = 0;
    t->phase = ANSWER;
    return 1;
}

/* The whole question is there: answer it, or the first server that can be reached has to. */
static int decide(const struct names *s, struct stream *t)
{
    memcpy(t->question, t->data, t->size);
    t->question_size = t->size;
    ssize_t n = answer_now(s, t->question + PREFIX_SIZE, t->size - PREFIX_SIZE, t->data + PREFIX_SIZE, DNS_MAX);
    if (n)
        return n < 0 ? -1 : begin_answer(t, (size_t)n);
    const struct state_server *server;
    for (unsigned i = 0; t->server_fd < 0 && (server = server_for(s, t->from, i)); i++)
        t->server_fd = connect_server(server, SOCK_STREAM);
    t->phase = CONNECT;
    return t->server_fd < 0 ? -1 : 0;
}

static int check_connected(struct stream *t)
{
    int why = 0;
    socklen_t length = sizeof(why);
    if (getsockopt(t->server_fd, SOL_SOCKET, SO_ERROR, &why, &length) < 0 || why)
        return -1;
    t->at = 0;
    t->phase = ASK;
    return 1;
}

static int finish_answer(struct stream *t)
{
    const u8 *q = t->question + PREFIX_SIZE;
    if (!dns_fits(q, t->question_size - PREFIX_SIZE, t->data + PREFIX_SIZE, t->size - PREFIX_SIZE))
        return -1;
    return begin_answer(t, t->size - PREFIX_SIZE);
}

/* One step: 1: another may be possible, 0: wait, -1: it is over. */
static int step(const struct names *s, struct stream *t)
{
    int r;
    switch (t->phase) {
    case READ_QUESTION:
        r = read_message(t, t->fd);
        return r > 0 ? decide(s, t) : r;
    case CONNECT:
        return check_connected(t);
    case ASK:
        r = write_message(t, t->server_fd);
        if (r > 0) {
            t->at = 0;
            t->phase = READ_ANSWER;
        }
        return MIN(r, 0);
    case READ_ANSWER:
        r = read_message(t, t->server_fd);
        return r > 0 ? finish_answer(t) : r;
    case ANSWER:
        r = write_message(t, t->fd);
        if (r <= 0)
            return r;
        t->at = 0; /* there may be another question */
        t->phase = READ_QUESTION;
        sys_close(&t->server_fd);
        t->server_fd = -1;
        return 1;
    }
    return -1;
}

static struct pollfd stream_poll(const struct stream *t)
{
    bool server = t->phase == CONNECT || t->phase == ASK || t->phase == READ_ANSWER;
    bool out = t->phase == CONNECT || t->phase == ASK || t->phase == ANSWER;
    return (struct pollfd){.fd = server ? t->server_fd : t->fd, .events = out ? POLLOUT : POLLIN};
}

static void serve_stream(const struct names *s, struct stream *t)
{
    int r = 1;
    while (r > 0)
        r = step(s, t);
    if (r < 0)
        hang_up(t);
}

/* --- the loop --- */

/* Nobody is here, and nobody comes now. */
static bool is_over(struct names *s)
{
    s->lonely = state_locked(FD_FILE, LOCK_SLOTS, 0) ? 0 : s->lonely + 1;
    if (s->lonely < 2)
        return false;
    return state_lock(FD_FILE, LOCK_HEADER, false) == 0 && !state_locked(FD_FILE, LOCK_SLOTS, 0);
}

static void expire(struct names *s, u64 now)
{
    for (unsigned i = 0; i < PENDING; i++)
        if (s->pending[i].fd >= 0 && s->pending[i].deadline <= now)
            ask_next(s, &s->pending[i]);
    for (unsigned i = 0; i < STREAMS; i++)
        if (s->streams[i].fd >= 0 && s->streams[i].deadline <= now)
            hang_up(&s->streams[i]);
}

static int time_left(const struct names *s, u64 now)
{
    u64 next = s->look_at;
    for (unsigned i = 0; i < PENDING; i++)
        if (s->pending[i].fd >= 0)
            next = MIN(next, s->pending[i].deadline);
    for (unsigned i = 0; i < STREAMS; i++)
        if (s->streams[i].fd >= 0)
            next = MIN(next, s->streams[i].deadline);
    return next > now ? (int)(next - now) : 0;
}

static void serve(struct names *s)
{
    struct pollfd p[2 + PENDING + STREAMS];
    for (;;) {
        p[0] = (struct pollfd){.fd = FD_UDP, .events = POLLIN};
        p[1] = (struct pollfd){.fd = FD_TCP, .events = POLLIN};
        for (unsigned i = 0; i < PENDING; i++)
            p[2 + i] = (struct pollfd){.fd = s->pending[i].fd, .events = POLLIN};
        for (unsigned i = 0; i < STREAMS; i++)
            p[2 + PENDING + i] = stream_poll(&s->streams[i]);
        poll(p, ARRAY_LEN(p), time_left(s, now_ms()));
        for (unsigned i = 0; i < PENDING; i++)
            if (p[2 + i].revents && s->pending[i].fd >= 0)
                take_answer(s, &s->pending[i]);
        for (unsigned i = 0; i < STREAMS; i++)
            if (p[2 + PENDING + i].revents && s->streams[i].fd >= 0)
                serve_stream(s, &s->streams[i]);
        if (p[0].revents)
            take_question(s);
        if (p[1].revents)
            accept_stream(s);
        u64 now = now_ms();
        expire(s, now);
        if (now >= s->look_at) {
            s->look_at = now + LOOK_MS;
            if (is_over(s))
                return;
        }
    }
}

int network_names_main(int argc, char **argv)
{
    static const size_t at = offsetof(struct state_file, header.names);
    const u32 pid = (u32)getpid();
    struct error e = {0};
    struct names *s = calloc(1, sizeof(*s));
    const struct state_file *map = mmap(NULL, sizeof(*map), PROT_READ, MAP_SHARED, FD_FILE, 0);
    if (!s || map == MAP_FAILED || map->header.magic != STATE_MAGIC || pwrite(FD_FILE, &pid, 4, at) != 4)
        return 1; /* started by hand */
    host_process_name("trapeze-names");
    signal(SIGPIPE, SIG_IGN);
    s->map = map;
    s->look_at = now_ms() + LOOK_MS;
    for (unsigned i = 0; i < PENDING; i++)
        s->pending[i].fd = -1;
    for (unsigned i = 0; i < STREAMS; i++)
        s->streams[i] = (struct stream){.fd = -1, .server_fd = -1};
    if (chdir("/") < 0 || host_confine(false, &e) < 0 || host_seal_names(FD_FILE, FD_TCP, &e) < 0)
        return 1;
    serve(s);
    return 0;
}

/* --- starting and stopping it --- */

static int bind_socket(u32 address, int type)
{
    const struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(PORT), .sin_addr.s_addr = htonl(address)};
    int one = 1;
    CLEANUP_FD int fd = socket(AF_INET, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || (type == SOCK_STREAM && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0) ||
        bind(fd, (const struct sockaddr *)&a, sizeof(a)) < 0 || (type == SOCK_STREAM && listen(fd, STREAMS) < 0))
        return -errno;
    return sys_take(&fd);
}

/* In a process of its own, which has nothing but these and the standard descriptors. */
_Noreturn static void run_again(const int fds[3])
{
    char *const argv[] = {(char[]){"trapeze"}, (char[]){NETWORK_NAMES_ARG}, NULL}, *const empty[] = {NULL};
    int high[3];
    for (int i = 0; i < 3; i++)
        if ((high[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 64)) < 0)
            _exit(1);
    for (int i = 0; i < 3; i++)
        if (dup2(high[i], HOST_FIRST_FD + i) < 0)
            _exit(1);
    execve("/proc/self/exe", argv, empty);
    _exit(1);
}

int names_start(struct network_link *l, const char *name, const struct state_header *h, struct error *e)
{
    if (state_locked(l->file, LOCK_NAMES, 1))
        return 0;
    CLEANUP_FD int udp = bind_socket(h->subnet + 1, SOCK_DGRAM);
    CLEANUP_FD int tcp = udp < 0 ? -1 : bind_socket(h->subnet + 1, SOCK_STREAM);
    /* A lock of its own: of another opening of the file. */
    CLEANUP_FD int file = openat(l->state_dir, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (udp < 0 || tcp < 0 || file < 0 || state_lock(file, LOCK_NAMES, false) < 0)
        return error_set(e, EADDRINUSE, "names: port 53 of the bridge is somebody else's");
    const int fds[] = {file, udp, tcp};
    int r = host_fork_detached(fds, ARRAY_LEN(fds), e);
    if (r == 1)
        run_again(fds);
    return r;
}

void names_stop(int file, const struct state_header *h)
{
    pid_t pid = (pid_t)h->names;
    CLEANUP_FD int pidfd = pid > 1 ? sys_pidfd_open(pid) : -1;
    /* The number is still its own when it has the lock after the number was opened. */
    if (pidfd < 0 || !state_locked(file, LOCK_NAMES, 1))
        return;
    sys_pidfd_signal(pidfd, SIGKILL);
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    poll(&p, 1, 1000);
}
