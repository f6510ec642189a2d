/* What low.S and the guests that go to real mode share: places in low memory, selectors, offsets into struct state16. */
#ifndef GUESTS_LOW_H
#define GUESTS_LOW_H

#define LOW         0x8000 /* where low.S's 16-bit part is copied to: segment 0800h */
#define LOW_SEG     0x0800
#define LOW_STATE   0x4000 /* in that segment */
#define LOW_STACK   0x5000
#define CODE_SEG    0x2000 /* the tests' own code */
#define DATA_SEG    0x3000
#define STACK_SEG   0x4000

#define S_LOW_CODE  0x1e0 /* 16-bit code at LOW */
#define S_LOW_DATA  0x1e8 /* 64 KiB at 0: what real mode is given as limit and rights */
#define S_LOW_OTHER 0x1f0 /* the tests': for big real mode */

#define S16_EAX     0
#define S16_EBX     4
#define S16_ECX     8
#define S16_EDX     12
#define S16_ESI     16
#define S16_EDI     20
#define S16_EBP     24
#define S16_ESP     28
#define S16_SS      32
#define S16_EIP     36
#define S16_CS      40
#define S16_EFLAGS  44
#define S16_DS      48
#define S16_ES      52
#define S16_FS      56
#define S16_GS      60
#define S16_BEFORE  64 /* ds, es, ss, fs, gs: selectors loaded before protected mode is left */
#define S16_IDTR    84
#define S16_VECTOR  92
#define S16_HFLAGS  96
#define S16_SIZE    100

#endif
