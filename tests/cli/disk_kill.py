#!/usr/bin/env python3
"""disk_kill.py check|all: the keeper is killed while a guest writes: what the guest knows to be flushed is in the image.

The guest (`kit --records`) writes numbered blocks that hold their number, a pattern made of it and a sum, flushes now and then, and
says up to which number it has. SEED names another series of moments to kill at.
"""
import fcntl
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time

from harness import LINUX, PATIENCE, Skip, run_tests

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SEED = int(os.environ.get("SEED", "20"))
BLOCK, PLACES = 4096, 1024
STEP, MASK = 0x9e3779b97f4a7c15, 2**64 - 1
AHEAD = 64  # blocks that the guest may have written behind the last one whose flush it could tell of
CACHES = ["none", "writeback", "writethrough"]


def make_initrd(place):
    """The kit's, with the modules of the default guest."""
    guest = os.path.dirname(LINUX)
    lib = os.path.join(place.path, "modules", "lib")
    os.makedirs(lib)
    for name in os.listdir(os.path.join(guest, "modules")):
        shutil.copy(os.path.join(guest, "modules", name), lib)
    shutil.copy(os.path.join(ROOT, "tools/guest/modules"), lib)
    initrd = os.path.join(place.path, "records.cpio")
    subprocess.run([os.path.join(ROOT, "bench/kit/mkinitrd"), initrd, os.path.join(guest, "busybox"), os.environ["KIT"],
                    os.path.join(place.path, "modules")], check=True)
    return initrd


def last_flushed(text):
    return max([int(n) for n in re.findall(r"^flushed (\d+)\r?$", text, re.M)], default=0)


def kill_while_writing(place, name, options, rng):
    """The number up to which the guest had said that all is flushed."""
    machine = place.start("run", "--name", name, "--no-reboot", "--kernel", LINUX, *options, "--append",
                          "console=ttyS0 quiet panic=-1 kit.mode=records kit.args=/dev/vda", stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    text, deadline = b"", time.monotonic() + PATIENCE
    while not last_flushed(text.decode(errors="replace")):
        more = os.read(machine.stdout.fileno(), 65536)
        text += more
        assert more and time.monotonic() < deadline, ("no record was flushed", text[-2000:])
    time.sleep(rng.random() * 0.4)
    os.kill(place.keeper(name), signal.SIGKILL)
    text += machine.stdout.read()
    machine.stdout.close()
    machine.wait()
    # a line that was cut off is no line; what the terminal did not get the log may have
    return max(last_flushed(text.decode(errors="replace").rpartition("\n")[0]),
               last_flushed(place.good("logs", name).rpartition("\n")[0]))


def check_records(path, last):
    """How many records there are; every flushed one, or a newer one in its place."""
    with open(path, "r+b") as f:
        fcntl.lockf(f, fcntl.LOCK_EX)  # the kernel ends what was on its way behind the dead process
        data = f.read()
    for n in range(max(1, last - PLACES + 1), last + 1):
        at = (n - 1) % PLACES
        w = struct.unpack_from("<512Q", data, at * BLOCK)
        there = w[0]
        assert there >= n and there <= last + AHEAD and (there - 1) % PLACES == at, f"record {n} of {last}: {there} is there"
        pattern = [(there * STEP + i * (there | 1)) & MASK for i in range(2, 512)]
        assert list(w[2:]) == pattern and w[1] == (there + sum(pattern)) & MASK, f"record {n} of {last}: torn"
    return min(last, PLACES)


def kills(times):
    def test(place):
        if not LINUX:
            raise Skip("no default guest: TRAPEZE_GUEST is not set")
        initrd = make_initrd(place)
        rng = random.Random(SEED)
        checked = 0
        for n in range(times):
            path, cache = os.path.join(place.path, f"{n}.img"), CACHES[n % len(CACHES)]
            with open(path, "wb") as f:
                f.truncate(PLACES * BLOCK)
            try:
                last = kill_while_writing(place, f"kill{n}", ["--initrd", initrd, "--memory", "128M", "--cpus", str(1 + n // 3 % 2),
                                                              "--disk", f"{path},cache={cache}"], rng)
                checked += check_records(path, last)
            except AssertionError as e:
                raise AssertionError(f"SEED={SEED}, kill {n}, cache={cache}") from e
            place.good("rm", f"kill{n}")
            os.unlink(path)
        print(f"# {times} kills, {checked} flushed records looked at")
    test.__name__ = f"flushed_records_survive_{times}_kills"
    return test


if __name__ == "__main__":
    sys.exit(run_tests([kills(5 if sys.argv[1] == "check" else 200)]))
