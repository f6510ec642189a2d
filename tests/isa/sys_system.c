/*
 * Flags, ports, control and debug registers, MSRs and the fast system calls: privilege and reserved bits.
 */
#include "sys_harness.h"
#include "isa/class.h"

/* A mnemonic that is neither innocuous nor unsupported has a function. */
static void every_sensitive_mnemonic_has_a_meaning(void **state)
{
    size_t n;
    const struct isa_class_row *rows = isa_class_rows(&n);
    for (size_t i = 0; i < n; i++)
        if (rows[i].cls != ISA_UNSUPPORTED && !isa_row(rows[i].mnemonic))
            fail_msg("%s has no function", isa_mnemonic_name(rows[i].mnemonic));
}

/* #GP(0) outside ring 0, and no change. */
static void privileged_instructions(void **state)
{
    static const char *forms[] = {"f4",     "0f06",   "0f20c0", "0f22c0",   "0f20d0",    "0f22d0", "0f20d8",
                                  "0f22d8", "0f20e0", "0f22e0", "440f20c0", "440f22c0",  "0f21c0", "0f23f8",
                                  "0f32",   "0f30",   "0f08",   "0f09",     "0f0138",    "0f01f0", "0f01f8",
                                  "0f00d0", "480f07", "0f35",   "0f01d1",   "660f388200"};
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    c->cr4 |= CR4_OSXSAVE;
    c->msr.sysenter_cs = 8;
    for (unsigned i = 0; i < ARRAY_LEN(forms); i++)
        for (unsigned cpl = 1; cpl < 4; cpl++) {
            harness_ring(&h, cpl);
            struct cpu before = *c;
            assert_run_fault(&h, forms[i], VEC_GP, 0);
            c->fault = before.fault;
            assert_memory_equal(c, &before, sizeof(before));
        }
    harness_ring(&h, 3);
    assert_run_fault(&h, "0f01cb", VEC_UD, -1); /* STAC, CLAC: #UD */
    assert_run_fault(&h, "0f01ca", VEC_UD, -1);
    harness_free(&h);
}

static void undefined_instructions(void **state)
{
    static const char *forms[] = {"0f0b", "0f01c8", "0f01c9", "0f01ee", "0f01c2", "0faa"};
    struct harness h;
    harness_init(&h, true, false);
    for (unsigned i = 0; i < ARRAY_LEN(forms); i++)
        assert_run_fault(&h, forms[i], VEC_UD, -1);
    harness_free(&h);
}

/* Segments, the vector table, transfers; what happens when there is no room left. */
static void real_mode(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, false, false);
    cpu_reset(c);
    cpu_startup(c, 0x80);
    assert_int_equal(c->seg[SEG_CS].base, 0x80000);
    c->seg[SEG_DS].limit = 0xfffff;
    c->gpr[RAX] = 0x9000;
    assert_run_ok(&h, "8ed8"); /* MOV DS, AX: the limit stays */
    assert_int_equal(c->seg[SEG_DS].base, 0x90000);
    assert_int_equal(c->seg[SEG_DS].limit, 0xfffff);
    c->gpr[RAX] = 0x2000;
    assert_run_ok(&h, "8ed0");
    c->gpr[RSP] = 0x12340100;
    c->idtr = (struct cpu_table){.base = IDT, .limit = 0x3ff};
    mem_put(&h, IDT + 4 * 0x21, 4, 0x80050007);
    cpu_set_rflags(c, FL_IF | FL_TF | FL_AC | FL_NT | FL_CF);
    c->rip = 0x44;
    assert_int_equal(run_with_every_fault(&h, "cd21"), 2);
    assert_int_equal(c->rip, 7);
    assert_int_equal(c->seg[SEG_CS].selector, 0x8005);
    assert_int_equal(c->gpr[RSP], 0x123400fa);
    assert_int_equal(mem_get(&h, 0x200fa, 2), 0x46);
    assert_int_equal(mem_get(&h, 0x200fc, 2), 0x8000);
    assert_int_equal(mem_get(&h, 0x200fe, 2), FL_IF | FL_TF | FL_NT | FL_CF | FL_ONE);
    assert_int_equal(cpu_rflags(c), FL_NT | FL_CF | FL_ONE);
    assert_int_equal(run_with_every_fault(&h, "cf"), 1);
    assert_int_equal(c->rip, 0x46);
    assert_int_equal(cpu_rflags(c), FL_IF | FL_TF | FL_NT | FL_CF | FL_ONE);
    c->idtr.limit = 4 * 0x21 + 2;
    assert_run_fault(&h, "cd21", VEC_GP, 0x21 * 8 + 2);
    c->gpr[RSP] = 5; /* the first slot of a frame fits, the last does not */
    assert_int_equal(isa_deliver(&h.isa, ISA_EVENT_EXTERNAL, 3), CPU_SHUTDOWN);
    c->gpr[RSP] = 0;
    c->idtr.limit = 7;
    assert_int_equal(isa_deliver(&h.isa, ISA_EVENT_NMI, 2), CPU_SHUTDOWN);
    harness_free(&h);
}

