/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/logworld.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ltx/base/err.h"
#include "tests/lib/dice.h"

void world_open_log(struct world *w, int64_t segment_bytes)
{
    struct txlog_options options = {.segment_bytes = segment_bytes, .feeds = &w->feeds};
    assert_int_equal(txlog_open(&w->log, w->folder.fd, "t.db", &options), 0);
}

void world_make(struct world *w, int64_t segment_bytes)
{
    memset(w, 0, sizeof *w);
    feed_init(&w->feeds.published);
    feed_init(&w->feeds.durable);
    folder_make(&w->folder);
    world_open_log(w, segment_bytes);
    image_init(&w->image, WORLD_PAGE_SIZE);
    for (int i = 1; i <= WORLD_RECORDS; i++) {
        image_transaction(&w->image, 1 + dice_below(30), &w->records[i]);
        w->at[i] = (struct position){w->image.txid, w->image.checksum};
    }
}

void world_fini(struct world *w)
{
    txlog_close(w->log);
    folder_remove(&w->folder);
    for (int i = 1; i <= WORLD_RECORDS; i++)
        buf_fini(&w->records[i]);
    image_fini(&w->image);
    feed_fini(&w->feeds.published);
    feed_fini(&w->feeds.durable);
}

void world_kill(struct world *w, int64_t segment_bytes)
{
    struct folder copy;
    folder_copy(&copy, &w->folder);
    txlog_close(w->log);
    folder_remove(&w->folder);
    w->folder = copy;
    world_open_log(w, segment_bytes);
}

int world_append_bytes(struct txlog *t, const struct buf *record, uint32_t flags)
{
    struct ltx_memory memory = {record->data, record->len};
    struct ltx_header h;
    uint64_t post;
    assert_int_equal(ltx_verify(ltx_source_memory(&memory), &h, &post, NULL, 0), 0);
    struct txlog_append a = {0};
    int rc = txlog_append_begin(t, &a, flags);
    size_t done = 0;
    while (rc == 0 && done < record->len) {
        size_t n = 1 + dice_below(200);
        if (n > record->len - done)
            n = record->len - done;
        rc = txlog_append_write(&a, record->data + done, n);
        done += n;
    }
    if (rc == 0)
        return txlog_append_publish(&a, &h, post);
    txlog_append_abort(&a);
    return rc;
}

void world_append(struct world *w, int from, int to)
{
    for (int i = from; i <= to; i++)
        assert_int_equal(world_append_bytes(w->log, &w->records[i], 0), 0);
}

void assert_position(struct position got, struct position want)
{
    assert_int_equal(got.txid, want.txid);
    assert_true(got.checksum == want.checksum);
}

void assert_is_record(struct txlog_entry *e, const struct buf *want)
{
    assert_int_equal(e->size, want->len);
    uint8_t *got = malloc(e->size);
    assert_int_equal(txlog_entry_read(e, 0, got, e->size), 0);
    assert_memory_equal(got, want->data, want->len);
    assert_int_equal(txlog_entry_read(e, 1, got, e->size), -ERR_TRUNCATED);
    free(got);
}

void assert_holds(struct world *w, int first, int last)
{
    assert_position(txlog_last(w->log), w->at[last]);
    assert_position(txlog_first(w->log), w->at[first]);
    for (int i = first; i < last; i++) {
        struct txlog_entry e;
        assert_int_equal(txlog_find(w->log, (uint64_t)i, &e), 0);
        assert_is_record(&e, &w->records[i + 1]);
        txlog_entry_release(&e);
        uint64_t checksum;
        assert_int_equal(txlog_checksum_at(w->log, (uint64_t)i, &checksum), 0);
        assert_true(checksum == w->at[i].checksum);
        assert_int_equal(txlog_find_from(w->log, w->at[i], &e), 0);
        assert_is_record(&e, &w->records[i + 1]);
        txlog_entry_release(&e);
        assert_int_equal(txlog_find_ending(w->log, w->at[i + 1], &e), 0);
        assert_is_record(&e, &w->records[i + 1]);
        txlog_entry_release(&e);
    }
    struct txlog_entry none;
    assert_int_equal(txlog_find(w->log, (uint64_t)last, &none), -ERR_NOTFOUND);
    assert_int_equal(txlog_find_from(w->log, w->at[last], &none), -ERR_NOTFOUND);
}
