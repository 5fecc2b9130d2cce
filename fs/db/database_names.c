/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <string.h>

#include "fs/db/capture_pages.h"
#include "fs/db/catalog_impl.h"
#include "fs/db/database_impl.h"
#include "fs/db/raw.h"
#include "fs/db/super.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"

/* Files of a database that are removed or get another name. */

/* What the journal says, asked of the file. While that is not known it is taken for hot, as SQLite may find
 * it so, and the settler asks again. */
static void look_at_journal(struct database *db)
{
    char path[DATABASE_PATH_MAX];
    int fd;
    bool hot = false;
    database_file_path(db, FILE_JOURNAL, path);
    int err = file_open(database_tree(db), path, O_RDONLY | O_NOFOLLOW, 0, &fd);
    if (!err) {
        err = journal_look(fd, &hot);
        file_close(fd);
    }
    db->journal_unseen = err && err != -ERR_NOTFOUND;
    db->journal_hot = hot || db->journal_unseen;
}

void database_look_again(struct database *db)
{
    /* Between the calls before and after a write it is up to them. */
    if (db->journal_unseen && db->changing == 0)
        look_at_journal(db);
}

/* The deletion is recorded: it is on disk now, and from here on a file of that name is another one. The
 * mutex is not held. */
static int seal_deletion(struct database *db)
{
    int err = database_sync_log(db);
    mutex_lock(&db->mutex);
    if (!err && db->ledger)
        err = ledger_set_unclean(db->ledger, false);
    mutex_unlock(&db->mutex);
    return err;
}

/*
 * The record is on disk before the file goes: a start that found no file would take it for lost. If the
 * file holds changes that have no record, it is on disk too: a start that finds it takes it in.
 */
static int delete_database(struct database *db)
{
    mutex_lock(&db->mutex);
    bool unclean = db->ledger && ledger_is_unclean(db->ledger);
    mutex_unlock(&db->mutex);
    int err = unclean ? database_will_move(db) : 0;
    if (err)
        return err;
    mutex_lock(&db->mutex);
    err = capture_deletion(db);
    mutex_unlock(&db->mutex);
    if (err)
        return err;
    err = seal_deletion(db);
    if (err)
        database_unlink_failed(db, FILE_MAIN);
    return err;
}

/* A database file that goes is a deletion; its journal that goes is a commit. */
int database_before_unlink(struct database *db, enum file_kind kind, const char *path, bool own)
{
    int err = database_may_change(db, kind, own);
    if (err || own)
        return err;
    switch (kind) {
    case FILE_JOURNAL: return database_finish_journal(db);
    case FILE_SUPER: return super_commit(db->catalog, path);
    case FILE_MAIN: return delete_database(db);
    default: return 0;
    }
}

void database_unlink_failed(struct database *db, enum file_kind kind)
{
    mutex_lock(&db->mutex);
    if (kind == FILE_MAIN)
        raw_note(db); /* it is there all the same: recorded anew */
    else if (kind == FILE_JOURNAL)
        look_at_journal(db); /* SQLite rolls back */
    mutex_unlock(&db->mutex);
    catalog_poke(db->catalog);
}

/* The WAL goes when its last connection closes, after everything in it was copied. If somebody
 * removed it by hand, what was only there is lost, and the database file says what remains. */
static bool wal_gone(struct database *db)
{
    struct capture_wal *w = &db->wal;
    uint32_t last = w->captured, first;
    uint8_t page[LTX_MAX_PAGE_SIZE];
    bool lost = false;

    int err = database_open_main(db);
    if (w->valid && db->ledger && last > 0 && err != -ERR_NOTFOUND) {
        if (!err) /* reads the page numbers of all frames */
            err = capture_wal_find(db, 1, false, &first);
        if (!err && w->map_frames < last)
            err = -ERR_IO;
        for (uint32_t f = 0; !err && f < last; f++) {
            uint32_t pgno = w->map[f];
            uint64_t sum = ledger_page_sum(db->ledger, pgno);
            if (sum == 0)
                continue;
            err = database_read_main(db, w->header.page_size, pgno, page);
            if (err || checksum_page(pgno, page, w->header.page_size) == sum)
                continue;
            dirty_add_page(&db->dirty, pgno);
            lost = true;
        }
        if (err) /* every page is compared, when that is possible */
            lost = db->dirty.all = true;
    }
    if (db->ledger && last > 0 && !lost)
        db->backed = ledger_last(db->ledger);
    db->dirty.last_write = mono_now();
    capture_wal_reset(db);
    file_close(db->wal_fd);
    db->wal_fd = -1;
    return lost;
}

/* The transaction has ended when this is on disk, whether the client asks for that or not. If it cannot be now, the
 * client's own fsync says so. */
static void super_gone(struct database *db)
{
    char path[DATABASE_PATH_MAX];
    database_file_path(db, FILE_MAIN, path);
    char *slash = strrchr(path, '/');
    if (slash)
        *slash = '\0';
    int err = file_sync_dir(database_tree(db), slash ? path : ".");
    if (err)
        log_error("fs", "the folder of %s cannot be synced: %s", db->path, err_text(err));
}