static void interrupt_flag(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    for (unsigned i = 0; i < 16; i++) {
        unsigned cpl = i & 3, iopl = i >> 2;
        harness_ring(&h, cpl);
        cpu_set_rflags(c, (u64)iopl << 12);
        c->shadow = 0;
        if (cpl > iopl) {
            assert_run_fault(&h, "fb", VEC_GP, 0);
            assert_run_fault(&h, "fa", VEC_GP, 0);
            continue;
        }
        assert_run_ok(&h, "fb");
        assert_int_equal(c->sysflags & FL_IF, FL_IF);
        assert_int_equal(c->shadow, SHADOW_STI);
        c->shadow = 0;
        assert_run_ok(&h, "fb"); /* IF was set: no shadow */
        assert_int_equal(c->shadow, 0);
        assert_run_ok(&h, "fa");
        assert_int_equal(c->sysflags & FL_IF, 0);
    }
    /* CR4.PVI: VIF for ring 3 alone, and only while IOPL withholds IF */
    c->cr4 |= CR4_PVI;
    for (unsigned i = 0; i < 32; i++) {
        unsigned cpl = i & 3, iopl = i >> 2 & 3;
        u64 vip = i & 16 ? FL_VIP : 0;
        harness_ring(&h, cpl);
        cpu_set_rflags(c, (u64)iopl << 12 | vip);
        if (cpl <= iopl) {
            assert_run_ok(&h, "fb");
            assert_int_equal(c->sysflags & (FL_IF | FL_VIF), FL_IF);
        } else if (cpl < 3) {
            assert_run_fault(&h, "fb", VEC_GP, 0);
            assert_run_fault(&h, "fa", VEC_GP, 0);
        } else {
            if (vip)
                assert_run_fault(&h, "fb", VEC_GP, 0);
            else
                assert_run_ok(&h, "fb");
            assert_int_equal(c->sysflags & (FL_IF | FL_VIF), vip ? 0 : FL_VIF);
            c->sysflags |= FL_VIF;
            assert_run_ok(&h, "fa");
            assert_int_equal(c->sysflags & (FL_IF | FL_VIF | FL_VIP), vip);
        }
    }
    harness_free(&h);
}

static void flags_on_the_stack(void **state)
{
    for (unsigned i = 0; i < 4 * 4 * 2; i++) {
        struct harness h;
        struct cpu *c = &h.cpu;
        unsigned cpl = i & 3, iopl = i >> 2 & 3, w = i >> 4 ? 8 : 2;
        harness_init(&h, true, false);
        harness_ring(&h, cpl);
        cpu_set_rflags(c, (u64)iopl << 12 | FL_RF | FL_VIP);
        u64 sp = c->gpr[RSP];
        mem_put(&h, sp, 8, 0x3f7fd7 ^ FL_VIP);
        assert_run_ok(&h, w == 8 ? "9d" : "66 9d");
        u64 want = FL_ONE | FL_ARITH | FL_TF | FL_DF | FL_NT | FL_VIP;
        if (w > 2)
            want |= FL_AC | FL_ID;
        if (cpl <= iopl)
            want |= FL_IF;
        want |= cpl == 0 ? FL_IOPL : (u64)iopl << 12;
        assert_int_equal(cpu_rflags(c), want);
        assert_int_equal(h.n_mode, 1);
        assert_int_equal(c->gpr[RSP], sp + w);
        mem_put(&h, sp, 8, want);
        c->gpr[RSP] = sp;
        assert_run_ok(&h, w == 8 ? "9d" : "66 9d");
        assert_int_equal(h.n_mode, 0); /* neither AC nor TF changed */
        c->sysflags |= FL_RF;
        assert_run_ok(&h, w == 8 ? "9c" : "66 9c");
        assert_int_equal(mem_get(&h, sp, w), want & isa_mask(w));
        harness_free(&h);
    }
}

static void access_flag(void **state)
{
    struct harness h;
    harness_init(&h, true, false);
    assert_run_ok(&h, "0f01cb");
    assert_int_equal(h.cpu.sysflags, FL_AC);
    assert_int_equal(h.n_mode, 1);
    assert_run_ok(&h, "0f01ca");
    assert_int_equal(h.cpu.sysflags, 0);
    harness_free(&h);
}

static void ports(void **state)
{
    static const struct {
        const char *hex;
        u16 port;
        u8 size, write;
    } forms[] = {{"e4 71", 0x71, 1, 0}, {"e5 71", 0x71, 4, 0}, {"66 e5 71", 0x71, 2, 0}, {"e6 f4", 0xf4, 1, 1},
                 {"e7 f4", 0xf4, 4, 1}, {"ec", 0x3f8, 1, 0},   {"66 ed", 0x3f8, 2, 0},   {"48 ed", 0x3f8, 4, 0},
                 {"ee", 0x3f8, 1, 1},   {"ef", 0x3f8, 4, 1}};
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    for (unsigned i = 0; i < ARRAY_LEN(forms); i++) {
        harness_ring(&h, 0);
        c->gpr[RAX] = 0x1122334455667788;
        c->gpr[RDX] = 0xffff03f8;
        h.io_value = 0xaabbccdd;
        assert_run_ok(&h, forms[i].hex);
        assert_int_equal(h.io_port, forms[i].port);
        assert_int_equal(h.io_size, forms[i].size);
        assert_int_equal(h.io_write, forms[i].write);
        if (forms[i].write)
            assert_int_equal(h.io_value, 0x55667788 & isa_mask(forms[i].size));
        else
            assert_int_equal(c->gpr[RAX], forms[i].size == 4   ? 0xaabbccdd
                                          : forms[i].size == 2 ? 0x112233445566ccdd
                                                               : 0x11223344556677dd);
    }
    harness_free(&h);
}

