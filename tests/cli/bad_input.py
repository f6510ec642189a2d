#!/usr/bin/env python3
"""What a person or a script gets wrong: one line that names the object, the cause and what to do; nothing left behind."""
import json
import os
import random
import signal
import sys

from harness import GUEST, LINUX, Skip, run_tests

SEED = 20240607  # of the random files


def write(place, name, data):
    path = os.path.join(place.path, name)
    with open(path, "wb") as f:
        f.write(data)
    return path


def noise(n):
    return random.Random(SEED).randbytes(n)


def guest_bytes():
    with open(GUEST, "rb") as f:
        return f.read()


# --- the command line ---

def unknown_verbs(place):
    place.refused("rnu", names=["rnu", "did you mean `trapeze run`"])
    place.refused("--kernel", "x", names="a verb comes first")
    status, out, err = place.run()
    assert status == 1 and "Usage: trapeze VERB" in err


def unknown_options(place):
    place.refused("run", "--memry", "1G", names=["--memry", "did you mean --memory?"])
    place.refused("ps", "-x", names=["-x", "`trapeze ps --help`"])
    place.refused("run", "--kernel", GUEST, "--memory", "512", names=["--memory 512", "512M"])
    place.refused("run", "--kernel", GUEST, "--code-cache", "255K", names=["--code-cache 255K", "256 KiB to 4 GiB"])
    place.refused("run", "--kernel", GUEST, "--engine", "qemu", names=["--engine qemu", "auto|interp"])
    place.refused("run", names="--kernel FILE is missing")
    place.refused("stop", names="NAME... is missing")


def not_there_yet(place):
    place.refused("checkpoint", "web", names=["checkpoint", "not there yet", "`trapeze --help`"])
    place.refused("help", "checkpoint", names=["checkpoint", "not there yet"])
    place.refused("rename", names=["rename: this is not there yet"])
    engines = json.loads(place.good("version", "--format", "json"))["engines"]
    for engine in {"bt", "kvm"} - set(engines):
        place.refused(*place.guest("p", "--engine", engine), names=[engine, "not there yet; use --engine "])
    place.refused(*place.guest("p", "--cpus", "65"), names=["--cpus 65", "64 CPUs at most"])
    place.refused(*place.guest("p", "--cpu", "pentium"), names=["pentium"])


def bad_names(place):
    for name in ("a b", "-a", "a/b", "x" * 64):
        place.refused(*place.guest("p"), "--name=" + name, names=["not possible"])


def no_such_machine(place):
    for verb in ("stop", "kill", "pause", "resume", "inspect", "stats", "explain", "console", "rm", "logs", "suspend"):
        place.refused(verb, "nobody", names=["nobody", "no such machine"])


# --- files ---

def missing_files(place):
    place.refused("run", "--kernel", "/no/such/kernel", names=["/no/such/kernel", "check what --kernel names"])
    place.refused(*place.guest("p", "--initrd", "/no/such/initrd"), names=["/no/such/initrd", "--initrd names"])
    place.refused("run", "--kernel", place.path, names=place.path)
    place.refused(*place.guest("p", "--initrd", place.path), names=place.path)
    place.refused("run", "--kernel", "/dev/null", names="/dev/null")


def unreadable_files(place):
    path = write(place, "secret", guest_bytes())
    os.chmod(path, 0)
    if os.geteuid() != 0:  # root reads it all the same
        place.refused("run", "--kernel", path, names=path)


def bad_kernels(place):
    for name, data in {"empty": b"", "one": b"\x7f", "random": noise(100000), "text": b"not a kernel\n" * 1000,
                       "gzip": b"\x1f\x8b\x08\0" + noise(5000)}.items():
        path = write(place, name + ".kernel", data)
        place.refused("run", "--kernel", path, names=path)
        place.check_clean()


def truncated_kernels(place):
    whole = guest_bytes()
    for n in (4, 20, 63, 64, 100, 0x120, 0x1000, 0x1010):
        path = write(place, f"{n}.kernel", whole[:n])
        place.refused("run", "--kernel", path, names=path)
    place.check_clean()


def bad_initrds(place):
    if not LINUX:
        raise Skip("no default guest: TRAPEZE_GUEST is not set")
    cpio = b"070701" + b"0" * 104 + b"\0" * 2
    for name, data in {"empty": b"", "random": noise(100000), "short": cpio[:50]}.items():
        path = write(place, name + ".initrd", data)
        place.refused("run", "--kernel", LINUX, "--initrd", path, names=path)
        place.check_clean()