void database_after_unlink(struct database *db, enum file_kind kind, bool own)
{
    bool poke = false;
    mutex_lock(&db->mutex);
    database_file_gone(db, kind);
    if (kind == FILE_MAIN) {
        capture_wal_reset(db);
        dirty_clear(&db->dirty);
        database_close_files(db);
        db->journal_hot = false;
    } else if (kind == FILE_WAL) {
        if (own || !database_is_primary(db)) {
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
    if (kind == FILE_SUPER)
        super_gone(db);
    if (poke)
        catalog_poke(db->catalog);
}

/*
 * Until the records that follow from a rename are made, what is under a name is not what its log says. So
 * that a start in between neither misses a file as lost nor redoes the log over another one: the file
 * is marked as changed without a record, with all that its log has for it on disk.
 */
int database_will_move(struct database *db)
{
    struct ledger_info info = {0};
    int err = 0, fd = -1;
    mutex_lock(&db->mutex);
    if (db->ledger)
        ledger_info(db->ledger, &info);
    bool recorded = info.commit > 0;
    char path[DATABASE_PATH_MAX];
    database_file_path(db, FILE_MAIN, path);
    if (recorded)
        err = file_open(database_tree(db), path, O_RDWR | O_NOFOLLOW, 0, &fd);
    mutex_unlock(&db->mutex);
    if (!recorded || err == -ERR_NOTFOUND)
        return 0;
    if (!err)
        err = file_sync_data(fd);
    file_close(fd);
    if (err)
        return err;
    settle_position(db);
    mutex_lock(&db->mutex);
    err = ledger_set_unclean(db->ledger, true);
    mutex_unlock(&db->mutex);
    return err;
}

int database_before_rename(struct database *from, enum file_kind kind, struct database *to,
                           enum file_kind to_kind)
{
    /* Of a journal in use it would be a commit that nobody sees coming. */
    if (kind == FILE_JOURNAL && from->journal_hot && !raw_is(from, FILE_JOURNAL))
        return -ERR_BUSY;
    if (!database_is_primary(from))
        return -ERR_READONLY;
    int err = kind == FILE_MAIN ? database_will_move(from) : 0;
    return err || to_kind != FILE_MAIN ? err : database_will_move(to);
}

/* With the mutex held. What fails is a database that has lost its file; the settler tries again. */
static int record_deletion(struct database *db)
{
    /* Else the file would be back after a loss of power, and be removed. */
    int err = database_sync_names(db);
    if (!err)
        err = capture_deletion(db);
    if (err)
        db->dirty.all = true;
    else
        dirty_clear(&db->dirty);
    return err;
}

void database_has_moved_away(struct database *db)
{
    mutex_lock(&db->mutex);
    database_file_gone(db, FILE_MAIN);
    int err = record_deletion(db);
    capture_wal_reset(db);
    database_close_files(db);
    mutex_unlock(&db->mutex);
    if (!err)
        err = seal_deletion(db);
    if (err)
        log_warn("capture", "%s: that it got another name is not recorded yet: %s", db->path,
                 err_text(err));
}

static void renamed_away(struct database *db, enum file_kind kind)
{
    if (kind == FILE_MAIN) {
        database_has_moved_away(db);
        return;
    }
    mutex_lock(&db->mutex);
    database_file_gone(db, kind);
    if (kind != FILE_SHM) {
        raw_note(db); /* the file without it may say something else */
        if (kind == FILE_JOURNAL)
            db->journal_hot = false;
    }
    database_close_files(db);
    mutex_unlock(&db->mutex);
}

static void renamed_to(struct database *db, enum file_kind kind)
{
    mutex_lock(&db->mutex);
    database_file_gone(db, kind); /* one that it may have replaced */
    database_close_files(db);
    if (kind != FILE_SHM)
        raw_note(db);
    look_at_journal(db);
    if (kind == FILE_MAIN && !db->journal_hot)
        (void)capture_pages(db,
                            CAPTURE_QUIET); /* stays dirty on failure: the settler tries again */
    mutex_unlock(&db->mutex);
}

void database_after_rename(struct database *from, enum file_kind kind, struct database *to,
                           enum file_kind to_kind)
{
    /* The name that is new is on disk before the old one is recorded as deleted. */
    int err = database_sync_names(to);
    if (err)
        log_error("fs", "the folder of %s cannot be synced: %s", to->path, err_text(err));
    renamed_away(from, kind);
    renamed_to(to, to_kind);
    catalog_poke(from->catalog);
}

bool database_making_counts(enum file_kind kind)
{
    return kind != FILE_WAL && kind != FILE_SHM;
}

bool database_removal_counts(enum file_kind kind)
{
    return kind == FILE_MAIN || kind == FILE_SUPER;
}
