/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/db/database.h"

#include <fcntl.h>
#include <string.h>

#include "fs/db/capture_pages.h"
#include "fs/db/database_impl.h"
#include "fs/db/super.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"

static bool is_primary(struct database *db)
{
    return role_get(database_role(db)) == ROLE_PRIMARY;
}

/* On a replica only the daemon's own handles change anything but the shared memory. */
static int may_change(struct database *db, enum file_kind kind, bool own)
{
    if (own || kind == FILE_SHM)
        return 0;
    return is_primary(db) && !db->demoted ? 0 : -ERR_READONLY;
}

/* Between these two a file is being changed by a client; demotion waits for the end. */
static int begin_change(struct database *db, enum file_kind kind)
{
    mutex_lock(&db->mutex);
    int err = may_change(db, kind, false);
    if (!err)
        db->changing++;
    mutex_unlock(&db->mutex);
    return err;
}

static void end_change(struct database *db)
{
    mutex_lock(&db->mutex);
    if (--db->changing == 0)
        cond_broadcast(&db->unchanging);
    mutex_unlock(&db->mutex);
}

/*
 * A transaction that begins while the gate is closed could not commit, and would have to be rolled
 * back in a hurry. One that has begun goes on, to its refused commit and its rollback. The mutex is
 * held.
 */
static int begin_transaction(struct database *db)
{
    if (db->begun || db->journal_hot)
        return 0;
    int err = role_begin(database_role(db));
    db->begun = !err;
    return err;
}

void database_end_transaction(struct database *db)
{
    if (db->begun)
        role_end(database_role(db));
    db->begun = false;
}

/* A change without a journal, behind the closed gate? The mutex is held. */
static int may_change_plain(struct database *db)
{
    if (db->begun || db->journal_hot)
        return 0;
    int err = role_begin(database_role(db));
    if (!err)
        role_end(database_role(db));
    return err;
}

/* Writes to the database file while a WAL is in use are a checkpoint's: the records hold these
 * pages already. */
static bool is_checkpoint(const struct database *db)
{
    return db->wal.valid;
}

/* After a commit: what the client has asked to be synced is on disk before its call returns. The
 * mutex is not held: it takes a while. */
static int sync_log(struct database *db)
{
    mutex_lock(&db->mutex);
    struct ledger *l = db->ledger;
    mutex_unlock(&db->mutex);
    return l ? ledger_sync(l, ledger_last(l).txid) : 0;
}

/* ---- opening and closing ---- */

int database_may_open(struct database *db, enum file_kind kind, int flags, bool own)
{
    bool writes = (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC));
    if (own || kind == FILE_SHM || !writes || is_primary(db))
        return 0;
    /* SQLite turns EACCES into a connection that reads, and says "attempt to write a readonly
     * database". With `wait` the write locks are held by the applier instead. */
    if (catalog_writes_wait(db->catalog) && (flags & O_TRUNC) == 0) {
        if (kind == FILE_MAIN || kind == FILE_WAL)
            return flags & O_CREAT && kind == FILE_MAIN && !catalog_ledger(db->catalog, db->path)
                       ? -ERR_ACCESS
                       : 0;
    }
    return -ERR_ACCESS;
}

void database_opened(struct database *db, enum file_kind kind, int flags, bool own)
{
    if (own)
        return;
    mutex_lock(&db->mutex);
    (void)flags;
    db->handles[kind]++;
    mutex_unlock(&db->mutex);
}

int database_flushed(struct database *db, enum file_kind kind, bool own)
{
    int err = 0;
    if (own || kind != FILE_MAIN)
        return 0;
    mutex_lock(&db->mutex);
    /* The last one closes: what the writer has left is whole, or never will be. Were another one
     * open, it might be in the middle of a transaction. */
    if (dirty_any(&db->dirty) && !db->journal_hot && db->handles[FILE_MAIN] <= 1 &&
        !is_checkpoint(db) && is_primary(db))
        err = capture_pages(db, CAPTURE_QUIET);
    mutex_unlock(&db->mutex);
    return err;
}

