#!/usr/bin/env python3
"""debian.py DIRECTORY: a Debian made by tools/debian-image boots, and its agent, a service there, serves exec, cp and stop.

The image is made in DIRECTORY the first time (mmdebstrap downloads 150 MB) and kept; each run works on a copy.
"""
import os
import shutil
import subprocess
import sys

from harness import Skip, run_tests

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DIRECTORY = sys.argv[1]
BOOT = 120


def image(place):
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = [p for p in ("mmdebstrap", "mke2fs", "fakeroot") if not shutil.which(p)]
    if missing:
        raise Skip("not installed: " + " ".join(missing))
    if not os.path.exists(os.path.join(DIRECTORY, "disk.img")):
        subprocess.run([os.path.join(ROOT, "tools/debian-image"), "bookworm", DIRECTORY, os.environ["AGENT"]], check=True,
                       stdout=subprocess.DEVNULL)
    disk = os.path.join(place.path, "disk.img")
    subprocess.run(["cp", "--sparse=always", os.path.join(DIRECTORY, "disk.img"), disk], check=True)
    return disk


def debian(place):
    disk = image(place)
    place.good("run", "-d", "--name", "debian", "--kernel", os.path.join(DIRECTORY, "vmlinuz"), "--initrd",
               os.path.join(DIRECTORY, "initrd.img"), "--disk", disk, "--memory", "1G", "--append", "console=ttyS0 root=/dev/vda")
    assert "Debian" in place.good("exec", "debian", "cat", "/etc/os-release", timeout=BOOT)
    place.run("exec", "debian", "systemctl", "is-system-running", "--wait", timeout=BOOT)
    assert place.good("exec", "debian", "systemctl", "is-active", "ssh", "trapeze-agent") == "active\nactive\n"
    assert place.good("exec", "debian", "stat", "-c", "%U:%G %a", "/etc/shadow") == "root:shadow 640\n"  # owners are right
    assert place.good("exec", "-u", "nobody", "debian", "id", "-un") == "nobody\n"
    place.until(lambda: "login: " in place.good("logs", "debian"), "a login on the console")
    place.good("cp", os.path.join(ROOT, "docs"), "debian:/srv/")
    back = os.path.join(place.path, "back")
    place.good("cp", "debian:/srv/docs", back)
    subprocess.run(["diff", "-r", os.path.join(ROOT, "docs"), back], check=True)
    place.good("stop", "--time", "60", "debian", timeout=BOOT)
    (m,) = place.machines("-a")
    assert m["exit_code"] == 0, m
    place.good("rm", "debian")
    os.unlink(disk)


if __name__ == "__main__":
    sys.exit(run_tests([debian]))
