#!/usr/bin/env python3
"""snapshot.py check|all: machines suspended, resumed, kept in snapshots and brought back; Debian's kernel with work on its hands."""
import json
import os
import random
import signal
import socket
import sys
import time

from harness import LINUX, Skip, run_tests

SUSPENDED = "suspended.stream"


def linux(place, name, *options):
    """Start the default guest, and wait for its agent."""
    if not LINUX:
        raise Skip("no default guest: TRAPEZE_GUEST is not set")
    initrd = os.path.join(os.path.dirname(LINUX), "initrd.cpio")
    place.good("run", "-d", "--name", name, "--kernel", LINUX, "--initrd", initrd, "--memory", "256M", "--append",
               "console=ttyS0 quiet panic=-1", *options)
    ready(place, name)


def ready(place, name):
    place.until(lambda: place.run("exec", name, "true")[0] == 0, f"the agent of {name}")


def directory(place):
    (only,) = place.files()
    return os.path.join(place.path, "trapeze", "machines", only)


def small(place, what="b", *options):
    place.good(*place.guest(what, "-d", "--name", "web", *options))
    place.until(lambda: place.good("logs", "web") == ">", "the guest's first output")


def in_guest(place, name, script):
    return place.good("exec", name, "sh", "-c", script).strip()


# A process that counts, and complains in a file if it ever sees its memory or the clock wrong.
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


def count(place, name):
    """How far its work is. The file is empty for a moment at each step."""
    seen = []
    place.until(lambda: seen.append(in_guest(place, name, "cat /tmp/n; true").strip()) or seen[-1], "a number")
    return int(seen[-1])


def work_goes_on(place):
    """On several processors, with a disk and a network: nothing is lost, time does not go back."""
    disk = os.path.join(place.path, "d.img")
    with open(disk, "wb") as f:
        f.truncate(64 << 20)
    linux(place, "web", "--cpus", "2", "--network", "user", "--disk", disk)
    in_guest(place, "web", WORK)
    in_guest(place, "web", "echo kept on the disk >/dev/vda; sync")
    for turn in range(3):
        before = count(place, "web")
        boot = in_guest(place, "web", "cat /proc/sys/kernel/random/boot_id")
        place.good("suspend", "web")
        (row,) = place.machines("-a")
        assert row["state"] == "suspended" and not place.processes(), row
        place.good("resume", "web")
        assert not os.path.exists(os.path.join(directory(place), SUSPENDED))
        assert in_guest(place, "web", "cat /proc/sys/kernel/random/boot_id") == boot
        place.until(lambda: count(place, "web") > before, "the work to go on")
    assert in_guest(place, "web", "cat /tmp/wrong 2>/dev/null; true") == ""
    assert in_guest(place, "web", "head -n 1 /dev/vda") == "kept on the disk"
    assert abs(float(in_guest(place, "web", "date +%s")) - time.time()) < 30
    place.good("rm", "-f", "web")


def back_and_forth(place):
    linux(place, "web", "--network", "none")
    in_guest(place, "web", "echo first >/tmp/state")
    assert place.good("snapshot", "create", "web", "one") == "one\n"
    in_guest(place, "web", "echo second >/tmp/state")
    (tag,) = place.good("snapshot", "create", "web").split()
    place.refused("snapshot", "create", "web", "one", names=["one", "is there already"])
    in_guest(place, "web", "echo third >/tmp/state")
    rows = json.loads(place.good("snapshot", "list", "--format", "json", "web"))
    assert [r["tag"] for r in rows] == sorted(["one", tag]), rows
    assert all(r["memory"] == 256 << 20 and r["bytes"] > 1 << 20 for r in rows), rows
    place.refused("snapshot", "restore", "web", "one", names=["web", "it runs"])
    place.good("snapshot", "restore", "-f", "web", "one")
    assert in_guest(place, "web", "cat /tmp/state") == "first"
    assert generation(place, "web") == 1
    place.good("kill", "web")
    place.good("snapshot", "restore", "web", tag)
    assert in_guest(place, "web", "cat /tmp/state") == "second"
    place.good("suspend", "web")
    place.refused("snapshot", "restore", "web", tag, names="is suspended")
    place.good("snapshot", "restore", "-f", "web", "one")
    assert in_guest(place, "web", "cat /tmp/state") == "first"
    place.good("snapshot", "rm", "web", "one", tag)
    assert json.loads(place.good("snapshot", "list", "--format", "json", "web")) == []
    place.good("rm", "-f", "web")


