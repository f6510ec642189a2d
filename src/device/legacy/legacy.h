/* The chips of a PC and what their board may do to them beside reading and writing registers. */
#ifndef TRAPEZE_DEVICE_LEGACY_H
#define TRAPEZE_DEVICE_LEGACY_H

#include "device/device.h"

extern const struct device_type i8254_device;
extern const struct device_type mc146818_device;
extern const struct device_type uart16550_device;
extern const struct device_type acpi_pm_device;
extern const struct device_type reset_device;
extern const struct device_type debug_exit_device;

/* Bytes arriving at the UART: takes what its receiver has room for, returns how many. None while in loopback. */
size_t uart16550_input(void *dev, const u8 *data, size_t len);
/* A break on the receive line. */
void uart16550_break(void *dev);
/* Offer bytes that env->console_out did not take yet once more. */
void uart16550_flush(void *dev);

/* Press the power button: PWRBTN_STS, and the SCI if the guest enabled it. */
void acpi_pm_power_button(void *dev);
/* Event `n` of GPE0 has happened. */
void acpi_pm_event(void *dev, unsigned n);

#endif
