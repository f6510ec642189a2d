"""Networks of containers: addresses, names, NAT, published ports, and what is left behind.

The test's own network namespace is the host; the world is another one. TRAPEZE names the program, KILLS how often a container is
killed. Needs root, busybox, ip, nft and a kernel with bridges (else skipped).
"""
import glob
import json
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[1:1] = [os.path.join(HERE, "..", "box"), os.path.join(HERE, "..")]
import run
from own_network import own_network
from run import KILLS, SEED, until

SERVERS = []
HOST, WORLD = "198.51.100.1", "198.51.100.2"

# A server of the world: over TCP it says who connected, over UDP who sent, as DNS every name is 203.0.113.9.
SERVER = """
import select, socket, struct
t = socket.socket(); t.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); t.bind(("0.0.0.0", 7000)); t.listen(16)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("0.0.0.0", 7000))
d = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); d.bind(("0.0.0.0", 53))
q = socket.socket(); q.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); q.bind(("0.0.0.0", 53)); q.listen(16)
def answer(m):
    if len(m) < 12: return m
    head = m[:2] + b"\\x81\\x80\\0\\1\\0\\1\\0\\0\\0\\0"
    return head + m[12:m.index(b"\\0", 12) + 5] + b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\5\\0\\4\\xcb\\0\\x71\\x09"
print("up", flush=True)
while True:
    for s in select.select([t, u, d, q], [], [])[0]:
        if s is t:
            c, a = t.accept(); c.sendall((a[0] + "\\n").encode()); c.close()
        elif s is u:
            m, a = u.recvfrom(2048); u.sendto(a[0].encode(), a)
        elif s is d:
            m, a = d.recvfrom(2048); d.sendto(answer(m), a)
        else:
            c, a = q.accept(); m = c.recv(4096); r = answer(m[2:]); c.sendall(struct.pack(">H", len(r)) + r); c.close()
"""

ASK_TCP = "import socket, sys; s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 3); print(s.recv(99).decode().strip())"
ASK_UDP = ("import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1)\n"
           "for _ in range(5):\n"
           "    try:\n"
           "        s.sendto(b'x', (sys.argv[1], int(sys.argv[2]))); print(s.recv(99).decode().strip()); break\n"
           "    except TimeoutError: pass\n")
# What serves in a container's network: "hello" over TCP, "pong" over UDP, and says what came over UDP.
SERVE = """
import select, socket
t = socket.socket(); t.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); t.bind(("0.0.0.0", 80)); t.listen(16)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("0.0.0.0", 80))
print("up", flush=True)
while True:
    for s in select.select([t, u], [], [])[0]:
        if s is t:
            c, a = t.accept(); c.sendall(b"hello\\n"); c.close()
        else:
            m, a = u.recvfrom(2048); print(m.decode(), flush=True); u.sendto(b"pong", a)
"""


def sh(*words, **more):
    return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def good(*words):
    r = sh(*words)
    assert r.returncode == 0, (words, r.stderr)
    return r.stdout


class World:
    """A namespace of its own behind a cable, with a server."""

    def __init__(self):
        self.p = subprocess.Popen(["unshare", "-n", sys.executable, "-c", SERVER], stdout=subprocess.PIPE)
        assert self.p.stdout.readline() == b"up\n"
        good("ip", "link", "add", "world", "type", "veth", "peer", "name", "up0", "netns", str(self.p.pid))
        good("ip", "addr", "add", HOST + "/24", "dev", "world")
        good("ip", "link", "set", "world", "up")
        good("ip", "route", "add", "default", "via", WORLD)
        self.inside("ip", "addr", "add", WORLD + "/24", "dev", "up0")
        self.inside("ip", "link", "set", "up0", "up")
        self.inside("ip", "link", "set", "lo", "up")

    def inside(self, *words, **more):
        return sh("nsenter", "-t", str(self.p.pid), "-n", *words, **more)

    def ask(self, script, address, port):
        return self.inside(sys.executable, "-c", script, address, str(port)).stdout.strip()

    def close(self):
        self.p.kill()
        self.p.wait()


