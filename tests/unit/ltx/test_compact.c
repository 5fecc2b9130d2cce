/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <unistd.h>

#include <cmocka.h>

#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/compact.h"
#include "tests/lib/dice.h"
#include "tests/lib/record.h"

#define RECORDS 12

/* A run of transactions, each as its record and as the database after it. */
struct history {
    struct buf records[RECORDS];
    struct buf after[RECORDS];
    uint64_t checksum[RECORDS];
    struct ltx_memory memory[RECORDS];
    struct ltx_source sources[RECORDS];
    uint32_t page_size;
    int dirfd;
};

static void history_make(struct history *h, uint32_t page_size)
{
    *h = (struct history){.page_size = page_size};
    h->dirfd = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(h->dirfd >= 0);
    struct image m;
    image_init(&m, page_size);
    for (int i = 0; i < RECORDS; i++) {
        image_transaction(&m, 1 + dice_below(50), &h->records[i]);
        size_t n = (size_t)m.commit * page_size;
        assert_int_equal(buf_append(&h->after[i], m.pages, n), 0);
        h->checksum[i] = m.checksum;
        h->memory[i] = (struct ltx_memory){h->records[i].data, h->records[i].len};
        h->sources[i] = ltx_source_memory(&h->memory[i]);
    }
    image_fini(&m);
}

static void history_fini(struct history *h)
{
    for (int i = 0; i < RECORDS; i++) {
        buf_fini(&h->records[i]);
        buf_fini(&h->after[i]);
    }
    close(h->dirfd);
}

