/*
 * What runs in the guest of bench-migrate, and against it from outside. One static program:
 *
 *   traffic dirty RATE SET   write pages of a set of SET MB, RATE MB a second, for ever, at random. Each page holds words
 *                            that follow from its number and how often it was written; before it is written again it is
 *                            compared with that. Prints "written N wrong N" a second.
 *   traffic echo PORT        answer on TCP and UDP with what comes
 *   traffic tcp ADDR PORT    send a number a millisecond, wait for it to come back in order; at SIGTERM: "replies N worst_gap_ms X"
 *   traffic udp ADDR PORT    the same, 50 a second, as datagrams: "sent N replies N worst_gap_ms X"
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PAGE  4096u
#define WORDS (PAGE / 8)
#define STEP  0x9e3779b97f4a7c15ull /* so that nothing repeats: a packer finds nothing */

static volatile sig_atomic_t over;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void nap(double seconds)
{
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    if (seconds > 0)
        nanosleep(&t, NULL);
}

static uint64_t mix(uint64_t x)
{
    x ^= x >> 31;
    x *= 0x9e3779b97f4a7c15ull;
    return x ^ x >> 29;
}

/* --- dirty --- */

static int wrong(const uint64_t *page, uint64_t number, uint64_t times)
{
    uint64_t h = mix(number << 32 ^ times);
    if (!times)
        return 0;
    for (unsigned i = 0; i < WORDS; i++)
        if (page[i] != h + i * STEP)
            return 1;
    return 0;
}

static void fill(uint64_t *page, uint64_t number, uint64_t times)
{
    uint64_t h = mix(number << 32 ^ times);
    for (unsigned i = 0; i < WORDS; i++)
        page[i] = h + i * STEP;
}

static int dirty(double rate, double set)
{
    uint64_t pages = (uint64_t)(set * 1e6 / PAGE), written = 0, bad = 0, seed = 1;
    uint64_t *ram = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint32_t *times = calloc(pages, sizeof(*times));
    if (ram == MAP_FAILED || !times)
        return 1;
    double start = now(), told = start;
    for (;;) {
        uint64_t n = written < pages ? written : (seed = mix(seed + 0x632be59bd9b4e019ull)) % pages;
        bad += (uint64_t)wrong(ram + n * WORDS, n, times[n]);
        fill(ram + n * WORDS, n, ++times[n]);
        written++;
        double ahead = (double)written * PAGE / (rate * 1e6) - (now() - start);
        if (written >= pages && ahead > 0.002)
            nap(ahead);
        if (written == pages) /* all is there: from now on at its rate */
            start = now() - (double)written * PAGE / (rate * 1e6);
        if (now() - told >= 1) {
            told = now();
            printf("written %llu wrong %llu\n", (unsigned long long)written, (unsigned long long)bad);
            fflush(stdout);
        }
    }
}

/* --- echo --- */

static int open_socket(int type, const char *address, int port, int serve)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, type, 0), one = 1;
    if (fd < 0 || (address && inet_pton(AF_INET, address, &a.sin_addr) != 1))
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if ((serve ? bind : connect)(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
        return -1;
    if (serve && type == SOCK_STREAM && listen(fd, 8) < 0)
        return -1;
    if (!serve && type == SOCK_STREAM)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return fd;
}

static void echo_stream(int fd)
{
    char buf[4096];
    ssize_t n;
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    while ((n = read(fd, buf, sizeof(buf))) > 0)
        if (write(fd, buf, (size_t)n) != n)
            break;
    _exit(0);
}

static int echo(int port)
{
    int tcp = open_socket(SOCK_STREAM, NULL, port, 1), udp = open_socket(SOCK_DGRAM, NULL, port, 1);
    if (tcp < 0 || udp < 0)
        return 1;
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        struct pollfd p[] = {{.fd = tcp, .events = POLLIN}, {.fd = udp, .events = POLLIN}};
        poll(p, 2, -1);
        if (p[0].revents) {
            int fd = accept(tcp, NULL, NULL);
            if (fd >= 0 && fork() == 0)
                echo_stream(fd);
            close(fd);
        }
        if (p[1].revents) {
            char buf[2048];
            struct sockaddr_in from;
            socklen_t len = sizeof(from);
            ssize_t n = recvfrom(udp, buf, sizeof(buf), 0, (struct sockaddr *)&from, &len);
            if (n > 0)
                sendto(udp, buf, (size_t)n, 0, (struct sockaddr *)&from, len);
        }
    }
}

/* --- the other end --- */

static void stop(int sig)
{
    over = 1;
}

static int probe(int type, const char *address, int port, double interval)
{
    int fd = open_socket(type, address, port, 0);
    uint64_t sent = 0, got = 0, back = 0, wrong_order = 0;
    size_t part = 0;
    unsigned char buf[4096];
    if (fd < 0)
        return 1;
    signal(SIGTERM, stop);
    signal(SIGPIPE, SIG_IGN);
    double start = now(), last = start, worst = 0;
    while (!over) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        double due = start + (double)sent * interval - now();
        if (due <= 0) {
            sent++;
            if (send(fd, &sent, sizeof(sent), MSG_DONTWAIT) < 0 && errno != EAGAIN && errno != ECONNREFUSED)
                break;
            continue;
        }
        struct timespec t = {0, (long)(due * 1e9)};
        if (ppoll(&p, 1, &t, NULL) <= 0)
            continue;
        ssize_t n = recv(fd, buf + part, sizeof(buf) - part, MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != ECONNREFUSED))
            break;
        double at = now();
        for (part += n > 0 ? (size_t)n : 0; part >= 8; part -= 8) {
            memcpy(&back, buf, 8);
            memmove(buf, buf + 8, part - 8);
            got++;
            wrong_order += type == SOCK_STREAM && back != got;
            worst = got > 1 && at - last > worst ? at - last : worst;
            last = at;
        }
    }
    double silent = now() - last;
    worst = silent > worst ? silent : worst;
    printf("sent %llu replies %llu wrong %llu broken %d worst_gap_ms %.1f\n", (unsigned long long)sent,
           (unsigned long long)got, (unsigned long long)wrong_order, !over, worst * 1000);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 4 && !strcmp(argv[1], "dirty"))
        return dirty(atof(argv[2]), atof(argv[3]));
    if (argc == 3 && !strcmp(argv[1], "echo"))
        return echo(atoi(argv[2]));
    if (argc == 4 && !strcmp(argv[1], "tcp"))
        return probe(SOCK_STREAM, argv[2], atoi(argv[3]), 0.001);
    if (argc == 4 && !strcmp(argv[1], "udp"))
        return probe(SOCK_DGRAM, argv[2], atoi(argv[3]), 0.02);
    fprintf(stderr, "usage: traffic dirty RATE SET | echo PORT | tcp ADDR PORT | udp ADDR PORT\n");
    return 2;
}