def ask_here(script, address, port):
    return sh(sys.executable, "-c", script, address, str(port)).stdout.strip()


def info(p, name):
    return json.loads(p.good("inspect", name))


def address(p, name):
    return info(p, name)["network"]["address"]


def members(p, network="bridge"):
    return json.loads(p.good("network", "inspect", network, "--format", "json"))[0]["containers"]


def elements(name):
    """Of a set or map of our table, as text."""
    return sh("nft", "list", "map" if name.startswith("ports") else "set", "ip", "trapeze", name).stdout


def published():
    return "elements" in elements("ports") or "elements" in elements("ports_at")


def cables():
    return [n for _, n in socket.if_nameindex() if n.startswith("tz")]


def names_processes():
    found = []
    for path in glob.glob("/proc/[0-9]*"):
        try:
            with open(path + "/cmdline", "rb") as f:
                words = f.read().split(b"\0")
            if b"--trapeze-names" in words and os.readlink(path + "/ns/net") == os.readlink("/proc/self/ns/net"):
                found.append(int(path[6:]))
        except OSError:
            pass
    return found


def start(p, name, script, *options):
    p.good("run", "-d", "--name", name, *options, "box", "sh", "-c", script)


def inside(p, name, *words):
    """A command line that runs in a container's network."""
    return ["nsenter", "-t", str(info(p, name)["container"]["pid"]), "-n", *words]


def start_web(p, name, *options):
    """A container, and what serves in its network: ends with it."""
    start(p, name, "sleep 1000", *options)
    server = subprocess.Popen(inside(p, name, sys.executable, "-c", SERVE), stdout=subprocess.PIPE)
    assert server.stdout.readline() == b"up\n"
    SERVERS.append(server)
    return server


def end_servers():
    while SERVERS:
        server = SERVERS.pop()
        server.kill()
        server.wait()


# --- one container ---


def test_address(p):
    out = p.run("box", "sh", "-c", "ip -4 -o addr show eth0; ip route; cat /etc/resolv.conf; cat /etc/hosts; hostname")
    a = re.search(r"inet (10\.90\.\d+\.\d+)/22", out).group(1)
    assert "default via 10.90.0.1 dev eth0" in out and "nameserver 10.90.0.1" in out, out
    assert re.search(re.escape(a) + r"\s+\S+", out), out
    assert p.run("box", "ping", "-c", "1", "-W", "3", "10.90.0.1")
    assert p.run("--network", "none", "box", "ip", "-o", "link").count("\n") == 1
    out = p.run("--add-host", "one:192.0.2.7", "--hostname", "two", "box", "cat", "/etc/hosts")
    assert "192.0.2.7\tone\n" in out and "\ttwo\n" in out, out


def test_addresses_return_late(p):
    seen = [p.run("box", "hostname", "-i").strip() for _ in range(4)]
    assert len(set(seen)) == 4, seen


