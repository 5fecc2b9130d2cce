/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/thread.h"
#include "ltx/checksum.h"
#include "ltx/snapshot.h"
#include "tests/lib/dice.h"
#include "tests/lib/folder.h"
#include "tests/lib/model.h"
#include "tests/lib/record.h"

/*
 * A database whose pages the reader gives out, and what happens to it while it is copied: before
 * each page that is read, `between` may make transactions.
 */
struct world {
    struct folder folder;
    struct store *store;
    struct ledger *ledger;
    struct model model;
    void (*between)(struct world *w, uint32_t pgno);
    int busy; /* this many times a page cannot be read */
    int reads;
};

static int read_page(void *ctx, struct ledger *l, uint32_t pgno, void *page, uint32_t *page_size)
{
    struct world *w = ctx;
    assert_ptr_equal(l, w->ledger);
    w->reads++;
    if (w->busy > 0) {
        w->busy--;
        return -ERR_BUSY;
    }
    if (w->between != NULL)
        w->between(w, pgno);
    if (pgno > w->model.commit)
        return -ERR_NOTFOUND;
    *page_size = w->model.page_size;
    memcpy(page, model_page(&w->model, pgno), w->model.page_size);
    return 0;
}

static void world_make(struct world *w)
{
    memset(w, 0, sizeof *w);
    folder_make(&w->folder);
    struct store_options options = {.segment_bytes = 8192};
    assert_int_equal(store_open(&w->store, w->folder.fd, &options), 0);
    assert_int_equal(store_get(w->store, "t.db", &w->ledger), 0);
    store_set_page_reader(w->store, (struct page_reader){.read = read_page, .ctx = w});
    model_init(&w->model);
}

static void world_fini(struct world *w)
{
    model_fini(&w->model);
    store_close(w->store);
    folder_remove(&w->folder);
}

