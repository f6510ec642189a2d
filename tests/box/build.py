"""Images from Dockerfiles: what instructions do, the cache, layers as others read them, hostile contexts, kills.

TRAPEZE names the program, KILLS how often it is killed. Needs root and busybox (else skipped), and no network.
"""
import bz2
import gzip
import io
import json
import lzma
import os
import random
import signal
import socket
import subprocess
import sys
import tarfile
import time

import run
from run import KILLS, SEED, TRAPEZE, until


def write(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data if isinstance(data, bytes) else data.encode())


def read(path):
    with open(path, "rb") as f:
        return f.read()


def context(p, dockerfile=None, **files):
    """A new directory; names of files with __ for / and _ for a dot."""
    p.contexts = getattr(p, "contexts", 0) + 1
    top = f"{p.top}/context{p.contexts}"
    os.mkdir(top)
    if dockerfile is not None:
        write(top + "/Dockerfile", dockerfile)
    for name, data in files.items():
        write(f"{top}/" + name.replace("__", "/").replace("_", "."), data)
    return top


def build(p, where, *words, stdin=b"", tag="made"):
    """The steps, as --format json has them."""
    status, out, err = p.call("image", "build", "--format", "json", *(("-t", tag) if tag else ()), *words, where,
                              stdin=stdin)
    assert status == 0, (status, err)
    return json.loads(out)


def refused(p, why, where, *words, stdin=b""):
    status, out, err = p.call("image", "build", "-t", "made", *words, where, stdin=stdin)
    assert status in (1, 3) and why in err, (status, err)
    assert p.rows("-a") == [] and p.left() == [] and temporary(p) == []
    return err


def temporary(p):
    return os.listdir(p.top + "/data/trapeze/images/tmp")


def cached(answer):
    """A letter a step: c cached, . done."""
    return "".join("c" if s["cached"] else "." for s in answer["steps"])


def saved(p, name="made"):
    """Configuration and layers (tarfiles), as docker load would see them."""
    data = subprocess.run([TRAPEZE, "image", "save", name], stdout=subprocess.PIPE, env=p.env, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as t:
        manifest = json.load(t.extractfile("manifest.json"))[0]
        config = json.load(t.extractfile(manifest["Config"]))
        layers = [tarfile.open(fileobj=io.BytesIO(t.extractfile(n).read())) for n in manifest["Layers"]]
    assert len(layers) == len(config["rootfs"]["diff_ids"]) == \
        sum(not h.get("empty_layer") for h in config["history"]), config
    return config, layers


def shell(p, words, name="made"):
    return p.run("--network", "none", name, "sh", "-c", words)


def tar_of(*entries):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as t:
        for name, data, *more in entries:
            info = tarfile.TarInfo(name)
            info.type = more[0] if more else tarfile.REGTYPE
            if info.type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname, data = data, b""
            info.size, info.mode = len(data), 0o755 if info.type == tarfile.DIRTYPE else 0o640
            info.uid = 7
            t.addfile(info, io.BytesIO(data))
    return out.getvalue()


# --- instructions ---


def test_configuration(p):
    c = context(p, """# escape=`
FROM box
MAINTAINER somebody
ARG who=joe
ENV A=1 B="x $who" C='$who'
ENV OLD a "b" c
LABEL one=1 "two words"="$A"
EXPOSE 80 90-91/udp $A
VOLUME ["/a b"]
VOLUME /c /d
USER ${who}:${group:-extra}
WORKDIR /srv
WORKDIR $who
STOPSIGNAL SIGINT
SHELL ["/bin/sh", "-e", "-c"]
HEALTHCHECK --interval=1m30s --timeout=500ms --retries=4 CMD test `
   -e /x
ENTRYPOINT ["cat", "-n"]
CMD one $two
ONBUILD RUN echo later
""")
    answer = build(p, c, "-t", "second:2")
    config, layers = saved(p)
    c = config["config"]
    assert config["author"] == "somebody" and config["os"] == "linux" and config["architecture"] == "amd64"
    assert c["Env"] == ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "A=1", "B=x joe", "C=$who",
                        "OLD=a b c"], c["Env"]
    assert c["Labels"] == {"one": "1", "two words": "1"}
    assert sorted(c["ExposedPorts"]) == ["1/tcp", "80/tcp", "90/udp", "91/udp"]
    assert sorted(c["Volumes"]) == ["/a b", "/c", "/d"]
    assert c["User"] == "joe:extra" and c["WorkingDir"] == "/srv/joe" and c["StopSignal"] == "SIGINT"
    assert c["Healthcheck"] == {"Test": ["CMD-SHELL", "test    -e /x"], "Interval": 90 * 10**9, "Timeout": 5 * 10**8,
                                "Retries": 4}, c["Healthcheck"]
    assert c["Entrypoint"] == ["cat", "-n"] and c["Cmd"] == ["/bin/sh", "-e", "-c", "one $two"]
    assert c["OnBuild"] == ["RUN echo later"]
    assert len(answer["steps"]) == 18 and answer["names"] == ["made", "second:2"], answer
    assert {r["name"] for r in json.loads(p.good("image", "list", "--format", "json"))} >= \
        {"docker.io/library/made:latest", "docker.io/library/second:2"}


