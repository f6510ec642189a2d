"""Containers of images by who is not root: with one user number, and with a range of them.

TRAPEZE names the program. Run by root, who becomes a user that nobody else is: a copy of the program, and a script in its place,
so that the tests of run.py serve here, too. Needs busybox and user namespaces; the range needs newuidmap (else skipped).
"""
import ctypes
import fcntl
import glob
import hashlib
import json
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading

sys.path.insert(1, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from chroot import leave_chroot
from own_network import own_network

CLONE_NEWNS, MS_REC, MS_SLAVE, MS_BIND = 0x20000, 0x4000, 0x80000, 0x1000
RANGE = 3000000


def free_number():
    """Of a user that is not there."""
    for n in range(54321, 60000):
        try:
            pwd.getpwuid(n)
        except KeyError:
            return n
    raise AssertionError("no number is free")


USER = free_number()
AS_USER = ["setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups"]


def forbidden():
    """Why this user can have no user namespace, or None."""
    p = subprocess.run([*AS_USER, "unshare", "--user", "--map-root-user", "true"], stderr=subprocess.PIPE, text=True)
    return p.stderr.strip() if p.returncode else None


def own_files():
    """Files of the test's own where /etc/subuid, /etc/subgid and /etc/passwd are, for this process and its children."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) or libc.mount(None, b"/", None, MS_REC | MS_SLAVE, None):
        sys.exit("mount namespace: " + os.strerror(ctypes.get_errno()))
    with open("/etc/passwd") as old, open(RANGES + ".passwd", "w") as new:
        new.write(old.read() + f"trapeze-test:x:{USER}:{USER}::/nowhere:/bin/sh\n")
    for file, name in ((RANGES, "/etc/subuid"), (RANGES, "/etc/subgid"), (RANGES + ".passwd", "/etc/passwd")):
        if not os.path.exists(name):
            open(name, "a").close()
        if libc.mount(file.encode(), name.encode(), None, MS_BIND, None):
            sys.exit(name + ": " + os.strerror(ctypes.get_errno()))


def set_range(size):
    with open(RANGES, "w") as f:
        f.write(f"{USER}:{RANGE}:{size}\n" if size else "")


def script(path, program, before="", user=AS_USER):
    """A program in the place of TRAPEZE: the same, by the user."""
    with open(path, "w") as f:
        f.write(f"#!/bin/sh\n{before}exec {' '.join(user)} {program} \"$@\"\n")
    os.chmod(path, 0o755)


# --- with any numbers ---


def test_all_of_one(p):
    """The verbs, one after the other."""
    p.good("run", "-d", "--name", "a", "box", "sh", "-c", "echo one; echo two >&2; mkdir /made; trap 'exit 5' TERM; "
           "while :; do sleep 0.05; done")
    run.until(lambda: p.call("logs", "a")[1:] == ("one\n", "two\n"))
    assert p.state("a") == "running"
    run.until(lambda: p.call("exec", "a", "ls", "/made")[0] == 0)
    assert p.good("exec", "a", "sh", "-c", "id -u; cat /proc/1/comm") == "0\nsh\n"
    i = json.loads(p.good("inspect", "a"))
    assert i["made"]["rootless"] and i["made"]["root"] == "overlayfs", i
    assert (i["made"]["numbers"] == "a range of their own") == RANGED and i["container"]["status"] == "running", i
    assert os.stat(f"/proc/{i['container']['pid']}").st_uid in (USER, 0)
    assert any("while :; do" in r["command"] for r in json.loads(p.good("top", "--format", "json", "a")))
    with open(p.top + "/f", "w") as f:
        f.write("text")
    p.good("cp", p.top + "/f", "a:/made/f")
    assert p.good("exec", "a", "cat", "/made/f") == "text"
    os.mkdir(p.top + "/out")
    os.chown(p.top + "/out", USER, USER)
    p.good("cp", "a:/made/f", p.top + "/out/f")
    assert os.stat(p.top + "/out/f").st_uid == USER
    p.refused(1, "it runs", "rm", "a")
    p.good("stop", "a")
    assert p.good("wait", "a") == "5\n"
    p.good("rm", "a")
    assert p.rows("-a") == [] and p.left() == []


def test_networks(p):
    assert p.run("--network", "none", "box", "ls", "/sys/class/net") == "lo\n"
    assert set(p.run("--network", "host", "box", "ls", "/sys/class/net").split()) == \
        {os.path.basename(d) for d in glob.glob("/sys/class/net/*") if os.path.isdir(d)}
    p.refused(125, "a bridge needs root", "run", "--rm", "--network", "bridge", "box", "true")


def exchange(port, data):
    """All that comes back from a TCP port of the host, after `data` went there and was ended."""
    with socket.create_connection(("127.0.0.1", port), timeout=run.PATIENCE) as s:
        def send():
            try:
                s.sendall(data)
                s.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # nobody is there yet
        sender = threading.Thread(target=send)
        sender.start()
        got = b""
        while chunk := s.recv(1 << 20):
            got += chunk
        sender.join()
        return got


def served(port):
    """Whether somebody answers there already: what is published accepts before anybody listens inside."""
    try:
        return exchange(port, b"x") == b"x"
    except OSError:
        return False


def test_user_network(p):
    """The default: an address, ports of the host that lead in, and nobody behind them at the end."""
    tcp, udp = free_port(), free_port(socket.SOCK_DGRAM)
    p.good("run", "-d", "--name", "a", "-p", f"{tcp}:7", "-p", f"127.0.0.1:{udp}:9/udp", "box", "sh", "-c",
           "nc -ll -p 7 -e cat & sleep 1000")
    network = json.loads(p.good("inspect", "a"))["network"]
    assert network["network"] == "user" and network["address"] == "10.0.2.15", network
    assert "10.0.2.15/24" in p.good("exec", "a", "ip", "address") and "via 10.0.2.2" in p.good("exec", "a", "ip", "route")
    run.until(lambda: served(tcp))
    data = random.Random(1).randbytes(3 << 20)
    assert exchange(tcp, data) == data
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.bind(("127.0.0.1", udp))
            raise AssertionError("the UDP port is nobody's")
        except OSError:
            pass
    p.refused(125, f"port {tcp} is in use", "run", "--rm", "-p", f"{tcp}:7", "box", "true")
    p.refused(125, "needs privileges", "run", "--rm", "-p", "81:7", "box", "true")
    keeper = p.rows()[0]["keeper"]
    os.kill(keeper, signal.SIGKILL)
    run.until(lambda: keeper not in p.processes())
    assert p.rows() == []
    run.until(lambda: not p.processes())
    p.good("rm", "a")
    p.good("run", "--rm", "-p", f"{tcp}:7", "box", "true")


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_loopback_of_the_host(p):
    """It is reached at 10.0.2.2 by who asked for it, and by nobody else."""
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]

        def close_all():
            try:
                while True:
                    s.accept()[0].close()
            except OSError:
                pass
        threading.Thread(target=close_all, daemon=True).start()
        ask = ("box", "sh", "-c", f"echo x | nc -w 3 10.0.2.2 {port} && echo reached || echo not")
        assert p.run("--network", "user,host", *ask) == "reached\n"
        assert p.run("--network", "user", *ask) == "not\n"
        assert p.run("--network", "none", *ask) == "not\n"


def test_names(p):
    """Questions go to the host's server, which is on its loopback interface; or to those of --dns."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 53))

        def answer():
            while True:
                q, who = s.recvfrom(1000)
                if q == b"end":
                    return
                end = q.index(b"\0", 12) + 5
                one = q[end - 4:end - 2] == b"\0\1"  # A
                record = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\x0a\x09\x08\x07" if one else b""
                s.sendto(q[:2] + b"\x81\x80\0\1" + bytes([0, one]) + bytes(4) + q[12:end] + record, who)
        server = threading.Thread(target=answer)
        server.start()
        try:
            out = p.run("box", "nslookup", "name.test")
            assert "10.9.8.7" in out and "10.0.2.3" in out, out
        finally:
            s.sendto(b"end", s.getsockname())
            server.join()
    assert p.run("--dns", "192.0.2.1", "box", "cat", "/etc/resolv.conf") == "nameserver 192.0.2.1\n"


def test_without_delegation(p):
    """What takes a cgroup says why it can not be; the rest does not need one."""
    p.refused(125, "is delegated to this user", "run", "--rm", "--memory", "64M", "box", "true")
    p.good("run", "-d", "--name", "a", "box", "sleep", "1000")
    p.refused(1, "no cgroup", "pause", "a")
    p.refused(1, "no cgroup", "stats", "a")
    p.refused(1, "is delegated to this user", "update", "--memory", "64M", "a")
    assert "stats" not in json.loads(p.good("inspect", "a"))


def delegate(name):
    """Cgroups that belong to the user, and a line of sh that enters them. Directories, text."""
    made, enter = [], ""
    with open("/proc/self/mountinfo") as f:
        mounts = [line.split() for line in f]
    for m in mounts:
        kind = m[m.index("-") + 1]
        if kind not in ("cgroup", "cgroup2") or not m[4].startswith("/sys/fs/cgroup"):
            continue
        above = m[4] + "/" + name
        try:
            os.mkdir(above)
        except OSError:
            continue
        made.append(above)
        if kind == "cgroup2":  # who joins one has to be let change the one that is above both
            with open(above + "/cgroup.controllers") as f:
                have = f.read().split()
            for c in have:
                with open(above + "/cgroup.subtree_control", "w") as f:
                    f.write("+" + c)
            os.mkdir(above + "/first")
            made.append(above + "/first")
        for c in ("cpuset.cpus", "cpuset.mems"):
            if kind == "cgroup" and os.path.exists(above + "/" + c):
                with open(m[4] + "/" + c) as f, open(above + "/" + c, "w") as g:
                    g.write(f.read())
        for d in made[-2:]:
            if d.startswith(above):
                for one in (d, *glob.glob(d + "/cgroup.*"), *glob.glob(d + "/tasks")):
                    os.chown(one, USER, USER)
        enter += f"echo $$ > {made[-1]}/cgroup.procs\n"
    return made, enter


def test_delegated(p):
    """Cgroups of one's own: limits, pausing, counting."""
    made, enter = delegate(f"trapeze-test-{os.getpid()}")
    try:
        if not made:
            raise run.Skip("no cgroup can be made")
        script(run.TRAPEZE, PROGRAM, enter)
        p.good("run", "-d", "--name", "a", "box", "sleep", "1000")
        p.good("pause", "a")
        assert p.state("a") == "paused"
        p.good("resume", "a")
        assert p.state("a") == "running"
        assert json.loads(p.good("stats", "--format", "json", "a"))["pids"]["current"] == 1
        p.good("update", "--memory", "64M", "a")
        out = p.good("exec", "a", "sh", "-c", "cd /sys/fs/cgroup; cat memory.max memory/memory.limit_in_bytes 2>/dev/null; true")
        assert out == "67108864\n", out
        p.good("rm", "-f", "a")
        run.until(lambda: not p.processes())
        for d in made:
            assert not glob.glob(d + "/trapeze-*"), d
    finally:
        script(run.TRAPEZE, PROGRAM)
        p.call("rm", "-f", "a")
        run.until(lambda: not p.processes())
        for d in reversed(made):
            os.rmdir(d)


def test_another_user_gets_nothing(p):
    """What a container wrote belongs to the user or to his range, below directories that only he enters."""
    p.good("run", "--name", "a", "box", "sh", "-c", "echo x > /secret; chmod 644 /secret")
    upper = glob.glob(p.containers + "/*/upper/secret")[0]
    assert os.stat(upper).st_uid == USER
    d = subprocess.run(["setpriv", "--reuid", str(USER + 1), "--clear-groups", "cat", upper], stderr=subprocess.DEVNULL)
    assert d.returncode != 0


def test_commit_and_export(p):
    p.good("run", "-d", "--name", "a", "box", "sh", "-c", "echo mine > /etc/plain; touch /up; sleep 1000")
    run.until(lambda: p.call("exec", "a", "ls", "/up")[0] == 0)
    assert b"mine\n" in subprocess.run([run.TRAPEZE, "export", "a"], env=p.env, stdout=subprocess.PIPE, check=True).stdout
    p.good("commit", "a", "new")
    p.good("kill", "a")
    p.good("wait", "a")
    assert b"mine\n" in subprocess.run([run.TRAPEZE, "export", "a"], env=p.env, stdout=subprocess.PIPE, check=True).stdout
    assert p.run("new", "cat", "/etc/plain") == "mine\n"


def test_copies(p):
    """Where overlayfs can not be: on overlayfs."""
    for d in ("lower", "upper", "work"):
        os.mkdir(p.top + "/" + d)
        os.chown(p.top + "/" + d, USER, USER)
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={p.top}/lower,upperdir={p.top}/upper,"
                    f"workdir={p.top}/work", p.top + "/lower"], check=True)
    try:
        p.env["XDG_DATA_HOME"] = p.top + "/lower"
        p.good("image", "import", run.ARCHIVE, "box")
        p.good("run", "-d", "--name", "a", "box", "sh", "-c", "echo x > /etc/plain; sleep 1000")
        assert json.loads(p.good("inspect", "a"))["made"]["root"] == "copies"
        run.until(lambda: p.good("exec", "a", "cat", "/etc/plain") == "x\n")
        assert p.run("box", "cat", "/etc/plain") == "not a program\n"
        p.good("exec", "a", "touch", "/kept")
        p.good("kill", "a")
        p.good("wait", "a")
        p.good("start", "a")
        assert p.good("exec", "a", "ls", "/kept") == "/kept\n"
        p.good("rm", "-f", "a")
        assert os.listdir(p.top + "/lower/trapeze/containers") == []
        run.until(lambda: not p.processes())
    finally:
        p.env["XDG_DATA_HOME"] = p.top + "/data"
        subprocess.run(["umount", p.top + "/lower"], check=True)


