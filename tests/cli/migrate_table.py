#!/usr/bin/env python3
"""migrate_table.py [--jobs N] [--rounds N] [WORD..]: the faults that a machine on the move must survive, forced one by one.

Each row of the table is a kind of fault, and the only results that it may have:

    S    one machine, at the source: it was never stopped or goes on; nothing is left at the target, and a retry succeeds
    D    one machine, at the target
    S/D  never two, and exactly one of these as soon as both can talk again: the fault decides which
    gone the guest has died with its host, as any guest does; nothing is left at the target

A case is a row at one place: a message (DIRECTION:TYPE, as tests/migrate/wire.py counts them) or a moment. Every case has a guest of
two processors that checks its own pages, time and interrupts, and whose running-token is followed over both hosts (two_hosts.py).
With words (regular expressions), only cases in whose names one of them is found. The table comes at the end; a case that fails is shown with what was seen.
"""
import argparse
import concurrent.futures
import errno
import json
import os
import random
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback

import snapshot
from harness import LINUX, PATIENCE, Place, Skip
from inject import Inject
from two_hosts import CLOCK_BACK, Host, Pair, Tokens, Trail, WITNESS, abandon, kill, never_two
from wire import HEADER, Rule, with_payload

QUICK = ("--downtime", "2s", "--stop-if-not-converging")  # it is stopped behind the first round
LONGER = ("--downtime", "20ms", "--stop-if-not-converging")  # .. behind the second at the earliest, the first one being slow
SEED = 20261123


class Case:
    def __init__(self, row, fault, where, expected, run):
        self.row, self.fault, self.where, self.expected, self.run = row, fault, where, expected, run
        self.name = f"{row} {fault}: {where}"


CASES = []
NOT_YET = {25: "other TSC frequency: D (it is refused)", 26: "packets during handover: `make bench-migrate` measures them"}


def case(row, fault, where, expected):
    def add(f):
        CASES.append(Case(row, fault, where, expected, f))
        return f
    return add


# --- what the cases are made of ---

# One round more than it would take: the first one is slow.
TWO_ROUNDS = "down:ROUN:1:delay=300"
BEFORE = ["up:HELO", "down:OKAY", "up:TRPZ", "up:CONF", "up:PAGE", "up:ROUN", "down:ROUN", "up:ROUN>PAGE", "up:ROUN:2", "down:ROUN:2",
          "up:PAGE<MACH", "up:MACH", "up:DGST", "up:TEND", "down:REDY"]
AFTER = ["up:COMT", "down:RUNS", "up:DONE"]


def how(where):
    return LONGER if where.endswith(":2") or "ROUN>PAGE" in where else QUICK


def rules(where, action):
    """Of a fault at "DIRECTION:TYPE" or "DIRECTION:TYPE:N"."""
    numbered = where if where.count(":") == 2 else where + ":1"
    return [TWO_ROUNDS, f"{numbered}:{action}"] if numbered.endswith(":2") or "PAGE" in where else [f"{numbered}:{action}"]


def finish(p, expected):
    """Wait for the result, judge it, try again behind an S. What was seen."""
    seen = p.outcome()
    assert seen in expected.split("/"), f"{seen}, not {expected}"
    if seen != "gone":
        p.goes_on()
    assert p.b.answers(), "the receiver is dead"
    if seen == "S":
        p.retry()
    p.end()
    return seen


def wire_fault(where, action, expected, *options):
    """The verb goes on by itself."""
    def run(place):
        p = Pair(place, rules(where, action))
        status, _, err = p.migrate(*how(where), *options)
        assert any(r != TWO_ROUNDS for r in p.b.wire.fired), f"did not happen: {p.b.wire.log}"
        if "hole" in action and expected == "S":
            seen = p.outcome()  # both sides come to it by themselves
            assert seen == "S", seen
        p.b.wire.heal()
        seen = finish(p, expected)
        assert (status == 0) == (seen == "D"), f"{seen}, but status {status}: {err}"
        assert status == 0 or err.startswith("trapeze: machine web: "), err
        return seen
    return run


def while_held(where, do, expected, after=None, action="hold"):
    """`do` happens while that message is on its way; then the message comes. `after`: what is to be done then."""
    def run(place):
        p = Pair(place, rules(where, action))
        p.begin(*how(where))
        p.a.place.until(lambda: any(r.endswith("hold") for r in p.b.wire.fired) or p.verb.poll() is not None, "the fault")
        assert p.verb.poll() is None, open(p.said).read()
        do(p)
        p.b.wire.release()
        p.verb.wait(PATIENCE)
        if after:
            after(p)
        return finish(p, expected)
    return run


def kill_verb(p):
    p.verb.kill()


def kill_source_keeper(p):
    kill(p.a.keeper())


def kill_source_cell(p):
    kill(p.a.cell())


def kill_source_host(p):
    p.a.crash()


def kill_receiver(p):
    p.b.kill_receiver()
    p.b.listen(*p.b.options)


def kill_target_keeper(p):
    kill(p.b.keeper())


def kill_target_cell(p):
    kill(p.b.cell())


def kill_target_host(p):
    p.b.crash()
    p.b.listen(*p.b.options)


def restart_source(p):
    """What packaging does when the host comes up."""
    p.a.listen()
    p.a.place.until(lambda: p.a.place.run("system", "recover")[0] == 0 and "committed" not in p.a.states(), "the recovery")


# --- 1, 2: refused at the reservation ---

def never_paused(p):
    """Frames of a console tell each state that the machine comes to."""
    s, reply = p.a.control({"do": "console"})
    assert reply["ok"] and reply["state"] == "running", reply
    s.settimeout(PATIENCE)
    return s


def states_seen(s):
    data, seen = b"", []
    s.setblocking(False)
    while select.select([s], [], [], 0)[0] and (more := s.recv(65536)):  # what is there by now
        data += more
    s.close()
    while len(data) >= 4:
        kind, _, n = struct.unpack("<BBH", data[:4])
        if kind == ord("s"):
            seen.append(data[4:4 + n].decode())
        data = data[4 + n:]
    return seen


def refused(*names, rules=(), edit=None, receive=("--lifetime", "5"), run=(), before=lambda p: None, after=lambda p: None):
    def test(place):
        p = Pair(place, rules, edit, receive, run)
        before(p)
        watched = never_paused(p)
        status, _, err = p.migrate()
        assert status != 0 and all(n in err for n in names), err
        assert states_seen(watched) == [], "the source was paused"
        after(p)
        p.b.wire.edit = lambda record: record
        return finish(p, "S")
    return test


def edited(change):
    """An `edit` that changes the JSON of a message."""
    def edit(record):
        j = json.loads(record[HEADER.size:])
        change(j)
        return with_payload(record, json.dumps(j).encode())
    return edit


def hello(row, fault, where, change, *names, **more):
    CASES.append(Case(row, fault, where, "S", refused(*names, rules=["up:HELO:1:edit"], edit=edited(change), **more)))


def set_in(j, *path, value):
    for word in path[:-1]:
        j = j[word]
    j[path[-1]] = value


@case(1, "target absent", "nobody listens", "S")
def target_absent(place):
    p = Pair(place)
    p.b.stop_receiver()
    watched = never_paused(p)
    status, _, err = p.migrate()
    assert status != 0 and "machine web" in err, err
    assert states_seen(watched) == []
    p.b.listen(*p.b.options)
    return finish(p, "S")


CASES.append(Case(1, "too little memory", "reservation", "S",
                  refused("memory", "16 MiB", receive=("--memory", "8M"),
                          after=lambda p: (p.b.stop_receiver(), p.b.listen("--lifetime", "5")))))
hello(1, "processor feature not there", "reservation",
      lambda j: j["machine"]["cpu"]["features"].append("made-up"), "made-up")
hello(1, "processor of another vendor", "reservation",
      lambda j: set_in(j, "machine", "cpu", "vendor", value="SomebodyElse"), "SomebodyElse")
hello(1, "version not there", "reservation", lambda j: set_in(j, "version", value=99), "version")
hello(1, "device not there", "reservation",
      lambda j: set_in(j, "machine", "config", "flux-capacitor", value=True), "flux-capacitor")
hello(1, "kernel not there", "reservation",
      lambda j: set_in(j, "machine", "config", "kernel", value="/nowhere/vmlinuz"), "/nowhere/vmlinuz")
CASES.append(Case(1, "name taken", "reservation", "S",
                  refused("name web: is taken",
                          before=lambda p: p.b.place.good("run", "-d", "--name", "web", "--kernel", WITNESS, "--memory", "16M"),
                          after=lambda p: p.b.place.good("rm", "-f", "web"))))


