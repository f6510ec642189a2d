"""Pull and push against a registry on loopback that is made here, good and hostile. No other network.

TRAPEZE names the program, KILLS how often it is killed while it pulls. Needs root, as store.py.
"""
import base64
import gzip
import hashlib
import http.server
import json
import os
import random
import subprocess
import sys
import threading
import time

from store import KILLS, PATIENCE, SEED, TRAPEZE, digest, main, member, tar_of

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
PASSWORD = base64.b64encode(b"me:secret").decode()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        for k, v in headers:
            self.send_header(k, v)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def allowed(self):
        r = self.server.r
        r.seen.append((self.command, self.path, dict(self.headers)))
        said = self.headers.get("Authorization", "")
        if not r.auth or (r.auth == "bearer" and said == "Bearer " + r.token) or \
                (r.auth == "basic" and said == "Basic " + PASSWORD):
            return True
        length = int(self.headers.get("Content-Length", 0))
        self.rfile.read(length)
        challenge = f'Bearer realm="http://{r.host}/token",service="here"' if r.auth == "bearer" else 'Basic realm="x"'
        self.answer(401, b'{"errors":[{"code":"UNAUTHORIZED","message":"who?"}]}', [("WWW-Authenticate", challenge)])
        return False

    def do_GET(self):
        r = self.server.r
        if self.path.startswith("/token"):
            r.seen.append((self.command, self.path, dict(self.headers)))
            if r.private and self.headers.get("Authorization") != "Basic " + PASSWORD:
                return self.answer(401)
            return self.answer(200, json.dumps({"token": r.token}).encode())
        if not self.allowed():
            return None
        if self.path == "/v2/":
            return self.answer(200, b"{}")
        what, _, name = self.path.rpartition("/")
        if what.endswith("/manifests"):
            text = r.manifests.get(name)
            return self.answer(200, text[1], [("Content-Type", text[0])]) if text else \
                self.answer(404, b'{"errors":[{"message":"manifest unknown"}]}')
        if what.endswith("/blobs"):
            return self.blob(name)
        return self.answer(404)

    do_HEAD = do_GET

    def blob(self, name):
        r = self.server.r
        if name not in r.blobs:
            return self.answer(404)
        if r.failures:
            r.failures -= 1
            return self.answer(503)
        if r.elsewhere:
            return self.answer(307, headers=[("Location", f"http://{r.elsewhere}{self.path}")])
        data, begin = r.blobs[name], 0
        asked = self.headers.get("Range")
        if asked and r.ranges:
            begin = int(asked[len("bytes="):].rstrip("-"))
            if begin >= len(data):
                return self.answer(416)
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        if self.command == "HEAD":
            return None
        part = data[begin:]
        if r.cuts and len(part) > 1000:
            r.cuts -= 1
            part = part[:len(part) // 2]
            self.close_connection = True
        for i in range(0, len(part), 65536):
            self.wfile.write(part[i:i + 65536])
            if r.slow:
                time.sleep(r.slow)
        return None

    def do_POST(self):
        if self.allowed():
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.answer(202, headers=[("Location", "/v2/x/blobs/uploads/1?state=a")])

    def do_PUT(self):
        r = self.server.r
        if not self.allowed():
            return
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "/manifests/" in self.path:
            r.put_manifest(self.path.rpartition("/")[2], data, self.headers["Content-Type"])
            self.answer(201)
        elif self.path.endswith("digest=" + digest(data)):
            r.blobs[digest(data)] = data
            self.answer(201)
        else:
            self.answer(400, b'{"errors":[{"message":"digest \x1b[31m"}]}')


class Registry:
    def __init__(self, **more):
        self.blobs, self.manifests, self.seen = {}, {}, []
        self.auth = self.private = self.elsewhere = None
        self.token, self.ranges, self.cuts, self.failures, self.slow = "t0ken", True, 0, 0, 0
        self.__dict__.update(more)
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # connections that we cut, and that are cut by who is killed
        self.server.r = self
        self.host = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def put_manifest(self, name, data, type=MANIFEST):
        self.manifests[name] = self.manifests[digest(data)] = (type, data)
        return {"mediaType": type, "digest": digest(data), "size": len(data)}

    def put_image(self, name, *layers, **change):
        """Of plain tars; the descriptor of its manifest."""
        config = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/x"]},
                             "rootfs": {"type": "layers", "diff_ids": [digest(x) for x in layers]}}).encode()
        packed = [gzip.compress(x, mtime=0) for x in layers]
        for b in [config, *packed]:
            self.blobs[digest(b)] = b
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST,
                    "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(config),
                               "size": len(config)},
                    "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(x),
                                "size": len(x)} for x in packed]}
        manifest.update(change)
        return self.put_manifest(name, json.dumps(manifest).encode())

    def asked(self, part):
        return [s for s in self.seen if part in s[1]]


