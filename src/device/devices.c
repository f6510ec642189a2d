#include "device/device.h"
#include "device/legacy/legacy.h"

const struct device_type *const device_table[] = {
    &i8254_device, &mc146818_device, &uart16550_device, &acpi_pm_device, &reset_device, &debug_exit_device,
};
const unsigned device_table_len = ARRAY_LEN(device_table);
