/*
 * The frequency of this host's TSC, remembered: where no CPUID leaf tells it, measuring takes 20 ms, which is half of what a machine
 * has to go on from a snapshot. The file `tsc` of the state directory has what was measured last since the host was booted; a look of
 * half a millisecond finds out if that can not be true (the host may be a guest that has moved itself).
 */
#ifndef TRAPEZE_VM_TSC_H
#define TRAPEZE_VM_TSC_H

#include "base/types.h"

u64 tsc_hz(void);

#endif
