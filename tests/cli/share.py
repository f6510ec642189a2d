#!/usr/bin/env python3
"""share.py check|all: directories of this host in Debian's kernel: files both ways, links that lead out, ids, limits, bad input."""
import hashlib
import importlib.machinery
import importlib.util
import json
import os
import stat
import subprocess
import sys
import tarfile

from harness import LINUX, Skip, run_tests

TOOLS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools")
APPEND = "console=ttyS0 quiet panic=-1 reboot=t rdinit=/share-test"
DATA = os.urandom(3 << 20) + b"the end"
NOBODY = 65533  # a user without root
BEGIN = """#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
while read -r module; do
    [ -e "/lib/$module.ko" ] && insmod "/lib/$module.ko"
done </lib/modules
mkdir -p /mnt /mnt2
say() { echo "$1: $(shift; "$@" 2>&1 | tr '\\n' ' ')"; }
"""
END = "\necho all done\npoweroff -f\n"


def load_make_initrd():
    loader = importlib.machinery.SourceFileLoader("make_initrd", os.path.join(TOOLS, "make-initrd"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("make_initrd", loader))
    loader.exec_module(module)
    return module


def linux(place, script, *options):
    """Options of `run` for the default guest that runs `script` and powers off."""
    if not LINUX:
        raise Skip("no default guest: TRAPEZE_GUEST is not set")
    if not os.path.exists(os.path.join(os.path.dirname(LINUX), "modules", "virtiofs.ko")):
        raise Skip("the default guest is older than shares: make guest")
    path = os.path.join(place.path, "initrd.cpio")
    with open(os.path.join(os.path.dirname(LINUX), "initrd.cpio"), "rb") as f:
        data = f.read()
    with open(path, "wb") as f:
        f.write(data + load_make_initrd().archive(
            {"share-test": (stat.S_IFREG | 0o755, (BEGIN + script + END).encode(), 0)}))
    os.chmod(path, 0o644)
    return ["run", "--kernel", LINUX, "--initrd", path, "--memory", "256M", "--append", APPEND, "--no-reboot", "--rm",
            "--network", "none", *options]


def lines_of(out):
    out = out.replace("\r", "")
    assert "\nall done\n" in "\n" + out, out[-3000:]
    return dict(line.split(": ", 1) for line in out.splitlines() if ": " in line)


def boot(place, script, *options, timeout=240):
    status, out, err = place.run(*linux(place, script, *options), timeout=timeout)
    assert status == 0, (status, out[-3000:], err)
    return {k: v.rstrip() for k, v in lines_of(out).items()}


def directory(place, name="share"):
    path = os.path.join(place.path, name)
    os.mkdir(path)
    return path


def put(path, data=b""):
    with open(path, "wb") as f:
        f.write(data)
    return path


def get(path):
    with open(path, "rb") as f:
        return f.read()


FILES = """
say mounted mount -t virtiofs work /mnt
cd /mnt
say digest sh -c 'md5sum <data | cut -d" " -f1'
cp data copy
dd if=data of=again bs=64k conv=fsync 2>/dev/null
say written cmp data copy
mkdir -p a/b
echo hello >a/b/file
mv a/b/file a/renamed
mv a moved
i=0
while [ $i -lt 200 ]; do echo $i >many$i; i=$((i + 1)); done
say many sh -c 'ls | grep -c many'
rm many1?
ln many0 hard
ln -s moved/renamed soft
say soft cat soft
say out readlink out
say out2 sh -c 'cat absolute 2>/dev/null || echo no'
say out3 sh -c 'cat secret-link 2>/dev/null || echo no'
mkfifo fifo
mknod dev c 1 3 2>/dev/null
say dev sh -c '[ -e dev ] && echo yes || echo no'
chmod 640 copy
say mode stat -c %a:%u copy
truncate -s 100 again
printf appended >>again
say size stat -c %s again
say holes sh -c 'cat hostfile; echo there >>hostfile; cat hostfile'
mkdir tree
cd tree
tar xf ../in.tar
say tarred sh -c 'find . -type f | wc -l'
tar cf ../out.tar .
cd /
sync
umount /mnt
mount -t virtiofs work /mnt
say again cat /mnt/moved/renamed
umount /mnt
"""


def fill(place):
    share = directory(place)
    put(os.path.join(share, "data"), DATA)
    put(os.path.join(place.path, "secret"), b"secret")
    put(os.path.join(share, "hostfile"), b"here\n")
    os.symlink("/etc", os.path.join(share, "out"))
    os.symlink("../secret", os.path.join(share, "secret-link"))
    os.symlink(os.path.join(place.path, "secret"), os.path.join(share, "absolute"))
    tree = directory(place, "tree")
    for i in range(60):
        os.makedirs(os.path.join(tree, f"d{i % 7}"), exist_ok=True)
        put(os.path.join(tree, f"d{i % 7}", f"f{i}"), os.urandom(i * 300))
    with tarfile.open(os.path.join(share, "in.tar"), "w", format=tarfile.GNU_FORMAT) as t:
        def root(info):
            info.uid = info.gid = 0
            return info
        t.add(tree, ".", filter=root)
    return share, tree


def check_files(place, share, tree, said):
    assert said["mounted"] == "" and said["written"] == "", said
    assert said["digest"] == hashlib.md5(DATA).hexdigest(), said
    assert get(os.path.join(share, "copy")) == DATA
    assert said["many"] == "200" and said["soft"] == "hello", said
    # the guest follows links by itself, in its own tree, where there is no secret
    assert said["out"] == "/etc" and said["out2"] == "no" and said["out3"] == "no", said
    assert get(os.path.join(share, "moved", "renamed")) == b"hello\n"
    assert os.stat(os.path.join(share, "hard")).st_nlink == 2
    assert os.readlink(os.path.join(share, "soft")) == "moved/renamed"
    assert stat.S_ISFIFO(os.lstat(os.path.join(share, "fifo")).st_mode)
    assert said["dev"] == "no" and not os.path.exists(os.path.join(share, "dev"))
    assert said["mode"] == "640:0" and said["size"] == "108", said
    assert get(os.path.join(share, "again")) == DATA[:100] + b"appended"
    assert get(os.path.join(share, "hostfile")) == b"here\nthere\n" and said["holes"] == "here here there"
    assert len([n for n in os.listdir(share) if n.startswith("many")]) == 190
    assert said["tarred"] == "60" and said["again"] == "hello", said
    for i in range(60):
        name = os.path.join(f"d{i % 7}", f"f{i}")
        assert get(os.path.join(share, "tree", name)) == get(os.path.join(tree, name)), name
    with tarfile.open(os.path.join(share, "out.tar")) as t:
        inside = {m.name: t.extractfile(m).read() for m in t if m.isfile()}
    assert len(inside) == 60 and inside["./d3/f59"] == get(os.path.join(tree, "d3", "f59"))


def files_bt(place):
    share, tree = fill(place)
    check_files(place, share, tree, boot(place, FILES, "--share", share + ":work", "--engine", "bt"))
    assert os.stat(os.path.join(share, "copy")).st_uid == os.geteuid()


def files_interp(place):
    share, tree = fill(place)
    check_files(place, share, tree, boot(place, FILES, "--share", share + ":work", "--engine", "interp", timeout=600))


def files_on_two_cpus(place):
    share, tree = fill(place)
    check_files(place, share, tree, boot(place, FILES, "--share", share + ":work", "--cpus", "2", timeout=400))


def without_root(place):
    """As a user without root: files are his on the host and root's in the guest; others' are nobody's."""
    if os.geteuid() != 0:
        raise Skip("the other tests run without root already")
    share, tree = fill(place)
    os.chmod(place.path, 0o755)
    state = directory(place, "state")
    for top in (state, share, os.path.join(share, "data"), os.path.join(share, "hostfile")):
        os.chown(top, NOBODY, NOBODY)
    put(os.path.join(share, "root's"))
    script = FILES.replace("\nsync\n", """
say owner stat -c %u:%g /mnt/copy
say others stat -c %u:%g "/mnt/root's"
say give sh -c 'chown 1000 /mnt/copy 2>/dev/null && echo given || echo refused'
cp /bin/busybox /mnt/suid
chmod 4755 /mnt/suid
say suid stat -c %a /mnt/suid
say chown sh -c 'chown 0:0 /mnt/suid && echo fine'
sync
""")
    options = linux(place, script, "--share", share + ":work", "--engine", "bt")

    def drop():
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)

    from harness import TRAPEZE
    p = subprocess.run([TRAPEZE, *options], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       env={**place.env, "XDG_STATE_HOME": state}, preexec_fn=drop, timeout=300)
    if p.returncode and b"ermission" in p.stderr:
        raise Skip("this user may not run the program where it lies: " + p.stderr.decode())
    assert p.returncode == 0, (p.returncode, p.stdout[-3000:], p.stderr)
    said = {k: v.rstrip() for k, v in lines_of(p.stdout.decode(errors="replace")).items()}
    check_files(place, share, tree, said)
    assert said["owner"] == "0:0" and said["others"] == "65534:65534", said
    assert said["give"] == "refused" and said["suid"] == "755" and said["chown"] == "fine", said
    st = os.stat(os.path.join(share, "copy"))
    assert st.st_uid == NOBODY and st.st_gid == NOBODY
    assert os.stat(os.path.join(share, "suid")).st_mode & 0o7777 == 0o755


