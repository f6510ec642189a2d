"""What a container sees and may do: namespaces, mounts, devices, limits, capabilities, filters, hooks."""
import ctypes
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time

from oci import OCI, Skip, run_tests


def own_namespaces(box):
    kinds = ("pid", "net", "ipc", "uts", "mnt", "cgroup")
    out = box.run("for n in %s; do readlink /proc/self/ns/$n; done; echo $$; hostname" % " ".join(kinds)).split()
    for kind, link in zip(kinds, out):
        assert link.startswith(kind) and link != os.readlink(f"/proc/self/ns/{kind}"), (kind, link)
    assert out[-2:] == ["1", "box"]


def shared_namespaces(box):
    box.namespaces("mount", "pid")
    del box.config["hostname"]
    out = box.run("for n in net ipc uts; do readlink /proc/self/ns/$n; done").split()
    assert out == [os.readlink(f"/proc/self/ns/{k}") for k in ("net", "ipc", "uts")]


def joined_namespaces(box):
    holder = subprocess.Popen(["unshare", "--net", "--ipc", "--uts", "--pid", "--fork", "--kill-child", "sleep", "1000"])
    try:
        box.until(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != os.readlink("/proc/self/ns/net"), "its namespaces")
        path = f"/proc/{holder.pid}/ns/"
        box.until(lambda: os.path.exists(path + "pid_for_children") and os.readlink(path + "pid_for_children") != os.readlink("/proc/self/ns/pid"),
                  "its pid namespace")
        box.namespaces("mount", network=path + "net", ipc=path + "ipc", uts=path + "uts", pid=path + "pid_for_children")
        out = box.run("for n in net ipc uts pid; do readlink /proc/self/ns/$n; done; hostname").split()
        names = [os.readlink(path + k) for k in ("net", "ipc", "uts", "pid_for_children")]
        assert out[:4] == names and out[4] == "box", (out, names)
        assert os.readlink("/proc/self/ns/uts") != names[2]
    finally:
        holder.kill()
        holder.wait()
    box.namespaces("mount", network="/nonexistent")
    del box.config["hostname"]
    box.run_refused(["namespace network", "/nonexistent"])


def time_namespace(box):
    if not os.path.exists("/proc/self/ns/time"):
        raise Skip("the kernel has no time namespaces")
    box.config["linux"]["namespaces"].append({"type": "time"})
    box.config["linux"]["timeOffsets"] = {"boottime": {"secs": 86400 * 365, "nanosecs": 0}, "monotonic": {"secs": 7}}
    up = float(box.run("cat /proc/uptime").split()[0])
    assert up > 86400 * 365, up


def user_namespace(box):
    box.user_namespace()
    out = box.run("id -u; cat /proc/self/uid_map; touch /made; stat -c %u /made; hostname; echo x > /dev/null; ls -ln /dev/zero")
    lines = out.splitlines()
    assert lines[0] == "0" and lines[1].split() == ["0", "100000", "65536"] and lines[2] == "0", out
    assert os.stat(os.path.join(box.rootfs, "made")).st_uid == 100000


def user_namespace_with_sources_nobody_else_may_see(box):
    box.user_namespace()
    secret = os.path.join(box.path, "secret")
    os.makedirs(os.path.join(secret, "given"))
    with open(os.path.join(secret, "given/file"), "w") as f:
        f.write("seen\n")
    os.chmod(secret, 0o700)
    box.mount("/mnt", os.path.join(secret, "given"), "bind", "ro")
    assert box.run("cat /mnt/file") == "seen\n"


def mounts_with_options(box):
    source = os.path.join(box.path, "source")
    os.makedirs(os.path.join(source, "sub"))
    with open(os.path.join(source, "file"), "w") as f:
        f.write("data\n")
    box.mount("/ro", source, "rbind", "ro", "nosuid", "noexec")
    box.mount("/rw", "../source", "bind")
    box.mount("/deep/er/dir", source, "bind", "ro")
    box.mount("/etc/one", source + "/file", "bind")
    box.mount("/small", "tmpfs", "size=64k", "mode=700", "nodev", "noatime", type="tmpfs")
    box.mount("/locked", "tmpfs", "ro", type="tmpfs")
    out = box.run("cat /ro/file /etc/one /deep/er/dir/file; touch /ro/x || echo refused; touch /rw/made; touch /locked/x || echo locked;"
                  "stat -c %a /small; dd if=/dev/zero of=/small/big bs=1k count=100 2>/dev/null || echo full; cat /proc/mounts")
    assert out.startswith("data\n" * 3 + "refused\nlocked\n700\nfull\n"), out
    assert os.path.exists(os.path.join(source, "made"))
    options = {l.split()[1]: l.split()[3].split(",") for l in out.splitlines() if len(l.split()) == 6}
    assert {"ro", "nosuid", "noexec"} <= set(options["/ro"]) and "rw" in options["/rw"], options
    assert {"nodev", "noatime"} <= set(options["/small"]) and "ro" in options["/locked"], options


