/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "ltx/base/bytes.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/checksum.h"
#include "ltx/decode.h"
#include "ltx/encode.h"
#include "tests/lib/dice.h"
#include "tests/lib/record.h"
#include "tests/lib/shared.h"

#define PAGE_MAX LTX_MAX_PAGE_SIZE

static struct buf read_whole(const char *path)
{
    struct buf b = {0};
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    for (int c = getc(f); c != EOF; c = getc(f))
        assert_int_equal(buf_put_u8(&b, (uint8_t)c), 0);
    assert_int_equal(fclose(f), 0);
    return b;
}

static int verify(const struct buf *record, char why[128])
{
    struct ltx_memory m = {record->data, record->len};
    why[0] = '\0';
    return ltx_verify(ltx_source_memory(&m), NULL, NULL, why, 128);
}

/* Lays the pages of a record over an image in memory. 0, or the fault's code. */
static int decode_over(const uint8_t *data, size_t n, struct image *m)
{
    static uint8_t page[PAGE_MAX];
    struct ltx_memory memory = {data, n};
    struct ltx_decoder d = {0};
    int rc = ltx_decode_begin(&d, ltx_source_memory(&memory));
    if (rc < 0)
        return rc;
    m->page_size = d.header.page_size;
    m->pages = realloc(m->pages, (size_t)d.header.commit * m->page_size + 1);
    assert_non_null(m->pages);
    m->commit = d.header.commit;
    uint32_t pgno;
    while ((rc = ltx_decode_page(&d, &pgno, page)) > 0)
        memcpy(image_page(m, pgno), page, m->page_size);
    if (rc == 0) {
        m->txid = d.header.max_txid;
        m->checksum = d.post_checksum;
        assert_int_equal(ltx_decode_page(&d, &pgno, page), 0);
    } else {
        assert_true(d.fault[0] != '\0');
    }
    ltx_decode_fini(&d);
    return rc;
}

static void assert_same_image(const struct image *a, const struct image *b)
{
    assert_int_equal(a->page_size, b->page_size);
    assert_int_equal(a->commit, b->commit);
    assert_true(a->txid == b->txid && a->checksum == b->checksum);
    assert_memory_equal(a->pages, b->pages, (size_t)a->commit * a->page_size);
}

static void records_of_all_page_sizes_come_back(void **state)
{
    (void)state;
    for (uint32_t size = LTX_MIN_PAGE_SIZE; size <= LTX_MAX_PAGE_SIZE; size *= 2) {
        struct image made, read = {0};
        struct buf record = {0};
        image_init(&made, size);
        for (int i = 0; i < 12; i++) {
            image_transaction(&made, 1 + dice_below(40), &record);
            assert_int_equal(decode_over(record.data, record.len, &read), 0);
            assert_same_image(&made, &read);
            char why[128];
            assert_int_equal(verify(&record, why), 0);
        }
        image_fini(&made);
        image_fini(&read);
        buf_fini(&record);
    }
}

