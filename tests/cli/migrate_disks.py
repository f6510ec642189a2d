#!/usr/bin/env python3
"""migrate_disks.py check|all [WORD..]: `trapeze migrate --with-disks`. `check` has a sample of the faults; with words, cases that have one. What a guest wrote while it moved is in the target's new file, block for
block, and an attempt that fails leaves nothing there. The hosts are two state directories, a wire
with faults between them.
"""
import errno
import fcntl
import hashlib
import json
import os
import random
import re
import signal
import struct
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../migrate"))
import migrate_table as table
from harness import LINUX, PATIENCE, Place, Skip
from inject import Inject
from migrate_table import Case, edited
from two_hosts import Host, Pair
from wire import Rule

BLOCK, PIECE, MIB = 65536, 4096, 1 << 20
QUICK = ("--with-disks", "--downtime", "2s", "--stop-if-not-converging")
F_OFD_SETLK = 37
CASES = []


def case(name, expected, where, *arguments):
    def add(f):
        CASES.append(Case("disks:", name, where, expected, lambda place: f(place, where, *arguments)))
        return f
    return add


# --- disks ---

def image(folder, name="disk.img", size=8 * MIB + 512, seed=1):
    """Data, holes, zeros that are none, and a last block that is short."""
    rng = random.Random(seed)
    path = os.path.join(folder, name)
    with open(path, "wb") as f:
        f.truncate(size)
        for at in range(0, size, 5 * BLOCK):
            f.seek(at)
            f.write(rng.randbytes(min(2 * BLOCK, size - at)))
        f.seek(3 * BLOCK)
        f.write(bytes(BLOCK))
        f.seek(13 * BLOCK + PIECE)
        f.write(b"text that can be packed " * 1000)
        f.seek(size - 512)
        f.write(b"the end".ljust(512, b"."))
    return path


def read(path):
    with open(path, "rb") as f:
        return f.read()


def digest(path):
    return hashlib.sha256(read(path)).hexdigest()