def test_entrypoint_forgets_command(p):
    """But not one that stands in the same stage."""
    build(p, context(p, 'FROM box\nCMD ["a"]\n'))
    build(p, context(p, 'FROM made\nENTRYPOINT ["b"]\n'), tag="two")
    assert "Cmd" not in saved(p, "two")[0]["config"]
    build(p, context(p, 'FROM made\nCMD ["c"]\nENTRYPOINT ["b"]\n'), tag="three")
    assert saved(p, "three")[0]["config"]["Cmd"] == ["c"]


def test_run(p):
    c = context(p, """FROM box
ARG WHO=you
ENV E=1
ARG E=2
RUN echo "$WHO $E" > /shell && \\
    # between
    cat /etc/passwd | head -n1 >> /shell
RUN ["/bin/sh", "-c", "echo exec $0 > /exec", "$WHO"]
WORKDIR /here
USER joe
RUN id -un > /tmp/user; pwd > /tmp/where; echo $HOME >> /tmp/where
USER root
RUN <<EOF
echo first > /script
echo $WHO second >> /script
EOF
RUN <<X
#!/bin/awk -f
BEGIN { print "awk" > "/program" }
X
RUN cat <<A - > /both <<B
not this
A
this $E
B
RUN ls /dev/trapeze-run 2>&1 | grep -c "No such" > /none
RUN --network=none ls /sys/class/net > /net
""")
    build(p, c, "--build-arg", "WHO=me")
    out = shell(p, "cat /shell /exec /tmp/user /tmp/where /script /program /both /none /net")
    assert out == "me 1\nroot:x:0:0:root:/root:/bin/sh\nexec $WHO\njoe\n/here\n/srv/joe\nfirst\nme second\nawk\n" \
                  "this 1\n1\nlo\n", out


def test_run_fails(p):
    c = context(p, "FROM box\nRUN true\n\nRUN echo seen; echo too >&2; exit 7\n")
    err = refused(p, "Dockerfile:4: RUN: its command ended with status 7", c)
    assert "seen\n" in err and "too\n" in err, err
    assert "seen" not in refused(p, "Dockerfile:4: RUN", c, "-q")
    refused(p, "Dockerfile:2: RUN: ", context(p, 'FROM box\nRUN ["/nothing"]\n'))
    refused(p, "Dockerfile:3: RUN: user", context(p, "FROM box\nUSER nobody\nRUN true\n"))


def test_mount_points_are_no_files(p):
    """Of an image without them the layers have none of what the container needed."""
    c = context(p, 'FROM scratch\nCOPY busybox /bin/\nRUN ["/bin/busybox", "touch", "/x"]\n', busybox=read(run.BUSYBOX))
    os.chmod(c + "/busybox", 0o755)
    build(p, c)
    layers = [sorted(t.getnames()) for t in saved(p)[1]]
    assert layers == [["bin", "bin/busybox"], ["x"]], layers


def test_copy(p):
    c = context(p, """FROM box
WORKDIR /w
COPY a.txt one
COPY a.txt b.txt many/
COPY *.txt pattern/
COPY sub .
COPY sub/ /sub/
COPY ["a.txt", "/with space"]
COPY a.txt /etc
COPY --chown=joe --chmod=700 sub /owned
COPY --chown=12 a.txt /twelve
COPY --chown=joe:extra a.txt /extra
COPY su[a-c]/x/?eep /deep/
COPY link /followed
COPY <<EOF <<'LITERAL' /texts/
A is $A
EOF
$A
LITERAL
ENV A=1
COPY <<name /w/named
A is $A
name
COPY sub /w/todir
""", a_txt="a", b_txt="b", sub__x__deep="deep", sub__y="y")
    os.symlink("a.txt", c + "/link")
    os.symlink("y", c + "/sub/rel")
    os.chmod(c + "/sub/y", 0o4711)
    os.utime(c + "/a.txt", (1, 1))
    build(p, c)
    out = shell(p, "cat one; echo; cd many; echo *; cd ../pattern; echo *; cd ..; echo *; cd /sub; find . | sort; "
                   "cat '/with space' /etc/a.txt /followed /deep/deep; echo; cat /texts/EOF /texts/LITERAL /w/named")
    assert out.split("\n") == ["a", "a.txt b.txt", "a.txt b.txt", "many named one pattern rel todir x y", ".", "./rel",
                               "./x", "./x/deep", "./y", "aaadeep", "A is ", "$A", "A is 1", ""], out
    out = shell(p, "stat -c '%n %a %u %g %F' /owned /owned/y /owned/rel /twelve /extra /sub/y /sub/rel; stat -c %Y /w/one")
    assert out.split("\n") == ["/owned 700 1000 1001 directory", "/owned/y 700 1000 1001 regular file",
                               "/owned/rel 777 1000 1001 symbolic link", "/twelve 644 12 12 regular file",
                               "/extra 644 1000 77 regular file", "/sub/y 4711 0 0 regular file",
                               "/sub/rel 777 0 0 symbolic link", "1", ""], out


