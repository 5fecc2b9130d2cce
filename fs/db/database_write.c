/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <string.h>

#include "fs/db/capture_pages.h"
#include "fs/db/database_impl.h"
#include "fs/db/raw.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"

/* Writes and truncations of a database's files, before and after they reach the backing file. */

/*
 * So that the commit cannot meet a full disk after the journal has told SQLite that all is well.
 * Once a writer knows that there is no room it rolls back, and for that it must write. So must one whose
 * commit was refused by a log that has failed.
 */
static int reserve(struct database *db, size_t n)
{
    uint64_t pages = db->dirty.len + 16;
    uint32_t page_size = database_page_size(db);
    if (!db->ledger)
        return 0;
    int err = txlog_reserve(ledger_log(db->ledger), (int64_t)(pages * (page_size + 64u) + n));
    bool known = db->full;
    db->full = err == -ERR_NOSPACE;
    return (db->full && known) || (err == -ERR_IO && db->journal_hot) ? 0 : err;
}

static int before_main_write(struct database *db, int64_t off, size_t n)
{
    mutex_lock(&db->mutex);
    if (database_is_checkpoint(db)) {
        struct ledger *l = db->ledger;
        mutex_unlock(&db->mutex);
        /* I4: no page reaches the database file before its record is on disk. */
        return l && ledger_durable(l).txid < ledger_last(l).txid
                   ? ledger_sync(l, ledger_last(l).txid)
                   : 0;
    }
    int err = raw_is(db, FILE_MAIN) ? raw_begin(db) : database_may_change_plain(db);
    if (!err)
        err = reserve(db, n);
    if (!err && db->ledger && !db->journal_hot && !ledger_is_unclean(db->ledger))
        err = ledger_set_unclean(db->ledger, true);
    if (!err && n > 0) /* also if it fails: half of it may be there then */
        dirty_add(&db->dirty, database_page_size(db), off, n);
    mutex_unlock(&db->mutex);
    return err;
}

/* The journal is about to be removed, cut to nothing, or zeroed: that commits, or ends a rollback. */
int database_finish_journal(struct database *db)
{
    mutex_lock(&db->mutex);
    bool hot = db->journal_hot;
    int err = capture_pages(db, CAPTURE_COMMIT);
    bool wanted = db->sync_wanted;
    if (!err) {
        db->journal_hot = false;
        db->sync_wanted = false;
        database_end_transaction(db);
    }
    mutex_unlock(&db->mutex);
    if (!err && wanted && (err = database_sync_log(db)) != 0) {
        mutex_lock(&db->mutex);
        db->journal_hot = hot; /* it stays, and SQLite rolls back */
        mutex_unlock(&db->mutex);
    }
    return err;
}

/* The header, should the write take away what a rollback needs and the commit fail. */
static int keep_journal_header(struct database *db)
{
    char path[DATABASE_PATH_MAX];
    size_t got;
    int fd;
    memset(db->journal_header, 0, sizeof db->journal_header);
    if (!db->journal_hot)
        return 0;
    database_file_path(db, FILE_JOURNAL, path);
    int err = file_open(database_tree(db), path, O_RDONLY, 0, &fd);
    if (err)
        return err;
    err = file_read_some(fd, db->journal_header, sizeof db->journal_header, 0, &got);
    file_close(fd);
    return err;
}

static int before_journal_write(struct database *db, int64_t off, size_t n)
{
    if (off != 0)
        return 0;
    mutex_lock(&db->mutex);
    /* PERSIST mode zeroes the header, and writes it whole (with its sector) or without its end for
     * any other reason. The record comes first: once the header is gone nothing can be undone. */
    bool finishes = db->journal_hot && n == JOURNAL_HEADER_SIZE;
    int err = database_begin_transaction(db);
    if (!err && !finishes)
        err = keep_journal_header(db);
    mutex_unlock(&db->mutex);
    return finishes ? database_finish_journal(db) : err;
}

static int before_wal_write(struct database *db, int64_t off)
{
    mutex_lock(&db->mutex);
    if (raw_is(db, FILE_WAL)) {
        int refused = raw_begin(db);
        mutex_unlock(&db->mutex);
        return refused;
    }
    int err = capture_wal_may_write(db, off);
    bool poke = !err && capture_wal_overwrites(db, off);
    if (poke && capture_wal_may_take_back(db, off)) {
        capture_wal_take_back(db);
    } else if (poke) {
        /* No connection that knows of those frames does that. */
        db->wal.index_behind = true;
        err = -ERR_IO;
    }
    mutex_unlock(&db->mutex);
    if (poke)
        catalog_poke(db->catalog);
    return err;
}

int database_before_write(struct database *db, enum file_kind kind, bool own, int64_t off, size_t n)
{
    if (own)
        return 0;
    int err = database_begin_change(db, kind);
    if (err)
        return err;
    if (kind == FILE_MAIN)
        err = before_main_write(db, off, n);
    else if (kind == FILE_WAL)
        err = before_wal_write(db, off);
    else if (kind == FILE_JOURNAL)
        err = before_journal_write(db, off, n);
    if (err)
        database_end_change(db);
    return err;
}

/* What the journal's header says now. If it was finished in another way than SQLite does it, what
 * that means is made up for. The mutex is held. */
