/* Shared by the files of device/pci/. */
#ifndef TRAPEZE_DEVICE_PCI_INTERNAL_H
#define TRAPEZE_DEVICE_PCI_INTERNAL_H

#include "device/pci/pci.h"

struct pci_bus {
    const struct device_env *env;
    u32 address; /* CF8h */
    struct pci_function *slot[PCI_SLOTS];
    struct pci_function bridge;
    u64 next; /* where firmware puts the next BAR */
};

/* --- bar.c --- */

/* Where the function's BAR points now. */
u64 pci_bar_address(const struct pci_function *f, unsigned index);
/* Give a new function's BARs their places. 0 or -ENOSPC. */
int pci_assign_bars(struct pci_bus *p, struct pci_function *f, struct error *e);
/* Decode all BARs of all functions anew. */
void pci_map_bars(struct pci_bus *p);

/* --- msix.c --- */

/* What the capability or the table holds has changed: send what is no longer masked. */
void pci_msix_changed(struct pci_function *f);
bool pci_msix_valid(const struct pci_function *f);

/* --- pci.c --- */

/* Drive the interrupt line that the function shares with others. */
void pci_update_intx(struct pci_function *f);

#endif