def with_disk(fault, look, *names):
    """The source has a disk; the target is told of `look(path)` in its stead."""
    @case(2, fault, "reservation", "S")
    def run(place):
        disk = os.path.join(place.path, "disk.img")
        with open(disk, "wb") as f:
            f.truncate(8 << 20)
        other = look(disk)

        def change(j):
            for d in j["machine"]["config"]["disks"]:
                d["file"] = other
        return refused("disk", *names, rules=["up:HELO:1:edit"], edit=edited(change), run=("--disk", disk))(place)


def another_file(path, size):
    with open(path + ".other.img", "wb") as f:
        f.truncate(size)
    return path + ".other.img"


with_disk("disk missing", lambda path: "/nowhere/disk.img", "/nowhere/disk.img", "No such file")
with_disk("disk short", lambda path: another_file(path, 4 << 20), "4194304 bytes here")
with_disk("disk not shared", lambda path: another_file(path, 8 << 20), "is another file than there")


@case(2, "disk read-only", "reservation", "S")
def disk_read_only(place):
    """A file system that is mounted read-only at the target."""
    folder = os.path.join(place.path, "disks")
    os.mkdir(folder)
    disk = os.path.join(folder, "disk.img")
    with open(disk, "wb") as f:
        f.truncate(8 << 20)
    mount = ["unshare", *([] if os.getuid() == 0 else ["-Ur"]), "-m", "sh", "-c",
             'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"', folder]
    if subprocess.run([*mount, "true"], stderr=subprocess.DEVNULL).returncode:
        raise Skip("no mount namespaces here")

    def before(p):
        p.b.stop_receiver()
        p.b.listen(prefix=mount)

    def after(p):
        p.b.stop_receiver()
        p.b.listen("--lifetime", "5")
    return refused("disk", "Read-only", before=before, after=after, run=("--disk", disk))(place)


# --- 3 to 7: somebody is killed ---

for at in BEFORE:
    for who, f in (("receiver", kill_receiver), ("keeper", kill_target_keeper), ("cell", kill_target_cell), ("host", kill_target_host)):
        if at == "up:HELO" and who in ("keeper", "cell"):
            continue  # there is none yet
        # A receiver alone is not the machine's keeper, which may have all that it needs.
        result = "S/D" if at == "down:REDY" and who == "receiver" else "S"
        CASES.append(Case(3, f"target's {who} killed", at, result, while_held(at, f, result)))
    for who, f in (("keeper", kill_source_keeper), ("cell", kill_source_cell), ("host", kill_source_host)):
        # When the state has been read the guest's process is wanted no more; its keeper may commit before it notices.
        result = "gone/D" if who == "cell" and at in BEFORE[BEFORE.index("up:PAGE<MACH"):] else "gone"
        CASES.append(Case(4, f"source's {who} killed", at, result, while_held(at, f, result, restart_source if who == "host" else None)))
    CASES.append(Case(4, "source's verb killed", at, "S", while_held(at, kill_verb, "S")))
for at in ("up:COMT", "down:RUNS"):
    for who, f in (("keeper", kill_source_keeper), ("cell", kill_source_cell), ("verb", kill_verb)):
        CASES.append(Case(5, f"source's {who} killed", at, "D", while_held(at, f, "D")))
    CASES.append(Case(5, "source's host killed", at, "S/D" if at == "up:COMT" else "D",
                      while_held(at, kill_source_host, "D", restart_source)))
for who, f, result in (("receiver", kill_receiver, "D"), ("keeper", kill_target_keeper, "S"), ("cell", kill_target_cell, "S"),
                       ("host", kill_target_host, "S")):
    CASES.append(Case(6, f"target's {who} killed", "up:COMT", result, while_held("up:COMT", f, result)))


def dies_later(who, f):
    @case(7, f"target's {who} killed", "behind the end", "gone")
    def run(place):
        p = Pair(place)
        status, _, err = p.migrate(*QUICK)
        assert status == 0 and p.outcome() == "D", err
        p.goes_on()
        f(p)
        p.b.place.until(lambda: p.b.states() == ["dead"] or p.b.states() == ["exited"], "the end of the machine")
        status, _, err = p.a.place.run("start", "web")
        assert status != 0 and "has moved to" in err, err
        assert p.a.states() == ["exited"]
        p.end()
        return "gone"


dies_later("keeper", kill_target_keeper)
dies_later("cell", kill_target_cell)
dies_later("host", kill_target_host)

# --- 8 to 12: the link ---

for at in BEFORE:
    for action in ("cut", "cut-after", "truncate"):
        # What arrives before the reset may be all that the target needs; then the source may have committed.
        whole = action == "cut-after" and at in ("up:TEND", "down:REDY")
        CASES.append(Case(8, f"link reset ({action})", at, "S/D" if whole else "S", wire_fault(at, action, "S/D" if whole else "S")))
    for action in ("hole", "hole-after"):
        if action == "hole" or at not in ("up:TEND", "down:REDY"):
            CASES.append(Case(9, f"black hole ({action})", at, "S", wire_fault(at, action, "S")))
for at, action in (("up:TEND", "drop"), ("down:REDY", "drop"), ("up:DGST", "drop"), ("up:MACH", "drop")):
    CASES.append(Case(10, '"complete image" lost', at, "S", wire_fault(at, action, "S")))
for at in ("up:COMT", "down:RUNS"):
    for action in ("cut", "cut-after", "truncate", "drop", "double", "delay=4000", "swap", "flip"):
        CASES.append(Case(11, f"commit or its answer: {action}", at, "D", wire_fault(at, action, "D")))


def heals_late(at, action, seconds, expected="D"):
    def run(place):
        p = Pair(place, rules(at, action))
        p.begin(*QUICK)
        p.fired()
        for _ in range(seconds * 2):  # while it is cut: none or one, never two
            p.never_two()
            time.sleep(0.5)
        p.b.wire.heal()
        p.verb.wait(PATIENCE)
        return finish(p, expected)
    return run


for at in ("up:TEND", "down:REDY"):  # the source may have committed, and the target may give up before it hears of that
    CASES.append(Case(11, "black hole as the target has all of it", at, "S/D", heals_late(at, "hole-after", 4, "S/D")))
for at in ("up:COMT", "down:RUNS"):
    for action in ("hole", "hole-after"):
        CASES.append(Case(11, f"commit or its answer: {action}", at, "D", heals_late(at, action, 4)))
for action in ("cut", "cut-after", "hole", "drop", "double", "flip"):
    CASES.append(Case(12, f'last word lost ({action})', "up:DONE", "D", wire_fault("up:DONE", action, "D")))


# --- 13: who wakes late ---

def stopped(at, expected, seconds):
    """All of the source is stopped by SIGSTOP, and wakes when everything is over."""
    def do(p):
        p.asleep = [p.verb.pid, p.a.keeper(), p.a.cell(), *p.a.processes("trapeze-watcher")]
        for pid in p.asleep:
            kill(pid, signal.SIGSTOP)
        p.b.wire.release()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            p.never_two()
            time.sleep(0.2)
        for pid in p.asleep:
            kill(pid, signal.SIGCONT)
    return while_held(at, do, expected)


CASES.append(Case(13, "source wakes from SIGSTOP", "up:COMT", "D", stopped("up:COMT", "D", 3)))
CASES.append(Case(13, "source wakes from SIGSTOP", "down:RUNS", "D", stopped("down:RUNS", "D", 3)))
for at in ("up:PAGE", "up:MACH", "down:REDY"):
    CASES.append(Case(13, "source wakes from SIGSTOP", at, "S", stopped(at, "S", 12)))


def partition_after(at, seconds):
    """The verb and its watcher are gone too when it heals: any verb resolves it."""
    def run(place):
        p = Pair(place, rules(at, "hole"))
        p.begin(*QUICK)
        p.fired()
        p.a.place.until(lambda: "committed" in str(p.a.control({"do": "status"})[1]), "the record")
        for pid in p.a.processes("trapeze-watcher"):
            kill(pid)
        p.verb.kill()
        p.verb.wait(PATIENCE)
        for _ in range(seconds * 2):
            p.never_two()
            time.sleep(0.5)
        p.b.wire.heal()
        p.a.place.until(lambda: p.a.place.run("system", "recover")[0] == 0 and "committed" not in str(p.a.states()), "the recovery")
        return finish(p, "S/D")  # D, or S if the target's lifetime was over
    return run


for at in ("up:COMT", "down:RUNS"):
    CASES.append(Case(13, "partition heals late", at, "S/D" if at == "up:COMT" else "D", partition_after(at, 3)))

# --- 14, 15: what is said is not what was meant ---

FLIPS = {"type": 3, "version": 33, "instance": 50, "length": 70, "checksum": 100, "payload": None, "end": -1}
for at in BEFORE:
    for what, bit in FLIPS.items():
        CASES.append(Case(14, f"bit flipped ({what})", at, "S", wire_fault(at, "flip" if bit is None else f"flip={bit}", "S")))
