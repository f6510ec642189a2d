/*
 * Linux, as this room needs it: system calls that the C library of Debian 12 does not wrap, owned descriptors, small files.
 */
#ifndef TRAPEZE_CONTAINER_SYS_H
#define TRAPEZE_CONTAINER_SYS_H

#include "base/error.h"
#include "base/types.h"

#include <sys/types.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

/* A descriptor that its scope closes; -1 is none. To hand it on: sys_take(&fd). */
#define CLEANUP_FD   __attribute__((cleanup(sys_close)))
#define CLEANUP_FREE __attribute__((cleanup(sys_free)))

void sys_close(int *fd);
void sys_free(void *pointer_to_pointer);
static inline int sys_take(int *fd)
{
    int mine = *fd;
    *fd = -1;
    return mine;
}

/* error_set with the text of errno: "WHAT: No such file or directory". Returns -errno. */
int sys_error(struct error *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* openat2(2) with O_CLOEXEC added. A descriptor or -1 with errno. */
int sys_openat2(int dir, const char *path, u64 flags, u64 mode, u64 resolve);

/* clone3(2) with its flags; *pidfd may be NULL; cgroup < 0: stay in the parent's. As fork(2). */
pid_t sys_clone(u64 flags, int *pidfd, int cgroup);

int sys_pidfd_open(pid_t pid);
int sys_pidfd_signal(int pidfd, int signal);

/* Write all of `text` into an existing file in one write(2). 0 or -errno. */
int sys_write_at(int dir, const char *path, const char *text, size_t size);
/* A whole file into memory, NUL-terminated; free it. `max` bounds its size. -errno: nothing was read. */
int sys_read_at(int dir, const char *path, size_t max, char **text, size_t *size);
/* The first bytes of a small file, NUL-terminated and without the newline at its end. Bytes or -errno. */
ssize_t sys_read_small(int dir, const char *path, char *out, size_t size);
int sys_write_all(int fd, const void *data, size_t size);

/* Send `size` bytes with up to 8 descriptors over a Unix socket; receive them. As sendmsg and recvmsg, EINTR retried. */
ssize_t sys_send_fds(int socket, const void *data, size_t size, const int *fds, size_t n);

/* "/proc/self/fd/N" */
#define SYS_FD_PATH 40
const char *sys_fd_path(int fd, char out[SYS_FD_PATH]);

/* Connect to the Unix socket at `path`, of any length. A descriptor or -errno with `e`. */
int sys_connect(const char *path, int type, struct error *e);

/* Start time of a process in clock ticks since boot (proc(5), stat field 22); 0: no such process, or a zombie. */
u64 sys_start_time(pid_t pid);

/*
 * In a mount namespace of its own: what this process mounts does not reach the namespace that it comes from; what is mounted
 * there does reach this one.
 */
int sys_slave_mounts(struct error *e);

/*
 * In a mount namespace of its own, as root: nothing that is mounted there or here reaches the other. Works in a chroot too,
 * if /proc is mounted there. 0 or -errno with `e`.
 */
int sys_private_mounts(struct error *e);

#endif
