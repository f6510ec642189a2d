#!/usr/bin/env python3
"""handover_model.py [all]: spin goes through handover.pml, whose steps and traces are compared with the program's tables.

TABLES names the program made of handover.c. SPIN and CC may name others than `spin` and `cc`. Without spin all is skipped.
"""
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "house"))
import tap  # noqa: E402

MODEL = os.path.join(HERE, "handover.pml")
TABLES = os.environ["TABLES"]
SPIN = shutil.which(os.environ.get("SPIN") or "spin")
CC = shlex.split(os.environ.get("CC") or "cc")
ALL = "all" in sys.argv[1:]
MEMORY = 2000  # MiB that a search may take
PATIENCE = 1800 if ALL else 120  # seconds, of a machine with other things to do
SAFETY = ("-DSAFETY", "-DCOLLAPSE") if ALL else ("-DSAFETY",)
SEEDS = 400 if ALL else 12

# Steps of the tables that the model has no use for: the program comes to them when it looks at a state that it has left.
SPARED = ["SOURCE_COMMITTED:EVENT_RECORDED", "SOURCE_MOVED:EVENT_LOST", "SOURCE_MOVED:EVENT_RUNS", "SOURCE_BACK:EVENT_LOST",
          "SOURCE_BACK:EVENT_NEVER", "TARGET_RUNNING:EVENT_ABORT", "TARGET_FREE:EVENT_LOST", "TARGET_FREE:EVENT_DONE", "TARGET_GONE:EVENT_DONE",
          "TARGET_GONE:EVENT_EXPIRED"]

# Mutant: what is wrong with it; attempts and faults that it takes to be seen, and more definitions; what is seen.
TWO, NONE = "two", "none"
MUTANTS = {
    "RESUME_ON_TIMEOUT": ("the source goes on when nobody answers after COMMITTED", 1, 1, TWO),
    "RUN_UNCOMMITTED": ("the target runs when the connection is lost, without COMT", 1, 1, TWO),
    "RUNS_LATE": ("the target runs before RUNS is durable", 1, 1, TWO),
    "NEVER_AFTER_RUNS": ("the target says NEVR though its record says RUNS", 1, 1, TWO),
    "RECORD_LOST": ("`rm` takes the record away with the machine", 1, 1, TWO),
    "ID_NOT_COMPARED": ("the target takes COMT for whichever machine waits", 2, 1, TWO, "LATE_ONLY"),
    "COMMITTED_LATE": ("the source's keeper says that it has recorded before it has", 1, 1, TWO),
    "COMMIT_UNREADY": ("the source commits without REDY", 1, 1, NONE),
    "EXPIRED_RUNS": ("a target that has given up still runs at COMT", 1, 1, TWO),
    "HOST_NOT_COMPARED": ("NEVR of another host is believed", 1, 1, TWO),
    "DONE_BEFORE_SETTLED": ("DONE before MOVED is durable", 1, 1, TWO),
    "LEFT_UNRECORDED": ("that MOVED could not be written is overlooked", 1, 2, TWO),
    "SETTLE_IGNORED": ("that the source's keeper did not do what was said is overlooked, and the watcher sent away", 1, 1, NONE),
    "ABORT_UNREAD": ("ABRT when the keeper has died, without a look at its record", 1, 1, NONE),
    "KILL_RUNNING": ("the keeper of a machine to be given up is killed, though it may have been activated meanwhile", 1, 1, NONE),
    "REMOVED_UNSEEN": ("NEVR because a machine's directory is gone, which was removed meanwhile", 1, 1, TWO),
    "RUNS_UNSURE": ("a RUNS that could not be synced is left there", 1, 1, NONE),
    "HELLO_OUT_OF_DATE": ("a late HELO of an earlier attempt ends a later one's machine", 2, 1, NONE),
    "LEFT_LACKING": ("the source leaves when the target runs, though that lacks pages", 1, 1, NONE, "POSTCOPY"),
    "MOVE_COMMITTED": ("a machine that is handed over is migrated once more", 2, 2, NONE, "SOURCE_ONLY"),
}
NAMED = ["RESUME_ON_TIMEOUT", "RUN_UNCOMMITTED", "RUNS_LATE", "NEVER_AFTER_RUNS", "RECORD_LOST", "ID_NOT_COMPARED", "LEFT_LACKING"]


def run(words, cwd, text=None, good=(0,)):
    p = subprocess.run(words, cwd=cwd, input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE, text=True,
                       errors="replace")
    assert p.returncode in good, f"{' '.join(words)}: status {p.returncode}:\n{p.stdout[-3000:]}"
    return p.stdout


class Search:
    """One search by pan: of the model as `defines` make it."""

    def __init__(self, directory, defines, flags=(), options=(), optimise="-O2" if ALL else "-O0", numbers=False):
        self.directory, self.defines = directory, ["-D" + d for d in defines]
        with open(MODEL) as f:
            text = f.read()
        with open(os.path.join(directory, "model.pml"), "w") as f:
            f.write(text.replace("%e", "%d") if numbers else text)
        # The preprocessor's words are spin's own; the program that spin writes is compiled with ours.
        run([SPIN, *self.defines, "-a", "model.pml"], directory)
        run([*CC, optimise, "-w", f"-DMEMLIM={MEMORY}", *flags, "-o", "pan", "pan.c"], directory)
        self.output = run(["./pan", "-m1000000", *options], directory)
        m = re.search(r"errors: (\d+)\n\s*([\d.e+]+) states, stored", self.output)
        assert m and "max search depth too small" not in self.output, self.output[-3000:]
        assert "out of memory" not in self.output and "reached -DMEMLIM" not in self.output, self.output[-3000:]
        self.errors, self.states = int(m.group(1)), int(float(m.group(2)))

    def trail(self):
        """The counterexample, in lines of a trace."""
        return run([SPIN, "-T", *self.defines, "-k", "model.pml.trail", "model.pml"], self.directory, good=(0, 1))


