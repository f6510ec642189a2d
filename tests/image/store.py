"""The image store by its verbs: what archives may do, what garbage collection keeps, what a kill leaves behind.

TRAPEZE names the program, KILLS how often it is killed. Needs root: layers have owners (else skipped). No network.
"""
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback

TRAPEZE = os.environ["TRAPEZE"]
KILLS = int(os.environ.get("KILLS", "20"))
PATIENCE = 60
SEED = 1


def member(name, type=tarfile.REGTYPE, data=b"", link="", mode=0o644, pax=None, device=(0, 0), uid=0):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname, info.mode, info.uid = type, len(data), link, mode, uid
    info.devmajor, info.devminor = device
    info.pax_headers = pax or {}
    return info, data


def tar_of(*members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as t:
        for info, data in members:
            t.addfile(info, io.BytesIO(data))
    return out.getvalue()


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def docker_archive(name, *layers, config=None):
    """As docker save writes it; layers are plain tars."""
    text = json.dumps(config or {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/sh"]},
                                 "rootfs": {"type": "layers", "diff_ids": [digest(x) for x in layers]}}).encode()
    names = [f"{i}/layer.tar" for i in range(len(layers))]
    manifest = json.dumps([{"Config": "c.json", "RepoTags": [name], "Layers": names}]).encode()
    return tar_of(member("manifest.json", data=manifest), *[member(n, data=x) for n, x in zip(names, layers)],
                  member("c.json", data=text))


class Store:
    def __init__(self):
        self.top = tempfile.mkdtemp(prefix="trapeze-image-")
        self.env = dict(os.environ, XDG_DATA_HOME=self.top)
        self.path = os.path.join(self.top, "trapeze/images")

    def call(self, *words, stdin=b""):
        p = subprocess.run([TRAPEZE, "image", *words], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           env=self.env, timeout=PATIENCE)
        return p.returncode, p.stdout, p.stderr.decode(errors="replace")

    def ok(self, *words, stdin=b""):
        status, out, err = self.call(*words, stdin=stdin)
        assert status == 0, f"{words}: {status}: {err}"
        return out

    def refused(self, why, *words, stdin=b""):
        status, out, err = self.call(*words, stdin=stdin)
        assert status in (1, 3) and why in err, f"{words}: {status}: {err}"

    def names(self):
        return sorted(r["name"] for r in json.loads(self.ok("list", "--format", "json")))

    def root(self):
        """The only unpacked layer."""
        links = os.listdir(os.path.join(self.path, "layers/c"))
        assert len(links) == 1, links
        return os.path.realpath(os.path.join(self.path, "layers/c", links[0]))

    def files(self, what):
        return os.listdir(os.path.join(self.path, what))

    def close(self):
        shutil.rmtree(self.top)


# --- life ---


def test_load_save_round(s):
    layers = [tar_of(member("etc", tarfile.DIRTYPE, mode=0o755), member("etc/a", data=b"1")), tar_of(member("b", data=b"2"))]
    assert s.ok("load", stdin=docker_archive("one:1", *layers)).decode() == "one:1\n"
    for kind in ("docker", "oci"):
        archive = s.ok("save", "--archive", kind, "one:1")
        other = Store()
        try:
            other.ok("load", stdin=archive)
            assert other.names() == ["docker.io/library/one:1"], other.names()
            other.ok("verify")
            a, b = (json.loads(x.ok("list", "--format", "json"))[0]["id"] for x in (s, other))
            assert a == b, (a, b)
        finally:
            other.close()


def test_skopeo_reads_it(s):
    if not shutil.which("skopeo"):
        raise Skip("no skopeo")
    s.ok("load", stdin=docker_archive("one:1", tar_of(member("a", data=b"1"))))
    layout = f"oci:{s.path}:docker.io/library/one:1"
    subprocess.run(["skopeo", "inspect", layout], check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE)


def test_packed_import(s):
    s.ok("import", "-", "mine:1", stdin=gzip.compress(tar_of(member("bin/x", data=b"hello", mode=0o4755, uid=7))))
    st = os.stat(os.path.join(s.root(), "bin/x"))
    assert stat.S_IMODE(st.st_mode) == 0o4755 and st.st_uid == 7


def test_times_are_kept(s):
    """Of directories, too, that get files after they were made."""
    d, f = member("d", tarfile.DIRTYPE, mode=0o755), member("d/f", data=b"1")
    d[0].mtime, f[0].mtime = 5, 6
    s.ok("import", "-", "a", stdin=tar_of(d, f))
    assert [os.stat(os.path.join(s.root(), n)).st_mtime for n in ("d", "d/f")] == [5, 6]


def test_names(s):
    s.ok("import", "-", "a", stdin=tar_of(member("x", data=b"1")))
    s.ok("tag", "a", "b:2")
    assert s.names() == ["docker.io/library/a:latest", "docker.io/library/b:2"]
    s.ok("rm", "a")
    assert s.names() == ["docker.io/library/b:2"]
    s.ok("verify")
    identity = json.loads(s.ok("list", "--format", "json"))[0]["id"]
    s.ok("tag", identity[:12], "c")
    s.ok("rm", identity[:12])
    assert s.names() == [] and s.files("blobs/sha256") == [] and s.files("layers/d") == []
    s.refused("no such image", "rm", "a")


def test_garbage(s):
    """What two images share stays when one goes."""
    shared, mine = tar_of(member("s", data=b"s" * 1000)), tar_of(member("m", data=b"m" * 1000))
    s.ok("load", stdin=docker_archive("one:1", shared, mine))
    s.ok("load", stdin=docker_archive("two:1", shared))
    s.ok("rm", "one:1")
    blobs = s.files("blobs/sha256")
    assert digest(shared)[7:] in blobs and digest(mine)[7:] not in blobs
    s.ok("verify")


def test_damage_is_found(s):
    s.ok("load", stdin=docker_archive("one:1", tar_of(member("a", data=b"1" * 5000))))
    path = max((os.path.join(s.path, "blobs/sha256", n) for n in s.files("blobs/sha256")), key=os.path.getsize)
    with open(path, "r+b") as f:
        f.seek(600)
        f.write(b"2")
    s.refused("damaged", "verify")


def test_unreadable_keeps_all(s):
    """When a manifest can not be read nothing is collected: what it needs is not known."""
    s.ok("load", stdin=docker_archive("one:1", tar_of(member("a", data=b"1"))))
    s.ok("load", stdin=docker_archive("two:1", tar_of(member("b", data=b"1"))))
    top = json.loads(s.ok("list", "--format", "json"))[0]["digest"]
    os.unlink(os.path.join(s.path, "blobs", top.replace(":", "/")))
    before = s.files("blobs/sha256")
    s.refused("nothing was removed", "prune")
    assert sorted(before) == sorted(s.files("blobs/sha256"))


# --- hostile archives ---


def hostile(s, *members):
    """Import; a file beside the store must stay as it was."""
    victim = os.path.join(s.top, "victim")
    with open(victim, "w") as f:
        f.write("mine")
    status, out, err = s.call("import", "-", "evil", stdin=tar_of(*members))
    assert status in (0, 1, 3), (status, err)
    with open(victim) as f:
        assert f.read() == "mine"
    assert os.stat(victim).st_nlink == 1
    assert set(os.listdir(s.top)) == {"trapeze", "victim"}, os.listdir(s.top)
    if status:
        assert s.files("layers/c") == [] and s.files("layers/d") == [] and s.names() == []
    return status, err


def test_traversal(s):
    for name in ("../../../../victim", "a/../../../../../victim", ".."):
        status, err = hostile(s, member(name, data=b"theirs"))
        assert status and "leads out" in err, err


def test_absolute(s):
    status, err = hostile(s, member(os.path.join(s.top, "victim"), data=b"theirs"))
    assert status == 0 and os.path.exists(s.root() + os.path.join(s.top, "victim"))


def test_symlink_to_directory(s):
    """A link out of the root, then a file through it: the link means a place inside."""
    hostile(s, member("l", tarfile.SYMTYPE, link=s.top), member("l/victim", data=b"theirs"))


def test_symlink_relative(s):
    hostile(s, member("l", tarfile.SYMTYPE, link="../../../../.."), member("l/victim", data=b"theirs"))


def test_symlink_to_file(s):
    """A link, then a file by the same name: the link is replaced."""
    status, err = hostile(s, member("l", tarfile.SYMTYPE, link=os.path.join(s.top, "victim")), member("l", data=b"theirs"))
    assert status == 0, err
    path = os.path.join(s.root(), "l")
    assert not os.path.islink(path) and open(path).read() == "theirs"


def test_symlink_and_mode(s):
    """A directory by a link's name changes nothing where the link leads."""
    before = os.stat(s.top).st_mode
    hostile(s, member("l", tarfile.SYMTYPE, link=s.top), member("l", tarfile.DIRTYPE, mode=0o777))
    assert os.stat(s.top).st_mode == before


def test_hard_link_out(s):
    for target in ("../../../../victim", os.path.join(s.top, "victim")):
        status, err = hostile(s, member("h", tarfile.LNKTYPE, link=target))
        assert status, "linked to " + target


def test_hard_link_through_link(s):
    status, err = hostile(s, member("l", tarfile.SYMTYPE, link=s.top), member("h", tarfile.LNKTYPE, link="l/victim"))
    assert status, "linked"


def test_proc_link(s):
    hostile(s, member("l", tarfile.SYMTYPE, link="/proc/self/root" + s.top), member("l/victim", data=b"theirs"))


def test_overlay_marks(s):
    """Attributes and devices that mean something to overlayfs are not an archive's to bring."""
    status, err = hostile(s, member("d", tarfile.CHRTYPE))
    assert status and "overlayfs" in err, err
    status, err = hostile(s, member("x", data=b"1", pax={"SCHILY.xattr.trusted.overlay.redirect": "/etc",
                                                         "SCHILY.xattr.user.kept": "yes"}))
    assert status == 0, err
    names = os.listxattr(os.path.join(s.root(), "x"))
    assert names == ["user.kept"], names


def test_import_has_no_whiteouts_to_misuse(s):
    for name in (".wh.", ".wh..", ".wh..."):
        status, err = hostile(s, member("a/" + name))
        assert status, name


def test_truncated(s):
    data = tar_of(member("x", data=b"1" * 100000))
    s.refused("archive", "import", "-", "evil", stdin=data[:50000])
    s.refused("archive", "import", "-", "evil", stdin=gzip.compress(data)[:-20])
    assert s.names() == []


def test_packed_twice(s):
    s.refused("more than once", "import", "-", "evil", stdin=gzip.compress(gzip.compress(tar_of(member("x", data=b"1")))))


def test_forged_layout(s):
    """Blobs that are not what their names say, sizes that are others, an index in itself, layers left out."""
    def layout(index, blobs):
        return tar_of(member("oci-layout", data=b"{}"), member("index.json", data=json.dumps(index).encode()),
                      *[member("blobs/" + d.replace(":", "/"), data=x) for d, x in blobs.items()])

    manifest_type = "application/vnd.oci.image.manifest.v1+json"
    index_type = "application/vnd.oci.image.index.v1+json"
    row = lambda d, n, t=manifest_type: {"manifests": [{"mediaType": t, "digest": d, "size": n}]}
    s.refused("another digest", "load", stdin=layout(row("sha256:" + "a" * 64, 3), {"sha256:" + "a" * 64: b"abc"}))
    s.refused("damaged", "load", stdin=layout(row(digest(b"{}"), 77), {digest(b"{}"): b"{}"}))
    s.refused("No such file", "load", stdin=layout(row(digest(b"x"), 1), {}))
    text, blobs = b"{}", {}
    for _ in range(8):
        blobs[digest(text)] = text
        text = json.dumps(row(digest(text), len(text), index_type)).encode()
    blobs[digest(text)] = text
    s.refused("nested", "load", stdin=layout(row(digest(text), len(text), index_type), blobs))
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": [digest(b"l")]}}).encode()
    manifest = json.dumps({"schemaVersion": 2, "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                           "digest": digest(config), "size": len(config)}, "layers": [
                           {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(b"l"), "size": 1}]}).encode()
    s.refused("is not in it", "load", stdin=layout(row(digest(manifest), len(manifest)),
                                                   {digest(manifest): manifest, digest(config): config}))
    assert s.names() == []