for at in ("up:PAGE", "up:ROUN>PAGE", "up:PAGE<MACH", "up:MACH", "up:DGST"):
    # A page of an early round may be sent again, and is right then.
    result = "S/D" if at == "up:ROUN>PAGE" else "S"
    CASES.append(Case(14, "bit flipped, checksum mended", at, result, wire_fault(at, "mend=5000" if "PAGE" in at else "mend=200", result)))

for at in ("up:HELO", "up:TRPZ", "up:CONF", "up:PAGE", "up:ROUN", "up:MACH", "up:DGST", "up:TEND", "down:OKAY", "down:ROUN"):
    for action in ("double", "swap", "drop"):
        if at.startswith("down") and action == "swap":
            continue  # no other follows
        if at == "up:ROUN" and action == "swap" or at == "up:HELO" and action == "swap":
            continue
        # Pages of one round may come in any order. A second end comes when all of it is there: the connection ends, no more.
        result = {("up:PAGE", "swap"): "D", ("up:TEND", "double"): "S/D"}.get((at, action), "S")
        CASES.append(Case(15, f"message {action}", at, result, wire_fault(at, action, result)))
for at in ("up:PAGE", "up:MACH"):
    for k in (0, 1, 15, 16, 17):
        CASES.append(Case(15, f"truncated to {k} bytes", at, "S", wire_fault(at, f"truncate={k}", "S")))


def oversized(record):
    return record[:8] + struct.pack("<I", 0x7fffffff) + record[12:]


def beyond_memory(record):
    return with_payload(record, struct.pack("<Q", MEMORY_PAGES) + record[HEADER.size + 8:])


def nothing_but_noise(record):
    return random.Random(SEED).randbytes(len(record))


MEMORY_PAGES = (16 << 20) // 4096
EDITS = [("oversized", oversized, BEFORE), ("hostile (noise)", nothing_but_noise, BEFORE),
         ("hostile (page beyond memory)", beyond_memory, ["up:PAGE"]),
         ("hostile (empty)", lambda r: with_payload(r, b""), BEFORE),
         ("later version", lambda r: r[:4] + struct.pack("<H", 99) + r[6:], BEFORE)]


def edit_fault(at, edit):
    def run(place):
        p = Pair(place, rules(at, "edit"), edit=edit)
        status, _, err = p.migrate(*how(at))
        assert any(r.endswith("edit") for r in p.b.wire.fired), "did not happen"
        assert status != 0 and err.startswith("trapeze: machine web: "), (status, err)
        return finish(p, "S")
    return run


for what, f, places in EDITS:
    for at in places:
        CASES.append(Case(15, what, at, "S", edit_fault(at, f)))


@case(15, "replayed", "the whole stream, again", "D")
def replayed(place):
    """What has led to a machine once leads to none again."""
    p = Pair(place)
    taken = []
    act = p.b.wire.act

    async def tap(link, writer, record, rule, held):
        if writer is link.far[1]:
            taken.append(record)
        return await act(link, writer, record, rule, held)
    p.b.wire.act = tap
    status, _, err = p.migrate(*QUICK)
    assert status == 0 and p.outcome() == "D", err
    p.goes_on()
    for name in ("web", "gone"):  # the machine is there; then it is gone, and forgotten
        host, _, port = p.b.at.rpartition(":")
        with socket.create_connection((host, int(port)), PATIENCE) as s:
            s.settimeout(PATIENCE)
            try:
                s.sendall(b"".join(taken))
                s.shutdown(socket.SHUT_WR)
                while s.recv(65536):
                    pass
            except ConnectionError:
                pass
        if name == "web":
            assert p.is_d()
            p.goes_on()
    p.end()
    return "D"


# --- 16: mistaken identity ---

def say(at, kind, body):
    """One message; what is said to it, as (kind, JSON), or None."""
    host, _, port = at.rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE) as s:
        s.settimeout(PATIENCE)
        s.sendall(with_payload(HEADER.pack(kind.encode(), 1, 0, 0, 0), json.dumps(body).encode()))
        data = b""
        while len(data) < HEADER.size or len(data) < HEADER.size + HEADER.unpack(data[:HEADER.size])[3]:
            more = s.recv(65536)
            if not more:
                return None
            data += more
        return data[:4].decode(), json.loads(data[HEADER.size:])


@case(16, "stale or unknown id", "COMT and ABRT", "D")
def stale_id(place):
    p = Pair(place, ["down:REDY:1:hold"])
    p.begin(*QUICK)
    p.fired()
    for kind in ("COMT", "ABRT"):
        assert say(p.b.at, kind, {"id": "0" * 31 + "1"})[0] == "NEVR"
        assert say(p.b.at, kind, {"id": "../../../etc/passwd"}) is None
        assert say(p.b.at, kind, {}) is None
    p.b.wire.release()
    assert p.verb.wait(PATIENCE) == 0
    return finish(p, "D")


@case(16, "two senders", "of one machine", "D")
def two_senders(place):
    p = Pair(place, ["up:PAGE:1:hold"])
    p.begin(*QUICK)
    p.fired()
    status, _, err = p.migrate()
    assert status != 0 and "another process moves this machine" in err, err
    p.b.wire.release()
    assert p.verb.wait(PATIENCE) == 0
    return finish(p, "D")


@case(16, "two senders", "of two machines of one name", "D")
def two_of_one_name(place):
    p = Pair(place, ["up:PAGE:1:hold"])
    other = Host()
    other.place.good("run", "-d", "--name", "web", "--kernel", WITNESS, "--memory", "16M")
    p.begin(*QUICK)
    p.fired()
    status, _, err = other.place.run("migrate", "web", p.b.to)
    assert status != 0 and "name web: is taken" in err, err
    p.b.wire.release()
    assert p.verb.wait(PATIENCE) == 0
    assert other.states() == ["running"]
    other.end()
    return finish(p, "D")


@case(16, "two targets", "the second while the first has all of it", "D")
def two_targets(place):
    p = Pair(place, ["down:REDY:1:hold"])
    other = Host()
    p.begin(*QUICK)
    p.fired()
    status, _, err = p.a.place.run("migrate", "web", other.to)
    assert status != 0 and "another process moves this machine" in err, err
    p.b.wire.release()
    assert p.verb.wait(PATIENCE) == 0
    assert not other.states()
    other.end()
    return finish(p, "D")


@case(16, "two targets", "the second after the first was called off", "D")
def the_other_target(place):
    p = Pair(place, ["down:REDY:1:hold"])
    other = Host()
    p.begin(*QUICK)
    p.fired()
    p.verb.kill()
    p.verb.wait(PATIENCE)
    status, _, err = p.a.place.run("migrate", "web", other.to, *QUICK)
    assert status == 0, err
    p.b.wire.release()
    p.b.place.until(lambda: not p.b.states(), "the end of the first target's machine")
    p.trail.check(p.a, other)
    assert other.states() == ["running"] and p.a.states() == ["exited"]
    other.end()
    p.end()
    return "D"


# --- 17, 18: the link is too slow ---

def outruns(expected, *options):
    def run(place):
        p = Pair(place)
        p.a.type("f").close()
        status, _, err = p.migrate("--bandwidth", "100M", "--no-compression", "--downtime", "10ms", *options)
        seen = p.outcome()
        assert (status == 0) == (seen == "D") and seen == expected, (seen, err)
        assert seen == "D" or "does not converge" in err, err
        p.goes_on()
        if seen == "S":
            p.b.wire.rules.clear()
            status, _, err = p.migrate(*QUICK)
            assert status == 0 and p.outcome() == "D", err
            p.goes_on()
        p.end()
        return seen
    return run


CASES.append(Case(17, "guest outruns the link", "policy: stays", "S", outruns("S")))
CASES.append(Case(17, "guest outruns the link", "policy: --max-time", "S", outruns("S", "--max-time", "2s")))
CASES.append(Case(17, "guest outruns the link", "policy: --stop-if-not-converging", "D", outruns("D", "--stop-if-not-converging")))
CASES.append(Case(17, "guest outruns the link", "policy: --throttle", "D", outruns("D", "--throttle")))
CASES.append(Case(17, "guest outruns the link", "policy: --postcopy", "D", outruns("D", "--postcopy", "--verify")))


def collapses(at):
    """The message is under way for longer than a machine is stopped."""
    def run(place):
        p = Pair(place, rules(at, "hold"))
        p.begin(*how(at))
        p.a.place.until(lambda: any(r.endswith("hold") for r in p.b.wire.fired), "the fault")
        begun = time.monotonic()
        p.a.place.until(lambda: p.a.runs(), "the source's machine to go on")
        at_once = time.monotonic() - begun
        assert p.verb.wait(PATIENCE) != 0
        p.b.wire.release()
        seen = finish(p, "S")
        assert at_once < PATIENCE, at_once
        return seen
    return run


