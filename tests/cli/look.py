#!/usr/bin/env python3
"""stats and explain: for people and as JSON, on machines that run, stand still and have ended; and a keeper that lies."""
import json
import os
import re
import socket
import subprocess
import sys
import threading

from harness import LINUX, PATIENCE, Skip, run_tests

CLASSES = {"innocuous", "control", "privileged", "IOPL-sensitive", "sensitive", "unsupported"}


def spinning(place, engine="auto"):
    """A machine that computes for ever, once it does."""
    place.good(*place.guest("s", "-d", "--name", "web", "--engine", engine))
    place.until(lambda: place.good("logs", "web") == ">", "the guest's first output")


def stats(place, *words):
    return json.loads(place.good("stats", "--format", "json", *words, "web"))


def engines(place):
    """Those that this host can run."""
    names = json.loads(place.good("version", "--format", "json"))["engines"]
    return [n for n in names if place.run(*place.guest("p", "--rm", "--engine", n))[0] == 0]


def explaining(place):
    """Each engine that explains, with a machine that it runs."""
    for engine in engines(place):
        spinning(place, engine)
        yield engine
        place.good("rm", "-f", "web")


# --- stats ---

def engines_agree(place):
    """What doctor says that auto takes is what a machine gets, is one of version's, and can be asked for by name."""
    found = {c["name"]: c["found"] for c in json.loads(place.good("doctor", "--format", "json"))["checks"]}["engine"]
    place.good(*place.guest("i", "-d", "--name", "web"))
    engine = place.machines()[0]["engine"]
    assert found.startswith("--engine auto takes " + engine), found
    assert engine in json.loads(place.good("version", "--format", "json"))["engines"]
    assert stats(place)["engine"] == engine
    place.good("rm", "-f", "web")
    for size in ("256K", "4G"):
        assert place.good(*place.guest("p", "--rm", "--engine", engine, "--code-cache", size)) == ">"


def top_counts_all_processes(place):
    """Keeper and cell are one machine; its memory is counted once."""
    spinning(place)
    (row,) = json.loads(place.good("top", "--format", "json"))
    assert row["name"] == "web" and row["kind"] == "machine" and row["processes"] >= 2 and row["memory"] > 0, row
    (later,) = json.loads(place.good("top", "-i", "1", "-c", "1", "--format", "json"))
    assert later["percent"] > 0 and later["seconds"] >= row["seconds"], later
    assert "web" in place.good("top")
    place.good("rm", "-f", "web")


def stats_for_people(place):
    spinning(place)
    out = place.good("stats", "web")
    assert out.startswith("machine web: running, engine "), out
    assert "% ran without the monitor" in out and "\x1b" not in out, out
    (line,) = [l for l in out.splitlines() if l.endswith("  instructions executed")]
    assert re.fullmatch(r" +\d{1,3}(,\d{3})+ +100\.00 %  instructions executed", line), line
    assert max(map(len, out.splitlines())) <= 132, out
    place.good("pause", "web")
    assert "paused" in place.good("stats", "web").splitlines()[0]
    place.good("rm", "-f", "web")


def stats_as_json(place):
    spinning(place)
    s = stats(place)
    assert s["name"] == "web" and s["state"] == "running" and s["seconds"] > 0 and s["mips"] > 0, s
    assert 0 <= s["without_monitor"] <= 1, s
    assert s["counters"]["pio"] > 0 and s["counters"]["blocks_made"] > 0, s
    assert s["counters"].keys() == json.loads(place.good("inspect", "web"))["stats"].keys()
    place.until(lambda: stats(place)["counters"]["instructions"] > s["counters"]["instructions"], "the guest to go on")
    place.good("pause", "web")
    still = stats(place)["counters"]
    assert stats(place)["counters"] == still
    place.good("rm", "-f", "web")


