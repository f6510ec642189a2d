"""Two hosts, which are two state directories with a receiver each and a wire with faults before it, a guest that is a witness, and what
they are asked: where does the machine run, has it run twice, has it lost anything.

The witness (tests/guests/witness.c, WITNESS names it) prints a running-token: numbers that only the machine that printed the last one
can go on from. So what all hosts have printed, in the order in which the machine was there, counts without a gap and without a number
that comes twice if and only if never two have run and nothing was lost on the way. A Trail is that.
"""
import copy
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../migrate"))
from harness import PATIENCE, Place
from wire import Wire

WITNESS = os.environ.get("WITNESS")
MEMORY = 16 << 20
TOKEN = re.compile(r"T ([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+)$")
DAY = 86400
CLOCK_BACK = 2  # seconds that the real-time clock may go back: it is the host's
TICK = 0.05


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as f:
            return [int(word) for word in f.read().split()]
    except OSError:
        return []


def name_of(pid):
    try:
        with open(f"/proc/{pid}/comm") as f:
            return f.read().strip()
    except OSError:
        return ""


def kill(pid, sig=signal.SIGKILL):
    try:
        os.kill(pid, sig)
    except ProcessLookupError:
        pass


LOCAL = threading.local()  # .hosts: those of the test that this thread runs


def abandon():
    """Behind a test that has failed: end what it has left."""
    for host in getattr(LOCAL, "hosts", []):
        host.abandon()
    LOCAL.hosts = []