/* All rings and I/O privilege levels, sizes, and bits around the port. */
static void port_permissions(void **state)
{
    static const char *in[] = {[1] = "ec", [2] = "66 ed", [4] = "ed"};
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    for (unsigned i = 0; i < 4 * 4 * 3 * 8 * 16; i++) {
        unsigned cpl = i & 3, iopl = i >> 2 & 3, size = 1u << (i / 16 % 3), port = 0x3f0 + i / 48 % 8, denied = i / 384;
        harness_ring(&h, cpl);
        cpu_set_rflags(c, (u64)iopl << 12);
        memset(h.mem + TSS + 0x68, 0, 0x100);
        mem_put(&h, TSS + 0x68 + 0x7e, 2, 1u << denied);
        c->gpr[RDX] = port;
        unsigned bit = 0x3f0 + denied;
        bool ok = cpl <= iopl || bit < port || bit >= port + size;
        if (ok)
            assert_run_ok(&h, in[size]);
        else
            assert_run_fault(&h, in[size], VEC_GP, 0);
        assert_int_equal(h.io_count, ok);
    }
    harness_free(&h);
}

static void port_bitmap_limits(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    for (int lm = 0; lm < 2; lm++) {
        harness_init(&h, lm, false);
        harness_ring(&h, 3);
        memset(h.mem + TSS + 0x68, 0, 0x1000);
        c->gpr[RDX] = 0x3ff;
        c->seg[SEG_TR].limit = 0x68 + 0x7f + 1; /* two bytes are read */
        assert_run_ok(&h, "ec");
        c->seg[SEG_TR].limit--;
        assert_run_fault(&h, "ec", VEC_GP, 0);
        c->gpr[RDX] = 0;
        mem_put(&h, TSS + 0x66, 2, 0xffff);
        assert_run_fault(&h, "ec", VEC_GP, 0);
        c->seg[SEG_TR].limit = 0x66;
        assert_run_fault(&h, "ec", VEC_GP, 0);
        c->seg[SEG_TR].limit = 0x1fff;
        mem_put(&h, TSS + 0x66, 2, 0x68);
        assert_run_ok(&h, "ec");
        c->seg[SEG_TR].attr = SEG_P | DESC_TSS16_BUSY;
        assert_run_fault(&h, "ec", VEC_GP, 0);
        harness_free(&h);
    }
}

static void string_io(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    c->gpr[RDX] = 0x1f0;
    c->gpr[RCX] = 3;
    c->gpr[RDI] = DATA;
    h.io_value = 0xbeef;
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(c->rip, CODE);
        assert_run_ok(&h, "f3 66 6d"); /* rep insw: an element a call */
        assert_int_equal(h.io_count, 1);
        assert_int_equal(c->gpr[RCX], 2 - i);
        assert_int_equal(c->gpr[RDI], DATA + 2 * i + 2);
    }
    assert_int_equal(c->rip, CODE + 3);
    assert_int_equal(mem_get(&h, DATA, 6), 0xbeefbeefbeef);
    c->rip = CODE;
    assert_run_ok(&h, "f3 66 6d"); /* count 0 */
    assert_int_equal(h.io_count, 0);
    assert_int_equal(c->rip, CODE + 3);

    /* backwards, with an override, 32-bit addresses */
    harness_ring(&h, 0);
    cpu_set_rflags(c, FL_DF);
    c->seg[SEG_FS].base = 0x1000;
    c->gpr[RSI] = 0xffffffff00000000 | (DATA - 0x1000);
    mem_put(&h, DATA, 4, 0x12345678);
    assert_run_ok(&h, "64 67 6f");
    assert_int_equal(h.io_value, 0x12345678);
    assert_int_equal(c->gpr[RSI], DATA - 0x1004);
    /* memory is tried before the port */
    h.absent = 0x91000;
    c->gpr[RDI] = 0x91000;
    assert_int_equal(run(&h, "6c"), CPU_FAULT);
    assert_int_equal(h.io_count, 0);
    h.absent = ~0ull;
    assert_int_equal(run_with_every_fault(&h, "6c"), 2);
    harness_free(&h);
}

static void cr0_rules(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    const u64 good = CR0_PE | CR0_PG | CR0_ET;
    static const struct {
        u64 v;
        bool ok;
    } probes[] = {{CR0_PE | CR0_PG | CR0_ET | CR0_WP, true}, {CR0_PG, false}, /* without PE */
                  {CR0_PE | CR0_PG | CR0_NW, false},                          /* without CD */
                  {CR0_PE | CR0_PG | CR0_NW | CR0_CD, true}, {CR0_PE | CR0_PG | BIT(32), false},
                  {CR0_PE | CR0_PG | BIT(63), false},        {CR0_PE, false}}; /* leaving paging in 64-bit mode */
    for (unsigned i = 0; i < ARRAY_LEN(probes); i++) {
        c->cr0 = good;
        c->gpr[RAX] = probes[i].v;
        if (probes[i].ok) {
            assert_run_ok(&h, "0f22c0");
            assert_int_equal(c->cr0, probes[i].v | CR0_ET);
            assert_true(h.n_mode);
        } else {
            assert_run_fault(&h, "0f22c0", VEC_GP, 0);
            assert_int_equal(c->cr0, good);
        }
    }
    c->cr0 = good;
    c->gpr[RAX] = good | 0x1fffffc0 | CR0_MP; /* reserved bits of the lower half are dropped */
    assert_run_ok(&h, "0f22c0");
    assert_int_equal(c->cr0, good | CR0_MP | CR0_WP | CR0_AM);
    assert_int_equal(h.n_flush, 1);
    assert_int_equal(h.flush_kind, ISA_FLUSH_ALL);
    c->gpr[RAX] = c->cr0 | CR0_TS;
    assert_run_ok(&h, "0f22c0");
    assert_int_equal(h.n_flush, 0);
    assert_run_ok(&h, "0f06");
    assert_int_equal(c->cr0 & CR0_TS, 0);
    c->gpr[RAX] = 0xfff6; /* LMSW: PE stays */
    assert_run_ok(&h, "0f01f0");
    assert_int_equal(c->cr0, good | CR0_MP | CR0_EM | CR0_WP | CR0_AM);
    harness_free(&h);
}

