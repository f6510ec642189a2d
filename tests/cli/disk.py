#!/usr/bin/env python3
"""disk.py check|all: Debian's kernel with disks: what it wrote and flushed is in the file, errors are named, users locked out."""
import json
import os
import re
import subprocess
import sys
import time

from harness import LINUX, TRAPEZE, Skip, run_tests

MIB = 1 << 20
os.environ["PATH"] += ":/usr/sbin:/sbin"  # e2fsck, debugfs
SELFTEST = "console=ttyS0 panic=-1 reboot=t trapeze.selftest trapeze.disk"


def need_guest():
    if not LINUX:
        raise Skip("no default guest: TRAPEZE_GUEST is not set")
    if not os.path.exists(os.path.join(os.path.dirname(LINUX), "modules", "virtio_blk.ko")):
        raise Skip("the default guest is older than disks: make guest")


def linux(place, append, *options):
    initrd = os.path.join(os.path.dirname(LINUX), "initrd.cpio")
    return ["run", "--kernel", LINUX, "--initrd", initrd, "--memory", "256M", "--append", append, *options]


def image(place, name="disk.img", size=48 * MIB):
    path = os.path.join(place.path, name)
    with open(path, "wb") as f:
        f.truncate(size)
    return path


def md5_in_image(path, name):
    dump = path + ".dump"
    subprocess.run(["debugfs", "-R", f"dump {name} {dump}", path], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    return subprocess.run(["md5sum", dump], check=True, stdout=subprocess.PIPE, text=True).stdout[:32]


def self_checks(*options, cpus=1, more=()):
    def test(place):
        need_guest()
        path = image(place)
        status, out, err = place.run(*linux(place, SELFTEST, "--rm", "--no-reboot", "--cpus", str(cpus), "--disk",
                                            ",".join([path, *options]), *more),
                                     timeout=120)
        out = out.replace("\r", "")
        assert status == 0 and re.search(r"^selftest: [1-9]\d+ ok, 0 bad$", out, re.M), (status, out[-3000:], err)
        assert "ok data comes back from the disk" in out
        subprocess.run(["e2fsck", "-fn", path], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        (wanted,) = re.findall(r"^disk data: ([0-9a-f]{32})$", out, re.M)
        assert md5_in_image(path, "/data") == wanted
        assert os.stat(path).st_size == 48 * MIB
    test.__name__ = "_".join(["self_checks", *options, f"{cpus}_cpus"]).replace("=", "_").replace(",", "_")
    return test


def ordinary_user(place):
    """The kernel does in workers what would wait; they count as processes of the user, unless he is root."""
    if os.geteuid() != 0:
        raise Skip("only root can play another user; the other tests are run as one")
    user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    words = linux(place, SELFTEST, "--rm", "--no-reboot", "--disk", image(place))
    files = [TRAPEZE, LINUX, os.path.join(os.path.dirname(LINUX), "initrd.cpio")] if LINUX else []
    need_guest()
    if not all(subprocess.run([*user, "test", "-r", f]).returncode == 0 for f in files):
        raise Skip("others can not read the program or the guest")
    own = os.path.join(place.path, "own")
    os.mkdir(own)
    for path in (own, os.path.join(place.path, "disk.img")):
        os.chown(path, 65534, 65534)
    os.chmod(place.path, 0o755)
    p = subprocess.run([*user, TRAPEZE, *words], input=b"", stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       env={**place.env, "XDG_STATE_HOME": own}, timeout=120)
    out = p.stdout.decode(errors="replace").replace("\r", "")
    assert p.returncode == 0 and re.search(r"^selftest: [1-9]\d+ ok, 0 bad$", out, re.M), (p.returncode, out[-3000:], p.stderr)


def errors_are_named(place):
    path = image(place)
    qcow, odd, none = image(place, "a.qcow2"), image(place, "odd.img", 1000), os.path.join(place.path, "none.img")
    plain = image(place, "plain")

    def refused(spec, *names):
        place.refused(*place.guest("idle", "--disk", spec), names=names)

    refused(none, none, "No such file")
    refused(odd, odd, "1000 bytes", "truncate")
    refused(qcow, qcow, "not there yet")
    refused(plain, plain, "suffix", "format=raw")
    refused(path + ",cache=much", "cache=much", "writeback")
    refused(path + ",sparkle", "sparkle", "readonly")
    refused(path + ",format=vmdk", "vmdk", "raw")
    refused("", "disk")
    refused(place.path + ",format=raw", "Is a directory")
    refused("/dev/null,format=raw", "neither a file nor")
    place.refused(*place.guest("idle", *["--disk", path] * 17), names=["16"])
    place.refused(*place.guest("idle", "--disk", path, "--disk", path), names=[path, "uses it"], status=3)


def users_are_locked_out(place):
    path, other = image(place), image(place, "other.raw")
    place.good(*place.guest("idle", "--name", "first", "-d", "--disk", path, "--disk", other + ",readonly"))
    place.refused(*place.guest("idle", "--name", "second", "--disk", path), names=[path, "uses it", "readonly"], status=3)
    place.refused(*place.guest("idle", "--name", "second", "--disk", other), names=[other, "uses it"], status=3)
    place.good(*place.guest("idle", "--name", "third", "-d", "--disk", other + ",readonly"))
    first = json.loads(place.good("inspect", "first"))
    assert [d["file"] for d in first["config"]["disks"]] == [path, other], first["config"]
    assert [d["readonly"] for d in first["disks"]] == [False, True], first["disks"]
    assert first["disks"][0]["bytes"] == 48 * MIB and first["disks"][0]["cache"] in ("none", "writeback")
    for name in ("first", "third"):
        place.good("kill", name)
        place.good("rm", name)
    place.good(*place.guest("idle", "--name", "again", "-d", "--disk", path))  # the lock has gone with its holder
    place.good("kill", "again")
    place.good("rm", "again")


class Shell:
    """A machine whose shell we type into."""

    def __init__(self, place, name, *options):
        self.place, self.name = place, name
        self.process = place.start(*linux(place, "console=ttyS0 quiet", "--name", name, *options), stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        os.set_blocking(self.process.stdout.fileno(), False)
        self.text = ""
        self.expect("powers the machine off")
        self.expect("# ")

    def type(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def expect(self, pattern):
        deadline = time.monotonic() + 60
        while not re.search(pattern, self.text):
            assert time.monotonic() < deadline, (pattern, self.text[-2000:])
            ended = self.process.poll() is not None
            more = (self.process.stdout.read() or b"").decode(errors="replace")
            self.text += more
            assert not ended or more, (pattern, "the machine has ended", self.text[-2000:])
            time.sleep(0.01)
        found = re.search(pattern, self.text)
        self.text = self.text[found.end():]
        return found

    def end(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def bad_disks(place):
    """Read-only, cut short while in use: the guest gets errors of its device, the machine goes on."""
    need_guest()
    path, cut = image(place), image(place, "cut.img", 4 * MIB)
    with open(path, "r+b") as f:
        f.write(b"written before")
    shell = Shell(place, "bad", "--disk", path + ",readonly", "--disk", cut)
    shell.type("cat /sys/block/vda/ro; head -c 14 /dev/vda; echo; echo x >/dev/vda; echo status-$?.")
    shell.expect("1\r\nwritten before")
    assert shell.expect(r"status-(\d)\.").group(1) != "0"
    os.truncate(cut, MIB)
    shell.type("dd if=/dev/vdb of=/dev/null bs=64k count=16; echo status-$?.")
    assert shell.expect(r"status-(\d)\.").group(1) == "0"
    shell.type("dd if=/dev/vdb of=/dev/null bs=64k skip=32 count=1; echo status-$?.")
    assert shell.expect(r"status-(\d)\.").group(1) == "1"
    shell.type("dd if=/dev/zero of=/dev/vdb bs=64k seek=32 count=1 conv=fsync; echo status-$?.")
    assert shell.expect(r"status-(\d)\.").group(1) == "1"
    assert os.stat(cut).st_size == MIB
    disks = json.loads(place.good("inspect", "bad"))["disks"]
    assert disks[1]["errors"] > 0 and disks[1]["last_error"] == os.strerror(5), disks
    assert disks[0]["written"] == 0, disks
    shell.type("exit")
    shell.end()
    assert shell.process.returncode == 0
    place.good("rm", "bad")


def no_space_left(place):
    """The image's file system is full: the guest's writes fail, the machine goes on, and works again when there is room."""
    need_guest()
    mount = 'mount -t tmpfs -o size=4m none "$1" && echo mounted && exec sleep 1000'
    holder = subprocess.Popen(["unshare", *([] if os.geteuid() == 0 else ["-r"]), "-m", "sh", "-c", mount, "sh", place.path],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        if holder.stdout.readline() != b"mounted\n":
            raise Skip("no mount namespace with a file system of its own")
        inside = f"/proc/{holder.pid}/root{place.path}"
        path, ballast = image(place=type("", (), {"path": inside}), size=16 * MIB), os.path.join(inside, "ballast")
        with open(ballast, "wb") as f:
            f.write(bytes(3 * MIB))
        shell = Shell(place, "full", "--disk", path)
        write = "dd if=/dev/zero of=/dev/vda bs=64k count=32 conv=fsync; echo status-$?."
        shell.type(write)
        assert shell.expect(r"status-(\d)\.").group(1) == "1"
        (disk,) = json.loads(place.good("inspect", "full"))["disks"]
        assert disk["errors"] > 0 and disk["last_error"] == os.strerror(28), disk
        assert [m["state"] for m in place.machines()] == ["running"]
        os.unlink(ballast)
        shell.type(write)
        assert shell.expect(r"status-(\d)\.").group(1) == "0"
        shell.type("exit")
        shell.end()
        place.good("rm", "full")
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def block_devices(place):
    """A device of the host: no suffix needed, written to, discarded, locked; one that is mounted is refused."""
    need_guest()
    path = image(place, size=8 * MIB)
    made = subprocess.run(["losetup", "--show", "-f", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    if made.returncode:
        raise Skip("no loop device can be made")
    device = made.stdout.strip()
    try:
        shell = Shell(place, "device", "--disk", device)
        place.refused(*place.guest("idle", "--name", "second", "--disk", device), names=[device, "uses it"], status=3)
        shell.type("tr '\\0' y </dev/zero | dd of=/dev/vda bs=64k count=16 iflag=fullblock conv=fsync; blkdiscard -o 65536 -l 65536 /dev/vda;"
                   " echo status-$?.; dd if=/dev/vda bs=64k count=2 | md5sum")
        assert shell.expect(r"status-(\d)\.").group(1) == "0"
        wanted = subprocess.run(["md5sum"], input=b"y" * 65536 + bytes(65536), stdout=subprocess.PIPE).stdout[:32].decode()
        shell.expect(wanted)
        (disk,) = json.loads(place.good("inspect", "device"))["disks"]
        assert disk["bytes"] == 8 * MIB and disk["errors"] == 0, disk
        shell.type("mke2fs /dev/vda >/dev/null; exit")
        shell.end()
        place.good("rm", "device")
        there = os.path.join(place.path, "mounted")
        os.mkdir(there)
        if subprocess.run(["mount", device, there], stderr=subprocess.DEVNULL).returncode == 0:
            try:
                place.refused(*place.guest("idle", "--name", "second", "--disk", device), names=[device, "mounted"], status=3)
            finally:
                subprocess.run(["umount", there], check=True)
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


def pause_and_reset(place):
    """Paused, saved and reset while the disk is busy."""
    need_guest()
    path = image(place)
    shell = Shell(place, "busy", "--disk", path)
    shell.type("dd if=/dev/zero of=/dev/vda bs=4k & while :; do dd if=/dev/vda of=/dev/null bs=4k count=4000 2>/dev/null; done &")
    for _ in range(10):
        place.good("pause", "busy")
        first = json.loads(place.good("inspect", "busy"))["disks"]
        second = json.loads(place.good("inspect", "busy"))["disks"]
        assert first == second, "a paused machine's disk went on"
        place.good("resume", "busy")
    shell.type("echo b >/proc/sysrq-trigger")
    shell.expect("powers the machine off")
    shell.expect("# ")
    shell.type("md5sum /dev/vda; echo status-$?.")
    assert shell.expect(r"status-(\d)\.").group(1) == "0"
    shell.type("exit")
    shell.end()
    place.good("rm", "busy")


if __name__ == "__main__":
    SAMPLE = [errors_are_named, users_are_locked_out, self_checks(), self_checks(cpus=2), ordinary_user, bad_disks, no_space_left, block_devices,
              pause_and_reset]
    ALL = [self_checks("cache=none"), self_checks("cache=writeback"), self_checks("cache=writethrough")]
    sys.exit(run_tests(SAMPLE if sys.argv[1] == "check" else ALL))