static void a_record_longer_than_the_window_comes_back(void **state)
{
    (void)state;
    struct image made, read = {0};
    struct buf record = {0};
    image_init(&made, 512);
    image_transaction(&made, 40000, &record); /* the index alone is longer than the window */
    assert_true(record.len > 600000);
    assert_int_equal(decode_over(record.data, record.len, &read), 0);
    assert_same_image(&made, &read);

    char path[] = "/tmp/tandemfs-codec-XXXXXX";
    struct ltx_file_range range = {.fd = mkstemp(path), .off = 1000};
    assert_true(range.fd >= 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(file_write(range.fd, record.data, record.len, range.off), 0);
    char why[128];
    struct ltx_header h;
    uint64_t post;
    assert_int_equal(ltx_verify(ltx_source_file(&range, record.len), &h, &post, why, sizeof why),
                     0);
    assert_int_equal(h.commit, 40000);
    assert_true(post == made.checksum);
    assert_int_equal(file_truncate(range.fd, 300000), 0);
    assert_int_equal(ltx_verify(ltx_source_file(&range, record.len), &h, &post, why, sizeof why),
                     -ERR_TRUNCATED);
    close(range.fd);
    image_fini(&made);
    image_fini(&read);
    buf_fini(&record);
}

static void a_deletion_holds_no_page(void **state)
{
    (void)state;
    struct ltx_header h = {
        .page_size = 4096, .min_txid = 9, .max_txid = 9, .pre_checksum = LTX_CHECKSUM_BIT | 1};
    struct buf record = {0};
    struct ltx_encoder e = {0};
    uint64_t size;
    assert_int_equal(ltx_encode_begin(&e, sink_buf(&record), &h), 0);
    assert_int_equal(ltx_encode_finish(&e, LTX_CHECKSUM_BIT | 1, &size), -ERR_INVALID);
    assert_int_equal(ltx_encode_finish(&e, LTX_EMPTY_CHECKSUM, &size), 0);
    assert_int_equal(size, LTX_MIN_FILE_SIZE);
    char why[128];
    assert_int_equal(verify(&record, why), 0);
    ltx_encode_fini(&e);
    buf_fini(&record);
}

static void the_encoder_refuses_a_record_against_the_rules(void **state)
{
    (void)state;
    static const uint8_t page[512];
    struct ltx_header h = {.page_size = 512, .commit = 3, .min_txid = 1, .max_txid = 1};
    struct buf record = {0};
    struct ltx_encoder e = {0};
    uint64_t size;
    h.page_size = 513;
    assert_int_equal(ltx_encode_begin(&e, sink_buf(&record), &h), -ERR_INVALID);
    h.page_size = 512;
    assert_int_equal(ltx_encode_begin(&e, sink_buf(&record), &h), 0);
    assert_int_equal(ltx_encode_page(&e, 2, page), -ERR_INVALID); /* a snapshot without page 1 */
    assert_int_equal(ltx_encode_page(&e, 1, page), 0);
    assert_int_equal(ltx_encode_page(&e, 2, page), 0);
    assert_int_equal(ltx_encode_finish(&e, LTX_CHECKSUM_BIT, &size), -ERR_INVALID); /* page 3 */
    ltx_encode_fini(&e);
    buf_fini(&record);
}

struct failing_sink {
    int calls_left;
};

static int fail_later(void *ctx, const void *data, size_t n)
{
    (void)data;
    (void)n;
    struct failing_sink *s = ctx;
    return s->calls_left-- > 0 ? 0 : -ERR_NOSPACE;
}

static void a_sink_that_fails_ends_the_record(void **state)
{
    (void)state;
    static const uint8_t page[512];
    struct ltx_header h = {.page_size = 512, .commit = 3, .min_txid = 1, .max_txid = 1};
    int calls = 0;
    for (int rc = -1; rc != 0; calls++) {
        struct failing_sink s = {calls};
        struct ltx_encoder e = {0};
        uint64_t size = 0;
        rc = ltx_encode_begin(&e, (struct ltx_sink){fail_later, &s}, &h);
        for (uint32_t pgno = 1; rc == 0 && pgno <= 3; pgno++)
            rc = ltx_encode_page(&e, pgno, page);
        if (rc == 0)
            rc = ltx_encode_finish(&e, LTX_CHECKSUM_BIT, &size);
        assert_true(rc == 0 || (rc == -ERR_NOSPACE && size == 0));
        ltx_encode_fini(&e);
    }
    assert_int_equal(calls, 6); /* header, three pages, end: a page is one write */
}

/* A record of three incompressible pages, of which each byte of data counts. */
static struct buf small_record(struct image *m)
{
    struct buf record = {0};
    image_init(m, 512);
    struct ltx_header h = {.page_size = 512, .commit = 3, .min_txid = 1, .max_txid = 4};
    m->pages = malloc(3 * 512);
    assert_non_null(m->pages);
    dice_fill(m->pages, 3 * 512);
    m->commit = 3;
    m->txid = 4;
    m->checksum = image_checksum(m);
    struct ltx_encoder e = {0};
    uint64_t size;
    assert_int_equal(ltx_encode_begin(&e, sink_buf(&record), &h), 0);
    for (uint32_t pgno = 1; pgno <= 3; pgno++)
        assert_int_equal(ltx_encode_page(&e, pgno, image_page(m, pgno)), 0);
    assert_int_equal(ltx_encode_finish(&e, m->checksum, &size), 0);
    ltx_encode_fini(&e);
    return record;
}

/*
 * The file checksum covers pages as they decompress. An LZ4 block has a few bits that decide
 * nothing (the match length of its last sequence), so a changed byte is refused or changes nothing.
 */
static void every_changed_byte_is_refused(void **state)
{
    (void)state;
    struct image m, got = {0};
    struct buf record = small_record(&m);
    uint32_t refused = 0, harmless = 0;
    for (size_t i = 0; i < record.len; i++) {
        uint8_t before = record.data[i];
        for (int bit = 0; bit < 9; bit++) {
            uint8_t change = bit < 8 ? (uint8_t)(1 << bit) : (uint8_t)(1 + dice_below(255));
            record.data[i] = before ^ change;
            char why[128];
            if (verify(&record, why) < 0) {
                assert_true(why[0] != '\0');
                refused++;
                continue;
            }
            assert_int_equal(decode_over(record.data, record.len, &got), 0);
            assert_same_image(&m, &got);
            harmless++;
        }
        record.data[i] = before;
    }
    assert_true(refused > record.len * 8);
    assert_true(harmless <= 3 * 9); /* the low half of one token a page */
    image_fini(&m);
    image_fini(&got);
    buf_fini(&record);
}

static void every_truncation_is_refused(void **state)
{
    (void)state;
    struct image m;
    struct buf record = small_record(&m);
    size_t whole = record.len;
    char why[128];
    for (size_t n = 0; n < whole; n++) {
        /* A copy of just that length, for the address sanitizer to see a read past its end. */
        struct buf cut = {0};
        assert_int_equal(buf_append(&cut, record.data, n), 0);
        assert_int_equal(verify(&cut, why), -ERR_TRUNCATED);
        assert_true(why[0] != '\0');
        buf_fini(&cut);
    }
    assert_int_equal(buf_put_u8(&record, 0), 0);
    assert_int_equal(verify(&record, why), -ERR_CORRUPT);
    assert_string_equal(why, "bytes after the trailer: 1");
    image_fini(&m);
    buf_fini(&record);
}

static void faults_say_where(void **state)
{
    (void)state;
    struct image m;
    struct buf record = small_record(&m);
    char why[128];
    uint8_t *first = record.data + LTX_HEADER_SIZE;
    uint8_t *second = first + 10 + get_be32(first + 6);

    put_be32(second, 1);
    assert_int_equal(verify(&record, why), -ERR_CORRUPT);
    assert_string_equal(why, "page 1 after page 1: out of order");
    put_be32(second, 3);
    assert_int_equal(verify(&record, why), -ERR_CORRUPT);
    assert_string_equal(why, "a snapshot without page 2");
    put_be32(second, 77);
    assert_int_equal(verify(&record, why), -ERR_CORRUPT);
    assert_string_equal(why, "page 77 in a database of 3 pages");
    put_be32(second, 2);
    put_be32(second + 6, 100000);
    assert_int_equal(verify(&record, why), -ERR_CORRUPT);
    assert_string_equal(why, "page 2: 100000 bytes cannot be a compressed page");
    put_be32(second + 6, 3);
    assert_int_equal(verify(&record, why), -ERR_CORRUPT);
    assert_string_equal(why, "page 2 does not decompress to one page");
    memcpy(record.data, "SQLi", 4);
    assert_int_equal(verify(&record, why), -ERR_CORRUPT);
    assert_string_equal(why, "not an LTX file (it does not begin with LTX1)");
    image_fini(&m);
    buf_fini(&record);
}

/* A checksum of the database that its pages do not give, under a right file checksum. */
static void a_snapshot_with_a_wrong_database_checksum_is_refused(void **state)
{
    (void)state;
    static const uint8_t page[512] = {1};
    struct ltx_header h = {.page_size = 512, .commit = 1, .min_txid = 1, .max_txid = 1};
    struct buf record = {0};
    struct ltx_encoder e = {0};
    uint64_t size;
    assert_int_equal(ltx_encode_begin(&e, sink_buf(&record), &h), 0);
    assert_int_equal(ltx_encode_page(&e, 1, page), 0);
    uint64_t sum = checksum_toggle(LTX_EMPTY_CHECKSUM, checksum_page(1, page, 512));
    assert_int_equal(ltx_encode_finish(&e, sum ^ 4, &size), 0);
    char why[128];
    assert_int_equal(verify(&record, why), -ERR_CHECKSUM);
    ltx_encode_fini(&e);
    buf_fini(&record);
}

/* A page as older writers stored it: no flag, no size field, an LZ4 frame (here of one block that
 * is not compressed). */
static void a_page_in_a_frame_is_read(void **state)
{
    (void)state;
    uint8_t page[512], got[512];
    dice_fill(page, sizeof page);
    struct ltx_header h = {
        .flags = LTX_NO_CHECKSUM, .page_size = 512, .commit = 5, .min_txid = 4, .max_txid = 4};
    uint8_t header[LTX_HEADER_SIZE];
    ltx_header_encode(&h, header);
    struct buf r = {0};
    buf_append(&r, header, sizeof header);
    buf_append(&r, "\0\0\0\5\0\0", 6);
    buf_append(&r, "\x04\x22\x4d\x18\x60\x40\x82", 7); /* magic, flags, block size, check */
    buf_append(&r, "\x00\x02\x00\x80", 4);             /* 512 bytes, stored */
    buf_append(&r, page, sizeof page);
    buf_append(&r, "\0\0\0\0", 4); /* end mark */
    size_t pages_end = r.len;
    buf_append(&r, "\0\0\0\0\0\0", 6);
    size_t list = r.len;
    buf_put_uvarint(&r, 5);
    buf_put_uvarint(&r, LTX_HEADER_SIZE);
    buf_put_uvarint(&r, pages_end - LTX_HEADER_SIZE);
    buf_put_uvarint(&r, 0);
    buf_put_be64(&r, r.len - list);
    buf_put_be64(&r, 0);
    uint64_t crc = checksum_update(0, header, sizeof header);
    crc = checksum_update(crc, r.data + LTX_HEADER_SIZE, 6);
    crc = checksum_update(crc, page, sizeof page);
    crc = checksum_update(crc, r.data + pages_end, r.len - pages_end);
    buf_put_be64(&r, crc | LTX_CHECKSUM_BIT);

    struct ltx_memory memory = {r.data, r.len};
    struct ltx_decoder d = {0};
    uint32_t pgno;
    assert_int_equal(ltx_decode_begin(&d, ltx_source_memory(&memory)), 0);
    assert_int_equal(ltx_decode_page(&d, &pgno, got), 1);
    assert_int_equal(pgno, 5);
    assert_memory_equal(page, got, sizeof page);
    assert_int_equal(ltx_decode_page(&d, &pgno, got), 0);
    ltx_decode_fini(&d);
    char why[128];
    r.data[LTX_HEADER_SIZE + 6] ^= 1;
    assert_int_equal(verify(&r, why), -ERR_CORRUPT);
    assert_string_equal(why, "page 5 is not an LZ4 frame of one page");
    buf_fini(&r);
}

static void records_of_other_tools_give_their_databases(void **state)
{
    (void)state;
    static const struct {
        const char *record, *database;
        uint64_t checksum;
    } golden[] = {
        {"golden/snap-512.ltx", "golden/g512.db", 0xcb7ff1561bb4677f},
        {"golden/snap-4096.ltx", "golden/g4096.db", 0xfd1c9f4d6a119545},
        {"golden/snap-65536.ltx", "golden/g65536.db", 0x9d4ed04e86aaaa08},
    };
    for (size_t i = 0; i < sizeof golden / sizeof *golden; i++) {
        char path[512];
        if (!shared_path(path, sizeof path, golden[i].record))
            skip();
        struct buf record = read_whole(path);
        assert_true(shared_path(path, sizeof path, golden[i].database));
        struct buf database = read_whole(path);
        struct image m = {0};
        assert_int_equal(decode_over(record.data, record.len, &m), 0);
        assert_true(m.checksum == golden[i].checksum);
        assert_true(image_checksum(&m) == golden[i].checksum);
        assert_int_equal((size_t)m.commit * m.page_size, database.len);
        assert_memory_equal(m.pages, database.data, database.len);
        char why[128];
        assert_int_equal(verify(&record, why), 0);
        image_fini(&m);
        buf_fini(&record);
        buf_fini(&database);
    }
}

static void a_litestream_backup_gives_its_database(void **state)
{
    (void)state;
    char path[512];
    if (!shared_path(path, sizeof path, "golden/litestream/final.db"))
        skip();
    struct buf database = read_whole(path);
    struct image m = {0};
    for (int txid = 1; txid <= 5; txid++) {
        char name[96];
        snprintf(name, sizeof name, "golden/litestream/ltx/0/%016x-%016x.ltx", txid, txid);
        assert_true(shared_path(path, sizeof path, name));
        struct buf record = read_whole(path);
        assert_int_equal(decode_over(record.data, record.len, &m), 0);
        buf_fini(&record);
    }
    assert_int_equal((size_t)m.commit * m.page_size, database.len);
    assert_memory_equal(m.pages, database.data, database.len);
    image_fini(&m);
    buf_fini(&database);
}

/* Made by this encoder and kept: the bytes on disk must stay readable, whatever changes here. */
static void a_record_of_an_earlier_build_is_read(void **state)
{
    (void)state;
    if (access("tests/golden/two-pages.ltx", R_OK) != 0) {
        printf("not there: tests/golden/two-pages.ltx (run from the root of the repository)\n");
        skip();
    }
    struct buf record = read_whole("tests/golden/two-pages.ltx");
    struct image m = {0};
    char why[128];
    assert_int_equal(verify(&record, why), 0);
    assert_int_equal(decode_over(record.data, record.len, &m), 0);
    assert_int_equal(m.commit, 2);
    assert_int_equal(m.page_size, 512);
    assert_true(m.txid == 3);
    for (size_t i = 0; i < 1024; i++)
        assert_int_equal(m.pages[i], i % 37);
    image_fini(&m);
    buf_fini(&record);
}

static void an_independent_reader_accepts_the_records(void **state)
{
    (void)state;
    char tool[512];
    if (!shared_path(tool, sizeof tool, "tools/ltxcheck.py") ||
        system("python3 -c '' 2>/dev/null") != 0)
        skip();
    char dir[] = "/tmp/tandemfs-codec-XXXXXX";
    assert_non_null(mkdtemp(dir));
    static const uint32_t sizes[] = {512, 4096, 65536};
    for (size_t s = 0; s < 3; s++) {
        struct image m;
        struct buf record = {0}, command = {0};
        image_init(&m, sizes[s]);
        buf_printf(&command, "python3 %s --quiet --db %s/db", tool, dir);
        for (int i = 1; i <= 4; i++) {
            char path[64];
            snprintf(path, sizeof path, "%s/%d.ltx", dir, i);
            image_transaction(&m, 1 + dice_below(9), &record);
            assert_int_equal(file_replace(-1, path, record.data, record.len, 0600), 0);
            buf_printf(&command, " %s", path);
        }
        char path[64];
        snprintf(path, sizeof path, "%s/db", dir);
        size_t n = (size_t)m.commit * m.page_size;
        assert_int_equal(file_replace(-1, path, m.pages, n, 0600), 0);
        buf_put_u8(&command, 0);
        assert_int_equal(system((char *)command.data), 0);
        image_fini(&m);
        buf_fini(&record);
        buf_fini(&command);
    }
    char remove[64];
    snprintf(remove, sizeof remove, "rm -r %s", dir);
    assert_int_equal(system(remove), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_of_all_page_sizes_come_back),
        cmocka_unit_test(a_record_longer_than_the_window_comes_back),
        cmocka_unit_test(a_deletion_holds_no_page),
        cmocka_unit_test(the_encoder_refuses_a_record_against_the_rules),
        cmocka_unit_test(a_sink_that_fails_ends_the_record),
        cmocka_unit_test(every_changed_byte_is_refused),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(faults_say_where),
        cmocka_unit_test(a_snapshot_with_a_wrong_database_checksum_is_refused),
        cmocka_unit_test(a_page_in_a_frame_is_read),
        cmocka_unit_test(records_of_other_tools_give_their_databases),
        cmocka_unit_test(a_litestream_backup_gives_its_database),
        cmocka_unit_test(a_record_of_an_earlier_build_is_read),
        cmocka_unit_test(an_independent_reader_accepts_the_records),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
