/*
 * Landlock: a process says itself in which directory alone it will touch files from now on. A second wall behind openat2: it holds
 * even when the process is taken over. Source: Documentation/userspace-api/landlock.rst.
 *
 * Used from version 2 on (Linux 5.19): the first one forbids every rename from one directory to another.
 */
#include "host/host.h"

#include <errno.h>
#include <linux/landlock.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define READS    (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define EXECUTES LANDLOCK_ACCESS_FS_EXECUTE
#define DEVICES  (LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_BLOCK | ACCESS_IOCTL)
#define WRITES                                                                                        \
    (LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE | \
     LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK |       \
     LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_SYM | ACCESS_REFER | ACCESS_TRUNCATE)

/* Younger than some headers. */
#define ACCESS_REFER    BIT(13)
#define ACCESS_TRUNCATE BIT(14)
#define ACCESS_IOCTL    BIT(15)

static u64 known(long version)
{
    u64 all = READS | EXECUTES | DEVICES | WRITES;
    return version >= 5 ? all : version >= 3 ? all & ~ACCESS_IOCTL : all & ~(ACCESS_IOCTL | ACCESS_TRUNCATE);
}

int host_stay_beneath(int dir, bool read_only, struct error *e)
{
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0ul, LANDLOCK_CREATE_RULESET_VERSION);
    if (version < 2)
        return 0;
    struct landlock_ruleset_attr a = {.handled_access_fs = known(version)};
    struct landlock_path_beneath_attr path = {
        .allowed_access = a.handled_access_fs & (READS | (read_only ? 0 : WRITES)), .parent_fd = dir};
    int rules = (int)syscall(SYS_landlock_create_ruleset, &a, sizeof(a.handled_access_fs), 0), r = 0;
    if (rules < 0 || syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &path, 0) < 0 ||
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || syscall(SYS_landlock_restrict_self, rules, 0) < 0)
        r = error_set(e, errno, "landlock: %s", strerror(errno));
    if (rules >= 0)
        close(rules);
    return r < 0 ? r : 1;
}
