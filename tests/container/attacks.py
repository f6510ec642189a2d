"""What hostile images and containers try, an attack a test; each must find the door shut, and no file of the host changed."""
import hashlib
import os
import pty
import shutil
import subprocess
import sys
import tempfile

from more import Unprivileged
from oci import OCI, run_tests

PROBE = os.environ["PROBE"]


def put_probe(box):
    shutil.copy(PROBE, os.path.join(box.rootfs, "bin/probe"))


class Swapper:
    """Exchanges two names without pause, in a process of its own."""

    def __init__(self, one, two):
        self.p = subprocess.Popen([sys.executable, "-c", f"""
import ctypes
c = ctypes.CDLL(None)
while True:
    c.renameat2(-100, {one.encode()!r}, -100, {two.encode()!r}, 2)
"""])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.p.kill()
        self.p.wait()


def exec_is_watched(box):
    """CVE-2016-9962: the container looks at /proc/PID/fd and root of what execs into it."""
    put_probe(box)
    box.start(script="probe look 1000000000")
    box.until(lambda: "begin" in box.text("out"), "the watcher")
    for _ in range(40):
        box.exec("true")
    seen = box.text("out")
    for word in ("states", "bundle", "/sys/fs/cgroup", "memfd", "config.json", box.path):
        assert word not in seen, [l for l in seen.splitlines() if word in l][:3]
    box.delete()


