"""Run one small guest on one engine and judge it: run_guest.py GUEST ENGINE [triple | --cpus N]. TRAPEZE names the program.

A guest has passed if it says "done N ok 0 bad", complains of nothing and powers off. With "triple" it must end in a triple
fault instead, its state shown. Each line "ok NAME" or "BAD NAME .." of the guest becomes a line of TAP. Skipped is an engine
that this host can not run, or that is yet to come.
"""
import json
import os
import re
import subprocess
import sys
import tempfile

PATIENCE = 300  # seconds after which a guest hangs: no speed is tested


SKIPPED = 77
TO_COME = ["bt"]


def skip_reason(engine, status, err):
    """Why the engine could not be tried, or None if it was."""
    if status == 1 and (m := re.fullmatch(rf"trapeze: --engine {engine}: (.*); use --engine \w+\n", err)):
        return m[1]
    return None


def engines():
    out = subprocess.run([os.environ["TRAPEZE"], "version", "--format", "json"], stdout=subprocess.PIPE, check=True)
    return json.loads(out.stdout)["engines"]


def run(guest, engine, options):
    """Exit status, standard output, standard error of a machine with this guest."""
    with tempfile.TemporaryDirectory(prefix="trapeze-guests-") as state:
        words = [os.environ["TRAPEZE"], "run", "--kernel", guest, "--memory", "64M", "--engine", engine, "--no-reboot",
                 *options]
        p = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             env={**os.environ, "XDG_STATE_HOME": state})
        try:
            out, err = p.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            p.kill()
            out, err = p.communicate()
            return None, out.decode(errors="replace"), err.decode(errors="replace")
        return p.returncode, out.decode(errors="replace"), err.decode(errors="replace")


def results(out):
    """(good, text) of each check, and the numbers that the guest counted itself, or None."""
    checks, done = [], None
    for line in out.replace("\r", "").splitlines():
        if m := re.match(r"ok (.*)", line):
            checks.append((True, m[1]))
        elif "BAD " in line:
            checks.append((False, line))
        elif m := re.match(r"done (\d+) ok (\d+) bad$", line):
            done = int(m[1]), int(m[2])
    return checks, done


def judge(status, out, err, triple):
    """Everything that is wrong beside the checks."""
    _, done = results(out)
    if triple:
        shown = [name for name in ("triple fault at rip", "CPL 0", "RIP=", "CR2=", "IDTR") if name not in out + err]
        if status != 2:
            yield f"status {status}, not 2"
        if shown:
            yield f"the state shown has no {shown}"
        return
    if status != 0:
        yield "it hangs" if status is None else f"status {status}"
    if done is None:
        yield "it did not come to its end"
    elif done[0] == 0 or done[1] != 0:
        yield f"{done[0]} ok, {done[1]} bad"


def main():
    guest, engine = sys.argv[1:3]
    triple = sys.argv[3:] == ["triple"]
    options = [] if triple else sys.argv[3:]
    if engine not in engines() and engine in TO_COME:
        print(f"skipped: there is no engine {engine} yet")
        sys.exit(SKIPPED)
    status, out, err = run(guest, engine, options)
    if why := skip_reason(engine, status, err):
        print(f"skipped: engine {engine}: {why}")
        sys.exit(SKIPPED)
    checks, _ = results(out)
    wrong = list(judge(status, out, err, triple))
    lines = checks + [(not wrong, "end: " + ("; ".join(wrong) or "as expected"))]
    print(f"1..{len(lines)}")
    for n, (good, text) in enumerate(lines, 1):
        text = text.replace("#", "\\#")
        print(f"{'ok' if good else 'not ok'} {n} - {text}")
    if wrong:
        print("".join("# " + line + "\n" for line in err.splitlines()), end="")
    sys.exit(0 if all(good for good, _ in lines) else 1)


main()
