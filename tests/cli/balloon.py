#!/usr/bin/env python3
"""balloon.py check|all: Debian's kernel gives memory back: what it frees, and what `update` takes from it; sizes that can not be."""
import json
import os
import re
import subprocess
import sys

from harness import LINUX, Skip, run_tests

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
AGENT = os.environ["AGENT"]
MIB = 1 << 20
START = 120  # seconds until the agent answers


def start(place, *options, append="", memory="512M"):
    """A machine with the agent of this build, up."""
    if not LINUX:
        raise Skip("no default guest: TRAPEZE_GUEST is not set")
    guest = os.path.dirname(LINUX)
    if not os.path.exists(os.path.join(guest, "modules", "virtio_balloon.ko")):
        raise Skip("the default guest is older than the balloon: make guest")
    initrd = os.path.join(place.path, "agent.cpio")
    if not os.path.exists(initrd):
        subprocess.run([os.path.join(ROOT, "tools/make-initrd"), initrd, os.path.join(guest, "busybox"),
                        os.path.join(ROOT, "tools/guest"), os.path.join(guest, "modules"), AGENT], check=True)
    place.good("run", "-d", "--name", "guest", "--kernel", LINUX, "--initrd", initrd, "--memory", memory, "--network", "none",
               "--append", f"console=ttyS0 quiet panic=-1 {append}", *options)
    say(place, "true")


def say(place, script):
    return place.good("exec", "guest", "sh", "-c", script, timeout=START)


def end(place):
    trouble = re.search(r"BUG:|WARNING:|Oops|Call Trace|corruption|page allocation failure|Out of memory", say(place, "dmesg"))
    assert not trouble, say(place, "dmesg")[-3000:]
    place.good("kill", "guest")
    place.good("rm", "guest")


def balloon(place):
    return json.loads(place.good("stats", "guest", "--format", "json"))["balloon"]


def row(place):
    (machine,) = place.machines()
    return machine


def shared_memory(place):
    """What the cell has in its map of shared memory, of which the guest's is nearly all; bytes."""
    cell = json.loads(place.good("inspect", "guest"))["cell"]
    with open(f"/proc/{cell}/status", encoding="ascii") as f:
        return int(re.search(r"^RssShmem:\s+(\d+) kB$", f.read(), re.M).group(1)) * 1024


def features(place):
    """Those that the guest's driver has taken: a digit a bit, from bit 0 on."""
    return say(place, "for d in /sys/bus/virtio/devices/*; do [ $(cat $d/device) = 0x0005 ] && cat $d/features; done; true")


def free_memory(place):
    return int(say(place, "awk '/^MemFree/ { print $2 }' /proc/meminfo")) * 1024