def damage_is_found(place):
    """A changed byte in what says where memory is, a file cut short, bytes behind the end: refused, and the machine stays suspended."""
    small(place)
    place.good("suspend", "web")
    path = os.path.join(directory(place), SUSPENDED)
    with open(path, "rb") as f:
        whole = f.read()
    rng = random.Random(1)
    index = whole.index(b"INDX")
    places = [0, 8, 20, len(whole) - 1] + [rng.randrange(index, len(whole)) for _ in range(12)]
    for at in places:
        with open(path, "wb") as f:
            f.write(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1:])
        place.refused("resume", "web", names=["web", SUSPENDED])
    for data in (whole[:-1], whole[:len(whole) // 2], b"", whole + b"x"):
        with open(path, "wb") as f:
            f.write(data)
        place.refused("resume", "web", names=["web", SUSPENDED])
    (row,) = place.machines("-a")
    assert row["state"] == "suspended", row
    with open(path, "wb") as f:
        f.write(whole)
    place.good("resume", "web")
    place.good("stop", "web")
    place.good("rm", "web")


def how_it_ended(place, name):
    """Wait until the machine has ended; its row."""
    rows = []
    place.until(lambda: rows.append(place.machines("-a")[0]) or rows[-1]["state"] == "exited", f"the end of {name}")
    return rows[-1]


def bad_page(place, engine):
    """A page that is not what was written: the machine ends, it never sees it, and the file stays."""
    small(place, "s", "--engine", engine)
    place.good("snapshot", "create", "web", "one")
    place.good("kill", "web")
    path = os.path.join(directory(place), "one.snapshot")
    with open(path, "r+b") as f:
        whole = f.read()
        at = whole.index(b"PAGE") + 32 + 8
        f.seek(at)
        f.write(bytes([whole[at] ^ 4]))
    status, _, error = place.run("snapshot", "restore", "web", "one")
    if status:  # found before the verb had ended
        assert status == 1 and "one.snapshot: page" in error, error
    else:
        row = how_it_ended(place, "web")
        assert row["exit_code"] == 3 and "one.snapshot: page" in row["reason"] and "checksum" in row["reason"], row
    with open(path, "rb") as f:
        assert f.read() == whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1:]
    place.good("rm", "-f", "web")


def bad_page_interp(place):
    bad_page(place, "interp")


def bad_page_bt(place):
    bad_page(place, "auto")


# A pattern in 24 MiB of memory, which nobody looks at before it is back.
FILL = "i=0; while [ $i -lt 24 ]; do yes block $i | head -c 1048576 >/tmp/b$i; i=$((i + 1)); done; cat /tmp/b* | md5sum"
LOOK = "cat /tmp/b* | md5sum"


def memory_comes_later(place, engine):
    """Memory that is read while the machine runs, suspends, or is written to a snapshot again is what it was."""
    linux(place, "web", "--network", "none")
    in_guest(place, "web", WORK)
    sums = in_guest(place, "web", FILL)
    if engine:
        place.good("swing", "web", "--engine", engine)
    place.good("snapshot", "create", "web", "one")
    path = os.path.join(directory(place), "one.snapshot")
    with open(path, "rb") as f:
        whole = f.read()
    place.good("snapshot", "restore", "-f", "web", "one")
    place.good("snapshot", "create", "web", "two")  # it may still load
    assert in_guest(place, "web", LOOK) == sums
    place.good("snapshot", "restore", "-f", "web", "two")
    place.good("suspend", "web")
    place.good("resume", "web")
    place.good("suspend", "web")
    place.good("resume", "web")
    assert in_guest(place, "web", LOOK) == sums
    assert in_guest(place, "web", "cat /tmp/wrong 2>/dev/null; true") == ""
    # The keeper dies in the middle: the file is what it was, and good for another time.
    place.good("snapshot", "restore", "-f", "web", "one")
    os.kill(place.keeper("web"), signal.SIGKILL)
    place.until(lambda: not place.processes(), "the end of all processes")
    with open(path, "rb") as f:
        assert f.read() == whole
    place.good("snapshot", "restore", "-f", "web", "one")
    assert in_guest(place, "web", LOOK) == sums
    place.good("rm", "-f", "web")


def memory_comes_later_bt(place):
    memory_comes_later(place, None)


def memory_comes_later_interp(place):
    memory_comes_later(place, "interp")


def generation(place, name):
    """How often the guest was told that it is another machine."""
    return int(in_guest(place, name, "cat /sys/firmware/acpi/interrupts/gpe00").split()[0])


def clones(place):
    """Machines that begin with another one's memory: each on its own, with an identity of its own, all of the memory right."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    linux(place, "web", "--network", "user", "--publish", f"127.0.0.1:{port}:80")
    sums = in_guest(place, "web", FILL)
    in_guest(place, "web", "echo web >/tmp/state")
    place.good("snapshot", "create", "web", "one")
    assert place.good("clone", "web:one", "a") == "a\n"
    place.good("clone", "web:one", "b")
    ids = [in_guest(place, name, "hostname; cat /proc/sys/kernel/random/uuid").split() for name in ("web", "a", "b")]
    assert [name for name, _ in ids[1:]] == ["a", "b"], ids
    assert len({uuid for _, uuid in ids}) == 3, ids
    assert [generation(place, name) for name in ("web", "a", "b")] == [0, 1, 1]
    in_guest(place, "a", "echo a >/tmp/state")
    assert [in_guest(place, name, "cat /tmp/state") for name in ("web", "a", "b")] == ["web", "a", "web"]
    # One of a clone, whose memory is still in the file; and that file goes while others read it.
    place.good("clone", "a", "c")
    place.good("snapshot", "rm", "web", "one")
    assert in_guest(place, "c", "hostname; cat /tmp/state").split() == ["c", "a"]
    place.good("suspend", "a")
    place.good("resume", "a")
    assert generation(place, "a") == 1  # it is the same machine
    for name in ("a", "b", "c"):
        assert in_guest(place, name, LOOK) == sums, name
    assert not [f for f in os.listdir(os.path.join(place.path, "trapeze", "machines", place.machines()[1]["id"])) if "origin" in f]
    place.refused("clone", "web", "b", names=["b", "taken"])
    place.refused("clone", "web:none", "d", names=["none", "web", "snapshot list"])
    place.refused("clone", "nobody", "d", names="nobody")
    place.refused("clone", "web:../x", "d", names="../x")
    place.good("suspend", "b")
    place.refused("clone", "b", "d", names="does not run")
    assert [m["name"] for m in place.machines("-a")] == ["web", "a", "b", "c"], "what was refused is still there"
    place.good("rm", "-f", "web", "a", "b", "c")


def clones_that_can_not_be(place):
    disk = os.path.join(place.path, "d.img")
    with open(disk, "wb") as f:
        f.truncate(1 << 20)
    small(place, "b", "--disk", disk)
    place.refused("clone", "web", "d", names=disk, status=3)
    assert len(place.machines("-a")) == 1
    place.good("kill", "web")
    place.good("rm", "web")


def what_is_refused(place):
    small(place)
    place.refused("resume", "nobody", names="nobody")
    place.refused("snapshot", "dance", "web", names=["dance", "no such action"])
    place.refused("snapshot", "restore", "web", names="snapshot restore NAME TAG")
    place.refused("snapshot", "create", "web", "../x", names="../x")
    place.refused("snapshot", "restore", "web", "none", names=["none", "web"])
    place.refused("snapshot", "rm", "web", "none", names="none")
    place.good("suspend", "web")
    place.good("suspend", "web")  # it is already
    place.refused("start", "web", names=["is suspended", "resume"])
    place.refused("rm", "web", names=["is suspended", "rm -f"])
    place.refused("snapshot", "create", "web", "x", names="does not run")
    place.good("start", "-f", "web")
    assert not os.path.exists(os.path.join(directory(place), SUSPENDED))
    place.good("kill", "web")
    place.refused("suspend", "web", names="does not run")
    place.good("rm", "web")
    place.good(*place.guest("b", "-d", "--name", "web", "--rm"))
    place.refused("suspend", "web", names="--rm")
    place.good("kill", "web")


def disks_that_changed(place):
    disk = os.path.join(place.path, "d.img")
    with open(disk, "wb") as f:
        f.truncate(1 << 20)
    small(place, "b", "--disk", disk)
    place.refused("snapshot", "create", "web", names=[disk, "suspend"], status=3)
    place.good("suspend", "web")
    os.utime(disk, ns=(1, 1))
    place.refused("resume", "web", names=[disk, "changed since"], status=1)
    os.remove(disk)
    place.refused("resume", "web", names=disk)
    place.good("rm", "-f", "web")


def verbs_that_are_killed(place):
    """Whenever the verb is killed: either it had not come far, and the machine runs; or it is suspended, whole."""
    small(place)
    done = 0
    for i in range(KILLS):
        p = place.start("suspend", "web")
        time.sleep(i * 0.12 / KILLS)
        p.send_signal(signal.SIGKILL)
        p.wait()
        place.until(lambda: [m["state"] for m in place.machines("-a")] in (["running"], ["suspended"]), "a state")
        (row,) = place.machines("-a")
        if row["state"] == "suspended":
            done += 1
            place.good("resume", "web")
        (row,) = place.machines()
        assert row["state"] == "running", row
    left = set(os.listdir(directory(place))) - {"console.log", "control", "end.json", "handover", "lock", SUSPENDED + ".part"}
    assert not left or left == {SUSPENDED}, left
    print(f"# {done} of {KILLS} were suspended before they were killed")
    place.good("suspend", "web")
    assert not os.path.exists(os.path.join(directory(place), SUSPENDED + ".part"))
    place.good("resume", "web")
    place.good("stop", "web")
    place.good("rm", "web")


KILLS = 200 if sys.argv[1:] == ["all"] else 15

if __name__ == "__main__":
    sys.exit(run_tests([work_goes_on, back_and_forth, damage_is_found, bad_page_interp, bad_page_bt, memory_comes_later_bt,
                        memory_comes_later_interp, clones, clones_that_can_not_be, what_is_refused, disks_that_changed,
                        verbs_that_are_killed]))