void database_released(struct database *db, enum file_kind kind, int flags, bool own)
{
    bool poke = false;
    if (own)
        return;
    mutex_lock(&db->mutex);
    (void)flags;
    db->handles[kind]--;
    if (kind == FILE_WAL && db->wal.captured > 0 && db->handles[FILE_SHM] > 0) {
        db->wal.index_behind = true; /* perhaps; the settler looks */
        poke = true;
    }
    if (kind == FILE_JOURNAL && db->handles[kind] == 0 && !db->journal_hot)
        database_end_transaction(db);
    if (dirty_any(&db->dirty))
        poke = true;
    unsigned open = 0;
    for (int k = 0; k < FILE_KIND_COUNT; k++)
        open += db->handles[k];
    if (open == 0 && !dirty_any(&db->dirty))
        database_close_files(db);
    mutex_unlock(&db->mutex);
    if (poke)
        catalog_poke(db->catalog);
}

/* ---- writing ---- */

/*
 * So that the commit cannot meet a full disk after the journal has told SQLite that all is well.
 * Once a writer knows that there is no room it rolls back, and for that it must write.
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
    return db->full && known ? 0 : err;
}

static int before_main_write(struct database *db, size_t n)
{
    mutex_lock(&db->mutex);
    if (is_checkpoint(db)) {
        struct ledger *l = db->ledger;
        mutex_unlock(&db->mutex);
        /* I4: no page reaches the database file before its record is on disk. */
        return l && ledger_durable(l).txid < ledger_last(l).txid
                   ? ledger_sync(l, ledger_last(l).txid)
                   : 0;
    }
    int err = may_change_plain(db);
    if (!err)
        err = reserve(db, n);
    if (!err && db->ledger && !db->journal_hot && !ledger_is_unclean(db->ledger))
        err = ledger_set_unclean(db->ledger, true);
    mutex_unlock(&db->mutex);
    return err;
}

/* The journal is about to be removed, cut to nothing, or zeroed: that commits, or ends a rollback. */
static int finish_journal(struct database *db)
{
    mutex_lock(&db->mutex);
    bool wanted = db->sync_wanted;
    int err = capture_pages(db, CAPTURE_COMMIT);
    if (!err) {
        db->journal_hot = false;
        db->sync_wanted = false;
        database_end_transaction(db);
    }
    mutex_unlock(&db->mutex);
    if (!err && wanted)
        err = sync_log(db);
    return err;
}

/* The header, should the write take away what a rollback needs and the commit fail. */
static void keep_journal_header(struct database *db)
{
    char path[DATABASE_PATH_MAX];
    size_t got;
    int fd;
    memset(db->journal_header, 0, sizeof db->journal_header);
    database_file_path(db, FILE_JOURNAL, path);
    if (db->journal_hot && file_open(database_tree(db), path, O_RDONLY, 0, &fd) == 0) {
        file_read_some(fd, db->journal_header, sizeof db->journal_header, 0, &got);
        file_close(fd);
    }
}

static int before_journal_write(struct database *db, int64_t off, size_t n)
{
    if (off != 0)
        return 0;
    mutex_lock(&db->mutex);
    /* PERSIST mode zeroes the header, and writes it whole (with its sector) or without its end for
     * any other reason. The record comes first: once the header is gone nothing can be undone. */
    bool finishes = db->journal_hot && n == JOURNAL_HEADER_SIZE;
    int err = begin_transaction(db);
    if (!err && !finishes)
        keep_journal_header(db);
    mutex_unlock(&db->mutex);
    return finishes ? finish_journal(db) : err;
}

static int before_wal_write(struct database *db, int64_t off)
{
    mutex_lock(&db->mutex);
    int err = capture_wal_may_write(db, off);
    bool poke = !err && capture_wal_overwrites(db, off);
    if (poke) {
        /* Its writer died before it told anybody; the settler brings the wal-index forward. */
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
    int err = begin_change(db, kind);
    if (err)
        return err;
    if (kind == FILE_MAIN)
        err = before_main_write(db, n);
    else if (kind == FILE_WAL)
        err = before_wal_write(db, off);
    else if (kind == FILE_JOURNAL)
        err = before_journal_write(db, off, n);
    if (err)
        end_change(db);
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
    bool was_hot = db->journal_hot;
    db->journal_hot = journal_is_hot(fd);
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
        end_change(db);
        return 0;
    }
    mutex_lock(&db->mutex);
    switch (kind) {
    case FILE_WAL:
        err = capture_wal_written(db, off, n);
        poke = db->wal.broken > 0;
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
        if (is_checkpoint(db))
            break;
        dirty_add(&db->dirty, database_page_size(db), off, n);
        poke = !db->journal_hot;
        break;
    default: break;
    }
    mutex_unlock(&db->mutex);
    if (poke)
        catalog_poke(db->catalog);
    if (!err && finish && wanted)
        err = sync_log(db);
    end_change(db);
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
    mutex_unlock(&db->mutex);
    return follows ? 0 : before_main_write(db, 0);
}

