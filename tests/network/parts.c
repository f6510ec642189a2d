/* Addresses, slots and their locks, rules as text, subnets. */
#include "network/state.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char top[64];
static int dir;

static int set_up(void **state)
{
    snprintf(top, sizeof(top), "/tmp/trapeze-network-XXXXXX");
    return mkdtemp(top) && (dir = state_directory(top, true, NULL)) >= 0 ? 0 : -1;
}

static int tear_down(void **state)
{
    close(dir);
    char path[80];
    snprintf(path, sizeof(path), "%s/net", top);
    unlink(path);
    return rmdir(top);
}

static void subnets(void **state)
{
    static const char *const bad[] = {
        "",          "10.1.2.0",     "10.1.2.0/31",  "10.1.2.0/15",  "10.1.2.1/24",  "10.1.2.0/x", "10.1.2.256/24",
        "10.1.2/24", "127.1.0.0/16", "224.1.0.0/16", "10.1.2.0/24 ", "10.1.2.0/240", "0.1.0.0/16", "::/64"};
    struct network_subnet s, t;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(network_subnet_parse(&s, bad[i], NULL), -EINVAL);
    assert_int_equal(network_subnet_parse(&s, "10.1.2.0/24", NULL), 0);
    assert_int_equal(s.address, 0x0a010200);
    assert_int_equal(s.prefix, 24);
    assert_int_equal(network_subnet_parse(&t, "10.1.0.0/16", NULL), 0);
    assert_true(network_subnets_overlap(&s, &t) && network_subnets_overlap(&t, &s));
    assert_int_equal(network_subnet_parse(&t, "10.1.3.0/24", NULL), 0);
    assert_false(network_subnets_overlap(&s, &t));
    t = (struct network_subnet){0, 0};
    assert_true(network_subnets_overlap(&s, &t));
}

