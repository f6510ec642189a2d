"""Containers of images by their verbs: streams, statuses, options, logs, exec, cp, stop, kills, and what is left behind.

TRAPEZE names the program, KILLS how often it is killed. Needs root and busybox (else skipped), and no network.
"""
import glob
import hashlib
import io
import json
import os
import pty
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback

sys.path.insert(1, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from chroot import leave_chroot
from own_network import own_network

TRAPEZE = os.environ["TRAPEZE"]
KILLS = int(os.environ.get("KILLS", "10"))
BUSYBOX = next((p for p in ("/bin/busybox", "/usr/bin/busybox") if os.path.exists(p)), None)
PATIENCE = int(os.environ.get("PATIENCE", "60"))
SEED = 1
OWNER = os.geteuid()  # of what TRAPEZE makes


class Skip(Exception):
    pass


def make_archive(path):
    """A root file system: busybox, its names, two users."""
    names = subprocess.run([BUSYBOX, "--list"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    with tarfile.open(path, "w") as t:
        def add(name, data=b"", mode=0o644, type=tarfile.REGTYPE, link=""):
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.type, info.linkname = len(data), mode, type, link
            t.addfile(info, io.BytesIO(data))
        for d in ("bin", "etc", "tmp", "root"):
            add(d, mode=0o1777 if d == "tmp" else 0o755, type=tarfile.DIRTYPE)
        with open(BUSYBOX, "rb") as f:
            add("bin/busybox", f.read(), 0o755)
        for n in names:
            if n != "busybox":
                add("bin/" + n, type=tarfile.SYMTYPE, link="busybox")
        add("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\njoe:x:1000:1001::/srv/joe:/bin/sh\n")
        add("etc/group", b"root:x:0:\njoe:x:1001:\nextra:x:77:x,joe\n")
        add("etc/plain", b"not a program\n")
        add("etc/broken", b"\x7fELFnot a program either\n", 0o755)


class Place:
    """Stores of its own; afterwards nothing may be left: no container, process, mount, cgroup."""

    def __init__(self):
        self.top = tempfile.mkdtemp(prefix="trapeze-box-")
        os.chown(self.top, OWNER, OWNER)
        self.env = dict(os.environ, XDG_DATA_HOME=self.top + "/data", XDG_STATE_HOME=self.top + "/state")
        self.containers = self.top + "/data/trapeze/containers"
        self.good("image", "import", ARCHIVE, "box")

    def call(self, *words, stdin=b"", **more):
        p = subprocess.run([TRAPEZE, *words], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.env,
                           timeout=PATIENCE, **more)
        return p.returncode, p.stdout.decode(errors="replace"), p.stderr.decode(errors="replace")

    def good(self, *words, stdin=b""):
        status, out, err = self.call(*words, stdin=stdin)
        assert status == 0, (words, status, err)
        return out

    def run(self, *words, stdin=b""):
        return self.good("run", "--rm", *words, stdin=stdin)

    def refused(self, status, why, *words):
        got, out, err = self.call(*words)
        assert got == status and why in err, (words, got, err)

    def start(self, *words, **more):
        return subprocess.Popen([TRAPEZE, *words], env=self.env, **more)

    def rows(self, *more):
        return json.loads(self.good("ps", "--format", "json", *more))

    def state(self, name):
        return next(r["state"] for r in self.rows("-a") if r["name"] == name)

    def processes(self):
        """Ours that work for this place: keepers, also those that no list shows yet. Not what runs inside containers."""
        mark, found = ("XDG_STATE_HOME=" + self.top + "/state").encode(), []
        for path in glob.glob("/proc/[0-9]*"):
            try:
                with open(path + "/environ", "rb") as env, open(path + "/comm") as comm:
                    if mark in env.read().split(b"\0") and comm.read().startswith("trapeze"):
                        found.append(int(path[6:]))
            except OSError:
                pass
        return found

    def left(self):
        """What is there of containers."""
        return os.listdir(self.containers) if os.path.isdir(self.containers) else []

    def close(self):
        for r in self.rows("-a"):
            self.call("rm", "-f", r["name"])
        self.good("network", "prune")
        left = self.left(), self.rows("-a")
        with open("/proc/self/mountinfo") as f:
            mounts = [line for line in f if self.top in line]
        shutil.rmtree(self.top)
        assert left == ([], []) and not mounts, (left, mounts)


def until(what, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return
        time.sleep(0.02)
    raise AssertionError("waited in vain")


# --- run ---


def test_streams_and_status(p):
    status, out, err = p.call("run", "--rm", "box", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (status, out, err) == (7, "out\n", "err\n"), (status, out, err)
    assert p.rows("-a") == [] and p.left() == []
    status, out, err = p.call("run", "--rm", "box", "sh", "-c", "sleep 1 & kill -TERM $!; wait $!; exit $?")
    assert status == 143, status


def test_failures(p):
    p.refused(127, "not found", "run", "--rm", "box", "nothing")
    p.refused(127, "no such file", "run", "--rm", "box", "/nothing")
    p.refused(126, "denied", "run", "--rm", "box", "/etc/plain")
    p.refused(126, "exec", "run", "--rm", "box", "/etc/broken")
    p.refused(125, "no such image", "run", "--rm", "nobox", "true")
    p.refused(125, "no program", "run", "--rm", "box")
    p.refused(125, "passwd", "run", "--rm", "-u", "nobody", "box", "true")
    p.refused(125, "group", "run", "--rm", "-u", "joe:nobody", "box", "true")
    p.refused(125, "no such network", "run", "--rm", "--network", "nowhere", "box", "true")
    p.refused(125, "capability", "run", "--rm", "--cap-add", "flying", "box", "true")
    p.refused(125, "--volume", "run", "--rm", "-v", "/x", "box", "true")
    p.refused(125, "No such file", "run", "--rm", "-v", p.top + "/none:/x", "box", "true")
    p.refused(125, "--publish", "run", "--rm", "--network", "none", "-p", "80:80", "box", "true")
    p.refused(125, "for machines", "run", "--rm", "--kernel", "x", "box", "true")
    p.refused(1, "for containers", "run", "--kernel", "x", "-e", "A=b")
    assert p.rows("-a") == [] and p.left() == []


def test_input(p):
    assert p.run("-i", "box", "cat", stdin=b"through\n") == "through\n"
    assert p.run("box", "cat", stdin=b"not through\n") == ""
    data = random.Random(SEED).randbytes(3000000)
    r = subprocess.run([TRAPEZE, "run", "--rm", "-i", "box", "cat"], input=data, stdout=subprocess.PIPE, env=p.env,
                       timeout=PATIENCE)
    assert r.returncode == 0 and r.stdout == data


def test_reader_leaves(p):
    """`trapeze run .. yes | head` ends."""
    r = subprocess.run(f"{TRAPEZE} run --rm box yes | head -n 1", shell=True, env=p.env, stdout=subprocess.PIPE,
                       timeout=PATIENCE)
    assert r.stdout == b"y\n"
    until(lambda: p.rows("-a") == [])


def test_options(p):
    out = p.run("-e", "A=b c", "-e", "SET", "-w", "/made/here", "--hostname", "name", "box", "sh", "-c",
                "echo $A; pwd; hostname; cat /etc/hostname; echo $HOME; echo ${SET-unset}")
    assert out.split("\n") == ["b c", "/made/here", "name", "name", "/root", "unset", ""], out
    assert p.run("-u", "joe", "box", "sh", "-c", "id; echo $HOME") == \
        "uid=1000(joe) gid=1001(joe) groups=77(extra)\n/srv/joe\n"
    assert p.run("-u", "5:77", "box", "id") == "uid=5 gid=77(extra)\n"
    assert p.run("--entrypoint", "/bin/echo", "box", "a", "b") == "a b\n"
    assert p.run("--entrypoint", "", "box", "echo", "c") == "c\n"
    status, out, err = p.call("run", "--rm", "--read-only", "box", "sh", "-c", "echo x > /x")
    assert status and "Read-only" in err, (status, err)


def test_streams_are_the_users(p):
    """/dev/stdout can be opened by who the program runs as."""
    assert p.run("-u", "joe", "box", "sh", "-c", "echo one > /dev/stdout; echo two > /proc/self/fd/1") == "one\ntwo\n"


def test_escape_leaves(p):
    """The key leaves the terminal, the container goes on; attach comes back."""
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.update(p.env)
        os.execv(TRAPEZE, [TRAPEZE, "run", "--name", "t", "-it", "box", "sh"])
    while b"# " not in os.read(fd, 4096):
        pass
    os.write(fd, b"\x1d")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(fd)
    assert p.state("t") == "running"
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.update(p.env)
        os.execv(TRAPEZE, [TRAPEZE, "attach", "t"])
    os.write(fd, b"exit 6\n")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 6
    os.close(fd)


def test_volumes(p):
    os.mkdir(p.top + "/shared")
    p.run("-v", p.top + "/shared:/data", "box", "sh", "-c", "echo mine > /data/f")
    with open(p.top + "/shared/f") as f:
        assert f.read() == "mine\n"
    status, out, err = p.call("run", "--rm", "-v", p.top + "/shared:/data:ro", "box", "sh", "-c", "echo x > /data/f")
    assert status and "Read-only" in err, err


def test_isolation(p):
    """Capabilities, filter, network, processes, devices."""
    status = lambda *o: {k.strip(): v.strip() for k, _, v in (x.partition(":") for x in p.run(*o, "box", "cat",
                         "/proc/self/status").splitlines())}
    s = status()
    assert s["CapBnd"] == s["CapPrm"] == s["CapEff"] == "00000000a80425fb", s
    assert s["CapInh"] == "0000000000000000" and s["Seccomp"] == "2"
    assert status("--cap-drop", "all")["CapBnd"] == "0000000000000000"
    assert status("--cap-drop", "all", "--cap-add", "chown")["CapBnd"] == "0000000000000001"
    assert status("-u", "joe")["CapEff"] == "0000000000000000"
    assert p.run("--network", "none", "box", "sh", "-c", "ls /sys/class/net") == "lo\n"
    links = lambda: {name for _, name in socket.if_nameindex()} # others may make some, and take them away
    until(lambda: links() == set(p.run("--network", "host", "box", "ls", "/sys/class/net").split()))
    assert p.run("box", "sh", "-c", "echo /proc/[0-9]*").split() == ["/proc/1"]
    out = p.run("box", "sh", "-c", "mknod /tmp/d b 8 0 && cat /tmp/d; cat /proc/kcore | wc -c; echo x > /proc/sysrq-trigger; "
                "mount -t tmpfs x /tmp; unshare -U true; true")
    assert out.strip() == "0", out


def test_user_network(p):
    """Root's user mode is a tap; the rest of it is in rootless.py."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    p.good("run", "-d", "--name", "a", "--network", "user", "-p", f"{port}:7", "box", "nc", "-ll", "-p", "7", "-e", "cat")
    tap = os.path.exists("/dev/net/tun")
    assert (p.call("exec", "a", "ls", "/sys/class/net/eth0/tun_flags")[0] == 0) == tap

    def echoed():
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as s:
                s.sendall(b"there")
                return s.recv(100) == b"there"
        except OSError:
            return False
    until(echoed)
    p.good("rm", "-f", "a")
    until(lambda: not p.processes())


def test_limits(p):
    out = p.run("--memory", "64M", "--cpus", "2", "box", "sh", "-c", "cd /sys/fs/cgroup; cat memory.max cpu.max "
                "memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us 2>/dev/null || true")
    if not out:
        raise Skip("no memory or cpu controller")
    assert out in ("67108864\n200000 100000\n", "67108864\n200000\n"), out


def test_update(p):
    """Limits of one that runs: the cgroup's files, and what ps says."""
    p.good("run", "-d", "--name", "a", "box", "sleep", "1000")
    p.refused(1, "nothing to change", "update", "a")
    p.good("update", "--memory", "64M", "--cpus", "3", "a")
    out = p.call("exec", "a", "sh", "-c", "cd /sys/fs/cgroup; cat memory.max cpu.max memory/memory.limit_in_bytes "
                 "cpu/cpu.cfs_quota_us 2>/dev/null")[1]
    i = json.loads(p.good("inspect", "a"))
    assert i["config"]["memory"] == 64 << 20 and i["config"]["cpus"] == 3, i
    p.good("kill", "a")
    p.refused(1, "does not run", "update", "--memory", "64M", "a")
    if not out:
        raise Skip("no memory or cpu controller")
    assert out in ("67108864\n300000 100000\n", "67108864\n300000\n"), out


def test_usage(p):
    """stats and top of a container."""
    p.good("run", "-d", "--name", "a", "-u", "joe", "box", "sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; "
           "touch /tmp/up; sleep 1000; true")
    until(lambda: p.call("exec", "a", "ls", "/tmp/up")[0] == 0)
    rows = json.loads(p.good("top", "--format", "json", "a"))
    first, second = sorted(rows, key=lambda r: r["command"] == "sleep 1000")
    assert first["uid"] == second["uid"] == 1000 and second["ppid"] == first["pid"] and first["seconds"] > 0, rows
    assert "sleep 1000" in p.good("top", "a")
    s = json.loads(p.good("stats", "--format", "json", "a"))
    assert {"cpu", "memory", "pids"} <= set(s), s
    assert "CPU time" in p.good("stats", "a")
    lines = p.good("stats", "-i", "1", "-c", "2", "a").splitlines()
    assert len(lines) == 3 and lines[0].split()[0] == "CPU" and lines[1].split()[0].endswith("%"), lines
    p.good("run", "-d", "--name", "b", "box", "sleep", "1000")
    both = {r["name"]: r for r in json.loads(p.good("top", "--format", "json"))}
    assert set(both) == {"a", "b"} and both["a"]["kind"] == "container" and both["a"]["processes"] >= 3, both
    assert both["a"]["seconds"] > 0 and both["b"]["memory"] > 0 and "percent" not in both["b"], both
    p.good("exec", "b", "sh", "-c", "while :; do :; done > /dev/null 2>&1 &")
    lines = p.good("top", "-i", "1", "-c", "2").split("\n\n")
    assert len(lines) == 2 and all(r.split()[0] == "NAME" for r in lines) and "%" in lines[1].splitlines()[1], lines
    rounds = [json.loads(x) for x in p.good("top", "-i", "1", "-c", "1", "--format", "json").splitlines()]
    assert next(r["percent"] for r in rounds[0] if r["name"] == "b") > 0, rounds
    p.good("rm", "-f", "b")
    p.refused(1, "--interval", "top", "-i", "1", "a")
    p.refused(1, "--count", "top", "-c", "1")
    p.good("kill", "a")
    for verb in ("top", "stats"):
        p.refused(1, "does not run", verb, "a")


def test_layers_are_shared(p):
    """What one container writes is not the image's, nor another's."""
    p.good("run", "--name", "a", "box", "sh", "-c", "echo mine > /etc/plain; rm /etc/passwd; mkdir /new")
    assert p.run("box", "sh", "-c", "cat /etc/plain; ls /etc/passwd; ls -d /new 2>/dev/null || true") == \
        "not a program\n/etc/passwd\n"
    p.good("image", "verify")


def test_terminal(p):
    """-it: a terminal with our size, its output, its status, the settings as before."""
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.update(p.env)
        os.execv(TRAPEZE, [TRAPEZE, "run", "--rm", "-it", "box", "sh"])
    import fcntl
    import struct
    import termios
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
    seen = b""

    def read_until(word):
        nonlocal seen
        while word not in seen:
            if not select.select([fd], [], [], PATIENCE)[0]:
                raise AssertionError(seen)
            seen += os.read(fd, 4096)
    read_until(b"# ")
    os.write(fd, b"stty size; test -t 0 && echo ter''minal; exit 9\n")
    read_until(b"terminal")
    assert b"33 99" in seen, seen
    try:
        while os.read(fd, 4096):
            pass
    except OSError:
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    os.close(fd)


def test_signals_are_passed(p):
    q = p.start("run", "--rm", "box", "sh", "-c", "trap 'echo got; exit 5' TERM; echo ready; while :; do sleep 0.1; done",
                stdout=subprocess.PIPE)
    assert q.stdout.readline() == b"ready\n"
    q.send_signal(signal.SIGTERM)
    assert q.stdout.read() == b"got\n" and q.wait(PATIENCE) == 5


def test_third_signal_kills(p):
    """A first process without handlers hears no signal but KILL."""
    q = p.start("run", "--rm", "--name", "third", "box", "sleep", "1000")
    until(lambda: p.call("exec", "third", "grep", "-q", "sleep", "/proc/1/cmdline")[0] == 0)
    for _ in range(3):
        q.send_signal(signal.SIGINT)
        time.sleep(0.2)  # a signal that is still pending is not sent twice
    status = q.wait(PATIENCE)
    assert status == 137, status


# --- what goes on ---


def test_detached(p):
    assert p.good("run", "-d", "--name", "web", "box", "sh", "-c", "echo one; echo two >&2; sleep 1000") == "web\n"
    assert p.state("web") == "running"
    p.refused(125, "taken", "run", "--name", "web", "box", "true")
    until(lambda: p.call("logs", "web")[1:] == ("one\n", "two\n"))
    i = json.loads(p.good("inspect", "web"))
    assert i["kind"] == "container" and i["image"]["image"] == "docker.io/library/box:latest", i
    assert i["container"]["status"] == "running" and "memory" in i["stats"], i
    p.refused(1, "it runs", "rm", "web")
    p.good("pause", "web")
    assert p.state("web") == "paused"
    p.good("resume", "web")
    assert p.state("web") == "running"
    p.good("stop", "-t", "1", "web")
    row = p.rows("-a")[0]
    assert row["state"] == "exited" and row["exit_code"] == 137 and p.rows() == [], row
    assert p.good("wait", "web") == "137\n" and p.call("logs", "web")[1] == "one\n"
    p.good("rm", "web")
    assert p.rows("-a") == [] and p.left() == []


def test_stop_asks(p):
    p.good("run", "-d", "--name", "a", "box", "sh", "-c", "trap 'exit 3' TERM; touch /tmp/up; while :; do sleep 0.05; done")
    until(lambda: p.call("exec", "a", "ls", "/tmp/up")[0] == 0)
    p.good("stop", "a")
    assert p.rows("-a")[0]["exit_code"] == 3
    p.good("run", "-d", "--rm", "--name", "b", "box", "sleep", "1000")
    q = p.start("wait", "b", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    p.good("kill", "b")
    q.wait(PATIENCE)
    assert [r["name"] for r in p.rows("-a")] == ["a"] and len(p.left()) == 1


def test_start(p):
    """Another life: the same files, options, network and limits; the log goes on; a failure leaves it as it was."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    p.good("run", "-d", "--name", "a", "-e", "A=1", "-p", f"{port}:7", "--hostname", "h", "--add-host", "x:10.1.1.1", "box",
           "sh", "-c", "echo $A >> /count; cat /count; hostname; grep 10.1.1.1 /etc/hosts; trap 'exit 4' TERM; touch /tmp/up; "
           "while :; do sleep 0.05; done")
    p.refused(125, "runs already", "start", "a")
    up = lambda: p.call("exec", "a", "ls", "/tmp/up")[0] == 0
    until(up)
    p.good("exec", "a", "rm", "/tmp/up")
    p.good("stop", "a")
    assert p.good("start", "a") == "a\n"
    until(up)
    assert p.state("a") == "running"
    assert json.loads(p.good("inspect", "a"))["network"]["network"] in ("bridge", "user")
    until(lambda: p.good("logs", "a") == "1\nh\n10.1.1.1\tx\n" + "1\n1\nh\n10.1.1.1\tx\n")
    p.good("stop", "a")
    row = p.rows("-a")[0]
    assert row["state"] == "exited" and row["exit_code"] == 4, row
    with socket.socket() as s:  # a port that is somebody else's now
        s.bind(("", port))
        s.listen()
        p.refused(125, "in use", "start", "a")
    assert p.state("a") == "exited"
    p.good("start", "a")
    os.kill(keepers(p)[0], signal.SIGKILL)
    until(lambda: p.state("a") == "dead")
    assert p.good("start", "a") == "a\n" and p.state("a") == "running"
    p.good("rm", "-f", "a")
    p.refused(1, "no such", "start", "a")


def test_start_with_a_terminal(p):
    """Input and output of the next life are those of who attaches."""
    p.good("run", "-d", "-i", "--name", "a", "box", "sh", "-c", "read x; echo got $x; exit 4")
    for word in (b"this\n", b"that\n"):
        q = p.start("attach", "a", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        q.stdin.write(word)
        q.stdin.flush()
        assert q.stdout.read() == b"got " + word and q.wait(PATIENCE) == 4
        until(lambda: p.state("a") == "exited")
        p.good("start", "a")


def test_events(p):
    """What happens is told in its order, with statuses; and as it happens."""
    told = lambda *names: [(v["name"], v["event"], v.get("exit_code")) for v in map(json.loads, p.good(
        "events", "--format", "json", *names).splitlines())]
    assert told() == [], told()
    q = p.start("events", "-f", "--format", "json", stdout=subprocess.PIPE)
    try:
        seen = lambda: json.loads(q.stdout.readline())
        assert p.call("run", "--rm", "--name", "a", "box", "sh", "-c", "exit 3")[0] == 3
        assert [(v["event"], v["kind"], v.get("exit_code")) for v in (seen(), seen(), seen(), seen())] == \
            [("create", "container", None), ("start", "container", None), ("end", "container", 3), ("remove", "container", None)]
        p.good("run", "-d", "--name", "b", "box", "sleep", "1000")
        expected = [("b", "create", None), ("b", "start", None)]
        if p.call("pause", "b")[0] == 0:
            p.good("resume", "b")
            expected += [("b", "pause", None), ("b", "resume", None)]
        os.kill(keepers(p)[0], signal.SIGKILL)
        expected += [("b", "end", 3), ("b", "start", None), ("b", "end", 137), ("b", "remove", None)]
        until(lambda: p.state("b") == "dead")
        p.good("start", "b")
        p.good("kill", "b")
        p.good("wait", "b")
        p.good("rm", "b")
        assert told("b") == expected, told("b")
        assert [(v["name"], v["event"], v.get("exit_code")) for v in (seen() for _ in expected)] == expected
        assert "container b end: ended (status 137)" in p.good("events", "b"), p.good("events")
    finally:
        q.kill()
        q.wait()


def test_exec(p):
    p.good("run", "-d", "--name", "a", "-e", "A=1", "box", "sleep", "1000")
    assert p.good("exec", "-e", "B=2", "-w", "/tmp", "a", "sh", "-c", "echo $A $B; pwd") == "1 2\n/tmp\n"
    assert p.good("exec", "-u", "joe", "a", "sh", "-c", "id -u; id -g; echo $HOME") == "1000\n1001\n/srv/joe\n"
    assert p.good("exec", "-i", "a", "cat", stdin=b"in\n") == "in\n"
    assert p.good("exec", "a", "cat", stdin=b"in\n") == ""
    assert p.call("exec", "a", "sh", "-c", "exit 9")[0] == 9
    p.refused(127, "not found", "exec", "a", "nothing")
    p.refused(126, "denied", "exec", "a", "/etc/plain")
    p.refused(125, "passwd", "exec", "-u", "nobody", "a", "true")
    p.refused(125, "no such machine", "exec", "nobody", "true")
    p.good("kill", "a")
    p.refused(125, "does not run", "exec", "a", "true")


def test_attach(p):
    p.good("run", "-d", "-i", "--name", "a", "box", "sh", "-c", "read x; echo got $x; exit 4")
    q = p.start("attach", "a", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    q.stdin.write(b"this\n")
    q.stdin.flush()
    assert q.stdout.read() == b"got this\n" and q.wait(PATIENCE) == 4


def test_follow(p):
    p.good("run", "-d", "-i", "--name", "a", "box", "sh", "-c", "for i in 1 2 3 4 5; do echo $i; sleep 0.1; done")
    assert p.good("logs", "-f", "a") == "1\n2\n3\n4\n5\n"


def test_slow_reader_loses_nothing(p):
    """More than all buffers hold, and nobody reads for a while."""
    q = p.start("run", "--rm", "box", "sh", "-c", "seq 1 300000", stdout=subprocess.PIPE)
    time.sleep(0.5)
    assert q.stdout.read() == b"".join(b"%d\n" % i for i in range(1, 300001)) and q.wait(PATIENCE) == 0


def test_copy(p):
    p.good("run", "-d", "--name", "a", "box", "sleep", "1000")
    os.makedirs(p.top + "/tree/sub")
    with open(p.top + "/tree/sub/f", "w") as f:
        f.write("text")
    p.good("cp", p.top + "/tree", "a:/tmp/")
    assert p.good("exec", "a", "cat", "/tmp/tree/sub/f") == "text"
    p.good("cp", "a:/tmp/tree/sub", p.top + "/back")
    with open(p.top + "/back/f") as f:
        assert f.read() == "text"
    p.refused(1, "No such file", "cp", "a:/nothing", p.top + "/x")


def test_copy_stays_inside(p):
    """CVE-2018-15664: links in the container that lead out mean places inside."""
    p.good("run", "-d", "--name", "a", "box", "sh", "-c", f"ln -s / /tmp/l; ln -s {p.top} /tmp/t; touch /tmp/up; sleep 1000")
    until(lambda: p.call("exec", "a", "ls", "/tmp/up")[0] == 0)
    with open(p.top + "/evil", "w") as f:
        f.write("x")
    p.good("cp", p.top + "/evil", "a:/tmp/l/evil")
    assert not os.path.exists("/evil") and p.good("exec", "a", "cat", "/evil") == "x"
    p.call("cp", p.top + "/evil", "a:/tmp/t/in")
    assert not os.path.exists(p.top + "/in")


def test_copies(p):
    """Where overlayfs can not be: on overlayfs. Layers onto each other, with what the upper one removes."""
    def tar(*entries):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as t:
            for name, data in entries:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
                info.mode = 0o755
                t.addfile(info, io.BytesIO(data))
        return out.getvalue()
    with open(ARCHIVE, "rb") as f:
        base = f.read()
    layers = [base, tar(("d/", b""), ("d/one", b"1"), ("gone", b"1"), ("kept", b"1")),
              tar((".wh.gone", b""), ("d/", b""), ("d/.wh..wh..opq", b""), ("d/two", b"2"))]
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids":
                         ["sha256:" + hashlib.sha256(x).hexdigest() for x in layers]}}).encode()
    names = [f"{i}.tar" for i in range(3)]
    image = tar(("c.json", config), *zip(names, layers),
                ("manifest.json", json.dumps([{"Config": "c.json", "RepoTags": ["three"], "Layers": names}]).encode()))
    shown = ("run", "--rm", "three", "sh", "-c", "ls /d /kept; ls /gone; test -e /etc/plain")
    subprocess.run([TRAPEZE, "image", "load"], input=image, env=p.env, check=True, stdout=subprocess.DEVNULL)
    assert p.good("run", "--rm", "three", "sh", "-c", "mount | grep -c ' / type overlay'") == "1\n"
    status, out, err = p.call(*shown)
    assert (status, out) == (0, "/kept\n\n/d:\ntwo\n") and "/gone" in err, (status, out, err)
    for d in ("lower", "upper", "work"):
        os.mkdir(p.top + "/" + d)
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={p.top}/lower,upperdir={p.top}/upper,"
                    f"workdir={p.top}/work", p.top + "/lower"], check=True)
    try:
        p.env["XDG_DATA_HOME"] = p.top + "/lower"
        subprocess.run([TRAPEZE, "image", "load"], input=image, env=p.env, check=True, stdout=subprocess.DEVNULL)
        assert p.good("run", "--rm", "three", "sh", "-c", "mount | grep -c ' / type overlay.*lowerdir=[0-9]' || true") == "0\n"
        status, out, err = p.call(*shown)
        assert (status, out) == (0, "/kept\n\n/d:\ntwo\n") and "/gone" in err, (status, out, err)
        assert os.listdir(p.top + "/lower/trapeze/containers") == []
    finally:
        p.env["XDG_DATA_HOME"] = p.top + "/data"
        subprocess.run(["umount", p.top + "/lower"], check=True)


def test_garbage_leaves_containers(p):
    """An image that a container is made of: its layers stay while the container is there."""
    p.good("run", "-d", "--name", "a", "box", "sleep", "1000")
    p.good("image", "rm", "box")
    p.good("image", "prune")
    assert p.good("exec", "a", "cat", "/etc/plain") == "not a program\n"
    p.good("rm", "-f", "a")
    p.good("image", "prune")
    assert os.listdir(p.top + "/data/trapeze/images/layers/d") == []


def keepers(p):
    return [r["keeper"] for r in p.rows() if r["keeper"]]


def test_program_is_protected(p):
    """CVE-2019-5736: what a container could reach of this program is on a read-only mount; and it reaches nothing of it."""
    p.good("run", "-d", "--name", "a", "box", "sleep", "1000")
    exe = os.open(f"/proc/{keepers(p)[0]}/exe", os.O_RDONLY)
    assert os.fstatvfs(exe).f_flag & os.ST_RDONLY
    os.close(exe)
    with open(TRAPEZE, "rb") as f:
        before = hashlib.sha256(f.read()).digest()
    poll = "for i in $(seq 300); do for f in /proc/[0-9]*/exe; do (echo x > $f) 2>/dev/null && echo wrote $f; done; done"
    q = p.start("exec", "a", "sh", "-c", poll.replace("[0-9]*", "[2-9]*"), stdout=subprocess.PIPE)
    for _ in range(10):
        p.call("exec", "a", "/proc/self/exe")
    p.good("exec", "a", "sh", "-c", "printf '#!/proc/self/exe' > /tmp/x; chmod 755 /tmp/x")
    p.call("exec", "a", "/tmp/x")
    p.call("run", "--rm", "--entrypoint", "/proc/self/exe", "box")
    q.kill()
    q.wait()
    with open(TRAPEZE, "rb") as f:
        assert hashlib.sha256(f.read()).digest() == before


def test_keeper_is_killed(p):
    """Its container goes with the next verb, and with --rm all of it."""
    p.good("run", "-d", "--rm", "--name", "a", "box", "sleep", "1000")
    p.good("run", "-d", "--name", "b", "box", "sleep", "1000")
    inside = [json.loads(p.good("inspect", n))["container"]["pid"] for n in "ab"]
    for k in keepers(p):
        os.kill(k, signal.SIGKILL)
    until(lambda: [r["state"] for r in p.rows("-a")] == ["dead"])
    for pid in inside:
        until(lambda: not os.path.exists(f"/proc/{pid}") or open(f"/proc/{pid}/stat").read().split()[2] in "ZX")
    assert len(p.left()) == 1
    p.good("rm", "b")


def test_killed(p):
    """At random points of run: what is left can be removed, cgroups too, and the image is whole."""
    cgroups = lambda: set(glob.glob("/sys/fs/cgroup/*/trapeze/*/") + glob.glob("/sys/fs/cgroup/trapeze/*/"))
    before = cgroups()
    rng = random.Random(SEED)
    start = time.monotonic()
    p.run("box", "true")
    span = time.monotonic() - start
    for i in range(KILLS):
        q = p.start("run", "--rm", "box", "true", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.random() * span)
        if i % 2:
            for k in keepers(p):
                try:
                    os.kill(k, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        q.kill()
        q.wait()
    # A keeper that was killed while nobody had heard of it yet is none to be killed by the loop: it works on to its end.
    until(lambda: not p.processes() and p.rows("-a") == [] and not cgroups() - before)
    p.good("image", "verify")
    assert p.run("box", "echo", "well") == "well\n"


def main(names, chosen, after):
    tests = [(n[5:], f) for n, f in sorted(names.items()) if n.startswith("test_")]
    if os.geteuid() or not BUSYBOX:
        print("1..0 # SKIP needs root and busybox")
        return 0
    tests = [t for t in tests if not chosen or t[0] in chosen]
    print(f"1..{len(tests)}")
    bad = 0
    for i, (name, f) in enumerate(tests, 1):
        p = Place()
        try:
            try:
                f(p)
            finally:
                after()
                p.close()
            print(f"ok {i} - {name}", flush=True)
        except Skip as why:
            print(f"ok {i} - {name} # SKIP {why}", flush=True)
        except Exception:
            bad += 1
            print(f"not ok {i} - {name}")
            print("# " + traceback.format_exc().replace("\n", "\n# "), flush=True)
    return bad > 0


def run_tests(names, apart=False, after=lambda: None):
    """The functions test_* of a module, in a network namespace of their own (`apart`: already), `after` each of them; their exit status."""
    global ARCHIVE
    if os.geteuid() == 0 and not apart:
        leave_chroot()
        own_network()
    with tempfile.TemporaryDirectory(prefix="trapeze-box-") as shared:
        ARCHIVE = shared + "/box.tar"
        if BUSYBOX:
            make_archive(ARCHIVE)
        return main(names, sys.argv[1:], after)


if __name__ == "__main__":
    sys.exit(run_tests(globals()))
