/*
 * Code that is written while it runs: the next instruction, one across pages, through another alias, by REP MOVS, beside
 * hot data. A processor with one CPU sees each store at the next instruction executed from that linear address; through
 * another linear address it may need a serialising instruction (SDM vol. 3, 8.1.3, 12.6), which these tests use then.
 */
#include "guest.h"

#define ALIAS 0x40000000ull /* of all low memory */
#define AREA  0x2000000ull  /* 32 MiB up: pages to write code into */

static u8 *const area = (u8 *)AREA;

/* mov $value, %eax; int $END */
static unsigned put_code(u8 *at, u32 value)
{
    at[0] = 0xb8;
    for (unsigned i = 0; i < 4; i++)
        at[1 + i] = (u8)(value >> 8 * i);
    at[5] = 0xcd;
    at[6] = END_VECTOR;
    return 7;
}

static u32 call(const void *code)
{
    struct state s = ring(3, code);

    run(&s);
    return s.vector == END_VECTOR ? (u32)s.rax : ~(u32)s.vector;
}

/* --- the next instruction --- */

CODE(next, "movb $2, next_patch+1(%rip)\n next_patch: mov $1, %eax\n" END);
CODE(next_wide, "movl $2, next_wide_patch+1(%rip)\n nop\n next_wide_patch: mov $1, %eax\n" END);
CODE(opcode, "movw $0xc8ff, opcode_patch(%rip)\n opcode_patch: inc %eax\n" END); /* becomes dec */
CODE(shorter, "movw $0x80cd, shorter_patch(%rip)\n shorter_patch: movabs $1, %rax\n" END);
CODE(itself, "mov $1, %eax\n itself_at: movb $2, itself+1(%rip)\n" END);
CODE(atomic, "mov $2, %ecx\n lock xchg %cl, atomic_patch+1(%rip)\n atomic_patch: mov $1, %eax\n" END);
CODE(pushed, "lea pushed_patch+8(%rip), %rsp\n mov $0x0000000000000002, %ecx\n shl $8, %rcx\n or $0xb8, %rcx\n"
             " movabs $0x9080cd0000000000, %rdx\n or %rdx, %rcx\n push %rcx\n pushed_patch: mov $1, %eax\n" END);
CODE(vector_store, "movups vector_new(%rip), %xmm0\n movups %xmm0, vector_patch(%rip)\n"
                   " vector_patch: mov $1, %eax\n" END ".fill 16, 1, 0x90\n"
                   " vector_new: mov $2, %eax\n" END ".fill 16, 1, 0x90\n");
CODE(x87_store, "fildll x87_new(%rip)\n fistpll x87_patch(%rip)\n x87_patch: mov $1, %eax\n" END
                ".fill 8, 1, 0x90\n x87_new: mov $2, %eax\n" END "nop\n");
CODE(copied, "lea copied_new(%rip), %rsi\n lea copied_patch(%rip), %rdi\n mov $7, %ecx\n rep movsb\n"
             " copied_patch: mov $1, %eax\n" END "copied_new: mov $2, %eax\n" END);
CODE(filled, "lea filled_patch(%rip), %rdi\n mov $3, %ecx\n mov $0x90, %al\n rep stosb\n"
             " xor %eax, %eax\n filled_patch: add $1, %eax\n add $2, %eax\n" END);
/* A loop that counts itself down in its own immediate. */
CODE(loop_self, "xor %ecx, %ecx\n 1: inc %ecx\n loop_patch: mov $100, %eax\n decb loop_patch+1(%rip)\n jnz 1b\n"
                " mov %ecx, %eax\n" END);
/* A branch target that changes at each turn: add 1 and add 16 in turns. */
CODE(loop_toggle, "xor %eax, %eax\n mov $10, %ecx\n 1: toggle_patch: add $1, %eax\n xorb $0x11, toggle_patch+2(%rip)\n"
                  " dec %ecx\n jnz 1b\n" END);
/* Calls of a function that was run before, changed, and run again. */
CODE(callee, "mov $1, %eax\n ret\n");
CODE(caller, "call callee\n mov %eax, %ebx\n movb $5, callee+1(%rip)\n call callee\n add %ebx, %eax\n"
             " movb $1, callee+1(%rip)\n" END);