static void long_mode_is_entered_and_left(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, false, false);
    c->gpr[RAX] = CR0_PE | CR0_PG;
    c->cr4 = 0;
    c->efer = EFER_LME;
    assert_run_fault(&h, "0f22c0", VEC_GP, 0); /* no PAE */
    c->cr4 = CR4_PAE;
    c->seg[SEG_CS].attr |= SEG_L;
    assert_run_fault(&h, "0f22c0", VEC_GP, 0); /* CS.L */
    c->seg[SEG_CS].attr &= ~SEG_L;
    c->seg[SEG_TR].attr = SEG_P | DESC_TSS16_BUSY;
    assert_run_fault(&h, "0f22c0", VEC_GP, 0);
    c->seg[SEG_TR].attr = SEG_P | DESC_TSS_BUSY;
    assert_run_ok(&h, "0f22c0");
    assert_int_equal(c->efer, EFER_LME | EFER_LMA);
    assert_false(cpu_code64(c));
    c->gpr[RAX] = CR0_PE;
    c->cr4 |= CR4_PCIDE;
    assert_run_fault(&h, "0f22c0", VEC_GP, 0);
    c->cr4 &= ~CR4_PCIDE;
    assert_run_ok(&h, "0f22c0");
    assert_int_equal(c->efer, EFER_LME);
    c->gpr[RAX] = 0;
    assert_run_ok(&h, "0f22c0");
    assert_true(cpu_real_mode(c));
    harness_free(&h);
}

/* 32-bit and PAE paging: when the page-directory-pointer entries are read, and what becomes of bad ones. */
static void legacy_paging_is_entered_and_left(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, false, false);
    c->cr4 = 0;
    c->gpr[RAX] = CR0_PE | CR0_PG;
    assert_run_ok(&h, "0f22c0");
    assert_int_equal(c->efer, 0);
    assert_int_equal(h.flush_kind, ISA_FLUSH_ALL);
    c->cr3 = DATA + 0x20;
    mem_put(&h, DATA + 0x20, 8, 0x1003); /* bit 1 is reserved */
    mem_put(&h, DATA + 0x40, 8, 0x2001);
    c->gpr[RAX] = CR4_PAE;
    assert_run_fault(&h, "0f22e0", VEC_GP, 0);
    assert_int_equal(c->cr4, 0);
    mem_put(&h, DATA + 0x20, 8, 0x1001);
    assert_run_ok(&h, "0f22e0");
    assert_int_equal(c->pdpte[0], 0x1001);
    c->gpr[RAX] = DATA + 0x40 + 0x1f; /* the low bits of CR3 are no address */
    assert_run_ok(&h, "0f22d8");
    assert_int_equal(c->pdpte[0], 0x2001);
    assert_int_equal(c->cr3, DATA + 0x5f);
    c->gpr[RAX] = 0xfff00000; /* beyond memory: ones */
    assert_run_fault(&h, "0f22d8", VEC_GP, 0);
    assert_int_equal(c->pdpte[0], 0x2001);
    assert_int_equal(c->cr3, DATA + 0x5f);
    mem_put(&h, DATA + 0x40, 8, 0x3001);
    c->gpr[RAX] = CR4_PAE | CR4_TSD;
    assert_run_ok(&h, "0f22e0");
    assert_int_equal(c->pdpte[0], 0x2001);
    c->gpr[RAX] = CR4_PAE | CR4_PGE;
    assert_run_ok(&h, "0f22e0");
    assert_int_equal(c->pdpte[0], 0x3001);
    mem_put(&h, DATA + 0x40, 8, 0x4001);
    c->gpr[RAX] = CR0_PE | CR0_PG | CR0_WP;
    assert_run_ok(&h, "0f22c0");
    assert_int_equal(c->pdpte[0], 0x3001);
    c->gpr[RAX] = CR0_PE | CR0_PG | CR0_CD;
    assert_run_ok(&h, "0f22c0");
    assert_int_equal(c->pdpte[0], 0x4001);
    c->gpr[RAX] = CR0_PE;
    assert_run_ok(&h, "0f22c0");
    mem_put(&h, DATA + 0x40, 8, 0x4021);
    c->gpr[RAX] = CR0_PE | CR0_PG;
    assert_run_fault(&h, "0f22c0", VEC_GP, 0);
    assert_int_equal(c->cr0 & CR0_PG, 0);
    harness_free(&h);
}

