#!/usr/bin/env python3
"""A machine's life through the verbs, with the small guest: start, list, console, pause, stop, kill, exit statuses."""
import json
import os
import shutil
import signal
import subprocess
import sys

from harness import PATIENCE, TRAPEZE, run_tests
from terminal import Terminal

FLOOD = ">" + "0123456789abcdef\n" * 4096


# --- ends and their exit status ---

def power_off(place):
    assert place.good(*place.guest("p", "--rm")) == ">"


def reset_under_no_reboot(place):
    assert place.good(*place.guest("r", "--rm", "--no-reboot")) == ">"


def triple_fault(place):
    for more in ([], ["--no-reboot"]):
        status, out, err = place.run(*place.guest("t", "--rm", *more))
        assert status == 2 and out == ">", (status, out, err)
        assert "triple fault" in err and "rip" in err.lower(), err


def end_as_json(place):
    status, _, err = place.run(*place.guest("t", "--name", "web", "--format", "json"))
    (line,) = [l for l in err.splitlines() if l.startswith("{")]
    end = json.loads(line)
    assert status == end["exit_code"] == 2 and end["name"] == "web" and end["reason"] == "triple fault", end
    (row,) = place.machines("-a")
    assert (row["state"], row["exit_code"], row["reason"]) == ("exited", 2, "triple fault"), row
    place.good("rm", "web")


