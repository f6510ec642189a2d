/* A mount namespace that shares nothing: also from within a chroot, whose root is no mount point. */
#include "container/sys.h"

#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define CANNOT 77
#define STEP(ok, code)   \
    do {                 \
        if (!(ok)) {     \
            perror(#ok); \
            _exit(code); \
        }                \
    } while (0)

/* In `root`, which shares its mounts with its parent: mounts something, which stays there until it is told to end. */
static void mount_inside(const char *root, bool proc, int ready, int end)
{
    struct error e = {0};
    char byte = 0;
    STEP(unshare(CLONE_NEWNS) == 0 && chroot(root) == 0 && chdir("/m") == 0, 2);
    int r = sys_private_mounts(&e);
    if (!proc) {
        STEP(r == -EINVAL && strstr(e.msg, "/proc"), 3);
        _exit(0);
    }
    STEP(r == 0, 4);
    STEP(access("../m", F_OK) == 0 && access("/proc/self/stat", R_OK) == 0, 5);
    STEP(mount("none", "/m", "tmpfs", 0, NULL) == 0 && mkdir("/m/inside", 0700) == 0, 6);
    STEP(write(ready, &byte, 1) == 1 && read(end, &byte, 1) == 0, 7);
    _exit(0);
}

/* Both directions, with a mount at the same place; the exit status says what was wrong. */
static void in_namespace(const char *root, bool proc)
{
    char path[64], byte;
    int ready[2], end[2], status;
    STEP(unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0, CANNOT);
    STEP(mount("none", root, "tmpfs", 0, NULL) == 0 && mount("none", root, NULL, MS_SHARED, NULL) == 0, CANNOT);
    snprintf(path, sizeof(path), "%s/inner", root);
    STEP(mkdir(path, 0700) == 0 && pipe(ready) == 0 && pipe(end) == 0, 10);
    static const char *const below[] = {"inner/m", "inner/proc"};
    for (size_t i = 0; i < ARRAY_LEN(below); i++) {
        snprintf(path, sizeof(path), "%s/%s", root, below[i]);
        STEP(mkdir(path, 0700) == 0, 11);
    }
    STEP(!proc || mount("proc", path, "proc", 0, NULL) == 0, 12);
    snprintf(path, sizeof(path), "%s/inner", root);
    pid_t pid = fork();
    if (pid == 0) {
        close(end[1]);
        mount_inside(path, proc, ready[1], end[0]);
    }
    close(ready[1]);
    if (proc) {
        STEP(read(ready[0], &byte, 1) == 1, 13);
        snprintf(path, sizeof(path), "%s/inner/m/inside", root);
        STEP(access(path, F_OK) < 0 && errno == ENOENT, 14);
    }
    close(end[1]);
    STEP(waitpid(pid, &status, 0) == pid && status == 0, 15);
    _exit(0);
}

static void check(bool proc)
{
    char root[] = "/tmp/trapeze-mounts-XXXXXX";
    int status = -1;
    assert_non_null(mkdtemp(root));
    pid_t pid = fork();
    if (pid == 0)
        in_namespace(root, proc);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    rmdir(root);
    if (status == CANNOT << 8)
        skip();
    assert_int_equal(status, 0);
}

static void test_chroot(void **state)
{
    check(true);
}

static void test_chroot_without_proc(void **state)
{
    check(false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_chroot), cmocka_unit_test(test_chroot_without_proc)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
