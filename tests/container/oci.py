"""What the scenario tests of the OCI runtime share: a bundle made of busybox, runs of the program, TAP.

OCI names the program. Each test is a function that takes a Box; afterwards the box must be clean: no container, no process,
no cgroup that the test did not ask to keep. Needs root (else all is skipped), and no engine, network or image.
"""
import copy
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

sys.path.insert(1, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from chroot import leave_chroot

OCI = os.environ["OCI"]
PATIENCE = 60  # seconds after which something hangs: no speed is tested
BUSYBOX = next((p for p in ("/bin/busybox", "/usr/bin/busybox") if os.path.exists(p)), None)
ALL_CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
                    "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL"]


class Skip(Exception):
    """A test that can not run here; the reason."""


def example():
    """A config.json like those that engines write."""
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/true"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {k: list(ALL_CAPABILITIES) for k in ("bounding", "effective", "permitted")},
        },
        "root": {"path": "rootfs", "readonly": False},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
        ],
        "linux": {
            "namespaces": [{"type": t} for t in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/proc/nothing/there"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }


class Box:
    """A bundle, a directory of states, and the program run on them."""

    def __init__(self):
        self.path = tempfile.mkdtemp(prefix="trapeze-oci-")
        os.chmod(self.path, 0o755)
        self.root = os.path.join(self.path, "states")
        self.bundle = os.path.join(self.path, "bundle")
        self.rootfs = os.path.join(self.bundle, "rootfs")
        self.name = "t" + os.path.basename(self.path).replace("_", "")[-8:]
        self.env = dict(os.environ)
        self.make_rootfs(self.rootfs)
        self.config = example()

    def make_rootfs(self, path):
        for d in ("bin", "proc", "dev", "sys", "tmp", "etc", "run"):
            os.makedirs(os.path.join(path, d))
        shutil.copy(BUSYBOX, os.path.join(path, "bin/busybox"))
        names = subprocess.run([BUSYBOX, "--list"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
        for name in names:
            if name != "busybox":
                os.symlink("busybox", os.path.join(path, "bin", name))
        with open(os.path.join(path, "etc/passwd"), "w") as f:
            f.write("root:x:0:0:root:/:/bin/sh\nuser:x:1000:1000:user:/:/bin/sh\n")

    # --- configuration ---

    def write(self):
        with open(os.path.join(self.bundle, "config.json"), "w") as f:
            json.dump(self.config, f)

    def sh(self, script, **process):
        self.config["process"]["args"] = ["/bin/sh", "-c", script]
        self.config["process"].update(process)

    def mount(self, destination, source, *options, type="bind", **more):
        self.config["mounts"].append({"destination": destination, "type": type, "source": source,
                                      "options": list(options), **more})

    def namespaces(self, *types, **paths):
        self.config["linux"]["namespaces"] = [{"type": t} for t in types] + [{"type": t, "path": p} for t, p in paths.items()]

    def user_namespace(self, outside=100000, size=65536):
        self.config["linux"]["namespaces"].append({"type": "user"})
        for kind in ("uidMappings", "gidMappings"):
            self.config["linux"][kind] = [{"containerID": 0, "hostID": outside, "size": size}]
        for path, dirs, files in os.walk(self.rootfs):
            for n in dirs + files:
                os.lchown(os.path.join(path, n), outside, outside)
        os.chown(self.rootfs, outside, outside)

    # --- runs ---

    def call(self, *words, stdin=b"", timeout=PATIENCE, **more):
        """Status, standard output, standard error."""
        p = subprocess.run([OCI, "--root", self.root, *words], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           env=self.env, timeout=timeout, **more)
        return p.returncode, p.stdout.decode(errors="replace"), p.stderr.decode(errors="replace")

    def good(self, *words, **more):
        status, out, err = self.call(*words, **more)
        assert status == 0, f"trapeze-oci {' '.join(words)}: status {status}: {err}{out}"
        return out

    def refused(self, *words, names, **more):
        """A call that must fail with a message that holds each of `names`."""
        status, out, err = self.call(*words, **more)
        what = f"trapeze-oci {' '.join(words)}: status {status}, said {err!r} and {out!r}"
        assert status == 1, what
        for name in [names] if isinstance(names, str) else names:
            assert name in err, what + f": without {name!r}"
        return err

    def run(self, script=None, status=0, **process):
        """What a script printed in a container of its own."""
        if script is not None:
            self.sh(script, **process)
        self.write()
        got, out, err = self.call("run", "--bundle", self.bundle, self.name)
        assert got == status, f"status {got}, not {status}: {err}{out}"
        return out

    def run_refused(self, names, script=None):
        if script is not None:
            self.sh(script)
        self.write()
        err = self.refused("run", "--bundle", self.bundle, self.name, names=names)
        assert self.good("list", "-q") == "", "a container was left"
        return err

    def create(self, *options, script="sleep 1000", **more):
        """A container; its output must not be our pipe, which would stay open: it goes to files out and err."""
        if script:
            self.sh(script)
        self.write()
        with open(os.path.join(self.path, "out"), "wb") as out, open(os.path.join(self.path, "err"), "wb") as err:
            p = subprocess.run([OCI, "--root", self.root, "create", "--bundle", self.bundle, *options, self.name],
                               stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=self.env, timeout=PATIENCE, **more)
        assert p.returncode == 0, self.text("err")

    def start(self, *options, script="sleep 1000", **more):
        self.create(*options, script=script, **more)
        self.good("start", self.name)

    def text(self, name):
        with open(os.path.join(self.path, name), errors="replace") as f:
            return f.read()

    def state(self):
        return json.loads(self.good("state", self.name))

    def exec(self, script, *options, status=0):
        got, out, err = self.call("exec", *options, self.name, "/bin/sh", "-c", script)
        assert got == status, f"exec: status {got}, not {status}: {err}{out}"
        return out

    def delete(self):
        self.good("delete", "--force", self.name)

    def until(self, condition, what):
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain for: {what}"
            time.sleep(0.01)

    # --- the host ---

    def cgroups(self):
        """Directories of cgroups that bear our name."""
        found = []
        for line in open("/proc/self/mountinfo"):
            words = line.split()
            if words[words.index("-") + 1] in ("cgroup", "cgroup2"):
                for path, dirs, _ in os.walk(words[4]):
                    found += [os.path.join(path, d) for d in dirs if self.name in d]
        return sorted(found, key=len, reverse=True)  # the deepest first

    def cgroup_file(self, controller, name):
        """A file of the container's cgroup in the hierarchy of `controller` (version 1)."""
        for line in open("/proc/self/mountinfo"):
            words = line.split()
            at = words.index("-")
            if words[at + 1] == "cgroup" and controller in words[at + 3].split(","):
                for path, dirs, _ in os.walk(words[4]):
                    for d in dirs:
                        if self.name in d:
                            with open(os.path.join(path, d, name)) as f:
                                return f.read().strip()
        raise Skip(f"no cgroup hierarchy of version 1 with {controller}")

    def remove_cgroups(self):
        """What a damaged or unborn container has left; its processes may need a moment to leave."""
        for path in self.cgroups():
            def gone(path=path):
                try:
                    os.rmdir(path)
                except FileNotFoundError:
                    pass
                except OSError:
                    return False
                return True
            self.until(gone, f"the removal of {path}")

    def check_clean(self):
        left = self.good("list", "-q")
        assert left == "", f"containers left behind: {left}"
        assert not os.path.isdir(self.root) or not os.listdir(self.root), f"states left behind: {os.listdir(self.root)}"
        assert not self.cgroups(), f"cgroups left behind: {self.cgroups()}"
        with open("/proc/self/mountinfo") as f:
            assert self.path not in f.read(), "mounts left behind"

    def close(self):
        try:
            for name in self.call("list", "-q")[1].split():
                self.call("delete", "--force", name)
        finally:
            shutil.rmtree(self.path, ignore_errors=True)


def run_tests(tests):
    """Run the functions in order, print TAP; the exit status."""
    if os.geteuid() != 0:
        print("1..0 # SKIP needs root")
        return 77
    leave_chroot()
    if not BUSYBOX:
        print("1..0 # SKIP needs busybox-static")
        return 77
    bad = 0
    only = sys.argv[1:]
    tests = [t for t in tests if not only or t.__name__ in only]
    print(f"1..{len(tests)}")
    for n, test in enumerate(tests, 1):
        box = Box()
        try:
            test(box)
            box.check_clean()
            print(f"ok {n} - {test.__name__}")
        except Skip as reason:
            print(f"ok {n} - {test.__name__} # SKIP {reason}")
        except Exception:  # a failed test, whatever the reason
            bad += 1
            print(f"not ok {n} - {test.__name__}")
            print("".join("# " + line + "\n" for line in traceback.format_exc().splitlines()), end="")
        finally:
            box.close()
        sys.stdout.flush()
    return 1 if bad else 0