for at in ("up:PAGE<MACH", "up:MACH", "up:DGST", "up:TEND", "down:REDY"):
    CASES.append(Case(18, "link stalls in stop-and-copy", at, "S", collapses(at)))


# --- 19: it is called off ---

def interrupt(p):
    p.verb.send_signal(signal.SIGINT)


for at in BEFORE:
    def called_off(p):
        interrupt(p)
        assert p.verb.wait(PATIENCE) != 0
    CASES.append(Case(19, "cancelled", at, "S", while_held(at, called_off, "S")))
for at in AFTER:
    CASES.append(Case(19, "cancelled", at, "D", while_held(at, interrupt, "D")))


def races(n):
    def run(place):
        """An interrupt at a moment that nobody chose: the answer is that of the verb."""
        rng = random.Random(SEED + n)
        p = Pair(place)
        p.begin("--downtime", "2s", "--stop-if-not-converging")
        time.sleep(rng.random() * 0.2)
        interrupt(p)
        status = p.verb.wait(PATIENCE)
        seen = p.outcome()
        assert (status == 0) == (seen == "D"), (seen, status, open(p.said).read())
        p.goes_on()
        if seen == "S":
            p.retry()
        p.end()
        return seen
    return run


for n in range(20):
    CASES.append(Case(19, "cancel races the commit", f"moment {n}", "S/D", races(n)))


# --- 20: the guest ends or begins anew ---

def reset_in(at):
    def do(p):
        p.a.type("r").close()
        p.a.place.until(lambda: p.a.printed().count("START") == 2, "the reset")
        p.a.place.until(lambda: "T " in p.a.printed().split("START")[2], "the first token behind it")

    def run(place):
        p = Pair(place, rules(at, "hold"))
        p.begin(*how(at))
        p.a.place.until(lambda: any(r.endswith("hold") for r in p.b.wire.fired), "the moment")
        do(p)
        p.b.wire.release()
        status = p.verb.wait(PATIENCE)
        seen = p.outcome()
        assert (status == 0) == (seen == "D"), open(p.said).read()
        p.goes_on(starts=2)
        p.end()
        return seen
    return run


def ends_in(at, key, why):
    def run(place):
        p = Pair(place, rules(at, "hold"))
        p.begin(*how(at))
        p.a.place.until(lambda: any(r.endswith("hold") for r in p.b.wire.fired), "the moment")
        p.a.type(key).close()
        p.a.place.until(lambda: p.a.states() != ["running"], "the end of the guest")
        p.b.wire.release()
        assert p.verb.wait(PATIENCE) != 0
        assert p.outcome() == "gone"
        (row,) = p.a.place.machines("-a")
        assert why in json.dumps(row), row
        Tokens().feed(p.a.printed())
        p.end()
        return "gone"
    return run


for at in ("up:HELO", "down:OKAY", "up:PAGE", "up:ROUN", "up:ROUN>PAGE", "down:ROUN:2"):
    CASES.append(Case(20, "guest reboots", at, "D", reset_in(at)))
    CASES.append(Case(20, "guest powers off", at, "gone", ends_in(at, "p", "power off")))
    CASES.append(Case(20, "guest ends in a triple fault", at, "gone", ends_in(at, "t", "triple")))


# --- 23: a device's save or load ---

