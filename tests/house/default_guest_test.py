#!/usr/bin/env python3
"""default_guest_test TRAPEZE: the default guest (TRAPEZE_GUEST) boots, checks itself and powers off; and one in trouble ends
with a status that says so. What `make run` promises without a terminal."""
import os
import subprocess
import sys
import unittest

import tap

GUEST = os.environ.get("TRAPEZE_GUEST", "")
TRAPEZE = sys.argv.pop(1) if len(sys.argv) > 1 else ""


class DefaultGuest(unittest.TestCase):
    def setUp(self):
        if not os.path.exists(os.path.join(GUEST, "initrd.cpio")):
            self.skipTest("no default guest: make guest")

    def test_checks_itself_and_powers_off(self):
        p = subprocess.run([os.path.join(tap.ROOT, "tools", "run-guest"), TRAPEZE, GUEST], stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        text = p.stdout.decode(errors="replace").replace("\r", "")
        self.assertEqual(p.returncode, 0, text)
        self.assertRegex(text, r"\nselftest: [1-9]\d+ ok, 0 bad\n")

    def test_guest_in_trouble(self):
        # its first process ends: Linux panics, resets at once (panic=-1), and reset is a triple fault (reboot=t)
        p = subprocess.run([TRAPEZE, "run", "--rm", "--kernel", GUEST + "/vmlinuz", "--initrd", GUEST + "/initrd.cpio",
                            "--memory", "256M", "--no-reboot", "--append",
                            "console=ttyS0 quiet panic=-1 reboot=t rdinit=/bin/false"],
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        text = p.stdout.decode(errors="replace")
        self.assertEqual(p.returncode, 2, text)
        self.assertIn("Attempted to kill init", text)
        self.assertIn("RIP=", text)


if __name__ == "__main__":
    tap.main()