def test_copy_into_what_is_there(p):
    """Links to directories are filled, in the root; files are replaced; kinds do not change."""
    build(p, context(p, "FROM box\nRUN ln -s /real /tolink && mkdir -p /real /dir && ln -s /etc/passwd /file\n"), tag="first")
    build(p, context(p, "FROM first\nCOPY d /\nCOPY f /file\n", d__tolink__x="x", f="f"))
    out = shell(p, "cat /real/x /file; head -c 4 /etc/passwd; readlink /tolink")
    assert out == "xfroot/real\n", out
    refused(p, "is a directory, and would become a file", context(p, "FROM first\nCOPY d /\n", d__dir="a file"))
    refused(p, "would become a directory", context(p, "FROM first\nCOPY d /\n", d__etc__passwd__x="below a file"))
    refused(p, "is no directory", context(p, "FROM first\nCOPY d /etc/passwd/\n", d="x"))


def evil_add(p, *entries):
    c = context(p, "FROM box\nADD x.tar /to/\n")
    write(c + "/x.tar", tar_of(*entries))
    return c


def test_add(p):
    plain = tar_of(("t", b"", tarfile.DIRTYPE), ("t/f", b"in it\n"), ("t/abs", "/etc/passwd", tarfile.SYMTYPE))
    packed = (("a.tar", plain), ("b.tgz", gzip.compress(plain)), ("c.txz", lzma.compress(plain)),
              ("d.tbz", bz2.compress(plain)))
    c = context(p, "FROM box\n" + "".join(f"ADD {n} /{n[0]}\n" for n, _ in packed) +
                "COPY a.tar /kept\nADD gz /gz\nADD text /text\nADD text sub /many/\n", text="text", sub__x="x")
    for name, data in packed:
        write(f"{c}/{name}", data)
    write(c + "/gz", gzip.compress(b"only packed"))
    build(p, c)
    out = shell(p, "cat /[abcd]/t/f; stat -c %u /a/t/f; tar t < /kept | wc -l; zcat < /gz; cat /text /many/text /many/x")
    assert out == "in it\n" * 4 + "7\n3\nonly packedtexttextx", out
    refused(p, "leads out of its root", evil_add(p, ("../../x", b"")))
    build(p, evil_add(p, ("l", "/", tarfile.SYMTYPE), ("l/escaped", b"x")))
    assert not os.path.exists("/escaped") and shell(p, "ls /to") == "escaped\nl\n"
    refused(p, "addresses are not implemented", context(p, "FROM box\nADD http://localhost/x /\n"))


def test_onbuild(p):
    build(p, context(p, "FROM box\nONBUILD COPY f /got\nONBUILD RUN cat /got > /ran\n"), tag="base")
    answer = build(p, context(p, "FROM base\nRUN echo own >> /ran\n", f="file\n"))
    assert shell(p, "cat /ran") == "file\nown\n"
    assert "OnBuild" not in saved(p)[0]["config"]
    assert [s["step"] for s in answer["steps"]] == [1, 1, 1, 2], answer
    for word in ("ONBUILD RUN x", "FROM x", "MAINTAINER x"):
        refused(p, "Dockerfile:2: ONBUILD", context(p, f"FROM box\nONBUILD {word}\n"))