static void cr3_rules(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    for (unsigned bit = 0; bit < 64; bit++)
        for (int pcid = 0; pcid < 2; pcid++) {
            c->cr4 = CR4_PAE | (pcid ? CR4_PCIDE : 0);
            c->cr3 = 0;
            c->gpr[RAX] = BIT(bit);
            bool ok = bit < 40 || (bit == 63 && pcid);
            if (!ok) {
                assert_run_fault(&h, "0f22d8", VEC_GP, 0);
                continue;
            }
            assert_run_ok(&h, "0f22d8");
            assert_int_equal(c->cr3, bit == 63 ? 0 : BIT(bit));
            assert_int_equal(h.flush_kind, bit == 63 ? ISA_FLUSH_SWITCH : ISA_FLUSH_NONGLOBAL);
            assert_int_equal(h.flush_pcid, pcid && bit < 12 ? BIT(bit) : 0);
        }
    harness_free(&h);
}

static void cr4_rules(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    for (unsigned bit = 0; bit < 64; bit++) {
        c->cr4 = CR4_PAE;
        c->gpr[RAX] = CR4_PAE | BIT(bit);
        if (h.model.cr4_mask >> bit & 1) {
            assert_run_ok(&h, "0f22e0");
            assert_int_equal(c->cr4, c->gpr[RAX]);
            bool paging = BIT(bit) & (CR4_PSE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP);
            assert_int_equal(h.n_flush, paging);
        } else {
            assert_run_fault(&h, "0f22e0", VEC_GP, 0);
            assert_int_equal(c->cr4, CR4_PAE);
        }
    }
    c->cr4 = CR4_PAE;
    c->gpr[RAX] = 0;
    assert_run_fault(&h, "0f22e0", VEC_GP, 0);
    c->gpr[RAX] = CR4_PAE | CR4_PCIDE;
    c->cr3 = 0x1001;
    assert_run_fault(&h, "0f22e0", VEC_GP, 0);
    c->cr3 = 0x1000;
    assert_run_ok(&h, "0f22e0");
    c->cr3 = 0x1001; /* with PCIDs on already, that is as it should be */
    c->gpr[RAX] |= CR4_PGE;
    assert_run_ok(&h, "0f22e0");
    harness_free(&h);
    harness_init(&h, false, false);
    h.cpu.gpr[RAX] = CR4_PAE | CR4_PCIDE;
    assert_run_fault(&h, "0f22e0", VEC_GP, 0);
    harness_free(&h);
}

static void other_control_registers(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    c->gpr[RAX] = 0x123456789abcdef0;
    assert_run_ok(&h, "0f22d0");
    assert_run_ok(&h, "0f20d3");
    assert_int_equal(c->gpr[RBX], 0x123456789abcdef0);
    for (unsigned v = 0; v < 32; v++) {
        c->gpr[RAX] = v;
        if (v < 16)
            assert_run_ok(&h, "440f22c0");
        else
            assert_run_fault(&h, "440f22c0", VEC_GP, 0);
    }
    assert_int_equal(h.cr8, 15);
    assert_run_ok(&h, "440f20c3");
    assert_int_equal(c->gpr[RBX], 15);
    harness_free(&h);
}

static void debug_registers(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    c->gpr[RAX] = 0xffff888000001234;
    assert_run_ok(&h, "0f23d8"); /* dr3 */
    assert_int_equal(c->dr[3], 0xffff888000001234);
    c->gpr[RAX] = 0;
    assert_run_ok(&h, "0f23f0"); /* dr6 */
    assert_int_equal(c->dr[6], 0xffff0ff0);
    c->gpr[RAX] = 0xffffffff & ~BIT(13);
    assert_run_ok(&h, "0f23e0"); /* dr4 is dr6 */
    assert_int_equal(c->dr[6], 0xffff0ff0 | 0xc00f);
    assert_run_ok(&h, "0f23e8"); /* dr5 is dr7 */
    assert_int_equal(c->dr[7], 0xffff07ff);
    c->gpr[RAX] = BIT(32);
    assert_run_fault(&h, "0f23f0", VEC_GP, 0);
    assert_run_fault(&h, "0f23f8", VEC_GP, 0);
    c->cr4 |= CR4_DE;
    assert_run_fault(&h, "0f23e0", VEC_UD, -1);
    assert_run_fault(&h, "0f21e8", VEC_UD, -1);
    c->dr[7] = 0x400 | BIT(13);
    assert_run_fault(&h, "0f21c0", VEC_DB, -1);
    assert_int_equal(c->fault.address, BIT(13));
    harness_free(&h);
}

static void invalidations(void **state)
{
    static const u8 kinds[] = {ISA_FLUSH_PCID_PAGE, ISA_FLUSH_PCID, ISA_FLUSH_ALL, ISA_FLUSH_ALL_NONGLOBAL};
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    c->seg[SEG_GS].base = 0x10000;
    c->gpr[RAX] = 0x5000;
    assert_run_ok(&h, "65 0f0138");
    assert_int_equal(h.flush_kind, ISA_FLUSH_PAGE);
    assert_int_equal(h.flush_va, 0x15000);
    c->gpr[RAX] = 0x800000000000;
    assert_run_ok(&h, "0f0138"); /* not canonical: nothing to do */
    assert_int_equal(h.n_flush, 0);

    c->gpr[RAX] = DATA;
    for (unsigned i = 0; i < 6 * 2 * 2 * 2 * 2; i++) {
        unsigned type = i % 6, pcid = i / 6 & 1, reserved = i / 12 & 1, canonical = i / 24 & 1, pcide = i / 48;
        bool ok = type < 4 && !reserved && (type > 1 || !pcid || pcide) && (type != 0 || canonical);
        mem_put(&h, DATA, 8, pcid * 0x123 | reserved << 12);
        mem_put(&h, DATA + 8, 8, canonical ? 0x7000 : 0x800000000000);
        c->cr4 = CR4_PAE | (pcide ? CR4_PCIDE : 0);
        c->gpr[RCX] = type;
        if (ok) {
            assert_run_ok(&h, "66 0f388208"); /* invpcid rcx, [rax] */
            assert_int_equal(h.flush_kind, kinds[type]);
            assert_int_equal(h.flush_pcid, pcid * 0x123);
        } else {
            assert_run_fault(&h, "66 0f388208", VEC_GP, 0);
            assert_int_equal(h.n_flush, 0);
        }
    }
    harness_free(&h);
}