static void next_instruction(void)
{
    static const struct {
        const char *name;
        const u8 *code;
        u32 want;
    } t[] = {{"an immediate of the next instruction", next, 2},
             {"an immediate, four bytes", next_wide, 2},
             {"the opcode of the next instruction", opcode, (u32)-1},
             {"a long instruction becomes a short one", shorter, 0},
             {"LOCK XCHG writes the next instruction", atomic, 2},
             {"PUSH writes the next instruction", pushed, 2},
             {"MOVUPS writes the next instruction", vector_store, 2},
             {"FISTP writes the next instruction", x87_store, 2},
             {"REP MOVS writes the next instruction", copied, 2},
             {"REP STOS writes the instruction after next", filled, 2},
             {"a loop counts in its own code", loop_self, 100},
             {"a loop changes an instruction at each turn", loop_toggle, 5 * 1 + 5 * 0x10},
             {"a function changed between calls", caller, 6}};

    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++)
        check(t[i].name, call(t[i].code), t[i].want);
    check("code written before it, first time", call(itself), 1);
    check("code written before it, second time", call(itself), 2);
}

/* --- across pages --- */

static void across_pages(void)
{
    for (unsigned split = 1; split < 5; split++) {
        u8 *at = area + 0x1000 - split;

        put_code(at, 0x11111111);
        check("an instruction across pages", call(at), 0x11111111);
        area[0x1000] = split == 1 ? 0x22 : area[0x1000];
        at[4] = 0x33;
        check("its last byte written", call(at) >> 24, 0x33);
        at[1] = 0x44;
        check("its first immediate byte written", call(at) & 0xff, 0x44);
    }
    /* an instruction in the first page writes into the one that lies across */
    static const u8 first[] = {0xc6, 0x05, 0x03, 0, 0, 0, 0x77, 0xb8, 1, 1, 1, 1, 0xcd, END_VECTOR};
    for (unsigned i = 0; i < sizeof(first); i++)
        area[0x2000 - 10 + i] = first[i];
    check("the next instruction's second page, written in its own block", call(area + 0x2000 - 10), 0x01770101);
    area[0x2000 - 10 + 6] = 0x78;
    check("again, another value", call(area + 0x2000 - 10), 0x01780101);
}

/* --- aliases and mappings --- */

static void aliases(void)
{
    u8 *code = area + 0x3000, *alias = code + ALIAS;

    put_code(code, 1);
    check("code", call(code), 1);
    check("its alias", call(alias), 1);
    alias[1] = 2;
    check("written through the alias, run at the first", call(code), 2);
    code[1] = 3;
    check("written at the first, run through the alias", call(alias), 3);
    /* the mapping changes under the code: the same linear address, another frame */
    static u64 table[512] __attribute__((aligned(4096)));
    u64 saved = boot_pd[18];
    u8 *window = (u8 *)(18ull << 21);

    put_code(area + 0x4000, 4);
    put_code(area + 0x5000, 5);
    table[0] = (u64)(area + 0x4000) | 7;
    boot_pd[18] = (u64)table | 7;
    flush_tlb();
    check("a frame", call(window), 4);
    table[0] = (u64)(area + 0x5000) | 7;
    invlpg(window);
    check("another frame at the same address", call(window), 5);
    area[0x5001] = 6;
    check("that frame written", call(window), 6);
    area[0x4001] = 7;
    check("the old frame written", call(window), 6);
    table[0] = (u64)(area + 0x4000) | 7;
    flush_tlb();
    check("back to the old frame", call(window), 7);
    /* code that goes on into a page whose frame changes */
    table[1] = (u64)(area + 0x5000) | 7;
    put_code(area + 0x5000, 8);
    for (unsigned i = 0x4ff8; i < 0x5000; i++)
        area[i] = 0x90;
    check("from one page into the next", call(window + 0xff8), 8);
    put_code(area + 0x6000, 9);
    table[1] = (u64)(area + 0x6000) | 7;
    invlpg(window + 0x1000);
    check("into another frame", call(window + 0xff8), 9);
    boot_pd[18] = saved;
    flush_tlb();
}

/* --- code beside data --- */

CODE(mixed, "mov $1000, %ecx\n 1: incl mixed_data(%rip)\n dec %ecx\n jnz 1b\n mov mixed_data(%rip), %eax\n" END
            "mixed_data: .long 0\n");
