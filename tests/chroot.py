"""Tests of containers in a chroot: how they get out of it."""
import os
import subprocess
import sys
import tempfile

# argv: a bind mount of the chroot, the directory to go on in, a command. From a directory above the root ".." leads to the
# mount namespace's own root, and there the bind mount can take its place.
LEAVE_CHROOT = """
import ctypes, os, sys
def system_call(number, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, *arguments) < 0:
        sys.exit(f"system call {number}: {os.strerror(ctypes.get_errno())}")
PIVOT_ROOT, UMOUNT2, MNT_DETACH = 155, 166, 2
root = os.open(sys.argv[1], os.O_PATH)
os.chdir("/")
os.chroot("/tmp")
while os.stat(".").st_ino != os.stat("..").st_ino or os.stat(".").st_dev != os.stat("..").st_dev:
    os.chdir("..")
os.chroot(".")
os.fchdir(root)
system_call(PIVOT_ROOT, b".", b".")
system_call(UMOUNT2, b".", MNT_DETACH)
os.chdir(sys.argv[2])
os.execvp(sys.argv[3], sys.argv[3:])
"""


def leave_chroot():
    """In a chroot a process can be given neither another root nor a user namespace: go on in a mount namespace with / for root."""
    with open("/proc/self/mountinfo") as f:
        if any(line.split()[4] == "/" for line in f):
            return
    assert "CHROOT_LEFT" not in os.environ, "there is still no mount at /"
    root = tempfile.mkdtemp(prefix="trapeze-root-")
    script = 'mount --rbind / "$0" && exec "$@"'
    try:
        done = subprocess.run(["unshare", "--mount", "--propagation", "unchanged", "sh", "-c", script, root,
                               sys.executable, "-c", LEAVE_CHROOT, root, os.getcwd(), sys.executable, "-B", *sys.argv],
                              stdin=subprocess.DEVNULL, env={**os.environ, "CHROOT_LEFT": "1"})
    finally:
        os.rmdir(root)
    sys.exit(done.returncode)