def record_in_state(change):
    """An edit of MACH: `change` of one of the records in it, those of devices behind the others."""
    def edit(message):
        state, at, places = message[HEADER.size:], 0, []
        while at < len(state):
            places.append(at)
            at += HEADER.size + HEADER.unpack(state[at:at + HEADER.size])[3]
        at = places[change[0] * len(places) // 100]
        end = at + HEADER.size + HEADER.unpack(state[at:at + HEADER.size])[3]
        return with_payload(message, state[:at] + change[1](state[at:end]) + state[end:])
    return edit


LOADS = [("of a later version", lambda r: r[:4] + struct.pack("<H", 99) + r[6:]), ("unknown", lambda r: b"WHAT" + r[4:]),
         ("too short", lambda r: with_payload(r, r[HEADER.size:-1])), ("missing", lambda r: b""), ("twice", lambda r: r + r)]
for what, f in LOADS:
    for percent in (0, 20, 40, 60, 80, 99):
        if what in ("too short",) and percent == 0:
            continue
        CASES.append(Case(23, f"load fails: a record is {what}", f"up:MACH, at {percent} %", "S",
                          edit_fault("up:MACH", record_in_state((percent, f)))))


# --- 24: the log was read, and then .. ---

for at in ("down:ROUN", "up:ROUN>PAGE", "down:ROUN:2", "up:PAGE<MACH", "up:MACH"):
    for who, f in (("link cut", lambda p: p.b.wire.cut()), ("verb killed", kill_verb)):
        CASES.append(Case(24, f"dirty log read, then {who}", at, "S", while_held(at, f, "S")))


# --- 21: on its way at the pause ---

def in_guest(host, script):
    status, out, err = host.place.run("exec", "web", "sh", "-c", script)
    assert status == 0, err
    return out.strip()


WRITER = """
n=0
while :; do
    yes "block $n" | head -c 4096 | dd of=/dev/vda bs=4096 seek=$((n % 2048)) count=1 iflag=fullblock oflag=direct conv=notrunc 2>/dev/null
    [ "$(dd if=/dev/vda bs=4096 skip=$((n % 2048)) count=1 iflag=direct 2>/dev/null | head -n 1)" = "block $n" ] || echo $n >>/tmp/wrong
    echo $n >/tmp/new && mv /tmp/new /tmp/done
    n=$((n + 1))
done
"""


@case(21, "disk I/O in flight", "6 migrations of Debian's kernel", "D")
def disk_in_flight(place):
    if not LINUX:
        raise Skip("no default guest: TRAPEZE_GUEST is not set")
    disk = os.path.join(place.path, "disk.img")
    with open(disk, "wb") as f:
        f.truncate(8 << 20)
    hosts = [Host(place), Host()]
    place.good("run", "-d", "--name", "web", "--kernel", LINUX, "--initrd", os.path.join(os.path.dirname(LINUX), "initrd.cpio"),
               "--memory", "192M", "--cpus", "2", "--disk", disk, "--append", "console=ttyS0 quiet panic=-1")
    place.until(lambda: place.run("exec", "web", "true")[0] == 0, "the agent")
    for i in range(2):
        in_guest(hosts[0], f"cat >/tmp/work{i} <<'END'\n{WRITER}\nEND\n")
    in_guest(hosts[0], "sh /tmp/work0 >/dev/null 2>&1 &")
    last = -1
    for hop in range(6):
        here, there = hosts[hop % 2], hosts[1 - hop % 2]
        place.until(lambda: int(in_guest(here, "cat /tmp/done || echo -1")) > last + 3, "blocks to be written")
        status, _, err = here.place.run("migrate", "web", there.to, "--verify", *QUICK, timeout=3 * PATIENCE)
        assert status == 0, err
        here.place.good("rm", "web")
        assert not in_guest(there, "cat /tmp/wrong 2>/dev/null; true")
        last = int(in_guest(there, "cat /tmp/done"))
    place.until(lambda: int(in_guest(hosts[0], "cat /tmp/done")) > last + 3, "blocks to be written")
    hosts[0].place.good("kill", "web")
    with open(disk, "rb") as f:
        data = f.read()
    for n in range(min(last, 2048)):  # each is there whole, in its place
        assert data[4096 * n:4096 * n + 4096] == (f"block {n}\n" * 4096).encode()[:4096] or last >= 2048, f"block {n}"
    for host in reversed(hosts):
        host.end()
    return "D"


@case(21, "interrupts in flight", "20 migrations of a guest that counts them", "D")
def interrupts_in_flight(place):
    t = Table(place)
    for hop in range(20):
        status, _, err = t.here().place.run("migrate", "web", t.there().to, *QUICK)
        assert status == 0, err
        assert t.settle() == "D"
    t.end()
    return "D"


# --- 22: what a host has no more ---

def sweep_numbers():
    n = 1
    while n < 3000:
        yield n
        n = n + 1 if n < 10 else n + n // 3


def sweep(side, comm, call, code, name="", options=QUICK, keys=""):
    """The first such call of a migration fails, then the second instead, and so on until there are no more."""
    def run(place):
        p, times = None, 0
        for n in sweep_numbers():
            if not p:
                target = Place()
                inject = Inject(place if side == "source" else target)
                p = Pair(place, target=target)
                if keys:
                    p.a.type(keys).close()
            inject.arm(call, code, n, name=name, comm=comm)
            status, _, err = p.migrate(*options)
            fired = inject.disarm()
            times += fired
            seen = p.outcome()
            assert seen in ("S", "D"), f"call {n}: {seen}: {err}"
            assert seen == "S" or p.a.place.run("rm", "web")[0] in (0, 1)
            assert (status == 0) == (seen == "D"), f"call {n}: {seen}, but status {status}: {err}"
            assert status == 0 or err.startswith("trapeze: "), f"call {n}: {err!r}"
            at_d = seen == "D"
            (p.b if at_d else p.a).place.until(lambda: len((p.b if at_d else p.a).printed()) > 0, "a word")
            if at_d:
                for key in ("LD_PRELOAD", "INJECT"):
                    place.env.pop(key, None)
                p.end()
                p = None
                if not fired:
                    break
        assert times, "no such call"
        if p:
            p.end()
        return "S"
    return run


SWEEPS = [("source", "trapeze", ["open:EMFILE", "mmap:ENOMEM", "malloc:ENOMEM", "realloc:ENOMEM", "fork:EAGAIN", "pipe:EMFILE", "socket:EMFILE"]),
          ("source", "trapeze-keeper", ["write:ENOSPC:handover", "write:EIO:handover", "sync:EIO:handover", "malloc:ENOMEM", "realloc:ENOMEM"]),
          ("source", "trapeze-cell", ["malloc:ENOMEM", "realloc:ENOMEM"]),
          ("target", "trapeze", ["open:EMFILE", "open:ENOSPC", "write:ENOSPC", "sync:EIO", "mmap:ENOMEM", "memfd_create:EMFILE",
                                 "ftruncate:ENOSPC", "malloc:ENOMEM", "realloc:ENOMEM", "fork:EAGAIN", "pipe:EMFILE", "socket:EMFILE"]),
          ("target", "trapeze-keeper", ["open:ENOSPC", "write:ENOSPC:handover", "sync:EIO:handover", "mmap:ENOMEM", "malloc:ENOMEM",
                                        "realloc:ENOMEM", "memfd_create:EMFILE", "fork:EAGAIN", "socket:EMFILE"]),
          ("target", "trapeze-cell", ["mmap:ENOMEM", "malloc:ENOMEM", "realloc:ENOMEM"])]
for side, comm, calls in SWEEPS:
    for words in calls:
        call, code, name = (words + ":").split(":")[:3]
        row = 23 if (side, comm) == ("source", "trapeze-cell") else 22
        fault = f"save fails: {code} in the {side}'s cell" if row == 23 else f"{code} in the {side}'s {comm}"
        CASES.append(Case(row, fault, f"each {call}{' of ' + name if name else ''}", "S", sweep(side, comm, call, getattr(errno, code), name)))


# Likewise while pages come later. What fails behind the commit is tried again by another connection.
PAGED = ("--bandwidth", "40M", "--no-compression", "--downtime", "10ms", "--postcopy", "--verify")
for side, comm, words in (("target", "trapeze", "malloc:ENOMEM"), ("target", "trapeze", "mmap:ENOMEM"), ("target", "trapeze", "open:EMFILE"),
                          ("target", "trapeze-keeper", "write:ENOSPC:handover"), ("target", "trapeze-keeper", "sync:EIO:handover"),
                          ("target", "trapeze-keeper", "malloc:ENOMEM"), ("source", "trapeze", "mmap:ENOMEM"), ("source", "trapeze", "socket:EMFILE"),
                          ("source", "trapeze-keeper", "malloc:ENOMEM"), ("source", "trapeze-keeper", "sync:EIO:handover")):
    call, code, name = (words + ":").split(":")[:3]
    CASES.append(Case(22, f"post-copy: {code} in the {side}'s {comm}", f"each {call}{' of ' + name if name else ''}", "S",
                      sweep(side, comm, call, getattr(errno, code), name, PAGED, "f")))


# --- 25: clocks ---

def other_clock(expected, wall=0, rate=0, prefix=(), names=(), cpus=2):
    def run(place):
        target = Place()
        if wall or rate:
            Inject(target).clocks(wall, rate)
        if prefix and subprocess.run([*prefix, "true"], stderr=subprocess.DEVNULL).returncode:
            raise Skip("no time namespaces here")
        p = Pair(place, target=target, cpus=cpus)
        p.trail = Trail(CLOCK_BACK + max(0, -wall))  # the real-time clock is the host's
        if prefix:
            p.b.stop_receiver()
            p.b.listen(*p.b.options, prefix=prefix)
        status, _, err = p.migrate(*QUICK)
        seen = p.outcome()
        assert seen == expected and (status == 0) == (seen == "D") and all(n in err for n in names), (seen, err)
        p.goes_on()
        p.end()
        return seen
    return run


@case(25, "target's TSC has another frequency", "load", "S")
def other_frequency(place):
    """Refused: a guest's TSC is not scaled."""
    target = Place()
    inject = Inject(target)
    inject.clocks(0, rate=900000)
    p = Pair(place, target=target)
    status, _, err = p.migrate(*QUICK)
    if status == 0:
        raise Skip("this processor tells the frequency of its TSC, so none can be made up")
    assert "TSC" in err, err
    assert p.outcome() == "S"
    p.goes_on()
    inject.clocks(0)
    p.retry()
    p.end()
    return "S"


TIME = ["unshare", *([] if os.getuid() == 0 else ["-Ur"]), "--time", "--fork"]
for what, wall in (("an hour ahead", 3600), ("an hour behind", -3600)):
    CASES.append(Case(25, f"target's clock is {what}", "activation", "D", other_clock("D", wall=wall)))
for what, seconds in (("later", -600), ("ten days before", 864000)):
    CASES.append(Case(25, f"target was booted {what}", "activation", "D",
                      other_clock("D", prefix=[*TIME, "--monotonic", str(seconds)])))


# --- 27: TLS ---

def tls(ours, theirs, *names):
    def run(place):
        top = os.path.join(place.path, "tls")
        subprocess.run([os.environ["MAKE_CERTIFICATES"], top], check=True, stdout=subprocess.DEVNULL)
        options = [[] if who is None else ["--tls", os.path.join(top, who)] for who in (ours, theirs)]
        p = Pair(place, receive=("--lifetime", "5", *options[1]))
        watched = never_paused(p)
        status, _, err = p.migrate(*QUICK, *options[0])
        assert status != 0 and all(n in err for n in names), err
        assert states_seen(watched) == []
        assert p.outcome() == "S"
        p.goes_on()
        p.b.stop_receiver()
        p.b.listen("--tls", os.path.join(top, "two"))
        status, _, err = p.migrate(*QUICK, "--tls", os.path.join(top, "one"))
        assert status == 0 and p.outcome() == "D", err
        p.goes_on()
        p.end()
        return "S"
    return run


for what, ours, theirs, names in (
        ("source's certificate expired", "expired", "two", ["expired"]), ("target's certificate expired", "one", "expired", ["expired"]),
        ("source's of another CA", "stranger", "two", ["CA"]), ("target's of another CA", "one", "stranger", ["CA"]),
        ("target is another host", "one", "elsewhere", ["another host"]), ("plain text offered", None, "two", ["TLS"]),
        ("plain text wanted", "one", None, ["TLS"])):
    CASES.append(Case(27, what, "handshake", "S", tls(ours, theirs, *names)))


# --- 28: post-copy ---

# A guest that writes 5 MB again and again, over a link that takes as much in a second (PAGED): its last set is fetched when it runs there.
PAGING = ["up:SERV", "down:LACK", "up:GIVE", "up:GIVE:20", "down:WANT", "down:WANT:9"]


def lost_there(p, never_ran=False):
    """The guest ran there (or may not have come to that), and has ended for want of what its first host had."""
    p.b.place.until(lambda: p.b.states() == ["exited"] or (never_ran and not p.b.states()), "the end of the machine")
    for row in p.b.place.machines("-a"):
        assert "were lost with the host that it came from" in row["reason"], row
    p.a.place.until(lambda: p.a.states() in (["exited"], ["dead"]), "the source to know")
    p.end()
    return "gone"


def died_there(p):
    """As any machine does with its host. The source does not go on, nor keep what nobody wants any more."""
    p.b.place.until(lambda: p.b.states() in (["dead"], ["exited"]), "the end of the machine")
    p.a.place.until(lambda: p.a.states() == ["exited"], "the source to know")
    status, _, err = p.a.place.run("start", "web")
    assert status != 0 and "has moved to" in err, err
    p.end()
    return "gone"


def finish_paged(p, expected):
    ends = {"lost": lost_there, "died": died_there, "lost or never": lambda p: lost_there(p, True)}
    return ends[expected](p) if expected in ends else finish(p, expected)


def paged(where, action, expected="D", do=lambda p: None, after=lambda p: None, status=None):
    """`do` happens when the fault is there, `after` when what was held or swallowed comes."""
    def run(place):
        p = Pair(place, [f"{where if where.count(':') == 2 else where + ':1'}:{action}"])
        p.a.type("f").close()
        p.begin(*PAGED)
        p.fired()
        do(p)
        p.b.wire.heal()
        p.b.wire.release()
        after(p)
        if p.verb.poll() is None:
            assert p.verb.wait(2 * PATIENCE) == (p.verb.returncode if status is None else status), open(p.said).read()
        return finish_paged(p, expected)
    return run


def refuses(host, *words):
    status, _, err = host.place.run(*words)
    assert status != 0 and "still at the host that it came from" in err, (words, err)


def look_around(p):
    """The link is cut and the guest stands still for want of a page: what can be asked is answered, what can not is refused."""
    p.b.place.until(lambda: p.b.control({"do": "status"})[1].get("waits"), "the guest to want a page")
    p.never_two()
    assert p.a.states() == ["serving"], p.a.states()
    assert "lacks" in p.b.place.good("ps"), p.b.place.good("ps")
    refuses(p.b, "snapshot", "create", "web", "one")
    refuses(p.b, "suspend", "web")
    refuses(p.b, "migrate", "web", p.a.to)
    p.b.place.good("pause", "web")
    p.b.place.good("resume", "web")
    p.b.place.run("stats", "--no-stream", "web")
    status, _, err = p.a.place.run("stop", "web")
    assert status != 0 and "has not got all its memory yet" in err, err


def while_cut(p, seconds=3):
    look_around(p)
    for _ in range(2 * seconds):
        p.never_two()
        time.sleep(0.5)


def kill_all_askers(p):
    for pid in p.a.processes("trapeze-watcher"):
        kill(pid)
    kill_verb(p)
    p.verb.wait(PATIENCE)


def recovered(p):
    p.a.place.until(lambda: p.a.place.run("system", "recover")[0] == 0 and "serving" not in p.a.states(), "the recovery")


def sleep_paged(p):
    pids = [p.verb.pid, p.a.keeper(), p.a.cell(), *p.a.processes("trapeze-watcher")]
    for pid in pids:
        kill(pid, signal.SIGSTOP)
    p.b.wire.release()
    for _ in range(14):
        p.never_two()
        time.sleep(0.5)
    for pid in pids:
        kill(pid, signal.SIGCONT)


def paged_case(fault, where, expected, *args, **more):
    told = "gone" if expected in ("lost", "died", "lost or never") else expected
    CASES.append(Case(28, "post-copy: " + fault, where, told, paged(where, *args, expected=expected, **more)))


for at in PAGING:
    for action in ("cut", "cut-after", "truncate", "flip"):
        paged_case(f"link reset or damaged ({action})", at, "D", action, status=0)
    paged_case("source's verb killed", at, "D", "hold", do=kill_verb)
    paged_case("called off", at, "D", "hold", do=interrupt, status=0)
    paged_case("pager killed", at, "D", "hold", do=kill_receiver, status=0)
    paged_case("source's keeper killed", at, "D", "hold", do=kill_source_keeper, status=0)
    paged_case("source's cell killed", at, "D", "hold", do=kill_source_cell, status=0)
    paged_case("source's verb and watcher killed", at, "D", "hold", do=kill_all_askers, after=recovered)
    paged_case("source's host killed", at, "lost", "hold", do=kill_source_host, after=restart_source)
for at in ("up:GIVE", "down:WANT:9", "up:GIVE:20"):
    paged_case("black hole", at, "D", "hole", do=while_cut)
    paged_case("black hole", at, "D", "hole-after", do=while_cut)
for at in ("down:RUNS", "up:DONE", "down:FULL"):
    for action in ("cut", "cut-after", "drop", "hole"):
        paged_case(f"link fails ({action})", at, "D", action)
for at in ("up:GIVE", "up:GIVE:20", "down:WANT", "down:LACK", "up:SERV"):
    paged_case("message lost", at, "D", "drop")
for at in ("up:GIVE", "up:GIVE:20", "down:LACK", "down:WANT"):
    paged_case("bit flipped, checksum mended", at, "D", "mend=5000" if "GIVE" in at else "mend=20")
    paged_case("message doubled", at, "D", "double")
for who, f in (("keeper", kill_target_keeper), ("cell", kill_target_cell), ("host", kill_target_host)):
    paged_case(f"target's {who} killed", "up:GIVE:9", "died", "hold", do=f)
paged_case("source wakes from SIGSTOP", "up:GIVE", "D", "hold", do=sleep_paged)
for who, f in (("keeper", kill_source_keeper), ("verb", kill_verb)):
    paged_case(f"source's {who} killed", "down:RUNS", "D", "hold", do=f)
    paged_case(f"source's {who} killed", "up:COMT", "D", "hold", do=f)
# The record says that pages are missing which nobody has: it is not committed any more.
paged_case("source's host killed", "up:COMT", "lost or never", "hold", do=kill_source_host, after=restart_source)
paged_case("source's host killed", "down:RUNS", "lost", "hold", do=kill_source_host, after=restart_source)
for at in ("up:ABSN", "up:MACH", "down:REDY"):
    paged_case("link reset before the commit", at, "S", "cut")
    paged_case("source's verb killed before the commit", at, "S", "hold", do=kill_verb)
    paged_case("target's keeper killed before the commit", at, "S", "hold", do=kill_target_keeper)


@case(28, "post-copy: link cut three times", "random pages, digests equal", "D")
def cut_three_times(place):
    rng = random.Random(SEED)
    p = Pair(place, [f"up:GIVE:{n}:cut" for n in sorted(rng.sample(range(2, 24), 3))])
    p.a.type("f").close()
    status, _, err = p.migrate(*PAGED)
    assert status == 0, err
    assert len(p.b.wire.fired) == 3, p.b.wire.fired
    return finish(p, "D")


def lies(fault, where, change, expected, options):
    """What the other side says of pages is not so."""
    @case(15, "hostile (" + fault + ")", where, expected)
    def run(place):
        p = Pair(place, [where + ":1:edit"], edit=edited(change))
        if options is PAGED:
            p.a.type("f").close()
        status, _, err = p.migrate(*options)
        assert p.b.wire.fired, "did not happen"
        assert (status == 0) == (expected == "D"), err
        return finish(p, expected)


lies("pages are lacking though none were named", "down:RUNS", lambda j: j.update(lacks=True), "D", QUICK)
lies("post-copy was not asked for", "up:HELO", lambda j: j.pop("postcopy"), "S", PAGED)
lies("post-copy was asked for", "up:HELO", lambda j: j.update(postcopy=True), "D", QUICK)
lies("pages for another machine", "up:SERV", lambda j: j.update(id="0" * 32), "D", PAGED)


@case(28, "post-copy: over TLS", "all of it", "D")
def paged_over_tls(place):
    top = os.path.join(place.path, "tls")
    subprocess.run([os.environ["MAKE_CERTIFICATES"], top], check=True, stdout=subprocess.DEVNULL)
    p = Pair(place, receive=("--lifetime", "5", "--tls", os.path.join(top, "two")))
    p.a.type("f").close()
    status, out, err = p.migrate(*PAGED, "--tls", os.path.join(top, "one"), "--format", "json")
    assert status == 0 and json.loads(out.splitlines()[-1])["postcopy_pages"] > 0, (out, err)
    seen = p.outcome()
    p.goes_on()
    p.end()
    return seen


def ends_paging(key, why):
    def do(p):
        p.b.type(key).close()
        p.b.wire.release()

    def run(place):
        p = Pair(place, ["up:GIVE:9:hold"])
        p.a.type("f").close()
        p.begin(*PAGED)
        p.fired()
        do(p)
        assert p.verb.wait(PATIENCE) == 0
        if key == "r":
            seen = p.outcome()
            assert seen == "D", seen
            p.b.place.until(lambda: p.b.printed().count("START") == 1 and "T " in p.b.printed().split("START")[1], "the guest to begin anew")
            p.end()
            return seen
        p.b.place.until(lambda: p.b.states() == ["exited"], "the end of the guest")
        assert why in json.dumps(p.b.place.machines("-a")[0])
        assert p.a.states() == ["exited"]
        p.end()
        return "gone"
    return run


CASES.append(Case(28, "post-copy: guest reboots while pages are lacking", "up:GIVE:9", "D", ends_paging("r", "")))
CASES.append(Case(28, "post-copy: guest powers off while pages are lacking", "up:GIVE:9", "gone", ends_paging("p", "power off")))

# --- 29, 30: snapshots ---

def of_snapshots(f, **more):
    def run(place):
        for name, value in more.items():
            setattr(snapshot, name, value)
        f(place)
        for m in place.machines("-a"):
            place.good("rm", "-f", m["name"])
        return "S"
    return run


CASES.append(Case(29, "snapshot torn, short, flipped", "28 places", "S", of_snapshots(snapshot.damage_is_found)))
CASES.append(Case(29, "verb killed while it writes", "20 moments", "S", of_snapshots(snapshot.verbs_that_are_killed, KILLS=20)))


def full_disk(call, code):
    @case(29, f"{code} while it is written", f"each {call}", "S")
    def run(place):
        inject, times = Inject(place), 0
        place.good(*place.guest("i", "-d", "--name", "web"))
        place.until(lambda: place.good("logs", "web"), "the guest's first output")
        place.good("snapshot", "create", "web", "old")
        for n in sweep_numbers():
            inject.arm(call, getattr(errno, code), n, comm="trapeze")
            status, _, err = place.run("snapshot", "create", "web", "new")
            fired = inject.disarm()
            times += fired
            states = [m["state"] for m in place.machines()]
            assert states == ["running"], (n, states, err)
            tags = [r["tag"] for r in json.loads(place.good("snapshot", "list", "--format", "json", "web"))]
            assert "old" in tags and (status or "new" in tags), (n, tags, err)
            if "new" in tags:  # that of the directory's last sync is known when it is there
                place.good("snapshot", "rm", "web", "new")
            if not fired:
                break
        assert times, "no such call"
        place.good("snapshot", "restore", "-f", "web", "old")
        place.good("rm", "-f", "web")
        return "S"


for call, code in (("write", "ENOSPC"), ("sync", "EIO"), ("open", "EMFILE"), ("malloc", "ENOMEM")):
    full_disk(call, code)


@case(30, "one snapshot started twice", "while its machine runs", "S")
def started_twice(place):
    place.good(*place.guest("i", "-d", "--name", "web"))
    place.good("snapshot", "create", "web", "one")
    status, _, err = place.run("snapshot", "restore", "web", "one")
    assert status != 0 and "it runs" in err, err
    assert [m["state"] for m in place.machines()] == ["running"]
    place.good("suspend", "web")
    first = [place.start("resume", "web", stderr=subprocess.DEVNULL) for _ in range(4)]
    assert 0 in [p.wait(PATIENCE) for p in first]
    assert [m["state"] for m in place.machines()] == ["running"]
    place.good("rm", "-f", "web")
    return "S"


# --- 31: there and back again ---

class Table:
    """Two hosts between which a machine goes to and fro."""

    def __init__(self, place):
        self.hosts = [Host(place, (), None, ("--lifetime", "3")), Host(None, (), None, ("--lifetime", "3"))]
        self.at, self.trail = 0, Trail()
        self.here().place.good("run", "-d", "--name", "web", "--kernel", WITNESS, "--memory", "16M", "--cpus", "2")
        self.here().place.until(lambda: "\nT " in self.here().printed(), "the guest's first token")

    def here(self):
        return self.hosts[self.at]

    def there(self):
        return self.hosts[1 - self.at]

    def states(self):
        return never_two(self.here(), self.there())

    def outcome(self):
        deadline = time.monotonic() + PATIENCE
        while True:
            here, there = self.states()
            if here == ["running"] and not there:
                return "S"
            if there == ["running"] and here in (["exited"], ["dead"], []):
                return "D"
            assert time.monotonic() < deadline, f"comes to nothing: {here} and {there}"
            time.sleep(0.05)

    def settle(self):
        """Where it is; what it has printed by then, and that it goes on."""
        seen = self.outcome()
        if seen == "D":
            self.trail.leaves(self.here())
            self.here().place.good("rm", "web")
            self.at = 1 - self.at
        before = self.trail.check(self.here())
        self.here().place.until(lambda: self.trail.check(self.here()) > before, "a token")
        return seen

    def end(self):
        for host in reversed(self.hosts):
            host.end()


def no_fault(t, verb, rng):
    return "D"


def at_message(direction_types, action, expected, do=lambda t, verb: None):
    """A fault of the wire, and something that is done once it is there."""
    def fault(t, verb, rng):
        at = rng.choice(direction_types)
        n = rng.choice((1, 1, 2, 5)) if at == "up:PAGE" else 1
        numbered = f"{at}:{action}" if at.count(":") == 2 else f"{at}:{n}:{action}"
        wire = t.there().wire
        fired = len(wire.fired)
        wire.rules.append(Rule(numbered))
        verb.start()
        t.here().place.until(lambda: len(wire.fired) > fired or verb.ended(), "the fault")
        do(t, verb)
        wire.release()
        return expected if len(wire.fired) > fired else "D"
    return fault


class Verb:
    def __init__(self, t, options=QUICK):
        self.t, self.process, self.options = t, None, options

    def start(self):
        self.process = self.t.here().place.start("migrate", "web", self.t.there().to, *self.options, stdout=subprocess.DEVNULL,
                                                 stderr=subprocess.DEVNULL)

    def ended(self):
        return self.process.poll() is not None


def hole_for(seconds):
    def do(t, verb):
        t.states()
        time.sleep(seconds)
        t.there().wire.heal()
    return do


def renew_receiver(t, verb):
    t.there().kill_receiver()
    t.there().listen(*t.there().options)


def sleep_a_while(t, verb):
    pids = [verb.process.pid, t.here().keeper(), t.here().cell()]
    for pid in pids:
        kill(pid, signal.SIGSTOP)
    t.there().wire.release()
    t.states()
    time.sleep(0.3)
    for pid in pids:
        kill(pid, signal.SIGCONT)


SAFE = ["up:HELO", "down:OKAY", "up:TRPZ", "up:CONF", "up:PAGE", "up:ROUN", "down:ROUN", "up:MACH", "up:DGST"]
COMMITTED = ["up:COMT", "down:RUNS"]
RANDOM = [(16, no_fault), (4, at_message(SAFE, "cut", "S")), (2, at_message(SAFE, "cut-after", "S")), (2, at_message(SAFE, "truncate", "S")),
          (3, at_message(SAFE, "flip", "S")), (2, at_message(["up:PAGE"], "mend=3000", "S/D")), (1, at_message(["up:MACH"], "mend=3000", "S")),
          (2, at_message(["up:TEND", "down:REDY"], "cut-after", "S/D")), (3, at_message([*COMMITTED, "up:DONE"], "cut", "D")),
          (2, at_message(COMMITTED, "cut-after", "D")), (2, at_message(COMMITTED, "truncate", "D")),
          (2, at_message(COMMITTED, "double", "D")), (1, at_message(COMMITTED, "hole", "D", hole_for(0.5))),
          (1, at_message(COMMITTED, "hole-after", "D", hole_for(0.5))), (1, at_message(SAFE, "hole", "S/D", hole_for(0.3))),
          (2, at_message(SAFE, "hold", "S", lambda t, verb: verb.process.kill())),
          (2, at_message(COMMITTED, "hold", "D", lambda t, verb: verb.process.kill())),
          (2, at_message(SAFE[2:], "hold", "S", lambda t, verb: verb.process.send_signal(signal.SIGINT))),
          (1, at_message(SAFE, "hold", "S", renew_receiver)), (1, at_message(COMMITTED, "hold", "D", renew_receiver)),
          (1, at_message(SAFE[2:], "hold", "S", lambda t, verb: kill(t.there().keeper()))),
          (1, at_message(["up:COMT"], "hold", "S", lambda t, verb: kill(t.there().keeper()))),
          (2, at_message(COMMITTED, "hold", "D", lambda t, verb: kill(t.here().keeper()))),
          (1, at_message([*SAFE, *COMMITTED], "hold", "D", sleep_a_while))]


# With post-copy, of a guest that outruns the link.
LATER = ["up:SERV", "down:LACK", "up:GIVE", "up:GIVE:3", "up:GIVE:9", "down:WANT"]
RANDOM_PAGED = [(6, no_fault), (3, at_message(LATER, "cut", "D")), (2, at_message(LATER, "cut-after", "D")), (2, at_message(LATER, "truncate", "D")),
                (2, at_message(LATER, "flip", "D")), (1, at_message(["up:GIVE"], "mend=3000", "D")), (2, at_message([*COMMITTED, "up:DONE", "down:FULL"], "cut", "D")),
                (1, at_message(LATER, "hole", "D", hole_for(0.5))), (1, at_message(SAFE, "cut", "S")),
                (2, at_message(LATER, "hold", "D", lambda t, verb: verb.process.kill())),
                (1, at_message(COMMITTED, "hold", "D", lambda t, verb: verb.process.kill())),
                (2, at_message(LATER, "hold", "D", renew_receiver)), (2, at_message(LATER, "hold", "D", lambda t, verb: kill(t.here().keeper()))),
                (1, at_message(LATER, "hold", "D", sleep_a_while))]


def ping_pong(steps, seed, faults=RANDOM, options=QUICK, keys=""):
    def run(place):
        rng, t, seen = random.Random(seed), Table(place), {}
        if keys:
            t.here().type(keys).close()
        for step in range(steps):
            fault = rng.choices([f for _, f in faults], [w for w, _ in faults])[0]
            verb = Verb(t, options)
            try:
                t.there().wire.rules.clear()
                expected = fault(t, verb, rng)
                if not verb.process:
                    verb.start()
                verb.process.wait(PATIENCE)
                got = t.settle()
            except Exception as e:
                raise AssertionError(f"step {step} of seed {seed}: {t.there().wire.fired[-1:]}: {e}") from e
            assert got in expected.split("/"), f"step {step} of seed {seed}: {t.hosts[0].wire.fired[-1:]} {t.hosts[1].wire.fired[-1:]}: {got}, not {expected}"
            seen[got] = seen.get(got, 0) + 1
        t.end()
        return f"{seen.get('D', 0)} D, {seen.get('S', 0)} S"
    return run


def ping_pongs(steps, parts, seed):
    return [Case(31, "random fault", f"{steps // parts} ping-pongs, seed {seed + i}", "S/D", ping_pong(steps // parts, seed + i))
            for i in range(parts)]


CASES += ping_pongs(1000, 10, SEED)
CASES += [Case(31, "random fault, post-copy", f"20 ping-pongs, seed {SEED + i}", "S/D", ping_pong(20, SEED + i, RANDOM_PAGED, PAGED, "f")) for i in range(4)]

# --- the checker sees ---

def memory_of(pid):
    """The memfd of a machine's memory among a process's descriptors."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        if "memfd:trapeze-ram" in os.readlink(f"/proc/{pid}/fd/{fd}"):
            return os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR)
    raise AssertionError(f"process {pid} has no guest memory")


AREA = 0x400000  # tests/guests/witness.c


def one_bit(old, now):
    return now[:2000] + bytes([now[2000] ^ 4]) + now[2001:]


def stale(old, now):
    return old


def elsewhere(old, now):
    return now[4096:] + now[:4096]


def planted(change, word):
    """Change what lies in the target's memory before it runs: the guest has to tell."""
    def run(place):
        p = Pair(place, ["up:PAGE:1:hold", "down:REDY:1:hold"])
        p.begin(*QUICK)
        p.fired()
        source = memory_of(p.a.keeper())
        old = os.pread(source, 8192, AREA)
        p.a.place.until(lambda: os.pread(source, 8192, AREA)[16:24] != old[16:24], "the page to be written again")
        p.b.wire.release()
        p.a.place.until(lambda: len(p.b.wire.fired) == 2, "all of it to be there")
        target = memory_of(p.b.keeper())
        now = os.pread(target, 8192, AREA)
        os.pwrite(target, change(old, now), AREA)
        os.close(source)
        os.close(target)
        p.b.wire.release()
        assert p.verb.wait(PATIENCE) == 0
        p.b.place.until(lambda: "BAD" in p.b.printed(), "the guest's complaint")
        line = [x for x in p.b.printed().split("\n") if "BAD" in x][0]
        assert word in line, line
        try:
            p.trail.check(p.a, p.b)
        except AssertionError:
            p.end()
            return "told"
        raise AssertionError("the checker has not seen it")
    return run


CASES.append(Case("checker", "a bit planted in the target's memory", "before activation", "told", planted(one_bit, "page's word")))
CASES.append(Case("checker", "a page planted that is of before", "before activation", "told", planted(stale, "page's sequence")))
CASES.append(Case("checker", "two pages planted that have changed places", "before activation", "told", planted(elsewhere, "page's address")))


@case("checker", "one machine run twice", "from one snapshot", "told")
def run_twice(place):
    """Both go on from the same token: that has to be seen."""
    a = Host(place)
    place.good("run", "-d", "--name", "web", "--kernel", WITNESS, "--memory", "16M", "--cpus", "2")
    place.until(lambda: "\nT " in a.printed(), "the guest's first token")
    place.good("snapshot", "create", "web", "one")
    place.until(lambda: Tokens().feed(a.printed()).number() > 100, "tokens")
    trail = Trail()
    trail.leaves(a)
    place.good("snapshot", "restore", "-f", "web", "one")
    try:
        place.until(lambda: trail.check(a) < 0, "what must be seen")
    except AssertionError as e:
        assert "comes twice" in str(e) or "not a token" in str(e), e
        place.good("rm", "-f", "web")
        a.end()
        return "told"
    raise AssertionError("nobody has seen it")


# --- the table ---

TEXT = {1: "destination absent, too small, other features, version or device, name taken", 2: "destination's disk",
        3: "destination killed before the commit", 4: "source killed before the commit", 5: "source killed behind its record",
        6: "destination killed behind the commit, before activation", 7: "destination killed after activation",
        8: "link reset before the commit", 9: "link black-holed before the commit", 10: '"complete image" lost',
        11: "commit or its acknowledgement lost, delayed, doubled", 12: "last word lost", 13: "partition heals late; source wakes",
        14: "bit flips", 15: "stream truncated, reordered, doubled, replayed, oversized, hostile", 16: "stale id, two senders, two targets",
        17: "dirty rate above bandwidth", 18: "bandwidth collapses in stop-and-copy", 19: "cancel", 20: "guest reboots or ends",
        21: "disk I/O or an interrupt in flight", 22: "ENOSPC, EIO, ENOMEM, EMFILE", 23: "a device's save or load fails",
        24: "dirty log read, then failure", 25: "other clocks, other TSC frequency", 26: "packets during handover", 27: "TLS",
        28: "post-copy: link cut", 29: "snapshot: crash, damage", 30: "one snapshot started twice", 31: "random ping-pongs, random faults"}


def run_case(c):
    """(seen, trouble or None)"""
    place = Place()
    try:
        seen = c.run(place)
        place.check_clean()
        return seen, None
    except Skip as reason:
        return "skipped", str(reason)
    except Exception:  # a failed test, whatever the reason
        return "FAILED", traceback.format_exc()
    finally:
        abandon()
        place.close()


def show_table(results):
    """Lines of one row and fault become one; where they differ in what was seen, all is told."""
    lines = {}
    for c, seen in results:
        lines.setdefault((c.row, c.fault, c.expected), []).append((c.where, seen))
    print("| # | fault | where | expected | seen |")
    print("|---|---|---|---|---|")
    for (row, fault, expected), cases in sorted(lines.items(), key=lambda kv: (str(kv[0][0]).rjust(9, "0") if kv[0][0] != "checker" else "x", kv[0][1:])):
        seen = {}
        for _, s in cases:
            for n, what in re.findall(r"(\d+) (\S+?)(?:,|$)", s) or [(1, s)]:
                seen[what] = seen.get(what, 0) + int(n)
        where = cases[0][0] if len(cases) == 1 else f"{len(cases)} places"
        print(f"| {row} | {fault} | {where} | {expected} | {', '.join(f'{n} {s}' for s, n in sorted(seen.items()))} |")
    for row, what in NOT_YET.items():
        print(f"| {row} | {what} | | | not there yet |")


SLOW = re.compile(r"^(9|13|18|21|22|29|31) |hole|drop|swap|delay|outruns|down:ROUN double|OKAY double|stalls|ROUN double|SIGSTOP|"
                  r"REDY flip|message lost|double: (up:HELO|down)|verb killed: (up:TEND|down:REDY)")


def sample(seed, more):
    """One case of each row, and so many more, of those that do not wait for a time-out."""
    rng = random.Random(seed)
    fast = [c for c in CASES if not SLOW.search(c.name)]
    chosen = [rng.choice([c for c in fast if c.row == row]) for row in dict.fromkeys(c.row for c in fast)]
    return chosen + rng.sample([c for c in fast if c not in chosen], more)


def run_table(cases, jobs, table=True):
    """All of them, `jobs` at a time; the exit status."""
    results, bad, lock = [], 0, threading.Lock()
    print(f"1..{len(cases)}", flush=True)
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(run_case, c): c for c in cases}
        for n, future in enumerate(concurrent.futures.as_completed(running), 1):
            c, (seen, trouble) = running[future], future.result()
            with lock:
                results.append((c, seen))
                if seen == "skipped":
                    print(f"ok {n} - {c.name} # SKIP {trouble}", flush=True)
                    continue
                bad += seen == "FAILED"
                print(f"{'not ok' if trouble else 'ok'} {n} - {c.name}: {seen}", flush=True)
                if trouble:
                    print("".join("# " + line + "\n" for line in trouble.splitlines()), end="", flush=True)
    if table:
        show_table(results)
    return 1 if bad else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2 * (os.cpu_count() or 1))
    parser.add_argument("--list", action="store_true", help="names only")
    parser.add_argument("words", nargs="*")
    o = parser.parse_args()
    chosen = [c for c in CASES if not o.words or any(re.search(w, c.name) for w in o.words)]
    if o.list:
        print("\n".join(f"{c.name}: {c.expected}" for c in chosen))
        return 0
    return run_table(chosen, o.jobs)


if __name__ == "__main__":
    sys.exit(main())