class Host:
    """`to` is where others send machines to."""

    def __init__(self, place=None, rules=(), edit=None, options=()):
        self.place = place or Place()
        self.own = place is None
        LOCAL.hosts = [*getattr(LOCAL, "hosts", []), self]
        self.receiver, self.wire = None, None
        self.said = os.path.join(self.place.path, "receiver.log")
        self.listen(*options)
        self.wire = Wire("127.0.0.1:0", self.at, rules, edit=edit)
        self.to = self.wire.start()

    def listen(self, *options, prefix=()):
        """Start the receiver (again)."""
        self.options = options
        with open(self.said, "w") as out:
            self.receiver = subprocess.Popen([*prefix, os.environ["TRAPEZE"], "receive", "--listen", "127.0.0.1:0", *options],
                                             env=self.place.env, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        self.place.until(lambda: "listening on" in self.words() or self.receiver.poll() is not None, "the receiver")
        assert self.receiver.poll() is None, self.words()
        self.at = re.search(r"listening on (\S+)", self.words())[1]
        if self.wire:
            self.wire.to = self.at

    def words(self):
        with open(self.said, errors="replace") as f:
            return f.read()

    def stop_receiver(self):
        for pid in children(self.receiver.pid) if name_of(self.receiver.pid) == "unshare" else [self.receiver.pid]:
            kill(pid, signal.SIGTERM)
        self.receiver.wait(PATIENCE)

    def kill_receiver(self):
        """And what it has forked for connections."""
        for pid in [self.receiver.pid, *children(self.receiver.pid)]:
            kill(pid)
        self.receiver.wait(PATIENCE)

    def answers(self):
        """It takes connections, and has something to say to those who talk nonsense."""
        host, _, port = self.at.rpartition(":")
        with socket.create_connection((host, int(port)), PATIENCE) as s:
            s.settimeout(PATIENCE)
            try:
                s.sendall(struct.pack("<4sHHII", b"NONS", 1, 0, 0, 0))
                return s.recv(1) == b""
            except ConnectionError:
                return True

    # --- machines ---

    def states(self):
        return [m["state"] for m in self.place.machines("-a")]

    def runs(self):
        return self.states() == ["running"]

    def keeper(self, name="web"):
        return self.place.keeper(name)

    def cell(self, name="web"):
        (pid,) = [p for p in children(self.keeper(name)) if name_of(p) == "trapeze-cell"]
        return pid

    def processes(self, comm=None):
        found = self.place.processes()
        found += [c for p in found for c in children(p) if c not in found]
        return [p for p in found if comm is None or name_of(p) == comm]

    def crash(self):
        """As if the power had failed: all processes, and what they had in memory."""
        for _ in range(3):
            for pid in self.processes():
                kill(pid)
        self.receiver.wait(PATIENCE)
        self.place.until(lambda: not self.processes(), "the end of all processes")

    def directory(self):
        (only,) = self.place.files()
        return os.path.join(self.place.path, "trapeze", "machines", only)

    def printed(self):
        """What the one machine of this host has printed."""
        try:
            with open(os.path.join(self.directory(), "console.log"), errors="replace") as f:
                return f.read().replace("\r", "")
        except OSError:
            return ""

    def control(self, request):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(PATIENCE)
        here = os.open(self.directory(), os.O_RDONLY)  # the path may be too long for an address
        try:
            s.connect(f"/proc/self/fd/{here}/control")
        finally:
            os.close(here)
        s.sendall(json.dumps(request).encode() + b"\n")
        reply = b""
        while not reply.endswith(b"\n"):
            more = s.recv(1)
            assert more, "the keeper has hung up"
            reply += more
        return s, json.loads(reply)

    def type(self, keys):
        s, reply = self.control({"do": "console", "input": True})
        assert reply["ok"] and reply["input"], reply
        s.sendall(struct.pack("<BBH", ord("i"), 0, len(keys)) + keys.encode())
        return s

    def abandon(self):
        if self.receiver and self.receiver.poll() is None:
            self.kill_receiver()
        if self.wire:
            self.wire.end()
        if self.own:
            self.place.close()

    def end(self):
        """All machines and the receiver go; nothing may be left."""
        for m in self.place.machines("-a"):
            self.place.run("rm", "-f", m["name"])
        if self.receiver.poll() is None:
            self.stop_receiver()
        self.wire.end()
        LOCAL.hosts.remove(self)
        assert "SUMMARY: " not in self.words(), self.words()  # of a sanitizer
        if self.own:
            self.place.check_clean()
            self.place.close()


class Tokens:
    """Reads what a machine prints; raises what is wrong with it."""

    def __init__(self, clock_back=CLOCK_BACK):
        self.last, self.starts, self.rest, self.clock_back = None, 0, "", clock_back

    def line(self, line):
        assert "BAD" not in line, line
        if line == "START":
            self.starts, self.last = self.starts + 1, (0, 0, None)
            return
        m = TOKEN.match(line)
        assert m and self.last, f"not a token: {line!r} behind {self.last}"
        n, others, clock = (int(m[i], 16) for i in (1, 2, 3))
        before, before_others, before_clock = self.last
        assert n > before, f"token {n:x} comes twice, or behind {before:x}"
        assert n == before + 1, f"tokens between {before:x} and {n:x} are missing"
        assert others >= before_others, f"another CPU's count went back from {before_others:x} to {others:x}"
        back = (before_clock - clock) % DAY if before_clock is not None else 0
        assert back <= self.clock_back or back >= DAY // 2, f"the real-time clock went back by {back} s"
        self.last = n, others, clock

    def feed(self, text):
        """More of it. The last line may not be whole yet."""
        lines = (self.rest + text).split("\n")
        self.rest = lines.pop()
        for line in lines:
            self.line(line)
        return self

    def number(self):
        return self.last[0] if self.last else 0


class Trail:
    """What the machine has printed on its way, and whether that can be."""

    def __init__(self, clock_back=CLOCK_BACK):
        self.tokens = Tokens(clock_back)

    def leaves(self, host):
        """It has gone from there for good."""
        self.tokens.feed(host.printed())

    def check(self, *hosts, starts=1):
        """Of the machine that is at the last of `hosts` now and was at the others since the last `leaves`; its last token."""
        now = copy.copy(self.tokens)
        for host in hosts:
            now.feed(host.printed())
        assert now.starts == starts, f"{now.starts} starts, not {starts}"
        return now.number()


def never_two(a, b):
    """States of both. They are asked one after the other, so what looks like two may be one that has moved in between: two would stay,
    and what runs for a moment is seen by its tokens."""
    for first in (a, b) * 3:
        states = {h: h.states() for h in ((a, b) if first is a else (b, a))}
        if states[a].count("running") + states[b].count("running") <= 1:
            return states[a], states[b]
        time.sleep(TICK)
    raise AssertionError(f"two run: {states[a]} and {states[b]}")


class Pair:
    """A machine at `a` that shall go to `b`."""

    def __init__(self, place, rules=(), edit=None, receive=("--lifetime", "5"), run=(), cpus=2, target=None):
        self.a, self.b = Host(place), Host(target, rules, edit, receive)
        self.b.own = True
        self.trail = Trail()
        self.verb = None
        self.a.place.good("run", "-d", "--name", "web", "--kernel", WITNESS, "--memory", str(MEMORY >> 20) + "M", "--cpus", str(cpus), *run)
        self.a.place.until(lambda: "\nT " in self.a.printed(), "the guest's first token")

    def migrate(self, *options, name="web"):
        return self.a.place.run("migrate", name, self.b.to, *options)

    def begin(self, *options):
        """The verb, in the background; `said` has what it says."""
        self.said = os.path.join(self.a.place.path, "verb.log")
        with open(self.said, "w") as out:
            self.verb = self.a.place.start("migrate", "web", self.b.to, *options, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def fired(self):
        self.a.place.until(lambda: self.b.wire.fired or self.verb.poll() is not None, "the fault")
        assert self.b.wire.fired, f"the fault did not happen: {open(self.said).read()}"

    # --- where is it ---

    def never_two(self):
        never_two(self.a, self.b)

    def is_s(self):
        return self.a.runs() and not self.b.states() and not self.b.place.files()

    def is_d(self):
        return self.b.runs() and self.a.states() in (["exited"], ["dead"], [])

    def is_gone(self):
        return self.a.states() in (["exited"], ["dead"], []) and not self.b.states()

    def outcome(self, limit=PATIENCE):
        """S, D or "gone", once it is one of them; never two on the way."""
        deadline = time.monotonic() + limit
        while True:
            self.never_two()
            for name, good in (("S", self.is_s), ("D", self.is_d), ("gone", self.is_gone)):
                if good():
                    return name
            assert time.monotonic() < deadline, f"comes to nothing: {self.a.states()} and {self.b.states()}"
            time.sleep(TICK)

    def goes_on(self, starts=1):
        """The machine works where it is, and has lost nothing on its way."""
        hosts = (self.a, self.b) if self.is_d() else (self.a,)
        at = self.trail.check(*hosts, starts=starts)
        self.a.place.until(lambda: self.trail.check(*hosts, starts=starts) > at + 10, "tokens")

    def retry(self):
        """After S nothing is in the way of another try."""
        self.b.wire.rules.clear()
        status, _, err = self.migrate("--verify", "--downtime", "2s", "--stop-if-not-converging")
        assert status == 0, f"the retry: {err}"
        assert self.outcome() == "D"
        self.goes_on()

    def end(self):
        if self.verb and self.verb.poll() is None:
            self.verb.kill()
            self.verb.wait(PATIENCE)
        self.b.end()
        self.a.end()