def test_stages(p):
    """Only what is needed is built; by name, number, or an image."""
    c = context(p, """ARG base=box
ARG given
FROM $base AS One
ARG given
RUN echo "one $given" > /one
FROM box AS broken
RUN exit 9
FROM one
RUN echo two >> /one
FROM scratch AS last
COPY --from=one /one /a/
COPY --from=2 /one /b
COPY --from=box /etc/passwd /etc/plain /c/
""")
    answer = build(p, c, "--build-arg", "given=x")
    names = {m.name: t.extractfile(m).read() for t in saved(p)[1] for m in t if m.isfile()}
    assert names.keys() == {"a/one", "b", "c/passwd", "c/plain"} and names["a/one"] == b"one x\n", names
    assert names["b"] == b"one x\ntwo\n"
    assert [s["stage"] for s in answer["steps"]] == ["One"] * 3 + ["2"] * 2 + ["last"] * 4
    assert cached(build(p, c, "--target", "ONE", "--build-arg", "given=x", tag="one")) == ".cc"
    assert shell(p, "cat /one", "one") == "one x\n"
    refused(p, "status 9", c, "--target", "broken")
    refused(p, "no such stage", c, "--target", "nothing")
    refused(p, "no such image", context(p, "FROM box AS a\nCOPY --from=later /x /\nFROM a\n"))


def test_owners_of_stages_are_kept(p):
    build(p, context(p, """FROM box AS a
RUN mkdir -m 700 /d && echo x > /d/f && chown 5:6 /d/f && chmod 4711 /d/f && mknod /d/p p && ln -s f /d/l
FROM scratch
COPY --from=a /d /d
"""))
    t = saved(p)[1][-1]
    f = t.getmember("d/f")
    assert (f.uid, f.gid, f.mode) == (5, 6, 0o4711) and t.getmember("d").mode == 0o700
    assert t.getmember("d/p").isfifo() and t.getmember("d/l").linkname == "f"


# --- layers ---


def test_layers_are_as_others_read_them(p):
    c = context(p, """FROM box
RUN mkdir -p /d/sub /gone && touch /d/old /d/sub/x /gone/x && echo same > /h1 && ln /h1 /h2
RUN rm -r /gone /d /etc/plain && mkdir /d && touch /d/new && chmod 700 /d
RUN true
""")
    build(p, c)
    config, layers = saved(p)
    assert len(layers) == 3 and config["history"][-1]["empty_layer"]
    first, second = ({m.name: m for m in t} for t in layers[1:])
    assert first["h1"].type == tarfile.REGTYPE and first["h2"].type == tarfile.LNKTYPE and first["h2"].linkname == "h1"
    assert list(first) == sorted(first), list(first)
    assert {".wh.gone", "d/.wh..wh..opq", "etc/.wh.plain"} <= set(second) and second["d"].mode == 0o700, list(second)
    assert "d/old" not in second and second["d/.wh..wh..opq"].size == 0
    other = run.Place()
    try:
        data = subprocess.run([TRAPEZE, "image", "save", "made"], stdout=subprocess.PIPE, env=p.env, check=True).stdout
        subprocess.run([TRAPEZE, "image", "load"], input=data, env=other.env, check=True, stdout=subprocess.DEVNULL)
        out = shell(other, "ls /d; ls -d /gone /etc/plain 2>/dev/null; test /h1 -ef /h2 && echo one")
        assert out == "new\none\n", out
    finally:
        other.close()


# --- the cache ---


def test_cache(p):
    c = context(p, "FROM box\nARG A=1\nRUN cat /proc/sys/kernel/random/uuid > /first\nCOPY d /d\nRUN echo $A; cat /proc/sys/kernel/random/uuid > /second\nLABEL x=$A\n",
                d__f="1", d__g="2")
    first = build(p, c)
    assert cached(first) == "......"
    again = build(p, c)
    assert cached(again) == ".ccccc" and again["id"] == first["id"]
    os.utime(c + "/d/f", (5, 5))
    os.utime(c + "/d", (5, 5))
    assert build(p, c)["id"] == first["id"]
    os.chmod(c + "/d/f", 0o600)
    changed = build(p, c)
    assert cached(changed) == ".cc..." and changed["id"] != first["id"]
    write(c + "/d/f", "3")
    os.chmod(c + "/d/f", 0o644)
    assert cached(build(p, c)) == ".cc..."
    write(c + "/d/f", "1")
    assert build(p, c)["id"] == first["id"]
    os.rename(c + "/d/f", c + "/d/h")
    assert cached(build(p, c)) == ".cc..."
    os.rename(c + "/d/h", c + "/d/f")
    other = build(p, c, "--build-arg", "A=2")
    assert cached(other) == "......" and other["id"] != first["id"]
    assert cached(build(p, c, "--no-cache")) == "......"
    write(c + "/unrelated", "x")
    assert cached(build(p, c)) == ".ccccc"


def test_cache_sees_what_a_step_sees(p):
    """The same text after another ENV, USER, WORKDIR, or SHELL is another step; a label is nothing that a program sees."""
    lines = ("ENV A=1", "ENV A=2", "USER joe", "WORKDIR /tmp", 'SHELL ["/bin/sh", "-e", "-c"]', "LABEL a=1")
    text = "FROM box\n%s\nRUN cat /proc/sys/kernel/random/uuid > /tmp/x\n"
    ids = {build(p, context(p, text % line))["steps"][-1]["layer"] for line in lines}
    assert len(ids) == 6
    assert cached(build(p, context(p, text % "LABEL a=2"))) == "..c"


