#!/usr/bin/env python3
"""tools/run-tests: what it counts, and that no test program outlives it."""
import contextlib
import io
import os
import subprocess
import tempfile
import time
import unittest

import tap

run_tests = tap.tool("run-tests")


def numbers(counts):
    return counts.passed, counts.failed, counts.skipped


class Counting(unittest.TestCase):
    def count(self, output, status):
        return numbers(run_tests.count(output, status))

    def test_tap(self):
        self.assertEqual(self.count("1..3\nok 1 - a\nnot ok 2 - b\nok 3 - c # SKIP no iasl\n", 1), (1, 1, 1))

    def test_skip_as_cmocka_writes_it(self):
        self.assertEqual(self.count("not ok 1 # SKIP b\nok 2 - a\n", 0), (1, 0, 1))

    def test_other_lines_do_not_count(self):
        self.assertEqual(self.count("okay\n  ok 1 - indented\nok 1 - a\n", 0), (1, 0, 0))

    def test_death_after_good_tests(self):
        self.assertEqual(self.count("1..2\nok 1 - a\n", -11), (1, 1, 0))

    def test_without_tap(self):
        self.assertEqual(self.count("hello\n", 0), (1, 0, 0))
        self.assertEqual(self.count("hello\n", 3), (0, 1, 0))
        self.assertEqual(self.count("no terminal\n", 77), (0, 0, 1))


class Running(unittest.TestCase):
    def run_shell(self, script, timeout=20):
        return run_tests.run_test({"name": "x", "cmd": ["sh", "-c", script], "timeout": timeout})

    def test_no_terminal_no_input(self):
        counts, output, _ = self.run_shell("test -t 0 && exit 1; cat; echo end")
        self.assertEqual((numbers(counts), output), ((1, 0, 0), "end\n"))

    def test_tap_is_asked_for(self):
        _, output, _ = self.run_shell("echo $CMOCKA_MESSAGE_OUTPUT")
        self.assertEqual(output, "TAP\n")

    def test_signal(self):
        counts, output, _ = self.run_shell("echo ok 1; kill -SEGV $$")
        self.assertEqual(numbers(counts), (1, 1, 0))
        self.assertIn("signal 11", output)

    def test_timeout_takes_the_children_along(self):
        with tempfile.TemporaryDirectory() as d:
            mark = os.path.join(d, "mark")
            counts, output, _ = self.run_shell(f"echo ok 1; (sleep 4; touch {mark}) & sleep 100", timeout=1)
            self.assertEqual(numbers(counts), (1, 1, 0))
            self.assertIn("not done after 1 s", output)
            time.sleep(5)
            self.assertFalse(os.path.exists(mark))

    def test_missing_program(self):
        counts, _, _ = run_tests.run_test({"name": "x", "cmd": ["/nonexistent"]})
        self.assertEqual(numbers(counts), (0, 1, 0))

    def test_all(self):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            total = run_tests.run_all([{"name": "good", "cmd": ["true"]},
                                       {"name": "bad", "cmd": ["sh", "-c", "echo why; exit 1"], "is_parallel": False}], 2)
        self.assertEqual(str(total), "1 passed, 1 failed, 0 skipped")
        self.assertIn("| why", out.getvalue())

    def test_tables_are_shown(self):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            run_tests.run_all([{"name": "good", "cmd": ["printf", "ok 1 - a\\n| # | seen |\\n| 1 | S |\\n"]}], 1)
        self.assertIn("\n| # | seen |\n| 1 | S |\n", out.getvalue())
        self.assertNotIn("ok 1 - a", out.getvalue())


class Program(unittest.TestCase):
    """The whole of it on a project of its own."""

    def project(self, root, tests):
        os.makedirs(os.path.join(root, "tools"))
        for name in ("run-tests", "check-house"):
            path = os.path.join(root, "tools", name)
            with open(os.path.join(tap.ROOT, "tools", name)) as f, open(path, "w") as g:
                g.write(f.read())
            os.chmod(path, 0o755)
        with open(os.path.join(root, "meson.build"), "w") as f:
            f.write("project('x')\n" + tests)
        with open(os.path.join(root, "meson_options.txt"), "w") as f:
            f.write("option('tests', type: 'boolean', value: false)\n")
        subprocess.run(["git", "-C", root, "init", "-q"], check=True)

    def finish(self, tests):
        with tempfile.TemporaryDirectory() as root:
            self.project(root, tests)
            p = subprocess.run([os.path.join(root, "tools", "run-tests"), "--suite", "quick", os.path.join(root, "b")],
                               stdout=subprocess.PIPE, text=True)
            return p.returncode, p.stdout.splitlines()[-1]

    def test_green(self):
        tests = "t = find_program('true')\ntest('a', t, suite: 'quick')\ntest('b', find_program('false'), suite: 'long')\n"
        self.assertEqual(self.finish(tests), (0, "2 passed, 0 failed, 0 skipped"))  # with check-house

    def test_runs_in_the_build_directory(self):
        self.assertEqual(self.finish("test('a', find_program('test'), args: ['-e', 'build.ninja'], suite: 'quick')\n"),
                         (0, "2 passed, 0 failed, 0 skipped"))

    def test_red(self):
        self.assertEqual(self.finish("test('b', find_program('false'), suite: 'quick')\n"),
                         (1, "1 passed, 1 failed, 0 skipped"))

    def test_does_not_build(self):
        self.assertEqual(self.finish("nonsense(\n"), (1, "1 passed, 1 failed, 0 skipped"))

    def test_no_tests(self):
        self.assertEqual(self.finish(""), (1, "1 passed, 1 failed, 0 skipped"))


if __name__ == "__main__":
    tap.main()
