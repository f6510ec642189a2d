/* ACPI fixed hardware, the ways to reset, the debug exit port. */
#include "rig.h"
#include "machine/platform.h"

#define S 1000000000ull

static int acpi(void **state)
{
    *state = rig_one(&acpi_pm_device);
    return 0;
}

static int reset(void **state)
{
    *state = rig_one(&reset_device);
    return 0;
}

static int debug_exit(void **state)
{
    *state = rig_one(&debug_exit_device);
    return 0;
}

static u32 in16(struct rig *g, u16 port)
{
    return bus_pio_read(&g->bus, port, 2);
}

static void out16(struct rig *g, u16 port, u16 v)
{
    bus_pio_write(&g->bus, port, 2, v);
}

static void power_button(void **state)
{
    struct rig *g = *state;
    acpi_pm_power_button(g->only);
    assert_int_equal(in16(g, 0x600), 0x100);
    assert_int_equal(g->level[GSI_SCI], 0);
    out16(g, 0x602, 0x100);
    assert_int_equal(g->level[GSI_SCI], 1);
    out16(g, 0x600, 0x001); /* another bit */
    assert_int_equal(g->level[GSI_SCI], 1);
    out(g, 0x601, 0x01); /* a byte of the register */
    assert_int_equal(in16(g, 0x600), 0);
    assert_int_equal(g->level[GSI_SCI], 0);
    acpi_pm_power_button(g->only);
    assert_int_equal(g->level[GSI_SCI], 1);
    assert_int_equal(bus_pio_read(&g->bus, 0x600, 4), 0x01000100);
    g->type->reset(g->only);
    assert_int_equal(g->level[GSI_SCI], 0);
}

static void sleep_states(void **state)
{
    struct rig *g = *state;
    assert_int_equal(in16(g, 0x604), 1); /* SCI_EN */
    out16(g, 0x604, 0xffff & ~0x2000);
    assert_int_equal(in16(g, 0x604), 0x1c03);
    assert_int_equal(g->requests[DEVICE_POWEROFF], 0);
    out16(g, 0x604, 0x2000 | 3 << 10); /* a state that is not there */
    assert_int_equal(g->requests[DEVICE_POWEROFF], 0);
    out16(g, 0x604, SLP_TYP_S5 << 10);
    out(g, 0x605, 0x20 | SLP_TYP_S5 << 2);
    assert_int_equal(g->requests[DEVICE_POWEROFF], 1);
    out16(g, 0x604, 0x2000 | SLP_TYP_S5 << 10);
    assert_int_equal(g->requests[DEVICE_POWEROFF], 2);
}

static void pm_timer(void **state)
{
    struct rig *g = *state;
    u32 a = bus_pio_read(&g->bus, 0x608, 4);
    pass(g, S);
    u32 b = bus_pio_read(&g->bus, 0x608, 4);
    assert_int_equal(b - a, PM_TIMER_HZ);
    assert_int_equal(in16(g, 0x60a), b >> 16);
    bus_pio_write(&g->bus, 0x608, 4, 0);
    assert_int_equal(bus_pio_read(&g->bus, 0x608, 4), b);
    out16(g, 0x602, 1);
    pass(g, 598 * S); /* bit 31 toggles after 599.94 s */
    assert_int_equal(in16(g, 0x600), 0);
    pass(g, S);
    assert_int_equal(g->level[GSI_SCI], 1);
    assert_int_equal(in16(g, 0x600), 1);
    out16(g, 0x600, 1);
    assert_int_equal(g->level[GSI_SCI], 0);
    out16(g, 0x602, 0);
    pass(g, 600 * S);
    assert_int_equal(g->edges[GSI_SCI], 1);
    assert_int_equal(in16(g, 0x600), 1); /* the status is set without the enable, too */
}

static void general_purpose_events(void **state)
{
    struct rig *g = *state;
    out16(g, 0x622, 0xffff);
    assert_int_equal(bus_pio_read(&g->bus, 0x620, 4), 0xffff0000);
    assert_int_equal(g->level[GSI_SCI], 0);
}

static void reset_control(void **state)
{
    struct rig *g = *state;
    out(g, 0xcf9, 0x02);
    assert_int_equal(g->requests[DEVICE_RESET], 0);
    assert_int_equal(in(g, 0xcf9), 0x02);
    out(g, 0xcf9, 0x06);
    assert_int_equal(g->requests[DEVICE_RESET], 1);
    out(g, 0xcf9, 0x06); /* needs another 0 -> 1 */
    assert_int_equal(g->requests[DEVICE_RESET], 1);
    g->type->reset(g->only);
    out(g, 0xcf9, 0x0e);
    assert_int_equal(g->requests[DEVICE_RESET], 2);
}

static void keyboard_controller(void **state)
{
    struct rig *g = *state;
    assert_int_equal(in(g, 0x64) & 3, 0); /* ready, empty */
    out(g, 0x64, 0xff);
    out(g, 0x64, 0xaa);
    assert_int_equal(g->requests[DEVICE_RESET], 0);
    out(g, 0x64, 0xfe);
    assert_int_equal(g->requests[DEVICE_RESET], 1);
    out(g, 0x60, 0x00); /* without D1h: data for a keyboard that is not there */
    out(g, 0x64, 0xd1);
    out(g, 0x60, 0xdf);
    assert_int_equal(g->requests[DEVICE_RESET], 1);
    out(g, 0x64, 0xd1);
    out(g, 0x60, 0xde);
    assert_int_equal(g->requests[DEVICE_RESET], 2);
}

static void port_92(void **state)
{
    struct rig *g = *state;
    assert_int_equal(in(g, 0x92), 2);
    out(g, 0x92, 0);
    assert_int_equal(in(g, 0x92), 2); /* A20 stays on */
    out(g, 0x92, 3);
    assert_int_equal(g->requests[DEVICE_RESET], 1);
}

static void exit_port(void **state)
{
    struct rig *g = *state;
    out(g, 0xf4, 0x12);
    assert_int_equal(g->exit_value, 0x12);
    bus_pio_write(&g->bus, 0xf4, 4, 0xdeadbeef);
    assert_int_equal(g->exit_value, 0xdeadbeef);
    assert_int_equal(g->requests[DEVICE_EXIT], 2);
    out(g, 0xf5, 1);
    assert_int_equal(g->requests[DEVICE_EXIT], 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(power_button, acpi, rig_close),
        cmocka_unit_test_setup_teardown(sleep_states, acpi, rig_close),
        cmocka_unit_test_setup_teardown(pm_timer, acpi, rig_close),
        cmocka_unit_test_setup_teardown(general_purpose_events, acpi, rig_close),
        cmocka_unit_test_setup_teardown(reset_control, reset, rig_close),
        cmocka_unit_test_setup_teardown(keyboard_controller, reset, rig_close),
        cmocka_unit_test_setup_teardown(port_92, reset, rig_close),
        cmocka_unit_test_setup_teardown(exit_port, debug_exit, rig_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