static int out_file(const struct world *w)
{
    int fd = openat(w->folder.fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    return fd;
}

/* A snapshot, which must be the model as it is at the end. */
static void assert_snapshot(struct world *w)
{
    int fd = out_file(w);
    struct position at;
    uint32_t page_size, commit;
    assert_int_equal(
        snapshot_database(w->store, w->ledger, fd, &at, &page_size, &commit, NULL, NULL, NULL), 0);
    assert_true(position_equal(at, ledger_last(w->ledger)));
    assert_int_equal(page_size, w->model.page_size);
    assert_int_equal(commit, w->model.commit);
    int64_t size;
    assert_int_equal(file_size(fd, &size), 0);
    assert_int_equal(size, (int64_t)commit * page_size);
    uint8_t *bytes = malloc((size_t)size);
    assert_int_equal(file_read(fd, bytes, (size_t)size, 0), 0);
    assert_memory_equal(bytes, w->model.pages, (size_t)size);
    free(bytes);
    close(fd);
}

static void a_quiet_database_is_copied(void **state)
{
    (void)state;
    struct world w;
    world_make(&w);
    model_commit(&w.model, w.ledger, 1024, 17);
    assert_snapshot(&w);
    assert_int_equal(w.reads, 17);
    w.busy = 20;
    assert_snapshot(&w);
    world_fini(&w);
}

static void commit_at_random(struct world *w, uint32_t pgno)
{
    (void)pgno;
    while (dice_below(3) == 0) {
        /* Not deleted at the end: that is another test. */
        do
            model_commit_any(&w->model, w->ledger);
        while (w->model.commit == 0);
    }
    if (dice_below(20) == 0)
        assert_int_equal(ledger_checkpoint(w->ledger, ledger_last(w->ledger)), 0);
    if (dice_below(10) == 0) {
        struct ledger_info info;
        ledger_info(w->ledger, &info);
        struct txlog_retention r = {.size_bytes = 1};
        assert_int_equal(txlog_maintain(ledger_log(w->ledger), &r, info.recovery.txid), 0);
    }
}

static void a_database_that_is_written_meanwhile_is_exact(void **state)
{
    (void)state;
    for (int round = 0; round < 40; round++) {
        struct world w;
        world_make(&w);
        model_commit(&w.model, w.ledger, 512, 30);
        w.between = commit_at_random;
        assert_snapshot(&w);
        world_fini(&w);
    }
}

static void delete_it(struct world *w, uint32_t pgno)
{
    if (pgno == 5)
        model_commit(&w->model, w->ledger, 512, 0);
}

static void what_is_not_there_is_not_found(void **state)
{
    (void)state;
    struct world w;
    world_make(&w);
    int fd = out_file(&w);
    struct position at;
    uint32_t page_size, commit;
    assert_int_equal(
        snapshot_database(w.store, w.ledger, fd, &at, &page_size, &commit, NULL, NULL, NULL),
        -ERR_NOTFOUND);
    model_commit(&w.model, w.ledger, 512, 8);
    w.between = delete_it;
    assert_int_equal(
        snapshot_database(w.store, w.ledger, fd, &at, &page_size, &commit, NULL, NULL, NULL),
        -ERR_NOTFOUND);
    close(fd);
    world_fini(&w);
}

/* On a replica the files may be behind the log: pages are as applied, records go further. */
static void a_replica_that_is_behind_is_copied_as_of_its_log(void **state)
{
    (void)state;
    struct world w;
    world_make(&w);
    for (int i = 0; i < 5; i++)
        model_commit(&w.model, w.ledger, 512, 20);
    struct model ahead;
    model_init(&ahead);
    memcpy(ahead.pages, w.model.pages, 20 * 512);
    ahead.commit = 20;
    struct position applied = ledger_last(w.ledger);
    for (int i = 0; i < 4; i++)
        model_commit(&ahead, w.ledger, i == 2 ? 1024 : ahead.page_size, 10 + dice_below(20));
    ledger_set_applied(w.ledger, applied);
    int fd = out_file(&w);
    struct position at;
    uint32_t page_size, commit;
    assert_int_equal(
        snapshot_database(w.store, w.ledger, fd, &at, &page_size, &commit, NULL, NULL, NULL), 0);
    assert_true(position_equal(at, ledger_last(w.ledger)));
    assert_int_equal(page_size, 1024);
    size_t size = (size_t)commit * page_size;
    uint8_t *bytes = malloc(size);
    assert_int_equal(file_read(fd, bytes, size, 0), 0);
    assert_memory_equal(bytes, ahead.pages, size);
    free(bytes);
    close(fd);
    model_fini(&ahead);
    world_fini(&w);
}

static void a_wrong_page_is_noticed(void **state)
{
    (void)state;
    struct world w;
    world_make(&w);
    model_commit(&w.model, w.ledger, 512, 8);
    model_page(&w.model, 3)[100] ^= 1;
    int fd = out_file(&w);
    struct position at;
    uint32_t page_size, commit;
    assert_int_equal(
        snapshot_database(w.store, w.ledger, fd, &at, &page_size, &commit, NULL, NULL, NULL),
        -ERR_CHECKSUM);
    ledger_set_damaged(w.ledger, "the test says so");
    assert_int_equal(
        snapshot_database(w.store, w.ledger, fd, &at, &page_size, &commit, NULL, NULL, NULL),
        -ERR_DAMAGED);
    close(fd);
    world_fini(&w);
}

static volatile bool cancel;
static uint64_t told;
static void cancel_soon(void *ctx, uint64_t done, uint64_t total)
{
    (void)ctx;
    assert_true(done <= total);
    told = total;
    if (done == 4)
        cancel = true;
}

static void a_copy_can_be_cancelled(void **state)
{
    (void)state;
    struct world w;
    world_make(&w);
    model_commit(&w.model, w.ledger, 512, 8);
    cancel = false;
    int fd = out_file(&w);
    struct position at;
    uint32_t page_size, commit;
    assert_int_equal(snapshot_database(w.store, w.ledger, fd, &at, &page_size, &commit, cancel_soon,
                                       NULL, &cancel),
                     -ERR_CLOSED);
    assert_int_equal(told, 8);
    assert_int_equal(w.reads, 4);
    close(fd);
    world_fini(&w);
}

static void it_can_be_had_as_one_record(void **state)
{
    (void)state;
    struct world w;
    world_make(&w);
    for (int i = 0; i < 6; i++)
        model_commit(&w.model, w.ledger, 512, 5 + dice_below(30));
    for (uint32_t flags = 0; flags <= LTX_NO_CHECKSUM; flags += LTX_NO_CHECKSUM) {
        struct buf record = {0};
        struct position at;
        assert_int_equal(
            snapshot_ltx(w.store, w.ledger, w.folder.fd, flags, sink_buf(&record), &at), 0);
        struct ltx_memory memory = {record.data, record.len};
        struct ltx_header h;
        uint64_t post;
        assert_int_equal(ltx_verify(ltx_source_memory(&memory), &h, &post, NULL, 0), 0);
        assert_int_equal(h.min_txid, 1);
        assert_int_equal(h.max_txid, 6);
        assert_int_equal(h.flags, flags);
        assert_int_equal(h.commit, w.model.commit);
        assert_true(post == (flags ? 0 : model_checksum(&w.model)));
        assert_true(position_equal(at, ledger_last(w.ledger)));
        buf_fini(&record);
    }
    world_fini(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_quiet_database_is_copied),
        cmocka_unit_test(a_database_that_is_written_meanwhile_is_exact),
        cmocka_unit_test(what_is_not_there_is_not_found),
        cmocka_unit_test(a_replica_that_is_behind_is_copied_as_of_its_log),
        cmocka_unit_test(a_wrong_page_is_noticed),
        cmocka_unit_test(a_copy_can_be_cancelled),
        cmocka_unit_test(it_can_be_had_as_one_record),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
