#!/usr/bin/env python3
"""Images of machines by the verbs: build, list, run, rm; what goes wrong, and what a kill leaves behind.

No network: mmdebstrap is a script of ours that makes a root with the small guest as its kernel; what follows it, mke2fs and the
store, is real. KILLS: how often builds and runs are killed. The true thing is tests/cli/debian.py.
"""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

from harness import GUEST, TRAPEZE, Skip, run_tests

KILLS = int(os.environ.get("KILLS", "10"))
SEED = 4
MIB = 1 << 20
os.environ["PATH"] += ":/usr/sbin:/sbin"
FAKE = """#!/bin/sh
# mmdebstrap --verbose .. SUITE TARGET [LINE..]: a root that is as good as a Debian, for debian.sh
for word; do
    case $word in
    */tree) tree=$word ;;
    --essential-hook=*) hook=${word#*=} ;;
    esac
    echo "argument: $word"
done >"$arguments"
echo "I: running apt-get update..."
echo "Get:1 a package"
$step
mkdir -p "$tree/boot" "$tree/etc"
cp "$guest" "$tree/boot/vmlinuz-1.0-test"
echo initrd >"$tree/boot/initrd.img-1.0-test"
echo hello >"$tree/etc/hello"
sh -c "$hook" hook "$tree"
echo "I: success in 0.0 seconds"
"""


def prepare(place, step=":"):
    """A store of its own, and a mmdebstrap that does `step` on its way."""
    if not shutil.which("mke2fs") or not shutil.which("apt-get"):
        raise Skip("mke2fs or apt-get is not installed")
    if os.geteuid() != 0 and subprocess.run(["unshare", "-r", "true"], stderr=subprocess.DEVNULL).returncode:
        raise Skip("no namespaces for who is not root")
    programs = os.path.join(place.path, "programs")
    os.makedirs(programs, exist_ok=True)
    fake = os.path.join(programs, "mmdebstrap")
    with open(fake, "w") as f:
        text = FAKE.replace("$step", step).replace("$arguments", place.path + "/arguments").replace("$guest", GUEST)
        f.write(text)
    os.chmod(fake, 0o755)
    place.env["PATH"] = programs + ":" + os.environ["PATH"]
    place.env["XDG_DATA_HOME"] = os.path.join(place.path, "data")
    return os.path.join(place.path, "data/trapeze/machines")


def names(place):
    return [r["name"] for r in json.loads(place.good("image", "list", "--format", "json")) if r["kind"] == "machine"]


def set_append(store, name, append):
    """The small guest does what the first letter of its command line says."""
    path = os.path.join(store, name, "image.json")
    with open(path) as f:
        about = json.load(f)
    about["append"] = append
    with open(path, "w") as f:
        json.dump(about, f)


def in_disk(disk, *command):
    return subprocess.run(["debugfs", "-R", " ".join(command), disk], check=True, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL).stdout