def ids_of_root(place):
    """A caller with root: ids are the same inside and out."""
    if os.geteuid() != 0:
        raise Skip("not root")
    share = directory(place)
    boot(place, """
mount -t virtiofs work /mnt
echo x >/mnt/file
chown 1234:5678 /mnt/file
umount /mnt
""", "--share", share + ":work")
    st = os.stat(os.path.join(share, "file"))
    assert (st.st_uid, st.st_gid) == (1234, 5678)


def read_only_and_two(place):
    first, second = directory(place, "first"), directory(place, "second")
    put(os.path.join(first, "file"), b"text")
    said = boot(place, """
say mounts sh -c 'mount -t virtiofs one /mnt; mount -t virtiofs two /mnt2'
say wrong sh -c 'mount -t virtiofs three /tmp 2>/dev/null || echo refused'
say read cat /mnt/file
say write sh -c '(echo x >/mnt/file) 2>/dev/null || echo refused'
say make sh -c '(touch /mnt/new) 2>/dev/null || echo refused'
say remove sh -c 'rm /mnt/file 2>/dev/null || echo refused'
say mode sh -c 'chmod 777 /mnt/file 2>/dev/null || echo refused'
say other sh -c 'echo y >/mnt2/new && cat /mnt2/new'
""", "--share", first + ":one:ro", "--share", second + ":two")
    assert said["mounts"] == "" and said["wrong"] == "refused" and said["read"] == "text", said
    assert [said[k] for k in ("write", "make", "remove", "mode")] == ["refused"] * 4, said
    assert os.listdir(first) == ["file"] and get(os.path.join(first, "file")) == b"text"
    assert get(os.path.join(second, "new")) == b"y\n"


