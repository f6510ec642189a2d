/*
 * Fixed addresses, ports and interrupts of the machine: one table that devices, ACPI tables and boot code share.
 */
#ifndef TRAPEZE_MACHINE_PLATFORM_H
#define TRAPEZE_MACHINE_PLATFORM_H

/* ISA interrupts (GSI numbers; the 8254 arrives at I/O APIC pin 2, see the MADT override) */
#define GSI_PIT       0
#define GSI_COM1      4
#define GSI_RTC       8
#define GSI_SCI       9
#define GSI_PCI       16 /* the first of GSI_PCI_COUNT; INTA of slot n is GSI_PCI + n % GSI_PCI_COUNT */
#define GSI_PCI_COUNT 8

/* Ports */
#define PORT_PIC1        0x20
#define PORT_PIC2        0xa0
#define PORT_ELCR        0x4d0
#define PORT_PIT         0x40 /* 4 ports, and 61h for channel 2's gate and output */
#define PORT_PIT_GATE    0x61
#define PORT_I8042       0x60 /* 60h and 64h: reset through the keyboard controller; no keyboard */
#define PORT_RTC         0x70
#define PORT_FAST_A20    0x92
#define PORT_DEBUG_EXIT  0xf4
#define PORT_COM1        0x3f8
#define PORT_PCI_ADDRESS 0xcf8 /* 32-bit accesses only */
#define PORT_PCI_DATA    0xcfc
#define PORT_RESET       0xcf9
#define PORT_PM_EVENT    0x600 /* PM1a_EVT: status and enable, 4 bytes */
#define PORT_PM_CONTROL  0x604 /* PM1a_CNT, 2 bytes */
#define PORT_PM_TIMER    0x608 /* 4 bytes */
#define PORT_PM_GPE      0x620 /* GPE0: status and enable, 4 bytes */
#define PORT_ACPI_RESET  0xcf9 /* FADT reset register, value 6 */

#define PM_TIMER_HZ      3579545u
#define PIT_HZ           1193182u
#define SLP_TYP_S5       5u /* value of \_S5 and of PM1a_CNT.SLP_TYP that means power off */

/* Device addresses: where firmware puts BARs; ECAM, the configuration space of bus 0 */
#define PCI_WINDOW_BASE 0xc0000000ull
#define PCI_WINDOW_SIZE 0x20000000ull
#define PCI_ECAM_BASE   0xe0000000ull
#define PCI_ECAM_SIZE   0x00100000ull
#define PCI_SLOTS       32u

/*
 * Virtio over MMIO, where a machine has it instead of virtio functions on its PCI bus: a window a slot, above RAM, PCI's
 * window and ECAM, below the I/O APIC. The level of window n's interrupt goes where INTA of PCI slot n would.
 */
#define VIRTIO_MMIO_BASE    0xfeb00000ull
#define VIRTIO_MMIO_STRIDE  0x1000ull
#define VIRTIO_MMIO_WINDOWS 32u /* 0 stays empty, as on the PCI bus */
#define GSI_VIRTIO_MMIO(n)  (GSI_PCI + (n) % GSI_PCI_COUNT)

/* Low memory that boot code uses; reported to the guest as reserved where it must survive. */
#define BOOT_ACPI_BASE 0x000e0000ull
#define BOOT_ACPI_SIZE 0x0001f000ull

/* 16 bytes in a page of their own: the generation identifier (docs/snapshots.md); and the event of GPE0 that says it changed */
#define VM_GENERATION_ADDRESS 0x000ff000ull
#define GPE_VM_GENERATION     0u

#endif
