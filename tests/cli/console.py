#!/usr/bin/env python3
"""console.py check|all: Debian's kernel at a virtio console: what is typed and printed gets through, and the size of the terminal."""
import fcntl
import hashlib
import json
import os
import random
import struct
import subprocess
import sys
import termios
import time

from harness import LINUX, PATIENCE, Skip, run_tests
from terminal import Terminal

SIZE = 65536
LEAVE = "\x1d"


def linux(*options, append="quiet panic=-1 reboot=t"):
    """Words of `run`; the kernel is not told what its console is."""
    if not LINUX:
        raise Skip("no default guest: TRAPEZE_GUEST is not set")
    if not os.path.exists(os.path.join(os.path.dirname(LINUX), "modules", "virtio_console.ko")):
        raise Skip("the default guest is older than virtio consoles: make guest")
    initrd = os.path.join(os.path.dirname(LINUX), "initrd.cpio")
    return ["run", "--console", "virtio", "--kernel", LINUX, "--initrd", initrd, "--memory", "256M", "--append", append,
            "--no-reboot", "--rm", *options]


def resize(terminal, rows, columns):
    fcntl.ioctl(terminal.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def until_size(terminal, rows, columns):
    """The guest is told while its shell runs already: ask until it knows."""
    terminal.type(f"until [ \"$(stty size)\" = '{rows} {columns}' ]; do sleep 0.1; done; echo it ''is {rows} by {columns}\n")
    terminal.expect(f"it is {rows} by {columns}")


def sizes(*options):
    def test(place):
        words = linux("--name", "web", *options)
        with Terminal(place) as t:
            resize(t, 37, 101)
            t.start(*words)
            t.expect("powers the machine off")
            t.expect("# ")
            until_size(t, 37, 101)  # it was as large before the guest had a driver
            resize(t, 43, 132)
            until_size(t, 43, 132)
            t.type("sh -c \"trap 'echo re\"\"sized' WINCH; echo trap\"\"ped; while :; do sleep 0.2; done\"\n")
            t.expect("trapped")
            resize(t, 24, 80)
            t.expect("resized")  # a program that runs is told by a signal
            t.type(LEAVE)
            assert t.end() == 0 and t.restored()
        with Terminal(place) as t:  # another terminal, of another size, finds the guest as it is
            resize(t, 50, 90)
            t.start("console", "web")
            t.expect("trapped")
            t.type("\x03")
            t.expect("# ")
            until_size(t, 50, 90)
            t.type("exit\n")
            assert t.end() == 0
    test.__name__ = "_".join(["sizes", *options]).replace("-", "")
    return test


def expect(stream, wanted, seen=b""):
    while wanted not in seen:
        got = os.read(stream.fileno(), 65536)
        assert got, f"the guest ended without {wanted!r}: {seen[-500:]!r}"
        seen += got
    return seen.split(wanted, 1)[1]


def shell(place, *options):
    """A machine with a shell at pipes, and what it printed behind its prompt."""
    p = place.start(*linux("--name", "web", *options), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    return p, expect(p.stdout, b"# ", expect(p.stdout, b"powers the machine off"))


def finish(p):
    p.stdin.write(b"poweroff -f\n")
    p.stdin.close()
    assert p.wait(PATIENCE) == 0, p.returncode
    p.stdout.close()


def much_in(*options, times=3):
    """Every byte typed gets there, in order, also while the guest does not read."""
    def test(place):
        p, behind = shell(place, *options)
        for n in range(times):
            p.stdin.write(b"stty raw -echo; echo REA''DY; sleep 0.3; head -c %d | md5sum; stty sane; echo DO''NE\n" % SIZE)
            behind = expect(p.stdout, b"READY", behind)
            data = random.Random(n).randbytes(SIZE).replace(b"\x0f", b"o")  # ^O begins a SysRq at Linux's hvc consoles
            p.stdin.write(data)
            behind = expect(p.stdout, hashlib.md5(data).hexdigest().encode(), behind)
            behind = expect(p.stdout, b"# ", expect(p.stdout, b"DONE", behind))
        finish(p)
    test.__name__ = "_".join(["much_in", *options]).replace("-", "")
    return test


def much_out(*options):
    """Every byte printed comes, though nobody reads for a while, the machine is paused in the middle, or its CPUs wait."""
    def test(place):
        p, behind = shell(place, *options)
        p.stdin.write(b"stty -opost; echo REA''DY; seq 1 150000; echo DO''NE\n")
        behind = expect(p.stdout, b"READY\n", behind)
        place.good("pause", "web")
        time.sleep(0.3)
        status = json.loads(place.good("inspect", "web"))
        assert status["machine"]["state"] == "paused" if "machine" in status else True
        place.good("resume", "web")
        seen = behind
        while b"DONE\n" not in seen:
            got = os.read(p.stdout.fileno(), 65536)
            assert got, seen[-300:]
            seen += got
            if len(seen) < 100000:
                time.sleep(0.01)
        text = seen.split(b"DONE\n")[0]
        wrong = set(text.split(b"\n")) - {b"%d" % n for n in range(1, 150001)}
        assert text == b"".join(b"%d\n" % n for n in range(1, 150001)), (len(text), wrong)
        log = place.good("logs", "web").encode()
        assert log.count(text) == 1, "the log has something else"
        finish(p)
    test.__name__ = "_".join(["much_out", *options]).replace("-", "")
    return test


def both_show(place):
    """The serial port is there as well: what the guest prints to it is shown, what is typed does not go there."""
    p, behind = shell(place)
    p.stdin.write(b"(read x </dev/ttyS0; echo ty''ped) & echo ser''ial >/dev/ttyS0; sleep 0.2; echo al''ive\n")
    behind = expect(p.stdout, b"alive", expect(p.stdout, b"serial", behind))
    assert b"typed" not in behind
    finish(p)


def command_lines(place):
    """What the guest is told of its console, by what was asked for."""
    guest = os.environ["GUEST"]
    for words, wanted in [([], "console=ttyS0"), (["--console", "virtio"], "console=hvc0"),
                          (["--append", ""], ""), (["--append", "s x"], "s x"),
                          (["--console", "virtio", "--append", "s x"], "s x console=hvc0"),
                          (["--console", "virtio", "--append", "s myconsole=1"], "s myconsole=1 console=hvc0"),
                          (["--console", "virtio", "--append", "s console=ttyS0"], "s console=ttyS0")]:
        place.good("run", "-d", "--name", "web", "--kernel", guest, "--memory", "16M", *words)
        place.run("kill", "web")  # some of these end by themselves
        place.good("wait", "web")
        config = json.loads(place.good("inspect", "web"))["config"]
        assert config["append"] == wanted, (words, config)
        place.good("rm", "-f", "web")
    place.refused("run", "--kernel", guest, "--console", "vga", names=["--console", "serial|virtio"])
    place.refused("run", "--kernel", guest, "--console", "virtio", "--append", "x" * 2040, names=["--append", "hvc0"])


CHECK = [command_lines, sizes(), much_in(), much_out(), both_show, much_in("--cpus", "2", times=1)]
ALL = [sizes("--cpus", "2"), sizes("--engine", "interp"), much_in("--cpus", "4", times=20), much_out("--cpus", "2"),
       much_in("--engine", "interp"), much_out("--engine", "interp")]

if __name__ == "__main__":
    sys.exit(run_tests(CHECK if sys.argv[1] == "check" else ALL))
