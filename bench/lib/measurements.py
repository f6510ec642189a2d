"""The measurements. Each takes a peer and the options, and returns a Reading of one round."""
import re
import time

from lib.usage import cpu_seconds, pss_mib

PROGRAMS = ["shell", "interpreter", "compressor", "database", "numeric"]
SMALL_CACHE = "1M"
PV_WORKS = ("unmap", "lock", "wake")
PV_VARIANTS = {"all": [], "no IPI": ["-kvm_pv_ipi"], "no unhalt": ["-kvm_pv_unhalt"], "no TLB flush": ["-kvm_pv_tlb_flush"],
               "no steal time": ["-kvm_steal_time"],
               "none": ["-kvm_pv_ipi", "-kvm_pv_unhalt", "-kvm_steal_time"]}


class Reading:
    """What one run came to.

    values: name -> cost, less being better (`simple` and `disk/..` are rates); sums: program -> set of checksums; wrong: lines that
    tell of something wrong in the guest; skipped: rows of the kit whose CPU feature the guest has not; clocks: seconds
    between two lines by the (guest's, host's) clock.
    """

    def __init__(self):
        self.values, self.sums, self.wrong, self.skipped, self.clocks = {}, {}, [], set(), None

    def keep_least(self, name, value):
        self.values[name] = min(value, self.values.get(name, value))

    def __str__(self):
        text = [f"{name.split('/')[-1]}={value:.3g}" for name, value in self.values.items()]
        return (" ".join(text) if len(text) < 12 else f"{len(text) - 1} rows {text[-1]}") + "".join(f"\n    {w}" for w in self.wrong)


def boot(peer, args):
    reading = Reading()
    with peer.start("boot") as run:
        seen = run.wait_for(r"^BOOTED", args.timeout)
        run.wait_for(r"^KIT DONE", args.timeout)
        if seen:
            reading.values["boot"] = seen[0]
    return reading


def simple(peer, args):
    reading = Reading()
    with peer.start("simple", "3") as run:
        seen = run.wait_for(r"^simple ([0-9.]+) M/s", args.timeout)
        if seen:
            reading.values["simple"] = float(seen[1][1])
    return reading


def idle(peer, args):
    reading = Reading()
    with peer.start("idle") as run:
        if run.wait_for(r"^IDLE", args.timeout):
            time.sleep(5)  # what the kernel still does after boot
            pids = peer.pids(run)
            before, begin = cpu_seconds(pids), time.monotonic()
            time.sleep(args.settle)
            used = cpu_seconds(pids) - before
            whole, memory = pss_mib(pids, peer.is_guest_memory)
            reading.values = {"idle": 100 * used / (time.monotonic() - begin), "pss": whole - memory, "guest": memory}
    return reading


def read_programs(reading, lines, prefix):
    """Take in what bench/programs/run printed: the fastest turn of each program in seconds, checksums, the clock."""
    clocks = []
    for at, line in lines:
        m = re.match(r"(\w+) +(\d+) us$|sum (\w+) ([0-9a-f]{64})|now ([0-9.]+)|\S+ +BAD", line)
        if not m:
            continue
        if m[1]:
            reading.keep_least(f"{prefix}/{m[1]}", int(m[2]) / 1e6)
        elif m[3]:
            reading.sums.setdefault(m[3], set()).add(m[4])
        elif m[5]:
            clocks.append((float(m[5]), at))
        else:
            reading.wrong.append(line)
    if len(clocks) == 2:
        reading.clocks = tuple(end - begin for begin, end in zip(*clocks))


def run_programs(peer, args, prefix, turns, options=()):
    reading = Reading()
    with peer.start("programs", str(turns), options) as run:
        ended = run.wait_for(r"^KIT DONE status=(\d+)", 10 * args.timeout)
    read_programs(reading, run.lines, prefix)
    if not ended or ended[1][1] != "0":
        last = f" after: {run.lines[-1][1]}" if run.lines else ""
        reading.wrong.append(f"{prefix}: " + (f"status {ended[1][1]}" if ended else "did not end") + last)
    return reading