def built(place):
    store = prepare(place)
    status, out, err = place.run("image", "build", "--size", "512M", "--include", "nginx-light,curl", "--include", "git", "vm:debian:sid")
    assert status == 0 and out == "vm:debian:sid\n", (status, out, err)
    assert err.splitlines() == ["running apt-get update", "making the disk"], err
    with open(os.path.join(place.path, "arguments")) as f:
        arguments = f.read()
    assert "argument: sid\n" in arguments and ",nginx-light,curl,git\n" in arguments, arguments
    (row,) = json.loads(place.good("image", "list", "--format", "json"))
    assert row["name"] == "vm:debian:sid" and row["suite"] == "sid" and row["kernel_release"] == "1.0-test", row
    assert row["disk_size"] == 512 * MIB and row["size"] < 100 * MIB and len(row["id"]) == 12, row
    disk = os.path.join(store, "debian:sid/disk.img")
    subprocess.run(["e2fsck", "-fn", disk], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert in_disk(disk, "cat", "/etc/hello") == b"hello\n"
    assert b"ELF" in in_disk(disk, "cat", "/usr/sbin/trapeze-agent")[:4]
    assert b"/usr/sbin/trapeze-agent" in in_disk(disk, "cat", "/etc/systemd/system/trapeze-agent.service")
    uuid = subprocess.run(["blkid", "-s", "UUID", "-o", "value", disk], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    assert f"root=UUID={uuid}" in row["append"] and uuid.encode() in in_disk(disk, "cat", "/etc/fstab")
    assert sorted(os.listdir(store)) == ["debian:sid", "lock", "tmp"] and not os.listdir(os.path.join(store, "tmp"))
    # its command line begins with a letter that the guest does not know: it powers off
    assert place.good("run", "--rm", "--memory", "64M", "vm:debian:sid").endswith(">")
    assert place.good("image", "rm", "vm:debian:sid") == "vm:debian:sid\n"
    assert names(place) == []


def lives(place):
    store = prepare(place)
    place.good("image", "build", "--size", "512M", "--name", "vm:tiny", "vm:debian")
    set_append(store, "tiny", "b")
    key = os.path.join(place.path, "key.pub")
    with open(key, "w") as f:
        f.write("ssh-ed25519 AAAAkey me\n")
    place.good("run", "-d", "--name", "My_web", "--memory", "64M", "--user", "ada", "--ssh-key", key, "--disk-size", "1G", "vm:tiny")
    assert "vm:tiny" in place.good("ps")
    machine = json.loads(place.good("inspect", "My_web"))
    directory = machine["files"]["directory"]
    disk, seed = [d["file"] for d in machine["config"]["disks"]]
    assert os.path.dirname(disk) == os.path.dirname(seed) == directory
    assert os.stat(disk).st_size == 1024 * MIB and os.stat(disk).st_blocks * 512 < 100 * MIB
    with open(seed, "rb") as f:
        told = f.read()
    for text in (b'"ada"', b"ssh-ed25519 AAAAkey me", b'local-hostname: "my-web"', b'instance-id: "' + machine["id"].encode()):
        assert text in told, text
    # it needs the image no more, and starts again
    place.good("image", "rm", "vm:tiny")
    place.good("stop", "My_web")
    place.good("start", "My_web")
    place.good("stop", "My_web")
    assert os.path.exists(disk)
    place.good("rm", "My_web")
    assert not os.path.exists(directory)


def refused(place):
    store = prepare(place)
    place.refused("run", "vm:debian", names=["vm:debian:bookworm", "trapeze image build vm:debian"])
    place.refused("image", "build", "vm:fedora", names=["vm:fedora", "vm:debian"])
    place.refused("image", "build", "debian:12", names="vm:debian")
    place.refused("image", "build", "vm:../x", names="vm:../x")
    place.refused("image", "build", "--include", "a;b", "vm:debian", names="--include")
    place.refused("image", "build", "--mirror", "a b", "vm:debian", names="--mirror")
    place.refused("image", "build", "--size", "1M", "vm:debian", names="--size")
    place.refused("image", "rm", "vm:none", names="vm:none")
    place.good("image", "build", "--size", "512M", "--name", "tiny", "vm:debian")
    for action in (["save", "vm:tiny"], ["tag", "vm:tiny", "x"], ["push", "vm:tiny"], ["pull", "vm:tiny"]):
        place.refused("image", *action, names=["vm:tiny", action[0]])
    place.refused("run", "vm:tiny", "ls", names=["trapeze exec", "ls"])
    place.refused("run", "vm:tiny", "-p", "80:80", names=["-p", "before vm:tiny"])
    place.refused("run", "-it", "vm:tiny", names="--interactive")
    place.refused("run", "--user", "Ada", "vm:tiny", names=["--user", "Ada"])
    place.refused("run", "--hostname", "-x", "vm:tiny", names="--hostname")
    place.refused("run", "--ssh-key", GUEST, "vm:tiny", names=["--ssh-key", GUEST])
    place.refused("run", "--ssh-key", "/none", "vm:tiny", names=["--ssh-key", "/none"])
    place.refused("run", "--disk-size", "64M", "vm:tiny", names=["--disk-size", "smaller"])
    place.refused("run", *["--disk", GUEST] * 15, "vm:tiny", names="--disk")
    place.refused("run", "--kernel", GUEST, "--user", "ada", names="--user")
    place.refused("run", "--disk-size", "1G", "debian:12", names="--disk-size", status=125)
    set_append(store, "tiny", "x" * 600)
    place.refused("run", "vm:tiny", names=["vm:tiny", "build the image again"])
    assert not place.files()


def failed(place):
    cases = [('echo "E: it is broken"; exit 1', ["it is broken"], 3),
             ("exit 1", ["ended early"], 3),
             ('echo "W: Failed to fetch http://m.example/x  Could not resolve it"; echo "E: other"; exit 100', ["m.example", "is there a network"], 1),
             ('printf "E: \\033[2J\\377evil\\n"; exit 1', ["[2Jevil"], 3),
             ("head -c 3000000 /dev/zero | tr '\\0' x; exit 1", ["ended early"], 3)]
    for step, said, wanted in cases:
        store = prepare(place, step)
        status, out, err = place.run("image", "build", "vm:debian")
        last = err.splitlines()[-1]
        assert status == wanted and not out and all(s in last for s in said) and "\033" not in last, (step, status, out, err[-2000:])
        assert os.path.exists(os.path.join(store, "failed-build.log"))
        assert not os.listdir(os.path.join(store, "tmp"))
    os.unlink(os.path.join(place.path, "programs/mmdebstrap"))
    place.env["PATH"] = os.path.join(place.path, "programs")
    if not os.path.exists("/usr/local/sbin/mmdebstrap"):
        place.refused("image", "build", "vm:debian", names=["mmdebstrap", "install mmdebstrap"])
    assert names(place) == []


def children(mark):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                if mark.encode() in f.read():
                    found.append(int(pid))
        except OSError:
            pass
    return found


def cancelled(place):
    mark = f"{1000 + os.getpid()}.25"
    store = prepare(place, f"sleep {mark}")
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        p = place.start("image", "build", "vm:debian", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        place.until(lambda: children(mark), "the build's own process")
        p.send_signal(sig)
        out, err = p.communicate(timeout=60)
        assert p.returncode == 128 + sig and not out and b"cancelled" in err, (p.returncode, out, err)
        assert not children(mark) and not os.listdir(os.path.join(store, "tmp"))


def killed_builds(place):
    """Whenever it is killed: no process stays, the older image is there, the next build cleans up."""
    print(f"# seed {SEED}")
    dice = random.Random(SEED)
    mark = f"0.1{os.getpid()}"
    store = prepare(place, f"sleep {mark}")
    place.good("image", "build", "--size", "512M", "--name", "tiny", "vm:debian")
    for _ in range(KILLS):
        p = place.start("image", "build", "--size", "512M", "--name", "tiny", "vm:debian", stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL)
        time.sleep(dice.uniform(0, 0.8))
        p.kill()
        p.wait()
        place.until(lambda: not children(os.path.join(store, "tmp/draft-")), "the end of what the build started")
        assert names(place) == ["vm:tiny"]
        assert sorted(set(os.listdir(store)) - {"failed-build.log"}) == ["lock", "tiny", "tmp"]
        assert len(os.listdir(os.path.join(store, "tmp"))) <= 2  # each build takes away what the one before has left
    place.good("image", "prune")
    assert not os.listdir(os.path.join(store, "tmp"))
    assert place.good("run", "--rm", "--memory", "64M", "vm:tiny").endswith(">")


def killed_runs(place):
    """A copy that was cut short can be removed, and is not started."""
    print(f"# seed {SEED}")
    dice = random.Random(SEED)
    store = prepare(place)
    place.good("image", "build", "--size", "512M", "--name", "tiny", "vm:debian")
    set_append(store, "tiny", "b")
    with open(os.path.join(store, "tiny/disk.img"), "r+b") as f:
        f.seek(64 * MIB)
        f.write(os.urandom(MIB) * 64)
    cut = 0
    for _ in range(KILLS):
        p = place.start("run", "-d", "--name", "web", "--memory", "64M", "vm:tiny", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(dice.uniform(0, 0.12))
        p.send_signal(signal.SIGSTOP)
        if p.returncode is None and os.WIFSTOPPED(os.waitpid(p.pid, os.WUNTRACED)[1]):
            # it copies still, when there is no other process of the machine
            p.send_signal(signal.SIGCONT if set(place.processes()) - {p.pid} else signal.SIGKILL)
        p.wait()
        if not place.machines("-a"):
            for left in place.files():
                os.rmdir(os.path.join(place.path, "trapeze/machines", left))  # killed between the making of this and its row
            continue
        if not place.machines():
            place.run("start", "web")
        for m in place.machines():
            disk = json.loads(place.good("inspect", "web"))["config"]["disks"][0]["file"]
            assert subprocess.run(["cmp", disk, os.path.join(store, "tiny/disk.img")]).returncode == 0, m
        cut += not place.machines()
        place.good("rm", "-f", "web")
        assert not place.files()
    print(f"# {cut} of {KILLS} copies were cut short")


def ordinary_user(place):
    """Who is not root builds with the numbers that /etc/subuid gives him, and a kill leaves what he can remove."""
    if os.geteuid() != 0:
        raise Skip("only root can play another user; the other tests are run as one")
    if not shutil.which("newuidmap"):
        raise Skip("uidmap is not installed")
    mark = f"0.2{os.getpid()}"
    store = prepare(place, f"chown 1234:1234 \"$tree/..\" 2>/dev/null; mkdir -p \"$tree/mail\"; chown 8:8 \"$tree/mail\"; chmod 700 \"$tree/mail\"; sleep {mark}")
    for path, directories, files in os.walk(place.path):
        for name in ["."] + directories + files:
            os.chown(os.path.join(path, name), 65534, 65534)
    ids = os.path.join(place.path, "ids")
    with open(ids, "w") as f:
        f.write("65534:200000:65536\n")
    user = ["unshare", "-m", "sh", "-c", f"mount --bind {ids} /etc/subuid && mount --bind {ids} /etc/subgid && exec setpriv --reuid 65534 "
            "--regid 65534 --clear-groups \"$@\"", "sh", TRAPEZE]
    if subprocess.run([*user, "version"], env=place.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
        raise Skip("the program can not be run by others here")
    def call(*words):
        return subprocess.run([*user, *words], env=place.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    with open(ids, "w") as f:
        f.write("someone:200000:65536\n")
    p = call("image", "build", "--size", "512M", "vm:debian")
    assert p.returncode == 1 and "/etc/subuid" in p.stderr and "usermod" in p.stderr, p
    with open(ids, "w") as f:
        f.write("65534:200000:65536\n")
    p = call("image", "build", "--size", "512M", "vm:debian")
    if "user namespaces" in p.stderr:
        raise Skip(p.stderr.strip())
    assert p.returncode == 0, p
    disk = os.path.join(store, "debian:bookworm/disk.img")
    assert os.stat(disk).st_uid == 65534
    assert b"User:     8   Group:     8" in in_disk(disk, "stat", "/mail") and b"User:     0   Group:     0" in in_disk(disk, "stat", "/etc/hello")
    p = subprocess.Popen([*user, "image", "build", "--size", "512M", "vm:debian"], env=place.env, stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)
    place.until(lambda: children(mark), "the build's own process")
    p.kill()
    p.wait()
    place.until(lambda: not children(mark), "its end")
    assert os.listdir(os.path.join(store, "tmp"))
    p = call("image", "prune")
    assert p.returncode == 0 and not os.listdir(os.path.join(store, "tmp")), (p, os.listdir(os.path.join(store, "tmp")))


TESTS = [built, lives, refused, failed, cancelled, killed_builds, killed_runs, ordinary_user]

if __name__ == "__main__":
    sys.exit(run_tests([t for t in TESTS if not sys.argv[1:] or t.__name__ in sys.argv[1:]]))
