#!/usr/bin/env python3
"""swing.py check|all: machines whose engine is changed while they run."""
import json
import os
import sys

from harness import Skip, run_tests
from snapshot import LINUX, WORK, count, in_guest, linux, ready

# Bytes, x87, vectors and processes: whatever an engine may keep to itself shows here.
SUMS = """
cat >/tmp/sums <<'END'
head -c 300000 /dev/urandom >/tmp/bytes
want=$(sha256sum </tmp/bytes)
roots() {
    awk 'BEGIN { for (i = 1; i < 2000; i++) s += sqrt(i) / 3; printf "%.9f", s }'
}
root=$(roots)
while :; do
    [ "$(gzip </tmp/bytes | gunzip | sha256sum)" = "$want" ] || echo "another sum" >>/tmp/wrong
    [ "$(roots)" = "$root" ] || echo "other roots" >>/tmp/wrong
    echo >>/tmp/rounds
done
END
sh /tmp/sums >/dev/null 2>&1 &
"""


def engine(place, name):
    return json.loads(place.good("inspect", name))["config"]["engine"]


def engines(place):
    """What this host has, but the one that `auto` is."""
    for other in ("bt", "interp"):
        if place.run("swing", "--engine", other, "web")[0] != 0:
            raise Skip("this host has one engine only")
    return ["interp", "bt"]


def work_goes_on(place):
    """There and back on two processors; nothing is lost, connections and consoles stay."""
    linux(place, "web", "--cpus", "2", "--network", "user")
    names = engines(place)
    in_guest(place, "web", WORK)
    in_guest(place, "web", SUMS)
    boot = in_guest(place, "web", "cat /proc/sys/kernel/random/boot_id")
    console = place.start("console", "web", stdin=-1, stdout=-1)
    for turn in range(TURNS):
        before = count(place, "web")
        place.good("swing", "--engine", names[turn % 2], "web")
        assert engine(place, "web") == names[turn % 2]
        place.until(lambda: count(place, "web") > before, "the work to go on")
    place.until(lambda: int(in_guest(place, "web", "wc -l </tmp/rounds 2>/dev/null || echo 0")) > 2, "some sums")
    wrong = in_guest(place, "web", "cat /tmp/wrong 2>/dev/null; true")
    assert wrong == "", wrong
    assert in_guest(place, "web", "cat /proc/sys/kernel/random/boot_id") == boot
    assert console.poll() is None
    place.good("rm", "-f", "web")
    console.communicate(timeout=60)


def it_is_remembered(place):
    """Through pauses, suspension and the next start."""
    linux(place, "web")
    engines(place)
    place.good("pause", "web")
    place.good("swing", "--engine", "bt", "web")
    place.good("resume", "web")
    in_guest(place, "web", "true")
    place.good("swing", "--engine", "interp", "web")
    place.good("suspend", "web")
    place.good("resume", "web")
    assert engine(place, "web") == "interp"
    place.good("swing", "--engine", "bt", "web")
    place.good("kill", "web")
    place.good("start", "web")
    ready(place, "web")
    assert engine(place, "web") == "bt"
    place.good("rm", "-f", "web")


def what_is_refused(place):
    place.good(*place.guest("i", "-d", "--name", "web"))
    place.refused("swing", "--engine", "kvm", "web", names="kvm", status=3)
    place.refused("swing", "web", names="--engine")
    place.refused("swing", "--engine", "bt", "none", names="none")
    assert place.machines()[0]["state"] == "running"
    place.good("rm", "-f", "web")


if __name__ == "__main__":
    TURNS = 200 if sys.argv[1] == "all" else 8
    sys.exit(run_tests([work_goes_on, it_is_remembered, what_is_refused]))
