"""exec, terminals, limits and usage, and containers of who is not root."""
import fcntl
import json
import os
import pty
import select
import shutil
import socket
import struct
import subprocess
import sys
import termios

from oci import OCI, Skip, run_tests


# --- exec ---

def exec_joins_everything(box):
    box.start()
    kinds = "pid net ipc uts mnt cgroup"
    out = box.exec(f"for n in {kinds}; do readlink /proc/self/ns/$n; done; hostname; echo $PATH; grep ^CapEff /proc/self/status")
    pid = box.state()["pid"]
    for kind, link in zip(kinds.split(), out.split()):
        assert link == os.readlink(f"/proc/{pid}/ns/{kind}"), (kind, link)
    with open(f"/proc/{pid}/status") as f:
        assert next(l for l in f if l.startswith("CapEff")) in out
    with open(f"/proc/{pid}/cgroup") as f:
        mine = f.read()
    p = subprocess.Popen([OCI, "--root", box.root, "exec", box.name, "sleep", "50"], stdin=subprocess.DEVNULL)
    box.until(lambda: len(json.loads(box.good("ps", "-f", "json", box.name))) == 2, "the second process")
    (other,) = [x for x in json.loads(box.good("ps", "-f", "json", box.name)) if x != pid]
    with open(f"/proc/{other}/cgroup") as f:
        assert f.read() == mine
    box.good("kill", box.name, "KILL")
    assert p.wait(60) == 137
    box.delete()


def exec_status_and_errors(box):
    box.start()
    assert box.exec("exit 9", status=9) == ""
    box.refused("exec", box.name, "nosuch", names="executable file not found in $PATH")
    box.refused("exec", "nobody", "true", names="does not exist")
    assert box.call("exec", box.name, "/bin/sh", "-c", "kill -KILL $$")[0] == 137
    box.refused("exec", "--cwd", "/missing", box.name, "true", names="process.cwd")
    box.good("kill", box.name, "KILL")
    box.until(lambda: box.state()["status"] == "stopped", "its end")
    box.refused("exec", box.name, "true", names="stopped")
    box.delete()


def exec_options(box):
    box.start()
    out = box.exec("id -u; id -g; id -G; pwd; echo $A; grep -E 'CapEff|CapInh|NoNewPrivs' /proc/self/status", "--user", "1000:1001",
                   "--cwd", "/tmp", "--env", "A=b", "-g", "7", "--cap", "CAP_SYS_NICE", "--no-new-privs")
    lines = out.split("\n")
    assert lines[:2] == ["1000", "1001"] and "7" in lines[2].split() and lines[3:5] == ["/tmp", "b"], out
    assert "NoNewPrivs:\t1" in out and "CapInh:\t0000000000000000" in out, out
    out = box.exec("grep -E 'CapEff|CapInh|CapBnd' /proc/self/status", "--cap", "CAP_SYS_NICE")
    assert int(out.split()[3], 16) & 1 << 23 and int(out.split()[1], 16) == 0, out
    box.delete()


