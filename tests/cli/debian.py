#!/usr/bin/env python3
"""A Debian with a web server is built as an image of a machine, boots, and is worked in: login, exec, cp, ssh, the web server
from the host, stop, start, what the first boot does and the second does not.

mmdebstrap downloads 160 MB from where this host's apt does.
"""
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

from harness import Skip, run_tests

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BOOT = 300
BUILD = 1200
os.environ["PATH"] += ":/usr/sbin:/sbin"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def build(place):
    missing = [p for p in ("mmdebstrap", "mke2fs") if not shutil.which(p)]
    if missing:
        raise Skip("not installed: " + " ".join(missing))
    place.env["XDG_DATA_HOME"] = os.path.join(place.path, "data")
    status, out, err = place.run("image", "build", "--name", "vm:web", "--include", "nginx-light", "vm:debian", timeout=BUILD)
    assert status == 0 and out == "vm:web\n", (status, out, err)
    assert "installing remaining packages inside the chroot" in err.splitlines() and "making the disk" in err.splitlines(), err
    (row,) = json.loads(place.good("image", "list", "--format", "json"))
    assert row["name"] == "vm:web" and row["suite"] == "bookworm" and row["include"] == "nginx-light", row
    assert 200 << 20 < row["size"] < 1 << 30 and row["disk_size"] == 2 << 30, row


def await_system(place, name):
    """exec waits for the agent for a minute; a busy host takes longer to boot a Debian."""
    deadline = time.monotonic() + BOOT
    while place.run("exec", name, "true", timeout=BOOT)[0]:
        assert time.monotonic() < deadline, place.good("logs", name)[-3000:]
        time.sleep(1)
    place.good("exec", name, "systemctl", "is-system-running", "--wait", timeout=BOOT)


def await_login(place, name):
    await_system(place, name)
    place.until(lambda: name + " login: " in place.good("logs", name), "a login on the console")


def fetch(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/page.html", timeout=60) as answer:
        return answer.read()


def work_in(place, web, ssh, key):
    assert place.good("exec", "web", "systemctl", "is-active", "ssh", "trapeze-agent", "nginx") == "active\nactive\nactive\n"
    assert place.good("exec", "web", "stat", "-c", "%U:%G %a", "/etc/shadow") == "root:shadow 640\n"  # owners are right
    assert place.good("exec", "-u", "nobody", "web", "id", "-un") == "nobody\n"
    assert place.good("exec", "web", "hostname") == "web\n"
    assert place.good("exec", "-u", "ada", "web", "sudo", "-n", "id", "-un") == "root\n"
    assert place.run("exec", "web", "false")[0] == 1
    place.good("exec", "web", "ping", "-c", "1", "-W", "20", "10.0.2.2")
    blocks = int(place.good("exec", "web", "stat", "-f", "-c", "%b", "/")) * int(place.good("exec", "web", "stat", "-f", "-c", "%S", "/"))
    assert blocks > 2.5 * (1 << 30), blocks  # the file system followed --disk-size
    page = os.path.join(place.path, "page.html")
    with open(page, "w") as f:
        f.write("a page\n" * 5000)
    place.good("cp", page, "web:/var/www/html/")
    with open(page, "rb") as f:
        assert fetch(web) == f.read()
    place.good("cp", os.path.join(ROOT, "docs"), "web:/srv/")
    back = os.path.join(place.path, "back")
    place.good("cp", "web:/srv/docs", back)
    subprocess.run(["diff", "-r", os.path.join(ROOT, "docs"), back], check=True)
    shutil.rmtree(back)
    if shutil.which("ssh"):
        out = subprocess.run(["ssh", "-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-i", key, "-p",
                              str(ssh), "ada@127.0.0.1", "id -un"], check=True, stdout=subprocess.PIPE, timeout=BOOT)
        assert out.stdout == b"ada\n", out


def second_boot(place, web):
    """What it wrote is there; who it is was settled at the first boot."""
    who = "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub ~ada/.ssh/authorized_keys"
    before = place.good("exec", "web", "sh", "-c", who)
    place.good("exec", "web", "sh", "-c", "echo other >/etc/hostname; useradd eve")
    place.good("stop", "--time", "120", "web", timeout=BOOT)
    (m,) = place.machines("-a")
    assert m["exit_code"] == 0, m
    place.good("start", "web")
    await_system(place, "web")
    assert before == place.good("exec", "web", "sh", "-c", who)
    assert place.good("exec", "web", "hostname") == "other\n"
    assert fetch(web).startswith(b"a page\n")
    place.good("exec", "web", "id", "eve")
    assert "fsck not present" not in place.good("logs", "web")
    assert not place.good("exec", "web", "systemctl", "--failed", "--quiet", "--no-legend"), "units have failed"


def debian(place):
    build(place)
    web, ssh = free_port(), free_port()
    key = os.path.join(place.path, "key")
    with open(key + ".pub", "w") as f:
        f.write("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPxnbsvYsUQLT6wSZjOa9Y0Hp4Qn4Xw4w0oVYVtnYB1m test\n")
    if shutil.which("ssh-keygen"):
        os.unlink(key + ".pub")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    place.good("run", "-d", "--name", "web", "--user", "ada", "--ssh-key", key + ".pub", "--memory", "1G", "--disk-size", "3G",
               "-p", f"{web}:80", "-p", f"{ssh}:22", "vm:web")
    place.good("image", "rm", "vm:web")  # it has a copy
    await_login(place, "web")
    work_in(place, web, ssh, key)
    second_boot(place, web)
    place.good("stop", "--time", "120", "web", timeout=BOOT)
    place.good("rm", "web")


if __name__ == "__main__":
    sys.exit(run_tests([debian]))
