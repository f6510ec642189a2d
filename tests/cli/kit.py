#!/usr/bin/env python3
"""kit.py check|all: the measuring kit in Debian's kernel. Not its speed is tested, but that everything it computes is right."""
import os
import re
import subprocess
import sys

from harness import LINUX, Skip, run_tests

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
KIT = os.environ["KIT"]
CHECKS = 25
TIMEOUT = 1700


def run_kit(place, mode):
    """Lines that the guest printed, having powered off."""
    if not LINUX:
        raise Skip("no default guest: TRAPEZE_GUEST is not set")
    initrd = os.path.join(place.path, "kit.cpio")
    subprocess.run([os.path.join(ROOT, "bench/kit/mkinitrd"), initrd, os.path.join(os.path.dirname(LINUX), "busybox"), KIT],
                   check=True)
    out = place.good("run", "--rm", "--no-reboot", "--kernel", LINUX, "--initrd", initrd, "--append",
                     f"console=ttyS0 quiet panic=-1 reboot=t kit.mode={mode}", timeout=TIMEOUT)
    lines = out.replace("\r", "").splitlines()
    wrong = [line for line in lines if re.match(r"\S+ +BAD", line)]
    assert not wrong, wrong
    assert "KIT DONE status=0" in lines, lines[-20:]
    return lines


def checks(place):
    lines = run_kit(place, "check")
    good = [line for line in lines if re.match(r"chk_\S+ +OK$", line)]
    assert len(good) == CHECKS, good


def workloads(place):
    lines = run_kit(place, "quick")
    names = subprocess.run([KIT, "--list"], check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    seen = {line.split()[0] for line in lines if " # mean=" in line or " SKIP " in line}
    assert seen == set(names), set(names) - seen


if __name__ == "__main__":
    sys.exit(run_tests([checks] if sys.argv[1] == "check" else [workloads]))