def exec_process_file(box):
    box.start()
    process = {"args": ["/bin/sh", "-c", "echo $X $(id -u) $(pwd)"], "cwd": "/tmp", "env": ["PATH=/bin", "X=y"], "user": {"uid": 5, "gid": 5},
               "capabilities": {}, "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 77}]}
    path = os.path.join(box.path, "process.json")
    with open(path, "w") as f:
        json.dump(process, f)
    assert box.good("exec", "--process", path, box.name) == "y 5 /tmp\n"
    with open(path, "w") as f:
        json.dump(dict(process, cwd="relative"), f)
    box.refused("exec", "--process", path, box.name, names="process: cwd")
    box.delete()


def exec_detached(box):
    box.start()
    pid_file = os.path.join(box.path, "exec.pid")
    null = open(os.devnull, "r+b")
    subprocess.run([OCI, "--root", box.root, "exec", "-d", "--pid-file", pid_file, box.name, "sleep", "1000"], stdin=null, stdout=null,
                   stderr=null, check=True, timeout=60)
    null.close()
    pid = int(box.text("exec.pid"))
    with open(f"/proc/{pid}/cmdline", "rb") as f:
        assert f.read() == b"sleep\0" b"1000\0"
    box.delete()
    box.until(lambda: not os.path.exists(f"/proc/{pid}/exe"), "its end with the container")


def exec_in_user_namespace(box):
    box.user_namespace()
    box.start()
    assert box.exec("id -u; readlink /proc/self/ns/user").split() == ["0", os.readlink(f"/proc/{box.state()['pid']}/ns/user")]
    box.delete()


def exec_affinity(box):
    if os.cpu_count() < 2:
        raise Skip("one CPU")
    box.start()
    with open(os.path.join(box.path, "p.json"), "w") as f:
        json.dump({"args": ["grep", "Cpus_allowed_list", "/proc/self/status"], "cwd": "/", "env": ["PATH=/bin"],
                   "execCPUAffinity": {"initial": "0", "final": "1"}}, f)
    assert box.good("exec", "-p", os.path.join(box.path, "p.json"), box.name).split()[1] == "1"
    box.delete()


# --- terminals ---

def console(box, call):
    """Run `call` with the path of a console socket; the master that came."""
    path = os.path.join(box.path, "console.sock")
    if os.path.exists(path):
        os.unlink(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(1)
        listener.settimeout(60)
        call(path)
        peer, _ = listener.accept()
        _, fds, _, _ = socket.recv_fds(peer, 256, 1)
        peer.close()
    return fds[0]


def read_terminal(fd, until):
    got = b""
    while until not in got:
        if not select.select([fd], [], [], 60)[0]:
            raise AssertionError(f"the terminal says only {got!r}")
        try:
            piece = os.read(fd, 4096)
        except OSError:
            break
        if not piece:
            break
        got += piece
    return got.decode(errors="replace")


def terminal_by_console_socket(box):
    box.config["process"].update(terminal=True, consoleSize={"height": 33, "width": 77})
    master = console(box, lambda path: box.create("--console-socket", path,
                                                  script="tty; stty size; test -c /dev/console && echo console; ls -l /dev/pts/0; read x; echo got $x"))
    assert struct.unpack("HHHH", fcntl.ioctl(master, termios.TIOCGWINSZ, bytes(8)))[:2] == (33, 77)
    box.good("start", box.name)
    out = read_terminal(master, b"console\r\n")
    assert out.startswith("/dev/pts/0\r\n33 77\r\nconsole"), out
    os.write(master, b"word\n")
    assert "got word" in read_terminal(master, b"got word")
    os.close(master)
    box.delete()


def terminal_needs_a_socket(box):
    box.config["process"]["terminal"] = True
    box.write()
    box.refused("create", "-b", box.bundle, box.name, names=["process.terminal", "--console-socket"])


def terminal_of_exec(box):
    box.start()
    fd = console(box, lambda path: box.good("exec", "-t", "-d", "--console-socket", path, box.name, "sh", "-c", "tty; echo end"))
    out = read_terminal(fd, b"end")
    assert out.startswith("/dev/pts/"), out
    os.close(fd)
    box.delete()


def terminal_in_the_foreground(box):
    box.config["process"]["terminal"] = True
    box.sh("tty; stty size; read x; echo got $x; exit 6")
    box.write()
    pid, master = pty.fork()
    if pid == 0:
        os.execv(OCI, [OCI, "--root", box.root, "run", "-b", box.bundle, box.name])
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 60, 0, 0))
    read_terminal(master, b"/dev/pts/0")
    os.write(master, b"line\r")
    assert "got line" in read_terminal(master, b"got line")
    read_terminal(master, b"\0never")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 6
    os.close(master)


# --- limits ---

def limits_of_version_1(box):
    box.config["linux"]["resources"].update({
        "memory": {"limit": 64 << 20, "reservation": 32 << 20}, "pids": {"limit": 20},
        "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0"}})
    box.start()
    assert box.cgroup_file("memory", "memory.limit_in_bytes") == str(64 << 20)
    assert box.cgroup_file("memory", "memory.soft_limit_in_bytes") == str(32 << 20)
    assert box.cgroup_file("pids", "pids.max") == "20"
    assert box.cgroup_file("cpu", "cpu.shares") == "512" and box.cgroup_file("cpu", "cpu.cfs_quota_us") == "50000"
    assert box.cgroup_file("cpuset", "cpuset.cpus") == "0"
    box.delete()


