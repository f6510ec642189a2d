/*
 * ACPI tables: how a guest without a built-in idea of this machine finds its processors, interrupt controllers, fixed
 * hardware and legacy devices.
 *
 *   RSDP -> XSDT -> FADT -> FACS
 *                      \--> DSDT (AML: sleep state S5, processors, the legacy devices, the PCI host bridge, and virtio over MMIO
 *                                 where the machine has that, the generation counter)
 *               -> MADT
 *               -> MCFG (where PCI configuration space lies in memory)
 *
 * The RSDP stands at the start of the area, in the BIOS segment where a guest that is not told its address looks for it;
 * everything else follows, each table on a 16-byte boundary (the FACS on 64). All numbers are those of machine/platform.h:
 * the chips and these tables can not disagree.
 *
 * The machine has the full hardware interface (HW_REDUCED_ACPI clear): PM1a event and control blocks, PM timer, GPE0, SCI on
 * interrupt 9, level and active high as the chip drives it. There is no SMI command port, so ACPI mode is always on and the
 * chip shows SCI_EN. The power button is the fixed one; there is neither sleep button nor keyboard controller nor VGA.
 *
 * Source: ACPI specification 6.4, chapter 5.2 (tables), 4.8 (fixed hardware).
 *
 * Not done: RSDT for operating systems of the last century; SRAT/SLIT; PCI hot-plug and power management (_OSC grants nothing).
 */
#include "boot/aml.h"
#include "boot/boot.h"

#include "base/bytes.h"
#include "machine/platform.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define LAPIC_BASE    0xfee00000u
#define IOAPIC_BASE   0xfec00000u
#define ACPI_MAX_CPUS 4096u

#define HEADER        36u
#define FADT_LEN      276u
#define FACS_LEN      64u
#define RSDP_LEN      36u

/* FADT flags (table 5.10) */
#define FADT_WBINVD     BIT(0)
#define FADT_PROC_C1    BIT(2)
#define FADT_NO_SLP_BTN BIT(5)
#define FADT_NO_RTC_FIX BIT(6)
#define FADT_TMR_32BIT  BIT(8)
#define FADT_RESET_REG  BIT(10)
/* FADT boot architecture flags (table 5.11) */
#define IAPC_LEGACY_DEVICES BIT(0)
#define IAPC_NO_VGA         BIT(2)

/* A table in the making is an AML buffer over its final place; its header is completed by table_end. */
struct acpi {
    struct aml out;
    u64 base; /* guest-physical address of out.data[0] */
};

static u64 table_align(struct acpi *t, size_t align)
{
    while (!t->out.full && t->out.len % align)
        aml_u8(&t->out, 0);
    return t->base + t->out.len;
}

static size_t table_begin(struct acpi *t, const char *signature, u8 revision)
{
    u8 h[HEADER] = {0};
    memcpy(h, signature, 4);
    h[8] = revision;
    memcpy(h + 10, "TRAPZE", 6);
    memcpy(h + 16, "TRAPEZE ", 8);
    put_le32(h + 24, 1); /* OEM revision */
    memcpy(h + 28, "TRPZ", 4);
    put_le32(h + 32, 1);
    table_align(t, 16);
    size_t start = t->out.len;
    aml_bytes(&t->out, h, sizeof(h));
    return start;
}

static u8 checksum(const u8 *p, size_t len)
{
    u8 sum = 0;
    while (len--)
        sum = (u8)(sum + *p++);
    return (u8)-sum;
}

/* Fill in length and checksum; returns the table's guest-physical address. */
static u64 table_end(struct acpi *t, size_t start)
{
    if (t->out.full)
        return 0;
    u8 *h = t->out.data + start;
    put_le32(h + 4, (u32)(t->out.len - start));
    h[9] = checksum(h, t->out.len - start);
    return t->base + start;
}

static u64 put_facs(struct acpi *t)
{
    u8 f[FACS_LEN] = {'F', 'A', 'C', 'S', FACS_LEN};
    f[32] = 2; /* version */
    u64 at = table_align(t, 64);
    aml_bytes(&t->out, f, sizeof(f));
    return at;
}

/* A device that is nothing but its identifier and its resources. */
struct legacy_device {
    const char *name, *hid;
    int uid; /* -1 for none */
    struct {
        u16 base;
        u8 len;
    } io[5];
    int irq; /* -1 for none */
};