def signals_stop_the_machine(place):
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        p = place.start(*place.guest("b", "--rm"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert p.stdout.read(1) == b">"
        p.send_signal(sig)
        assert p.wait(PATIENCE) == 128 + sig, (sig, p.returncode)
        p.stdout.close()
        place.check_clean()


def second_signal_kills(place):
    p = place.start(*place.guest("s", "--rm", "--time", "3600"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert p.stdout.read(1) == b">"
    p.send_signal(signal.SIGTERM)
    p.send_signal(signal.SIGINT)
    assert p.wait(PATIENCE) in (128 + signal.SIGTERM, 128 + signal.SIGINT), p.returncode
    p.stdout.close()


def signal_twice_is_once(place):
    """What timeout(1) and a terminal that goes do is one act: the machine has its time to power off."""
    for first, second in ((signal.SIGTERM, signal.SIGTERM), (signal.SIGTERM, signal.SIGHUP), (signal.SIGHUP, signal.SIGHUP)):
        p = place.start(*place.guest("s", "--name", "web", "--time", "1"), stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert p.stdout.read(1) == b">"
        p.send_signal(first)
        if first != second:  # the lower number would be taken first
            assert b"asked to power off" in p.stderr.readline()
        p.send_signal(second)
        p.communicate(timeout=PATIENCE)
        assert p.returncode == 128 + first, (first, second, p.returncode)
        assert "had not powered off" in place.machines("-a")[0]["reason"], place.machines("-a")
        place.good("rm", "web")


def reader_that_goes(place):
    """`trapeze run .. | head -1`"""
    p = place.start(*place.guest("f", "--rm", "--time", "0"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert p.stdout.read(1) == b">"
    p.stdout.close()
    assert p.wait(PATIENCE) == 128 + signal.SIGPIPE, p.returncode


def cell_that_is_killed(place):
    place.good(*place.guest("i", "-d", "--name", "web", "--engine", "interp"))
    os.kill(json.loads(place.good("inspect", "web"))["cell"], signal.SIGKILL)
    place.until(lambda: not place.machines(), "the machine's end")
    (row,) = place.machines("-a")
    assert row["exit_code"] == 3 and "was killed (signal 9)" in row["reason"] and row["engine"] == "interp", row
    place.good("rm", "web")


def waits_for_an_answer(pid):
    """In poll or in a read from a socket (proc(5), syscall)."""
    with open(f"/proc/{pid}/syscall") as f:
        return f.read().split()[0] in ("0", "7", "45", "47", "271")


def keeper_that_vanishes(place):
    p = place.start(*place.guest("i", "--name", "web"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE)
    assert p.stdout.read(1) == b">"
    cell = json.loads(place.good("inspect", "web"))["cell"]
    os.kill(place.keeper("web"), signal.SIGKILL)
    place.until(lambda: not os.path.exists(f"/proc/{cell}"), "the cell's end")
    _, err = p.communicate(timeout=PATIENCE)
    assert p.returncode == 3 and b"machine web: its keeper process vanished" in err, (p.returncode, err)
    place.good("rm", "web")


def list_while_the_keeper_goes(place):
    """It goes after the list was read and before it has answered: the line is that of an ended machine, all of it."""
    place.good(*place.guest("i", "-d", "--name", "web"))
    keeper = place.keeper("web")
    os.kill(keeper, signal.SIGSTOP)
    p = place.start("ps", "-a", "--format", "json", stdout=subprocess.PIPE)
    place.until(lambda: waits_for_an_answer(p.pid), "the question to the keeper")
    os.kill(keeper, signal.SIGKILL)
    (row,) = json.loads(p.communicate(timeout=PATIENCE)[0])
    assert (row["state"], row["exit_code"], row["keeper"], row["reason"]) == ("dead", 3, 0, "its keeper process vanished"), row
    assert row["ended"], row
    place.good("rm", "web")


# --- bytes in and out ---

def all_bytes_come_through(place):
    assert place.good(*place.guest("f", "--rm")) == FLOOD
    assert place.good(*place.guest("f", "--rm", "--engine", "interp")) == FLOOD


def echoed(place, data):
    """What the guest sends back. It must be up before it is spoken to: switching the FIFO on empties it."""
    p = place.start(*place.guest("e", "--rm"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert p.stdout.read(1) == b">"
    out, _ = p.communicate(data + b"q", timeout=PATIENCE)
    assert p.returncode == 0, p.returncode
    return out


def input_reaches_the_guest(place):
    text = b"hello, guest. " * 300
    assert echoed(place, text) == text


def every_byte_value(place):
    data = bytes(b for b in range(256) if b != ord("q"))
    assert echoed(place, data) == data


# --- verbs ---

def detached_life(place):
    assert place.good(*place.guest("b", "-d", "--name", "web")) == "web\n"
    (row,) = place.machines()
    engines = json.loads(place.good("version", "--format", "json"))["engines"]
    assert row["name"] == "web" and row["state"] == "running" and row["engine"] in engines, row
    machine = json.loads(place.good("inspect", "web"))
    assert machine["config"]["append"] == "b" and machine["config"]["memory"] == 16 << 20, machine
    assert machine["keeper"] in place.processes() and os.path.exists(f"/proc/{machine['cell']}"), machine
    assert "web" in place.good("ps") and "web" in place.good("inspect", "--format", "text", "web")
    place.until(lambda: place.good("logs", "web") == ">", "the guest's first output")
    place.good("stop", "web")
    assert place.machines() == []
    (row,) = place.machines("-a")
    assert (row["state"], row["exit_code"]) == ("exited", 0), row
    assert place.good("logs", "web") == ">"
    place.good("rm", "web")


def start_again(place):
    place.good(*place.guest("b", "-d", "--name", "web"))
    status, _, err = place.run("start", "web")
    assert status == 1 and "runs already" in err, err
    for end in (lambda: place.good("stop", "web"), lambda: os.kill(json.loads(place.good("inspect", "web"))["keeper"], signal.SIGKILL)):
        place.until(lambda: place.good("logs", "web") == ">", "the guest's first output")
        end()
        place.until(lambda: not place.machines(), "the end")
        (old,) = place.machines("-a")
        assert place.good("start", "web") == "web\n"
        (row,) = place.machines()
        assert row["state"] == "running" and row["id"] == old["id"], row
    place.until(lambda: place.good("logs", "web") == ">", "the guest's output in its third life")
    place.good("stop", "web")
    (row,) = place.machines("-a")
    assert (row["state"], row["exit_code"]) == ("exited", 0), row
    place.good("rm", "web")


def start_what_can_not_be(place):
    kernel = os.path.join(place.path, "kernel")
    words = place.guest("p", "--name", "web")
    shutil.copy(words[words.index("--kernel") + 1], kernel)
    words[words.index("--kernel") + 1] = kernel
    place.good(*words)
    os.remove(kernel)
    status, out, err = place.run("start", "web", "nobody")
    assert status == 1 and not out and kernel in err and "nobody" in err, (status, out, err)
    (row,) = place.machines("-a")
    assert row["state"] == "exited", row
    place.good("rm", "web")


def stop_kills_the_deaf(place):
    place.good(*place.guest("i", "-d", "--name", "web"))
    place.good("stop", "--time", "0", "web")
    (row,) = place.machines("-a")
    assert row["state"] == "exited" and row["exit_code"] != 0, row
    place.good("rm", "web")


def kill_takes_several(place):
    for name in ("a", "b", "c"):
        place.good(*place.guest("s", "-d", "--name", name))
    place.good("kill", "a", "b", "c")
    assert {m["state"] for m in place.machines("-a")} == {"exited"}
    status, _, err = place.run("rm", "a", "nobody", "b", "c")
    assert status == 1 and err.count("\n") == 1 and "nobody" in err, err


def pause_and_resume(place):
    place.good(*place.guest("s", "-d", "--name", "web"))
    place.good("pause", "web")
    assert place.machines()[0]["state"] == "paused"

    def instructions():
        return json.loads(place.good("inspect", "web"))["stats"]["instructions"]

    before = instructions()
    assert instructions() == before
    place.good("resume", "web")
    assert place.machines()[0]["state"] == "running"
    place.until(lambda: instructions() > before, "the guest to go on")
    place.good("rm", "-f", "web")


def remove_after_the_end(place):
    place.good(*place.guest("p", "-d", "--rm"))
    place.until(lambda: not place.machines("-a"), "the machine to be forgotten")


def follow_the_log(place):
    place.good(*place.guest("b", "-d", "--name", "web"))
    p = place.start("logs", "-f", "web", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert p.stdout.read(1) == b">"
    place.good("stop", "web")
    assert p.wait(PATIENCE) == 0
    p.stdout.close()
    place.good("rm", "web")


def names_by_id(place):
    place.good(*place.guest("i", "-d", "--name", "web"))
    machine = place.machines()[0]["id"]
    place.good("kill", machine[:6])
    place.good("rm", machine)


# --- a person at a terminal ---

def leave_and_come_back(place):
    with Terminal(place, *place.guest("e", "--name", "web")) as t:
        t.expect("Ctrl-]")
        t.expect(">")
        t.type("abc")
        t.expect("abc")
        t.type("\x1d")
        t.expect("trapeze console web")
        assert t.end() == 0 and t.restored()
    assert [m["state"] for m in place.machines()] == ["running"]
    with Terminal(place, "console", "--escape", "^a", "web") as t:
        t.expect("Ctrl-a")
        t.type("def\x1d")
        t.expect("def\x1d")
        t.type("\x01")
        assert t.end() == 0 and t.restored()
    with Terminal(place, "console", "web") as t:
        t.expect("Ctrl-]")
        with Terminal(place, "console", "web") as second:
            second.expect("another console has the keyboard")
            second.type("q\x1d")
            assert second.end() == 0 and second.restored()
        t.type("q")
        t.expect("ended")
        assert t.end() == 0 and t.restored()
    place.good("rm", "web")


def terminal_after_signals(place):
    for sig in (signal.SIGTERM, signal.SIGHUP):
        with Terminal(place, *place.guest("b", "--rm")) as t:
            t.expect(">")
            t.process.send_signal(sig)
            assert t.end() == 128 + sig and t.restored()


def terminal_after_crashes(place):
    """Keeper or cell killed: the terminal is as before, the status says host."""
    for who in ("keeper", "cell"):
        with Terminal(place, *place.guest("e", "--name", "web", "--rm")) as t:
            t.expect(">")
            machine = json.loads(place.good("inspect", "web"))
            os.kill(machine[who], signal.SIGKILL)
            assert t.end() == 3 and t.restored()


def terminal_after_a_triple_fault(place):
    with Terminal(place, *place.guest("t", "--rm")) as t:
        t.expect("triple fault")
        assert t.end() == 2 and t.restored()


def no_escape_key(place):
    with Terminal(place, *place.guest("e", "--rm", "--escape", "none")) as t:
        t.expect("no key")
        t.expect(">")
        t.type("\x1dx")
        t.expect("\x1dx")
        t.type("q")
        assert t.end() == 0 and t.restored()


if __name__ == "__main__":
    sys.exit(run_tests([power_off, reset_under_no_reboot, triple_fault, end_as_json, signals_stop_the_machine,
                        second_signal_kills, signal_twice_is_once, reader_that_goes, cell_that_is_killed, keeper_that_vanishes, list_while_the_keeper_goes,
                        all_bytes_come_through,
                        input_reaches_the_guest, every_byte_value, detached_life, start_again, start_what_can_not_be, stop_kills_the_deaf, kill_takes_several,
                        pause_and_resume, remove_after_the_end, follow_the_log, names_by_id, leave_and_come_back,
                        terminal_after_signals, terminal_after_crashes, terminal_after_a_triple_fault, no_escape_key]))