def test_many_at_once(p):
    q = [p.start("run", "--rm", "box", "hostname", "-i", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(8)]
    out = [x.communicate(timeout=60) for x in q]
    assert len({o.strip() for o, _ in out if o.strip()}) == 8, out
    assert members(p) == [] and not published()


def test_nat(p):
    """The world sees the host's address; a container sees the world's."""
    assert p.run("box", "nc", "-w", "3", WORLD, "7000") == HOST + "\n"
    start(p, "a", "sleep 1000")
    assert sh(*inside(p, "a", sys.executable, "-c", ASK_UDP, WORLD, "7000")).stdout == HOST + "\n"
    assert p.run("box", "ping", "-c", "1", "-W", "3", WORLD)


# --- names ---


def test_names(p):
    start_web(p, "db", "--hostname", "store")
    i = info(p, "db")
    for name in ("db", "store", "DB", i["id"]):
        assert p.run("box", "nc", "-w", "3", name, "80") == "hello\n", name
    out = p.run("box", "nslookup", "-type=ptr", ".".join(reversed(i["network"]["address"].split("."))) + ".in-addr.arpa")
    assert "name = db" in out, out
    status, out, err = p.call("run", "--rm", "box", "nslookup", "-type=aaaa", "db.")
    assert "NXDOMAIN" not in out and "SERVFAIL" not in out, (out, err)
    p.good("rm", "-f", "db")
    assert "203.0.113.9" in p.run("box", "nslookup", "-type=a", "db.")  # asked of the world again


def test_names_of_the_world(p):
    """By UDP and TCP from the host's server, or the one that is given."""
    assert "203.0.113.9" in p.run("box", "nslookup", "-type=a", "www.example.org.")
    assert "203.0.113.9" in p.run("--dns", WORLD, "box", "nslookup", "-type=a", "www.example.org.")
    status, out, err = p.call("run", "--rm", "--dns", "198.51.100.77", "box", "nslookup", "-type=a", "www.example.org.")
    assert "203.0.113.9" not in out, out
    start(p, "a", "sleep 1000")
    question = struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + b"\3www\0\0\1\0\1"
    s = socket.create_connection(("10.90.0.1", 53), 5)
    for m in (question, question.replace(b"\3www", b"\1a"), question):
        s.sendall(struct.pack(">H", len(m)) + m)
        n = struct.unpack(">H", s.recv(2, socket.MSG_WAITALL))[0]
        r = s.recv(n, socket.MSG_WAITALL)
        assert r[:2] == m[:2] and r[-4:] == (b"\xcb\0\x71\x09" if b"www" in m else socket.inet_aton(address(p, "a"))), r


def test_names_of_strangers(p):
    """Who is not of the network gets no answer, though the address can be reached."""
    start(p, "a", "sleep 1000")
    question = struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + b"\1a\0\0\1\0\1"
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(0.5)
    s.bind((HOST, 0))
    s.sendto(question, ("10.90.0.1", 53))
    try:
        assert not s.recv(999)
    except TimeoutError:
        pass
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(5)
    s.sendto(question, ("10.90.0.1", 53))
    assert s.recv(999)[-4:] == socket.inet_aton(address(p, "a"))


def test_names_hold(p):
    """Hostile packets, connections that say nothing: the process is sealed, and answers still."""
    start(p, "a", "sleep 1000")
    pid = names_processes()
    assert len(pid) == 1, pid
    with open(f"/proc/{pid[0]}/status") as f:
        status = f.read()
    assert "Seccomp:\t2" in status and "CapEff:\t0000000000000000" in status, status
    rng = random.Random(SEED)
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    good_one = struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + b"\3www\7example\3org\0\0\1\0\1"
    for i in range(3000):
        m = bytearray(good_one) if i % 2 else bytearray(rng.randbytes(rng.randrange(0, 1600)))
        if i % 2:
            m[rng.randrange(len(m))] = rng.randrange(256)
        s.sendto(bytes(m), ("10.90.0.1", 53))
    held = [socket.create_connection(("10.90.0.1", 53), 5) for _ in range(40)]
    held[0].sendall(b"\xff\xff" + rng.randbytes(70000))
    for c in held[1:4]:
        c.sendall(b"\0\0")
    until(lambda: p.call("run", "--rm", "box", "nslookup", "-type=a", "a.")[1].count(address(p, "a")))
    assert names_processes() == pid


def test_names_end(p):
    start(p, "a", "sleep 1000")
    assert len(names_processes()) == 1
    p.good("rm", "-f", "a")
    until(lambda: not names_processes())
    p.good("network", "inspect", "bridge")
    start(p, "a", "sleep 1000")
    assert address(p, "a") in p.run("box", "nslookup", "-type=a", "a.")


# --- published ports ---


def test_published_tcp(p):
    start_web(p, "web", "-p", "8080:80")
    assert W.ask(ASK_TCP, HOST, 8080) == "hello"
    assert ask_here(ASK_TCP, HOST, 8080) == "hello"
    assert ask_here(ASK_TCP, "127.0.0.1", 8080) == "hello"
    assert ask_here(ASK_TCP, "127.0.0.9", 8080) == "hello"
    assert p.run("box", "nc", "-w", "3", HOST, "8080") == "hello\n"
    row = next(r for r in p.rows() if r["name"] == "web")
    assert row["ports"] == ["8080:80"] and "8080:80" in p.good("ps"), row
    assert members(p)[0]["ports"] == ["0.0.0.0:8080->80/tcp"]
    p.good("rm", "-f", "web")
    assert ask_here(ASK_TCP, "127.0.0.1", 8080) == "" and not published()


def test_published_udp(p):
    start_web(p, "u", "-p", "8080:80/udp")
    assert W.ask(ASK_UDP, HOST, 8080) == "pong"
    assert ask_here(ASK_UDP, "127.0.0.1", 8080) == "pong"
    assert ask_here(ASK_TCP, "127.0.0.1", 8080) == ""


def test_published_at_an_address(p):
    start_web(p, "web", "-p", "127.0.0.1:8080:80", "-p", HOST + ":8081:80")
    assert ask_here(ASK_TCP, "127.0.0.1", 8080) == "hello" and W.ask(ASK_TCP, HOST, 8080) == ""
    assert W.ask(ASK_TCP, HOST, 8081) == "hello" and ask_here(ASK_TCP, "127.0.0.1", 8081) == ""
    p.refused(125, "no such address", "run", "--rm", "-p", "192.0.2.99:8082:80", "box", "true")


def test_loopback_stays_closed(p):
    """Neither the world nor a container reaches 127.0.0.1 of the host, or what is published there."""
    closed = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    closed.bind(("127.0.0.1", 9999))
    closed.settimeout(1)
    server = start_web(p, "u", "-p", "127.0.0.1:8080:80/udp")
    start(p, "c", "sleep 1000")
    script = ("import socket, struct, sys\n"
              "def sums(b):\n    s = sum(struct.unpack('>%dH' % (len(b) // 2), b)); s = (s & 0xffff) + (s >> 16); return ~(s + (s >> 16)) & 0xffff\n"
              "s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind((sys.argv[1], 0))\n"
              "me = s.getsockname()[4]; to = bytes.fromhex(sys.argv[2].replace(':', ''))\n"
              "for port in (9999, 8080):\n"
              "    u = struct.pack('>4H', 1234, port, 12, 0) + b'evil'\n"
              "    h = struct.pack('>BBHHHBBH4s4s', 0x45, 0, 20 + len(u), 1, 0, 64, 17, 0, socket.inet_aton(sys.argv[3]), socket.inet_aton('127.0.0.1'))\n"
              "    h = h[:10] + struct.pack('>H', sums(h)) + h[12:]\n"
              "    s.send(to + me + b'\\x08\\x00' + h + u)\n")
    mac = dict(re.findall(r"\d+: (\S+?)[@:].*?link/ether (\S+)", good("ip", "-o", "link")))
    r = sh(*inside(p, "c", sys.executable, "-c", script, "eth0", mac["trapeze0"], address(p, "c")))
    assert r.returncode == 0, r.stderr
    r = W.inside(sys.executable, "-c", script, "up0", mac["world"], WORLD)
    assert r.returncode == 0, r.stderr
    try:
        assert not closed.recv(99)
    except TimeoutError:
        pass
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"well", ("127.0.0.1", 8080))
    assert server.stdout.readline() == b"well\n"  # the first that came


