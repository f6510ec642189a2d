"""Life of a container: create, start, run, state, kill, delete, list; output, status, files; errors."""
import json
import os
import signal
import socket
import subprocess
import sys

from oci import OCI, run_tests


def run_gives_output_and_status(box):
    assert box.run("echo out; exit 7", status=7) == "out\n"
    assert box.run("kill -TERM $$; sleep 1; exit 3", status=3) == "", "init of a namespace does not hear itself"


def created_started_stopped_deleted(box):
    box.create(script="echo begun; sleep 1000")
    state = box.state()
    assert state["status"] == "created" and state["id"] == box.name and state["bundle"] == box.bundle, state
    assert os.path.exists(f"/proc/{state['pid']}") and box.text("out") == "", "it has started on its own"
    box.good("start", box.name)
    box.until(lambda: box.text("out") == "begun\n", "its output")
    assert box.state()["status"] == "running"
    box.refused("start", box.name, names="is running")
    box.refused("delete", box.name, names=["is running", "--force"])
    box.good("kill", box.name, "KILL")
    box.until(lambda: box.state()["status"] == "stopped", "its end")
    assert box.state()["pid"] == 0
    box.refused("kill", box.name, "TERM", names="not running")
    box.refused("start", box.name, names="is stopped")
    box.good("delete", box.name)
    box.refused("state", box.name, names="does not exist")
    box.refused("delete", box.name, names="does not exist")
    box.good("delete", "--force", box.name)


def create_can_be_deleted_unstarted(box):
    box.create()
    box.good("delete", box.name)


def names_are_taken_once(box):
    box.create()
    box.refused("run", "--bundle", box.bundle, box.name, names="taken")
    assert box.state()["status"] == "created", "the first one was harmed"
    box.delete()
    box.refused("run", "--bundle", box.bundle, "../x", names="container name")
    box.refused("run", "--bundle", box.bundle, "a/b", names="container name")


def signals_by_name_and_number(box):
    for sent in ("USR1", "SIGUSR1", "10", "sigusr1"):
        box.start(script="trap 'echo got; exit 5' USR1; echo ready; while true; do sleep 0.01; done")
        box.until(lambda: "ready" in box.text("out"), "the trap")
        box.good("kill", box.name, sent)
        box.until(lambda: "got" in box.text("out"), "the signal")
        box.delete()
    box.create()
    box.refused("kill", box.name, "NONSENSE", names="is no signal")
    box.delete()


def kill_all_without_pid_namespace(box):
    box.namespaces("mount", "ipc", "uts")
    box.start(script="sleep 999 & sleep 998 & echo up; wait")
    box.until(lambda: "up" in box.text("out"), "its children")
    pids = json.loads(box.good("ps", "--format", "json", box.name))
    assert len(pids) >= 3, pids
    box.good("kill", "--all", box.name, "KILL")
    box.until(lambda: not any(os.path.exists(f"/proc/{p}/exe") for p in pids), "the end of all")
    box.good("delete", box.name)


def run_passes_signals_on(box):
    box.sh("trap 'exit 9' TERM; echo ready; while true; do sleep 0.01; done")
    box.write()
    p = subprocess.Popen([OCI, "--root", box.root, "run", "-b", box.bundle, box.name], stdout=subprocess.PIPE)
    assert p.stdout.readline() == b"ready\n"
    p.send_signal(signal.SIGTERM)
    assert p.wait(60) == 9
    p.stdout.close()


def run_killed_by_signal(box):
    box.namespaces("mount", "ipc", "uts", "network")  # not an init: it hears its own signals
    assert box.run("kill -KILL $$", status=137) == ""


def detached(box):
    box.sh("sleep 1000")
    box.write()
    with open(os.devnull, "r+b") as null:
        subprocess.run([OCI, "--root", box.root, "run", "-d", "-b", box.bundle, box.name], stdin=null, stdout=null, check=True)
    assert box.state()["status"] == "running"
    box.delete()