def test_program_is_protected(p):
    """CVE-2019-5736: the program belongs to the user, so root of his container could write to it, if he could reach it."""
    p.good("run", "-d", "--name", "a", "box", "sleep", "1000")
    exe = os.open(f"/proc/{p.rows()[0]['keeper']}/exe", os.O_RDONLY)
    sealed = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK
    assert os.fstatvfs(exe).f_flag & os.ST_RDONLY or fcntl.fcntl(exe, fcntl.F_GET_SEALS) & sealed == sealed
    os.close(exe)
    with open(PROGRAM, "rb") as f:
        before = hashlib.sha256(f.read()).digest()
    poll = "for i in $(seq 300); do for f in /proc/[2-9]*/exe; do (echo x > $f) 2>/dev/null && echo wrote $f; done; done"
    q = p.start("exec", "a", "sh", "-c", poll, stdout=subprocess.PIPE)
    for _ in range(10):
        p.call("exec", "a", "/proc/self/exe")
    p.good("exec", "a", "sh", "-c", "printf '#!/proc/self/exe' > /tmp/x; chmod 755 /tmp/x")
    p.call("exec", "a", "/tmp/x")
    p.call("run", "--rm", "--entrypoint", "/proc/self/exe", "box")
    q.kill()
    q.wait()
    with open(PROGRAM, "rb") as f:
        assert hashlib.sha256(f.read()).digest() == before


