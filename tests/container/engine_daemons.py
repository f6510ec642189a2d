"""docker or containerd (Debian's packages) with trapeze-oci as the runtime: engine_daemons.py docker|containerd.

The daemon is started here, in a temporary directory, and stopped at the end. Images are made of busybox: no registry, no network.
"""
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback

OCI = os.environ["OCI"]
BUSYBOX = next((p for p in ("/bin/busybox", "/usr/bin/busybox") if os.path.exists(p)))
PATIENCE = 60


def make_tree(path):
    for d in ("bin", "etc", "tmp"):
        os.makedirs(os.path.join(path, d))
    shutil.copy(BUSYBOX, os.path.join(path, "bin/busybox"))
    for name in subprocess.run([BUSYBOX, "--list"], stdout=subprocess.PIPE, text=True, check=True).stdout.split():
        if name != "busybox":
            os.symlink("busybox", os.path.join(path, "bin", name))


def tar_of(tree):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as t:
        t.add(tree, arcname=".")
    return data.getvalue()


def oci_archive(path, layer, name):
    """An image as an OCI layout in a tar: one layer, uncompressed."""
    blobs = {}

    def blob(data, kind):
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"mediaType": kind, "digest": "sha256:" + digest, "size": len(data)}

    layer_part = blob(layer, "application/vnd.oci.image.layer.v1.tar")
    config = blob(json.dumps({"architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
                              "rootfs": {"type": "layers", "diff_ids": [layer_part["digest"]]}}).encode(),
                  "application/vnd.oci.image.config.v1+json")
    manifest = blob(json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config,
                                "layers": [layer_part]}).encode(), "application/vnd.oci.image.manifest.v1+json")
    manifest["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": "latest"}
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
             "index.json": json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode()}
    files.update({"blobs/sha256/" + d: data for d, data in blobs.items()})
    with tarfile.open(path, "w") as t:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))


class Daemon:
    def __init__(self, daemon, client):
        self.path = tempfile.mkdtemp(prefix="trapeze-daemon-", dir="/tmp")
        self.socket = os.path.join(self.path, "d.sock")
        self.client = client(self)
        with open(os.path.join(self.path, "log"), "wb") as log:
            self.p = subprocess.Popen(daemon(self), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.tree = os.path.join(self.path, "tree")
        make_tree(self.tree)
        deadline = time.monotonic() + PATIENCE
        while self.call("version")[0] != 0:
            assert self.p.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.1)

    def log(self):
        with open(os.path.join(self.path, "log"), errors="replace") as f:
            return f.read()[-3000:]

    def call(self, *words, stdin=b"", timeout=PATIENCE):
        p = subprocess.run([*self.client, *words], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout)
        return p.returncode, p.stdout.decode(errors="replace"), p.stderr.decode(errors="replace")

    def good(self, *words, **more):
        status, out, err = self.call(*words, **more)
        assert status == 0, f"{' '.join(words)}: status {status}: {err}{out}"
        return out

    def close(self):
        self.p.terminate()
        try:
            self.p.wait(30)
        except subprocess.TimeoutExpired:
            self.p.kill()
            self.p.wait()
        for line in reversed(open("/proc/self/mountinfo").read().splitlines()):
            if self.path in line.split()[4]:
                subprocess.run(["umount", "-l", line.split()[4]])
        shutil.rmtree(self.path, ignore_errors=True)


# --- docker ---

def start_docker():
    d = Daemon(lambda d: ["dockerd", "--data-root", d.path + "/data", "--exec-root", d.path + "/exec", "-H", "unix://" + d.socket, "-p",
                          d.path + "/pid", "--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver", "overlay2",
                          "--add-runtime", "trapeze=" + OCI, "--default-ulimit", "nofile=1024:1024"],
               lambda d: ["docker", "-H", "unix://" + d.socket])
    d.good("import", "-", "box", stdin=tar_of(d.tree))
    return d


RUN = ["--network", "none", "--runtime", "trapeze"]


def docker_output_and_status(d):
    assert d.good("run", "--rm", *RUN, "box", "echo", "hello") == "hello\n"
    assert d.call("run", "--rm", *RUN, "box", "sh", "-c", "exit 4")[0] == 4
    assert d.call("run", "--rm", *RUN, "box", "nosuch")[0] == 127
    assert d.call("run", "--rm", *RUN, "box", "/etc")[0] == 126
    assert d.good("run", "--rm", "-i", *RUN, "box", "cat", stdin=b"through\n") == "through\n"


