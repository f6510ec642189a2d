#!/usr/bin/env python3
"""net.py check|all: Debian's kernel with network cards: DHCP, DNS, downloads, published ports, taps, switches, bad input."""
import hashlib
import http.server
import importlib.machinery
import importlib.util
import json
import os
import re
import socket
import stat
import subprocess
import sys
import threading
import time

from harness import LINUX, Skip, run_tests

TOOLS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools")
APPEND = "console=ttyS0 quiet panic=-1 reboot=t rdinit=/net-test"
DATA = os.urandom(3 << 20)
BEGIN = """#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
while read -r module; do
    [ -e "/lib/$module.ko" ] && insmod "/lib/$module.ko"
done </lib/modules
ip link set lo up
"""
DHCP = "udhcpc -q -n -t 20 -T 1 -i eth0 >/dev/null 2>&1 && echo dhcp: yes\n"
END = "\necho all done\npoweroff -f\n"


def load_make_initrd():
    loader = importlib.machinery.SourceFileLoader("make_initrd", os.path.join(TOOLS, "make-initrd"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("make_initrd", loader))
    loader.exec_module(module)
    return module


def need_guest():
    if not LINUX:
        raise Skip("no default guest: TRAPEZE_GUEST is not set")
    if not os.path.exists(os.path.join(os.path.dirname(LINUX), "modules", "virtio_net.ko")):
        raise Skip("the default guest is older than networks: make guest")


def linux(place, script, *options, name="initrd"):
    """Options of `run` for the default guest that runs `script` and powers off."""
    need_guest()
    make = load_make_initrd()
    path = os.path.join(place.path, name + ".cpio")
    with open(os.path.join(os.path.dirname(LINUX), "initrd.cpio"), "rb") as f:
        data = f.read()
    test = {"net-test": (stat.S_IFREG | 0o755, (BEGIN + script + END).encode(), 0),
            "etc/udhcpc": (stat.S_IFDIR | 0o755, b"", 0),
            "etc/udhcpc/default.script": (stat.S_IFREG | 0o755, make.read(os.path.join(TOOLS, "guest", "udhcpc")), 0)}
    with open(path, "wb") as f:
        f.write(data + make.archive(test))
    return ["run", "--kernel", LINUX, "--initrd", path, "--memory", "256M", "--append", APPEND, "--no-reboot", "--rm", *options]


def boot(place, script, *options, timeout=120):
    status, out, err = place.run(*linux(place, script, *options), timeout=timeout)
    out = out.replace("\r", "")
    if "libslirp.so" in err:
        raise Skip("no libslirp on this host")
    assert status == 0 and "\nall done\n" in "\n" + out, (status, out[-3000:], err)
    return out


class Web:
    """A web server on this host's loopback: GET / has DATA, POST takes what comes."""

    def __enter__(self):
        web = self
        self.posted = b""

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(len(DATA)))
                self.end_headers()
                self.wfile.write(DATA)

            def log_message(self, *words):
                pass

        class Sink(threading.Thread):
            """What comes to a second port, whole."""

            def run(self):
                try:
                    peer, _ = web.sink.accept()
                except OSError: # nobody came
                    return
                with peer:
                    while True:
                        got = peer.recv(1 << 16)
                        if not got:
                            break
                        web.posted += got

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.sink = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.taker = Sink(daemon=True)
        self.taker.start()
        self.port, self.sink_port = self.server.server_port, self.sink.getsockname()[1]
        return self

    def __exit__(self, *what):
        self.server.shutdown()
        self.server.server_close()
        self.sink.close()


