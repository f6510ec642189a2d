#!/usr/bin/env python3
"""The wire with faults does what it says, and nothing else."""
import errno
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "house"))
sys.path.insert(0, HERE)
import tap  # noqa: E402
import wire  # noqa: E402

PATIENCE = 20  # seconds: for what comes at once


def message(kind, payload=b""):
    return wire.HEADER.pack(kind.encode(), 1, 0, len(payload), 0) + payload


def numbered(n):
    return message("PAGE", struct.pack("<I", n) * 1000)


class Case(unittest.TestCase):
    def wired(self, *rules, unix=False):
        """Near and far end, with a wire of these rules between them."""
        if unix:
            folder = tempfile.TemporaryDirectory()
            self.addCleanup(folder.cleanup)
            there, here = f"{folder.name}/there", f"unix:{folder.name}/here"
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(there)
            self.listener.listen()
            self.wire = wire.Wire(here, "unix:" + there, rules)
        else:
            self.listener = socket.create_server(("127.0.0.1", 0))
            self.wire = wire.Wire("127.0.0.1:0", "127.0.0.1:%d" % self.listener.getsockname()[1], rules)
        self.listener.settimeout(PATIENCE)
        self.addCleanup(self.listener.close)
        self.at = self.wire.start()
        self.addCleanup(self.wire.end)
        return self.connected()

    def begin(self):
        if self.at.startswith("unix:"):
            near = socket.socket(socket.AF_UNIX)
            near.connect(self.at[5:])
        else:
            near = socket.create_connection(("127.0.0.1", int(self.at.split(":")[1])), PATIENCE)
        near.settimeout(PATIENCE)
        self.addCleanup(near.close)
        return near

    def taken(self):
        far, _ = self.listener.accept()
        far.settimeout(PATIENCE)
        self.addCleanup(far.close)
        return far

    def connected(self):
        near = self.begin()
        return near, self.taken()

    def take(self, s, n):
        data = b""
        while len(data) < n:
            more = s.recv(n - len(data))
            self.assertTrue(more, "it ended")
            data += more
        return data

    def arrives(self, s, *records):
        for r in records:
            self.assertEqual(self.take(s, len(r)), r)

    def ends(self, s):
        self.assertEqual(s.recv(1), b"")

    def is_reset(self, s):
        with self.assertRaises(ConnectionError):
            while s.recv(65536):
                pass

    def wait(self, what):
        end = time.monotonic() + PATIENCE
        while not what():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.002)

    def test_passes(self):
        for unix in (False, True):
            near, far = self.wired(unix=unix)
            records = [message("HELO", b"{}"), message("DONE"), message("PAGE", os.urandom(300000))]
            near.sendall(b"".join(records[:2]))
            self.arrives(far, *records[:2])
            far.sendall(records[0])
            self.arrives(near, records[0])
            near.sendall(records[2])
            near.shutdown(socket.SHUT_WR)
            self.arrives(far, records[2])
            self.ends(far)
            far.sendall(records[1])
            far.close()
            self.arrives(near, records[1])
            self.ends(near)
            self.assertEqual(sorted(self.wire.log), sorted([("up", "HELO", 2), ("up", "DONE", 0), ("down", "HELO", 2),
                                                           ("up", "PAGE", 300000), ("down", "DONE", 0)]))
            self.assertEqual(self.wire.fired, [])

    def test_passes_what_it_does_not_know(self):
        near, far = self.wired("up:*:1:cut")
        data = b"\x16\x03\x01" + os.urandom(5000)
        near.sendall(data)
        self.assertEqual(self.take(far, len(data)), data)
        near.shutdown(socket.SHUT_WR)
        self.ends(far)

    def test_a_part_of_a_message_is_passed(self):
        for part in (numbered(1)[:-1], b"PAG", numbered(2)[:16]):
            near, far = self.wired()
            near.sendall(part)
            near.close()
            self.arrives(far, part)
            self.ends(far)

    def test_cut(self):
        near, far = self.wired("up:PAGE:3:cut")
        near.sendall(message("HELO") + numbered(1) + numbered(2))
        self.arrives(far, message("HELO"), numbered(1), numbered(2))
        near.sendall(numbered(3))
        self.is_reset(near)
        self.is_reset(far)
        self.assertEqual(self.wire.fired, ["up:PAGE:3:cut"])
        # once: the next connection is whole
        near, far = self.connected()
        near.sendall(numbered(3))
        self.arrives(far, numbered(3))

    def test_cut_after(self):
        near, far = self.wired("down:*:2:cut-after")
        far.sendall(message("HELO") + message("DONE"))
        self.arrives(near, message("HELO"), message("DONE"))
        self.is_reset(near)
        self.is_reset(far)

    def test_places(self):
        near, far = self.wired("up:ROUN>PAGE:2:drop")
        records = [numbered(1), message("ROUN"), numbered(2), numbered(3), message("ROUN"), message("ZERO"), numbered(4), numbered(5)]
        near.sendall(b"".join(records))
        self.arrives(far, *records[:6], records[7])
        self.assertEqual(self.wire.fired, ["up:ROUN>PAGE:2:drop"])
        near, far = self.wired("up:PAGE<MACH:1:drop")
        records = [numbered(1), message("ROUN"), numbered(2), numbered(3), message("MACH"), numbered(4)]
        near.sendall(b"".join(records))
        near.close()
        self.arrives(far, *records[:3], *records[4:])
        self.ends(far)
        self.assertEqual(self.wire.fired, ["up:PAGE<MACH:1:drop"])

    def test_hold(self):
        near, far = self.wired("up:PAGE:1:hold")
        near.sendall(numbered(1))
        self.is_silent(far)
        self.wire.release()
        self.arrives(far, numbered(1))

    def test_mend_and_edit(self):
        near, far = self.wired("up:PAGE:1:mend=9", "up:PAGE:2:edit")
        good = wire.with_payload(numbered(1), b"123456789")
        self.assertEqual(wire.HEADER.unpack(good[:16])[4], 0xE3069283)  # RFC 3720's check value
        self.wire.edit = lambda record: record[:16]
        near.sendall(good + good)
        self.arrives(far, wire.with_payload(good, b"103456789"), good[:16])

    def is_silent(self, *sockets):
        for s in sockets:
            s.settimeout(0.05)
            with self.assertRaises(TimeoutError):
                s.recv(1)
            s.settimeout(PATIENCE)

    def test_hole(self):
        for unix in (False, True):
            near, far = self.wired("up:PAGE:2:hole", unix=unix)
            for i in range(1, 3):
                near.sendall(numbered(i))
            self.wait(lambda: self.wire.fired)
            near.sendall(numbered(3))
            far.sendall(message("STOP"))
            self.arrives(far, numbered(1))
            self.is_silent(near, far)
            self.wire.heal()
            self.arrives(far, numbered(2), numbered(3))
            self.arrives(near, message("STOP"))

    def test_nothing_is_acknowledged_in_a_hole(self):
        near, far = self.wired("up:PAGE:1:hole")
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 300)
        near.sendall(numbered(1))
        self.wait(lambda: self.wire.fired)
        near.sendall(numbered(2))
        with self.assertRaises(TimeoutError) as caught:  # the kernel's, not that of PATIENCE
            near.recv(1)
        self.assertEqual(caught.exception.errno, errno.ETIMEDOUT)
        self.is_silent(far)

    def test_nobody_connects_in_a_hole(self):
        near, far = self.wired()
        self.wire.hole()
        with self.assertRaises(TimeoutError):
            socket.create_connection(("127.0.0.1", int(self.at.split(":")[1])), 0.1)
        self.wire.heal()
        self.begin()

    def test_a_reset_is_lost_in_a_hole(self):
        near, far = self.wired("up:PAGE:1:hole-after")
        near.sendall(numbered(1))
        self.arrives(far, numbered(1))
        self.wait(lambda: not self.wire.open.is_set())
        near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        near.close()
        self.is_silent(far)
        self.wire.heal()
        far.sendall(message("STOP"))  # which nobody is there to take
        self.is_reset(far)

    def test_all_of_it_arrives_before_a_cut(self):
        big = message("MACH", os.urandom(8 << 20))
        near, far = self.wired("up:MACH:1:cut-after")
        near.sendall(big)
        self.arrives(far, big)
        self.is_reset(far)

    def test_changes(self):
        a, b, c = numbered(1), numbered(2), numbered(3)
        flipped = bytearray(b)
        flipped[len(b) // 2] ^= 1
        for rule, want in (("drop", [a, c]), ("double", [a, b, b, c]), ("swap", [a, c, b]), ("delay=1", [a, b, c]),
                           ("flip", [a, bytes(flipped), c]), ("flip=0", [a, b"Q" + b[1:], c]),
                           ("flip=-1", [a, b[:-1] + b"\x80", c])):
            near, far = self.wired("up:PAGE:2:" + rule)
            near.sendall(a + b + c)
            self.arrives(far, *want)
            near.shutdown(socket.SHUT_WR)
            self.ends(far)
            self.assertEqual(self.wire.fired, ["up:PAGE:2:" + rule])

    def test_delay(self):
        near, far = self.wired("up:*:1:delay=100")
        before = time.monotonic()
        near.sendall(numbered(1))
        self.arrives(far, numbered(1))
        self.assertGreaterEqual(time.monotonic() - before, 0.1)

    def test_truncate(self):
        for rule, kept in (("truncate", len(numbered(2)) // 2), ("truncate=0", 0), ("truncate=17", 17)):
            near, far = self.wired("up:PAGE:2:" + rule)
            near.sendall(numbered(1) + numbered(2))
            self.arrives(far, numbered(1), numbered(2)[:kept])
            self.ends(far)
            self.ends(near)

    def test_by_hand(self):
        near, far = self.wired()
        self.wire.hole()
        near.sendall(numbered(1))
        self.wire.heal()
        self.arrives(far, numbered(1))
        self.wire.cut()
        self.is_reset(near)
        self.is_reset(far)

    def test_several_rules(self):
        near, far = self.wired("up:PAGE:1:drop", "up:*:3:drop", "down:PAGE:1:drop")
        near.sendall(numbered(1) + numbered(2) + numbered(3) + numbered(4))
        self.arrives(far, numbered(2), numbered(4))
        self.assertEqual(self.wire.fired, ["up:PAGE:1:drop", "up:*:3:drop"])

    def test_nobody_there(self):
        near, far = self.wired()
        self.listener.close()
        with self.assertRaises(ConnectionError):  # which may be before the connection is seen here
            self.begin().recv(1)

    def test_bad_rules(self):
        for rule in ("", "up:PAGE:1", "left:PAGE:1:cut", "up:PAG:1:cut", "up:PAGE:0:cut", "up:PAGE:x:cut",
                     "up:PAGE:1:burn", "up:PAGE:1:cut=3", "up:PAGE:1:delay"):
            with self.assertRaises(ValueError):
                wire.Rule(rule)

    def test_program(self):
        listener = socket.create_server(("127.0.0.1", 0))
        listener.settimeout(PATIENCE)
        with subprocess.Popen([sys.executable, "-B", os.path.join(HERE, "wire.py"), "--listen", "127.0.0.1:0", "--to",
                               "127.0.0.1:%d" % listener.getsockname()[1], "up:HELO:1:double"],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as p:
            word, at = p.stdout.readline().split()
            self.assertEqual(word, "listening")
            with socket.create_connection(("127.0.0.1", int(at.split(":")[1])), PATIENCE) as near:
                far, _ = listener.accept()
                far.settimeout(PATIENCE)
                near.sendall(message("HELO"))
                self.arrives(far, message("HELO"), message("HELO"))
                self.assertEqual(p.stdout.readline(), "fired up:HELO:1:double\n")
                p.stdin.write("cut\n")
                p.stdin.flush()
                self.is_reset(near)
            far.close()
            p.stdin.close()
            self.assertEqual(p.wait(PATIENCE), 0)
        listener.close()


if __name__ == "__main__":
    tap.main()