def test_port_in_use(p):
    start_web(p, "web", "-p", "8080:80")
    p.refused(125, "TCP port 8080 of this host is in use by container web", "run", "--rm", "-p", "8080:81", "box", "true")
    p.refused(125, "container web", "run", "--rm", "-p", "127.0.0.1:8080:81", "box", "true")
    assert p.run("-p", "8080:80/udp", "box", "echo", "other") == "other\n"
    s = socket.socket()
    try:
        s.bind(("127.0.0.1", 8080))
        s.listen()
        raise AssertionError("the port is not kept")
    except OSError:
        pass
    s = socket.socket()
    s.bind(("0.0.0.0", 8090))
    s.listen()
    p.refused(125, f"(pid {os.getpid()})", "run", "--rm", "-p", "8091:80", "-p", "8090:80", "box", "true")
    assert len(members(p)) == 1 and ask_here(ASK_TCP, "127.0.0.1", 8080) == "hello"
    p.good("rm", "-f", "web")
    assert p.run("-p", "8080:80", "box", "echo", "free") == "free\n"
    assert not published()


def test_wrong_ports(p):
    for text in ("80", "0:80", "80:0", "65536:80", "80:80/sctp", "1.2.3:80:80", "[::1]:80:80"):
        p.refused(125, "--publish", "run", "--rm", "-p", text, "box", "true")
    p.refused(125, "--publish", "run", "--rm", "--network", "host", "-p", "80:80", "box", "true")
    p.refused(125, "--add-host", "run", "--rm", "--add-host", "x", "box", "true")
    p.refused(125, "--dns", "run", "--rm", "--dns", "x", "box", "true")


