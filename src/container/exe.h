/* The file that a process counts as its program, /proc/PID/exe, changed under it. */
#ifndef TRAPEZE_CONTAINER_EXE_H
#define TRAPEZE_CONTAINER_EXE_H

/*
 * Make `file`, a descriptor of the same program by another mount, what this process runs from. 0, or -errno with nothing
 * changed that matters: the caller executes the program again instead.
 */
int exe_move(int file);

#endif
