"""What processes use: CPU time and memory, from /proc."""
import os
import re

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids):
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


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
