#!/usr/bin/env python3
"""migrate.py check|all: machines that move between two hosts, which are two state directories; a wire with faults lies between.

`all` is a long one of Debian's kernel at work. The faults are in migrate_table.py: `check` has a sample of them.
"""
import os
import signal
import socket
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../migrate"))
from harness import LINUX, Place, Skip, run_tests
from two_hosts import WITNESS
from wire import Wire

PATIENCE = 20
# What each side says, in this order.
UP = ["HELO", "TRPZ", "CONF", "PAGE", "ROUN", "MACH", "DGST", "TEND", "COMT"]
DOWN = ["OKAY", "ROUN", "REDY", "RUNS"]
AFTER_COMMIT = {"up:COMT", "down:RUNS", "up:DONE"}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Hosts:
    """The source is the test's own place; the target is another, with a receiver, and perhaps a wire before it."""

    def __init__(self, place, rules=(), *options):
        self.a, self.b = place, Place()
        self.at = f"127.0.0.1:{free_port()}"
        self.wire = None
        self.listen(*options)
        self.to = self.at
        if rules:
            self.wire = Wire(f"127.0.0.1:{free_port()}", self.at, rules)
            self.to = self.wire.start()

    def listen(self, *options):
        self.receiver = self.b.start("receive", "--listen", self.at, "--quiet", *options, stderr=open(os.devnull, "w"))
        self.a.until(self.answers, "the receiver")

    def answers(self):
        try:
            socket.create_connection(("127.0.0.1", int(self.at.split(":")[1])), 1).close()
            return True
        except OSError:
            return False

    def migrate(self, *options, name="web"):
        return self.a.run("migrate", name, self.to, *options)

    def states(self, place):
        return [m["state"] for m in place.machines("-a")]

    def runs_at(self, place):
        return self.states(place) == ["running"]

    def is_s(self):
        return self.runs_at(self.a) and not self.states(self.b) and not self.b.files()

    def is_d(self):
        return self.runs_at(self.b) and self.states(self.a) == ["exited"]

    def never_two(self):
        both = [m for p in (self.a, self.b) for m in p.machines() if m["state"] == "running"]
        assert len(both) <= 1, both

    def end(self):
        for place in (self.a, self.b):
            for m in place.machines("-a"):
                place.run("rm", "-f", m["name"])
        self.receiver.send_signal(signal.SIGTERM)
        self.receiver.wait(PATIENCE)
        if self.wire:
            self.wire.end()
        self.b.check_clean()
        self.b.close()


def small(place, what="i"):
    place.good(*place.guest(what, "-d", "--name", "web"))
    place.until(lambda: place.good("logs", "web"), "the guest's first output")


def await_result(h, expected):
    """S or D, and never two on the way."""
    good = h.is_s if expected == "S" else h.is_d
    deadline = time.monotonic() + PATIENCE
    while not good():
        h.never_two()
        assert time.monotonic() < deadline, f"not {expected}: {h.states(h.a)} and {h.states(h.b)}"
        time.sleep(0.05)
    h.never_two()


def retry(h):
    """After S nothing is in the way of another try."""
    h.to = h.at
    status, out, err = h.migrate()
    assert status == 0, err
    await_result(h, "D")


# --- what it is for ---

WORK = """
cat >/tmp/work <<'END'
n=0; last=0
while :; do
    n=$((n + 1)); echo $n >/tmp/n
    [ "$(cat /tmp/n)" = $n ] || echo "lost $n" >>/tmp/wrong
    now=$(cut -d. -f1 /proc/uptime)
    [ $now -ge $last ] || echo "time went back from $last to $now" >>/tmp/wrong
    last=$now
done
END
sh /tmp/work >/dev/null 2>&1 &
"""


def work_goes_on(place):
    """A guest of two processors at work, there and back again, now and then before all of its memory is; that is compared each time."""
    if not LINUX:
        raise Skip("no default guest: TRAPEZE_GUEST is not set")
    h = Hosts(place)
    back = Hosts.__new__(Hosts)
    back.a, back.b, back.at, back.wire = h.b, h.a, f"127.0.0.1:{free_port()}", None
    back.listen()
    back.to = back.at
    initrd = os.path.join(os.path.dirname(LINUX), "initrd.cpio")
    place.good("run", "-d", "--name", "web", "--kernel", LINUX, "--initrd", initrd, "--memory", "256M", "--cpus", "2",
               "--append", "console=ttyS0 quiet panic=-1")
    place.until(lambda: place.run("exec", "web", "true")[0] == 0, "the agent")
    place.good("exec", "web", "sh", "-c", WORK)
    last, later = 0, 0
    for hop in range(2 * HOPS):
        here, way = (h.a, h) if hop % 2 == 0 else (h.b, back)
        how = ["--downtime", "500ms", "--stop-if-not-converging"] if hop % 4 < 2 else ["--downtime", "1ms", "--max-time", "1s", "--postcopy"]
        status, out, err = way.migrate("--verify", "--format", "json", *how)
        assert status == 0, err
        later += "postcopy_pages" in out
        here.good("rm", "web")
        there = way.b
        assert there.run("exec", "web", "cat", "/tmp/wrong")[0] != 0, there.good("exec", "web", "cat", "/tmp/wrong")
        there.until(lambda: int(there.good("exec", "web", "cat", "/tmp/n") or 0) > last, "the work to go on")
        last = int(there.good("exec", "web", "cat", "/tmp/n") or 0)
    assert later, "never before all of its memory was there"
    back.receiver.send_signal(signal.SIGTERM)
    back.receiver.wait(PATIENCE)
    h.end()