static const struct legacy_device legacy_devices[] = {
    {"COM1", "PNP0501", 1, {{PORT_COM1, 8}}, GSI_COM1},
    {"RTC_", "PNP0B00", -1, {{PORT_RTC, 2}}, GSI_RTC},
    {"PIC_", "PNP0000", -1, {{PORT_PIC1, 2}, {PORT_PIC2, 2}, {PORT_ELCR, 2}}, 2},
    {"TIMR", "PNP0100", -1, {{PORT_PIT, 4}}, GSI_PIT},
    {"SPKR", "PNP0800", -1, {{PORT_PIT_GATE, 1}}, -1},
    /* ports of the board itself, so that nothing else is put there */
    {"MBRD", "PNP0C02", 0, {{PORT_PM_EVENT, 0x30}, {PORT_RESET, 1}, {PORT_FAST_A20, 1}, {PORT_DEBUG_EXIT, 4}}, -1},
};

static void put_legacy_device(struct aml *a, const struct legacy_device *d)
{
    size_t device = aml_begin_device(a, d->name);
    aml_name_eisa(a, "_HID", d->hid);
    if (d->uid >= 0)
        aml_name_int(a, "_UID", (u64)d->uid);
    size_t crs = aml_begin_crs(a);
    for (size_t i = 0; i < ARRAY_LEN(d->io) && d->io[i].len; i++)
        aml_io(a, d->io[i].base, d->io[i].len);
    if (d->irq >= 0)
        aml_irq(a, (unsigned)d->irq);
    aml_end_crs(a, crs);
    aml_end(a, device);
}

/*
 * _OSC: a guest asks for control of what PCI Express can do. There is nothing to hand over: none is granted, and only the
 * UUID of host bridges is known (PCI Firmware 3.2, 4.5.1).
 */
static void put_osc(struct aml *a)
{
    static const u8 uuid[16] = {0x5b, 0x4d, 0xdb, 0x33, 0xf7, 0x1f, 0x1c, 0x40,
                                0x96, 0x57, 0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66};
    static const u8 first[] = {0x8a, 0x6b, 0x00, 'C', 'D', 'W', '1'};    /* CreateDWordField (Arg3, 0, CDW1) */
    static const u8 third[] = {0x8a, 0x6b, 0x0a, 8, 'C', 'D', 'W', '3'}; /* CreateDWordField (Arg3, 8, CDW3) */
    static const u8 nothing[] = {0x70, 0x00, 'C', 'D', 'W', '3'};        /* Store (Zero, CDW3) */
    static const u8 masked[] = {0x7d, 'C', 'D', 'W', '1', 0x0a, 0x10, 'C', 'D', 'W', '1'}; /* Or (CDW1, 10h, CDW1) */
    static const u8 unknown[] = {0x7d, 'C', 'D', 'W', '1', 0x0a, 0x04, 'C', 'D', 'W', '1'};
    static const u8 give[] = {0xa4, 0x6b}; /* Return (Arg3) */
    size_t method = aml_begin_method(a, "_OSC", 4);
    aml_bytes(a, first, sizeof(first));
    size_t yes = aml_begin_if_uuid(a, uuid);
    aml_bytes(a, third, sizeof(third));
    aml_bytes(a, nothing, sizeof(nothing));
    aml_bytes(a, masked, sizeof(masked));
    aml_end(a, yes);
    size_t no = aml_begin_else(a);
    aml_bytes(a, unknown, sizeof(unknown));
    aml_end(a, no);
    aml_bytes(a, give, sizeof(give));
    aml_end(a, method);
}

/* INTA of each slot, straight to an input of the I/O APIC: {address, pin, no link device, input}. */
static void put_prt(struct aml *a)
{
    size_t all = aml_begin_name_package(a, "_PRT", PCI_SLOTS - 1);
    for (unsigned slot = 1; slot < PCI_SLOTS; slot++) {
        size_t one = aml_begin_package(a, 4);
        aml_int(a, slot << 16 | 0xffff);
        aml_int(a, 0);
        aml_int(a, 0);
        aml_int(a, GSI_PCI + slot % GSI_PCI_COUNT);
        aml_end(a, one);
    }
    aml_end(a, all);
}

