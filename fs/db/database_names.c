/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>

#include "fs/db/capture_pages.h"
#include "fs/db/database_impl.h"
#include "fs/db/raw.h"
#include "fs/db/super.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"

/* Files of a database that are removed or get another name. */

/* A database file that goes is a deletion; its journal that goes is a commit. */
int database_before_unlink(struct database *db, enum file_kind kind, const char *path, bool own)
{
    int err = database_may_change(db, kind, own);
    if (err || own)
        return err;
    switch (kind) {
    case FILE_JOURNAL: return database_finish_journal(db);
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
    if (poke)
        catalog_poke(db->catalog);
}

int database_before_rename(struct database *from, enum file_kind kind, struct database *to,
                           enum file_kind to_kind)
{
    (void)to;
    (void)to_kind;
    /* Of a journal in use it would be a commit that nobody sees coming. */
    if (kind == FILE_JOURNAL && from->journal_hot && !raw_is(from, FILE_JOURNAL))
        return -ERR_BUSY;
    return database_is_primary(from) ? 0 : -ERR_READONLY;
}

static void renamed_away(struct database *db, enum file_kind kind)
{
    mutex_lock(&db->mutex);
    database_file_gone(db, kind);
    if (kind == FILE_MAIN) {
        /* A failure shows as a database that has lost its file; the settler tries again. */
        if (capture_deletion(db) != 0)
            db->dirty.all = true;
        else
            dirty_clear(&db->dirty);
        capture_wal_reset(db);
    } else if (kind != FILE_SHM) {
        raw_note(db); /* the file without it may say something else */
        if (kind == FILE_JOURNAL)
            db->journal_hot = false;
    }
    database_close_files(db);
    mutex_unlock(&db->mutex);
}

static bool has_hot_journal(struct database *db)
{
    char path[DATABASE_PATH_MAX];
    int fd;
    database_file_path(db, FILE_JOURNAL, path);
    if (file_open(database_tree(db), path, O_RDONLY | O_NOFOLLOW, 0, &fd) != 0)
        return false;
    bool hot = journal_is_hot(fd);
    file_close(fd);
    return hot;
}

static void renamed_to(struct database *db, enum file_kind kind)
{
    mutex_lock(&db->mutex);
    database_file_gone(db, kind); /* one that it may have replaced */
    database_close_files(db);
    if (kind != FILE_SHM)
        raw_note(db);
    db->journal_hot = has_hot_journal(db);
    if (kind == FILE_MAIN && !db->journal_hot)
        (void)capture_pages(db,
                            CAPTURE_QUIET); /* stays dirty on failure: the settler tries again */
    mutex_unlock(&db->mutex);
}

void database_after_rename(struct database *from, enum file_kind kind, struct database *to,
                           enum file_kind to_kind)
{
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
    return kind == FILE_MAIN;
}
