"""Hours of work in a minute's words: soak.py ENGINE DIRECTORY [SECONDS]. Debian's kernel with stress-ng and gcc (make_root.py) in a
machine; TRAPEZE names the program, TRAPEZE_GUEST has the kernel; the root file system is kept in DIRECTORY.

Passed if every stressor found its results right, the compiler's programs print in the guest what they print here, and the
guest powers off. SECONDS is the time of each stressor.
"""
import json
import os
import re
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
PATIENCE = 6600
SKIPPED = 77
MINIMUM = 25  # stressors that must have been good


def expected(level):
    """What the program prints here."""
    with tempfile.TemporaryDirectory(prefix="trapeze-soak-") as d:
        program = os.path.join(d, "program")
        subprocess.run(["gcc", f"-O{level}", "-o", program, os.path.join(HERE, "program.c")], check=True)
        return subprocess.run([program], stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines()


def run(engine, root, seconds):
    with tempfile.TemporaryDirectory(prefix="trapeze-soak-") as state:
        words = [os.environ["TRAPEZE"], "run", "--kernel", os.path.join(os.environ["TRAPEZE_GUEST"], "vmlinuz"), "--initrd", root,
                 "--append", f"console=ttyS0 panic=-1 reboot=t quiet soak.seconds={seconds}", "--memory", "2G", "--engine", engine,
                 "--no-reboot"]
        p = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             env={**os.environ, "XDG_STATE_HOME": state})
        try:
            out, err = p.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            p.terminate()  # the machine goes with it
            out, err = p.communicate()
        return p.returncode, out.decode(errors="replace").replace("\r", ""), err.decode(errors="replace")


def outputs(out, level):
    return re.findall(rf"^output {level}: (.*)$", out, re.MULTILINE)


def checks(status, out):
    """(good, what) of everything."""
    for line in out.splitlines():
        if m := re.match(r"ok (.*)", line):
            yield True, m[1]
        elif line.startswith("BAD "):
            yield False, line
    for level in (0, 2, 3):
        yield outputs(out, level) == expected(level), f"program -O{level} prints what it prints here"
    good = len(re.findall(r"^ok stress-ng ", out, re.MULTILINE))
    yield good >= MINIMUM, f"{good} stressors good, at least {MINIMUM}"
    yield re.search(r"^soak: \d+ ok, 0 bad$", out, re.MULTILINE) is not None, "the guest's own verdict"
    yield status == 0, f"exit status {status}"


def main():
    engine, directory = sys.argv[1:3]
    seconds = sys.argv[3] if len(sys.argv) > 3 else "3"
    listed = json.loads(subprocess.run([os.environ["TRAPEZE"], "version", "--format", "json"], stdout=subprocess.PIPE,
                                       check=True).stdout)["engines"]
    if "TRAPEZE_GUEST" not in os.environ or (engine not in listed and engine == "bt"):
        print("skipped: TRAPEZE_GUEST is not set, or there is no engine " + engine)
        sys.exit(SKIPPED)
    os.makedirs(directory, exist_ok=True)
    root = os.path.join(directory, "root.cpio")
    subprocess.run([sys.executable, "-B", os.path.join(HERE, "make_root.py"), root], check=True)
    status, out, err = run(engine, root, seconds)
    found = list(checks(status, out))
    print(f"1..{len(found)}")
    for n, (good, what) in enumerate(found, 1):
        print(f"{'ok' if good else 'not ok'} {n} - {what}".replace("#", "\\#"))
    if not all(good for good, _ in found):
        print("".join("# " + line + "\n" for line in (out + err).splitlines()[-300:]), end="")
        sys.exit(1)


main()