static void put_pci(struct aml *a)
{
    size_t root = aml_begin_device(a, "PCI0");
    aml_name_eisa(a, "_HID", "PNP0A08");
    aml_name_eisa(a, "_CID", "PNP0A03");
    aml_name_int(a, "_UID", 0);
    aml_name_int(a, "_SEG", 0);
    aml_name_int(a, "_BBN", 0);
    size_t crs = aml_begin_crs(a);
    aml_bus_window(a, 0, 0);
    aml_io(a, PORT_PCI_ADDRESS, 8);
    aml_io_window(a, 0x1000, 0xffff);
    aml_memory_window(a, (u32)PCI_WINDOW_BASE, (u32)(PCI_WINDOW_BASE + PCI_WINDOW_SIZE - 1));
    aml_end_crs(a, crs);
    put_prt(a);
    put_osc(a);
    aml_end(a, root);

    size_t ecam = aml_begin_device(a, "ECAM"); /* so that nothing else is put there */
    aml_name_eisa(a, "_HID", "PNP0C02");
    aml_name_int(a, "_UID", 1);
    crs = aml_begin_crs(a);
    aml_memory(a, (u32)PCI_ECAM_BASE, (u32)PCI_ECAM_SIZE);
    aml_end_crs(a, crs);
    aml_end(a, ecam);
}

_Static_assert(VIRTIO_MMIO_BASE >= PCI_ECAM_BASE + PCI_ECAM_SIZE &&
                   VIRTIO_MMIO_BASE >= PCI_WINDOW_BASE + PCI_WINDOW_SIZE && VIRTIO_MMIO_BASE >= MEM_LOW_MAX &&
                   VIRTIO_MMIO_BASE + VIRTIO_MMIO_WINDOWS * VIRTIO_MMIO_STRIDE <= IOAPIC_BASE,
               "windows lie where nothing else does");

/* All windows: a driver finds out which of them are empty. Number 0 always is. */
static void put_virtio_mmio(struct aml *a)
{
    for (unsigned i = 1; i < VIRTIO_MMIO_WINDOWS; i++) {
        char name[8];
        snprintf(name, sizeof(name), "VM%02X", i & 0xff);
        size_t device = aml_begin_device(a, name);
        aml_name_string(a, "_HID", "LNRO0005");
        aml_name_int(a, "_UID", i);
        size_t crs = aml_begin_crs(a);
        aml_memory(a, (u32)(VIRTIO_MMIO_BASE + i * VIRTIO_MMIO_STRIDE), (u32)VIRTIO_MMIO_STRIDE);
        aml_interrupt(a, GSI_VIRTIO_MMIO(i));
        aml_end_crs(a, crs);
        aml_end(a, device);
    }
}

/*
 * The generation counter: where the 16 bytes are that change when a machine begins a life of its own, and the event that says so.
 * ("Virtual Machine Generation ID", Microsoft 2012; Linux: drivers/virt/vmgenid.c, which stirs it into its random numbers.)
 */
static void put_generation(struct aml *a)
{
    size_t device = aml_begin_device(a, "VGEN");
    aml_name_string(a, "_HID", "TRPZ0001");
    aml_name_string(a, "_CID", "VM_Gen_Counter");
    aml_name_string(a, "_DDN", "VM_Gen_Counter");
    size_t address = aml_begin_name_package(a, "ADDR", 2);
    aml_int(a, VM_GENERATION_ADDRESS);
    aml_int(a, 0);
    aml_end(a, address);
    aml_end(a, device);
}

static void put_events(struct aml *a)
{
    size_t scope = aml_begin_scope(a, "\\_GPE");
    size_t method = aml_begin_method(a, "_E00", 0); /* GPE_VM_GENERATION, an edge */
    aml_notify(a, "VGEN", 0x80);
    aml_end(a, method);
    aml_end(a, scope);
}