def test_cache_and_garbage(p):
    """rm leaves the cache; prune takes what no image has; what is left is whole."""
    c = context(p, "FROM box\nRUN cat /proc/sys/kernel/random/uuid > /a\nRUN cat /proc/sys/kernel/random/uuid > /b\n")
    first = build(p, c)
    p.good("image", "rm", "made")
    assert build(p, c)["id"] == first["id"]
    p.good("image", "verify")
    p.good("image", "prune")
    assert cached(build(p, c)) == ".cc"
    p.good("image", "rm", "made")
    p.good("image", "prune")
    store = p.top + "/data/trapeze/images"
    assert len(os.listdir(store + "/blobs/sha256")) == 3 and os.listdir(store + "/build") == []
    assert cached(build(p, c)) == "..."
    for name in os.listdir(store + "/build"):
        write(f"{store}/build/{name}", random.Random(SEED).randbytes(40))
    assert cached(build(p, c)) == "..."
    p.good("image", "verify")
    for name in os.listdir(store + "/build"):
        entry = {"created": "now", "layer": {"mediaType": "x", "size": 1, "digest": "sha256:../../x"}}
        write(f"{store}/build/{name}", json.dumps(entry))
    assert cached(build(p, c)) == "..."


def test_at_the_same_time(p):
    c = context(p, "FROM box\nRUN sleep 0.2; echo x > /a\nCOPY f /f\n", f="f")
    running = [p.start("image", "build", "-q", "-t", f"t{i}", c, stdout=subprocess.DEVNULL) for i in range(4)]
    running.append(p.start("image", "prune", stdout=subprocess.DEVNULL))
    assert [q.wait(60) for q in running] == [0] * 5
    p.good("image", "verify")
    for i in range(4):
        assert shell(p, "cat /a /f", f"t{i}") == "x\nf"


# --- where it comes from ---


def test_standard_input(p):
    build(p, "-", stdin=b"FROM box\nRUN echo x > /x\n")
    assert shell(p, "cat /x") == "x\n"
    archive = tar_of(("Dockerfile", b"FROM box\nCOPY . /c\n"), ("f", b"f"), ("other", b"FROM box\nCOPY f /other\n"),
                     (".dockerignore", b"Dockerfile\n"))
    build(p, "-", stdin=gzip.compress(archive))
    assert shell(p, "ls -A /c") == ".dockerignore\nf\nother\n"
    build(p, "-", "-f", "other", stdin=archive)
    assert shell(p, "cat /other") == "f"
    c = context(p, None, f="f")
    build(p, c, "-f", "-", stdin=b"FROM box\nCOPY f /g\n")
    assert shell(p, "cat /g") == "f"
    write(p.top + "/elsewhere", "FROM box\nCOPY f /h\n")
    build(p, c, "-f", p.top + "/elsewhere")
    assert shell(p, "cat /h") == "f"
    refused(p, "has no Dockerfile", c)
    refused(p, "is neither here nor in the context", c, "-f", "nothing")
    refused(p, "Not a directory", c + "/f")
    refused(p, "standard input is the context already", "-", "-f", "-")


def test_ignore(p):
    c = context(p, "FROM box\nCOPY . /c\n", a="", b_log="", keep_log="", d__x="", d__y__z="", e__f__keep="", e__f__g="")
    write(c + "/.dockerignore", "# c\n*.log\n!keep.log\n/d/y\n**/f\n!e/f/keep\nDockerfile\n")
    build(p, c)
    out = shell(p, "cd /c; find . | sort").split()
    assert out == [".", "./.dockerignore", "./a", "./d", "./d/x", "./e", "./e/f", "./e/f/keep", "./keep.log"], out
    for source in ("b.log", "d/y/z", "[b].log"):
        write(c + "/Dockerfile", f"FROM box\nCOPY {source} /x/\n")
        refused(p, "Dockerfile:2: COPY: ", c)
    os.symlink("b.log", c + "/harmless")
    write(c + "/Dockerfile", "FROM box\nCOPY harmless /x\n")
    refused(p, "left out by .dockerignore", c)
    write(c + "/.dockerignore", "a[\n")
    refused(p, ".dockerignore:1: pattern", c)