int database_before_truncate(struct database *db, enum file_kind kind, bool own, int64_t size)
{
    if (own)
        return 0;
    int err = begin_change(db, kind);
    if (err)
        return err;
    if (kind == FILE_JOURNAL && size == 0)
        err = finish_journal(db);
    else if (kind == FILE_MAIN)
        err = before_main_truncate(db, size);
    if (err)
        end_change(db);
    return err;
}

int database_after_truncate(struct database *db, enum file_kind kind, bool own, int64_t size)
{
    struct ledger_info info = {0};
    bool poke = false;
    if (own)
        return 0;
    if (size < 0) {
        end_change(db);
        return 0;
    }
    mutex_lock(&db->mutex);
    if (db->ledger)
        ledger_info(db->ledger, &info);
    if (kind == FILE_WAL && size < WAL_HEADER_SIZE) {
        if (db->ledger && db->wal.captured > 0)
            db->backed = ledger_last(db->ledger);
        capture_wal_reset(db);
    } else if (kind == FILE_MAIN && !is_checkpoint(db) && !follows_commit(db, size)) {
        db->dirty.size = true;
        db->dirty.last_write = mono_now();
        if (size == 0 || info.commit == 0)
            db->dirty.all = true;
        poke = true;
    }
    mutex_unlock(&db->mutex);
    if (poke)
        catalog_poke(db->catalog);
    end_change(db);
    return 0;
}

/* ---- syncing ---- */

static int sync_main(struct database *db, int fd)
{
    mutex_lock(&db->mutex);
    bool log_holds_it = is_checkpoint(db) || db->journal_hot;
    int err = 0;
    if (db->journal_hot)
        db->sync_wanted = true;
    else if (!is_checkpoint(db) && dirty_any(&db->dirty) && is_primary(db))
        err = capture_pages(db, CAPTURE_SYNC);
    if (db->ledger && !dirty_any(&db->dirty))
        log_holds_it = true;
    bool transaction_open = db->journal_hot;
    mutex_unlock(&db->mutex);
    if (err || transaction_open)
        return err; /* the end of the journal syncs */
    return log_holds_it ? sync_log(db) : file_sync_data(fd);
}

bool database_is_synced(struct database *db, enum file_kind kind)
{
    mutex_lock(&db->mutex);
    struct ledger *l = kind == FILE_WAL && db->wal.valid ? db->ledger : NULL;
    if (l)
        db->wal.synced = true;
    mutex_unlock(&db->mutex);
    return l && ledger_durable(l).txid >= ledger_last(l).txid;
}

struct ledger *database_sync_follows(struct database *db, enum file_kind kind)
{
    if (kind != FILE_WAL)
        return NULL;
    mutex_lock(&db->mutex);
    struct ledger *l = db->wal.sync_follows ? db->ledger : NULL;
    db->wal.sync_follows = false;
    mutex_unlock(&db->mutex);
    return l;
}

int database_sync(struct database *db, enum file_kind kind, bool own, int fd)
{
    bool skip;
    if (own || kind == FILE_SHM)
        return 0;
    switch (kind) {
    case FILE_MAIN: return sync_main(db, fd);
    case FILE_WAL:
        mutex_lock(&db->mutex);
        skip = db->wal.valid && db->ledger;
        mutex_unlock(&db->mutex);
        return skip ? sync_log(db) : file_sync_data(fd);
    case FILE_JOURNAL:
        mutex_lock(&db->mutex);
        skip = db->journal_finished && db->ledger;
        if (!skip)
            db->sync_wanted = true;
        mutex_unlock(&db->mutex);
        return skip ? sync_log(db) : file_sync_data(fd);
    default: return file_sync_data(fd);
    }
}

/* ---- removing and renaming ---- */

