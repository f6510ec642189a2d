"""Debian's i386 kernels on one engine: i386.py ENGINE DIRECTORY. TRAPEZE names the program; packages are downloaded to DIRECTORY
the first time (nothing is installed, root is not needed).

linux-image-686 pages with 32-bit tables, linux-image-686-pae with PAE's; memtest86+ moves itself about in either. Passed if each
kernel's shell computes what is computed here, and memtest86+ finds no error in the tests that it comes to.
"""
import hashlib
import importlib.machinery
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
SKIPPED = 77
PATIENCE = 900  # seconds for a boot: no speed is tested
MEMTEST = 40    # seconds for memtest86+, which has no end
PACKAGES = ["linux-image-686", "linux-image-686-pae", "busybox-static", "memtest86+"]
INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
echo "machine $(/bin/busybox uname -m)"
i=0
while [ $i -lt 20000 ]; do i=$((i + 1)); done
echo "counted $i"
echo "sum $(/bin/busybox sha256sum < /bin/busybox)"
/bin/busybox dd if=/dev/zero bs=64k count=64 2>/dev/null | /bin/busybox gzip | /bin/busybox gunzip | /bin/busybox md5sum
/bin/busybox poweroff -f
"""


def apt(directory, command, *words):
    """Run an apt tool on lists and caches of our own, for i386."""
    options = ["APT::Architecture=i386", "APT::Architectures=i386", "APT::Sandbox::User=root", "Debug::NoLocking=true",
               "Dir::State::status=" + os.path.join(directory, "status"), "Dir::State::Lists=" + os.path.join(directory, "lists"),
               "Dir::Cache=" + os.path.join(directory, "cache")]
    return subprocess.run([command, "-q"] + [w for o in options for w in ("-o", o)] + list(words), cwd=directory,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def unpack(directory):
    """The packages' files, in DIRECTORY/root; kept when they are there."""
    root = os.path.join(directory, "root")
    if os.path.exists(os.path.join(directory, "complete")):
        return root
    shutil.rmtree(directory, ignore_errors=True)
    for d in ("lists/partial", "cache/archives/partial", "root"):
        os.makedirs(os.path.join(directory, d))
    open(os.path.join(directory, "status"), "w").close()
    apt(directory, "apt-get", "update")
    names = []
    for p in PACKAGES:  # the two kernels' names say no version: what they depend on does
        depends = re.findall(r"Depends: (linux-image-\S+)", apt(directory, "apt-cache", "depends", p).stdout)
        names += depends[:1] or [p]
    p = apt(directory, "apt-get", "download", *names)
    debs = [n for n in os.listdir(directory) if n.endswith(".deb")]
    if len(debs) < len(PACKAGES):
        print("skipped: no i386 packages: " + p.stdout.strip().splitlines()[-1])
        sys.exit(SKIPPED)
    for deb in debs:
        subprocess.run(["dpkg-deb", "-x", deb, root], cwd=directory, check=True)
    open(os.path.join(directory, "complete"), "w").close()
    return root


def load(path):
    """A module from a file whose name is none of a module."""
    loader = importlib.machinery.SourceFileLoader(os.path.basename(path).replace("-", "_"), path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    sys.dont_write_bytecode = True
    loader.exec_module(module)
    return module


def make_initrd(root, out):
    with open(os.path.join(root, "bin/busybox"), "rb") as f:
        busybox = f.read()
    tree = {d: (stat.S_IFDIR | 0o755, b"", 0) for d in ("bin", "dev", "proc")}
    tree["dev/console"] = (stat.S_IFCHR | 0o600, b"", os.makedev(5, 1))
    tree["bin/busybox"] = (stat.S_IFREG | 0o755, busybox, 0)
    tree["init"] = (stat.S_IFREG | 0o755, INIT.encode(), 0)
    with open(out, "wb") as f:
        f.write(load(os.path.join(ROOT, "tools", "make-initrd")).archive(tree))


def run(engine, words, seconds):
    """Exit status (None: stopped when its time was over), and what it printed."""
    with tempfile.TemporaryDirectory(prefix="trapeze-i386-") as state:
        p = subprocess.Popen([os.environ["TRAPEZE"], "run", "--engine", engine, "--no-reboot"] + words,
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             env={**os.environ, "XDG_STATE_HOME": state})
        try:
            out, _ = p.communicate(timeout=seconds)
            status = p.returncode
        except subprocess.TimeoutExpired:
            p.terminate()  # the machine goes with it
            out, _ = p.communicate()
            status = None
        return status, out.decode(errors="replace").replace("\r", "")


def boot(engine, root, kernel, initrd):
    """(good, what) of one kernel."""
    status, out = run(engine, ["--kernel", kernel, "--initrd", initrd, "--append", "console=ttyS0 quiet panic=-1 reboot=t",
                               "--memory", "256M"], PATIENCE)
    name = os.path.basename(kernel)
    with open(os.path.join(root, "bin/busybox"), "rb") as f:
        digest = hashlib.sha256(f.read()).hexdigest()
    for what in ("machine i686", "counted 20000", "sum " + digest, hashlib.md5(bytes(4 << 20)).hexdigest()):
        yield what in out, f"{name}: {what[:20]}"
    yield status == 0, f"{name}: exit status {status}"
    if status != 0:
        print("".join("# " + line + "\n" for line in out.splitlines()[-20:]), end="")


def memtest(engine, kernel):
    begun = time.monotonic()
    status, out = run(engine, ["--kernel", kernel, "--append", "console=ttyS0,115200", "--memory", "32M"], MEMTEST)
    name = os.path.basename(kernel)
    yield status is None and time.monotonic() - begun >= MEMTEST, f"{name}: runs on"
    yield len(set(re.findall(r"#(\d+) ", out))) >= 2, f"{name}: comes to several tests"
    errors = set(re.findall(r"Errors: (\d+)", out))
    yield errors == {"0"}, f"{name}: errors: {', '.join(sorted(errors))}"


def main():
    engine, directory = sys.argv[1], os.path.abspath(sys.argv[2])
    root = unpack(directory)
    lines = []
    initrd = os.path.join(directory, "initrd.cpio")
    make_initrd(root, initrd)
    boots = os.path.join(root, "boot")
    for name in sorted(os.listdir(boots)):
        path = os.path.join(boots, name)
        if name.startswith("vmlinuz"):
            lines += boot(engine, root, path, initrd)
        elif name.startswith("memtest") and name.endswith(".bin"):
            lines += memtest(engine, path)
    print(f"1..{len(lines)}")
    for n, (good, text) in enumerate(lines, 1):
        print(f"{'ok' if good else 'not ok'} {n} - {text}".replace("#", "\\#"))
    sys.exit(0 if all(good for good, _ in lines) else 1)


main()