def limits_are_in_force(box):
    box.config["linux"]["resources"].update({"pids": {"limit": 5}, "memory": {"limit": 16 << 20}})
    box.run("i=0; while [ $i -lt 10 ]; do sleep 1 & i=$((i+1)); done; echo end", status=2)  # the shell can not fork
    box.config["linux"]["resources"].pop("pids")
    box.sh("head -c 64m /dev/zero | tail -c 64m | wc -c")
    box.write()
    status, out, err = box.call("run", "-b", box.bundle, box.name)
    assert str(64 << 20) not in out, "64 MB in a container of 16"


def impossible_limits(box):
    box.config["linux"]["resources"]["cpu"] = {"cpus": "4000"}
    box.run_refused(["cgroup", "cpuset.cpus"])
    box.config["linux"]["resources"]["cpu"] = {}
    box.config["linux"]["resources"]["memory"] = {"limit": 1 << 30, "swap": 1 << 20}
    box.run_refused("memory.swap")
    box.config["linux"]["resources"]["memory"] = {}
    box.config["linux"]["cgroupsPath"] = "/a/../.."
    box.run_refused("cgroupsPath")
    box.config["linux"]["cgroupsPath"] = "/"
    box.run_refused("cgroupsPath")


def places_of_cgroups(box):
    box.config["linux"]["cgroupsPath"] = f"/{box.name}-top/inner"
    box.start()
    with open(f"/proc/{box.state()['pid']}/cgroup") as f:
        lines = f.read().splitlines()
    assert all(l.endswith(f"/{box.name}-top/inner") for l in lines), lines
    box.delete()
    box.remove_cgroups()
    box.config["linux"]["cgroupsPath"] = f"{box.name}.slice:pre:x"
    box.sh("true")
    box.write()
    box.good("--systemd-cgroup", "run", "-b", box.bundle, box.name)
    box.refused("--cgroup-manager", "systemd", "run", "-b", "/nonexistent", box.name, names="/nonexistent")
    box.remove_cgroups()


def update_of_limits(box):
    box.start()
    box.good("update", "--memory", str(80 << 20), "--pids-limit", "33", "--cpu-share", "300", "--cpu-quota", "20000", box.name)
    assert box.cgroup_file("memory", "memory.limit_in_bytes") == str(80 << 20)
    assert box.cgroup_file("pids", "pids.max") == "33" and box.cgroup_file("cpu", "cpu.cfs_quota_us") == "20000"
    box.good("update", "--resources", "-", box.name, stdin=json.dumps({"pids": {"limit": 44}}).encode())
    assert box.cgroup_file("pids", "pids.max") == "44" and box.cgroup_file("memory", "memory.limit_in_bytes") == str(80 << 20)
    box.refused("update", "--memory", "lots", box.name, names="memory.limit")
    box.refused("update", "--resources", "-", box.name, stdin=b'{"cpu":{"shares":true}}', names="resources: cpu.shares")
    box.exec("cat /dev/null")  # the rules of devices are as they were
    box.delete()


def usage(box):
    box.start(script="i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; sleep 1000")
    box.until(lambda: "done" in box.text("out"), "its work")
    event = json.loads(box.good("events", "--stats", box.name))
    data = event["data"]
    assert event["type"] == "stats" and event["id"] == box.name
    assert data["cpu"]["usage"]["total"] > 1000000 and data["memory"]["usage"]["usage"] > 0 and data["pids"]["current"] == 1, data
    p = subprocess.Popen([OCI, "--root", box.root, "events", "--interval", "20ms", box.name], stdout=subprocess.PIPE)
    lines = [json.loads(p.stdout.readline()) for _ in range(3)]
    assert all(l["type"] == "stats" for l in lines)
    box.delete()
    p.stdout.close()
    assert p.wait(60) in (0, -13)


# --- who is not root ---