def what_is_refused(place):
    """Before anything is touched, with all reasons; the machine runs on."""
    h = Hosts(place, (), "--memory", "8M")
    small(place)
    status, _, err = h.migrate()
    assert status != 0 and "memory" in err and "16 MiB" in err, err
    h.b.good(*h.b.guest("i", "-d", "--name", "web"))
    status, _, err = h.migrate()
    assert status != 0 and "memory" in err and "name web: is taken" in err, err
    h.b.good("rm", "-f", "web")
    place.refused("migrate", "web", f"127.0.0.1:{free_port()}", names=["machine web", "nobody listens"])
    place.refused("migrate", "web", "203.0.113.1:7000", names=["--tls", "--insecure"])
    place.refused("migrate", "none", h.at, names="none")
    for other in ("--throttle", "--stop-if-not-converging", "--with-disks"):
        place.refused("migrate", "web", h.at, "--postcopy", other, names=["--postcopy", other])
    assert h.is_s()
    h.end()


def start_after(place):
    """What has moved is not started here again, and can be forgotten."""
    h = Hosts(place)
    small(place)
    status, out, err = h.migrate()
    assert status == 0 and "web: runs at " + h.at in out, (out, err)
    assert h.is_d()
    place.refused("start", "web", names=["web", "has moved to " + h.at], status=3)
    place.good("rm", "web")
    h.end()


def cancelled(place):
    """Interrupt in the middle of copying."""
    h = Hosts(place, ["up:PAGE:1:delay=3000"])
    small(place)
    p = place.start("migrate", "web", h.to, stderr=open(os.devnull, "w"))
    place.until(lambda: h.wire.fired, "the fault")
    p.send_signal(signal.SIGINT)
    assert p.wait(PATIENCE) != 0
    await_result(h, "S")
    retry(h)
    h.end()


# --- smaller ---

def sleepers_go_on(place):
    """A machine all of whose processors sleep until a timer comes goes on behind a pause."""
    place.good("run", "-d", "--name", "web", "--kernel", WITNESS, "--memory", "16M", "--cpus", "2")
    place.until(lambda: place.good("logs", "web").count("\nT ") > 2, "the guest's first tokens")
    for _ in range(5):
        place.good("pause", "web")
        before = place.good("logs", "web").count("\nT ")
        place.good("resume", "web")
        place.until(lambda: place.good("logs", "web").count("\nT ") > before + 2, "tokens")
    place.good("rm", "-f", "web")


def paused_stays(place):
    """A machine that somebody has paused moves, and stands still at the target until somebody lets it go on."""
    import two_hosts
    p = two_hosts.Pair(place)
    p.a.place.good("pause", "web")
    status, _, err = p.migrate("--downtime", "2s", "--stop-if-not-converging", "--verify")
    assert status == 0, err
    assert p.b.states() == ["paused"], p.b.states()
    assert "paused" in p.b.place.good("ps"), p.b.place.good("ps")
    did = lambda: p.b.control({"do": "status"})[1]["instructions"]
    before = did()
    time.sleep(0.3)
    assert did() == before, "it runs"
    p.b.place.good("resume", "web")
    assert p.outcome() == "D"
    p.goes_on()
    p.end()


def check():
    """What fits the tests of each day: of the table of faults a sample, and of its ping-pongs 50."""
    import migrate_table as table
    cases = table.sample(table.SEED, 10) + table.ping_pongs(50, 2, table.SEED)
    cases += [c for c in table.CASES if "link cut three times" in c.name]
    return run_tests([what_is_refused, start_after, cancelled, sleepers_go_on, paused_stays]) | table.run_table(cases, 4, False)


if __name__ == "__main__":
    HOPS = 25
    sys.exit(check() if sys.argv[1] == "check" else run_tests([work_goes_on]))