def programs(peer, args):
    # native turns are short, and what all is compared with
    return run_programs(peer, args, "program", args.turns * (2 if peer.name == "native" else 1))


def cache(peer, args):
    """The same programs once, with little room for translated code."""
    return run_programs(peer, args, "small", 1, ["--code-cache", SMALL_CACHE])


def cpus(peer, args):
    """Integer work by one thread and by more: how long a unit of work takes as against one thread alone."""
    reading = Reading()
    for n in (2, 4):
        if peer.name == "native" and n > 2:
            continue
        with peer.start("parallel", str(n), cpus=n) as run:
            seen = run.wait_for(r"^parallel (\d+) one ([0-9.]+) s all ([0-9.]+) s|^parallel +BAD", args.timeout)
            run.wait_for(r"^KIT DONE", args.timeout)
        if not seen or not seen[1][1]:
            reading.wrong.append(f"cpus: {n} threads: " + (seen[1][0] if seen else "did not end"))
        else:
            one, every = float(seen[1][2]), float(seen[1][3])
            reading.values.update({f"cpus/{n}": every / n / one, f"cpus/unit{n}": every / n})
    return reading


def pv(peer, args):
    """Threads that disturb each other in the kernel, on twice as many CPUs as the host has: with and without what it says KVM has."""
    reading = Reading()
    for name, without in PV_VARIANTS.items():
        with peer.start("contend", "4:1", ["--cpu", ",".join(["host", *without])], cpus=4) as run:
            if not run.wait_for(r"^KIT DONE status=0", args.timeout):
                reading.wrong.append(f"pv: {name}: did not end well")
        for _, line in run.lines:
            if m := re.match(r"contend (\w+) (\d+) /s", line):
                if int(m[2]):
                    reading.values[f"pv/{m[1]}/{name}"] = 1e9 / int(m[2])
                else:
                    reading.wrong.append(f"pv: {name}: {m[1]} failed")
    return reading


def kit(peer, args):
    """Every workload of the kit: nanoseconds an operation or a byte."""
    reading = Reading()
    with peer.start("all" if args.kit else "quick") as run:
        if not run.wait_for(r"^KIT DONE", 20 * args.timeout):
            reading.wrong.append("kit: did not end")
    for _, line in run.lines:
        m = re.match(r"(\w+) +(?:([0-9.]+) (ns/op|MB/s)|(BAD)|(SKIP))", line)
        if not m:
            continue
        if m[4]:
            reading.wrong.append(line)
        elif m[5]:
            reading.skipped.add(m[1])
        elif float(m[2]) > 0:
            reading.values["kit/" + m[1]] = 1e3 / float(m[2]) if m[3] == "MB/s" else float(m[2])
    return reading


def disk(peer, args, more=(), name="disk"):
    """The kit's rows about disks: rates. The image is the same for all, and past the host's page cache."""
    reading = Reading()
    device, options = peer.disk(args.image)
    with peer.start("block", f"{device}:{args.disk_seconds}", [*options, *more]) as run:
        ended = run.wait_for(r"^KIT DONE status=(\d+)", args.timeout)
    for _, line in run.lines:
        m = re.match(r"blk_(\w+) +(?:([0-9.]+) (MB/s|op/s)|BAD)", line)
        if m and m[2]:
            reading.values[f"{name}/{m[1]}"] = float(m[2])
        elif m:
            reading.wrong.append(line)
    if not ended or ended[1][1] != "0":
        reading.wrong.append(f"{name}: " + (f"status {ended[1][1]}" if ended else "did not end"))
    return reading


def mmio(peer, args):
    """The same disk in a window of memory."""
    return disk(peer, args, ["--virtio", "mmio"], "mmio")


MEASUREMENTS = {f.__name__: f for f in (boot, simple, idle, programs, cache, cpus, pv, disk, mmio, kit)}
# those that are not for every peer
ONLY_FOR = {"boot": ("trapeze", "tcg"), "idle": ("trapeze", "tcg"), "cache": ("trapeze",),
            "pv": ("trapeze",), "mmio": ("trapeze",)}
