"""Those that are compared: the host itself, Trapeze, QEMU's TCG. Each can start a mode of bench/kit/init.

A peer has `name`; `start(mode, args, options, cpus)`, which returns a Run; `clean()`; `disk(image)`, the device that this
image is, and the options for it; and guests `pids(run)` and `is_guest_memory(name, size_kib)`, by which memory is told apart.
"""
import json
import os
import re
import select
import signal
import subprocess
import time

from lib.usage import idlest_cpu

MEMORY_MIB = 512


class Run:
    """A running guest, or program of the host: its output as lines with the time they came at, and its processes."""

    def __init__(self, command, env=None, preexec=None):
        self.begin = time.monotonic()
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, start_new_session=True, env=env, preexec_fn=preexec)
        os.set_blocking(self.process.stdout.fileno(), False)
        self.buffer = b""
        self.lines = []

    def read(self, timeout):
        """Take in what came; False at the end of the output."""
        fd = self.process.stdout.fileno()
        if not select.select([fd], [], [], timeout)[0]:
            return True
        data = os.read(fd, 65536)
        now = time.monotonic() - self.begin
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        self.lines += [(now, line.decode(errors="replace").rstrip("\r")) for line in lines]
        return bool(data)

    def wait_for(self, pattern, timeout):
        """(seconds since the start, match) of the first line that matches, or None."""
        deadline = self.begin + timeout
        seen = 0
        while True:
            for at, line in self.lines[seen:]:
                match = re.search(pattern, line)
                if match:
                    return at, match
            seen = len(self.lines)
            if time.monotonic() > deadline or not self.read(0.2):
                return None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            os.killpg(self.process.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process.stdout.close()


def append(mode, args):
    """Kernel arguments for bench/kit/init."""
    return f"console=ttyS0 quiet panic=-1 kit.mode={mode}" + (f" kit.args={args}" if args else "")


class Native:
    """The same binaries on the host, on one CPU where guests have one."""
    name = "native"

    # the guest has a tmpfs and its devices at these places too
    CHROOT = 'mount -t tmpfs tmp "$1/tmp" && mount --rbind /dev "$1/dev" && exec chroot "$1" /programs/run "$2"'

    def __init__(self, files):
        self.files = files

    def command(self, mode, args):
        if mode == "programs":
            user = [] if os.geteuid() == 0 else ["--map-root-user"]
            return ["unshare", "--mount", *user, "sh", "-c", self.CHROOT, "sh", self.files.root, args]
        return [self.files.kit] + {"simple": ["--simple", args], "parallel": ["--parallel", args], "block": ["--block", *args.split(":")],
                                   "quick": ["--quick"], "all": []}[mode]

    def start(self, mode, args="", options=(), cpus=1):
        command = self.command(mode, args)
        # like the guest's last line, so that nobody need know whose output it is
        command = ["sh", "-c", '"$@"; echo "KIT DONE status=$?"', "sh", *command]
        only = {idlest_cpu()} if cpus == 1 else os.sched_getaffinity(0)
        # the guest's /tmp is a tmpfs too
        return Run(command, dict(os.environ, KIT_TMP="/dev/shm"), preexec=lambda: os.sched_setaffinity(0, only))

    def disk(self, image):
        return image, []

    def clean(self):
        pass


class Trapeze:
    name = "trapeze"

    def __init__(self, files, program, engine, state):
        self.files, self.program, self.engine = files, program, engine
        self.env = dict(os.environ, XDG_STATE_HOME=state)

    def start(self, mode, args="", options=(), cpus=1):
        # --time 0: an idle guest is not asked to shut down
        command = [self.program, "run", "--name", "bench", "--rm", "--no-reboot", "--time", "0",
                   "--engine", self.engine, "--memory", f"{MEMORY_MIB}M", "--cpus", str(cpus), *options,
                   "--kernel", self.files.kernel, "--initrd", self.files.initrd(mode), "--append", append(mode, args)]
        return Run(command, self.env)

    def pids(self, run):
        out = subprocess.run([self.program, "inspect", "bench"], env=self.env, check=True, stdout=subprocess.PIPE)
        machine = json.loads(out.stdout)
        networks = [n["process"] for n in machine.get("networks", []) if n["process"]]
        return [machine["keeper"], machine["cell"], *networks]

    def disk(self, image):
        return "/dev/vda", ["--disk", f"{image},format=raw,cache=none"]

    def clean(self):
        """What a run that went wrong may have left."""
        subprocess.run([self.program, "rm", "-f", "bench"], env=self.env, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)

    def is_guest_memory(self, name, size_kib):
        return "memfd:" in name and size_kib == MEMORY_MIB * 1024


class Tcg:
    name = "tcg"

    def __init__(self, files, aio):
        self.files, self.aio = files, aio

    def start(self, mode, args="", options=(), cpus=1):
        command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
                   "-no-reboot", "-M", "pc", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(cpus),
                   "-m", str(MEMORY_MIB), "-kernel", self.files.kernel, "-initrd", self.files.initrd(mode),
                   "-append", append(mode, args), *options]
        return Run(command)

    def disk(self, image):
        return "/dev/vda", ["-object", "iothread,id=io0", "-device", "virtio-blk-pci,drive=disk0,iothread=io0", "-drive",
                            f"file={image},format=raw,if=none,id=disk0,cache=none,aio={self.aio}"]

    def pids(self, run):
        return [run.process.pid]

    def clean(self):
        pass

    def is_guest_memory(self, name, size_kib):
        return not name and size_kib >= MEMORY_MIB * 1024
