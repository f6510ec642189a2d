/*
 * The code between C and translated code, written once into code memory.
 *
 *   enter     called from C: (state, code). Saves C's registers, takes the guest's from struct cpu, jumps to `code`
 *   slow      cold code pushes its site number and jumps here: the guest's registers go to struct cpu, C is called
 *             (bt_refill, and if that can not help bt_service), and what it returns is where to go on
 *   fault     the host's fault handler continues here: as slow, for the address of the instruction that faulted
 *   resume    the guest's registers from struct cpu; jumps to the code address in RAX
 *   leave     back to the caller of enter
 *   vec_load  called at the head of blocks that use vectors: the guest's vector state comes into the host's registers
 *   x87_load  the same for the x87 unit (x87.c)
 *
 * Vector registers stay the guest's in the host's registers until C runs that might use them: bt_refill and all that it
 * calls is compiled to use general registers alone. RSP is the state's base while translated code runs; C runs on the stack below it.
 */
#include "engine/bt/bt_internal.h"

#define CPU_GPR(r)   ((s32)(offsetof(struct cpu, gpr) + 8 * (r)))
#define CPU_FIELD(f) ((s32)offsetof(struct cpu, f))
#define CPU_ZMM(n)   ((s32)(offsetof(struct cpu, fpu) + offsetof(struct cpu_fpu, zmm) + 64 * (n)))
#define CPU_K(n)     ((s32)(offsetof(struct cpu, fpu) + offsetof(struct cpu_fpu, k) + 8 * (n)))
#define CPU_MXCSR    ((s32)(offsetof(struct cpu, fpu) + offsetof(struct cpu_fpu, fx) + 24))

static const u8 slots[] = {R10, R11, R15};

static void bytes(struct emit *e, const char *b, size_t n)
{
    put_bytes(e, b, n);
}
#define CODE(e, text) bytes(e, text, sizeof(text) - 1)

/* The guest's registers and flags to struct cpu, which RCX gets to point at. */
static void save_guest(struct emit *e)
{
    emit_load(e, H_RCX, AT_ST(cpu));
    for (unsigned r = 0; r < CPU_GPRS; r++)
        if (bt_host_of[r] != NO_HOST)
            emit_store(e, AT(H_RCX, CPU_GPR(r)), bt_host_of[r]);
    for (unsigned i = 0; i < ARRAY_LEN(slots); i++) {
        emit_load(e, H_R15, bt_slot(slots[i]));
        emit_store(e, AT(H_RCX, CPU_GPR(slots[i])), H_R15);
    }
    emit_lahf_seto(e);
    put8e(e, 0x66);
    emit_mem(e, false, 0x89, H_RAX, AT(H_RCX, CPU_FIELD(arith)));
}

/* Call C: fn(state, RSI), with the stack aligned. RBX holds RSP meanwhile. */
static void call_c(struct emit *e, const void *fn)
{
    emit_lea(e, H_RDI, AT(H_RSP, -12));
    emit_mov(e, H_RBX, H_RSP);
    CODE(e, "\x48\x83\xe4\xf0"); /* and rsp, -16 */
    emit_mov_imm(e, H_RAX, (u64)(uintptr_t)fn);
    CODE(e, "\xff\xd0"); /* call rax */
    emit_mov(e, H_RSP, H_RBX);
}

/* --- vectors --- */

/* A move of vector register n between register and [RCX + disp]; `load` or store. */
static void move_vector(struct emit *e, unsigned width, unsigned n, bool load)
{
    struct haddr a = AT(H_RCX, CPU_ZMM(n));
    unsigned opcode = load ? 0x10 : 0x11;
    if (width == 64) { /* vmovups zmm */
        put8e(e, 0x62);
        put8e(e, (n & 8 ? 0 : 0x80u) | 0x60 | (n & 16 ? 0 : 0x10u) | 1);
        put8e(e, 0x7c);
        put8e(e, 0x48);
        put8e(e, opcode);
        emit_modrm_mem(e, n, a, true);
    } else if (width == 32) { /* vmovups ymm */
        put8e(e, 0xc4);
        put8e(e, (n & 8 ? 0 : 0x80u) | 0x61);
        put8e(e, 0x7c);
        put8e(e, opcode);
        emit_modrm_mem(e, n, a, false);
    } else { /* movups xmm */
        if (n & 8)
            put8e(e, 0x44);
        put8e(e, 0x0f);
        put8e(e, opcode);
        emit_modrm_mem(e, n, a, false);
    }
}

static void move_low(struct emit *e, unsigned width, bool load)
{
    for (unsigned n = 0; n < 16; n++)
        move_vector(e, width, n, load);
}