class Unprivileged:
    """A bundle that belongs to user 4711, and the program run as him."""

    UID = 4711

    def __init__(self, box):
        self.box = box
        for path, dirs, files in os.walk(box.path):
            for n in [path] + [os.path.join(path, n) for n in dirs + files]:
                os.lchown(n, self.UID, self.UID)
        c = box.config
        c["linux"]["namespaces"] = [{"type": t} for t in ("pid", "ipc", "uts", "mount", "user", "network")]
        c["linux"]["uidMappings"] = c["linux"]["gidMappings"] = [{"containerID": 0, "hostID": self.UID, "size": 1}]
        c["linux"]["resources"] = {}
        c["mounts"] = [m for m in c["mounts"] if m["type"] != "cgroup"]
        for m in c["mounts"]:
            m["options"] = [o for o in m["options"] if o != "gid=5"]
        self.env = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": box.path}
        program = os.path.join(box.path, "program")
        shutil.copy(OCI, program)  # where the build lies he may not be let in
        os.chmod(program, 0o755)
        self.program = program

    def demote(self):
        os.setgroups([])
        os.setresgid(self.UID, self.UID, self.UID)
        os.setresuid(self.UID, self.UID, self.UID)

    def call(self, *words):
        p = subprocess.run([self.program, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.env,
                           preexec_fn=self.demote, timeout=60)
        return p.returncode, p.stdout.decode(), p.stderr.decode()


def rootless_run(box):
    u = Unprivileged(box)
    box.sh("id -u; cat /proc/self/uid_map; hostname; touch /made; echo x > /dev/null; cat /proc/1/comm; mount | grep -c .")
    box.write()
    status, out, err = u.call("run", "-b", box.bundle, box.name)
    assert status == 0, err
    assert out.split()[:4] == ["0", "0", str(u.UID), "1"] and "box" in out, out
    assert os.stat(os.path.join(box.rootfs, "made")).st_uid == u.UID


def rootless_life(box):
    u = Unprivileged(box)
    box.sh("sleep 1000")
    box.write()
    null = open(os.devnull, "r+b")
    with open(os.path.join(box.path, "err"), "wb") as err:
        p = subprocess.run([u.program, "create", "-b", box.bundle, box.name], stdin=null, stdout=null, stderr=err, env=u.env,
                           preexec_fn=u.demote, timeout=60)
    null.close()
    assert p.returncode == 0, box.text("err")
    assert u.call("start", box.name)[0] == 0
    state = json.loads(u.call("state", box.name)[1])
    assert state["status"] == "running", state
    status, out, err = u.call("exec", box.name, "sh", "-c", "id -u; readlink /proc/self/ns/user")
    assert status == 0 and out.split() == ["0", os.readlink(f"/proc/{state['pid']}/ns/user")], (out, err)
    status, _, err = u.call("update", "--memory", "10000000", box.name)
    assert status == 1, "a limit that nobody could set was promised"
    assert u.call("delete", "--force", box.name)[0] == 0


def rootless_limits_are_refused(box):
    u = Unprivileged(box)
    box.config["linux"]["resources"] = {"pids": {"limit": 10}}
    box.write()
    status, _, err = u.call("run", "-b", box.bundle, box.name)
    assert status == 1 and "resources.pids.limit" in err, err


def without_root_a_user_namespace_is_needed(box):
    u = Unprivileged(box)
    box.config["linux"]["namespaces"] = [{"type": t} for t in ("pid", "mount", "uts")]
    del box.config["linux"]["uidMappings"], box.config["linux"]["gidMappings"]
    box.write()
    status, _, err = u.call("run", "-b", box.bundle, box.name)
    assert status == 1 and "user namespace" in err, err


if __name__ == "__main__":
    sys.exit(run_tests([
        exec_joins_everything, exec_status_and_errors, exec_options, exec_process_file, exec_detached, exec_in_user_namespace,
        exec_affinity, terminal_by_console_socket, terminal_needs_a_socket, terminal_of_exec, terminal_in_the_foreground,
        limits_of_version_1, limits_are_in_force, impossible_limits, places_of_cgroups, update_of_limits, usage, rootless_run,
        rootless_life, rootless_limits_are_refused, without_root_a_user_namespace_is_needed]))