def recursive_read_only(box):
    source = os.path.join(box.path, "source")
    os.makedirs(os.path.join(source, "sub"))
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", os.path.join(source, "sub")], check=True)
    try:
        box.mount("/plain", source, "rbind", "ro")
        box.mount("/whole", source, "rbind", "rro")
        out = box.run("touch /plain/sub/a && echo below; touch /whole/sub/b || echo refused")
        assert out == "below\nrefused\n", out
    finally:
        subprocess.run(["umount", os.path.join(source, "sub")], check=True)


def propagation(box):
    source = os.path.join(box.path, "source")
    os.makedirs(source)
    box.mount("/p", source, "rbind", "rprivate")
    box.mount("/s", source, "rbind", "rshared")
    box.config["linux"]["rootfsPropagation"] = "shared"
    lines = [l.split() for l in box.run("cat /proc/self/mountinfo").splitlines()]
    by = {l[4]: l[6] for l in lines}
    assert by["/p"] == "-" and by["/s"].startswith("shared:") and by["/"].startswith("shared:"), by
    del box.config["linux"]["rootfsPropagation"]
    lines = [l.split() for l in box.run("cat /proc/self/mountinfo").splitlines()]
    assert not {l[4]: l[6] for l in lines}["/"].startswith("shared:")


def idmapped_mount(box):
    source = os.path.join(box.path, "source")
    os.makedirs(source)
    open(os.path.join(source, "f"), "w").close()
    os.chown(os.path.join(source, "f"), 5, 6)
    maps = [{"containerID": 0, "hostID": 1000, "size": 100}]
    box.mount("/m", source, "bind", "idmap", uidMappings=maps, gidMappings=maps)
    box.sh("stat -c '%u %g' /m/f")
    box.write()
    status, out, err = box.call("run", "-b", box.bundle, box.name)
    if status and "may not have it" in err:
        raise Skip("the file system of the temporary directory has no id-mapped mounts")
    assert out == "1005 1006\n", err + out
    box.config["mounts"][-1] = {"destination": "/m", "type": "bind", "source": source, "options": ["bind", "idmap"]}
    box.run_refused("there are no mappings")


def copy_up(box):
    os.makedirs(os.path.join(box.rootfs, "data/deep"))
    with open(os.path.join(box.rootfs, "data/deep/f"), "w") as f:
        f.write("old\n")
    os.symlink("deep/f", os.path.join(box.rootfs, "data/l"))
    box.mount("/data", "tmpfs", "tmpcopyup", type="tmpfs")
    assert box.run("cat /data/l; echo new > /data/deep/f; cat /data/l") == "old\nnew\n"
    with open(os.path.join(box.rootfs, "data/deep/f")) as f:
        assert f.read() == "old\n"


def read_only_root(box):
    box.config["root"]["readonly"] = True
    box.mount("/tmp", "tmpfs", type="tmpfs")
    assert box.run("touch /x 2>/dev/null || echo refused; touch /tmp/x && echo fine") == "refused\nfine\n"


def masked_and_read_only_paths(box):
    out = box.run("wc -c < /proc/keys; ls -A /sys/firmware | wc -l; echo 0 > /proc/sys/kernel/printk; echo b > /proc/sysrq-trigger; echo end")
    assert out.split() == ["0", "0", "end"], out


def devices(box):
    box.config["linux"]["devices"] = [
        {"type": "c", "path": "/dev/fuse", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 3, "gid": 4},
        {"type": "p", "path": "/dev/deep/pipe", "fileMode": 0o600}]
    out = box.run("for d in null zero full random urandom tty; do stat -c '%n %t %T %a' /dev/$d; done; stat -c '%t %T %a %u %g' /dev/fuse;"
                  "test -p /dev/deep/pipe && echo pipe; for l in ptmx fd stdin; do readlink /dev/$l; done")
    assert out.split("\n")[:9] == ["/dev/null 1 3 666", "/dev/zero 1 5 666", "/dev/full 1 7 666", "/dev/random 1 8 666",
                                   "/dev/urandom 1 9 666", "/dev/tty 5 0 666", "a e5 640 3 4", "pipe", "pts/ptmx"], out


