/*
 * PCI: a host bridge and one bus of type-0 functions, one a slot.
 *
 * A device embeds a `struct pci_function`, describes itself in it (pci_init, pci_bar, pci_capability, pci_msix) and puts
 * it on the bus; from then on the bus owns its configuration space and calls the device only for accesses to its BARs.
 * Source: PCI Local Bus 3.0, chapter 6; PCI Express 5.0, 7.2.2 (ECAM).
 */
#ifndef TRAPEZE_DEVICE_PCI_H
#define TRAPEZE_DEVICE_PCI_H

#include "device/device.h"
#include "machine/platform.h"

#define PCI_CONFIG_SIZE 256u
#define PCI_BARS        6u
#define PCI_MSIX_MAX    64u
#define PCI_MSIX_BAR    4096u /* bytes of the BAR that holds table and pending bits */

/* Offsets in configuration space */
#define PCI_COMMAND         0x04u
#define PCI_STATUS          0x06u
#define PCI_BAR0            0x10u
#define PCI_CAPS            0x34u
#define PCI_IRQ_LINE        0x3cu
#define PCI_IRQ_PIN         0x3du

#define PCI_COMMAND_MEMORY  BIT(1)
#define PCI_COMMAND_MASTER  BIT(2)
#define PCI_COMMAND_NO_INTX BIT(10)

#define PCI_CAP_VENDOR      0x09u
#define PCI_CAP_MSIX        0x11u

struct pci_bus;

struct pci_ids {
    u16 vendor, device, subvendor, subdevice;
    u32 class_code; /* base class, subclass, interface: 24 bits */
    u8 revision;
};

struct pci_bar {
    u64 size;  /* a power of two, 0: not there */
    bool wide; /* 64-bit: takes the next BAR's place as well */
    const struct bus_ops *ops;
    void *dev;
    bool mapped;
    u64 at; /* where, while mapped */
};

struct pci_function {
    const char *name;
    struct pci_bus *bus;
    unsigned slot; /* before pci_add: the wanted one; 0: the next that is free */
    u8 config[PCI_CONFIG_SIZE];
    u8 reset[PCI_CONFIG_SIZE];    /* what it holds after a reset */
    u8 writable[PCI_CONFIG_SIZE]; /* bits that the guest may change */
    u8 caps_end;                  /* where the next capability goes */
    struct pci_bar bar[PCI_BARS];
    bool intx; /* the device asks for its interrupt */

    unsigned msix_n; /* vectors, 0: no MSI-X */
    u8 msix_cap;     /* offset of the capability */
    u8 msix_table[PCI_MSIX_MAX * 16];
    u64 msix_pending;

    /* Optional: a register of configuration space that the device answers itself (4 bytes at `window`; 0: none). */
    u8 window;
    void (*window_read)(struct pci_function *f, u8 *data, unsigned offset, unsigned size);
    void (*window_write)(struct pci_function *f, const u8 *data, unsigned offset, unsigned size);
    /* Optional: the command register was written. */
    void (*command_changed)(struct pci_function *f);
};

/* The bus with its host bridge in slot 0. 0, -ENOMEM or an error of the bus. `env` must outlive it. */
int pci_create(struct pci_bus **out, const struct device_env *env, struct error *e);
void pci_destroy(struct pci_bus *p);

/* Begin a function: identifiers, an INTA pin. Its memory is the caller's. */
void pci_init(struct pci_function *f, const char *name, const struct pci_ids *ids);
/* A memory BAR of `size` bytes (a power of two, 16 at least); a wide one must have an even index. */
void pci_set_bar(struct pci_function *f, unsigned index, u64 size, bool wide, const struct bus_ops *ops, void *dev);
/* Append a capability of `len` bytes from its identifier on, all zero and read-only but for the header; its offset. */
u8 pci_capability(struct pci_function *f, u8 id, u8 len);
/* MSI-X with `n` vectors (at most PCI_MSIX_MAX); table and pending bits lie in BAR `bar`, which becomes theirs. */
void pci_set_msix(struct pci_function *f, unsigned n, unsigned bar);
/*
 * Put a finished function into its slot, its BARs where firmware would: 0, or -ENOSPC. It stays until pci_destroy.
 */
int pci_add(struct pci_bus *p, struct pci_function *f, struct error *e);

/* Whether the guest lets the function master the bus: reach memory, send messages. */
bool pci_is_master(const struct pci_function *f);
/* The level of INTA; nothing reaches the guest while MSI-X is on. */
void pci_set_intx(struct pci_function *f, bool level);
bool pci_msix_enabled(const struct pci_function *f);
/* Send vector `v`, or note it as pending while it is masked. Vectors that do not exist are ignored. */
void pci_msix_send(struct pci_function *f, unsigned v);

/* All functions as after power-up. */
void pci_reset(struct pci_bus *p);

/* Records: PCIH, and a PCIF a slot. As irqchip_save and irqchip_load. */
int pci_save(const struct pci_bus *p, struct rec_buf *out);
int pci_load(struct pci_bus *p, const struct rec_view *v, bool check_only, struct error *e);

/* Configuration space by slot, as CF8h/CFCh and ECAM do: for tests. */
u32 pci_config_read(struct pci_bus *p, unsigned slot, unsigned offset, unsigned size);
void pci_config_write(struct pci_bus *p, unsigned slot, unsigned offset, unsigned size, u32 value);

#endif
