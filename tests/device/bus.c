/* The bus: ranges, widths, splitting, what nobody answers. */
#include "rig.h"

#include <errno.h>

struct box {
    u8 bytes[16];
    unsigned reads, writes, last_size;
};

static u64 box_read(void *dev, u64 offset, unsigned size)
{
    struct box *b = dev;
    u64 v = 0;
    b->reads++;
    b->last_size = size;
    assert_true(offset + size <= sizeof(b->bytes));
    memcpy(&v, b->bytes + offset, size);
    return v | (size < 8 ? UINT64_MAX << size * 8 : 0); /* junk above: the bus cuts it */
}

static void box_write(void *dev, u64 offset, unsigned size, u64 value)
{
    struct box *b = dev;
    b->writes++;
    b->last_size = size;
    assert_true(offset + size <= sizeof(b->bytes));
    memcpy(b->bytes + offset, &value, size);
}

static const struct bus_ops wide = {box_read, box_write, 0};
static const struct bus_ops bytes = {box_read, box_write, 1};

static void routes_and_splits(void **state)
{
    struct bus b = {0};
    struct box x = {.bytes = {1, 2, 3, 4}}, y = {.bytes = {0x11, 0x22, 0x33, 0x44}};
    assert_int_equal(bus_add_pio(&b, 0x104, 4, &bytes, &y, "y", NULL), 0);
    assert_int_equal(bus_add_pio(&b, 0x100, 4, &wide, &x, "x", NULL), 0);
    assert_int_equal(bus_pio_read(&b, 0x100, 4), 0x04030201);
    assert_int_equal(x.reads, 1);
    assert_int_equal(bus_pio_read(&b, 0x104, 2), 0x2211);
    assert_int_equal(y.reads, 2);
    assert_int_equal(y.last_size, 1);
    assert_int_equal(bus_pio_read(&b, 0x102, 4), 0x22110403);
    assert_int_equal(bus_pio_read(&b, 0x106, 4), 0xffff4433);
    assert_int_equal(bus_pio_read(&b, 0xfff, 2), 0xffff);
    bus_pio_write(&b, 0x102, 4, 0xddccbbaa);
    assert_int_equal(x.bytes[3], 0xbb);
    assert_int_equal(y.bytes[0], 0xcc);
    bus_pio_write(&b, 0x107, 4, 0x04030201);
    assert_int_equal(y.bytes[3], 1);
    bus_pio_write(&b, 0x200, 4, 0);
}

static void ends_of_the_address_spaces(void **state)
{
    struct bus b = {0};
    struct box x = {.bytes = {1}}, y = {.bytes = {2}};
    assert_int_equal(bus_add_pio(&b, 0xffff, 1, &bytes, &x, "x", NULL), 0);
    assert_int_equal(bus_pio_read(&b, 0xffff, 4), 0xffffff01);
    bus_pio_write(&b, 0xffff, 4, 0x55);
    assert_int_equal(x.bytes[0], 0x55);
    assert_int_equal(bus_add_mmio(&b, UINT64_MAX - 7, 8, &wide, &y, "y", NULL), 0);
    assert_true(bus_mmio_read(&b, UINT64_MAX - 7, 8) == 2);
    assert_true(bus_mmio_read(&b, UINT64_MAX - 3, 8) == 0xffffffff00000000ull); /* wraps to 0, where nothing is */
    assert_true(bus_mmio_read(&b, 0x1000, 8) == UINT64_MAX);
}

static void refuses_overlap_and_overflow(void **state)
{
    struct bus b = {0};
    struct box x;
    struct error e = {0};
    assert_int_equal(bus_add_pio(&b, 0x10, 4, &wide, &x, "first", NULL), 0);
    assert_int_equal(bus_add_pio(&b, 0x13, 1, &wide, &x, "second", &e), -EEXIST);
    assert_non_null(strstr(e.msg, "first"));
    assert_int_equal(bus_add_pio(&b, 0xe, 3, &wide, &x, "third", NULL), -EEXIST);
    assert_int_equal(bus_add_pio(&b, 0x0, 0x100, &wide, &x, "fourth", NULL), -EEXIST);
    assert_int_equal(bus_add_pio(&b, 0xe, 2, &wide, &x, "fifth", NULL), 0);
    assert_int_equal(bus_add_pio(&b, 0xfffe, 3, &wide, &x, "sixth", NULL), -EINVAL);
    assert_int_equal(bus_add_mmio(&b, UINT64_MAX, 2, &wide, &x, "wraps", NULL), -EINVAL);
    assert_int_equal(bus_add_mmio(&b, 0, 0, &wide, &x, "empty", NULL), -EINVAL);
    for (u64 i = 0; i < BUS_MAX_RANGES; i++)
        assert_int_equal(bus_add_mmio(&b, (BUS_MAX_RANGES - i) << 12, 16, &wide, &x, "many", NULL), 0);
    assert_int_equal(bus_add_mmio(&b, 1ull << 40, 16, &wide, &x, "late", NULL), -ENOSPC);
    for (unsigned i = 1; i < b.n_mmio; i++)
        assert_true(b.mmio[i - 1].base < b.mmio[i].base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(routes_and_splits),
        cmocka_unit_test(ends_of_the_address_spaces),
        cmocka_unit_test(refuses_overlap_and_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