static void xcr0_rules(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    assert_run_fault(&h, "0f01d1", VEC_UD, -1);
    assert_run_fault(&h, "0f01d0", VEC_UD, -1);
    c->cr4 |= CR4_OSXSAVE;
    for (unsigned v = 0; v < 512; v++) {
        unsigned z = v & 0xe0;
        bool ok = (v & 1) && !(v & ~0xe7u) && (!(v & 4) || (v & 2)) && (!z || (z == 0xe0 && (v & 4)));
        c->gpr[RAX] = v;
        c->gpr[RCX] = c->gpr[RDX] = 0;
        c->xcr0 = 1;
        if (ok)
            assert_run_ok(&h, "0f01d1");
        else
            assert_run_fault(&h, "0f01d1", VEC_GP, 0);
        assert_int_equal(c->xcr0, ok ? v : 1);
        assert_run_ok(&h, "0f01d0");
        assert_int_equal(c->gpr[RAX], c->xcr0);
    }
    c->gpr[RCX] = 1;
    assert_run_fault(&h, "0f01d1", VEC_GP, 0);
    assert_run_fault(&h, "0f01d0", VEC_GP, 0); /* XINUSE is not offered by this model */
    harness_free(&h);
}

static void msrs(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    c->gpr[RCX] = 0xffffffff00000010;
    c->gpr[RAX] = 0xffffffff11112222;
    c->gpr[RDX] = 0xffffffff33334444;
    assert_run_ok(&h, "0f30");
    assert_int_equal(h.msr_index, 0x10);
    assert_int_equal(h.msr_value, 0x3333444411112222);
    assert_int_equal(h.n_flush, 0);
    h.msr_value = 0xaaaabbbbccccdddd;
    assert_run_ok(&h, "0f32");
    assert_int_equal(c->gpr[RAX], 0xccccdddd);
    assert_int_equal(c->gpr[RDX], 0xaaaabbbb);
    c->gpr[RCX] = 0x666;
    assert_run_fault(&h, "0f32", VEC_GP, 0);
    assert_int_equal(c->gpr[RAX], 0xccccdddd);
    assert_run_fault(&h, "0f30", VEC_GP, 0);
    c->gpr[RCX] = 0xc0000080;
    c->gpr[RAX] = c->efer | EFER_NXE;
    c->gpr[RDX] = 0;
    assert_run_ok(&h, "0f30");
    assert_int_equal(h.n_flush, 1);
    assert_int_equal(h.n_mode, 1);
    harness_free(&h);
}

static void counters(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    for (unsigned i = 0; i < 8; i++) {
        unsigned cpl = i & 3;
        bool ok = !(i & 4) || cpl == 0;
        harness_ring(&h, cpl);
        c->cr4 = CR4_PAE | (i & 4 ? CR4_TSD : 0);
        c->msr.tsc_aux = 0x77;
        h.tsc = 0x123456789abcdef;
        if (!ok) {
            assert_run_fault(&h, "0f31", VEC_GP, 0);
            assert_run_fault(&h, "0f01f9", VEC_GP, 0);
            continue;
        }
        c->gpr[RAX] = c->gpr[RDX] = c->gpr[RCX] = ~0ull;
        assert_run_ok(&h, "0f31");
        assert_int_equal(c->gpr[RAX], 0x89abcdef);
        assert_int_equal(c->gpr[RDX], 0x1234567);
        assert_int_equal(c->gpr[RCX], ~0ull);
        assert_run_ok(&h, "0f01f9");
        assert_int_equal(c->gpr[RCX], 0x77);
        assert_run_ok(&h, "f3 0fc7f8"); /* rdpid rax */
        assert_int_equal(c->gpr[RAX], 0x77);
        assert_run_fault(&h, "0f33", VEC_GP, 0);
    }
    harness_free(&h);
}

static void segment_bases(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    assert_run_fault(&h, "f3 48 0faec0", VEC_UD, -1);
    c->cr4 |= CR4_FSGSBASE;
    harness_ring(&h, 3);
    c->gpr[RAX] = 0xffff800012345678;
    assert_run_ok(&h, "f3 48 0faed0"); /* wrfsbase rax */
    assert_int_equal(c->seg[SEG_FS].base, 0xffff800012345678);
    assert_run_ok(&h, "f3 0faec3"); /* rdfsbase ebx */
    assert_int_equal(c->gpr[RBX], 0x12345678);
    assert_run_ok(&h, "f3 0faed8"); /* wrgsbase eax */
    assert_int_equal(c->seg[SEG_GS].base, 0x12345678);
    assert_run_ok(&h, "f3 48 0faecb");
    assert_int_equal(c->gpr[RBX], 0x12345678);
    c->gpr[RAX] = 0x800000000000;
    assert_run_fault(&h, "f3 48 0faed0", VEC_GP, 0);
    harness_ring(&h, 0);
    c->seg[SEG_GS].base = 0x1111;
    c->msr.kernel_gs_base = 0xffff888000000000;
    assert_run_ok(&h, "0f01f8");
    assert_int_equal(c->seg[SEG_GS].base, 0xffff888000000000);
    assert_int_equal(c->msr.kernel_gs_base, 0x1111);
    harness_free(&h);
}