def stats_by_interval(place):
    spinning(place)
    header, *lines = place.good("stats", "--interval", "1", "--count", "2", "web").splitlines()
    assert header.split()[0] == "MIPS" and len(lines) == 2, (header, lines)
    assert all(len(l.split()) == len(header.split()) and float(l.split()[0]) > 0 for l in lines), lines
    out = place.good("stats", "-i", "1", "-c", "1", "--format", "json", "web")
    (step,) = [json.loads(l) for l in out.splitlines()]
    assert 0 < step["counters"]["instructions"] < stats(place)["counters"]["instructions"], step
    p = place.start("stats", "-i", "1", "web", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert p.stdout.readline() and p.stdout.readline()
    place.good("kill", "web")
    _, err = p.communicate(timeout=PATIENCE)
    assert (p.returncode, err) == (0, b""), (p.returncode, err)
    place.good("rm", "web")


def stats_refused(place):
    place.refused("stats", "--count", "2", "web", names=["--count", "--interval"])
    place.refused("stats", "--interval", "0", "web", names=["--interval 0"])
    place.refused("stats", "nobody", names=["nobody", "no such machine"])
    place.refused("stats", names="NAME is missing")
    spinning(place)
    place.good("kill", "web")
    for words in ([], ["--interval", "1"]):
        place.refused("stats", *words, "web", names=["web", "does not run", "trapeze rm web"])
    place.good("rm", "web")


# --- explain ---

def check_block(x):
    """What holds for every answer."""
    assert re.fullmatch("0x[0-9a-f]+|0", x["address"]) and 0 <= x["cpl"] <= 3, x
    assert x["links"] <= x["exits"] and len(x["code"]) % 2 == 0, x
    for i in x["instructions"]:
        assert i["class"] in CLASSES and i["assembly"] and i["how"] and i["how_text"], i
        assert 1 <= len(bytes.fromhex(i["bytes"])) <= 15 and i["bits"] in (16, 32, 64), i
        assert (i["class"] in ("innocuous",)) == (i["reason"] == ""), i
    parts = [x["head"], x["tail"]] + [i["host"] for i in x["instructions"]]
    shown = b"".join(bytes.fromhex(l["bytes"]) for part in parts for l in part)
    assert sorted(shown) == sorted(bytes.fromhex(x["code"])), "host code was left out, or is there twice"


def explain(place, *words):
    x = json.loads(place.good("explain", "--format", "json", "web", *words))
    check_block(x)
    return x


def explain_the_loop(place):
    for engine in explaining(place):
        for what in ("pause", "resume"):
            place.good(what, "web")
            x = explain(place)
            last = x["instructions"][-1]
            assert x["name"] == "web" and x["engine"] == engine and x["cpl"] == 0 and last["bits"] == 32, x
            assert last["assembly"].startswith("jmp") and last["class"] == "control", x
            assert last["reason"] == "transfers control", x
            out = place.good("explain", "web")
            assert out.startswith(f"machine web, engine {engine}: ") and "jmp" in out and "\x1b" not in out, out
            assert len([l for l in out.splitlines() if l.startswith("=>")]) == 1, out


def explain_an_address(place):
    for _ in explaining(place):
        start = json.loads(place.good("inspect", "web"))["boot"]["entry"]
        place.good("pause", "web")
        first = explain(place, hex(start))
        assert first["instructions"][0]["assembly"].startswith("mov esp"), first
        assert first == explain(place, f"{start:x}") == explain(place, f"0X{start:08X}")
        assert "mov esp" in place.good("explain", "web", hex(start))
        out = next(i for i in first["instructions"] if i["assembly"].startswith("out"))
        assert out["class"] == "IOPL-sensitive" and out["reason"], out


def explain_refused(place):
    place.refused("explain", "nobody", names=["nobody", "no such machine"])
    place.refused("explain", names="NAME is missing")
    spinning(place)
    for word in ("main", "0x", "0x12345678123456789", "1+1", ""):
        place.refused("explain", "web", word, names=["no address", "0xffffffff81000000"])
    place.good("kill", "web")
    for words in ([], ["0x100000"]):
        place.refused("explain", "web", *words, names=["web", "does not run", "trapeze rm web"])
    place.good("rm", "web")
    for _ in explaining(place):
        for word in ("0xfee00000", "0xffffffff81000000"):
            place.refused("explain", "web", word, names=["web", word, "no code mapped there"])


def both_in_linux(place):
    """A whole system, looked into again and again while it boots: user and kernel code."""
    if not LINUX:
        raise Skip("no default guest: TRAPEZE_GUEST is not set")
    initrd = os.path.join(os.path.dirname(LINUX), "initrd.cpio")
    engine = [e for e in explaining(place)][0]
    place.good("run", "-d", "--engine", engine, "--name", "web", "--kernel", LINUX, "--initrd", initrd, "--append", "console=ttyS0 nokaslr",
               "--memory", "256M")
    blocks = 0

    def up():
        nonlocal blocks
        blocks += len(explain(place)["instructions"]) > 0
        return "Linux version" in place.good("logs", "web") and blocks >= 50

    place.until(up, "50 blocks of a kernel that starts")
    s = stats(place)
    assert s["without_monitor"] > 0.9 and s["counters"]["tlb_fills"] > 0, s
    place.good("stats", "web")
    place.good("explain", "web")
    place.good("rm", "-f", "web")


# --- a keeper of another kind ---

BLOCK = [  # rip, bytes, how, host code
    (0xffffffff81a0b3c4, "4889e5", "copied", "4989ec"),
    (0xffffffff81a0b3c7, "488b4708", "memory", "488d47084b394c1d000f8510010000488b00"),
    (0xffffffff81a0b3cb, "9d", "monitor", "e800000000"),
    (0xffffffff81a0b3cc, "90", "nothing", ""),
    (0xffffffff81a0b3cd, "7410", "jump", "7405e900010000"),
]


def answer():
    """As a keeper's, with host code."""
    x = {"ok": True, "engine": "bt", "address": "0xffffffff81a0b3c9", "start": "0xffffffff81a0b3c4",
         "code_address": "0x7f3312345000", "cpl": 0, "links": 1, "exits": 2, "code": "49832f070f88f0000000",
         "instructions": []}
    for rip, code, how, host in BLOCK:
        x["instructions"].append({"rip": hex(rip), "bits": 64, "bytes": code, "how": how,
                                  "code_offset": len(x["code"]) // 2, "code_length": len(host) // 2})
        x["code"] += host
    x["code"] += "e811223344ff"
    return x


class Impostor:
    """Stands at the control socket of machine "web" and answers everything with what it is given."""

    def __init__(self, place):
        self.path = os.path.join(place.path, "trapeze", "machines", place.files()[0], "control")
        os.rename(self.path, self.path + ".real")
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(self.path)
        self.socket.listen()
        self.thread = threading.Thread(target=self.serve)
        self.answer = b""

    def serve(self):
        while self.answer is not None:
            peer, _ = self.socket.accept()
            with peer:
                peer.settimeout(PATIENCE)
                peer.recv(65536)
                if self.answer is not None:
                    peer.sendall(self.answer + b"\n")

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.answer = None
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(self.path)
        self.thread.join()
        self.socket.close()
        os.rename(self.path + ".real", self.path)


def host_code_is_shown(place):
    spinning(place)
    with Impostor(place) as keeper:
        keeper.answer = json.dumps(answer()).encode()
        x = explain(place)
        out = place.good("explain", "web")
    place.good("rm", "-f", "web")
    assert [len(i["host"]) for i in x["instructions"]] == [1, 4, 1, 0, 2], x
    assert x["instructions"][2]["class"] == "IOPL-sensitive" and x["instructions"][3]["host"] == [], x
    assert [l["assembly"] for l in x["tail"]] == ["call 0x00007F3356677241", "db 0xff"], x["tail"]
    lines = out.splitlines()
    (asked,) = [i for i, l in enumerate(lines) if l.startswith("=>")]
    assert "mov rax, qword ptr [rdi+0x08]" in lines[asked] and "software TLB" in lines[asked + 1], out
    assert "lea rax, [rdi+0x08]" in lines[asked + 2] and "7f331234500d" in lines[asked + 2], out
    assert "1 of 2 exits linked" in lines[1] and "head of the block" in lines[3], out
    assert max(map(len, lines)) <= 80, out


def lies_of_a_keeper(place):
    """None of them is shown, and none is fatal."""
    spinning(place)
    lies = [{"ok": True}, {**answer(), "cpl": 4}, {**answer(), "links": 3}, {**answer(), "code": "zz"},
            {**answer(), "code": "00" * 9000}, {**answer(), "instructions": answer()["instructions"] * 20},
            {**answer(), "instructions": [{}]}, {**answer(), "start": "\x1b[2J"}]
    for member, value in (("bytes", "90" * 16), ("bytes", ""), ("code_length", 1 << 40), ("code_offset", -1), ("bits", 128),
                          ("how", "\x1b[31m"), ("rip", "")):
        lie = answer()
        lie["instructions"][1][member] = value
        lies.append(lie)
    with Impostor(place) as keeper:
        for lie in lies:
            keeper.answer = json.dumps(lie).encode()
            for words in ([], ["--format", "json"]):
                err = place.refused("explain", *words, "web", names=["machine web", "explain"], status=3)
                assert "\x1b" not in err, err
        for text in (b"", b"[]", b"{", b"\0"):
            keeper.answer = text
            for verb in ("explain", "stats"):
                place.refused(verb, "web", names="machine web", status=3)
        keeper.answer = json.dumps({"ok": True, "state": "x" * 100, "engine": "y" * 100, "uptime": 0,
                                    "instructions": -5, "monitor": (1 << 63) - 1, "exit_poll": "many"}).encode()
        stats(place)
        place.good("stats", "web")
    place.good("rm", "-f", "web")


if __name__ == "__main__":
    sys.exit(run_tests([engines_agree, top_counts_all_processes, stats_for_people, stats_as_json, stats_by_interval, stats_refused, explain_the_loop,
                        explain_an_address, explain_refused, both_in_linux, host_code_is_shown, lies_of_a_keeper]))
