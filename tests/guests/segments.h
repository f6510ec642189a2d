/* What start32.S and segments.c share: selectors, offsets into struct state32. */
#ifndef GUESTS_SEGMENTS_H
#define GUESTS_SEGMENTS_H

#define S_CODE0       0x08
#define S_DATA0       0x10
#define S_CODE1       0x19
#define S_DATA1       0x21
#define S_CODE2       0x2a
#define S_DATA2       0x32
#define S_CODE3       0x3b
#define S_DATA3       0x43
#define S_TSS         0x48
#define S_FREE        0x50
#define S_SLOTS       64

#define S32_EAX       0
#define S32_EBX       4
#define S32_ECX       8
#define S32_EDX       12
#define S32_ESI       16
#define S32_EDI       20
#define S32_EBP       24
#define S32_EIP       28
#define S32_CS        32
#define S32_EFLAGS    36
#define S32_ESP       40
#define S32_SS        44
#define S32_DS        48
#define S32_ES        52
#define S32_FS        56
#define S32_GS        60
#define S32_VECTOR    64
#define S32_HAS_ERROR 68
#define S32_ERROR     72
#define S32_FRAME     76
#define S32_H_CS      80
#define S32_H_SS      84
#define S32_H_NULL    88

#endif
