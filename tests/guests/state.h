/*
 * Offsets into struct state (guest.h), for the assembly: guest.h asserts that they are right.
 */
#ifndef GUESTS_STATE_H
#define GUESTS_STATE_H

#define ST_RAX       0
#define ST_RBX       8
#define ST_RCX       16
#define ST_RDX       24
#define ST_RSI       32
#define ST_RDI       40
#define ST_RBP       48
#define ST_R8        56
#define ST_R9        64
#define ST_R10       72
#define ST_R11       80
#define ST_R12       88
#define ST_R13       96
#define ST_R14       104
#define ST_R15       112
#define ST_RIP       120
#define ST_CS        128
#define ST_RFLAGS    136
#define ST_RSP       144
#define ST_SS        152
#define ST_DS        160
#define ST_ES        168
#define ST_FS        176
#define ST_GS        184
#define ST_VECTOR    192
#define ST_HAS_ERROR 200
#define ST_ERROR     208
#define ST_FRAME     216
#define ST_H_RFLAGS  224
#define ST_H_CS      232
#define ST_H_SS      240
#define ST_CR2       248
#define ST_DR6       256

/* The guest's descriptor table. SYSCALL, SYSRET, SYSENTER and SYSEXIT want some of this order. */
#define SEL_CODE0    0x08
#define SEL_DATA0    0x10
#define SEL_CODE0_32 0x18
#define SEL_CODE3_32 0x23
#define SEL_DATA3    0x2b
#define SEL_CODE3    0x33
#define SEL_CODE1    0x39
#define SEL_DATA1    0x41
#define SEL_CODE2    0x4a
#define SEL_DATA2    0x52
#define SEL_TSS      0x58
#define SEL_FREE     0x68 /* from here on for the tests */
#define GDT_SLOTS    64

/* The vector that ends a piece of code: INT END_VECTOR. */
#define END_VECTOR 0x80

/* Bytes of stack of each of the other CPUs (ap.S). */
#define AP_STACK 16384

#endif