CODE(mixed_function,
     "mov $200, %ecx\n xor %eax, %eax\n 1: call 2f\n incl mixed_function_data(%rip)\n dec %ecx\n jnz 1b\n" END
     "2: add mixed_function_data(%rip), %eax\n ret\n mixed_function_data: .long 0\n");

static void beside_data(void)
{
    check("data in the code's page", call(mixed), 1000);
    check("again", call(mixed), 2000);
    check("a function beside its data", call(mixed_function), 199 * 200 / 2);
    /* every byte of a page written while code of it runs in turns */
    u8 *page = area + 0x8000;
    unsigned good = 0;

    put_code(page, 0);
    for (unsigned i = 16; i < 4096; i++) {
        page[i] = (u8)i;
        page[1] = (u8)i;
        good += call(page) == (u8)i;
    }
    check("a page of data with code at its start", good, 4096 - 16);
    /* generated code, as a JIT does: functions appended to a page that is running */
    good = 0;
    for (unsigned i = 0; i < 256; i++) {
        put_code(area + 0x9000 + 16 * i, i * 3);
        good += call(area + 0x9000 + 16 * i) == i * 3;
        good += call(area + 0x9000 + 16 * (i / 2)) == i / 2 * 3;
    }
    check("functions appended to a running page", good, 512);
    /* copied by the kernel, as a loader does */
    good = 0;
    for (unsigned i = 0; i < 64; i++) {
        put_code(area + 0xa000 + (i & 1) * 0x800, i);
        void *to = area + 0xb000;
        const void *from = area + 0xa000 + (i & 1) * 0x800;
        u64 n = 7;
        asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory");
        good += call(area + 0xb000) == i;
    }
    check("code copied over code", good, 64);
}

/* --- the processor's own writes --- */

CODE(push_event, "int $0x80\n");

/* Events push their frames on a page of code. */
static void frames_on_code(void)
{
    u8 *page = area + 0xc000;
    struct state s = ring(0, push_event);

    for (unsigned i = 0; i < 0x1000; i++)
        page[i] = 0x90;
    put_code(page + 0x800 - 64, 1);
    page[0x800 - 64 + 5] = page[0x800 - 64 + 6] = 0x90;
    put_code(page + 0x800, 2);
    check("code before a frame is pushed on it", call(page + 0x800 - 64), 2);
    s.rsp = (u64)page + 0x800;
    s.rflags |= FL_CF;
    run(&s);
    check("the frame is there", *(u64 *)(void *)(page + 0x800 - 40), (u64)push_event + 2);
    put_code(page + 0x800 - 64, 1);
    page[0x800 - 64 + 5] = 0xeb; /* jmp to the saved RIP's place, now code again */
    page[0x800 - 64 + 6] = 17;
    put_code(page + 0x800 - 40, 3);
    check("code where the frame was", call(page + 0x800 - 64), 3);
    s = ring(0, push_event);
    s.rsp = (u64)page + 0x800;
    run(&s);
    s = ring(3, page + 0x800 - 64);
    run(&s);
    check("a frame pushed over code is seen", s.vector != END_VECTOR || s.rip != (u64)page + 0x800 - 40 + 7, 1);
}

/* Accessed and dirty bits written into a page that also holds code. */
static void tables_on_code(void)
{
    volatile u64 *table = (u64 *)(void *)(area + 0xd000);
    u64 saved = boot_pd[18];
    u8 *code = area + 0xd000 + 8 * 8;
    volatile u8 *window = (u8 *)(18ull << 21);

    put_code(code, 1);
    check("code in a page table's page", call(code), 1);
    table[0] = (u64)(area + 0xe000) | 7;
    boot_pd[18] = (u64)table | 7;
    flush_tlb();
    window[0] = 1;
    check("A and D were set beside it", table[0] & 0x60, 0x60);
    check("it still runs", call(code), 1);
    boot_pd[18] = saved;
    flush_tlb();
}

int main(void)
{
    boot_pdpt[1] = boot_pdpt[0]; /* ALIAS */
    flush_tlb();
    next_instruction();
    across_pages();
    aliases();
    beside_data();
    frames_on_code();
    tables_on_code();
    return 0;
}