def pid_file_and_pidfd(box):
    box.create("--pid-file", os.path.join(box.path, "pid"))
    assert int(box.text("pid")) == box.state()["pid"]
    box.delete()
    path = os.path.join(box.path, "pidfd.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(1)
        box.create("--pidfd-socket", path)
        peer, _ = listener.accept()
        _, fds, _, _ = socket.recv_fds(peer, 64, 1)
        info = open(f"/proc/self/fdinfo/{fds[0]}").read()
        assert f"Pid:\t{box.state()['pid']}\n" in info, info
        os.close(fds[0])
        peer.close()
    box.delete()


def lists(box):
    box.create()
    (one,) = json.loads(box.good("list", "--format", "json"))
    assert one["id"] == box.name and one["status"] == "created" and one["rootfs"] == box.rootfs and one["created"][-1] == "Z"
    table = box.good("list")
    assert table.startswith("ID") and box.name in table
    assert box.good("list", "--quiet") == box.name + "\n"
    box.delete()


def processes(box):
    box.start(script="sleep 1000 & wait")
    box.until(lambda: len(json.loads(box.good("ps", "-f", "json", box.name))) == 2, "the shell's child")
    pids = json.loads(box.good("ps", "-f", "json", box.name))
    assert box.state()["pid"] in pids, pids
    if os.path.exists("/bin/ps"):
        table = box.good("ps", box.name)
        assert table.splitlines()[0].split()[:2] == ["UID", "PID"] and len(table.splitlines()) == len(pids) + 1, table
    box.delete()


def pause_and_resume(box):
    box.start(script="while true; do echo x; sleep 0.01; done")
    box.until(lambda: box.text("out"), "output")
    box.good("pause", box.name)
    assert box.state()["status"] == "paused"
    before = box.text("out")
    box.refused("exec", box.name, "/bin/true", names="paused")
    assert box.text("out") == before
    box.refused("pause", box.name, names="paused")
    box.good("resume", box.name)
    box.until(lambda: len(box.text("out")) > len(before), "more output")
    box.refused("resume", box.name, names="running")
    box.good("pause", box.name)
    box.delete()


def commands_that_are_not_there(box):
    box.config["process"]["args"] = ["nosuch"]
    box.run_refused(["executable file not found in $PATH", "nosuch"])
    box.config["process"]["args"] = ["/bin/nosuch"]
    box.run_refused("no such file or directory")
    with open(os.path.join(box.rootfs, "plain"), "w") as f:
        f.write("x")
    os.chmod(os.path.join(box.rootfs, "plain"), 0o644)
    box.config["process"]["args"] = ["/plain"]
    box.run_refused("permission denied")
    os.chmod(os.path.join(box.rootfs, "plain"), 0o755)
    box.run_refused("exec /plain")  # found by execve itself, at the start


def errors_name_the_field(box):
    box.config["linux"]["resources"]["cpu"] = {"shares": "many"}
    box.run_refused("config.json: linux.resources.cpu.shares: ")
    box.config["linux"]["resources"]["cpu"] = {}
    box.config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 9, "hard": 8}]
    box.run_refused("process.rlimits[0].soft")
    box.config["process"]["rlimits"] = []
    box.config["vm"] = {"kernel": {"path": "/vmlinuz"}}
    box.run_refused(["vm", "not implemented"])


def errors_in_the_log(box):
    log = os.path.join(box.path, "log")
    box.write()
    status, _, _ = box.call("--log", log, "--log-format", "json", "run", "--bundle", "/nonexistent", box.name)
    line = json.loads(box.text("log"))
    assert status == 1 and line["level"] == "error" and "/nonexistent" in line["msg"] and line["time"], line
    box.call("--log", log + "2", "--log-format=text", "state", "nobody")
    assert 'level=error msg="container nobody: does not exist"' in box.text("log2"), box.text("log2")
    box.refused("--log-format", "xml", "list", names="--log-format")
    box.refused("frobnicate", names="unknown verb")
    box.refused("run", "--frobnicate", "x", names="unknown option")


def killed_creation_is_no_obstacle(box):
    os.makedirs(os.path.join(box.root, box.name), 0o700)
    assert json.loads(box.good("list", "--format", "json")) == []
    assert box.state()["status"] == "creating"
    assert box.run("echo fresh") == "fresh\n"
    os.makedirs(os.path.join(box.root, box.name), 0o700)
    box.good("delete", box.name)


def damaged_state_can_be_deleted(box):
    box.create()
    pid = box.state()["pid"]
    with open(os.path.join(box.root, box.name, "state.json"), "r+") as f:
        f.truncate(20)
    box.refused("state", box.name, names=["damaged", "--force"])
    os.kill(pid, signal.SIGKILL)
    box.until(lambda: not os.path.exists(f"/proc/{pid}/exe"), "its end")
    box.delete()
    box.remove_cgroups()