static void names(void **state)
{
    static const char *const bad[] = {"", ".a", "-a", "a/b", "a b", "..", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(state_check_name(bad[i], NULL), -EINVAL);
    assert_int_equal(state_check_name("back_end-1.2", NULL), 0);
}

static int open_file(struct state_file **map, u8 prefix)
{
    int file = state_open(dir, "net", true, true, map, NULL);
    assert_true(file >= 0);
    (*map)->header =
        (struct state_header){.magic = STATE_MAGIC, .version = STATE_VERSION, .subnet = 0x0a000000, .prefix = prefix};
    return file;
}

/* Each once, in turn, until all are taken; one that comes back is given away last. */
static void addresses(void **state)
{
    struct state_file *map;
    int file = open_file(&map, 28);
    assert_int_equal(state_slots(&map->header), 13);
    for (int i = 0; i < 13; i++) {
        assert_int_equal(state_take(file, map), i);
        map->slot[i].used = true;
    }
    assert_int_equal(state_take(file, map), -EADDRNOTAVAIL);
    assert_int_equal(state_address(&map->header, 12), 0x0a00000e); /* .15 is the broadcast address */
    map->slot[3].used = map->slot[7].used = false;
    map->header.next = 5;
    assert_int_equal(state_take(file, map), 7);
    assert_int_equal(state_take(file, map), 3);
    memset(map->slot, 0, sizeof(map->slot));
    state_close(&file, &map);
    file = open_file(&map, 30);
    assert_int_equal(state_slots(&map->header), 1);
    state_close(&file, &map);
    file = open_file(&map, 16);
    assert_int_equal(state_slots(&map->header), STATE_SLOTS);
    state_close(&file, &map);
}

static void use(struct state_slot *s, const char *id)
{
    state_begin(s);
    s->used = true;
    snprintf(s->id, sizeof(s->id), "%s", id);
    state_end(s);
}

/* A slot is its owner's until that is gone, by whatever end; then it can be swept, and only then. */
static void owners(void **state)
{
    struct state_file *map;
    int file = open_file(&map, 24), talk[2];
    char c;
    memset(map->slot, 0, sizeof(map->slot));
    state_unlock(file, LOCK_HEADER);
    assert_return_code(pipe(talk), errno);
    pid_t pid = fork();
    if (pid == 0) {
        struct state_file *mine;
        int f = state_open(dir, "net", false, true, &mine, NULL);
        int slot = state_take(f, mine);
        use(&mine->slot[slot], "aaaaaaaaaaaa");
        state_unlock(f, LOCK_HEADER);
        if (write(talk[1], "x", 1) == 1)
            pause();
        _exit(1);
    }
    assert_int_equal(read(talk[0], &c, 1), 1);
    assert_true(map->slot[0].used);
    assert_true(state_locked(file, LOCK_SLOTS, 0));
    network_sweep(file, map, NULL);
    assert_true(map->slot[0].used);
    map->slot[1].used = true; /* of nobody, and half written */
    map->slot[1].sequence = 7;
    network_sweep(file, map, "bbbbbbbbbbbb");
    assert_true(map->slot[1].used);
    network_sweep(file, map, NULL);
    assert_false(map->slot[1].used);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    assert_false(state_locked(file, LOCK_SLOTS, 0));
    network_sweep(file, map, NULL);
    assert_false(map->slot[0].used);
    close(talk[0]);
    close(talk[1]);
    state_close(&file, &map);
}

static void half_written(void **state)
{
    struct state_slot s = {0}, copy;
    assert_false(state_read(&s, &copy));
    use(&s, "aaaaaaaaaaaa");
    assert_true(state_read(&s, &copy));
    assert_string_equal(copy.id, "aaaaaaaaaaaa");
    state_begin(&s);
    assert_false(state_read(&s, &copy));
    memset(s.name, 'x', sizeof(s.name));
    s.n_ports = 255;
    state_end(&s);
    assert_true(state_read(&s, &copy));
    assert_int_equal(strlen(copy.name), sizeof(copy.name) - 1);
    assert_int_equal(copy.n_ports, NETWORK_PORTS_MAX);
}

static void damaged(void **state)
{
    struct state_file *map;
    struct error e = {0};
    int file = open_file(&map, 24);
    map->header.magic = 1;
    state_close(&file, &map);
    assert_int_equal(state_open(dir, "net", false, true, &map, &e), -EBADMSG);
    assert_non_null(strstr(e.msg, "network rm"));
}

static void rules(void **state)
{
    struct state_header h = {.subnet = 0x0a5a0000, .prefix = 22, .bridge = "trapeze0"};
    struct state_slot s = {.n_ports = 2,
                           .ports = {{.host_port = 80, .port = 8080},
                                     {.address = 0x7f000001, .udp = true, .host_port = 53, .port = 5353}}};
    struct rules_text t = {0};
    rules_network(&t, &h);
    assert_string_equal(t.text, "add element ip trapeze bridges { \"trapeze0\" }\n"
                                "add element ip trapeze same { \"trapeze0\" . \"trapeze0\" }\n"
                                "add element ip trapeze inside { 10.90.0.0/22 }\n"
                                "add chain ip trapeze trapeze0\n");
    t.size = 0;
    rules_ports(&t, "add", &s, 0x0a5a0002);
    assert_string_equal(t.text, "add element ip trapeze ports { tcp . 80 : 10.90.0.2 . 8080 }\n"
                                "add element ip trapeze ports_at { udp . 127.0.0.1 . 53 : 10.90.0.2 . 5353 }\n");
    t.size = 0;
    rules_ports(&t, "delete", &s, 0x0a5a0002);
    assert_string_equal(t.text, "delete element ip trapeze ports { tcp . 80 }\n"
                                "delete element ip trapeze ports_at { udp . 127.0.0.1 . 53 }\n");
    free(t.text);
}

static void servers(void **state)
{
    struct state_server s[NETWORK_DNS_MAX] = {{0}};
    assert_int_equal(
        names_servers("# nameserver 1.1.1.1\nsearch x\nnameserver 192.0.2.1\n nameserver\t::1\n"
                      "nameserver nobody\nnameserver 300.1.1.1\nnameserver 2001:db8::2\nnameserver 9.9.9.9",
                      s),
        3);
    assert_int_equal(s[0].family, 4);
    assert_memory_equal(s[0].bytes, "\300\0\2\1", 4);
    assert_int_equal(s[1].family, 6);
    assert_int_equal(s[2].bytes[15], 2);
    assert_int_equal(names_servers("", s), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(subnets), cmocka_unit_test(names),        cmocka_unit_test(addresses),
        cmocka_unit_test(owners),  cmocka_unit_test(half_written), cmocka_unit_test(damaged),
        cmocka_unit_test(rules),   cmocka_unit_test(servers),
    };
    return cmocka_run_group_tests_name("network-parts", tests, set_up, tear_down);
}