static int journal_header_written(struct database *db, size_t n)
{
    char path[DATABASE_PATH_MAX];
    int fd;
    database_file_path(db, FILE_JOURNAL, path);
    int err = file_open(database_tree(db), path, O_RDWR, 0, &fd);
    if (err)
        return err;
    bool was_hot = db->journal_hot, hot;
    err = journal_look(fd, &hot);
    if (err) {
        file_close(fd);
        return err;
    }
    db->journal_hot = hot;
    db->journal_finished = !db->journal_hot && n == JOURNAL_HEADER_SIZE;
    if (!db->journal_hot && was_hot) {
        err = capture_pages(db, CAPTURE_COMMIT);
        if (err) {
            file_write(fd, db->journal_header, sizeof db->journal_header, 0);
            db->journal_hot = true;
        } else {
            db->journal_finished = true;
            database_end_transaction(db);
        }
    }
    file_close(fd);
    return err;
}

int database_after_write(struct database *db, enum file_kind kind, bool own, int64_t off, size_t n)
{
    int err = 0;
    bool finish = false, wanted = false, poke = false;
    if (own)
        return 0;
    if (n == 0) {
        database_end_change(db);
        return 0;
    }
    mutex_lock(&db->mutex);
    switch (kind) {
    case FILE_WAL:
        /* Beside a raw change a connection may commit. */
        if (!db->raw)
            err = capture_wal_written(db, off, n);
        else if (db->handles[FILE_MAIN] > 0 && !db->journal_hot)
            err = capture_pages(db, CAPTURE_QUIET);
        poke = db->raw || db->wal.broken > 0 || dirty_any(&db->dirty);
        break;
    case FILE_JOURNAL:
        db->journal_finished = false;
        if (off == 0)
            err = journal_header_written(db, n);
        finish = db->journal_finished;
        wanted = db->sync_wanted;
        if (finish)
            db->sync_wanted = false;
        break;
    case FILE_MAIN:
        if (database_is_checkpoint(db))
            break;
        dirty_add(&db->dirty, database_page_size(db), off, n);
        db->unsettled = false;
        poke = !db->journal_hot;
        break;
    default: break;
    }
    mutex_unlock(&db->mutex);
    if (poke)
        catalog_poke(db->catalog);
    if (!err && finish && wanted)
        err = database_sync_log(db);
    database_end_change(db);
    return err;
}

/* ---- truncating ---- */

/* After a commit that shrank the database the file follows: nothing new. The mutex is held. */
static bool follows_commit(struct database *db, int64_t size)
{
    struct ledger_info info;
    if (!db->ledger)
        return false;
    ledger_info(db->ledger, &info);
    return info.commit > 0 && size == (int64_t)info.commit * info.page_size;
}

static int before_main_truncate(struct database *db, int64_t size)
{
    mutex_lock(&db->mutex);
    bool follows = follows_commit(db, size);
    /* No checkpoint does that: somebody writes the file anew, whoever has it open. */
    int err = !follows && size == 0 && db->wal.valid ? raw_begin(db) : 0;
    mutex_unlock(&db->mutex);
    return follows || err ? err : before_main_write(db, 0, 0);
}

static int before_wal_truncate(struct database *db, int64_t size)
{
    mutex_lock(&db->mutex);
    int err = raw_is(db, FILE_WAL) ? raw_begin(db) : 0;
    if (!err && !db->raw && size < WAL_HEADER_SIZE)
        capture_wal_round_ends(db);
    mutex_unlock(&db->mutex);
    return err;
}

int database_before_truncate(struct database *db, enum file_kind kind, bool own, int64_t size)
{
    if (own)
        return 0;
    int err = database_begin_change(db, kind);
    if (err)
        return err;
    if (kind == FILE_JOURNAL && size == 0)
        err = database_finish_journal(db);
    else if (kind == FILE_WAL)
        err = before_wal_truncate(db, size);
    else if (kind == FILE_MAIN)
        err = before_main_truncate(db, size);
    if (err)
        database_end_change(db);
    return err;
}

int database_after_truncate(struct database *db, enum file_kind kind, bool own, int64_t size)
{
    struct ledger_info info = {0};
    bool poke = false;
    if (own)
        return 0;
    if (size < 0) {
        database_end_change(db);
        return 0;
    }
    mutex_lock(&db->mutex);
    if (db->ledger)
        ledger_info(db->ledger, &info);
    if (kind == FILE_WAL && db->raw) {
        poke = true;
    } else if (kind == FILE_WAL && size < WAL_HEADER_SIZE) {
        capture_wal_reset(db);
        poke = dirty_any(&db->dirty);
    } else if (kind == FILE_MAIN && !database_is_checkpoint(db) && !follows_commit(db, size)) {
        db->dirty.size = true;
        db->dirty.last_write = mono_now();
        db->unsettled = false;
        int64_t end = (int64_t)info.commit * info.page_size;
        if (size == 0 || info.commit == 0)
            db->dirty.all = true;
        else if (size < end) /* what comes again behind it is zeros */
            dirty_add(&db->dirty, info.page_size, size, (uint64_t)(end - size));
        poke = true;
    }
    mutex_unlock(&db->mutex);
    if (poke)
        catalog_poke(db->catalog);
    database_end_change(db);
    return 0;
}