def test_hidden_proc(p):
    """Where the kernel makes no procfs for a user namespace the host's is not shown in its place."""
    script(run.TRAPEZE, f"unshare -m sh -c 'mount -t tmpfs none /proc/fs && exec {' '.join(AS_USER)} \"$0\" \"$@\"' {PROGRAM}",
           user=[])
    try:
        p.refused(125, "no new procfs", "run", "--rm", "--network", "none", "box", "true")
    finally:
        script(run.TRAPEZE, PROGRAM)


def test_build(p):
    """A Dockerfile's steps run in user mode, and its image can be run."""
    os.mkdir(p.top + "/context")
    with open(p.top + "/context/Dockerfile", "w") as f:
        f.write("FROM box\nRUN ip address show eth0 > /net; mkdir /d; echo x > /d/f\nCMD [\"cat\", \"/net\", \"/d/f\"]\n")
    p.good("image", "build", "-t", "made", p.top + "/context")
    out = p.run("made")
    assert "10.0.2.15/24" in out and out.endswith("x\n"), out


def numbers(p):
    """What doctor says of them."""
    checks = json.loads(p.call("doctor", "--format", "json")[1])["checks"]
    return next(c["found"] for c in checks if c["name"] == "user numbers")


# --- with one ---


def one_users(p):
    """It says that there is one number; another can not be had."""
    status, out, err = p.call("run", "--rm", "box", "ls", "-ln", "/etc/passwd")
    assert status == 0 and "one user number only" in err and "/etc/subuid" in err, (out, err)
    assert out.split()[2:4] == ["0", "0"], out
    p.refused(125, "which containers of this", "run", "--rm", "-u", "joe", "box", "true")
    assert "/etc/subuid" in numbers(p)
    p.good("run", "-d", "--name", "a", "box", "sleep", "1000")
    p.refused(125, "which containers of this", "exec", "-u", "joe", "a", "true")