def test_docker_archive_that_lies(s):
    s.refused("not in it", "load", stdin=tar_of(member("manifest.json", data=json.dumps(
        [{"Config": "../../../etc/passwd", "RepoTags": ["x"], "Layers": []}]).encode())))
    s.refused("no image", "load", stdin=tar_of(member("x", data=b"1")))
    assert s.names() == []


def test_digest_for_a_name(s):
    """A name with a digest says what an image is: no archive gives it."""
    s.refused("with a digest", "load", stdin=docker_archive("x@sha256:" + "a" * 64, tar_of(member("x", data=b"1"))))
    assert s.names() == []


def test_damaged_goes(s):
    """An image whose documents can not be read can be removed, by its name."""
    s.ok("load", stdin=docker_archive("one:1", tar_of(member("a", data=b"1"))))
    s.ok("load", stdin=docker_archive("two:1", tar_of(member("b", data=b"1"))))
    top = [r for r in json.loads(s.ok("list", "--format", "json")) if "one" in r["name"]][0]["digest"]
    os.unlink(os.path.join(s.path, "blobs", top.replace(":", "/")))
    s.ok("rm", "one:1")
    s.ok("verify")
    assert s.names() == ["docker.io/library/two:1"]


# --- kills ---


def test_killed(s):
    """At random points of load, import, rm and prune: what is named is whole, and garbage goes."""
    rng = random.Random(SEED)
    archive = docker_archive("keep:1", tar_of(member("k", data=rng.randbytes(300000))))
    s.ok("load", stdin=archive)
    big = tar_of(*[member(f"d{i}/f{i}", data=rng.randbytes(20000)) for i in range(60)])
    path, loaded = os.path.join(s.top, "big.tar"), os.path.join(s.top, "loaded.tar")
    for name, data in ((path, big), (loaded, docker_archive("two:1", big))):
        with open(name, "wb") as f:
            f.write(data)
    ways = (("import", path, "one:1"), ("load", loaded), ("rm", "one:1"), ("prune",))
    start = time.monotonic()
    s.ok("import", path, "one:1")
    span = time.monotonic() - start
    for i in range(KILLS):
        words = ways[i % len(ways)]
        p = subprocess.Popen([TRAPEZE, "image", *words], env=s.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.random() * span)
        p.kill()
        p.wait()
        s.ok("verify")
        assert "docker.io/library/keep:1" in s.names(), (SEED, i, words)
        # an unpacked layer that has a link is whole
        for link in s.files("layers/c"):
            n = sum(len(f) for _, _, f in os.walk(os.path.realpath(os.path.join(s.path, "layers/c", link))))
            assert n == 60, (SEED, i, words, n)
    for name in ("one:1", "two:1"):
        s.call("rm", name)
    s.ok("prune")
    assert len(s.files("blobs/sha256")) == 3 and s.files("layers/d") == [] and s.files("tmp") == []
    s.ok("verify")