# --- networks ---


def test_networks(p):
    assert p.good("network", "create", "back", "--subnet", "10.77.0.0/24") == "back\n"
    p.good("network", "create", "front")
    start_web(p, "db", "--network", "back")
    start_web(p, "web", "--network", "front")
    assert address(p, "db").startswith("10.77.0.")
    assert p.run("--network", "back", "box", "nc", "-w", "3", "db", "80") == "hello\n"
    for other in (["--network", "front"], []):  # apart, and their names too
        status, out, err = p.call("run", "--rm", *other, "box", "nc", "-w", "1", address(p, "db"), "80")
        assert status and not out, (other, out)
        assert address(p, "db") not in p.run(*other, "box", "nslookup", "-type=a", "db.")
    W.inside("ip", "route", "add", "10.77.0.0/24", "via", HOST)  # a neighbour that routes to us
    assert W.ask(ASK_TCP, address(p, "db"), 80) == ""
    rows = json.loads(p.good("network", "list", "--format", "json"))
    assert [r["name"] for r in rows] == ["back", "bridge", "front"], rows
    assert len({r["bridge"] for r in rows}) == 3 and rows[0]["subnet"] == "10.77.0.0/24", rows
    p.refused(1, "containers are in it", "network", "rm", "back")
    p.refused(1, "is there already", "network", "create", "back")
    p.refused(1, "overlaps that of network back", "network", "create", "x", "--subnet", "10.77.0.128/25")
    p.refused(1, "has a route to 198.51.100.0/24", "network", "create", "x", "--subnet", "198.51.0.0/16")
    p.refused(1, "--subnet", "network", "create", "x", "--subnet", "10.1.2.3/24")
    p.refused(1, "meaning of its own", "network", "create", "host")
    p.refused(1, "there is none", "network", "rm", "x")
    p.good("rm", "-f", "db", "web")
    assert p.good("network", "rm", "back") == "back\n"
    assert json.loads(p.good("network", "prune", "--format", "json")) == ["bridge", "front"]
    assert not os.listdir(p.top + "/state/trapeze/networks")


def test_full(p):
    p.good("network", "create", "small", "--subnet", "10.77.0.0/30")
    start(p, "a", "sleep 1000", "--network", "small")
    p.refused(125, "all 1 addresses are taken", "run", "--rm", "--network", "small", "box", "true")
    p.good("rm", "-f", "a")
    assert p.run("--network", "small", "box", "hostname", "-i") == "10.77.0.2\n"


def test_nothing_is_left(p):
    """network rm takes bridge, rules and process along; rules of others stay as they were."""
    good("nft", "add table ip others; add chain ip others c { type filter hook forward priority 5; }; add rule ip others c counter accept")
    before = good("nft", "-s", "list", "ruleset")
    p.run("-p", "8080:80", "box", "true")
    assert "table ip trapeze" in good("nft", "list", "ruleset") and "trapeze0" in good("ip", "link")
    p.good("network", "rm", "bridge")
    assert good("nft", "-s", "list", "ruleset") == before
    assert "trapeze" not in good("ip", "link") and not names_processes() and not cables()
    good("nft", "delete", "table", "ip", "others")