def device_filter(box):
    """mknod is allowed by CAP_MKNOD and the list; opening is not, but what the list allows."""
    script = "mknod /tmp/n c 10 200; head -c 0 /tmp/n 2>&1; dd if=/tmp/n bs=1 count=0 2>&1; rm /tmp/n; head -c 3 /dev/zero | wc -c"
    out = box.run(script)
    assert "not permitted" in out and out.endswith("3\n"), out
    box.config["linux"]["resources"]["devices"].append({"allow": True, "type": "c", "major": 10, "minor": 200, "access": "rw"})
    out = box.run(script)
    assert "not permitted" not in out, out
    assert "not permitted" in box.run("mknod /tmp/disk b 254 0; dd if=/tmp/disk bs=1 count=0 2>&1; rm /tmp/disk")


def capabilities(box):
    sets = {"bounding": ["CAP_KILL", "CAP_CHOWN"], "permitted": ["CAP_KILL", "CAP_CHOWN"], "effective": ["CAP_KILL"],
            "inheritable": ["CAP_CHOWN"], "ambient": ["CAP_CHOWN"]}
    out = box.run("grep ^Cap /proc/self/status", capabilities=sets, user={"uid": 1000, "gid": 1000})
    got = {l.split(":")[0]: int(l.split()[1], 16) for l in out.splitlines()}
    # ambient ones come through execve, the others are lost by a user who is not root
    assert got == {"CapInh": 1, "CapPrm": 1, "CapEff": 1, "CapBnd": 0x21, "CapAmb": 1}, got
    out = box.run("grep ^Cap /proc/self/status", capabilities={"bounding": ["CAP_KILL", "CAP_OF_THE_FUTURE"]}, user={"uid": 0, "gid": 0})
    assert re.search(r"CapBnd:\s+0+20\n", out) and re.search(r"CapEff:\s+0+20\n", out), out