# --- with a range ---


def range_users(p):
    """Many users in it; numbers outside are those of the range; their files can be removed again."""
    assert p.call("run", "--rm", "box", "true")[2].find("one user number") < 0
    assert numbers(p) == "containers have a range of their own"
    p.good("run", "--name", "a", "-u", "joe", "box", "sh", "-c", "id -u; mkdir -p /tmp/d/e; echo x > /tmp/d/e/f; chmod 700 /tmp/d")
    assert p.call("logs", "a")[1] == "1000\n"
    f = glob.glob(p.containers + "/*/upper/tmp/d")[0]
    assert os.stat(f).st_uid == RANGE + 999 and os.stat(f).st_gid == RANGE + 1000, os.stat(f)
    p.good("rm", "a")
    assert p.left() == []
    p.good("run", "-d", "--name", "b", "-u", "joe", "box", "sleep", "1000")
    assert p.good("exec", "b", "id", "-u") == "1000\n"
    first = json.loads(p.good("inspect", "b"))["container"]["pid"]
    assert os.stat(f"/proc/{first}").st_uid == RANGE + 999
    os.kill(p.rows()[0]["keeper"], signal.SIGKILL)
    run.until(lambda: p.state("b") == "dead" and not os.path.exists(f"/proc/{first}"))
    p.good("start", "b")
    assert p.good("exec", "b", "id", "-u") == "1000\n"
    p.good("rm", "-f", "b")


