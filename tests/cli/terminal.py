"""A person at a terminal: the program on a pseudo-terminal of its own."""
import os
import pty
import select
import subprocess
import termios
import time

from harness import PATIENCE, TRAPEZE


class Terminal:
    def __init__(self, place, *words):
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""
        self.place = place
        self.process = None
        if words:
            self.start(*words)

    def start(self, *words):
        def take_terminal():
            os.setsid()
            os.close(os.open(os.ttyname(0), os.O_RDWR))  # a session leader's first terminal becomes its own

        self.process = subprocess.Popen([TRAPEZE, *words], env=self.place.env, stdin=self.slave, stdout=self.slave,
                                        stderr=self.slave, preexec_fn=take_terminal)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def read(self, seconds):
        if select.select([self.master], [], [], seconds)[0]:
            self.seen += os.read(self.master, 4096)

    def expect(self, text):
        """Wait for `text` in what the terminal shows, and go on behind it."""
        deadline = time.monotonic() + PATIENCE
        while text.encode() not in self.seen:
            assert time.monotonic() < deadline, f"no {text!r} in {self.seen!r}"
            assert self.process.poll() is None or select.select([self.master], [], [], 0)[0], \
                f"ended without {text!r}: {self.seen!r}"
            self.read(0.1)
        self.seen = self.seen.split(text.encode(), 1)[1]

    def type(self, text):
        os.write(self.master, text.encode())

    def end(self):
        """Exit status; what is still printed is read away."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"does not end; shows {self.seen!r}"
            self.read(0.05)
        return self.process.returncode

    def restored(self):
        return termios.tcgetattr(self.slave) == self.before