def is_locked(path):
    """Whether a machine has it, for writing."""
    with open(path, "r+b") as f:
        try:
            fcntl.fcntl(f, F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        except (BlockingIOError, PermissionError):
            return True
    return False


def disks_of(host, name="web"):
    return [d["file"] for d in json.loads(host.place.good("inspect", name))["config"]["disks"]]


class Mirrored:
    """A witness with two disks, the second read-only; where they go, a directory of the target's or the machine's own."""

    def __init__(self, place, rules=(), edit=None, own=False, receive=("--lifetime", "5"), target=None):
        self.images = [image(place.path), image(place.path, "second.raw", 3 * MIB, 2)]
        self.before = [digest(i) for i in self.images]
        self.folder = os.path.join(place.path, "taken")
        os.mkdir(self.folder)
        options = receive if own else (*receive, "--disk-dir", self.folder)
        self.pair = Pair(place, rules, edit, options, run=("--disk", self.images[0], "--disk", self.images[1] + ",readonly"),
                         target=target)

    def made(self):
        """Files of disks at the target, wherever they may be."""
        found = [os.path.join(self.folder, f) for f in os.listdir(self.folder)]
        for where, _, files in os.walk(os.path.join(self.pair.b.place.path, "trapeze")):
            found += [os.path.join(where, f) for f in files if f.endswith(".raw")]
        return sorted(found)

    def check_source(self, locked):
        assert [digest(i) for i in self.images] == self.before, "the source's disks were changed"
        assert is_locked(self.images[0]) == locked, f"the source's disk is {'not ' if locked else ''}locked"

    def check_s(self):
        self.pair.a.place.until(lambda: not self.made(), "the end of the files at the target")
        self.check_source(True)

    def check_d(self):
        """Two disks, each the same as there, sparse, and locked by who runs the machine."""
        files = disks_of(self.pair.b)
        assert sorted(files) == self.made(), (files, self.made())
        for was, now in zip(self.images, files):
            assert digest(was) == digest(now), f"{now} is not {was}"
            assert os.stat(now).st_blocks <= os.stat(was).st_blocks + 2 * BLOCK // 512, "its holes are gone"
            assert os.stat(now).st_mode & 0o777 == 0o600
        assert is_locked(files[0])
        self.check_source(False)

    def finish(self, expected):
        p = self.pair
        seen = p.outcome()
        assert seen in expected.split("/"), f"{seen}, not {expected}"
        p.goes_on()
        if seen == "S":
            self.check_s()
            p.b.wire.rules.clear()
            p.b.wire.edit = lambda record: record
            status, _, err = p.migrate(*QUICK, "--verify")
            assert status == 0 and p.outcome() == "D", err
            p.goes_on()
        self.check_d()
        p.end()
        return seen


# --- they go along ---

@case("they go along", "D", "machine's directory", True)
@case("they go along", "D", "given directory", False)
def go_along(place, _, own):
    m = Mirrored(place, own=own)
    status, out, err = m.pair.migrate("--with-disks", "--dry-run", "--format", "json")
    assert status == 0, err
    said = json.loads(out.splitlines()[-1])
    taken = sum(os.stat(i).st_blocks * 512 for i in m.images)  # what a file takes behind its end is no data
    assert taken - 2 * BLOCK < said["disk_bytes"] <= taken, (said, taken)
    status, out, err = m.pair.migrate("--with-disks", "--dry-run")
    assert status == 0 and "its disks have" in out, (out, err)
    assert not m.made()
    status, out, err = m.pair.migrate(*QUICK, "--format", "json")
    assert status == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    blocks = sum(len(read(i)[at:at + BLOCK].strip(b"\0")) > 0 for i in m.images for at in range(0, os.stat(i).st_size, BLOCK))
    assert (blocks - 2) * BLOCK < lines[-1]["disk_bytes"] <= blocks * BLOCK, (lines[-1], blocks)
    assert any(line["disk_sent_bytes"] == lines[-1]["disk_bytes"] for line in lines if line["event"] == "progress")
    seen = m.finish("D")
    left = m.made()
    assert len(left) == (0 if own else 2), left  # `rm` takes what lies with the machine, and nothing else
    return seen


# --- what fails leaves nothing ---

def broken(place, where, action):
    m = Mirrored(place, [f"{where}:1:{action}"])
    status, _, err = m.pair.migrate(*QUICK)
    assert m.pair.b.wire.fired, f"did not happen: {m.pair.b.wire.log}"
    seen = m.finish("S")
    assert status != 0 and err.startswith("trapeze: machine web: "), err
    return seen


for spot, what in [("up:HELO", "cut"), ("down:OKAY", "cut-after"), ("up:DBLK", "cut"), ("up:DBLK", "drop"), ("up:DBLK", "flip"), ("up:DBLK", "mend=200000"),
                 ("up:ROUN", "cut"), ("down:ROUN", "cut"), ("up:DSUM", "cut"), ("up:DSUM", "drop"), ("up:DSUM", "double"),
                 ("up:DSUM", "mend=200"), ("up:DGST", "cut"), ("up:TEND", "cut"), ("down:REDY", "cut"), ("down:REDY", "drop")]:
    case("a fault", "S", f"{spot} {what}", what)(lambda place, where, what: broken(place, where.split()[0], what))


def killed(place, where, who):
    """While that message is on its way."""
    m = Mirrored(place, [f"{where}:1:hold"])
    p = m.pair
    p.begin(*QUICK)
    p.fired()
    who(p)
    p.b.wire.release()
    p.verb.wait(PATIENCE)
    return m.finish("S")


@case("called off", "S", "up:DBLK")
def called_off(place, where):
    """Interrupt in the middle of a disk."""
    return killed(place, where, lambda p: p.verb.send_signal(signal.SIGINT))


for spot in ("up:DBLK", "up:DSUM"):
    for name in ("kill_receiver", "kill_target_keeper", "kill_target_host", "kill_verb"):
        case(f"{name[5:].replace('_', ' ')} killed", "S", spot)(lambda place, at, who=getattr(table, name): killed(place, at, who))


def hostile(place, where, change, *names):
    """The message says what can not be: the target tells which, and nothing of it is used."""
    m = Mirrored(place, [f"{where}:1:edit"], change)
    status, _, err = m.pair.migrate(*QUICK)
    said = err + m.pair.b.words()
    assert status != 0 and all(n in said for n in names), said
    return m.finish("S")


def with_disks(change):
    return edited(lambda j: change(j["with_disks"]))


def record(change):
    """The payload as a list of bytes."""
    def edit(data):
        payload = bytearray(data[table.HEADER.size:])
        change(payload)
        return table.with_payload(data, bytes(payload))
    return edit


def put(at, form, value):
    return record(lambda p: struct.pack_into(form, p, at, value))


HOSTILE = {
    "more disks than it has": ("up:HELO", with_disks(lambda d: d.append(d[0])), "other disks"),
    "no list of disks": ("up:HELO", edited(lambda j: j.update(with_disks={"0": 1})), "other disks"),
    "a disk of no sectors": ("up:HELO", with_disks(lambda d: d[0].update(bytes=513)), "has 513 bytes"),
    "a disk of negative size": ("up:HELO", with_disks(lambda d: d[0].update(bytes=-4096)), "has -4096 bytes"),
    "a disk larger than all": ("up:HELO", with_disks(lambda d: d[0].update(bytes=1 << 62)), "bytes; at most"),
    "a disk of text": ("up:HELO", with_disks(lambda d: d[0].update(bytes="many")), "has 0 bytes"),
    "no room for it": ("up:HELO", with_disks(lambda d: d[0].update(bytes=1 << 42, data=1 << 42)), "MiB are wanted"),
    "another size": ("up:HELO", with_disks(lambda d: d[0].update(bytes=d[0]["bytes"] + 512)), "disk"),
    "a disk that is not there": ("up:DBLK", put(0, "<I", 2), "disk 2, which was not announced"),
    "a disk far away": ("up:DBLK", put(0, "<I", 0xFFFFFFFF), "not announced"),
    "an encoding of later": ("up:DBLK", put(4, "<I", 2), "encoding 2"),
    "a block behind the end": ("up:DBLK", put(8, "<Q", 129), "block 129 of 129"),
    "a block that wraps": ("up:DBLK", put(8, "<Q", 1 << 48), "block 281474976710656"),
    "the short block, too long": ("up:DBLK", put(8, "<Q", 128), "that can not be"),
    "a block too short": ("up:DBLK", record(lambda p: p.__delitem__(slice(20, None))), "that can not be"),
    "a block without bytes": ("up:DBLK", record(lambda p: p.__delitem__(slice(16, None))), "DBLK of 16 bytes"),
    "a block too long": ("up:DBLK", record(lambda p: p.extend(bytes(BLOCK + 1))), "DBLK of"),
    "a digest of another size": ("up:DSUM", put(8, "<Q", 4096), "another size"),
}
for name, (spot, change, *names) in HOSTILE.items():
    case(name, "S", spot)(lambda place, at, change=change, names=names: hostile(place, at, change, *names))


@case("names of the peer's", "D", "up:HELO")
def names_of_the_peer(place, _):
    """Where the disks lie is the target's to say."""
    def change(j):
        for i, d in enumerate(j["machine"]["config"]["disks"]):
            d["file"] = ["/etc/passwd", "../../../../outside.img"][i]
    m = Mirrored(place, ["up:HELO:1:edit"], edited(change), own=True)
    before = read("/etc/passwd")
    status, _, err = m.pair.migrate(*QUICK)
    assert status == 0, err
    assert read("/etc/passwd") == before
    assert all(os.path.dirname(d) == m.pair.b.directory() for d in disks_of(m.pair.b)), disks_of(m.pair.b)
    return m.finish("D")


@case("a target of before", "S", "down:OKAY")
def target_of_before(place, _):
    """It takes no notice of disks that go along, and says nothing of them."""
    m = Mirrored(place, ["down:OKAY:1:edit"], edited(lambda j: j.pop("with_disks")))
    status, _, err = m.pair.migrate(*QUICK)
    assert status != 0 and "takes no disks; update it" in err, err
    return m.finish("S")


@case("no space", "S", "reservation", False)
@case("no space", "S", "up:DBLK", True)
def no_space(place, _, lies):
    """A file system of 2 MiB: found at once, or (the source says that it has less) when it is full; other machines are not touched."""
    edit = with_disks(lambda disks: [d.update(data=0) for d in disks])
    m = Mirrored(place, ["up:HELO:1:edit"] if lies else [], edit)
    mount = ["unshare", *([] if os.getuid() == 0 else ["-Ur"]), "-m", "sh", "-c",
             'mount -t tmpfs -o size=2m none "$0" && exec "$@"', m.folder]
    if subprocess.run([*mount, "true"], stderr=subprocess.DEVNULL).returncode:
        m.pair.end()
        raise Skip("no mount namespaces here")
    b = m.pair.b
    b.stop_receiver()
    b.listen("--lifetime", "5", "--disk-dir", m.folder, prefix=mount)
    status, _, err = m.pair.migrate(*QUICK)
    assert status != 0 and ("No space left" if lies else "MiB are wanted") in err + b.words(), err + b.words()
    assert m.pair.outcome() == "S"
    inside = f"/proc/{b.receiver.pid}/root{m.folder}"
    place.until(lambda: not os.listdir(inside), "the end of the files at the target")
    b.stop_receiver()
    b.listen("--lifetime", "5", "--disk-dir", m.folder)
    return m.finish("S")


def call_fails(place, where, comm):
    """The first such call of an attempt fails, in another the second, until one gets through."""
    side, what = where.split()
    call, code, name = (what + ":").split(":")[:3]
    target = Place()
    inject = Inject(place if side == "source" else target)
    m = Mirrored(place, own=True, target=target)
    times = 0
    for n in (1, 2, 3, 5, 9, 17, 33):
        inject.arm(call, getattr(errno, code), n, name=name, comm=comm)
        status, _, err = m.pair.migrate(*QUICK)
        fired = inject.disarm()
        times += fired
        seen = m.pair.outcome()
        assert (status == 0) == (seen == "D"), f"call {n}: {seen}, but status {status}: {err}"
        assert seen == "D" or fired, err
        if seen == "D":
            break
        m.check_s()
    assert times, "no such call"
    for key in ("LD_PRELOAD", "INJECT"):
        place.env.pop(key, None)
    return m.finish("S/D") and "S"


for spot, comm in [("target sync:EIO:disk-0.raw", "trapeze"), ("target write:EIO:disk-0.raw", "trapeze"), ("target open:EMFILE:disk-1.raw", "trapeze"),
                   ("target open:EMFILE:disk-1.raw", "trapeze-keeper"), ("target ftruncate:EFBIG", "trapeze"), ("target malloc:ENOMEM", "trapeze"),
                   ("source malloc:ENOMEM", "trapeze-keeper"), ("source open:EMFILE", "trapeze")]:
    case(f"{comm}'s call fails", "S", spot, comm)(call_fails)


# --- a guest that writes ---

WRITER = """
n=0
while [ ! -e /tmp/stop ]; do
    n=$((n + 1)); at=$((n * 37 % 1500))
    case $((n % 7)) in
    0) dd if=/dev/zero of=/dev/vda bs=4096 seek=$at count=1 conv=notrunc,fsync 2>/dev/null && echo $at 0 >>/tmp/log ;;
    3) at=$((at / 16 * 16)); blkdiscard -o $((at * 4096)) -l 65536 /dev/vda && echo $at d >>/tmp/log ;;
    *) printf %04096d $n | dd of=/dev/vda bs=4096 seek=$at conv=notrunc,fsync 2>/dev/null && echo $at $n >>/tmp/log ;;
    esac || echo failed >>/tmp/wrong
done
sync
touch /tmp/stopped
"""


def expected(log):
    """Each piece of the disk that was written, and what it is: by the last that was said of it."""
    pieces = {}
    for at, what in (line.split() for line in log.splitlines()):
        for i in range(int(at), int(at) + (16 if what == "d" else 1)):
            pieces[i] = bytes(PIECE) if what in "0d" else (b"%04096d" % int(what))
    return pieces


def lines(host):
    return int(host.place.good("exec", "web", "sh", "-c", "cat /tmp/log | wc -l"))


@case("a guest that writes", "D", "2 hops", 2)
def writes(place, _, hops):
    """All the way, to and fro: what it has written and flushed is in the file, and what it reads is what the file has."""
    if not LINUX:
        raise Skip("no default guest: TRAPEZE_GUEST is not set")
    disk = os.path.join(place.path, "disk.img")
    with open(disk, "wb") as f:
        f.truncate(48 * MIB)
        f.seek(16 * MIB)
        f.write(random.Random(3).randbytes(8 * MIB))
    a, b = Host(place), Host()
    initrd = os.path.join(os.path.dirname(LINUX), "initrd.cpio")
    place.good("run", "-d", "--name", "web", "--kernel", LINUX, "--initrd", initrd, "--memory", "128M", "--disk", disk,
               "--append", "console=ttyS0 quiet panic=-1")
    place.until(lambda: place.run("exec", "web", "true")[0] == 0, "the agent")
    place.good("exec", "-i", "web", "sh", "-c", "cat >/tmp/writer && (sh /tmp/writer >/dev/null 2>&1 &)", stdin=WRITER.encode())
    here, there = a, b
    for _ in range(hops):
        before = lines(here)
        here.place.until(lambda: lines(here) > before + 10, "the guest to write")
        status, _, err = here.place.run("migrate", "web", there.to, "--with-disks", "--verify", "--downtime", "500ms", "--stop-if-not-converging")
        assert status == 0, err
        here.place.good("rm", "web")
        here, there = there, here
    before = lines(here)
    here.place.until(lambda: lines(here) > before + 10, "the guest to write")
    here.place.good("exec", "web", "touch", "/tmp/stop")
    here.place.until(lambda: here.place.run("exec", "web", "test", "-e", "/tmp/stopped")[0] == 0, "the end of the writer")
    assert here.place.run("exec", "web", "test", "-e", "/tmp/wrong")[0] != 0, "a write has failed"
    log = here.place.good("exec", "web", "cat", "/tmp/log")
    own = here.place.good("exec", "web", "sh", "-c", "echo 3 >/proc/sys/vm/drop_caches; sha256sum </dev/vda").split()[0]
    (now,) = disks_of(here)
    data = read(now)
    assert hashlib.sha256(data).hexdigest() == own, "the guest reads another disk than the file is"
    pieces = expected(log)
    wrong = [i for i, want in pieces.items() if data[i * PIECE:(i + 1) * PIECE] != want]
    assert len(pieces) > 50 and not wrong, f"{len(wrong)} of {len(pieces)} pieces are wrong: {wrong[:10]}"
    with open(disk, "rb") as f:
        f.seek(16 * MIB)
        assert data[16 * MIB:24 * MIB] == f.read(8 * MIB), "what the guest left alone has changed"
    assert not is_locked(disk)
    b.own = True
    for host in (b, a):
        host.end()
    return "D"


def sample():
    """What fits the tests of each day; none that waits for a time-out."""
    rng = random.Random(table.SEED)
    kinds = {"fault": 4, "killed": 2, "hostile": 4, "call": 1}
    by_kind = {k: [c for c in CASES if kind_of(c) == k and "REDY drop" not in c.name] for k in kinds}
    return [c for c in CASES if not kind_of(c)] + [c for k, n in kinds.items() for c in rng.sample(by_kind[k], n)]


def kind_of(c):
    if c.fault in HOSTILE:
        return "hostile"
    if c.fault.endswith("call fails"):
        return "call"
    return "killed" if c.fault.endswith("killed") else "fault" if c.fault == "a fault" else None


if __name__ == "__main__":
    if sys.argv[1] == "all":
        case("a guest that writes", "D", "12 hops", 12)(writes)
    chosen = [c for c in CASES if any(re.search(w, c.name) for w in sys.argv[2:])] if sys.argv[2:] else CASES if sys.argv[1] == "all" else sample()
    sys.exit(table.run_table(chosen, 4, False))
