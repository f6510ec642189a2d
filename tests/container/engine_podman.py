"""podman (Debian's package) with trapeze-oci as its runtime: run, exec, logs, stop, rm, pause, stats, limits, terminals, pods.

Everything podman keeps lies in a temporary directory. The image is made of busybox: no registry, no network.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback

OCI = os.environ["OCI"]
ULIMITS = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"]
BUSYBOX = next((p for p in ("/bin/busybox", "/usr/bin/busybox") if os.path.exists(p)), None)


class Podman:
    def __init__(self):
        self.path = tempfile.mkdtemp(prefix="trapeze-podman-")
        self.base = ["podman", "--root", f"{self.path}/root", "--runroot", f"{self.path}/run", "--tmpdir", f"{self.path}/tmp",
                     "--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", OCI]
        self.import_image()

    def import_image(self):
        tree = os.path.join(self.path, "image")
        os.makedirs(os.path.join(tree, "bin"))
        os.makedirs(os.path.join(tree, "etc"))
        shutil.copy(BUSYBOX, os.path.join(tree, "bin/busybox"))
        for name in subprocess.run([BUSYBOX, "--list"], stdout=subprocess.PIPE, text=True, check=True).stdout.split():
            if name != "busybox":
                os.symlink("busybox", os.path.join(tree, "bin", name))
        with open(os.path.join(tree, "etc/passwd"), "w") as f:
            f.write("root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
        archive = os.path.join(self.path, "image.tar")
        with tarfile.open(archive, "w") as t:
            t.add(tree, arcname=".")
        self.good("import", archive, "box:latest")

    def call(self, *words, stdin=b"", timeout=120):
        p = subprocess.run([*self.base, *words], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout)
        return p.returncode, p.stdout.decode(errors="replace"), p.stderr.decode(errors="replace")

    def good(self, *words, **more):
        status, out, err = self.call(*words, **more)
        assert status == 0, f"podman {' '.join(words)}: status {status}: {err}{out}"
        return out

    def run(self, *words, options=(), status=0):
        got, out, err = self.call("run", "--rm", "--network", "none", *ULIMITS, *options, "box", *words)
        assert got == status, f"podman run {options} {words}: status {got}, not {status}: {err}{out}"
        return out

    def start(self, name, *words, options=()):
        return self.good("run", "-d", "--name", name, "--network", "none", *ULIMITS, *options, "box", *words)

    def close(self):
        self.call("rm", "-f", "-a", "-t", "0")
        self.call("pod", "rm", "-f", "-a")
        for line in reversed(open("/proc/self/mountinfo").read().splitlines()):
            if self.path in line.split()[4]:
                subprocess.run(["umount", "-l", line.split()[4]])
        shutil.rmtree(self.path, ignore_errors=True)


def output_and_status(p):
    assert p.run("echo", "hello") == "hello\n"
    p.run("sh", "-c", "exit 7", status=7)
    assert p.call("run", "--rm", "--network", "none", *ULIMITS, "box", "nosuch")[0] == 127
    assert p.call("run", "--rm", "--network", "none", *ULIMITS, "box", "/etc")[0] == 126
    assert p.run("cat", options=["-i"]) == ""


def standard_input(p):
    status, out, err = p.call("run", "--rm", "-i", "--network", "none", *ULIMITS, "box", "cat", stdin=b"through\n")
    assert status == 0 and out == "through\n", (out, err)


def life(p):
    p.start("one", "sh", "-c", "trap 'echo term; exit 3' TERM; echo up; while true; do sleep 0.05; done")
    deadline = time.monotonic() + 60
    while "up" not in p.good("logs", "one"):
        assert time.monotonic() < deadline
    assert "one" in p.good("ps", "--format", "{{.Names}}")
    out = p.good("exec", "one", "sh", "-c", "cat /proc/1/comm; id -u")
    assert out.split() == ["sh", "0"], out
    assert p.call("exec", "one", "sh", "-c", "exit 9")[0] == 9
    assert p.call("exec", "one", "nosuch")[0] == 127
    assert p.good("exec", "-u", "65534", "-w", "/etc", "-e", "A=b", "one", "sh", "-c", "id -u; pwd; echo $A").split() == ["65534", "/etc", "b"]
    assert "sleep" in p.good("top", "one") or "sh" in p.good("top", "one")
    state = json.loads(p.good("inspect", "one"))[0]
    assert state["State"]["Status"] == "running" and state["OCIRuntime"] == OCI, state["OCIRuntime"]
    p.good("stop", "-t", "20", "one")
    assert "term" in p.good("logs", "one")
    assert json.loads(p.good("inspect", "one"))[0]["State"]["ExitCode"] == 3
    p.good("start", "one")
    p.good("kill", "one")
    p.good("wait", "one")
    p.good("rm", "one")


def pause(p):
    p.start("two", "sleep", "1000")
    p.good("pause", "two")
    assert json.loads(p.good("inspect", "two"))[0]["State"]["Status"] == "paused"
    p.good("unpause", "two")
    assert json.loads(p.good("inspect", "two"))[0]["State"]["Status"] == "running"
    p.good("rm", "-f", "-t", "0", "two")


def terminal(p):
    out = p.run("sh", "-c", "tty; echo end", options=["-t"])
    assert out.startswith("/dev/pts/0\r\n"), out
    p.start("three", "sleep", "1000")
    assert "/dev/pts/" in p.good("exec", "-t", "three", "tty")
    p.good("rm", "-f", "-t", "0", "three")


def limits(p):
    out = p.run("sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max 2>/dev/null ||"
                "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max", options=["--memory", "64m", "--pids-limit", "50"])
    assert out.split() == [str(64 << 20), "50"], out
    p.start("four", "sleep", "1000", options=["--memory", "64m"])
    stats = p.good("stats", "--no-stream", "--format", "json", "four")
    assert "67.11MB" in stats or "64MiB" in stats, stats
    p.good("rm", "-f", "-t", "0", "four")


def isolation(p):
    out = p.run("sh", "-c", "grep -E 'CapEff|Seccomp:|NoNewPrivs' /proc/self/status; hostname; echo b > /proc/sysrq-trigger; mount -t tmpfs x /etc 2>&1 || true",
                options=["--hostname", "named"])
    assert "named" in out and re.search(r"Seccomp:\s+2", out) and ("denied" in out or "not permitted" in out), out
    p.run("touch", "/x", options=["--read-only"], status=1)
    out = p.run("sh", "-c", "grep CapEff /proc/self/status", options=["--cap-drop", "all"])
    assert int(out.split()[1], 16) == 0
    assert p.run("id", "-u", options=["--user", "65534"]).strip() == "65534"
    out = p.run("sh", "-c", "cat /proc/self/uid_map; touch /x && echo made", options=["--uidmap", "0:200000:1000", "--gidmap", "0:200000:1000"])
    assert out.split()[:3] == ["0", "200000", "1000"] and "made" in out, out


def volumes(p):
    shared = os.path.join(p.path, "shared")
    os.makedirs(shared)
    p.run("sh", "-c", "echo word > /v/file", options=["-v", f"{shared}:/v"])
    assert open(os.path.join(shared, "file")).read() == "word\n"
    p.run("touch", "/v/other", options=["-v", f"{shared}:/v:ro"], status=1)
    assert "5120" in p.run("df", "-k", "/t", options=["--tmpfs", "/t:size=5m"])


def attached_pods(p):
    """A second container in the namespaces of the first."""
    p.start("base", "sleep", "1000", options=["--ipc", "shareable"])
    status, out, err = p.call("run", "--rm", *ULIMITS, "--network", "container:base", "--ipc", "container:base", "--pid", "container:base", "box",
                              "ps")
    assert status == 0 and "sleep" in out, (out, err)
    p.good("rm", "-f", "-t", "0", "base")


def init_process(p):
    out = p.run("true", options=["--init"]) if os.path.exists("/usr/libexec/podman/catatonit") else ""
    assert out == ""


def many(p):
    for i in range(5):
        p.start(f"m{i}", "sleep", "1000")
    assert len(p.good("ps", "-q").split()) == 5
    p.good("rm", "-f", "-t", "0", "-a")
    assert p.good("ps", "-a", "-q") == ""


def main():
    if os.geteuid() != 0 or not BUSYBOX or not shutil.which("podman"):
        print("1..0 # SKIP needs root, podman and busybox-static")
        return 77
    tests = [output_and_status, standard_input, life, pause, terminal, limits, isolation, volumes, attached_pods, init_process, many]
    bad, p = 0, Podman()
    print(f"1..{len(tests)}")
    try:
        for n, test in enumerate(tests, 1):
            try:
                test(p)
                print(f"ok {n} - {test.__name__}")
            except Exception:
                bad += 1
                print(f"not ok {n} - {test.__name__}")
                print("".join("# " + line + "\n" for line in traceback.format_exc().splitlines()), end="")
                p.call("rm", "-f", "-a", "-t", "0")
            sys.stdout.flush()
    finally:
        p.close()
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
