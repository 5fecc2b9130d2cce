/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "ltx/base/err.h"
#include "ltx/checksum.h"
#include "ltx/compress.h"
#include "ltx/format.h"
#include "tests/lib/dice.h"

/* The definition, a bit at a time: reflected, polynomial 0xD8..., inverted before and after. */
static uint64_t crc_by_definition(uint64_t crc, const uint8_t *p, size_t n)
{
    crc = ~crc;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? (crc >> 1) ^ UINT64_C(0xd800000000000000) : crc >> 1;
    }
    return ~crc;
}

static void the_crc_is_that_of_go_hash_crc64_iso(void **state)
{
    (void)state;
    /* Go: crc64.Checksum([]byte("123456789"), crc64.MakeTable(crc64.ISO)) */
    assert_true(checksum_update(0, "123456789", 9) == UINT64_C(0xb90956c775a41001));
    assert_true(checksum_update(0, "", 0) == 0);
    uint8_t bytes[3000];
    for (int round = 0; round < 300; round++) {
        size_t n = dice_below(sizeof bytes), cut = dice_below((uint32_t)n + 1);
        dice_fill(bytes, n);
        uint64_t whole = checksum_update(0, bytes, n);
        assert_true(whole == crc_by_definition(0, bytes, n));
        uint64_t parts = checksum_update(checksum_update(0, bytes, cut), bytes + cut, n - cut);
        assert_true(parts == whole);
    }
}

static void a_page_checksum_covers_its_number(void **state)
{
    (void)state;
    uint8_t page[4 + 512] = {0, 0, 1, 2};
    dice_fill(page + 4, 512);
    uint64_t sum = checksum_page(0x102, page + 4, 512);
    assert_true(sum == (crc_by_definition(0, page, sizeof page) | LTX_CHECKSUM_BIT));
    assert_true(sum != checksum_page(0x103, page + 4, 512));
}

static void pages_come_and_go_in_the_database_checksum(void **state)
{
    (void)state;
    uint64_t a = dice_u64() | LTX_CHECKSUM_BIT, b = dice_u64() | LTX_CHECKSUM_BIT;
    uint64_t both = checksum_toggle(checksum_toggle(LTX_EMPTY_CHECKSUM, a), b);
    assert_true(both == ((a ^ b) | LTX_CHECKSUM_BIT));
    assert_true(checksum_toggle(both, a) == b);
    assert_true(checksum_toggle(checksum_toggle(both, a), b) == LTX_EMPTY_CHECKSUM);
    assert_true(checksum_toggle(both, 0) == both);
}

static void a_page_survives_compression(void **state)
{
    (void)state;
    static uint8_t page[65536], packed[70000], back[65536 + 1];
    for (uint32_t size = 512; size <= 65536; size *= 2) {
        assert_true(compress_bound(size) <= sizeof packed);
        for (int round = 0; round < 20; round++) {
            dice_page(page, size);
            size_t n = compress_page(page, size, packed, compress_bound(size));
            back[size] = 0xa5;
            assert_int_equal(decompress_page(packed, n, back, size), 0);
            assert_memory_equal(page, back, size);
            assert_int_equal(back[size], 0xa5);
            /* One byte less, and another page size, are refused. */
            assert_int_equal(decompress_page(packed, n - 1, back, size), -ERR_CORRUPT);
            assert_int_equal(decompress_page(packed, n, back, size / 2), -ERR_CORRUPT);
        }
    }
    assert_int_equal(decompress_page(packed, 0, back, 512), -ERR_CORRUPT);
}

static void what_is_not_lz4_is_refused_or_gives_a_page(void **state)
{
    (void)state;
    uint8_t noise[700], page[512 + 8];
    size_t used = 0;
    for (int round = 0; round < 20000; round++) {
        size_t n = dice_below(sizeof noise) + 1;
        dice_fill(noise, n);
        memset(page + 512, 0x5a, 8);
        (void)decompress_page(noise, n, page, 512);
        memcpy(noise, "\x04\x22\x4d\x18\x60\x40\x82", n < 7 ? n : 7);
        if (decompress_page_frame(noise, n, page, 512, &used) == 0)
            assert_true(used <= n);
        assert_memory_equal(page + 512, "\x5a\x5a\x5a\x5a\x5a\x5a\x5a\x5a", 8);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_crc_is_that_of_go_hash_crc64_iso),
        cmocka_unit_test(a_page_checksum_covers_its_number),
        cmocka_unit_test(pages_come_and_go_in_the_database_checksum),
        cmocka_unit_test(a_page_survives_compression),
        cmocka_unit_test(what_is_not_lz4_is_refused_or_gives_a_page),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
