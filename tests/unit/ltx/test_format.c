/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "ltx/base/bytes.h"
#include "ltx/base/err.h"
#include "ltx/format.h"
#include "ltx/position.h"

static const struct ltx_header sample = {
    .page_size = 4096,
    .commit = 7,
    .min_txid = 2,
    .max_txid = 3,
    .timestamp_ms = 1700000000123,
    .pre_checksum = LTX_CHECKSUM_BIT | 5,
    .wal_offset = 32,
    .wal_size = 4120,
    .wal_salt1 = 1,
    .wal_salt2 = 2,
    .node_id = UINT64_MAX,
};

/* The fault that a change to the sample's bytes brings about. */
static const char *fault_after(size_t off, const void *bytes, size_t n)
{
    uint8_t raw[LTX_HEADER_SIZE];
    struct ltx_header h;
    ltx_header_encode(&sample, raw);
    memcpy(raw + off, bytes, n);
    int rc = ltx_header_decode(raw, &h);
    const char *fault = ltx_header_fault(raw);
    assert_int_equal(rc, fault == NULL ? 0 : -ERR_CORRUPT);
    return fault;
}

static const char *fault_after_be32(size_t off, uint32_t v)
{
    uint8_t bytes[4];
    put_be32(bytes, v);
    return fault_after(off, bytes, sizeof bytes);
}

static const char *fault_after_be64(size_t off, uint64_t v)
{
    uint8_t bytes[8];
    put_be64(bytes, v);
    return fault_after(off, bytes, sizeof bytes);
}

static void a_header_comes_back_as_it_was(void **state)
{
    (void)state;
    uint8_t raw[LTX_HEADER_SIZE], again[LTX_HEADER_SIZE];
    struct ltx_header h;
    ltx_header_encode(&sample, raw);
    assert_int_equal(ltx_header_decode(raw, &h), 0);
    ltx_header_encode(&h, again);
    assert_memory_equal(raw, again, sizeof raw);
    assert_int_equal(h.timestamp_ms, sample.timestamp_ms);
    assert_true(h.node_id == sample.node_id && h.pre_checksum == sample.pre_checksum);
    /* The table of format.h, looked at from outside. */
    assert_memory_equal(raw, "LTX1\0\0\0\0\0\0\x10\0\0\0\0\x07", 16);
    assert_int_equal(raw[23], 2);
    assert_int_equal(raw[31], 3);
    assert_int_equal(raw[55], 32);
    assert_int_equal(raw[79], 255);
}

static void each_rule_of_the_header_is_kept(void **state)
{
    (void)state;
    assert_null(fault_after(0, "LTX1", 4));
    assert_non_null(fault_after(0, "LTX2", 4));
    assert_non_null(strstr(fault_after_be32(4, 1), "LiteFS"));
    assert_non_null(fault_after_be32(4, 4));
    assert_non_null(fault_after_be32(4, 0x80000000));
    for (int bit = 0; bit < 32; bit++) {
        bool valid = bit >= 9 && bit <= 16;
        assert_int_equal(fault_after_be32(8, UINT32_C(1) << bit) == NULL, valid);
        assert_non_null(fault_after_be32(8, (UINT32_C(1) << bit) | 3));
    }
    assert_non_null(fault_after_be64(16, 0));
    assert_non_null(fault_after_be64(16, 4)); /* min above max */
    assert_null(fault_after_be64(16, 3));
    assert_non_null(fault_after_be64(16, 1));    /* a snapshot states no checksum before */
    assert_non_null(fault_after_be64(40, 5));    /* bit 63 missing */
    assert_non_null(fault_after_be32(4, 2));     /* no checksums, yet one stands there */
    assert_non_null(fault_after_be64(48, 0));    /* WAL size without an offset */
    assert_non_null(fault_after(80, "\1", 1));   /* reserved */
    assert_non_null(fault_after(99, "\x80", 1)); /* reserved, the last byte */
}

static void the_lock_page_is_at_1_gib(void **state)
{
    (void)state;
    assert_int_equal(ltx_lock_pgno(512), 2097153);
    assert_int_equal(ltx_lock_pgno(4096), 262145);
    assert_int_equal(ltx_lock_pgno(65536), 16385);
    assert_true(ltx_snapshot_next(65536, 0) == 1);
    assert_true(ltx_snapshot_next(65536, 16384) == 16386);
    assert_true(ltx_snapshot_next(65536, UINT32_MAX) == UINT64_C(1) << 32);
}

static void a_post_checksum_is_allowed_as_the_table_says(void **state)
{
    (void)state;
    struct ltx_header h = sample;
    assert_true(ltx_post_checksum_valid(&h, LTX_CHECKSUM_BIT | 1));
    assert_false(ltx_post_checksum_valid(&h, 1));
    h.commit = 0;
    assert_true(ltx_post_checksum_valid(&h, LTX_EMPTY_CHECKSUM));
    assert_false(ltx_post_checksum_valid(&h, LTX_EMPTY_CHECKSUM | 1));
    h.flags = LTX_NO_CHECKSUM;
    assert_true(ltx_post_checksum_valid(&h, 0));
    assert_false(ltx_post_checksum_valid(&h, LTX_EMPTY_CHECKSUM));
}

static void a_file_name_says_its_txids(void **state)
{
    (void)state;
    char name[LTX_NAME_SIZE];
    uint64_t min, max;
    ltx_name_format(0x1f, UINT64_MAX, name);
    assert_string_equal(name, "000000000000001f-ffffffffffffffff.ltx");
    assert_int_equal(ltx_name_parse(name, &min, &max), 0);
    assert_true(min == 0x1f && max == UINT64_MAX);
    static const char *const wrong[] = {
        "",
        "x",
        "000000000000001f-ffffffffffffffff.lt",
        "000000000000001f-ffffffffffffffff.ltxx",
        "000000000000001F-ffffffffffffffff.ltx",
        "000000000000001f_ffffffffffffffff.ltx",
        "0000000000000002-0000000000000001.ltx",
        "0000000000000000-0000000000000001.ltx",
        " 00000000000001f-ffffffffffffffff.ltx",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_equal(ltx_name_parse(wrong[i], &min, &max), -ERR_INVALID);
}

static void a_position_is_written_as_litefs_does(void **state)
{
    (void)state;
    char text[POSITION_TEXT_SIZE + 1];
    struct position p = {0x1a, 0x8000000000000b0c}, got;
    position_format(p, text);
    assert_string_equal(text, "000000000000001a/8000000000000b0c");
    assert_int_equal(position_parse(text, &got), 0);
    assert_true(position_equal(p, got));
    strcat(text, "\n");
    assert_int_equal(position_parse(text, &got), 0);
    assert_int_equal(position_parse("000000000000001a/8000000000000b0c\n\n", &got), -ERR_INVALID);
    assert_int_equal(position_parse("000000000000001a/8000000000000b0", &got), -ERR_INVALID);
    assert_int_equal(position_parse("000000000000001a-8000000000000b0c", &got), -ERR_INVALID);
    assert_int_equal(position_parse("000000000000001A/8000000000000b0c", &got), -ERR_INVALID);
    assert_int_equal(position_parse("", &got), -ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_header_comes_back_as_it_was),
        cmocka_unit_test(each_rule_of_the_header_is_kept),
        cmocka_unit_test(the_lock_page_is_at_1_gib),
        cmocka_unit_test(a_post_checksum_is_allowed_as_the_table_says),
        cmocka_unit_test(a_file_name_says_its_txids),
        cmocka_unit_test(a_position_is_written_as_litefs_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
