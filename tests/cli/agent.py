#!/usr/bin/env python3
"""agent.py: exec and cp in Debian's kernel, by the agent that is the default guest's init."""
import hashlib
import json
import os
import random
import signal
import stat
import subprocess
import sys
import tarfile
import time

from harness import LINUX, PATIENCE, Skip, run_tests
from terminal import Terminal

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
AGENT = os.environ["AGENT"]
MIB = 1 << 20


def start(place, name="guest", *options):
    """A machine with the agent of this build."""
    if not LINUX:
        raise Skip("no default guest: TRAPEZE_GUEST is not set")
    guest = os.path.dirname(LINUX)
    if not os.path.exists(os.path.join(guest, "modules", "vmw_vsock_virtio_transport.ko")):
        raise Skip("the default guest is older than the agent: make guest")
    initrd = os.path.join(place.path, "agent.cpio")
    if not os.path.exists(initrd):
        subprocess.run([os.path.join(ROOT, "tools/make-initrd"), initrd, os.path.join(guest, "busybox"),
                        os.path.join(ROOT, "tools/guest"), os.path.join(guest, "modules"), AGENT], check=True)
    place.good("run", "-d", "--name", name, "--kernel", LINUX, "--initrd", initrd, "--append", "console=ttyS0 quiet",
               *options)
    return name


def end(place, name="guest"):
    place.good("kill", name)
    place.good("rm", name)


def raw(place, *words, stdin=b""):
    """Status, and bytes."""
    p = subprocess.run([os.environ["TRAPEZE"], *words], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       env=place.env, timeout=PATIENCE)
    return p.returncode, p.stdout, p.stderr


def status_and_streams(place):
    start(place)
    assert place.good("exec", "guest", "uname", "-s") == "Linux\n"  # while it boots: waited for
    assert place.run("exec", "guest", "sh", "-c", "echo out; echo err >&2; exit 7") == (7, "out\n", "err\n")
    for number in (1, 9, 15):
        assert place.run("exec", "guest", "sh", "-c", f"kill -{number} $$")[0] == 128 + number
    for word, status, what in (("/nosuch", 127, "No such file"), ("/etc/passwd", 126, "denied"), ("/bin", 126, "denied")):
        place.refused("exec", "guest", word, names=[word, what], status=status)
    place.refused("exec", "-u", "nobody-here", "guest", "true", names="nobody-here", status=125)
    place.refused("exec", "-w", "/nosuch", "guest", "true", names="/nosuch", status=125)
    place.refused("exec", "-e", "novalue", "guest", "true", names="novalue", status=125)
    place.refused("exec", "other", "true", names="other", status=125)
    assert place.good("exec", "guest", "cat", stdin=b"not given") == ""
    assert place.good("exec", "-w", "/tmp", "-e", "A=1 2", "-e", "HOME=/x", "guest", "sh", "-c",
                      "pwd; echo $A $HOME $USER") == "/tmp\n1 2 /x root\n"
    assert place.good("exec", "-u", "1234:77", "guest", "id", "-u") == "1234\n"
    assert place.good("exec", "-u", "1234:77", "guest", "id", "-g") == "77\n"
    assert place.good("exec", "guest", "printf", "%s.", "a b", "", "-x", "'") == "a b..-x.'."
    # what it leaves running is not waited for
    before = time.monotonic()
    place.good("exec", "guest", "sh", "-c", "sleep 1000 & echo started")
    assert time.monotonic() - before < PATIENCE
    end(place)