def user_mode(*options):
    def test(place):
        with Web() as web:
            script = DHCP + f"""
ip -4 -o address show eth0
ip route
cat /etc/resolv.conf
ping -c 1 -W 10 10.0.2.2 >/dev/null && echo ping: yes
wget -q -O - http://10.0.2.2:{web.port}/ | md5sum
wget -q -O - http://10.0.2.2:{web.port}/ >/tmp/data
nc 10.0.2.2 {web.sink_port} </tmp/data
nslookup localhost 10.0.2.3 >/tmp/dns 2>&1
grep -q 'timed out' /tmp/dns && echo dns: silent || echo dns: answers
i=0
while [ $i -lt 100 ] && ! ip -6 address show eth0 | grep -q 'fec0:.*dynamic'; do
    sleep 0.1
    i=$((i + 1))
done
ping -6 -c 1 -W 10 fec0::2 >/dev/null && echo ping6: yes
cat /sys/class/net/eth0/mtu /sys/class/net/eth0/carrier
"""
            out = boot(place, script, "--network", "user,host,mac=52:54:00:aa:bb:cc", *options)
            web.taker.join(20)
            assert "dhcp: yes" in out and "inet 10.0.2.15/24" in out and "default via 10.0.2.2" in out, out
            assert "nameserver 10.0.2.3" in out and "\nping: yes" in out and "ping6: yes" in out, out
            assert "\n65520\n1\n" in out, out
            assert hashlib.md5(DATA).hexdigest() in out, out
            assert web.posted == DATA, len(web.posted)
            if os.path.exists("/etc/resolv.conf") and re.search(r"^nameserver \d", open("/etc/resolv.conf").read(), re.M):
                assert "dns: answers" in out, out
    test.__name__ = "_".join(["user_mode", *options]).replace("-", "")
    return test


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def get(port, path):
    """What the web server in the guest says."""
    got = b""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as s:
        s.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        while True:
            more = s.recv(4096)
            if not more:
                return got.decode()
            got += more


def published_ports(place):
    tcp, udp = free_port(), free_port(socket.SOCK_DGRAM)
    script = DHCP + """
mkdir -p /tmp/www/cgi-bin
echo "from the guest" >/tmp/www/index.html
printf '#!/bin/sh\\ntouch /tmp/www/end\\necho; echo bye\\n' >/tmp/www/cgi-bin/end
chmod +x /tmp/www/cgi-bin/end
httpd -p 80 -h /tmp/www
no_ports() {
    awk '/^Udp:/ { n = $3 } END { print n }' /proc/net/snmp
}
before=$(no_ports)
echo serving
i=0
while [ $i -lt 600 ] && [ "$(no_ports)" = "$before" ]; do
    sleep 0.1
    i=$((i + 1))
done
[ "$(no_ports)" -gt "$before" ] && echo "udp: arrived" # there is no service, but the datagram was seen
while ! [ -e /tmp/www/end ]; do
    sleep 0.1
done
"""
    words = linux(place, script, "--name", "web", "-d", "-p", f"127.0.0.1:{tcp}:80", "--publish", f"{udp}:53/udp")
    status, _, err = place.run(*words)
    if "libslirp.so" in err:
        raise Skip("no libslirp on this host")
    assert status == 0, err
    place.until(lambda: "serving" in place.run("logs", "web")[1], "the guest's web server")
    assert "from the guest\n" in get(tcp, "/")
    # the port is taken, and a second machine is told by whom; the first does not notice
    err = place.refused(*place.guest("idle", "-p", f"127.0.0.1:{tcp}:80"), names=[f"port {tcp} is in use", "trapeze-net (pid "])
    cards = json.loads(place.good("inspect", "web"))["networks"]
    assert len(cards) == 1 and cards[0]["kind"] == "user" and cards[0]["link"] == "up", cards
    assert re.fullmatch("52:54:00(:[0-9a-f]{2}){3}", cards[0]["mac"]) and cards[0]["sent"] > 5 < cards[0]["received"], cards
    config = json.loads(place.good("inspect", "web"))["config"]
    assert config["published"][0]["port"] == tcp and config["networks"][0]["mac"] == cards[0]["mac"], config
    def ping():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.sendto(b"ping", ("127.0.0.1", udp))
        time.sleep(0.2)
        return "udp: arrived" in place.good("logs", "web")
    place.until(ping, "a datagram to arrive")
    assert "bye" in get(tcp, "/cgi-bin/end")
    place.until(lambda: not place.machines(), "the guest's end")
    with socket.socket() as s: # and the port is free again
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("127.0.0.1", tcp))


