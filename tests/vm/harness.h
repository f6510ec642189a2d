/*
 * Machines for the tests: small guests (guests.S) wrapped into PVH kernels, launched for real in a directory of their own.
 * A test program's main hands over to cell_main when argv[1] is CELL_ARG: a cell is the program itself run again.
 */
#ifndef TRAPEZE_TESTS_VM_HARNESS_H
#define TRAPEZE_TESTS_VM_HARNESS_H

#include "vm/control.h"
#include "vm/launch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <errno.h>
#include <cmocka.h>

#define GUESTS(X) X(hello) X(triple) X(idle) X(spin) X(reset) X(echo) X(flood) X(button)
#define X(name)   extern const u8 guest_##name##_begin[], guest_##name##_end[];
GUESTS(X)
#undef X

struct machine {
    char dir[64]; /* kernel and files of the machine */
    char socket[96];
    struct vm_config cfg;
    pid_t keeper;
};

/* A directory with a kernel made of the guest's bytes, and a configuration for it. */
void machine_prepare(struct machine *m, const char *name, const u8 *begin, const u8 *end);
void machine_launch(struct machine *m);
/* Prepare and launch. */
void machine_start(struct machine *m, const char *name, const u8 *begin, const u8 *end);
#define START(m, guest)   machine_start(m, #guest, guest_##guest##_begin, guest_##guest##_end)
#define PREPARE(m, guest) machine_prepare(m, #guest, guest_##guest##_begin, guest_##guest##_end)

/* Wait for the end; the exit code, the reason in `reason[200]`, if not NULL. Fails the test if the keeper says nothing. */
int machine_wait(struct machine *m, char *reason);
/* Wait until the keeper's process is gone; fails the test if it stays. */
void machine_gone(struct machine *m);
/* One request; 0 or -errno. `reply` may be NULL. */
int machine_do(struct machine *m, json_t **reply, const char *fmt, ...);
/* Wait until the log contains `text` (the machine prints at its own pace; gives up after 30 s). */
void machine_expect(struct machine *m, const char *text);
/* Delete the directory; the keeper has to be gone. */
void machine_forget(struct machine *m);
/* Whether a process exists (not as a zombie). */
bool process_lives(pid_t pid);

#endif