def names(directory, text):
    """The lines with numbers, as pan prints them, with names."""
    listed = run([SPIN, "-d", MODEL], directory)
    name = {n: word for word, n in re.findall(r"^mtype\s+(\w+)\s+(\d+)\s", listed, re.MULTILINE)}
    kept = []
    for line in text.splitlines():
        words = line.split()
        if words and words[0] == "step":
            kept.append(" ".join(words[:3] + [name[w] for w in words[3:]]))
    return "\n".join(sorted(set(kept))) + "\n"


class Case(unittest.TestCase):
    def setUp(self):
        if not SPIN:
            self.skipTest("spin is not installed")
        folder = tempfile.TemporaryDirectory(prefix="trapeze-handover-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def search(self, *defines, **more):
        s = Search(self.folder, defines, **more)
        print(f"# {' '.join(defines)}: {s.states} states", flush=True)
        return s

    def holds(self, *defines, **more):
        s = self.search(*defines, **more)
        self.assertEqual(s.errors, 0, "" if not s.errors else s.trail()[-6000:])
        return s

    def safe(self, attempts, faults, *defines, flags=SAFETY, **more):
        return self.holds(f"ATTEMPTS={attempts}", f"FAULTS={faults}", *defines, flags=flags, **more)

    def test_never_two_and_each_step_is_in_the_tables(self):
        said = [self.safe(1, 1, *more, flags=("-DSAFETY", "-DPRINTF"), numbers=True).output for more in ((), ("POSTCOPY",))]
        taken = names(self.folder, "\n".join(said))
        print("# " + run([TABLES, "steps", *SPARED], self.folder, taken).strip())
        # The comparison sees a step that is not the table's, and one that is missing.
        first = taken.splitlines()[0]
        run([TABLES, "steps", *SPARED], self.folder, taken.replace(first, first.rsplit(" ", 1)[0] + " SOURCE_MOVED"), good=(1,))
        run([TABLES, "steps", *SPARED], self.folder, taken.split("\n", 1)[1], good=(1,))

    def test_one_in_the_end(self):
        """With weak fairness: who can go on forever does; also those that ask in vain while the link is cut."""
        for more in ((), ("POSTCOPY",)):
            self.holds("ATTEMPTS=1", "FAULTS=1", "LIVENESS", *more, *([] if ALL else ["CUT_ONLY"]), flags=("-DNFAIR=4",),
                       options=("-a", "-f"))

    def test_traces(self):
        done = 0
        for seed in range(1, SEEDS + 1):
            more = ["-DPOSTCOPY"] if seed // 4 % 2 else []
            trace = run([SPIN, "-T", f"-n{seed}", "-u20000", f"-DFAULTS={seed % 4}", "-DOTHERS", *more, MODEL], self.folder)
            self.assertNotRegex(trace, "^(two|none)|assertion violated")
            done += int(run([TABLES, "replay"], self.folder, trace).split()[0])
        print(f"# {done} steps in {SEEDS} traces")
        self.assertGreater(done, 3 * SEEDS)

    def test_replay_sees_what_is_wrong(self):
        good = ["step source 1 SOURCE_ASKING EVENT_ACCEPT SOURCE_COPYING", "step source 1 SOURCE_COPYING EVENT_STOP SOURCE_STOPPED",
                "step source 1 SOURCE_STOPPED EVENT_LOST SOURCE_BACK", "act source 1 ACT_RELEASE"]
        run([TABLES, "replay"], self.folder, "\n".join(good))
        for bad in (good[1:], good[:1] + good[2:], good + good[3:], good[:3] + ["step source 1 SOURCE_BACK EVENT_LOST SOURCE_BACK"],
                    good[:2] + ["step source 1 SOURCE_STOPPED EVENT_LOST SOURCE_COMMITTED"], good[:2] + ["crash source 1 SOURCE_COMMITTED"],
                    good + ["crash source 1 SOURCE_MOVED"], ["step sauce 1 SOURCE_ASKING EVENT_ACCEPT SOURCE_COPYING"],
                    ["step target 1 TARGET_FREE EVENT_COMMIT TARGET_RUNNING"], good[:2] + ["act source 1 ACT_UNRECORD"]):
            run([TABLES, "replay"], self.folder, "\n".join(bad), good=(1,))

    def mutant(self, name):
        what, attempts, faults, sees, *more = MUTANTS[name]
        s = self.search(f"ATTEMPTS={attempts}", f"FAULTS={faults}", name, *more, flags=SAFETY)
        self.assertGreater(s.errors, 0, f"is not caught: {what}")
        trace = s.trail()
        self.assertRegex(trace, f"(?m)^{sees}", trace[-6000:])
        told = run([TABLES, "replay"], self.folder, trace)
        self.assertIn("then the mutant's", told)
        print(f"# {name}: {what}: {sees}, after {told.strip()}")

    def much_more(self):
        self.safe(2, 1)
        self.safe(1, 2, "OTHERS")
        self.safe(1, 2, "POSTCOPY")
        self.holds("ATTEMPTS=2", "FAULTS=0", "LIVENESS", flags=("-DNFAIR=4", "-DCOLLAPSE"), options=("-a", "-f"))


if ALL:
    Case.test_much_more = Case.much_more
for mutant in MUTANTS if ALL else NAMED:
    setattr(Case, "test_mutant_" + mutant, lambda self, name=mutant: self.mutant(name))

if __name__ == "__main__":
    tap.main()
