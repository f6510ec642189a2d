#!/usr/bin/env python3
"""cpus.py check|all: Debian's kernel brings up several CPUs, checks itself on them, and is paused and resumed meanwhile."""
import json
import os
import re
import sys
import time

from harness import LINUX, Skip, run_tests

TIMEOUT = 600
ARGUMENTS = "console=ttyS0 panic=-1 reboot=t"
TROUBLE = r"rcu:.*(stall|detected)|soft lockup|BUG:|WARNING:|Kernel panic|clocksource: Marking"


def machine(cpus, engine, more):
    if not LINUX:
        raise Skip("no default guest: TRAPEZE_GUEST is not set")
    initrd = os.path.join(os.path.dirname(LINUX), "initrd.cpio")
    return ["--no-reboot", "--kernel", LINUX, "--initrd", initrd, "--memory", "512M", "--cpus", str(cpus), "--engine",
            engine, "--append", f"{ARGUMENTS} {more}"]


def boots_with(cpus, engine):
    def test(place):
        status, out, err = place.run("run", "--rm", *machine(cpus, engine, "trapeze.selftest"), timeout=TIMEOUT)
        assert status == 0, (status, out[-2000:], err)
        assert re.search(r"^selftest: \d+ ok, 0 bad\r?$", out, re.M), out[-2000:]
        assert re.search(rf"smp: Brought up 1 node, {cpus} CPUs?\r?$", out, re.M), out[-2000:]
        trouble = re.search(TROUBLE, out)
        assert not trouble, trouble.group(0)
    test.__name__ = f"boots_with_{cpus}_on_{engine}"
    return test


def counters(place):
    return json.loads(place.good("stats", "still", "--format", "json"))["counters"]


def stands_still(place):
    """All CPUs stop for a pause and go on behind it; `stop` finds a guest that takes its power button."""
    place.good("run", "-d", "--name", "still", *machine(4, "auto", ""), timeout=TIMEOUT)
    for _ in range(5):
        place.good("pause", "still")
        before = counters(place)
        time.sleep(0.1)
        assert counters(place) == before, before
        place.good("resume", "still")
    end = time.monotonic() + TIMEOUT
    while "built-in commands" not in place.good("logs", "still"):
        assert time.monotonic() < end, place.good("logs", "still")[-2000:]
        time.sleep(0.2)
    place.good("explain", "still")
    place.good("stop", "still", "--time", "60")
    assert "Power down" in place.good("logs", "still")
    place.good("rm", "still")


if __name__ == "__main__":
    SAMPLE = [boots_with(2, "auto"), boots_with(4, "auto"), stands_still]
    ALL = [boots_with(n, e) for e in ("bt", "interp") for n in range(1, 9)] + [boots_with(64, "auto"), stands_still]
    sys.exit(run_tests(SAMPLE if sys.argv[1] == "check" else ALL))
