#!/usr/bin/env python3
"""virtio_mmio.py check|all: Debian's kernel with its virtio devices in windows of memory instead of on a PCI bus."""
import hashlib
import json
import os
import re
import sys

import agent
import disk
import net
from harness import LINUX, Skip, run_tests

MMIO = ["--virtio", "mmio"]
MIB = 1 << 20


def need_guest():
    if not LINUX:
        raise Skip("no default guest: TRAPEZE_GUEST is not set")
    if not os.path.exists(os.path.join(os.path.dirname(LINUX), "modules", "virtio_mmio.ko")):
        raise Skip("the default guest is older than virtio-mmio: make guest")


def with_guest(test, name):
    def whole(place):
        need_guest()
        test(place)
    whole.__name__ = name
    return whole


def image(place, number, size):
    data = os.urandom(size)
    path = os.path.join(place.path, f"disk{number}.img")
    with open(path, "wb") as f:
        f.write(data)
    return path, hashlib.md5(data).hexdigest()


def every_kind(*options):
    """All kinds of devices at once, disks that share an input of the I/O APIC both busy: nothing waits for ever."""
    def test(place):
        need_guest()
        shared = os.path.join(place.path, "share")
        os.mkdir(shared)
        with open(os.path.join(shared, "file"), "w") as f:
            f.write("from the host")
        disks = [image(place, n, 4 * MIB) for n in range(9)]  # vda and vdi: windows 2 and 10, both on input 18
        script = net.DHCP + """
echo "functions: $(ls /sys/bus/pci/devices | wc -l)"
for d in /sys/bus/virtio/devices/*; do
    echo "device: $(cat $d/device) $(readlink -f $d | sed 's,.*/\\(LNRO0005:..\\|0000:[^/]*\\)/.*,\\1,')"
done
for round in 1 2 3; do
    for d in a b c i; do
        (dd if=/dev/vd$d bs=4k 2>/dev/null | md5sum | sed "s/^/sum vd$d: /") &
        pids="$pids $!"
    done
    wait $pids
    echo 3 >/proc/sys/vm/drop_caches
done
dd if=/dev/vda bs=1M 2>/dev/null | dd of=/dev/vdi bs=4k conv=fsync 2>/dev/null && echo copied: yes
mkdir /mnt && mount -t virtiofs there /mnt && echo "share: $(cat /mnt/file)"
echo "rng: $(cat /sys/class/misc/hw_random/rng_current) $(dd if=/dev/hwrng bs=512 count=8 2>/dev/null | wc -c)"
grep virtio /proc/interrupts
dmesg | grep -i 'nobody cared\\|irq.*disabl\\|virtio.*fail' && echo complaints: yes
"""
        words = [w for path, _ in disks for w in ("--disk", path)]
        out = net.boot(place, script, *MMIO, *words, "--share", f"{shared}:there", *options)
        assert "dhcp: yes" in out and "copied: yes" in out and "share: from the host" in out, out
        assert "functions: 1\n" in out, out  # the host bridge
        found = re.findall(r"^device: 0x0*([0-9a-f]+) (\S+)$", out, re.M)
        kinds = [int(kind, 16) for kind, _ in found]
        assert all(where.startswith("LNRO0005:") for _, where in found), found
        assert [kinds.count(k) for k in (1, 2, 4, 5, 19, 26)] == [1, 9, 1, 1, 1, 1], kinds
        for letter, (_, wanted) in zip("abci", [*disks[:3], disks[8]]):
            assert out.count(f"sum vd{letter}: {wanted}") == 3, (letter, wanted, out)
        with open(disks[8][0], "rb") as f:
            assert hashlib.md5(f.read()).hexdigest() == disks[0][1]
        assert re.search(r"^rng: virtio_rng.0 4096$", out, re.M), out
        lines = [l for l in out.splitlines() if re.match(r" *\d+: .*virtio", l)]
        assert lines and all(re.search(r"IO-APIC +(\d+)-fasteoi", l) for l in lines), lines  # levels, as the tables say
        assert any(re.search(r" 18-fasteoi .*virtio\d+, virtio\d+", l) for l in lines), lines
        assert "complaints" not in out, out
    test.__name__ = "_".join(["every_kind", *options]).replace("--", "")
    return test