/* What AVX-512 has beyond the first sixteen registers. */
static void move_high(struct emit *e, unsigned width, bool load)
{
    for (unsigned n = 16; width == 64 && n < 32; n++)
        move_vector(e, width, n, load);
    for (unsigned n = 0; width == 64 && n < 8; n++) { /* kmovq k, [] and back */
        put8e(e, 0xc4);
        put8e(e, 0xe1);
        put8e(e, 0xf8);
        put8e(e, load ? 0x90 : 0x91);
        emit_modrm_mem(e, n, AT(H_RCX, CPU_K(n)), false);
    }
}

static void store_byte(struct emit *e, struct haddr a, u8 value)
{
    put8e(e, 0xc6);
    emit_modrm_mem(e, 0, a, false);
    put8e(e, value);
}

/* LDMXCSR (/2) and STMXCSR (/3) */
static void mxcsr(struct emit *e, unsigned digit, struct haddr a)
{
    put8e(e, 0x0f);
    put8e(e, 0xae);
    emit_modrm_mem(e, digit, a, false);
}

/*
 * Loading the whole of a register marks its upper part as in use, even with zeros, and then each of the guest's SSE
 * instructions waits for it. So while all upper parts are zero (st->upper) only the low 128 bits travel.
 */

/* Called: RSP is 8 lower. Touches RCX, and no flags. */
static void emit_vec_load(struct bt *bt, struct emit *e)
{
    bt->vec_load = emit_rx(e);
    emit_movzx8_mem(e, H_RCX, AT(H_RSP, ST(upper) + 8));
    u8 *zero = emit_jrcxz(e);
    u8 *whole = emit_jmp32(e);
    emit_here8(e, zero);
    emit_load(e, H_RCX, AT(H_RSP, ST(cpu) + 8));
    if (bt->vec_width > 16)
        CODE(e, "\xc5\xf8\x77"); /* vzeroupper */
    move_low(e, 16, true);
    u8 *low = emit_jmp32(e);
    emit_here32(e, whole);
    emit_load(e, H_RCX, AT(H_RSP, ST(cpu) + 8));
    move_low(e, bt->vec_width, true);
    emit_here32(e, low);
    move_high(e, bt->vec_width, true);
    mxcsr(e, 2, AT(H_RCX, CPU_MXCSR));
    store_byte(e, AT(H_RSP, ST(vec_missing) + 8), 0);
    put8e(e, 0xc3);
}

/* EAX: bits 2 and 6 are set if upper halves (256, 512 bits) are in use. */
static void upper_in_use(struct bt *bt, struct emit *e)
{
    if (bt->knows_in_use) {
        emit_mov_imm(e, H_RCX, 1);
        CODE(e, "\x0f\x01\xd0"); /* xgetbv */
    } else {
        emit_mov_imm(e, H_RAX, bt->vec_width > 16 ? 0x44 : 0);
    }
}

/* The guest's vectors to struct cpu if they are in the host's registers. RAX, RCX, RDX and flags are free. */
static void vec_save(struct bt *bt, struct emit *e)
{
    emit_movzx8_mem(e, H_RCX, AT_ST(vec_missing));
    CODE(e, "\x85\xc9"); /* test ecx, ecx */
    u8 *skip = emit_jcc32(e, 5);
    upper_in_use(bt, e);
    emit_load(e, H_RCX, AT_ST(cpu));
    emit_movzx8_mem(e, H_RDX, AT_ST(upper)); /* what stands in struct cpu now */
    CODE(e, "\x24\x44");                     /* and al, 0x44 */
    emit_mem(e, false, 0x88, H_RAX, AT_ST(upper));
    CODE(e, "\x08\xc2"); /* or dl, al */
    u8 *whole = emit_jcc32(e, 5);
    move_low(e, 16, false);
    u8 *low = emit_jmp32(e);
    emit_here32(e, whole);
    move_low(e, bt->vec_width, false);
    emit_here32(e, low);
    move_high(e, bt->vec_width, false);
    mxcsr(e, 3, AT(H_RCX, CPU_MXCSR));
    mxcsr(e, 2, AT_ST(host_mxcsr));
    store_byte(e, AT_ST(vec_missing), 1);
    if (bt->vec_width > 16)
        CODE(e, "\xc5\xf8\x77"); /* vzeroupper: for C's SSE code */
    emit_here32(e, skip);
}

/* --- leaving and coming --- */

static void emit_leave(struct bt *bt, struct emit *e)
{
    bt->leave = emit_rx(e);
    emit_load(e, H_RSP, AT_ST(host_rsp));
    CODE(e, "\x41\x5f\x41\x5e\x41\x5d\x41\x5c\x5d\x5b\xc3"); /* pop r15 r14 r13 r12 rbp rbx; ret */
}

