#!/usr/bin/env python3
"""memory.py check|all: Debian's kernel in machines of different sizes checks itself, the size it sees with it.

Between 3 and 4 GiB of guest-physical addresses are devices: a machine with more than 3 GiB has the rest above 4 GiB.
"""
import os
import re
import sys

from harness import LINUX, Skip, run_tests

TIMEOUT = 300
ARGUMENTS = "console=ttyS0 panic=-1 reboot=t trapeze.selftest"


def boot(place, mebibytes):
    """Status, console and messages of a machine of this size."""
    if not LINUX:
        raise Skip("no default guest: TRAPEZE_GUEST is not set")
    initrd = os.path.join(os.path.dirname(LINUX), "initrd.cpio")
    return place.run("run", "--rm", "--no-reboot", "--kernel", LINUX, "--initrd", initrd, "--memory", f"{mebibytes}M",
                     "--append", f"{ARGUMENTS} trapeze.memory={mebibytes}", timeout=TIMEOUT)


def boots_with(mebibytes):
    def test(place):
        status, out, err = boot(place, mebibytes)
        assert status == 0, (status, out[-2000:], err)
        assert re.search(r"^selftest: \d+ ok, 0 bad\r?$", out, re.M), out[-2000:]
        assert "ok memory not much less than given" in out, out[-2000:]
        high = re.search(r"BIOS-e820: \[mem 0x0000000100000000-0x([0-9a-f]+)\] usable", out)
        if mebibytes <= 3072:
            assert not high, high.group(0)
        else:
            assert high and int(high.group(1), 16) == (mebibytes + 1024 << 20) - 1, out[:3000]
    test.__name__ = f"boots_with_{mebibytes}_mib"
    return test


def ends_with_little(place):
    """The kernel asks for 68 MiB to unpack itself, the initrd for two more: with less they are refused."""
    for mebibytes in (64, 68):
        status, _, err = boot(place, mebibytes)
        assert status == 1 and err.count("\n") == 1, (mebibytes, status, err)
        assert f"the machine has {mebibytes} MiB" in err and "--memory" in err, (mebibytes, err)


def suffers_with_little(place):
    """What loads but is hardly enough to live in: the kernel panics or kills for want of memory, which the guest ends by a
    triple fault, or all is well. It ends."""
    for mebibytes in (71, 72, 76, 80):
        status, out, err = boot(place, mebibytes)
        works = status == 0 and "reboot: Power down" in out
        assert works or (status == 2 and re.search("Kernel panic|Out of memory", out)), (mebibytes, status, out[-2000:], err)


if __name__ == "__main__":
    SAMPLE = [ends_with_little, boots_with(96), boots_with(4096)]
    ALL = [boots_with(n) for n in (96, 128, 512, 3072, 3073, 3200, 4096, 8192)] + [ends_with_little, suffers_with_little]
    sys.exit(run_tests(SAMPLE if sys.argv[1] == "check" else ALL))