def the_host_is_closed(place):
    """Without `host`, what this host serves on its loopback addresses can not be reached."""
    with Web() as web:
        out = boot(place, DHCP + f"wget -T 5 -q -O - http://10.0.2.2:{web.port}/ >/tmp/x 2>&1 && echo reached\n"
                   f"ip route add 127.9.9.9 via 10.0.2.2 dev eth0\nwget -T 2 -q -O /dev/null http://127.9.9.9:{web.port}/ && echo reached\n")
        assert "dhcp: yes" in out and "reached" not in out, out


def a_back_end_that_dies(place):
    """The link goes down, the machine goes on."""
    script = DHCP + """
echo serving
i=0
while [ $i -lt 600 ] && [ "$(cat /sys/class/net/eth0/carrier)" = 1 ]; do
    sleep 0.1
    i=$((i + 1))
done
echo "carrier: $(cat /sys/class/net/eth0/carrier)"
sleep 1
"""
    status, _, err = place.run(*linux(place, script, "--name", "net", "-d"))
    if "libslirp.so" in err:
        raise Skip("no libslirp on this host")
    assert status == 0, err
    place.until(lambda: "serving" in place.run("logs", "net")[1], "the guest")
    os.kill(json.loads(place.good("inspect", "net"))["networks"][0]["process"], 9)
    place.until(lambda: "carrier: 0" in place.run("logs", "net")[1], "the link to go down")
    place.until(lambda: not place.machines(), "the guest's end")


def need_tap():
    if not os.path.exists("/dev/net/tun"):
        raise Skip("no /dev/net/tun: modprobe tun")
    if subprocess.run(["unshare", "-rn", "sh", "-c", "ip tuntap add dev t0 mode tap"], stdout=subprocess.DEVNULL,
                      stderr=subprocess.DEVNULL).returncode:
        raise Skip("taps can not be made here, even in a namespace")


TAP_HOST = """
ip link set lo up
{make}
ip address add 192.168.77.1/24 dev {dev}
ip link set {dev} up
cd {dir}
python3 -m http.server --bind 192.168.77.1 8000 >/dev/null 2>&1 &
web=$!
"$@" </dev/null
status=$?
kill $web
exit $status
"""


def tap(network, make, dev):
    def test(place):
        need_tap()
        with open(os.path.join(place.path, "data"), "wb") as f:
            f.write(DATA)
        script = """
ip address add 192.168.77.2/24 dev eth0
ip link set eth0 up
i=0
while [ $i -lt 100 ] && ! ping -c 1 -W 1 192.168.77.1 >/dev/null; do
    i=$((i + 1))
done
wget -q -O - http://192.168.77.1:8000/data | md5sum
ping -c 3 -i 0.1 192.168.77.1 | tail -2
cat /sys/class/net/eth0/mtu
"""
        words = linux(place, script, "--network", network)
        text = TAP_HOST.format(make=make, dev=dev, dir=place.path)
        p = subprocess.run(["unshare", "-rn", "bash", "-c", text, "sh", os.environ["TRAPEZE"], *words], env=place.env,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120)
        out, err = p.stdout.decode(errors="replace").replace("\r", ""), p.stderr.decode(errors="replace")
        assert p.returncode == 0 and "all done" in out, (p.returncode, out[-2000:], err)
        assert hashlib.md5(DATA).hexdigest() in out and "\n1500\n" in out and "3 packets received" in out, out
    test.__name__ = network.split(":")[0] + "_" + dev
    return test