static s64 op_hypercall(void *ctx, u64 number, const u64 args[4])
{
    struct harness *h = ctx;
    h->msr_value = number ^ args[0] << 8 ^ args[1] << 16 ^ args[2] << 24 ^ args[3] << 32;
    return -22;
}

static void hypercalls_with_arguments(void **state)
{
    struct harness h;
    harness_init(&h, true, false);
    struct cpu *c = &h.cpu;
    struct isa_ops ops = *h.isa.ops;
    ops.hypercall = op_hypercall;
    h.isa.ops = &ops;
    h.model.feature[FW_KVM_EAX] = 1;
    c->gpr[RAX] = 10, c->gpr[RBX] = 1, c->gpr[RCX] = 2, c->gpr[RDX] = 3, c->gpr[RSI] = 4;
    assert_run_ok(&h, "0f01c1");
    assert_true(h.msr_value == (10 ^ 1 << 8 ^ 2 << 16 ^ 3 << 24 ^ 4ull << 32));
    assert_int_equal(c->gpr[RAX], -22ull);
    h.msr_value = 0;
    harness_ring(&h, 3);
    assert_run_ok(&h, "0f01d9"); /* not for users */
    assert_int_equal(c->gpr[RAX], -1ull);
    assert_int_equal(h.msr_value, 0);
    harness_free(&h);
}

static void hypercalls(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    assert_run_fault(&h, "0f01c1", VEC_UD, -1);
    h.model.feature[FW_KVM_EAX] = 1;
    assert_run_ok(&h, "0f01c1");
    assert_int_equal(c->gpr[RAX], -1000ull);
    harness_ring(&h, 3);
    assert_run_ok(&h, "0f01d9");
    assert_int_equal(c->gpr[RAX], -1ull);
    harness_free(&h);
}

static void halting(void **state)
{
    struct harness h;
    harness_init(&h, true, false);
    assert_run_ok(&h, "f4");
    assert_int_equal(h.cpu.halted, 1);
    assert_int_equal(h.cpu.rip, CODE + 1);
    harness_free(&h);
}

static void set_syscall_msrs(struct cpu *c)
{
    c->msr.star = (u64)(S_CODE32(3) | 3) << 48 | (u64)(S_CODE(0) | 3) << 32 | 0x00701234;
    c->msr.lstar = 0xffffffff81000000;
    c->msr.cstar = 0xffffffff82000000;
    c->msr.sfmask = FL_IF | FL_DF | FL_CF;
}

static void syscall_in_64_bit_mode(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    set_syscall_msrs(c);
    harness_ring(&h, 3);
    cpu_set_rflags(c, FL_IF | FL_DF | FL_CF | FL_ZF | FL_AC | FL_RF);
    u64 sp = c->gpr[RSP];
    assert_run_ok(&h, "0f05");
    assert_int_equal(c->rip, 0xffffffff81000000);
    assert_int_equal(c->gpr[RCX], CODE + 2);
    assert_int_equal(c->gpr[R11], FL_ONE | FL_IF | FL_DF | FL_CF | FL_ZF | FL_AC);
    assert_int_equal(cpu_rflags(c), FL_ONE | FL_ZF | FL_AC);
    assert_int_equal(c->cpl, 0);
    assert_int_equal(c->gpr[RSP], sp);
    assert_int_equal(c->seg[SEG_CS].selector, S_CODE(0));
    assert_int_equal(c->seg[SEG_SS].selector, S_CODE(0) + 8);
    assert_int_equal(c->seg[SEG_CS].attr, SEG_P | SEG_S | 0xb | SEG_L | SEG_G);
    assert_int_equal(c->seg[SEG_SS].attr, SEG_P | SEG_S | 3 | SEG_DB | SEG_G);
    c->efer &= ~EFER_SCE;
    assert_run_fault(&h, "0f05", VEC_UD, -1);
    harness_free(&h);
}

static void syscall_elsewhere(void **state)
{
    for (int i = 0; i < 4; i++) {
        struct harness h;
        struct cpu *c = &h.cpu;
        bool lm = i & 1, amd = i & 2;
        harness_init(&h, lm, amd);
        c->efer |= EFER_SCE;
        set_syscall_msrs(c);
        harness_ring32(&h, 3);
        cpu_set_rflags(c, FL_IF | FL_CF);
        if (!amd) {
            assert_run_fault(&h, "0f05", VEC_UD, -1);
        } else if (lm) {
            assert_run_ok(&h, "0f05");
            assert_int_equal(c->rip, 0xffffffff82000000);
            assert_true(cpu_code64(c));
            assert_int_equal(c->gpr[RCX], CODE + 2);
            assert_int_equal(c->gpr[R11], FL_ONE | FL_IF | FL_CF);
        } else {
            assert_run_ok(&h, "0f05");
            assert_int_equal(c->rip, 0x00701234);
            assert_int_equal(cpu_rflags(c), FL_ONE | FL_CF);
            assert_int_equal(c->seg[SEG_CS].attr & (SEG_L | SEG_DB), SEG_DB);
            assert_int_equal(c->cpl, 0);
        }
        harness_free(&h);
    }
}