def test_at_the_same_time(s):
    """Eight at once: every name is there, and the store is whole."""
    files = []
    for i in range(8):
        files.append(os.path.join(s.top, f"{i}.tar"))
        with open(files[-1], "wb") as f:
            f.write(tar_of(member("same", data=b"s" * 100000)) if i % 2 else tar_of(member(f"x{i}", data=b"1" * 1000)))
    running = [subprocess.Popen([TRAPEZE, "image", "import", f, f"i{i}"], env=s.env, stdout=subprocess.DEVNULL)
               for i, f in enumerate(files)]
    running.append(subprocess.Popen([TRAPEZE, "image", "prune"], env=s.env, stdout=subprocess.DEVNULL))
    assert [p.wait(PATIENCE) for p in running] == [0] * 9
    s.ok("verify")
    assert len(s.names()) == 8, s.names()


class Skip(Exception):
    pass


def main(names=None):
    tests = [(n[5:], f) for n, f in sorted((names or globals()).items()) if n.startswith("test_")]
    if os.geteuid():
        print("1..0 # SKIP needs root")
        return 0
    print(f"1..{len(tests)}")
    bad = 0
    for i, (name, f) in enumerate(tests, 1):
        s = Store()
        try:
            f(s)
            print(f"ok {i} - {name}")
        except Skip as why:
            print(f"ok {i} - {name} # SKIP {why}")
        except Exception:
            bad += 1
            print(f"not ok {i} - {name}")
            print("# " + traceback.format_exc().replace("\n", "\n# "))
        finally:
            s.close()
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
