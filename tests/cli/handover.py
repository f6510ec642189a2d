#!/usr/bin/env python3
"""handover.py: what the model of the handover (tests/migrate/handover.pml) has found in the program, forced on two hosts.

Two state directories are the hosts, as in migrate.py; its names of results.
"""
import json
import os
import signal
import socket
import sqlite3
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import run_tests
from migrate import PATIENCE, Hosts, Wire, await_result, free_port, small


def quiet(place, *words):
    return place.start(*words, stdout=open(os.devnull, "w"), stderr=open(os.devnull, "w"))


def watchers(place):
    found = []
    for pid in place.processes():
        with open(f"/proc/{pid}/comm") as f:
            found += [pid] if f.read().strip() == "trapeze-watcher" else []
    assert found, "the verb has left nobody behind"
    return found


def machine_file(place, name):
    (machine,) = place.files()
    return os.path.join(place.path, "trapeze", "machines", machine, name)


def way_back(h, *rules):
    """From the target of `h` to its source, through a wire."""
    back = Hosts.__new__(Hosts)
    back.a, back.b, back.at = h.b, h.a, f"127.0.0.1:{free_port()}"
    back.listen()
    back.wire = Wire(f"127.0.0.1:{free_port()}", back.at, rules)
    back.to = back.wire.start()
    return back


def end_way(back):
    back.receiver.send_signal(signal.SIGTERM)
    back.receiver.wait(PATIENCE)
    back.wire.end()


def keeper_killed_at_its_record(place):
    """COMMITTED is written, but the verb has not been told: the machine is the target's, and must not be called off there."""
    h = Hosts(place)
    small(place)
    keeper, path = place.keeper("web"), machine_file(place, "handover")
    verb = quiet(place, "migrate", "web", h.to)
    deadline = time.monotonic() + PATIENCE
    with open(path, "rb", buffering=0) as f:
        while not any(os.pread(f.fileno(), 16, 0)):  # zeros until then
            assert time.monotonic() < deadline, "no record"
    os.kill(keeper, signal.SIGKILL)
    verb.wait(PATIENCE)
    place.until(lambda: h.runs_at(h.b), "the target to run it")
    h.never_two()
    place.refused("start", "web", names=["web", "has moved to " + h.at], status=3)
    h.end()


def not_moved_while_committed(place):
    """Another try would end the machine that waits at the target."""
    h = Hosts(place, ["up:COMT:1:hole"])
    small(place)
    verb = quiet(place, "migrate", "web", h.to)
    place.until(lambda: h.wire.fired, "the fault")
    for pid in watchers(place) + [verb.pid]:  # they have the right to decide
        os.kill(pid, signal.SIGKILL)
    verb.wait(PATIENCE)
    place.refused("migrate", "web", h.at, names=["machine web", "has been handed over", "system recover"], status=3)
    assert h.states(h.b) == ["prepared"], h.states(h.b)
    h.wire.heal()
    place.until(lambda: place.run("system", "recover")[0] == 0, "the answer")
    await_result(h, "D")
    h.end()


def what_came_stays(place):
    """A machine that came, and that another host has given back after its record, is one like any when it ends."""
    h = Hosts(place)
    small(place)
    assert h.migrate()[0] == 0
    place.good("rm", "web")
    back = way_back(h, "up:COMT:1:delay=1500")
    verb = quiet(h.b, "migrate", "web", back.to)
    place.until(lambda: back.wire.fired, "the fault")
    os.kill(place.keeper("web"), signal.SIGKILL)
    assert verb.wait(PATIENCE) != 0
    await_result(back, "S")
    h.b.good("kill", "web")
    place.until(lambda: h.states(h.b) == ["exited"], "its end")
    h.b.good("ps")
    assert h.states(h.b) == ["exited"], "is forgotten"
    h.b.good("rm", "web")
    end_way(back)
    h.end()


def running_is_not_abandoned(place):
    """The word of one connection may come when that of another has just been obeyed."""
    h = Hosts(place)
    small(place)
    assert h.migrate()[0] == 0
    with sqlite3.connect(f"file:{h.b.path}/trapeze/machines.db?mode=ro", uri=True) as db:
        (config,) = db.execute("SELECT config FROM machines").fetchone()
    request = {"do": "handover", "action": "abandon", "id": json.loads(config)["incoming"]}
    with socket.socket(socket.AF_UNIX) as s:
        folder = os.open(os.path.dirname(machine_file(h.b, "control")), os.O_RDONLY)
        s.connect(f"/proc/self/fd/{folder}/control")
        os.close(folder)
        s.settimeout(PATIENCE)
        s.sendall(json.dumps(request).encode() + b"\n")
        answer = json.loads(s.makefile().readline())
    assert "runs here" in answer.get("error", ""), answer
    assert h.is_d()
    h.end()


def watcher_killed(place):
    """Without the process that would ask after it nothing is handed over."""
    h = Hosts(place, ["up:MACH:1:delay=1000"])
    small(place)
    verb = quiet(place, "migrate", "web", h.to)
    place.until(lambda: h.wire.fired, "the fault")
    for pid in watchers(place):
        os.kill(pid, signal.SIGKILL)
    assert verb.wait(PATIENCE) == 1
    await_result(h, "S")
    h.end()


def late_hello_ends_nothing(place):
    """HELO of an earlier attempt arrives when a later one's machine is whole, and waits."""
    h = Hosts(place, ["up:HELO:1:hole"])
    small(place)
    verb = quiet(place, "migrate", "web", h.to)
    place.until(lambda: h.wire.fired, "the fault")
    verb.kill()
    verb.wait()
    other = Wire(f"127.0.0.1:{free_port()}", h.at, ["down:REDY:1:delay=1000"])
    verb = quiet(place, "migrate", "web", other.start())
    place.until(lambda: other.fired, "the other fault")
    other.hole()  # what the verb leaves behind can not say ABRT
    verb.kill()
    verb.wait()
    other.end()
    place.until(lambda: h.states(h.b) == ["prepared"], "the target to wait")
    h.wire.heal()
    place.until(lambda: [m for m in h.wire.log if m[0] == "down"], "the answer")
    assert [m[1] for m in h.wire.log if m[0] == "down"] == ["NOPE"], h.wire.log
    assert h.states(h.b) == ["prepared"], h.states(h.b)
    status, _, err = h.migrate()
    assert status == 0, err
    await_result(h, "D")
    h.end()


if __name__ == "__main__":
    only = sys.argv[1:]
    tests = [keeper_killed_at_its_record, not_moved_while_committed, what_came_stays, running_is_not_abandoned,
             watcher_killed, late_hello_ends_nothing]
    sys.exit(run_tests([t for t in tests if not only or any(word in t.__name__ for word in only)]))