def changes_on_the_host(place):
    """A file that is changed on the host is read anew within its second; a back end that is killed gives errors, no hang."""
    share = directory(place)
    put(os.path.join(share, "file"), b"before")
    options = linux(place, """
mount -t virtiofs work /mnt
cat /mnt/file; echo
echo "ready"
while [ "$(cat /mnt/file)" != after ]; do sleep 0.2; done
echo "seen: yes"
: >/mnt/kill
while [ -e /mnt/kill ]; do sleep 0.2; done
ls /mnt 2>&1
""", "--share", share + ":work", "--name", "sharer")
    p = place.start(*options, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        out = b""
        while b"ready" not in out:
            line = p.stdout.readline()
            assert line, out
            out += line
        (seen,) = json.loads(place.good("inspect", "sharer"))["shares"]
        assert seen["tag"] == "work" and seen["state"] == "up" and seen["requests"] > 0 and seen["directory"] == share
        put(os.path.join(share, "file"), b"after")
        place.until(lambda: os.path.exists(os.path.join(share, "kill")), "the guest to see the change")
        os.kill(seen["process"], 9)
        rest = p.communicate(timeout=60)[0]
        assert b"seen: yes" in rest and b"not connected" in rest, rest
    finally:
        if p.poll() is None:
            place.run("kill", "sharer")
            p.wait()


def paused_while_in_use(place):
    """A machine that is paused has no request on its way: nothing changes on the host; then it goes on."""
    share = directory(place)
    put(os.path.join(share, "file"), b"text")
    options = linux(place, """
mount -t virtiofs work /mnt
exec 5</mnt/file
n=0
while [ $n -lt 3000 ]; do echo $n >/mnt/count; n=$((n + 1)); [ -e /mnt/stop ] && n=3000; done
read line <&5
echo "open: $line"
echo "named: $(cat /mnt/file)"
umount /mnt
""", "--share", share + ":work", "--name", "busy")
    p = place.start(*options, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        place.until(lambda: os.path.exists(os.path.join(share, "count")), "the guest to write")
        for _ in range(20):
            place.good("pause", "busy")
            first = get(os.path.join(share, "count"))
            (seen,) = json.loads(place.good("inspect", "busy"))["shares"]
            assert get(os.path.join(share, "count")) == first, "written while paused"
            place.good("resume", "busy")
        put(os.path.join(share, "stop"))
        out = p.communicate(timeout=120)[0].decode()
        assert "open: text" in out and "named: text" in out, out
    finally:
        if p.poll() is None:
            place.run("kill", "busy")
            p.wait()


def bad_input(place):
    share = directory(place)
    here = ("run", "--kernel", LINUX or "/nonexistent", "--share")
    place.refused(*here, share, names=["--share", "DIR:TAG"])
    place.refused(*here, share + ":", names=["--share", "DIR:TAG"])
    place.refused(*here, ":tag", names=["--share", "DIR:TAG"])
    place.refused(*here, share + ":" + "x" * 37, names=["tag", "36"])
    place.refused(*here, share + ":a b", names=["tag", "a b"])
    place.refused(*here, share + ":ro", names=["tag"])
    place.refused(*here, share + ":x:rw", names=["colon", "symbolic link"])
    place.refused(*here, share + ":a", "--share", "/tmp:a", names=["tag a", "another"])
    place.refused(*here, share + ":a", *sum((["--share", share + f":t{i}"] for i in range(6)), []), names=["too often"])
    if LINUX:
        place.refused(*here, share + "/none:a", names=["no such directory", share + "/none"])
        place.refused(*here, put(os.path.join(place.path, "file")) + ":a", names=["is no directory"])


CHECK = [files_bt, without_root, ids_of_root, read_only_and_two, changes_on_the_host, bad_input]
ALL = CHECK + [files_interp, files_on_two_cpus, paused_while_in_use]
run_tests(ALL if sys.argv[1:] == ["all"] else CHECK)