def machines_on_a_switch(place):
    """Two machines find each other, and nobody else; large segments go through."""
    serve = """
ip address add 10.9.0.1/24 dev eth0
ip link set eth0 up
mkdir /tmp/www
dd if=/dev/urandom of=/tmp/www/data bs=64k count=40 2>/dev/null
httpd -p 80 -h /tmp/www
echo "sum: $(md5sum </tmp/www/data)"
nc -l -p 99 >/dev/null
"""
    fetch = """
ip address add 10.9.0.2/24 dev eth0
ip link set eth0 up
i=0
while [ $i -lt 100 ] && ! wget -q -O /tmp/data http://10.9.0.1/data; do
    sleep 0.1
    i=$((i + 1))
done
echo "sum: $(md5sum </tmp/data)"
echo | nc 10.9.0.1 99
"""
    place.good(*linux(place, serve, "--name", "one", "-d", "--network", "switch:lan", name="one"))
    place.until(lambda: "sum: " in place.run("logs", "one")[1], "the web server in the first machine")
    wanted = re.search("sum: ([0-9a-f]{32})", place.good("logs", "one")).group(1)
    out = boot(place, fetch, "--network", "switch:lan")
    assert "sum: " + wanted in out, out
    place.until(lambda: not place.machines(), "the first machine's end")
    socket_file = os.path.join(place.path, "trapeze", "switches", "lan.socket")
    place.until(lambda: not os.path.exists(socket_file), "the switch's end")
    place.until(lambda: not place.processes(), "the switch's end")


def bad_input(place):
    def refused(*options, names, status=1):
        place.refused(*place.guest("idle", *options), names=names, status=status)

    refused("--network", "users", names=["users", "user", "tap:"])
    refused("--network", "tap", names=["tap", "needs a name"])
    refused("--network", "user:x", names=["takes no name"])
    refused("--network", "tap:an-interface-with-a-name", names=["too long"])
    refused("--network", "tap:a/b", names=["a/b", "no name"])
    refused("--network", "user,mac=52:54:00:1:2:3", names=["52:54:00:1:2:3", "six bytes"])
    refused("--network", "user,mac=53:54:00:01:02:03", names=["odd"])
    refused("--net", "user,mac=52:54:00:01:02:03", "--net", "switch:a,mac=52:54:00:01:02:03", names=["two cards"])
    refused("--network", "user,sparkle", names=["sparkle", "mac="])
    refused("--network", "tap:tap0,host", names=["host"])
    refused(*["--network", "user"] * 5, names=["4"])
    for ports in ["80", "0:80", "80:0", "65536:80", "80:80/sctp", "a:80:80", "1.2.3.4.5:80:80", "300.1.1.1:80:80", "80:80:",
                  "127.0.0.1:80", ":80:80", "80:80x"]:
        refused("-p", ports, names=[ports, "HOSTPORT"])
    refused("-p", "[::1]:80:80", names=["IPv6", "not there yet"])
    refused("--network", "none", "-p", "8080:80", names=["--network user"])
    refused("-p", "203.0.113.7:18080:80", names=["203.0.113.7"])
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
        refused("-p", f"127.0.0.1:{port}:80", names=[f"port {port}", "in use", f"pid {os.getpid()}"])
    assert not place.machines("-a")


def tap_bad_input(place):
    need_tap()
    for network, names in [("bridge:none0", ["none0", "no bridge"]), ("tap:lo", ["lo", "no tap"])]:
        p = subprocess.run(["unshare", "-rn", os.environ["TRAPEZE"], *place.guest("idle", "--network", network)],
                           env=place.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
        err = p.stderr.decode()
        assert p.returncode in (1, 3) and err.count("\n") == 1 and all(n in err for n in names), (p.returncode, err)


SAMPLE = [bad_input, tap_bad_input, user_mode(), published_ports, the_host_is_closed,
          tap("tap:tap7", "ip tuntap add dev tap7 mode tap", "tap7"), machines_on_a_switch]
ALL = [user_mode("--cpus", "2"), user_mode("--engine", "interp"), a_back_end_that_dies,
       tap("bridge:br7", "ip link add br7 type bridge", "br7")]

if __name__ == "__main__":
    sys.exit(run_tests(SAMPLE if sys.argv[1] == "check" else ALL))