static u64 put_dsdt(struct acpi *t, unsigned n_cpus, bool virtio_mmio)
{
    struct aml *a = &t->out;
    size_t start = table_begin(t, "DSDT", 2);
    /* what goes to SLP_TYP of PM1a and PM1b, two reserved elements */
    const u8 s5[4] = {SLP_TYP_S5, SLP_TYP_S5, 0, 0};
    aml_name_package(a, "_S5_", s5, sizeof(s5));

    size_t scope = aml_begin_scope(a, "\\_SB_");
    for (unsigned i = 0; i < n_cpus; i++) {
        char name[8];
        snprintf(name, sizeof(name), "C%03X", i & 0xfff);
        size_t cpu = aml_begin_device(a, name);
        aml_name_string(a, "_HID", "ACPI0007");
        aml_name_int(a, "_UID", i);
        aml_end(a, cpu);
    }
    for (size_t i = 0; i < ARRAY_LEN(legacy_devices); i++)
        put_legacy_device(a, &legacy_devices[i]);
    put_pci(a);
    put_generation(a);
    if (virtio_mmio)
        put_virtio_mmio(a);
    aml_end(a, scope);
    put_events(a);
    return table_end(t, start);
}

/* Generic address structure in I/O space; `access`: 1 byte, 2 word, 3 dword. */
static void put_gas(u8 *at, u64 port, u8 bits, u8 access)
{
    at[0] = 1;
    at[1] = bits;
    at[3] = access;
    put_le64(at + 4, port);
}

static u64 put_fadt(struct acpi *t, u64 facs, u64 dsdt)
{
    size_t start = table_begin(t, "FACP", 6);
    u8 f[FADT_LEN] = {0}; /* offsets from the table's start, as in the specification; its header is already out */
    put_le32(f + 36, (u32)facs);
    put_le32(f + 40, (u32)dsdt);
    put_le16(f + 46, GSI_SCI);
    put_le32(f + 56, PORT_PM_EVENT);
    put_le32(f + 64, PORT_PM_CONTROL);
    put_le32(f + 76, PORT_PM_TIMER);
    put_le32(f + 80, PORT_PM_GPE);
    f[88] = 4;               /* bytes of PM1 event, */
    f[89] = 2;               /* PM1 control, */
    f[91] = 4;               /* PM timer, */
    f[92] = 4;               /* GPE0 */
    put_le16(f + 96, 0xfff); /* latencies that mean: no C2, no C3 */
    put_le16(f + 98, 0xfff);
    put_le16(f + 109, IAPC_LEGACY_DEVICES | IAPC_NO_VGA);
    put_le32(f + 112, FADT_WBINVD | FADT_PROC_C1 | FADT_NO_SLP_BTN | FADT_NO_RTC_FIX | FADT_TMR_32BIT | FADT_RESET_REG);
    put_gas(f + 116, PORT_ACPI_RESET, 8, 1);
    f[128] = 6; /* reset value */
    f[131] = 4; /* minor version: 6.4 */
    put_le64(f + 140, dsdt);
    put_gas(f + 148, PORT_PM_EVENT, 32, 2);
    put_gas(f + 172, PORT_PM_CONTROL, 16, 2);
    put_gas(f + 208, PORT_PM_TIMER, 32, 3);
    put_gas(f + 220, PORT_PM_GPE, 32, 1);
    memcpy(f + 268, "TRAPEZE ", 8); /* hypervisor vendor */
    aml_bytes(&t->out, f + HEADER, FADT_LEN - HEADER);
    return table_end(t, start);
}

/* A local APIC with an identifier of 8 bits has a short entry, any other the x2APIC form. */
static void put_madt_cpu(struct aml *a, u32 id)
{
    if (id < 255) {
        const u8 e[8] = {0, sizeof(e), (u8)id, (u8)id, 1 /* enabled */};
        aml_bytes(a, e, sizeof(e));
        return;
    }
    u8 e[16] = {9, sizeof(e)};
    put_le32(e + 4, id);
    put_le32(e + 8, 1);
    put_le32(e + 12, id);
    aml_bytes(a, e, sizeof(e));
}

/* An ISA interrupt that does not arrive at the I/O APIC pin of its number as edge, active high. */
static void put_madt_override(struct aml *a, u8 irq, u32 gsi, u16 flags)
{
    u8 e[10] = {2, sizeof(e), 0, irq};
    put_le32(e + 4, gsi);
    put_le16(e + 8, flags);
    aml_bytes(a, e, sizeof(e));
}