static void sysret(void **state)
{
    for (int amd = 0; amd < 2; amd++)
        for (int wide = 0; wide < 2; wide++) {
            struct harness h;
            struct cpu *c = &h.cpu;
            harness_init(&h, true, amd);
            set_syscall_msrs(c);
            c->gpr[RCX] = 0x700012345678;
            c->gpr[R11] = ~0ull;
            u32 ss_attr = c->seg[SEG_SS].attr;
            assert_run_ok(&h, wide ? "48 0f07" : "0f07");
            assert_int_equal(c->rip, wide ? 0x700012345678 : 0x12345678);
            assert_int_equal(cpu_rflags(c), 0x3c7fd7 & (FL_SYS | FL_ARITH | FL_ONE));
            assert_int_equal(c->cpl, 3);
            assert_int_equal(c->seg[SEG_CS].selector, (S_CODE32(3) + (wide ? 16 : 0)) | 3);
            assert_int_equal(c->seg[SEG_SS].selector, (S_CODE32(3) + 8) | 3);
            assert_int_equal(c->seg[SEG_CS].attr & (SEG_L | SEG_DB | SEG_DPL), (wide ? SEG_L : SEG_DB) | SEG_DPL);
            assert_int_equal(c->seg[SEG_SS].attr, amd ? ss_attr : ss_attr | SEG_DPL);

            harness_ring(&h, 0);
            c->gpr[RCX] = 0x800000000000;
            if (amd || !wide)
                assert_run_ok(&h, wide ? "48 0f07" : "0f07");
            else
                assert_run_fault(&h, "48 0f07", VEC_GP, 0);
            assert_int_equal(c->cpl, amd || !wide ? 3 : 0);
            harness_free(&h);
        }
}

static void sysenter_and_sysexit(void **state)
{
    for (int i = 0; i < 4; i++) {
        struct harness h;
        struct cpu *c = &h.cpu;
        bool lm = i & 1, amd = i & 2;
        harness_init(&h, lm, amd);
        harness_ring(&h, 3);
        c->sysflags = FL_IF;
        if (lm && amd) {
            assert_run_fault(&h, "0f34", VEC_UD, -1);
            assert_run_fault(&h, "0f35", VEC_UD, -1);
            harness_free(&h);
            continue;
        }
        c->msr.sysenter_cs = 3;
        assert_run_fault(&h, "0f34", VEC_GP, 0);
        c->msr.sysenter_cs = 0xb;
        c->msr.sysenter_esp = 0xffff880000001000;
        c->msr.sysenter_eip = 0xffff880000002000;
        assert_run_ok(&h, "0f34");
        assert_int_equal(c->rip, lm ? 0xffff880000002000 : 0x2000);
        assert_int_equal(c->gpr[RSP], lm ? 0xffff880000001000 : 0x1000);
        assert_int_equal(c->sysflags, 0);
        assert_int_equal(c->seg[SEG_CS].selector, 8);
        assert_int_equal(c->seg[SEG_SS].selector, 16);
        assert_int_equal(cpu_code64(c), lm);
        c->rip = CODE;
        c->gpr[RCX] = 0x4000;
        c->gpr[RDX] = 0x5000;
        assert_run_ok(&h, "0f35");
        assert_int_equal(c->rip, 0x5000);
        assert_int_equal(c->gpr[RSP], 0x4000);
        assert_int_equal(c->cpl, 3);
        assert_int_equal(c->seg[SEG_CS].selector, 8 + 16 + 3);
        assert_int_equal(c->seg[SEG_SS].selector, 8 + 24 + 3);
        if (lm) {
            harness_ring(&h, 0);
            assert_run_ok(&h, "48 0f35");
            assert_int_equal(c->seg[SEG_CS].selector, 8 + 32 + 3);
            harness_ring(&h, 0);
            c->gpr[RDX] = 0x800000000000;
            assert_run_fault(&h, "48 0f35", VEC_GP, 0);
        }
        harness_free(&h);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_sensitive_mnemonic_has_a_meaning),
        cmocka_unit_test(privileged_instructions),
        cmocka_unit_test(undefined_instructions),
        cmocka_unit_test(real_mode),
        cmocka_unit_test(interrupt_flag),
        cmocka_unit_test(flags_on_the_stack),
        cmocka_unit_test(access_flag),
        cmocka_unit_test(ports),
        cmocka_unit_test(port_permissions),
        cmocka_unit_test(port_bitmap_limits),
        cmocka_unit_test(string_io),
        cmocka_unit_test(cr0_rules),
        cmocka_unit_test(long_mode_is_entered_and_left),
        cmocka_unit_test(legacy_paging_is_entered_and_left),
        cmocka_unit_test(cr3_rules),
        cmocka_unit_test(cr4_rules),
        cmocka_unit_test(other_control_registers),
        cmocka_unit_test(debug_registers),
        cmocka_unit_test(invalidations),
        cmocka_unit_test(xcr0_rules),
        cmocka_unit_test(msrs),
        cmocka_unit_test(counters),
        cmocka_unit_test(segment_bases),
        cmocka_unit_test(hypercalls),
        cmocka_unit_test(hypercalls_with_arguments),
        cmocka_unit_test(halting),
        cmocka_unit_test(syscall_in_64_bit_mode),
        cmocka_unit_test(syscall_elsewhere),
        cmocka_unit_test(sysret),
        cmocka_unit_test(sysenter_and_sysexit),
    };
    return cmocka_run_group_tests_name("isa-sys-system", tests, NULL, NULL);
}