def test_rules_were_flushed(p):
    """The next container brings the rules back, for those that run as well."""
    start_web(p, "web", "-p", "8080:80")
    good("nft", "flush", "ruleset")
    assert ask_here(ASK_TCP, "127.0.0.1", 8080) == ""
    assert p.run("box", "nc", "-w", "3", WORLD, "7000") == HOST + "\n"
    assert ask_here(ASK_TCP, "127.0.0.1", 8080) == "hello"
    good("nft", "flush", "ruleset")
    p.good("rm", "-f", "web")


def test_bridge_was_deleted(p):
    p.run("box", "true")
    good("ip", "link", "delete", "trapeze0")
    assert p.run("box", "nc", "-w", "3", WORLD, "7000") == HOST + "\n"


def test_subnet_was_taken(p):
    """A route that came while nobody was in the network: another subnet is chosen."""
    p.good("network", "create", "fixed", "--subnet", "10.77.0.0/24")
    p.run("box", "true")
    good("ip", "link", "delete", "trapeze0" if json.loads(p.good("network", "inspect", "bridge", "--format", "json"))[0]["bridge"] ==
         "trapeze0" else "trapeze1")
    good("ip", "route", "add", "10.90.0.0/16", "via", WORLD)
    good("ip", "route", "add", "10.77.0.0/16", "via", WORLD)
    try:
        assert p.run("box", "hostname", "-i").startswith("172.29.0.")
        p.refused(125, "has a route to", "run", "--rm", "--network", "fixed", "box", "true")
    finally:
        good("ip", "route", "delete", "10.90.0.0/16")
        good("ip", "route", "delete", "10.77.0.0/16")


# --- killed ---


def keeper(p, name):
    return next(r["keeper"] for r in p.rows() if r["name"] == name)


def test_keeper_is_killed(p):
    start_web(p, "web", "-p", "8080:80")
    os.kill(keeper(p, "web"), signal.SIGKILL)
    until(lambda: p.rows() == [])
    assert not published() and members(p) == []
    until(lambda: not cables())
    assert p.run("-p", "8080:80", "box", "true") == ""


def test_killed(p):
    """At random points of run: what is left is taken away by the next one."""
    rng = random.Random(SEED)
    p.run("-p", "8080:80", "box", "true")
    begin = time.monotonic()
    p.run("-p", "8080:80", "box", "true")
    span = time.monotonic() - begin
    for i in range(KILLS):
        q = p.start("run", "--rm", "-p", "8080:80", "box", "true", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.random() * span)
        for pid in run.keepers(p):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        q.kill()
        q.wait()
    # A keeper that was in no list yet when its fellows were killed works on to its end, with the port.
    until(lambda: not p.processes() and p.rows("-a") == [])
    assert p.run("-p", "8080:80", "box", "echo", "well") == "well\n"
    assert members(p) == [] and not published(), (members(p), elements("ports"))
    until(lambda: not cables())
    p.good("network", "rm", "bridge")
    assert "table" not in good("nft", "list", "ruleset") and not names_processes()


def missing():
    if os.geteuid():
        return "needs root"
    for tool in ("ip", "nft", "nsenter", "unshare"):
        if not shutil.which(tool):
            return "needs " + tool
    probe = "ip link add name b0 type bridge && ip link add name v0 type veth peer name v1 && nft add table ip t"
    return None if sh("unshare", "-n", "sh", "-c", probe).returncode == 0 else "the kernel has no bridge, veth or nftables"


if __name__ == "__main__":
    if missing():
        print("1..0 # SKIP " + missing())
        sys.exit(0)
    run.leave_chroot()
    with tempfile.NamedTemporaryFile("w", prefix="trapeze-resolv-") as f:
        f.write(f"search example.org\nnameserver {WORLD}\n")
        f.flush()
        own_network(f.name)
        W = World()
        try:
            sys.exit(run.run_tests(globals(), apart=True, after=end_servers))
        finally:
            W.close()
