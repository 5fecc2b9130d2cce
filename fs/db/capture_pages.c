/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/db/capture_pages.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "fs/db/database_impl.h"
#include "fs/db/header.h"
#include "fs/db/raw.h"
#include "ltx/base/assert.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"
#include "ltx/checksum.h"

/* What the file says it holds. `whole`: every page must be looked at. */
struct shape {
    uint32_t page_size;
    uint32_t page_count;
    bool whole;
    bool journal; /* a journal guards the pages until their record is made */
};

/*
 * Reads header and size. 0: a database that can be captured; -ERR_NOTFOUND: not a database;
 * -ERR_BUSY: header and file do not agree (yet).
 */
static int read_shape(struct database *db, enum capture_when when, struct shape *out)
{
    struct db_header h;
    int64_t size;
    int err = raw_look(db);
    if (!err)
        err = database_open_main(db);
    if (!err)
        err = db_header_read(db->main_fd, &h);
    if (!err)
        err = file_size(db->main_fd, &size);
    if (err)
        return err;
    if (db->wal.valid && db->wal.captured > 0) {
        out->page_size = db->wal.header.page_size;
        out->page_count = db->wal.captured_commit;
        return 0;
    }
    int64_t in_file = size / h.page_size;
    uint32_t count = h.page_count ? h.page_count : (uint32_t)in_file;
    if (count == 0 || in_file > UINT32_MAX)
        return -ERR_BUSY;
    /* A commit that shrinks the database cuts the file only after it has finished its journal. */
    bool agree = when == CAPTURE_QUIET ? size == (int64_t)count * h.page_size
                                       : size >= (int64_t)count * h.page_size;
    if (!agree && when != CAPTURE_COMMIT) {
        if (when != CAPTURE_QUIET || db->handles[FILE_MAIN] > 0 || in_file == 0)
            return -ERR_BUSY;
        count = (uint32_t)in_file; /* nobody will make them agree: it is what it is */
    }
    out->page_size = h.page_size;
    out->page_count = count;
    return 0;
}

/* Puts page pgno if it must be there or has changed. */
static int put_page(struct database *db, const struct shape *s, uint32_t pgno, bool must,
                    uint8_t *page)
{
    int err = capture_wal_read_page(db, s->page_size, pgno, page);
    if (err)
        return err;
    if (!must && checksum_page(pgno, page, s->page_size) == ledger_page_sum(db->ledger, pgno))
        return 0;
    return ledger_put_page(&db->tx, pgno, page);
}

/*
 * Of a transaction with a journal all pages are put that were written, also those that are as they were:
 * the file may have held something else in between (a savepoint that was rolled back after the cache
 * had spilled), that may be what is on disk, and the journal that could undo it goes.
 */
static int put_pages(struct database *db, const struct shape *s, uint32_t known)
{
    uint32_t lock_pgno = ltx_lock_pgno(s->page_size), next = known + 1;
    uint8_t *page = malloc(s->page_size);
    int err = page ? 0 : -ERR_NOMEM;

    if (s->whole) {
        for (uint32_t pgno = 1; !err && pgno <= s->page_count; pgno++)
            if (pgno != lock_pgno)
                err = put_page(db, s, pgno, pgno > known, page);
    } else {
        dirty_sort(&db->dirty);
        for (uint32_t i = 0; !err && i < db->dirty.len; i++) {
            uint32_t pgno = db->dirty.pgno[i];
            if (pgno > s->page_count || pgno > known)
                break;
            if (pgno != lock_pgno)
                err = put_page(db, s, pgno, s->journal, page);
        }
        for (; !err && next <= s->page_count; next++)
            if (next != lock_pgno)
                err = put_page(db, s, next, true, page);
    }
    free(page);
    return err;
}

/* Is every dirty page as the ledger has it, and the size too? Then a rollback has undone the
 * transaction. */
static bool nothing_changed(struct database *db, const struct shape *s)
{
    struct ledger_info info;
    if (!db->ledger || s->page_size == 0) /* what the file is could not be read */
        return false;
    ledger_info(db->ledger, &info);
    if (db->dirty.all || info.page_size != s->page_size || info.commit != s->page_count)
        return false;
    uint8_t *page = malloc(s->page_size);
    bool same = page != NULL;
    for (uint32_t i = 0; same && i < db->dirty.len; i++) {
        uint32_t pgno = db->dirty.pgno[i];
        if (pgno > s->page_count || pgno == ltx_lock_pgno(s->page_size))
            continue;
        same = capture_wal_read_page(db, s->page_size, pgno, page) == 0 &&
               checksum_page(pgno, page, s->page_size) == ledger_page_sum(db->ledger, pgno);
    }
    free(page);
    return same;
}

/*
 * No journal guards these pages any more, and no record will bring them back: they must be on disk
 * before the journal goes. Then there is nothing else that the client could want to be synced.
 */
static int sync_rolled_back(struct database *db)
{
    bool written = dirty_any(&db->dirty) && db->main_fd >= 0;
    int err = written && db->sync_wanted ? file_sync_data(db->main_fd) : 0;
    if (!err)
        db->sync_wanted = false;
    return err;
}

static int settle_unchanged(struct database *db)
{
    int err = sync_rolled_back(db);
    if (!err)
        dirty_clear(&db->dirty);
    return err;
}

int capture_no_database(struct database *db)
{
    struct ledger_info info = {0};
    if (db->ledger)
        ledger_info(db->ledger, &info);
    if (info.commit > 0) {
        /* A start before S gets there must not take it for a file whose removal was lost. */
        int err = ledger_set_unclean(db->ledger, true);
        if (!err)
            err = capture_deletion(db);
        if (err)
            return err;
        log_warn("capture",
                 "%s is no longer a SQLite database: recorded as deleted, the file stays here",
                 db->path);
    }
    dirty_clear(&db->dirty);
    return 0;
}

