"""A network namespace of the test's own: what containers do to the host's network is done there."""
import ctypes
import os
import subprocess
import sys

CLONE_NEWNS, CLONE_NEWNET, MS_REC, MS_SLAVE, MS_BIND = 0x20000, 0x40000000, 0x4000, 0x80000, 0x1000


def own_network(resolver=None):
    """For this process and its children; `resolver`: a file that stands for /etc/resolv.conf there."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET | (CLONE_NEWNS if resolver else 0)):
        sys.exit("network namespace: " + os.strerror(ctypes.get_errno()))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    if resolver and (libc.mount(None, b"/", None, MS_REC | MS_SLAVE, None) or
                     libc.mount(resolver.encode(), os.path.realpath("/etc/resolv.conf").encode(), None, MS_BIND, None)):
        sys.exit("resolv.conf: " + os.strerror(ctypes.get_errno()))