static int empty_file(const struct history *h)
{
    int fd = openat(h->dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    return fd;
}

static void assert_file_is(int fd, const struct buf *want)
{
    int64_t size;
    assert_int_equal(file_size(fd, &size), 0);
    assert_int_equal(size, want->len);
    uint8_t *got = malloc(want->len + 1);
    assert_non_null(got);
    assert_int_equal(file_read(fd, got, want->len, 0), 0);
    assert_memory_equal(got, want->data, want->len);
    free(got);
}

static void apply(int fd, const struct buf *record)
{
    struct ltx_memory memory = {record->data, record->len};
    char why[128] = "";
    assert_int_equal(apply_record_to_file(ltx_source_memory(&memory), fd, why, sizeof why), 0);
}

static void records_applied_one_by_one_give_the_database(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {512, 4096, 65536};
    for (size_t s = 0; s < 3; s++) {
        struct history h;
        history_make(&h, sizes[s]);
        int fd = empty_file(&h);
        for (int i = 0; i < RECORDS; i++) {
            apply(fd, &h.records[i]);
            assert_file_is(fd, &h.after[i]);
        }
        close(fd);
        history_fini(&h);
    }
}

static void a_merged_record_takes_any_position_in_it_to_its_end(void **state)
{
    (void)state;
    struct history h;
    history_make(&h, 512);
    for (int round = 0; round < 20; round++) {
        uint32_t first = dice_below(RECORDS), count = 1 + dice_below(RECORDS - first);
        uint32_t last = first + count - 1;
        struct buf merged = {0};
        struct ltx_header got;
        uint64_t post;
        assert_int_equal(
            compact_records(&h.sources[first], count, h.dirfd, 0, sink_buf(&merged), &got, &post),
            0);
        assert_true(got.min_txid == first + 1 && got.max_txid == last + 1);
        assert_true(post == h.checksum[last]);
        assert_true(got.pre_checksum == (first == 0 ? 0 : h.checksum[first - 1]));
        assert_int_equal(got.wal_offset, count == 1 ? 32 : 0);
        struct ltx_memory memory = {merged.data, merged.len};
        struct ltx_header verified;
        char why[128] = "";
        assert_int_equal(ltx_verify(ltx_source_memory(&memory), &verified, &post, why, sizeof why),
                         0);
        assert_true(post == h.checksum[last] && verified.commit == got.commit);
        for (uint32_t at = first == 0 ? 0 : first - 1; at < last; at++) {
            int fd = empty_file(&h);
            assert_int_equal(file_write(fd, h.after[at].data, h.after[at].len, 0), 0);
            apply(fd, &merged);
            assert_file_is(fd, &h.after[last]);
            close(fd);
        }
        buf_fini(&merged);
    }
    history_fini(&h);
}

static void records_that_do_not_follow_on_are_refused(void **state)
{
    (void)state;
    struct history h, other;
    history_make(&h, 512);
    history_make(&other, 512);
    struct buf out = {0};
    struct ltx_header got;
    uint64_t post;
    struct ltx_source gap[2] = {h.sources[2], h.sources[4]};
    assert_int_equal(compact_records(gap, 2, h.dirfd, 0, sink_buf(&out), &got, &post),
                     -ERR_POSITION);
    struct ltx_source back[2] = {h.sources[3], h.sources[2]};
    assert_int_equal(compact_records(back, 2, h.dirfd, 0, sink_buf(&out), &got, &post),
                     -ERR_POSITION);
    struct ltx_source foreign[2] = {h.sources[2], other.sources[3]};
    assert_int_equal(compact_records(foreign, 2, h.dirfd, 0, sink_buf(&out), &got, &post),
                     -ERR_POSITION);
    assert_int_equal(compact_records(gap, 0, h.dirfd, 0, sink_buf(&out), &got, &post),
                     -ERR_INVALID);
    assert_int_equal(out.len, 0);
    buf_fini(&out);
    history_fini(&h);
    history_fini(&other);
}

static void a_merged_record_may_overlap_the_one_before(void **state)
{
    (void)state;
    struct history h;
    history_make(&h, 512);
    struct buf merged = {0}, sum = {0};
    struct ltx_header got;
    uint64_t post;
    assert_int_equal(compact_records(&h.sources[3], 5, h.dirfd, 0, sink_buf(&merged), &got, &post),
                     0);
    struct ltx_memory memory = {merged.data, merged.len};
    struct ltx_source two[2] = {h.sources[5], ltx_source_memory(&memory)}; /* 6, then 4 to 8 */
    assert_int_equal(compact_records(two, 2, h.dirfd, 0, sink_buf(&sum), &got, &post), 0);
    assert_true(got.min_txid == 6 && got.max_txid == 8 && post == h.checksum[7]);
    assert_true(got.pre_checksum == h.checksum[4]);
    int fd = empty_file(&h);
    assert_int_equal(file_write(fd, h.after[4].data, h.after[4].len, 0), 0);
    apply(fd, &sum);
    assert_file_is(fd, &h.after[7]);
    close(fd);
    buf_fini(&merged);
    buf_fini(&sum);
    history_fini(&h);
}

static void without_checksums_none_are_written(void **state)
{
    (void)state;
    struct history h;
    history_make(&h, 512);
    struct buf plain = {0}, again = {0};
    struct ltx_header got;
    uint64_t post = 1;
    assert_int_equal(
        compact_records(&h.sources[2], 4, h.dirfd, LTX_NO_CHECKSUM, sink_buf(&plain), &got, &post),
        0);
    assert_true(got.flags == LTX_NO_CHECKSUM && got.pre_checksum == 0 && post == 0);
    struct ltx_memory memory = {plain.data, plain.len};
    struct ltx_source source = ltx_source_memory(&memory);
    assert_int_equal(ltx_verify(source, &got, &post, NULL, 0), 0);
    assert_true(post == 0);
    /* Checksums that are not there cannot be stated. */
    assert_int_equal(compact_records(&source, 1, h.dirfd, 0, sink_buf(&again), &got, &post),
                     -ERR_INVALID);
    buf_fini(&plain);
    buf_fini(&again);
    history_fini(&h);
}

static void encode_plain(struct buf *out, struct ltx_header header, const uint8_t *pages,
                         uint64_t post)
{
    struct ltx_encoder e = {0};
    uint64_t size;
    assert_int_equal(ltx_encode_begin(&e, sink_buf(out), &header), 0);
    for (uint32_t pgno = 1; pgno <= header.commit; pgno++)
        assert_int_equal(ltx_encode_page(&e, pgno, pages + (size_t)(pgno - 1) * header.page_size),
                         0);
    assert_int_equal(ltx_encode_finish(&e, post, &size), 0);
    ltx_encode_fini(&e);
}

static void a_new_page_size_and_a_deletion_forget_what_was(void **state)
{
    (void)state;
    struct history h;
    history_make(&h, 512);
    struct image wide;
    image_init(&wide, 2048);
    struct buf record = {0}, sum = {0}, gone = {0};
    image_transaction(&wide, 3, &record);
    /* The same pages as transaction 13 of the narrow database. */
    struct ltx_header header = {.page_size = 2048,
                                .commit = 3,
                                .min_txid = RECORDS + 1,
                                .max_txid = RECORDS + 1,
                                .pre_checksum = h.checksum[RECORDS - 1]};
    buf_reset(&record);
    encode_plain(&record, header, wide.pages, wide.checksum);
    struct ltx_memory memory = {record.data, record.len};
    struct ltx_source two[2] = {h.sources[RECORDS - 1], ltx_source_memory(&memory)};
    struct ltx_header got;
    uint64_t post;
    assert_int_equal(compact_records(two, 2, h.dirfd, 0, sink_buf(&sum), &got, &post), 0);
    assert_true(got.page_size == 2048 && got.commit == 3 && post == wide.checksum);
    int fd = empty_file(&h);
    struct buf want = {0};
    assert_int_equal(buf_append(&want, wide.pages, 3 * 2048), 0);
    apply(fd, &sum);
    assert_file_is(fd, &want);

    struct ltx_header deletion = {.page_size = 2048,
                                  .min_txid = RECORDS + 2,
                                  .max_txid = RECORDS + 2,
                                  .pre_checksum = wide.checksum};
    encode_plain(&gone, deletion, (const uint8_t *)"", LTX_EMPTY_CHECKSUM);
    struct ltx_memory gone_memory = {gone.data, gone.len};
    two[0] = two[1];
    two[1] = ltx_source_memory(&gone_memory);
    buf_reset(&sum);
    assert_int_equal(compact_records(two, 2, h.dirfd, 0, sink_buf(&sum), &got, &post), 0);
    assert_true(got.commit == 0 && post == LTX_EMPTY_CHECKSUM);
    assert_int_equal(sum.len, LTX_MIN_FILE_SIZE);
    buf_reset(&want);
    apply(fd, &sum);
    assert_file_is(fd, &want);
    close(fd);
    buf_fini(&want);
    buf_fini(&record);
    buf_fini(&sum);
    buf_fini(&gone);
    image_fini(&wide);
    history_fini(&h);
}

static void a_record_that_is_not_right_changes_nothing(void **state)
{
    (void)state;
    struct history h;
    history_make(&h, 512);
    int fd = empty_file(&h);
    apply(fd, &h.records[0]);
    h.records[1].data[h.records[1].len - 1] ^= 1;
    char why[128] = "";
    assert_int_equal(apply_record_to_file(h.sources[1], fd, why, sizeof why), -ERR_CHECKSUM);
    assert_true(why[0] != '\0');
    assert_file_is(fd, &h.after[0]);
    close(fd);
    history_fini(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_applied_one_by_one_give_the_database),
        cmocka_unit_test(a_merged_record_takes_any_position_in_it_to_its_end),
        cmocka_unit_test(records_that_do_not_follow_on_are_refused),
        cmocka_unit_test(a_merged_record_may_overlap_the_one_before),
        cmocka_unit_test(without_checksums_none_are_written),
        cmocka_unit_test(a_new_page_size_and_a_deletion_forget_what_was),
        cmocka_unit_test(a_record_that_is_not_right_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