def truncated_linux(place):
    if not LINUX:
        raise Skip("no default guest: TRAPEZE_GUEST is not set")
    with open(LINUX, "rb") as f:
        whole = f.read()
    for n in (0x1f0, 0x202, 0x260, 0x1000, 0x8000, len(whole) // 2, len(whole) - 200000):
        path = write(place, f"{n}.vmlinuz", whole[:n])
        place.refused("run", "--kernel", path, names=path)
    place.check_clean()


def too_little_memory(place):
    place.refused("run", "--kernel", GUEST, "--memory", "1K", names=["--memory 1K", "out of range"])
    place.refused("run", "--kernel", GUEST, "--memory", "1M", names="memory")
    # an archive of one file of 40 MiB
    body = b"\0" * (40 << 20)
    head = b"070701" + b"".join(b"%08X" % n for n in (1, 0o100644, 0, 0, 1, 0, len(body), 0, 0, 0, 0, 2, 0)) + b"a\0"
    tail = b"070701" + b"".join(b"%08X" % n for n in (0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 11, 0)) + b"TRAILER!!!\0\0\0\0"
    initrd = write(place, "large.initrd", head + body + tail)
    place.refused("run", "--kernel", GUEST, "--memory", "16M", "--initrd", initrd, names=["large.initrd", "memory"])


# --- the state directory ---

def unusable_state(place):
    place.env["XDG_STATE_HOME"] = "/proc/nowhere"
    place.refused("ps", names=["/proc/nowhere", "XDG_STATE_HOME"], status=3)
    place.env["XDG_STATE_HOME"] = place.path


def unusable_machines(place):
    """The same for the directory of a machine."""
    place.good("ps")
    path = os.path.join(place.path, "trapeze", "machines")
    with open(path, "wb"):
        place.refused(*place.guest("p"), names=["trapeze/machines", "XDG_STATE_HOME"], status=3)
    os.unlink(path)


def unwritable_registry(place):
    path = os.path.join(place.path, "trapeze", "machines.db")
    os.makedirs(path)
    place.refused("ps", names=["machines.db", "XDG_STATE_HOME"], status=3)
    os.rmdir(path)


def damaged_registry(place):
    place.good("ps")
    path = os.path.join(place.path, "trapeze", "machines.db")
    os.rename(path, path + ".good")
    with open(path, "wb") as f:
        f.write(noise(8192))
    place.refused("ps", names="machines.db", status=3)
    os.rename(path + ".good", path)


# --- machines that are there, or were ---

def name_taken(place):
    place.good(*place.guest("i", "-d", "--name", "web"))
    place.refused(*place.guest("i", "-d", "--name", "web"), names=["web", "name taken", "trapeze rm web"])
    assert len(place.files()) == 1
    place.refused("rm", "web", names=["web", "it runs"])
    place.good("rm", "-f", "web")


def dead_machine(place):
    """Its keeper was killed: every verb says so in one line, the socket goes."""
    place.good(*place.guest("i", "-d", "--name", "web"))
    keeper = place.keeper("web")
    socket = os.path.join(place.path, "trapeze", "machines", place.files()[0], "control")
    assert os.path.exists(socket)
    os.kill(keeper, signal.SIGKILL)
    place.until(lambda: not place.processes(), "the end of keeper and cell")
    for verb in ("stop", "kill", "pause", "resume", "stats", "explain", "console"):
        place.refused(verb, "web", names=["web", "does not run", "trapeze rm web"])
    assert not os.path.exists(socket)
    assert place.machines() == []
    (row,) = place.machines("-a")
    assert row["state"] == "dead" and row["exit_code"] == 3, row
    place.good("rm", "web")


def stale_socket(place):
    """Nobody listens, but the row is right: a keeper that hangs."""
    place.good(*place.guest("i", "-d", "--name", "web"))
    keeper = place.keeper("web")
    os.unlink(os.path.join(place.path, "trapeze", "machines", place.files()[0], "control"))
    place.refused("pause", "web", names=["web", "does not answer", "trapeze rm -f web"], status=1)
    assert place.machines()[0]["state"] == "no answer"
    place.good("rm", "-f", "web")
    place.until(lambda: not os.path.exists(f"/proc/{keeper}"), "the keeper's end")


if __name__ == "__main__":
    sys.exit(run_tests([unknown_verbs, unknown_options, not_there_yet, bad_names, no_such_machine, missing_files,
                        unreadable_files, bad_kernels, truncated_kernels, bad_initrds, truncated_linux, too_little_memory, unusable_state,
                        unusable_machines, unwritable_registry, damaged_registry, name_taken, dead_machine, stale_socket]))