def docker_life(d):
    d.good("run", "-d", "--name", "one", *RUN, "--memory", "64m", "box", "sh", "-c",
           "trap 'echo term; exit 3' TERM; echo up; while true; do sleep 0.05; done")
    assert d.good("exec", "one", "id", "-u") == "0\n" and d.call("exec", "one", "sh", "-c", "exit 9")[0] == 9
    assert "/dev/pts/" in d.good("exec", "-t", "one", "tty")
    d.good("pause", "one")
    assert d.good("inspect", "-f", "{{.State.Status}}", "one") == "paused\n"
    d.good("unpause", "one")
    d.good("update", "--memory", "128m", "--memory-swap", "256m", "one")
    assert "128MiB" in d.good("stats", "--no-stream", "--format", "{{.MemUsage}}", "one")
    assert "sleep" in d.good("top", "one") or "sh" in d.good("top", "one")
    d.good("stop", "-t", "20", "one")
    assert d.good("inspect", "-f", "{{.State.ExitCode}}", "one") == "3\n" and "term" in d.good("logs", "one")
    d.good("start", "one")
    d.good("kill", "one")
    d.good("rm", "one")


def docker_isolation(d):
    out = d.good("run", "--rm", *RUN, "--cap-drop", "ALL", "--user", "1000", "box", "sh", "-c", "id -u; grep -E 'CapBnd|Seccomp:' /proc/self/status")
    assert out.split()[0] == "1000" and int(out.split()[2], 16) == 0 and out.split()[4] == "2", out
    assert d.call("run", "--rm", *RUN, "--read-only", "box", "touch", "/x")[0] == 1
    assert d.good("run", "--rm", *RUN, "--tmpfs", "/t:size=5m", "box", "df", "-k", "/t").split()[-5] == "5120"


# --- containerd ---

def start_containerd():
    def daemon(d):
        with open(os.path.join(d.path, "config.toml"), "w") as f:
            f.write(f'version = 2\nroot = "{d.path}/root"\nstate = "{d.path}/state"\n'
                    f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\n  address = "{d.socket}"\n')
        return ["containerd", "-c", os.path.join(d.path, "config.toml")]
    d = Daemon(daemon, lambda d: ["ctr", "-a", d.socket])
    archive = os.path.join(d.path, "image.tar")
    oci_archive(archive, tar_of(d.tree), "localhost/box:latest")
    d.good("images", "import", archive)
    return d


CTR = ["run", "--snapshotter", "overlayfs", "--runc-binary", OCI]


def ctr_output_and_status(d):
    assert d.good(*CTR, "--rm", "localhost/box:latest", "c1", "echo", "hello") == "hello\n"
    assert d.call(*CTR, "--rm", "localhost/box:latest", "c2", "sh", "-c", "exit 5")[0] == 5
    status, _, err = d.call(*CTR, "--rm", "localhost/box:latest", "c3", "nosuch")
    assert status == 1 and "executable file not found in $PATH" in err, err
    d.call("container", "rm", "c3")


def ctr_life(d):
    d.good(*CTR, "-d", "localhost/box:latest", "c4", "sleep", "1000")
    assert "RUNNING" in d.good("task", "ls")
    assert d.good("task", "exec", "--exec-id", "e1", "c4", "id", "-u") == "0\n"
    d.good("task", "pause", "c4")
    assert "PAUSED" in d.good("task", "ls")
    d.good("task", "resume", "c4")
    assert "memory" in d.good("task", "metrics", "c4")
    d.good("task", "kill", "-s", "KILL", "c4")
    deadline = time.monotonic() + PATIENCE
    while "STOPPED" not in d.good("task", "ls"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    d.call("task", "rm", "c4")  # its status is the task's
    d.good("container", "rm", "c4")
    assert d.good("task", "ls", "-q") == ""


ENGINES = {
    "docker": (["dockerd", "docker"], start_docker, [docker_output_and_status, docker_life, docker_isolation]),
    "containerd": (["containerd", "ctr"], start_containerd, [ctr_output_and_status, ctr_life]),
}


def main():
    programs, start, tests = ENGINES[sys.argv[1]]
    missing = [p for p in programs if not shutil.which(p)]
    if os.geteuid() != 0 or not BUSYBOX or missing:
        print(f"1..0 # SKIP needs root, busybox-static and {', '.join(missing)}")
        return 77
    bad, d = 0, start()
    print(f"1..{len(tests)}")
    try:
        for n, test in enumerate(tests, 1):
            try:
                test(d)
                print(f"ok {n} - {test.__name__}")
            except Exception:
                bad += 1
                print(f"not ok {n} - {test.__name__}")
                print("".join("# " + line + "\n" for line in (traceback.format_exc() + d.log()).splitlines()), end="")
            sys.stdout.flush()
    finally:
        d.close()
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