def killed_runtime_leaves_nothing_running(box):
    """SIGKILL at any moment of a creation: afterwards delete --force makes all clean."""
    box.sh("sleep 1000")
    box.write()
    for delay in range(0, 12):
        p = subprocess.Popen([OCI, "--root", box.root, "create", "-b", box.bundle, box.name], stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            p.wait(delay / 1000)
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()
        box.good("delete", "--force", box.name)
        box.until(lambda: not any(open(c + "/cgroup.procs").read() for c in box.cgroups()), "the end of its process")
        box.remove_cgroups()


def preserved_descriptors(box):
    read, write = os.pipe()
    os.write(write, b"through\n")
    os.close(write)
    box.sh("cat <&3; ls /proc/self/fd | tr '\\n' ' '")
    box.write()
    os.dup2(read, 3)
    p = subprocess.run([OCI, "--root", box.root, "run", "-b", box.bundle, "--preserve-fds", "1", box.name], stdin=subprocess.DEVNULL,
                       stdout=subprocess.PIPE, pass_fds=[3], timeout=60)
    out = p.stdout.decode()
    assert out.startswith("through\n") and out.split("\n")[1].split()[:4] == ["0", "1", "2", "3"], out
    assert len(out.split("\n")[1].split()) == 5, "more than 0-3 and ls's own: " + out
    os.close(read)
    box.refused("run", "-b", box.bundle, "--preserve-fds", "9", box.name, names="is not open")


def listen_fds(box):
    script = "echo $LISTEN_FDS $LISTEN_PID; readlink /proc/self/fd/3"
    box.sh(script)
    box.write()
    with open(os.path.join(box.path, "given"), "w") as f:
        os.dup2(f.fileno(), 3)
        p = subprocess.run([OCI, "--root", box.root, "run", "-b", box.bundle, box.name], stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, pass_fds=[3], env={**box.env, "LISTEN_FDS": "1"}, timeout=60)
    assert p.stdout.decode().startswith("1 1\n") and "given" in p.stdout.decode(), p.stdout


def notify_socket(box):
    path = os.path.join(box.path, "notify.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as host:
        host.bind(path)
        host.settimeout(60)
        box.env["NOTIFY_SOCKET"] = path
        box.create(script="echo $NOTIFY_SOCKET; sleep 1000")
        p = subprocess.Popen([OCI, "--root", box.root, "start", box.name], env=box.env)
        inside = os.path.join(box.root, box.name, "notify/notify.sock")
        box.until(lambda: os.path.exists(inside) and box.text("out"), "its socket")
        assert box.text("out") == "/run/notify/notify.sock\n"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.sendto(b"STATUS=soon", inside)
            client.sendto(b"READY=1\nSTATUS=up", inside)
        got = host.recv(4096).decode()
        assert got.startswith("READY=1\nMAINPID=") and int(got.split("=")[2]) == box.state()["pid"], got
        assert p.wait(60) == 0
    del box.env["NOTIFY_SOCKET"]
    box.delete()


def features(box):
    f = json.loads(box.good("features"))
    assert f["ociVersionMin"] == "1.0.0" and "rro" in f["mountOptions"] and "poststop" in f["hooks"]
    assert "time" in f["linux"]["namespaces"] and f["linux"]["seccomp"]["enabled"] and f["linux"]["cgroup"]["v2"]
    assert "SCMP_ACT_NOTIFY" in f["linux"]["seccomp"]["actions"] and f["linux"]["mountExtensions"]["idmap"]["enabled"]


def spec_verb(box):
    box.good("spec", "--bundle", box.bundle)
    box.refused("spec", "--bundle", box.bundle, names="there already")
    with open(os.path.join(box.bundle, "config.json")) as f:
        box.config = json.load(f)
    assert box.run("hostname", terminal=False) == "trapeze\n"


if __name__ == "__main__":
    sys.exit(run_tests([
        run_gives_output_and_status, created_started_stopped_deleted, create_can_be_deleted_unstarted, names_are_taken_once,
        signals_by_name_and_number, kill_all_without_pid_namespace, run_passes_signals_on, run_killed_by_signal, detached,
        pid_file_and_pidfd, lists, processes, pause_and_resume, commands_that_are_not_there, errors_name_the_field,
        errors_in_the_log, killed_creation_is_no_obstacle, damaged_state_can_be_deleted, killed_runtime_leaves_nothing_running,
        preserved_descriptors, listen_fds, notify_socket, features, spec_verb]))