def runtime_is_written_to(box):
    """CVE-2019-5736: the entry is #!/proc/self/exe, a writer waits at /proc/PID/exe."""
    program = os.path.join(box.path, "runtime")
    shutil.copy(OCI, program)
    before = hashlib.sha256(open(program, "rb").read()).hexdigest()
    put_probe(box)
    with open(os.path.join(box.rootfs, "trap"), "w") as f:
        f.write("#!/proc/self/exe\n")
    os.chmod(os.path.join(box.rootfs, "trap"), 0o755)
    box.config["process"]["capabilities"] = {k: ["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE"] for k in ("bounding", "effective", "permitted")}
    box.sh("probe write-exe 3000")
    box.write()
    with open(os.path.join(box.path, "out"), "wb") as out:
        subprocess.run([program, "--root", box.root, "run", "-d", "-b", box.bundle, box.name], stdin=subprocess.DEVNULL, stdout=out, check=True)
    box.until(lambda: "begin" in box.text("out"), "the writer")
    for _ in range(40):
        subprocess.run([program, "--root", box.root, "exec", box.name, "/trap"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, timeout=60)
    box.delete()
    after = hashlib.sha256(open(program, "rb").read()).hexdigest()
    assert before == after, "the program was changed: " + box.text("out")
    # What waits in a created container runs from a file that can not be written to at all.
    box.create(script="true")
    exe = f"/proc/{box.state()['pid']}/exe"
    try:
        with open(exe, "r+b"):
            raise AssertionError("it can be opened for writing")
    except OSError:
        pass
    memory = os.readlink(exe).startswith("/memfd:")
    assert memory or os.statvfs(exe).f_flag & os.ST_RDONLY, os.readlink(exe)
    box.delete()


def runtime_on_a_tmpfs(box):
    """Any file there has a seal, which says nothing."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm", prefix="trapeze-oci-") as program:
        shutil.copy(OCI, program.name)
        os.chmod(program.name, 0o755)
        program.file.close()
        box.sh("echo here")
        box.write()
        out = subprocess.run([program.name, "--root", box.root, "run", "-b", box.bundle, box.name], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE).stdout
        assert out == b"here\n", out


def proc_is_a_link(box):
    """CVE-2019-16884, 2019-19921, 2023-27561, 2023-28642."""
    for name in ("proc", "sys"):
        path = os.path.join(box.rootfs, name)
        os.rmdir(path)
        os.makedirs(os.path.join(box.rootfs, "tmp/fake"), exist_ok=True)
        os.symlink("/tmp/fake", path)
        box.run_refused(["symbolic link", "refused"], "true")
        os.unlink(path)
        os.mkdir(path)


def proc_is_no_procfs(box):
    fake = os.path.join(box.path, "fake")
    os.makedirs(os.path.join(fake, "self/attr"))
    box.config["mounts"][0] = {"destination": "/proc", "type": "bind", "source": fake, "options": ["bind"]}
    box.run_refused(["/proc", "refused"], "true")
    box.config["mounts"][0] = {"destination": "/proc", "type": "tmpfs", "source": "tmpfs"}
    box.config["linux"]["maskedPaths"] = []
    box.sh("true")
    box.write()
    status, _, err = box.call("run", "-b", box.bundle, box.name)
    assert status == 1 and "refused" in err, (status, err)


def files_of_proc_are_hidden(box):
    """CVE-2025-52881: /proc/self/attr and others behind mounts of the container's choice."""
    with open(os.path.join(box.path, "file"), "w") as f:
        f.write("x")
    for target in ("/proc/self/attr/exec", "/proc/sys/kernel/core_pattern", "/proc/1/status"):
        box.config["mounts"] = box.config["mounts"][:5]
        box.mount(target, os.path.join(box.path, "file"), "bind")
        box.run_refused("refused", "true")
    os.symlink("/proc/sys/kernel", os.path.join(box.rootfs, "innocent"))
    box.config["mounts"] = box.config["mounts"][:5]
    box.mount("/innocent/core_pattern", os.path.join(box.path, "file"), "bind")
    box.run_refused("refused", "true")
    box.config["mounts"] = box.config["mounts"][:5]
    box.mount("/proc/uptime", os.path.join(box.path, "file"), "bind")
    assert box.run("cat /proc/uptime") == "x"


def mount_target_is_swapped(box):
    """CVE-2021-30465, 2024-45310: somebody exchanges a directory for a link out of the root, again and again."""
    outside = os.path.join(box.path, "outside")
    os.makedirs(outside)
    volume = os.path.join(box.rootfs, "volume")
    os.makedirs(os.path.join(volume, "dir"))
    os.symlink("../" * 8 + outside.lstrip("/"), os.path.join(volume, "link"))
    box.mount("/volume/dir/made/deep", "tmpfs", type="tmpfs")
    box.config["linux"]["devices"] = [{"type": "c", "path": "/volume/dir/node/null", "major": 1, "minor": 3}]
    box.sh("true")
    box.write()
    with Swapper(os.path.join(volume, "dir"), os.path.join(volume, "link")):
        for _ in range(60):
            box.call("run", "-b", box.bundle, box.name)
            assert os.listdir(outside) == [], os.listdir(outside)
    with open("/proc/self/mountinfo") as f:
        assert outside not in f.read()


def links_lead_out_of_the_root(box):
    """Targets behind links: they end inside, absolute or not."""
    outside = os.path.join(box.path, "outside")
    os.makedirs(outside)
    os.symlink("../" * 10 + outside.lstrip("/"), os.path.join(box.rootfs, "up"))
    os.symlink(outside, os.path.join(box.rootfs, "absolute"))
    os.symlink("/nowhere/yet", os.path.join(box.rootfs, "dangling"))
    for name in ("up", "absolute", "dangling"):
        box.mount(f"/{name}/x", "tmpfs", type="tmpfs")
    box.run("mount | grep -c tmpfs")
    assert os.listdir(outside) == []
    assert os.path.isdir(os.path.join(box.rootfs, outside.lstrip("/"), "x")) and os.path.isdir(os.path.join(box.rootfs, "nowhere/yet/x"))


def dev_is_a_link(box):
    """CVE-2026-41579 and its like: the image's /dev leads out."""
    outside = os.path.join(box.path, "outside")
    os.makedirs(outside)
    os.rmdir(os.path.join(box.rootfs, "dev"))
    os.symlink("../" * 10 + outside.lstrip("/"), os.path.join(box.rootfs, "dev"))
    for mounts in (box.config["mounts"], [m for m in box.config["mounts"] if not m["destination"].startswith("/dev")]):
        box.config["mounts"] = mounts
        box.sh("true")
        box.write()
        box.call("run", "-b", box.bundle, box.name)
        assert os.listdir(outside) == [], os.listdir(outside)


def null_is_a_link(box):
    """CVE-2025-31133: what masks files must be the real /dev/null."""
    box.config["mounts"] = [m for m in box.config["mounts"] if not m["destination"].startswith("/dev")]
    os.symlink("/proc/sys/kernel/core_pattern", os.path.join(box.rootfs, "dev/null"))
    box.run_refused(["/dev/null", "refused"], "true")
    # .. and where the configuration's own mount brings it, it still is not what we use
    os.unlink(os.path.join(box.rootfs, "dev/null"))
    assert box.run("wc -c < /proc/keys").strip() == "0"


def console_is_a_link(box):
    """CVE-2025-52565: /dev/console leads to a file of /proc, on which the terminal would be mounted."""
    box.config["mounts"] = [m for m in box.config["mounts"] if m["destination"] != "/dev"]
    os.makedirs(os.path.join(box.rootfs, "dev/pts"))
    os.symlink("/proc/sys/kernel/core_pattern", os.path.join(box.rootfs, "dev/console"))
    box.config["process"]["terminal"] = True
    box.sh("true")
    box.write()
    pid, master = pty.fork()
    if pid == 0:
        os.execv(OCI, [OCI, "--root", box.root, "run", "-b", box.bundle, box.name])
    said = b""
    try:
        while piece := os.read(master, 4096):
            said += piece
    except OSError:
        pass
    os.close(master)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1 and b"/dev/console" in said and b"refused" in said, said


def pts_is_forged_for_exec(box):
    """exec -t into a container whose /dev/pts is no devpts."""
    box.config["mounts"] = [m for m in box.config["mounts"] if m["type"] != "devpts"]
    os.makedirs(os.path.join(box.rootfs, "x"))
    box.start(script="mkdir /dev/pts; touch /dev/pts/ptmx; echo ready; sleep 1000")
    box.until(lambda: "ready" in box.text("out"), "the trap")
    pid, master = pty.fork()
    if pid == 0:
        os.execv(OCI, [OCI, "--root", box.root, "exec", "-t", box.name, "true"])
    said = b""
    try:
        while piece := os.read(master, 4096):
            said += piece
    except OSError:
        pass
    os.close(master)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1 and b"no devpts" in said, said
    box.delete()


def inheritable_capabilities(box):
    """CVE-2022-29162."""
    assert box.run("grep CapInh /proc/self/status").split()[1].strip("0") == ""
    box.start()
    assert box.exec("grep CapInh /proc/self/status", "--cap", "CAP_NET_RAW").split()[1].strip("0") == ""
    box.delete()


def cgroups_of_a_rootless_container(box):
    """CVE-2023-25809: without a cgroup namespace of its own they are read-only."""
    u = Unprivileged(box)
    box.mount("/sys/fs/cgroup", "cgroup", "nosuid", "noexec", "nodev", "rw", type="cgroup")
    box.sh("grep -E ' /sys/fs/cgroup' /proc/mounts; echo $$ > /sys/fs/cgroup/cgroup.procs; mkdir /sys/fs/cgroup/*/x; echo end")
    box.write()
    status, out, err = u.call("run", "-b", box.bundle, box.name)
    assert status == 0, err
    lines = [l.split() for l in out.splitlines() if " /sys/fs/cgroup" in l]
    assert lines and all("ro" in l[3].split(",") for l in lines), out
    assert "Read-only file system" in err, err


def working_directory_is_a_leaked_descriptor(box):
    """CVE-2024-21626."""
    for n in range(3, 30):
        box.config["process"]["cwd"] = f"/proc/self/fd/{n}"
        box.sh("pwd")
        box.write()
        status, out, err = box.call("run", "-b", box.bundle, box.name)
        assert status == 1 and "process.cwd" in err, (n, out, err)
    box.config["process"]["cwd"] = "/"
    box.start()
    for n in range(3, 30):
        status, _, err = box.call("exec", "--cwd", f"/proc/self/fd/{n}", box.name, "pwd")
        assert status == 1 and "process.cwd" in err, (n, err)
    box.delete()


def descriptors_in_the_container(box):
    held = [os.open("/", os.O_RDONLY) for _ in range(5)]
    for fd in held:
        os.set_inheritable(fd, True)
    box.sh("ls /proc/self/fd | wc -l")
    box.write()
    status, out, err = box.call("run", "-b", box.bundle, box.name, close_fds=False)
    assert status == 0 and out == "4\n", (out, err)  # 0-2 and that of ls
    box.start()
    status, out, err = box.call("exec", box.name, "sh", "-c", "ls /proc/self/fd | wc -l", close_fds=False)
    assert out == "4\n", (out, err)
    for fd in held:
        os.close(fd)
    box.delete()


def odd_users(box):
    """CVE-2026-30892: a user is the exact number, or an error."""
    box.start()
    for user in ("", " 0", "0 ", "+0", "-1", "0x0", "1000abc", "root", "4294967295", "4294967296", "18446744073709551616", "1000:", ":0",
                 "1:2:3", "1:-2", "1.5", "1\n2"):
        box.refused("exec", "--user", user, box.name, "id", names="--user")
    assert box.exec("id -u; id -g", "--user", "00017:3").split() == ["17", "3"]
    box.delete()


def release_agent(box):
    """CVE-2022-0492."""
    put_probe(box)
    out = box.run("probe release-agent")
    assert out.startswith(("refused", "no ")), out


def kernel_switches(box):
    core = open("/proc/sys/kernel/core_pattern").read()
    out = box.run("echo '|/x' > /proc/sys/kernel/core_pattern; echo h > /proc/sysrq-trigger; echo 1 > /proc/irq/default_smp_affinity;"
                  "echo 0 > /sys/kernel/mm/ksm/run; mount -o remount,rw /proc/sys; echo end")
    assert out == "end\n" and open("/proc/sys/kernel/core_pattern").read() == core


def input_is_pushed_into_the_terminal(box):
    """TIOCSTI on a terminal of the host that came as standard input."""
    put_probe(box)
    box.config["process"]["args"] = ["probe", "tiocsti"]
    box.write()
    master, slave = pty.openpty()
    p = subprocess.run([OCI, "--root", box.root, "run", "-b", box.bundle, box.name], stdin=slave, stdout=subprocess.PIPE, timeout=60,
                       start_new_session=True)
    assert p.stdout.startswith(b"refused"), p.stdout
    os.close(master)
    os.close(slave)


if __name__ == "__main__":
    sys.exit(run_tests([
        exec_is_watched, runtime_is_written_to, runtime_on_a_tmpfs, proc_is_a_link, proc_is_no_procfs, files_of_proc_are_hidden, mount_target_is_swapped,
        links_lead_out_of_the_root, dev_is_a_link, null_is_a_link, console_is_a_link, pts_is_forged_for_exec, inheritable_capabilities,
        cgroups_of_a_rootless_container, working_directory_is_a_leaked_descriptor, descriptors_in_the_container, odd_users,
        release_agent, kernel_switches, input_is_pushed_into_the_terminal]))