def much_data(place):
    start(place)
    data = random.Random(1).randbytes(10 * MIB)
    status, out, err = raw(place, "exec", "-i", "guest", "cat", stdin=data)
    assert status == 0 and out == data, (status, len(out), err)
    status, out, err = raw(place, "exec", "-i", "guest", "sh", "-c", "tee /dev/stderr | md5sum", stdin=data)
    assert err == data and out.split()[0].decode() == hashlib.md5(data).hexdigest()
    # a program that takes no input, or ends early, holds nobody up
    assert raw(place, "exec", "-i", "guest", "sh", "-c", "exit 3", stdin=data)[0] == 3
    assert raw(place, "exec", "-i", "guest", "head", "-c", "5", stdin=data)[1] == data[:5]
    # a reader of ours that goes
    p = place.start("exec", "guest", "cat", "/dev/zero", stdout=subprocess.PIPE)
    p.stdout.read(MIB)
    p.stdout.close()
    assert p.wait(PATIENCE) == 128 + signal.SIGPIPE
    # a reader that is slow: what a stopped program of ours does not read is not lost
    p = place.start("exec", "-i", "guest", "cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    p.stdin.write(data[:50000])
    p.stdin.flush()
    time.sleep(0.3)
    assert p.communicate(data[50000:], timeout=PATIENCE)[0] == data
    # many at once
    many = [place.start("exec", "-i", "guest", "md5sum", stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(20)]
    for n, p in enumerate(many):
        p.stdin.write(data[n:MIB])
        p.stdin.close()
    for n, p in enumerate(many):
        assert p.stdout.read().split()[0].decode() == hashlib.md5(data[n:MIB]).hexdigest()
        assert p.wait(PATIENCE) == 0
        p.stdout.close()
    end(place)


def signals(place):
    start(place)
    script = "trap 'echo term; exit 5' TERM; trap 'echo user' USR1; echo ready; while :; do sleep 0.05; done"
    p = place.start("exec", "guest", "sh", "-c", script, stdout=subprocess.PIPE, text=True)
    assert p.stdout.readline() == "ready\n"
    p.send_signal(signal.SIGUSR1)
    assert p.stdout.readline() == "user\n"
    p.send_signal(signal.SIGTERM)
    assert p.stdout.read() == "term\n"
    assert p.wait(PATIENCE) == 5
    # a client that is gone: its program gets a hang-up
    p = place.start("exec", "guest", "sh", "-c", "echo $$; exec sleep 1234", stdout=subprocess.PIPE, text=True)
    pid = p.stdout.readline().strip()
    p.kill()
    p.wait()
    p.stdout.close()
    place.until(lambda: place.run("exec", "guest", "kill", "-0", pid)[0] != 0, "the end of a program without a client")
    # signals get through to a program that reads nothing of much input
    p = place.start("exec", "-i", "guest", "sh", "-c", "echo ready; exec sleep 1234", stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE)
    assert p.stdout.readline() == b"ready\n"
    os.set_blocking(p.stdin.fileno(), False)
    try:
        while p.stdin.raw.write(bytes(65536)):
            time.sleep(0.01)
    except BlockingIOError:
        pass
    p.send_signal(signal.SIGINT)
    assert p.wait(PATIENCE) == 128 + signal.SIGINT
    p.stdout.close()
    p.stdin.close()
    end(place)


def terminal(place):
    start(place)
    with Terminal(place, "exec", "-it", "guest", "sh") as t:
        t.expect("# ")
        t.type("tty; echo $TERM; stty -echo; echo qui''et\r")
        t.expect("/dev/pts/")
        t.expect("xterm")
        t.expect("quiet")
        import fcntl
        import struct
        import termios
        fcntl.ioctl(t.master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
        os.kill(t.process.pid, signal.SIGWINCH)
        t.type("sleep 0.5; stty size\r")
        t.expect("33 77")
        t.type("sleep 1000\r")
        time.sleep(0.5)
        t.type("\x03")  # Ctrl-C is the guest's
        t.type("echo al''ive; exit 9\r")
        t.expect("alive")
        assert t.end() == 9
        assert t.restored()
    assert place.good("exec", "-t", "guest", "sh", "-c", "test -t 0 && test -t 1 && echo yes") == "yes\r\n"
    end(place)


def make_tree(path):
    """Files of many kinds; returns nothing, the disk knows."""
    draw = random.Random(2)
    os.makedirs(os.path.join(path, "sub/deep/er"))
    os.mkdir(os.path.join(path, "empty"), 0o711)
    for n in range(200):
        where = os.path.join(path, ["", "sub", "sub/deep/er"][n % 3], f"file {n} \u00e4")
        with open(where, "wb") as f:
            f.write(draw.randbytes(draw.choice([0, 1, 100, 4096, 65536, 65537, 200000])))
        os.chmod(where, draw.choice([0o600, 0o644, 0o755, 0o400]))
        os.utime(where, ns=(0, draw.randrange(10**18, 15 * 10**17)))
    os.symlink("../outside", os.path.join(path, "sub/link"))
    os.symlink("/etc/passwd", os.path.join(path, "absolute"))
    os.chmod(os.path.join(path, "sub/deep"), 0o550)
    os.utime(os.path.join(path, "sub"), ns=(0, 10**18 + 5))


def listing(path):
    found = {}
    for folder, dirs, files in os.walk(path):
        for name in [*dirs, *files, "."]:
            full = os.path.join(folder, name)
            s = os.lstat(full)
            if stat.S_ISLNK(s.st_mode):
                what = os.readlink(full)
            elif stat.S_ISREG(s.st_mode):
                with open(full, "rb") as f:
                    what = hashlib.md5(f.read()).hexdigest()
            else:
                what = ""
            found[os.path.relpath(full, path)] = (oct(s.st_mode), s.st_mtime_ns, what)
    return found


def assert_same(got, wanted):
    assert got == wanted, [(name, got.get(name), wanted.get(name)) for name in {*got, *wanted} if got.get(name) != wanted.get(name)][:5]


def files(place):
    start(place)
    here = os.path.join(place.path, "tree")
    os.mkdir(here)
    make_tree(here)
    wanted = listing(here)
    back = os.path.join(place.path, "back")
    place.good("cp", here, "guest:/tmp/")  # into a directory, under its name
    assert "file 199" in place.good("exec", "guest", "ls", "/tmp/tree/sub")
    place.good("cp", "guest:/tmp/tree", back)  # to a new name
    assert_same(listing(back), wanted)
    place.good("cp", "guest:/tmp/tree", back)  # into a directory that is there
    assert_same(listing(os.path.join(back, "tree")), wanted)
    contents = os.path.join(place.path, "contents")
    os.mkdir(contents)
    place.good("cp", "guest:/tmp/tree/.", contents)
    assert sorted(os.listdir(contents)) == sorted(os.listdir(here))
    # tar, out and in
    tar = os.path.join(place.path, "out.tar")
    with open(tar, "wb") as f:
        subprocess.run([os.environ["TRAPEZE"], "cp", "guest:/tmp/tree", "-"], stdout=f, env=place.env, check=True)
    with tarfile.open(tar) as t:
        names = {m.name: m for m in t.getmembers()}
        assert len(names) == len([n for n in wanted if os.path.basename(n) != "." or n == "."]), (len(names), len(wanted))
        assert names["tree/sub/link"].linkname == "../outside"
    place.good("exec", "guest", "mkdir", "/tmp/again")
    with open(tar, "rb") as f:
        subprocess.run([os.environ["TRAPEZE"], "cp", "-", "guest:/tmp/again"], stdin=f, env=place.env, check=True)
    place.good("cp", "guest:/tmp/again/tree", os.path.join(place.path, "again"))
    assert_same(listing(os.path.join(place.path, "again")), wanted)
    # single files, names, what stands in the way
    one = os.path.join(place.path, "one")
    with open(one, "wb") as f:
        f.write(b"one")
    place.good("cp", one, "guest:/tmp/two")
    place.good("cp", one, "guest:/tmp/two")  # replaced
    assert place.good("exec", "guest", "cat", "/tmp/two") == "one"
    place.good("exec", "guest", "chmod", "4755", "/tmp/two")
    place.good("cp", "guest:/tmp/two", one)
    assert os.stat(one).st_mode & 0o7777 == 0o755  # no set-user-id bit from a guest
    place.refused("cp", one, "guest:/nosuch/x", names=["/nosuch", "No such file"])
    place.refused("cp", one, "guest:/tmp/new/", names=["/tmp/new/", "no such directory"])
    place.refused("cp", "guest:/nosuch", one, names=["/nosuch", "No such file"])
    place.refused("cp", "guest:/dev/null", one, names=["/dev/null", "device"])
    place.refused("cp", here, "guest:/tmp/two", names=["/tmp/two", "directory"])
    place.refused("cp", one, one, names="NAME:PATH")
    place.refused("cp", "guest:/a", "guest:/b", names="NAME:PATH")
    place.refused("cp", one, "other:/tmp", names="other")
    status, out, err = place.run("cp", "guest:/dev", os.path.join(place.path, "dev"))
    assert status == 0 and "left out" in err, (status, err)
    # no room in the guest: the error of the guest, while it is being copied
    place.good("exec", "guest", "sh", "-c", "mkdir /mnt && mount -t tmpfs -o size=1m small /mnt")
    big = os.path.join(place.path, "big")
    with open(big, "wb") as f:
        f.truncate(64 * MIB)
    place.refused("cp", big, "guest:/mnt/", names=["No space left"], status=3)
    end(place)


def stop_and_time(place):
    start(place, "guest")
    place.good("exec", "guest", "true")
    place.good("exec", "guest", "date", "-s", "2020-01-01 00:00:00")
    place.good("pause", "guest")
    place.refused("exec", "guest", "true", names=["guest", "paused"], status=125)
    place.good("resume", "guest")
    assert abs(int(place.good("exec", "guest", "date", "+%s")) - time.time()) < 30
    place.good("exec", "guest", "killall", "acpid")  # so that only the agent can have heard
    place.good("stop", "--time", "20", "guest")
    (m,) = place.machines("-a")
    assert m["exit_code"] == 0, m
    place.good("rm", "guest")


def without_agent(place):
    """A guest without a driver, and one whose agent is gone: said, and stop works all the same."""
    place.good(*place.guest("idle", "--name", "none", "-d"))
    p = place.start("exec", "none", "true", stderr=subprocess.PIPE, text=True)
    time.sleep(0.5)
    assert p.poll() is None  # it may be booting
    place.good("kill", "none")
    assert p.wait(PATIENCE) == 125
    err = p.stderr.read()
    assert "none" in err, err
    p.stderr.close()
    place.good("rm", "none")


def comes_back_after_load(place):
    """Saved and loaded into another machine: the guest hears that its connections are gone, new ones work."""
    start(place, "first")
    place.good("exec", "first", "true")
    held = place.start("exec", "first", "sh", "-c", "echo held; exec sleep 1234", stdout=subprocess.PIPE, text=True)
    assert held.stdout.readline() == "held\n"
    place.good("pause", "first")
    import socket
    s = socket.socket(socket.AF_UNIX)
    (row,) = [m for m in place.machines() if m["name"] == "first"]
    s.connect(json.loads(place.good("inspect", "first")).get("socket") or
              os.path.join(place.path, "trapeze", "machines", row["id"], "control"))
    stream = s.makefile("rwb")
    stream.write(b'{"do":"save"}\n')
    stream.flush()
    size = json.loads(stream.readline())["bytes"]
    records = stream.read(size)
    stream.write(b'{"do":"load","bytes":%d}\n' % size + records)
    stream.flush()
    assert json.loads(stream.readline())["ok"]
    stream.close()
    s.close()
    place.good("resume", "first")
    assert held.wait(PATIENCE) == 125  # the keeper's end is gone
    held.stdout.close()
    assert place.good("exec", "first", "echo", "again") == "again\n"
    place.until(lambda: place.run("exec", "first", "pidof", "sleep")[0] != 0, "the end of the old connection in the guest")
    end(place, "first")


if __name__ == "__main__":
    SAMPLE = [status_and_streams, much_data, signals, terminal, files, stop_and_time, without_agent, comes_back_after_load]
    sys.exit(run_tests(SAMPLE))