def big(seed, size=400000):
    return tar_of(member(f"f{seed}", data=random.Random(seed).randbytes(size)))


def whole(s, name, n):
    s.ok("verify")
    assert s.names() == [name], s.names()
    assert len(s.files("layers/d")) == n and s.files("tmp") == [], (s.files("layers/d"), s.files("tmp"))


def test_pull(s):
    with Registry() as r:
        r.put_image("1", big(1), big(2), big(3))
        assert s.ok("pull", r.host + "/a/b:1").decode() == r.host + "/a/b:1\n"
        whole(s, r.host + "/a/b:1", 3)
        n = len(r.asked("/blobs/"))
        s.ok("pull", r.host + "/a/b:1")
        assert len(r.asked("/blobs/")) == n, "what is there was loaded again"


def test_index(s):
    """The manifest for this machine, through an index of indexes."""
    with Registry() as r:
        mine, other = r.put_image("x", big(1)), r.put_image("y", big(2))
        other["platform"], mine["platform"] = {"os": "linux", "architecture": "arm64"}, {"os": "linux", "architecture": "amd64"}
        inner = r.put_manifest("i", json.dumps({"manifests": [other, mine], "mediaType": INDEX}).encode(), INDEX)
        outer = r.put_manifest("1", json.dumps({"manifests": [inner], "mediaType": INDEX}).encode(), INDEX)
        s.ok("pull", r.host + "/b@" + outer["digest"])
        whole(s, r.host + "/b@" + outer["digest"], 1)
        assert not [p for _, p, _ in r.seen if digest(gzip.compress(big(2), mtime=0)) in p]


def test_token(s):
    with Registry(auth="bearer") as r:
        r.put_image("1", big(1))
        s.ok("pull", r.host + "/a:1")
        asked = r.asked("/token")
        assert "scope=repository%3Aa%3Apull" in asked[0][1] and "service=here" in asked[0][1], asked
        assert all("Authorization" not in h for _, _, h in asked)


def give_password(s, host):
    os.makedirs(s.top + "/docker")
    with open(s.top + "/docker/config.json", "w") as f:
        json.dump({"auths": {host: {"auth": PASSWORD}}}, f)
    s.env["DOCKER_CONFIG"] = s.top + "/docker"


def test_passwords(s):
    for auth in ("bearer", "basic"):
        with Registry(auth=auth, private=True) as r:
            r.put_image("1", big(1))
            s.refused("login", "pull", r.host + "/a:1")
            give_password(s, r.host)
            s.ok("pull", r.host + "/a:1")
        os.unlink(s.top + "/docker/config.json")
        os.rmdir(s.top + "/docker")


def test_tokens_stay_here(s):
    """Redirected to another host: neither token nor password goes there."""
    with Registry(auth="bearer", private=True) as r, Registry() as other:
        r.put_image("1", big(1))
        other.blobs = r.blobs
        r.elsewhere = f"localhost:{other.server.server_port}"
        give_password(s, r.host)
        s.ok("pull", r.host + "/a:1")
        assert other.asked("/blobs/") and all("Authorization" not in h for _, _, h in other.seen), other.seen


def test_bad_token(s):
    with Registry(auth="bearer", token="a\r\nX-Evil: 1") as r:
        r.put_image("1", big(1))
        s.refused("without a token", "pull", r.host + "/a:1")


def test_resumes(s):
    """A connection that breaks in the middle: it goes on, and what is kept is what a later pull begins with."""
    with Registry(cuts=3) as r:
        r.put_image("1", big(1))
        s.ok("pull", r.host + "/a:1")
        ranges = [h["Range"] for _, _, h in r.asked("/blobs/") if "Range" in h]
        assert len(ranges) == 3, ranges
        whole(s, r.host + "/a:1", 1)


def test_resumes_later(s):
    with Registry(slow=0.05) as r:
        r.put_image("1", big(1, 4000000))
        p = subprocess.Popen([TRAPEZE, "image", "pull", r.host + "/a:1"], env=s.env, stdout=subprocess.DEVNULL)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if any(n.endswith(".part") and os.path.getsize(os.path.join(s.path, "tmp", n)) > 500000
                   for n in (s.files("tmp") if os.path.isdir(s.path + "/tmp") else [])):
                break
            time.sleep(0.01)
        p.kill()
        p.wait()
        r.slow = 0
        s.ok("pull", r.host + "/a:1")
        begins = [int(h["Range"][6:-1]) for _, _, h in r.asked("/blobs/") if "Range" in h]
        assert begins and max(begins) > 500000, begins
        whole(s, r.host + "/a:1", 1)


def test_no_ranges(s):
    """A registry that always begins from the beginning."""
    with Registry(cuts=1, ranges=False) as r:
        r.put_image("1", big(1))
        s.ok("pull", r.host + "/a:1")
        whole(s, r.host + "/a:1", 1)