/* A database file that goes is a deletion; its journal that goes is a commit. */
int database_before_unlink(struct database *db, enum file_kind kind, const char *path, bool own)
{
    int err = may_change(db, kind, own);
    if (err || own)
        return err;
    switch (kind) {
    case FILE_JOURNAL: return finish_journal(db);
    case FILE_SUPER: return super_commit(db->catalog, path);
    case FILE_MAIN:
        mutex_lock(&db->mutex);
        err = capture_deletion(db);
        mutex_unlock(&db->mutex);
        return err;
    default: return 0;
    }
}

/* The WAL goes when its last connection closes, after everything in it was copied. If somebody
 * removed it by hand, what was only there is lost, and the database file says what remains. */
static bool wal_gone(struct database *db)
{
    struct capture_wal *w = &db->wal;
    uint32_t last = w->captured;
    uint8_t page[LTX_MAX_PAGE_SIZE];
    bool lost = false;

    if (w->valid && db->ledger && last > 0 && database_open_main(db) == 0) {
        capture_wal_frame_of(db, 1, false); /* reads the page numbers of all frames */
        for (uint32_t f = 0; f < last && f < w->map_frames; f++) {
            uint32_t pgno = w->map[f];
            uint64_t sum = ledger_page_sum(db->ledger, pgno);
            if (sum == 0 || database_read_main(db, w->header.page_size, pgno, page) != 0 ||
                checksum_page(pgno, page, w->header.page_size) == sum)
                continue;
            dirty_add_page(&db->dirty, pgno);
            lost = true;
        }
    }
    if (db->ledger && last > 0 && !lost)
        db->backed = ledger_last(db->ledger);
    db->dirty.last_write = mono_now();
    capture_wal_reset(db);
    file_close(db->wal_fd);
    db->wal_fd = -1;
    return lost;
}

void database_after_unlink(struct database *db, enum file_kind kind, bool own)
{
    bool poke = false;
    mutex_lock(&db->mutex);
    if (kind == FILE_MAIN) {
        capture_wal_reset(db);
        dirty_clear(&db->dirty);
        database_close_files(db);
        db->journal_hot = false;
    } else if (kind == FILE_WAL) {
        if (own || !is_primary(db)) {
            capture_wal_reset(db);
            file_close(db->wal_fd);
            db->wal_fd = -1;
        } else {
            poke = wal_gone(db);
        }
    } else if (kind == FILE_JOURNAL) {
        db->journal_hot = false;
        database_end_transaction(db);
    }
    mutex_unlock(&db->mutex);
    if (poke)
        catalog_poke(db->catalog);
}

int database_before_rename(struct database *from, enum file_kind kind, struct database *to,
                           enum file_kind to_kind)
{
    (void)to;
    (void)to_kind;
    /* On a journal or super-journal it would be a commit that nobody sees coming. */
    if (kind == FILE_JOURNAL && from->journal_hot)
        return -ERR_BUSY;
    return is_primary(from) ? 0 : -ERR_READONLY;
}

static void renamed_away(struct database *db, enum file_kind kind)
{
    mutex_lock(&db->mutex);
    if (kind == FILE_MAIN) {
        /* A failure shows as a database that has lost its file; the settler tries again. */
        if (capture_deletion(db) != 0)
            db->dirty.all = true;
        else
            dirty_clear(&db->dirty);
    }
    capture_wal_reset(db);
    database_close_files(db);
    mutex_unlock(&db->mutex);
}

static void renamed_to(struct database *db, enum file_kind kind)
{
    mutex_lock(&db->mutex);
    capture_wal_reset(db);
    database_close_files(db);
    if (kind == FILE_MAIN) {
        db->dirty.all = true;
        db->dirty.last_write = mono_now();
        (void)capture_pages(db,
                            CAPTURE_QUIET); /* stays dirty on failure: the settler tries again */
    } else if (kind == FILE_WAL) {
        (void)capture_wal_written(db, 0, WAL_HEADER_SIZE);
    }
    mutex_unlock(&db->mutex);
}

void database_after_rename(struct database *from, enum file_kind kind, struct database *to,
                           enum file_kind to_kind)
{
    renamed_away(from, kind);
    renamed_to(to, to_kind);
    catalog_poke(from->catalog);
}
