#!/usr/bin/env python3
"""tools/make-initrd: the same bytes for the same input, and an archive that a reader of its own finds in order."""
import os
import stat
import tempfile
import unittest

import tap

make_initrd = tap.tool("make-initrd")
BUSYBOX = "#!/bin/sh\nprintf 'sh\\nbusybox\\nls\\n'\n"


def unpack(data):
    """[(name, mode, uid, gid, mtime, contents)] of a newc archive."""
    at, found = 0, []
    while True:
        assert data[at : at + 6] == b"070701", at
        f = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name_at = at + 110
        name = data[name_at : name_at + f[11] - 1].decode()
        body_at = (name_at + f[11] + 3) & ~3
        if name == "TRAILER!!!":
            return found
        found.append((name, f[1], f[2], f[3], f[5], data[body_at : body_at + f[6]]))
        at = (body_at + f[6] + 3) & ~3


class MakeInitrd(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.busybox = os.path.join(self.directory.name, "busybox")
        with open(self.busybox, "w") as f:
            f.write(BUSYBOX)
        os.chmod(self.busybox, 0o755)

    def make(self):
        scripts = os.path.join(tap.ROOT, "tools", "guest")
        return make_initrd.archive(make_initrd.entries(self.busybox, scripts, "/nonexistent", self.busybox))

    def test_same_bytes(self):
        first = self.make()
        os.utime(self.busybox, (1, 1))
        os.chmod(self.busybox, 0o700)
        self.assertEqual(first, self.make())

    def test_contents(self):
        entries = unpack(self.make())
        names = [e[0] for e in entries]
        self.assertEqual(names, sorted(names))
        for name, _, uid, gid, mtime, _ in entries:
            self.assertEqual((uid, gid, mtime), (0, 0, 0), name)
        by_name = {e[0]: e for e in entries}
        self.assertEqual(by_name["bin/busybox"][5], BUSYBOX.encode())
        self.assertEqual((stat.S_IFMT(by_name["bin/ls"][1]), by_name["bin/ls"][5]), (stat.S_IFLNK, b"busybox"))
        self.assertEqual(stat.S_IFMT(by_name["dev/console"][1]), stat.S_IFCHR)
        self.assertTrue(by_name["init"][1] & 0o111)
        for name in names:  # a directory comes before what is in it
            parent = os.path.dirname(name)
            self.assertTrue(not parent or names.index(parent) < names.index(name), name)


if __name__ == "__main__":
    tap.main()