/* Everything of the guest from struct cpu; on to RAX. */
static void emit_resume(struct bt *bt, struct emit *e)
{
    bt->resume = emit_rx(e);
    emit_store(e, AT_ST(target), H_RAX);
    emit_load(e, H_RCX, AT_ST(cpu));
    for (unsigned i = 0; i < ARRAY_LEN(slots); i++) {
        emit_load(e, H_R15, AT(H_RCX, CPU_GPR(slots[i])));
        emit_store(e, bt_slot(slots[i]), H_R15);
    }
    emit_load(e, H_R15, AT(H_RCX, (s32)OFF_SEG(SEG_FS)));
    emit_store(e, AT_ST(fs_base), H_R15);
    emit_load(e, H_R15, AT(H_RCX, (s32)OFF_SEG(SEG_GS)));
    emit_store(e, AT_ST(gs_base), H_R15);
    CODE(e, "\x0f\xb7"); /* movzx eax, word [rcx + arith] */
    emit_modrm_mem(e, H_RAX, AT(H_RCX, CPU_FIELD(arith)), false);
    put8e(e, 0x66);
    emit_mem(e, false, 0x89, H_RAX, AT_ST(arith));
    emit_sahf(e);
    for (unsigned r = 0; r < CPU_GPRS; r++)
        if (bt_host_of[r] != NO_HOST)
            emit_load(e, bt_host_of[r], AT(H_RCX, CPU_GPR(r)));
    emit_jmp_mem(e, AT_ST(target));
}

static void emit_enter(struct bt *bt, struct emit *e)
{
    bt->enter = emit_rx(e);
    CODE(e, "\x53\x55\x41\x54\x41\x55\x41\x56\x41\x57"); /* push rbx rbp r12 r13 r14 r15 */
    emit_store(e, AT(H_RDI, (s32)offsetof(struct bt_state, host_rsp)), H_RSP);
    emit_lea(e, H_RSP, AT(H_RDI, 12));
    emit_mov(e, H_RAX, H_RSI);
    emit_jmp(e, bt->resume);
}

static void reload_unit(struct emit *e, unsigned unit, const u8 *load)
{
    put8e(e, 0xf6); /* test byte [want_units], unit */
    emit_modrm_mem(e, 0, AT_ST(want_units), false);
    put8e(e, unit);
    u8 *no = emit_jcc32(e, 4);
    emit_call(e, load);
    emit_here32(e, no);
}

/* Back into the middle of a block that uses vectors, or the x87 unit? RAX is kept. */
static void reload_units(struct bt *bt, struct emit *e)
{
    reload_unit(e, BT_UNIT_X87, bt->x87_load);
    reload_unit(e, BT_UNIT_VECTORS, bt->vec_load);
}

/* Whatever C may use and the guest has in the host's registers, to struct cpu. */
static void save_units(struct bt *bt, struct emit *e)
{
    vec_save(bt, e);
    u8 *none = bt_x87_save(e);
    call_c(e, bt_x87_saved);
    emit_here32(e, none);
}

static void emit_slow(struct bt *bt, struct emit *e)
{
    bt->slow = emit_rx(e);
    put8e(e, 0x59); /* pop rcx: the site */
    emit_store(e, AT_ST(site), H_RCX);
    save_guest(e);
    emit_mem(e, false, 0x8b, H_RSI, AT_ST(site));
    call_c(e, bt_refill);
    CODE(e, "\x48\x85\xc0"); /* test rax, rax */
    u8 *helped = emit_jcc32(e, 5);
    save_units(bt, e);
    emit_mem(e, false, 0x8b, H_RSI, AT_ST(site));
    call_c(e, bt_service);
    reload_units(bt, e);
    emit_here32(e, helped);
    emit_jmp(e, bt->resume);
}

/* host.h: RAX is the offset in code memory << 32 and more; what RAX and RDX held stands below RSP. */
static void emit_fault(struct bt *bt, struct emit *e)
{
    bt->fault = emit_rx(e);
    emit_store(e, AT_ST(site), H_RAX);
    emit_load(e, H_RAX, AT(H_RSP, -8));
    emit_load(e, H_RDX, AT(H_RSP, -16));
    save_guest(e);
    save_units(bt, e);
    emit_load(e, H_RSI, AT_ST(site));
    call_c(e, bt_faulted);
    reload_units(bt, e);
    emit_jmp(e, bt->resume);
}

/* What an empty slot of the hash leads to: the target is in RCX. */
static void emit_hash_miss(struct bt *bt, struct emit *e)
{
    bt->hash_miss = emit_rx(e);
    emit_store(e, AT_ST(target), H_RCX);
    emit_push_imm(e, BT_NO_SITE);
    emit_jmp(e, bt->slow);
}

void bt_thunks(struct bt *bt, struct emit *e)
{
    bt_x87_load(bt, e);
    emit_vec_load(bt, e);
    emit_leave(bt, e);
    emit_resume(bt, e);
    emit_enter(bt, e);
    emit_slow(bt, e);
    emit_fault(bt, e);
    emit_hash_miss(bt, e);
}