def range_is_too_short(p):
    """A user who is not in it is refused, and none in his place."""
    set_range(500)
    try:
        p.refused(125, "which containers of this", "run", "--rm", "-u", "joe", "--network", "none", "box", "true")
    finally:
        set_range(65536)


SHARED = ("start", "events", "input", "reader_leaves", "escape_leaves", "layers_are_shared", "terminal", "signals_are_passed",
          "stop_asks", "attach", "garbage_leaves_containers", "keeper_is_killed", "killed")
RANGE_SHARED = ("start", "streams_and_status", "options", "exec", "streams_are_the_users")


ONCE = ("networks", "user_network", "loopback_of_the_host", "names", "without_delegation", "delegated",
        "program_is_protected", "hidden_proc", "copies", "another_user_gets_nothing")  # where a range makes no difference


def tests_of(ranged):
    """By their names, as main of run.py wants them."""
    mine = {n: f for n, f in globals().items() if n.startswith("test_") and not (ranged and n[5:] in ONCE)}
    kind = "range_" if ranged else "one_"
    mine.update({"test_" + n: f for n, f in globals().items() if n.startswith(kind)})
    shared = RANGE_SHARED if ranged else SHARED
    mine.update({"test_" + n: getattr(run, "test_" + n) for n in shared})
    return mine


def main():
    global run, RANGED, RANGES, PROGRAM
    if os.geteuid():
        print("1..0 # SKIP needs root, who becomes somebody else")
        return 0
    leave_chroot()
    why = forbidden()
    if why:
        print("1..0 # SKIP user namespaces are forbidden here:", why)
        return 0
    with tempfile.TemporaryDirectory(prefix="trapeze-rootless-") as shared:
        os.chmod(shared, 0o755)
        RANGES, PROGRAM = shared + "/ranges", shared + "/trapeze"
        set_range(0)
        with open(RANGES + ".resolv", "w") as f:
            f.write("nameserver 127.0.0.1\n")
        own_network(RANGES + ".resolv")
        own_files()
        shutil.copy(os.environ["TRAPEZE"], PROGRAM)
        os.chown(PROGRAM, USER, USER)
        script(shared + "/as-user", PROGRAM)
        os.environ.update(TRAPEZE=shared + "/as-user", HOME="/nowhere")
        os.environ.pop("XDG_RUNTIME_DIR", None)
        import run
        run.OWNER = USER
        run.ARCHIVE = shared + "/box.tar"
        if run.BUSYBOX:
            run.make_archive(run.ARCHIVE)
        bad = 0
        for RANGED in (False, True):
            if RANGED and not shutil.which("newuidmap"):
                print("# a range of numbers: SKIP newuidmap is not there")
                continue
            set_range(65536 if RANGED else 0)
            bad += run.main(tests_of(RANGED), sys.argv[1:], lambda: None)
        return bad > 0


if __name__ == "__main__":
    sys.exit(main())