def test_hostile_contexts(p):
    """Links lead nowhere but into the context."""
    secret = p.top + "/secret"
    write(secret, "the host's")
    for target in (secret, "../secret", "/proc/self/root" + secret, "../../../../../../../.." + secret):
        c = context(p, "FROM box\nCOPY evil /x\n")
        os.symlink(target, c + "/evil")
        refused(p, "is not there", c)
        for source, why in (("evil/secret", "is not there"), ("evil/s*", "no file fits")):
            c = context(p, f"FROM box\nCOPY {source} /x/\n")
            os.symlink(os.path.dirname(target), c + "/evil")
            refused(p, why, c)
        c = context(p)
        os.symlink(target, c + "/Dockerfile")
        assert "host's" not in refused(p, "", c)
    for source in ("../secret", "a/../../secret", "/../secret"):
        refused(p, "leads out", context(p, f"FROM box\nCOPY {source} /x\n", a__b=""))
    # what stands in the context is copied as it is: a link, that then is the image's
    c = context(p, "FROM box\nCOPY d /d\n", d__f="")
    os.symlink(secret, c + "/d/l")
    build(p, c)
    assert shell(p, "readlink /d/l; cat /d/l 2>&1 | grep -c 'No such'") == secret + "\n1\n"


def test_hostile_images(p):
    """Links of the image lead nowhere but into its root."""
    build(p, context(p, f"FROM box\nRUN ln -s {p.top} /out && ln -s ../../../../../../../..{p.top} /out2 && "
                        "ln -s /proc/1/root /out3\n"), tag="links")
    for name in ("out", "out2", "out3"):
        build(p, context(p, f"FROM links\nRUN mkdir -p {p.top} /proc/1/root 2>/dev/null; true\nCOPY f /{name}/written\n"
                            f"WORKDIR /{name}/dir\n", f="x"))
        assert sorted(n for n in os.listdir(p.top) if not n.startswith("context")) == ["data", "state"]
        assert not os.path.exists("/written") and not os.path.exists("/dir")
    assert p.run("-w", "/", "--network", "none", "made", "sh", "-c", "ls -d /dir /written 2>/dev/null; true") == ""


def test_odd_files(p):
    c = context(p, "FROM box\nCOPY . /x\n")
    os.mkfifo(c + "/pipe")
    refused(p, "is a device or a pipe", c)
    os.unlink(c + "/pipe")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(c + "/socket")
        build(p, c)
    assert shell(p, "ls /x") == "Dockerfile\n"
    os.mkfifo(c + "/pipe")
    write(c + "/Dockerfile", "FROM box\nCOPY pipe /x\n")
    refused(p, "neither a file nor a directory", c)
    os.unlink(c + "/Dockerfile")
    os.rename(c + "/pipe", c + "/Dockerfile")
    refused(p, "Dockerfile of the context", c)


def test_hostile_archives(p):
    refused(p, "leads out", "-", stdin=tar_of(("Dockerfile", b"FROM box\n"), ("../x", b"")))
    refused(p, "has no Dockerfile", "-", stdin=tar_of(("Dockerfile", "/etc/passwd", tarfile.SYMTYPE)))
    before = read("/etc/passwd")
    build(p, "-", stdin=tar_of(("Dockerfile", b"FROM box\nCOPY . /c\n"), ("d", "/", tarfile.SYMTYPE),
                               ("d/etc/passwd", b"x")))
    assert read("/etc/passwd") == before and shell(p, "cat /c/etc/passwd") == "x"


def test_store_in_the_context(p):
    """What is being copied is not copied again."""
    write(p.top + "/Dockerfile", "FROM box\nCOPY . /x\n")
    build(p, p.top)
    assert shell(p, "ls -d /x/data/trapeze/images/tmp; ls /x/data/trapeze/images/tmp | wc -l").split()[1:] == ["0"]


def test_empty_stage(p):
    """Nothing can be copied from it: not the store's files either."""
    refused(p, "no file fits", context(p, "FROM scratch AS none\nENV A=1\nFROM box\nCOPY --from=none * /x/\n"))