def what_is_freed_comes_back(*options, append=""):
    def test(place):
        start(place, *options, append=append, memory="1G")
        b = balloon(place)
        assert b["driver"] and b["memory"] == b["memory_target"] == b["memory_actual"] == 1024 * MIB, b
        assert 900 * MIB < b["guest"]["total"] < 1024 * MIB and b["guest"]["free"] <= b["guest"]["total"], b
        # Linux fills free pages with zeros under init_on_free: then it says so as its poison
        assert features(place)[4] == ("1" if "init_on_free=1" in append else "0"), features(place)
        size = 300 * MIB
        for _ in range(2):
            say(place, "dd if=/dev/zero of=/tmp/big bs=1M count=300 2>/dev/null")
            held = balloon(place)["host"]
            assert held > size and shared_memory(place) > size, (held, shared_memory(place))
            before = balloon(place)["reported"]
            say(place, "rm /tmp/big")
            place.until(lambda: balloon(place)["host"] < held - size * 9 // 10, "freed memory to come back")
            place.until(lambda: shared_memory(place) < held - size * 9 // 10, "the cell's share of it to shrink")
            assert balloon(place)["reported"] > before + size // 2, balloon(place)
        assert balloon(place)["kept"] == 0
        end(place)
    test.__name__ = "what_is_freed_comes_back_" + "_".join(options).replace("-", "") + append.replace("=", "_")
    return test


def poison_stays(place):
    """Free pages in which the guest wants to find its poison again are left alone: it looks whether it is there."""
    start(place, append="page_poison=1")
    if "Unknown kernel command line parameters" in say(place, "dmesg"):
        place.good("rm", "-f", "guest")
        raise Skip("this kernel was built without page poisoning")
    place.until(lambda: balloon(place)["kept"] > 100 * MIB, "pages to be reported")
    say(place, "head -c 200000000 /dev/zero >/tmp/big; rm /tmp/big; head -c 200000000 /dev/zero | md5sum")
    b = balloon(place)
    assert b["reported"] == 0 and b["host"] > 200 * MIB, b
    end(place)


def sizes_change(*options):
    """Down, up, and down again, while the guest works with data that may not change."""
    def test(place):
        start(place, *options)
        say(place, "dd if=/dev/urandom of=/tmp/data bs=64k count=200 2>/dev/null")
        digest = say(place, "md5sum </tmp/data")
        for size in (160, 512, 96, 300):
            before = free_memory(place)
            down = row(place)["memory_actual"] > size * MIB
            assert place.good("update", "--memory", f"{size}M", "guest") == ""
            assert row(place)["memory_target"] == size * MIB
            place.until(lambda size=size: row(place)["memory_actual"] == size * MIB, f"{size} MiB")
            assert (free_memory(place) < before) == down
            assert f" {size} MiB " in place.good("ps"), place.good("ps")
            b = json.loads(place.good("inspect", "guest"))["balloon"]
            assert b["memory_target"] == b["memory_actual"] == size * MIB and b["memory"] == 512 * MIB, b
            if down:
                place.until(lambda size=size: balloon(place)["host"] <= size * MIB, "the host to have the rest")
            assert say(place, "md5sum </tmp/data") == digest
            assert say(place, "seq 1 2000 | sort -rn | md5sum") == say(place, "seq 2000 -1 1 | md5sum")
        assert balloon(place)["inflated"] > 500 * MIB, balloon(place)
        end(place)
    test.__name__ = "sizes_change" + "".join(options).replace("-", "_")
    return test


def wishes_outlive_a_reboot(place):
    """A guest that starts anew is told again; a paused one when it goes on."""
    start(place)
    place.good("update", "-m", "200M", "guest")
    place.until(lambda: row(place)["memory_actual"] == 200 * MIB, "200 MiB")
    before = balloon(place)["inflated"]
    life = say(place, "cat /proc/sys/kernel/random/boot_id")
    place.run("exec", "guest", "reboot", "-f")
    place.until(lambda: place.run("exec", "guest", "cat", "/proc/sys/kernel/random/boot_id")[1] not in ("", life), "the reboot")
    place.until(lambda: row(place)["memory_actual"] == 200 * MIB, "200 MiB in the guest's second life")
    assert row(place)["memory_target"] == 200 * MIB and balloon(place)["inflated"] >= before + 312 * MIB, balloon(place)
    place.good("pause", "guest")
    place.good("update", "-m", "256M", "guest")
    assert row(place)["memory_actual"] == 200 * MIB and "200 MiB > 256 MiB" in place.good("ps"), place.good("ps")
    assert balloon(place)["memory_target"] == 256 * MIB
    place.good("resume", "guest")
    place.until(lambda: row(place)["memory_actual"] == 256 * MIB, "256 MiB")
    end(place)


def takes_what_it_needs(place):
    """A guest that needs more than it was left gets it from the balloon (DEFLATE_ON_OOM): nothing is killed."""
    start(place)
    place.good("update", "-m", "96M", "guest")
    place.until(lambda: row(place)["memory_actual"] == 96 * MIB, "96 MiB")
    assert "120000000" in say(place, "awk 'BEGIN { s = sprintf(\"%120000000s\", \"\"); print length(s) }'")
    assert 96 * MIB < row(place)["memory_actual"] < 512 * MIB, row(place)
    place.good("update", "-m", "96M", "guest") # Linux keeps what it took until it is told again
    place.until(lambda: row(place)["memory_actual"] == 96 * MIB, "the balloon to be full again")
    place.good("kill", "guest")
    place.good("rm", "guest")


def module_comes_and_goes(place):
    start(place)
    place.good("update", "-m", "256M", "guest")
    place.until(lambda: row(place)["memory_actual"] == 256 * MIB, "256 MiB")
    say(place, "rmmod virtio_balloon")
    assert row(place)["memory_actual"] == 512 * MIB and not balloon(place)["driver"], balloon(place)
    assert "no balloon driver" in place.good("stats", "guest")
    place.refused("update", "-m", "300M", "guest", names=["machine guest", "no balloon driver"])
    say(place, "insmod /lib/virtio_balloon.ko")
    place.until(lambda: row(place)["memory_actual"] == 256 * MIB, "256 MiB again")
    end(place)


def refusals(place):
    place.refused("update", "web", names=["update", "--memory SIZE"])
    place.refused("update", "--memory", "256M", names="NAME")
    for size in ("1", "12Q", "-5M", "", "4K", "2000T"):
        place.refused("update", f"--memory={size}", "web", names="--memory")
    place.refused("update", "-m", "256M", "nobody", names=["nobody", "no such machine"])
    place.good("run", "-d", "--name", "web", "--kernel", os.environ["GUEST"], "--append", "i", "--memory", "96M")
    place.refused("update", "-m", "97M", "web", names=["machine web", "97 MiB", "started with 96 MiB"])
    place.refused("update", "-m", "63M", "web", names=["machine web", "63 MiB", "64 MiB are the least"])
    place.refused("update", "-m", "80M", "web", names=["machine web", "no balloon driver"])
    b = json.loads(place.good("stats", "web", "--format", "json"))["balloon"]
    assert not b["driver"] and b["memory_target"] == b["memory_actual"] == 96 * MIB and b["guest"] == {}, b
    assert 0 < b["host"] < 96 * MIB, b
    place.good("kill", "web")
    place.refused("update", "-m", "80M", "web", names=["web", "does not run"])
    place.good("rm", "web")


if __name__ == "__main__":
    SAMPLE = [refusals, what_is_freed_comes_back(), sizes_change("--cpus", "2"), wishes_outlive_a_reboot, module_comes_and_goes]
    ALL = SAMPLE + [what_is_freed_comes_back("--cpus", "4"), what_is_freed_comes_back("--engine", "interp"),
                    what_is_freed_comes_back(append="init_on_free=1"), poison_stays, sizes_change(), sizes_change("--engine", "interp"),
                    takes_what_it_needs]
    sys.exit(run_tests(SAMPLE if sys.argv[1] == "check" else ALL))
