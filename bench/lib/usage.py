"""What processes use, and the host as a whole: CPU time and memory, from /proc (proc(5))."""
import os
import re
import time

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids):
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def busy_seconds():
    """CPU -> seconds that it was not idle since the host started."""
    busy = {}
    with open("/proc/stat") as f:
        for line in f:
            m = re.match(r"cpu(\d+) (\d+) (\d+) (\d+) \d+ \d+ (\d+) (\d+) (\d+)", line)
            if m:
                busy[int(m[1])] = sum(int(m[n]) for n in range(2, 8)) / TICKS
    return busy


def idlest_cpu(seconds=0.2):
    """Of the CPUs that we may use, the one that was busy least in the next moment."""
    before = busy_seconds()
    time.sleep(seconds)
    after = busy_seconds()
    return min(os.sched_getaffinity(0), key=lambda cpu: after.get(cpu, 0) - before.get(cpu, 0))


def pss_mib(pids, is_guest_memory):
    """(all, guest memory): proportional set size of processes in MiB."""
    whole = guest = 0
    for pid in pids:
        ours = False
        with open(f"/proc/{pid}/smaps") as f:
            for line in f:
                head = re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ *(.*)", line)
                if head:
                    size = (int(head[2], 16) - int(head[1], 16)) // 1024
                    ours = is_guest_memory(head[3].strip(), size)
                elif line.startswith("Pss:"):
                    kib = int(line.split()[1])
                    whole += kib
                    guest += kib if ours else 0
    return whole / 1024, guest / 1024