def users(box):
    out = box.run("id -u; id -g; id -G; umask", user={"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 0o27})
    assert out.split("\n")[:2] == ["1000", "1001"] and set(out.split("\n")[2].split()) == {"1001", "5", "6"}, out
    assert out.split("\n")[3] == "0027", out


def rlimits_and_oom(box):
    out = box.run("ulimit -n; ulimit -Hn; ulimit -c; cat /proc/self/oom_score_adj",
                  rlimits=[{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}], oomScoreAdj=300)
    assert out.split() == ["100", "200", "0", "300"], out
    wide = [{"type": "RLIMIT_STACK", "soft": 8388608, "hard": 18446744073709551615}]
    assert box.run("ulimit -Hs", rlimits=wide) == "unlimited\n"


def scheduling(box):
    out = box.run("cut -d' ' -f19,41 /proc/self/stat", scheduler={"policy": "SCHED_BATCH", "nice": 7},
                  ioPriority={"class": "IOPRIO_CLASS_IDLE", "priority": 0})
    assert out.split() == ["7", "3"], out
    box.config["linux"]["personality"] = {"domain": "LINUX32"}
    assert box.run("uname -m") == "i686\n"


def memory_policy(box):
    box.config["linux"]["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "0"}
    box.sh("cat /proc/self/numa_maps | head -1")
    box.write()
    status, out, err = box.call("run", "-b", box.bundle, box.name)
    if status and "Function not implemented" in err:
        raise Skip("the kernel has no memory policies")
    assert status == 0, err
    box.config["linux"]["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "x"}
    box.run_refused("memoryPolicy.nodes")


def no_new_privileges(box):
    assert "NoNewPrivs:\t1" in box.run("grep NoNewPrivs /proc/self/status", noNewPrivileges=True)
    assert "NoNewPrivs:\t0" in box.run("grep NoNewPrivs /proc/self/status", noNewPrivileges=False)


def working_directory(box):
    os.makedirs(os.path.join(box.rootfs, "a/b"))
    assert box.run("pwd", cwd="/a/b") == "/a/b\n"
    box.config["process"]["cwd"] = "/missing"
    box.run_refused("process.cwd: /missing")


def environment(box):
    out = box.run("env | sort", env=["PATH=/bin", "A=1", "B=x y"])
    assert "A=1\n" in out and "B=x y\n" in out and "HOME" not in out, out


def sysctls(box):
    box.config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.shmmax": "4194304", "fs.mqueue.queues_max": "7"}
    box.mount("/dev/mqueue", "mqueue", type="mqueue")
    out = box.run("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax /proc/sys/fs/mqueue/queues_max")
    assert out.split() == ["1", "4194304", "7"], out
    for name in ("kernel.pid_max", "vm.overcommit_memory", "net.ipv4/../../kernel/core_pattern", "kernel.hostname"):
        box.config["linux"]["sysctl"] = {name: "1"}
        box.run_refused("linux.sysctl")


def loopback_is_up(box):
    assert "LOOPBACK,UP" in box.run("ip link show lo").replace("<", "").replace("NO-CARRIER,", "")


def network_device(box):
    name = "tz" + box.name[-6:]
    if not shutil.which("ip"):
        raise Skip("needs iproute2")
    made = subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", "name", name + "p"], stderr=subprocess.PIPE)
    if made.returncode:
        raise Skip("no veth here")
    try:
        subprocess.run(["ip", "addr", "add", "192.0.2.7/24", "dev", name], check=True)
        box.config["linux"]["netDevices"] = {name: {"name": "inner"}}
        out = box.run("ip addr show inner")
        assert "192.0.2.7/24" in out and "UP" in out, out
    finally:
        subprocess.run(["ip", "link", "del", name + "p"], stderr=subprocess.DEVNULL)
    box.run_refused("linux.netDevices: " + name)


def filters(box):
    box.config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [{"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95},
                     {"names": ["personality"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 18446744073709551615, "op": "SCMP_CMP_NE"}]},
                     {"names": ["chroot"], "action": "SCMP_ACT_KILL_PROCESS"}]}
    script = "mkdir /x 2>&1; grep Seccomp: /proc/self/status; chroot / true; echo $?"
    for nnp in (False, True):
        out = box.run(script, noNewPrivileges=nnp)
        assert "not supported" in out and "Seccomp:\t2" in out and out.endswith("159\n"), out


def default_deny_filter(box):
    """The profile that engines bring, in small: everything is refused but a list, without no-new-privileges too."""
    names = """read write open openat close stat fstat lstat newfstatat mmap mprotect munmap brk rt_sigaction rt_sigprocmask ioctl access
        execve exit exit_group arch_prctl set_tid_address set_robust_list rseq prlimit64 getrandom getuid geteuid getgid getegid uname
        getpid getppid fcntl dup2 readlink readlinkat getcwd wait4 clone fork vfork setgroups setresuid setresgid capset capget prctl seccomp
        poll lseek""".split()
    box.config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
                                      "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]}
    for nnp in (False, True):
        out = box.run("echo alive; mkdir /x 2>&1", noNewPrivileges=nnp, status=1)
        assert "alive" in out and "Function not implemented" in out, out


def default_profile(box):
    """The filter for fronts: programs live with it, and what it guards is shut; a capability opens its calls."""
    box.good("spec", "--seccomp", "--bundle", box.bundle)
    with open(os.path.join(box.bundle, "config.json")) as f:
        made = json.load(f)
    box.config["linux"]["seccomp"] = made["linux"]["seccomp"]
    script = ("grep Seccomp: /proc/self/status; ls / > /dev/null && echo a | sort | cat; (sleep 0.01 &) ; wait; unshare -m true 2>&1;"
              "mount -t tmpfs x /tmp 2>&1; chmod 700 /tmp; ln -sf a /tmp/b; date > /dev/null; ip link show lo > /dev/null && echo net")
    for nnp in (False, True):
        out = box.run(script, noNewPrivileges=nnp)
        assert "Seccomp:\t2" in out and "\na\n" in out and out.endswith("net\n") and out.count("ot permitted") + out.count("denied") == 2, out
    # Everything it allows or refuses is a call by a name that the compiler of filters knows.
    names = [n for r in box.config["linux"]["seccomp"]["syscalls"] for n in r["names"]]
    assert len(names) > 300 and {"mount", "bpf", "keyctl", "read", "io_uring_setup"} <= set(names), len(names)


def notified_calls(box):
    """listenerPath: the agent gets the descriptor and the state, and answers a mkdir."""
    path = os.path.join(box.path, "agent.sock")
    got = {}

    def agent(listener):
        peer, _ = listener.accept()
        data, fds, _, _ = socket.recv_fds(peer, 65536, 4)
        got["state"], got["fds"] = json.loads(data), fds
        libc = ctypes.CDLL(None, use_errno=True)
        request, answer = ctypes.create_string_buffer(80), ctypes.create_string_buffer(24)
        if libc.ioctl(fds[0], ctypes.c_ulong(0xC0502100), request) == 0:
            answer.raw = request.raw[:8] + bytes(8) + (-13).to_bytes(4, "little", signed=True) + bytes(4)
            got["answered"] = libc.ioctl(fds[0], ctypes.c_ulong(0xC0182101), answer)

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(1)
        thread = threading.Thread(target=agent, args=(listener,), daemon=True)
        thread.start()
        box.config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "what",
                                          "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}
        out = box.run("mkdir /x 2>&1", status=1)
        thread.join(30)
    assert "Permission denied" in out, (out, got)
    assert got["state"]["fds"] == ["seccompFd"] and got["state"]["metadata"] == "what" and got["state"]["state"]["id"] == box.name, got
    assert got["answered"] == 0
    for fd in got["fds"]:
        os.close(fd)


def hooks(box):
    log = os.path.join(box.path, "hooks")
    script = os.path.join(box.path, "hook.sh")
    with open(script, "w") as f:
        f.write("#!/bin/sh\necho \"$1 $(cat)\" >> %s\nreadlink /proc/self/ns/mnt >> %s\n" % (log, log))
    os.chmod(script, 0o755)
    inside = "#!/bin/sh\necho \"$1 $(cat)\" >> /hooks-inside\n"
    with open(os.path.join(box.rootfs, "inside.sh"), "w") as f:
        f.write(inside)
    os.chmod(os.path.join(box.rootfs, "inside.sh"), 0o755)

    def hook(kind):
        return [{"path": script, "args": [script, kind], "env": ["PATH=/usr/bin:/bin"]}]

    box.config["hooks"] = {k: hook(k) for k in ("prestart", "createRuntime", "createContainer", "poststart", "poststop")}
    box.config["hooks"]["startContainer"] = [{"path": "/inside.sh", "args": ["inside.sh", "startContainer"], "env": ["PATH=/bin"]}]
    box.config["annotations"] = {"org.test": "note"}
    box.create()
    kinds = [l.split()[0] for l in box.text("hooks").splitlines() if "{" in l]
    assert kinds == ["prestart", "createRuntime", "createContainer"], kinds
    states = [json.loads(l.split(" ", 1)[1]) for l in box.text("hooks").splitlines() if "{" in l]
    pid = box.state()["pid"]
    assert all(s["pid"] == pid and s["id"] == box.name and s["bundle"] == box.bundle for s in states), states
    assert states[0]["annotations"] == {"org.test": "note"}
    spaces = [l for l in box.text("hooks").splitlines() if l.startswith("mnt")]
    host = os.readlink("/proc/self/ns/mnt")
    assert spaces[:2] == [host, host] and spaces[2] == os.readlink(f"/proc/{pid}/ns/mnt"), spaces
    box.good("start", box.name)
    with open(os.path.join(box.rootfs, "hooks-inside")) as f:
        assert f.read().startswith("startContainer {")
    assert [l.split()[0] for l in box.text("hooks").splitlines() if "{" in l][3:] == ["poststart"]
    box.delete()
    last = [l for l in box.text("hooks").splitlines() if "{" in l][-1]
    assert last.startswith("poststop ") and json.loads(last.split(" ", 1)[1])["status"] == "stopped", last


def failing_hooks(box):
    box.config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "echo because >&2; exit 3"]}]}
    box.run_refused(["hook createRuntime", "exit status 3", "because"])
    box.config["hooks"] = {"prestart": [{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]}
    box.run_refused(["hook prestart", "not done after 1 s"])
    box.config["hooks"] = {"createContainer": [{"path": "/nonexistent"}]}
    box.run_refused(["hook createContainer", "exit status 127"])
    box.config["hooks"] = {"poststop": [{"path": "/bin/false"}]}
    box.run("true")


def no_pivot(box):
    box.sh("ls / | tr '\\n' ' '")
    box.write()
    status, out, err = box.call("run", "--no-pivot", "-b", box.bundle, box.name)
    assert status == 0 and "bin" in out and "lost+found" not in out, err + out


def keyring(box):
    assert box.run("true") == ""
    box.write()
    box.good("run", "--no-new-keyring", "-b", box.bundle, box.name)


if __name__ == "__main__":
    sys.exit(run_tests([
        own_namespaces, shared_namespaces, joined_namespaces, time_namespace, user_namespace,
        user_namespace_with_sources_nobody_else_may_see, mounts_with_options, recursive_read_only, propagation, idmapped_mount, copy_up,
        read_only_root, masked_and_read_only_paths, devices, device_filter, capabilities, users, rlimits_and_oom, scheduling,
        memory_policy, no_new_privileges, working_directory, environment, sysctls, loopback_is_up, network_device, filters,
        default_deny_filter, default_profile, notified_calls, hooks, failing_hooks, no_pivot, keyring]))
