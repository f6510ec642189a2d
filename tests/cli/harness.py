"""What the tests of the command line share: a state directory of their own, runs of the program, TAP.

TRAPEZE names the program, GUEST the small guest of guest.S. Each test is a function that takes a Place; afterwards the
place must be clean: no process, no socket, no file of a machine that the test did not ask to keep.
"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback

TRAPEZE = os.environ["TRAPEZE"]
GUEST = os.environ["GUEST"]
LINUX = os.path.join(os.environ["TRAPEZE_GUEST"], "vmlinuz") if "TRAPEZE_GUEST" in os.environ else None
PATIENCE = 60  # seconds after which something hangs: no speed is tested


class Skip(Exception):
    """A test that can not run here; the reason."""


class Place:
    """A state directory, and the program run in it."""

    def __init__(self):
        self.directory = tempfile.TemporaryDirectory(prefix="trapeze-cli-")
        self.path = self.directory.name
        self.env = {**os.environ, "XDG_STATE_HOME": self.path, "TERM": "xterm"}

    def run(self, *words, stdin=b"", timeout=PATIENCE):
        """Status, standard output, standard error."""
        p = subprocess.run([TRAPEZE, *words], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.env,
                           timeout=timeout)
        return p.returncode, p.stdout.decode(errors="replace"), p.stderr.decode(errors="replace")

    def good(self, *words, **more):
        """Standard output of a run that must succeed."""
        status, out, err = self.run(*words, **more)
        assert status == 0, f"trapeze {' '.join(words)}: status {status}: {err}"
        return out

    def refused(self, *words, names, status=1, **more):
        """A run that must fail with one line that holds each of `names`."""
        got, out, err = self.run(*words, **more)
        what = f"trapeze {' '.join(words)}: status {got}, said {err!r}"
        assert got == status, what
        assert err.count("\n") == 1 and err.endswith("\n"), what + ": not one line"
        for name in [names] if isinstance(names, str) else names:
            assert name in err, what + f": without {name!r}"
        return err

    def start(self, *words, **more):
        return subprocess.Popen([TRAPEZE, *words], env=self.env, **more)

    def machines(self, *words):
        return json.loads(self.good("ps", "--format", "json", *words))

    def keeper(self, name):
        """Process of the machine's keeper."""
        (pid,) = [m["keeper"] for m in self.machines() if m["name"] == name]
        assert pid > 0, f"machine {name} has no keeper"
        return pid

    def guest(self, what, *options):
        """Options of `run` for the small guest."""
        return ["run", "--kernel", GUEST, "--append", what, "--memory", "16M", *options]

    def until(self, condition, what):
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain for: {what}"
            time.sleep(0.02)

    def processes(self):
        """Processes that run in this place, by their environment."""
        mark = b"XDG_STATE_HOME=" + self.path.encode()
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/environ", "rb") as f:
                    if mark in f.read().split(b"\0"):
                        found.append(int(pid))
            except OSError:
                pass
        return found

    def files(self):
        directory = os.path.join(self.path, "trapeze", "machines")
        return os.listdir(directory) if os.path.isdir(directory) else []

    def check_clean(self):
        """Nothing may be left: after a refused command, and at the end of each test."""
        self.until(lambda: not self.processes(), "the end of all processes")
        left = [m["name"] for m in self.machines("-a")]
        assert not left, f"machines left behind: {left}"
        assert not self.files(), f"files left behind: {self.files()}"

    def close(self):
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        self.directory.cleanup()


def run_tests(tests):
    """Run the functions in order, print TAP; the exit status."""
    bad = 0
    print(f"1..{len(tests)}")
    for n, test in enumerate(tests, 1):
        place = Place()
        try:
            test(place)
            place.check_clean()
            print(f"ok {n} - {test.__name__}")
        except Skip as reason:
            print(f"ok {n} - {test.__name__} # SKIP {reason}")
        except Exception:  # a failed test, whatever the reason
            bad += 1
            print(f"not ok {n} - {test.__name__}")
            print("".join("# " + line + "\n" for line in traceback.format_exc().splitlines()), end="")
        finally:
            place.close()
        sys.stdout.flush()
    return 1 if bad else 0