def test_deep_context(p):
    c = context(p, "FROM box\nCOPY . /x\n")
    at = os.open(c, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    refused(p, "nested more than", c)
    subprocess.run(["rm", "-rf", c], check=True)


def test_changes_while_it_is_read(p):
    """A link swapped for a directory all the time: nothing of the host comes in."""
    write(p.top + "/outside/f", "the host's")
    c = context(p, "FROM box\nCOPY d /d\nRUN ! grep -r host /d\n", d__x__f="mine")
    script = f"while :; do mv {c}/d/x {c}/y; ln -s {p.top}/outside {c}/d/x; rm {c}/d/x; mv {c}/y {c}/d/x; done"
    q = subprocess.Popen(["sh", "-c", script], stderr=subprocess.DEVNULL)
    try:
        for _ in range(10):
            status, out, err = p.call("image", "build", "--no-cache", "--network", "none", c)
            assert status == 0 or "COPY" in err, err
    finally:
        q.kill()
        q.wait()


def test_what_is_wrong(p):
    for text, why in (("RUN true\n", "Dockerfile:1: RUN: stands before the first FROM"),
                      ("# nothing\n", "has no FROM"), ("FROM nowhere\n", "Dockerfile:1: image nowhere: no such image"),
                      ("FROM box\nFLY\n", "Dockerfile:2: unknown instruction"),
                      ("FROM box as a as b\n", "Dockerfile:1: FROM"), ('FROM "$NONE"\n', "empty after replacing"),
                      ("FROM box AS a\nFROM box AS A\n", "Dockerfile:2: FROM .. AS A: there is a stage"),
                      ("FROM --platform=linux/arm64 box\n", "this is linux/amd64"),
                      ("FROM box\nRUN --mount=type=cache,target=/x true\n", "not implemented"),
                      ("FROM box\nCOPY a\n", "needs a source and a target"),
                      ("FROM box\nCOPY a b\n", "Dockerfile:2: COPY: \"a\": is not there"),
                      ("FROM box\nCOPY f f2 /x\n", "ends in /"), ("FROM box\nCOPY x* /x\n", "no file fits"),
                      ("FROM box\nCOPY --parents f /x\n", "--parents"), ("FROM box\nCOPY --chmod=u+x f /x\n", "octal"),
                      ("FROM box\nCOPY --chown=nobody f /x\n", "passwd"), ("FROM box\nEXPOSE x\n", "EXPOSE"),
                      ("FROM box\nEXPOSE 70000\n", "EXPOSE"), ("FROM box\nSTOPSIGNAL NOSIG\n", "no signal"),
                      ("FROM box\nSHELL /bin/sh\n", "SHELL"), ("FROM box\nENV a\n", "ENV"), ("FROM box\nENV =x\n", "ENV"),
                      ("FROM box\nLABEL a=1 b\n", "LABEL"), ("FROM box\nARG a$\n", "ARG"),
                      ("FROM box\nENV a=${b:?must}\n", "Dockerfile:2: b: must"), ("FROM box\nENV a='x\n", "not closed"),
                      ("FROM box\nHEALTHCHECK --interval=x CMD true\n", "--interval"),
                      ("FROM box\nHEALTHCHECK true\n", "HEALTHCHECK"), ("FROM box\nWORKDIR /etc/passwd\n", "directory")):
        refused(p, why, context(p, text, f="", f2=""))
    refused(p, "bytes", context(p, "FROM box\nENV a=xxxxxxxxxxxxxxxx\n" + "ENV a=$a$a$a$a$a$a$a$a\n" * 10))
    refused(p, "--build-arg", context(p, "FROM box\n"), "--build-arg", "=x")
    refused(p, "is for images of machines", context(p, "FROM box\n"), "--mirror", "x")
    refused(p, "image name", context(p, "FROM box\n"), "-t", "BAD NAME")
    status, out, err = p.call("image", "build", "--build-arg", "NOBODY=1", context(p, "FROM box\n"))
    assert status == 0 and "NOBODY: no ARG" in err
    assert p.call("image", "build")[0] == 1


def test_answers(p):
    c = context(p, "FROM box\nRUN echo out\n")
    status, out, err = p.call("image", "build", c)
    assert status == 0 and out.startswith("sha256:") and out.count("\n") == 1
    assert "STEP 2/2: RUN echo out\n" in err and "\nout\n" in err, err
    status, out, err = p.call("image", "build", c)
    assert "STEP 2/2: RUN echo out\n  cached\n" in err, err
    assert p.call("image", "build", "-q", c) == (0, out, "")
    # without a name it is there until prune
    assert p.run("--network", "none", out.strip(), "echo", "by id") == "by id\n"


# --- containers ---


def test_commit(p):
    p.good("run", "-d", "--name", "a", "box", "sh", "-c", "echo mine > /tmp/x; rm /etc/plain; mkdir /new; touch /ready; sleep 1000")
    until(lambda: p.call("exec", "a", "ls", "/ready")[0] == 0)
    done = json.loads(p.good("commit", "-a", "me", "-m", "why", "-c", 'CMD ["cat", "/tmp/x"]', "-c", "ENV A=1\nLABEL l=2",
                             "-c", "WORKDIR /new", "--format", "json", "a", "made"))
    assert p.state("a") == "running" and done["name"] == "made"
    config, layers = saved(p)
    assert sorted(layers[-1].getnames()) == ["etc", "etc/.wh.plain", "new", "ready", "tmp", "tmp/x"], layers[-1].getnames()
    assert config["author"] == "me" and config["history"][-1]["comment"] == "why", config
    assert config["config"]["WorkingDir"] == "/new" and config["config"]["Labels"] == {"l": "2"}
    assert p.run("--network", "none", "made") == "mine\n"
    assert p.run("--network", "none", "made", "sh", "-c", "echo $A; pwd; ls /etc/plain 2>/dev/null || true") == "1\n/new\n"
    p.good("stop", "-t", "0", "a")
    p.good("commit", "a", "again")
    assert sorted(saved(p, "again")[1][-1].getnames()) == sorted(layers[-1].getnames())
    for why, words in (("does not change a configuration", ("-c", "RUN true", "a")), ("unknown instruction", ("-c", "x y", "a")),
                       ("image name", ("a", "BAD")), ("no such machine", ("nobody",)), ("ARG", ("-c", "ARG x", "a"))):
        p.refused(1, why, "commit", *words)
    p.good("image", "rm", "box", "made", "again")
    p.refused(1, "is not here any more", "commit", "a")


def test_export_and_import(p):
    """Running and ended: the same files, and none of what is mounted; import makes an image of them."""
    p.good("run", "-d", "--name", "a", "-v", f"{p.top}:/volume", "box", "sh", "-c",
           "echo mine > /mine; rm /etc/plain; rm -r /root; mkdir /root; touch /ready; sleep 1000")
    until(lambda: p.call("exec", "a", "ls", "/ready")[0] == 0)
    names = []
    for file in (p.top + "/one.tar", p.top + "/two.tar"):
        p.good("export", "-o", file, "a")
        with tarfile.open(file) as t:
            names.append(t.getnames())
            assert t.extractfile("mine").read() == b"mine\n" and t.getmember("bin/busybox").size
        p.call("stop", "-t", "0", "a")
    assert names[0] == names[1] and "etc/plain" not in names[0] and "etc/passwd" in names[0]
    assert not [n for n in names[0] if n.startswith(("proc/", "sys/", "dev/", "volume/"))], names[0]
    out = subprocess.run([TRAPEZE, "export", "a"], stdout=subprocess.PIPE, env=p.env, check=True).stdout
    p.good("image", "import", p.top + "/two.tar", "back")
    assert shell(p, "cat /mine", "back") == "mine\n" and len(out) == os.stat(p.top + "/two.tar").st_size
    p.refused(1, "no such machine", "export", "nobody")
    assert p.state("a") == "exited"


# --- the end ---


def test_interrupted(p):
    c = context(p, "FROM box\nRUN echo ready; sleep 1000\n")
    for number in (signal.SIGINT, signal.SIGTERM):
        q = p.start("image", "build", c, stderr=subprocess.PIPE)
        while q.stderr.readline() != b"ready\n":
            pass
        q.send_signal(number)
        err = q.stderr.read()
        assert q.wait(60) == 128 + number and b"interrupted" in err, err
        assert p.rows("-a") == [] and p.left() == [] and temporary(p) == []


def test_builder_is_killed_in_run(p):
    c = context(p, "FROM box\nRUN echo ready; sleep 1000\n")
    q = p.start("image", "build", c, stderr=subprocess.PIPE)
    while q.stderr.readline() != b"ready\n":
        pass
    assert len(p.rows()) == 1
    q.kill()
    q.wait()
    until(lambda: p.rows("-a") == [] and p.left() == [])
    p.good("image", "prune")
    assert temporary(p) == []


def test_killed(p):
    """At random points: no container or mount stays, the store is whole, and the next build goes through."""
    rng = random.Random(SEED)
    c = context(p, "FROM box AS a\nRUN head -c 3000000 /dev/zero > /zero; echo x > /x\nCOPY d /d\nWORKDIR /w\n"
                   "RUN rm -r /d\nFROM box\nCOPY --from=a /zero /x /\n", **{f"d__f{i}": "x" * 1000 for i in range(50)})
    start = time.monotonic()
    build(p, c, "--network", "none", "--no-cache")
    span = time.monotonic() - start
    for i in range(KILLS):
        q = p.start("image", "build", "-t", "other", "--network", "none", *(("--no-cache",) if i % 2 else ()), c,
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.random() * span)
        q.kill()
        q.wait()
        if i % 3 == 0:
            p.good("image", "prune")
            assert temporary(p) == []
        p.good("image", "verify")
        assert shell(p, "cat /x") == "x\n", (SEED, i)
    until(lambda: p.rows("-a") == [] and p.left() == [])
    build(p, c, "--network", "none", tag="other")
    assert shell(p, "cat /x; wc -c < /zero", "other") == "x\n3000000\n"
    with open("/proc/self/mountinfo") as f:
        assert p.top not in f.read()


if __name__ == "__main__":
    sys.exit(run.run_tests(globals()))