struct comparison {
    struct database *db;
    uint8_t *page;
};

static int compare_page(void *ctx, uint32_t pgno, const void *page, uint32_t page_size)
{
    struct comparison *c = ctx;
    int err = database_read_main(c->db, page_size, pgno, c->page);
    return err ? err : memcmp(c->page, page, page_size) == 0 ? 0 : -ERR_EXISTS;
}

static int compare_size(void *ctx, uint32_t page_count, uint32_t page_size)
{
    struct comparison *c = ctx;
    int64_t size;
    int err = file_size(c->db->main_fd, &size);
    return err ? err : size == (int64_t)page_count * page_size ? 0 : -ERR_EXISTS;
}

/* Is everything that the journal keeps in the file again? Then a rollback has ended, whatever else
 * may have changed: pages that were unused before (see freelist.h). */
static bool rolled_back(struct database *db)
{
    char path[DATABASE_PATH_MAX];
    uint32_t pages;
    int fd;
    database_file_path(db, FILE_JOURNAL, path);
    if (file_open(database_tree(db), path, O_RDONLY | O_NOFOLLOW, 0, &fd) != 0)
        return false;
    struct comparison c = {.db = db, .page = malloc(LTX_MAX_PAGE_SIZE)};
    struct journal_target target = {.put = compare_page, .resize = compare_size, .ctx = &c};
    bool hot, same = c.page && journal_look(fd, &hot) == 0 && hot &&
                     journal_play_back(fd, target, &pages) == 0;
    free(c.page);
    file_close(fd);
    return same;
}

/* No record can be made now. A rollback may end all the same, else nobody could read: what it has
 * left in unused pages stays dirty, and is recorded later. */
static int without_record(struct database *db, enum capture_when when, const struct shape *s,
                          int why)
{
    db->full = db->full || why == -ERR_NOSPACE;
    if (nothing_changed(db, s))
        return settle_unchanged(db);
    if (when != CAPTURE_COMMIT || !db->journal_hot || !rolled_back(db))
        return why;
    if (db->ledger) /* should the daemon die before; on a full disk that cannot be kept */
        (void)ledger_set_unclean(db->ledger, true);
    return sync_rolled_back(db);
}

static int make_record(struct database *db, struct shape *s)
{
    struct ledger_info info;
    int err = database_need_ledger(db);
    if (err)
        return err;
    ledger_info(db->ledger, &info);
    bool fresh = info.page_size != s->page_size;
    s->whole = db->dirty.all || fresh;
    struct ledger_change change = {.page_size = s->page_size, .commit = s->page_count};
    err = ledger_begin(db->ledger, &db->tx, &change);
    if (!err)
        err = put_pages(db, s, fresh ? 0 : info.commit);
    if (!err)
        err = ledger_seal(&db->tx);
    /* Which of the others were written is not known. */
    if (!err && s->whole && !fresh && s->journal && db->sync_wanted)
        err = file_sync_data(db->main_fd);
    if (err)
        ledger_abort(&db->tx);
    return err;
}

int capture_pages_prepare(struct database *db, enum capture_when when)
{
    struct shape s = {.journal = when == CAPTURE_COMMIT};

    if (!dirty_any(&db->dirty) || db->committing)
        return 0;
    int err = read_shape(db, when, &s);
    if (err == -ERR_NOTFOUND) /* a rollback may have brought it back to that */
        return when == CAPTURE_QUIET    ? capture_no_database(db)
               : when == CAPTURE_COMMIT ? sync_rolled_back(db)
                                        : 0;
    if (err == -ERR_BUSY)
        return 0;
    if (!err)
        err = db->begun ? role_enter_begun(database_role(db)) : role_enter(database_role(db));
    if (err)
        return without_record(db, when, &s, err);
    err = make_record(db, &s);
    if (err) {
        role_leave(database_role(db));
        return without_record(db, when, &s, err);
    }
    db->committing = true;
    return 0;
}

int capture_pages_finish(struct database *db)
{
    if (!db->committing)
        return 0;
    struct position position;
    int err = ledger_publish(&db->tx, &position);
    role_leave(database_role(db));
    db->committing = false;
    if (err == LEDGER_UNCHANGED)
        return settle_unchanged(db);
    if (err)
        return err;
    dirty_clear(&db->dirty);
    if (!db->wal.valid || db->wal.captured == 0) /* else some of it is in the -wal alone */
        db->backed = position;
    db->leftover = false;
    return 0;
}

void capture_pages_abandon(struct database *db)
{
    if (!db->committing)
        return;
    ledger_abort(&db->tx);
    role_leave(database_role(db));
    db->committing = false;
}

int capture_pages(struct database *db, enum capture_when when)
{
    if (db->committing)
        return 0;
    int err = capture_pages_prepare(db, when);
    return err ? err : capture_pages_finish(db);
}

int capture_deletion(struct database *db)
{
    struct ledger_info info;
    if (!db->ledger)
        return 0;
    ledger_info(db->ledger, &info);
    if (info.commit == 0)
        return 0;
    int err = role_enter(database_role(db));
    if (err)
        return err;
    struct ledger_change change = {.page_size = info.page_size, .commit = 0};
    err = ledger_begin(db->ledger, &db->tx, &change);
    if (!err)
        err = ledger_publish(&db->tx, &db->backed);
    role_leave(database_role(db));
    return err < 0 ? err : 0;
}