def test_failing_for_a_while(s):
    with Registry(failures=3) as r:
        r.put_image("1", big(1), big(2))
        s.ok("pull", r.host + "/a:1")
        whole(s, r.host + "/a:1", 2)


def test_lies(s):
    with Registry() as r:
        r.put_image("1", big(1))
        key = max(r.blobs, key=lambda k: len(r.blobs[k]))
        good = r.blobs[key]
        for bad, why in ((good[:-1] + b"x", "another digest"), (good + b"x", "larger than"), (good[:-5], "manifest says"),
                         (b"", "manifest says")):
            r.blobs[key] = bad
            s.refused(why, "pull", r.host + "/a:1")
            assert s.names() == []
            s.ok("prune")
        del r.blobs[key]
        s.refused("is not there", "pull", r.host + "/a:1")
        s.refused("manifest unknown", "pull", r.host + "/a:none")
        r.blobs[key] = good
        asked = r.put_image("z", big(3))
        r.manifests["other"] = r.manifests[asked["digest"]] = r.manifests["1"]
        s.refused("forged", "pull", r.host + "/a@" + asked["digest"])
        # a part of another blob, left from an earlier try
        s.ok("list")
        with open(os.path.join(s.path, "tmp", (key[:39] + ".part")), "wb") as f:
            f.write(b"not its beginning")
        s.ok("pull", r.host + "/a:1")
        whole(s, r.host + "/a:1", 1)


def test_hostile_documents(s):
    with Registry() as r:
        r.put_manifest("huge", b" " * (5 << 20))
        s.refused("more than", "pull", r.host + "/a:huge")
        r.put_manifest("none", b"[]")
        s.refused("no object", "pull", r.host + "/a:none")
        r.put_manifest("both", json.dumps({"schemaVersion": 2, "layers": [], "manifests": []}).encode())
        s.refused("neither", "pull", r.host + "/a:both")
        d = r.put_image("0", big(1))
        for i in range(6):
            d = r.put_manifest(str(i + 1), json.dumps({"manifests": [d], "mediaType": INDEX}).encode(), INDEX)
        s.refused("nested", "pull", r.host + "/a:6")
        r.put_image("path", big(1), layers=[{"mediaType": "application/vnd.oci.image.layer.v1.tar",
                                             "digest": "sha256:../../../../x", "size": 3}])
        s.refused("digest", "pull", r.host + "/a:path")
        assert s.names() == []


def test_only_https_elsewhere(s):
    """A host that is not this machine is not spoken to in the clear; nor is one that is redirected to."""
    s.refused("registry", "pull", "registry.invalid/a:1")
    with Registry() as r:
        r.put_image("1", big(1))
        r.elsewhere = "169.254.0.1:1\r\nx"
        s.refused("registry", "pull", r.host + "/a:1")


def test_push(s):
    for auth in (None, "bearer"):
        with Registry(auth=auth) as r:
            s.ok("import", "-", "mine", stdin=big(1))
            assert s.ok("push", "mine", r.host + "/x/y:2").decode() == r.host + "/x/y:2\n"
            puts = len([m for m, _, _ in r.seen if m == "PUT"])
            s.ok("push", "mine", r.host + "/x/y:2")
            assert len([m for m, _, _ in r.seen if m == "PUT"]) - puts == (1 if not auth else 1), "blobs were sent again"
            s.ok("rm", "mine")
            s.ok("pull", r.host + "/x/y:2")
            whole(s, r.host + "/x/y:2", 1)
            s.ok("rm", r.host + "/x/y:2")
            if auth:
                assert any("pull%2Cpush" in p for _, p, _ in r.asked("/token"))


def test_two_at_once(s):
    with Registry(slow=0.01) as r:
        r.put_image("1", big(1), big(2))
        both = [subprocess.Popen([TRAPEZE, "image", "pull", r.host + "/a:1"], env=s.env, stdout=subprocess.DEVNULL)
                for _ in range(3)]
        assert [p.wait(PATIENCE) for p in both] == [0, 0, 0]
        whole(s, r.host + "/a:1", 2)


def test_killed_in_pull(s):
    rng = random.Random(SEED)
    with Registry(slow=0.002) as r:
        r.put_image("1", big(1), big(2))
        name = r.host + "/a:1"
        start = time.monotonic()
        s.ok("pull", name)
        span = time.monotonic() - start
        for i in range(KILLS):
            s.call("rm", name)
            if i % 3 == 0:
                s.ok("prune")
            p = subprocess.Popen([TRAPEZE, "image", "pull", name], env=s.env, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
            time.sleep(rng.random() * span)
            p.kill()
            p.wait()
            s.ok("verify")
            assert s.names() in ([], [name]), (SEED, i)
        s.ok("pull", name)
        s.ok("prune")
        whole(s, name, 2)


if __name__ == "__main__":
    chosen = sys.argv[1:]
    sys.exit(main({n: f for n, f in globals().items() if n.startswith("test_") and (not chosen or n[5:] in chosen)}))