static u64 put_madt(struct acpi *t, unsigned n_cpus)
{
    struct aml *a = &t->out;
    size_t start = table_begin(t, "APIC", 5);
    u8 head[8] = {0};
    put_le32(head, LAPIC_BASE);
    head[4] = 1; /* PCAT_COMPAT: there are two 8259 as well */
    aml_bytes(a, head, sizeof(head));
    for (unsigned i = 0; i < n_cpus; i++)
        put_madt_cpu(a, i);

    u8 ioapic[12] = {1, sizeof(ioapic), 0 /* its id */};
    put_le32(ioapic + 4, IOAPIC_BASE);
    aml_bytes(a, ioapic, sizeof(ioapic));
    put_madt_override(a, GSI_PIT, 2, 0);
    put_madt_override(a, GSI_SCI, GSI_SCI, 1 | 3 << 2); /* active high, level */

    const u8 nmi[6] = {4, sizeof(nmi), 0xff /* all processors */, 0, 0, 1 /* LINT1 */};
    aml_bytes(a, nmi, sizeof(nmi));
    if (n_cpus > 255) {
        const u8 x2nmi[12] = {10, sizeof(x2nmi), 0, 0, 0xff, 0xff, 0xff, 0xff, 1};
        aml_bytes(a, x2nmi, sizeof(x2nmi));
    }
    return table_end(t, start);
}

static u64 put_mcfg(struct acpi *t)
{
    size_t start = table_begin(t, "MCFG", 1);
    u8 entry[24] = {0}; /* 8 reserved bytes, then segment 0, buses 0 to 0 */
    put_le64(entry + 8, PCI_ECAM_BASE);
    aml_bytes(&t->out, entry, sizeof(entry));
    return table_end(t, start);
}

static u64 put_xsdt(struct acpi *t, u64 fadt, u64 madt, u64 mcfg)
{
    size_t start = table_begin(t, "XSDT", 1);
    const u64 tables[] = {fadt, madt, mcfg};
    aml_bytes(&t->out, tables, sizeof(tables));
    return table_end(t, start);
}

static void fill_rsdp(u8 *p, u64 xsdt)
{
    memcpy(p, "RSD PTR ", 8);
    memcpy(p + 9, "TRAPZE", 6);
    p[15] = 2; /* revision */
    put_le32(p + 20, RSDP_LEN);
    put_le64(p + 24, xsdt);
    p[8] = checksum(p, 20); /* of the part that ACPI 1.0 knew, then of all */
    p[32] = checksum(p, RSDP_LEN);
}

static void build(struct acpi *t, unsigned n_cpus, bool virtio_mmio)
{
    const u8 rsdp[RSDP_LEN] = {0};
    aml_bytes(&t->out, rsdp, sizeof(rsdp));
    u64 facs = put_facs(t);
    u64 dsdt = put_dsdt(t, n_cpus, virtio_mmio);
    u64 fadt = put_fadt(t, facs, dsdt);
    u64 madt = put_madt(t, n_cpus);
    u64 mcfg = put_mcfg(t);
    u64 xsdt = put_xsdt(t, fadt, madt, mcfg);
    if (!t->out.full)
        fill_rsdp(t->out.data, xsdt);
}

int acpi_build(struct guest_mem *m, gpa_t at, u64 room, unsigned n_cpus, bool virtio_mmio, u64 *rsdp, struct error *e)
{
    if (!n_cpus || n_cpus > ACPI_MAX_CPUS)
        return error_set(e, EINVAL, "ACPI tables: %u CPUs: 1 to %u can be described", n_cpus, ACPI_MAX_CPUS);
    if (at.v % 64 || at.v > UINT32_MAX || room > UINT32_MAX - at.v || !mem_at(m, at, room))
        return error_set(e, EINVAL, "ACPI tables: no RAM for them at 0x%llx", (unsigned long long)at.v);
    struct acpi t = {.out = {.data = malloc(room), .cap = room}, .base = at.v};
    if (!t.out.data)
        return error_set(e, ENOMEM, "ACPI tables: out of host memory");
    build(&t, n_cpus, virtio_mmio);
    int rc = 0;
    if (t.out.full)
        rc = error_set(e, ENOMEM, "ACPI tables: those of %u CPUs need more than %llu bytes: use fewer", n_cpus,
                       (unsigned long long)room);
    else if (mem_write(m, at, t.out.data, t.out.len))
        rc = error_set(e, EFAULT, "ACPI tables: no RAM for them at 0x%llx", (unsigned long long)at.v);
    free(t.out.data);
    *rsdp = at.v;
    return rc;
}
