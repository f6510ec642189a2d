"""make_root.py OUT: the soak's root file system as a cpio archive: Debian's stress-ng and gcc with what they need, and the files
of this directory. What is there already is kept.

The packages are downloaded and unpacked, nothing is installed; root is not needed, a list of packages (apt-get update) is.
"""
import fnmatch
import importlib.machinery
import importlib.util
import os
import stat
import subprocess
import sys
import tarfile
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
PACKAGES = ["stress-ng", "gcc", "libc6-dev", "busybox-static"]
# Which parts of them nobody here needs: documents, other languages, link-time optimisation, sanitizers, X.
LEFT_OUT = ["usr/share/*", "*/lto1", "*gprofng*", "usr/bin/gp-*", "usr/bin/*gold", "usr/bin/*dwp",
            "*san.so*", "*san.a", "*san_preinit.o", "*/libgomp*", "*/libitm*", "*/libquadmath*", "usr/lib/gcc/*/plugin/*", "etc/*"]
MERGED = ["bin", "lib", "lib64", "sbin"]  # directories that are links into /usr
DIRECTORIES = ["dev", "proc", "root", "run", "soak", "sys", "tmp", "usr", "var", "var/tmp"]


def load(path):
    """A module from a file whose name is none of a module."""
    loader = importlib.machinery.SourceFileLoader(os.path.basename(path).replace("-", "_"), path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    sys.dont_write_bytecode = True
    loader.exec_module(module)
    return module


def download(directory):
    """Fetch the packages and all they depend on, as for a system without any; paths of the .deb files."""
    os.makedirs(os.path.join(directory, "cache", "archives", "partial"))
    status = os.path.join(directory, "status")
    open(status, "w").close()
    p = subprocess.run(["apt-get", "-q", "-y", "-o", "APT::Sandbox::User=root", "-o", "Dir::State::status=" + status,
                        "-o", "Dir::Cache=" + os.path.join(directory, "cache"), "-o", "Debug::NoLocking=true",
                        "--no-install-recommends", "--download-only", "install", *PACKAGES],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if p.returncode:
        sys.exit(p.stdout + "make_root.py: no packages (is there a list of them? apt-get update makes one)")
    archives = os.path.join(directory, "cache", "archives")
    return sorted(os.path.join(archives, n) for n in os.listdir(archives) if n.endswith(".deb"))


def place(name):
    """Where a member of a package goes, or None if it is left out."""
    name = os.path.normpath(name)
    if name.split("/")[0] in MERGED:
        name = "usr/" + name
    return None if name == "." or any(fnmatch.fnmatch(name, p) for p in LEFT_OUT) else name


def unpack(deb, tree):
    p = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE)
    for m in (tar := tarfile.open(fileobj=p.stdout, mode="r|")):
        name = place(m.name)
        if not name:
            continue
        if m.isdir():
            tree.setdefault(name, (stat.S_IFDIR | 0o755, b"", 0))
        elif m.issym():
            tree[name] = (stat.S_IFLNK | 0o777, m.linkname.encode(), 0)
        elif m.islnk():  # a copy will do
            tree[name] = tree[place(m.linkname)]
        elif m.isfile():
            tree[name] = (stat.S_IFREG | (m.mode & 0o777), tar.extractfile(m).read(), 0)
    if p.wait():
        sys.exit(f"make_root.py: {deb} can not be unpacked")


def own_files(tree):
    for name in DIRECTORIES:
        tree[name] = (stat.S_IFDIR | (0o1777 if name.endswith("tmp") else 0o755), b"", 0)
    for name in MERGED:
        tree[name] = (stat.S_IFLNK | 0o777, b"usr/" + name.encode(), 0)
    tree["dev/console"] = (stat.S_IFCHR | 0o600, b"", os.makedev(5, 1))
    for name in ["init", "program.c", "stressors"]:
        with open(os.path.join(HERE, name), "rb") as f:
            tree["init" if name == "init" else "soak/" + name] = (stat.S_IFREG | 0o755, f.read(), 0)


def main():
    out, tree = sys.argv[1], {}
    if os.path.exists(out) and all(os.path.getmtime(out) > os.path.getmtime(os.path.join(HERE, n)) for n in os.listdir(HERE)):
        return
    with tempfile.TemporaryDirectory(prefix="trapeze-soak-") as directory:
        for deb in download(directory):
            unpack(deb, tree)
    own_files(tree)
    data = load(os.path.join(ROOT, "tools", "make-initrd")).archive(tree)
    with open(out + ".new", "wb") as f:
        f.write(data)
    os.rename(out + ".new", out)


if __name__ == "__main__":
    main()
