#!/usr/bin/env python3
"""Much input at once: every byte gets to the guest, in order, whether it takes interrupts or polls."""
import hashlib
import os
import random
import subprocess
import sys

from harness import LINUX, PATIENCE, Skip, run_tests

SIZE = 65536
TIMES = 4  # a wake-up that is lost is lost now and then


def expect(stream, wanted, seen=b""):
    """Read until `wanted` has come; what came behind it."""
    while wanted not in seen:
        got = os.read(stream.fileno(), 4096)
        assert got, f"the guest ended without {wanted!r}: {seen[-500:]!r}"
        seen += got
    return seen.split(wanted, 1)[1]


def into_linux(place):
    """Its driver takes interrupts. Nobody types meanwhile: a pause that only a key would end would be seen."""
    if not LINUX:
        raise Skip("no default guest: TRAPEZE_GUEST is not set")
    initrd = os.path.join(os.path.dirname(LINUX), "initrd.cpio")
    p = place.start("run", "--rm", "--no-reboot", "--kernel", LINUX, "--initrd", initrd, "--memory", "256M", "--append",
                    "console=ttyS0 quiet panic=-1 reboot=t", stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    behind = expect(p.stdout, b"# ", expect(p.stdout, b"powers the machine off"))
    for n in range(TIMES):
        p.stdin.write(b"stty raw -echo; echo REA''DY; head -c %d | md5sum; stty sane; echo DO''NE\n" % SIZE)
        behind = expect(p.stdout, b"READY", behind)
        data = random.Random(n).randbytes(SIZE)
        p.stdin.write(data)
        behind = expect(p.stdout, hashlib.md5(data).hexdigest().encode(), behind)
        behind = expect(p.stdout, b"# ", expect(p.stdout, b"DONE", behind))
    p.stdin.write(b"poweroff -f\n")
    p.stdin.close()
    assert p.wait(PATIENCE) == 0, p.returncode
    p.stdout.close()


def into_a_guest_that_polls(place):
    p = place.start(*place.guest("e", "--rm"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert p.stdout.read(1) == b">"
    data = random.Random(1).randbytes(SIZE).replace(b"q", b"Q")
    out, _ = p.communicate(data + b"q", timeout=PATIENCE)
    assert p.returncode == 0, p.returncode
    assert out == data, (len(out), len(data))


if __name__ == "__main__":
    sys.exit(run_tests([into_a_guest_that_polls, into_linux]))