def kept_in_the_configuration(place):
    def transport(name):
        place.good("wait", name)
        return json.loads(place.good("inspect", name))["config"]["virtio"]

    place.good(*place.guest("power", "--name", "kept", "-d", *MMIO))
    assert transport("kept") == "mmio"
    place.good("start", "kept")
    assert transport("kept") == "mmio"
    place.good(*place.guest("power", "--name", "plain", "-d"))
    assert transport("plain") == "pci"
    place.good("rm", "kept", "plain")
    place.refused(*place.guest("idle", "--virtio", "isa"), names=["--virtio", "isa", "pci|mmio"])
    place.refused("run", *MMIO, "debian:12", names=["--virtio", "machines"], status=125)


def programs_by_vsock(place):
    """The agent answers over the socket device."""
    need_guest()
    agent.start(place, "guest", *MMIO, "--cpus", "2")
    assert place.good("exec", "guest", "uname", "-s") == "Linux\n"
    data = os.urandom(MIB)
    status, out, _ = agent.raw(place, "exec", "-i", "guest", "cat", stdin=data)
    assert (status, out) == (0, data)
    agent.end(place)


def paused_and_reset_while_busy(place):
    """As disk.py's, over MMIO: the driver's reset comes in the middle of requests."""
    need_guest()
    path, _ = image(place, 0, 48 * MIB)
    shell = disk.Shell(place, "busy", *MMIO, "--cpus", "2", "--disk", path)
    shell.type("while :; do dd if=/dev/vda of=/dev/null bs=4k count=4000 2>/dev/null; done & sleep 0.2; echo started-$((1 + 1)).")
    shell.expect(r"started-2\.")
    for _ in range(5):
        place.good("pause", "busy")
        place.good("resume", "busy")
    shell.type("d=$(readlink -f /sys/block/vda/device); d=${d##*/}; echo $d >/sys/bus/virtio/drivers/virtio_blk/unbind;"
               " echo $d >/sys/bus/virtio/drivers/virtio_blk/bind; sleep 0.5; dd if=/dev/vda of=/dev/null bs=64k count=16; echo bound-$?.")
    assert shell.expect(r"bound-(\d)\.").group(1) == "0"
    shell.type("(while :; do dd if=/dev/vda of=/dev/null bs=4k 2>/dev/null; done) & sleep 0.2; echo b >/proc/sysrq-trigger")
    shell.expect("powers the machine off")
    shell.expect("# ")
    shell.type("dd if=/dev/vda of=/dev/null bs=64k; echo status-$?.")
    assert shell.expect(r"status-(\d)\.").group(1) == "0"
    shell.type("exit")
    shell.end()
    place.good("rm", "busy")


def self_checks(*options, cpus=1):
    return with_guest(disk.self_checks(cpus=cpus, more=[*MMIO, *options]),
                      "_".join(["self_checks", *options, f"{cpus}_cpus"]).replace("--", ""))


if __name__ == "__main__":
    SAMPLE = [kept_in_the_configuration, self_checks(), every_kind("--cpus", "2"), programs_by_vsock, paused_and_reset_while_busy]
    ALL = [self_checks("--engine", "interp"), self_checks(cpus=2), self_checks(cpus=4), every_kind(), every_kind("--cpus", "4"),
           with_guest(net.user_mode(*MMIO), "user_mode_1_cpus"), with_guest(net.user_mode(*MMIO, "--cpus", "2"), "user_mode_2_cpus")]
    sys.exit(run_tests(SAMPLE if sys.argv[1] == "check" else ALL))
