/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/db/catalog_impl.h"
#include "fs/db/database_impl.h"
#include "fs/db/header.h"
#include "fs/db/leftover.h"
#include "fs/db/playback.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"
#include "ltx/compact.h"

/*
 * Start: the files of one database and its log are made to agree. The log is the truth (I2).
 *
 * what may be found                     what is done
 * ------------------------------------  ------------------------------------------------------------
 * -journal that would be rolled back    its pages go back into the file, then it is removed
 * the super-journal of that journal     its transaction over several databases has ended for none: the pages
 *                                       go back over its record, too, if it got one, and what they were
 *                                       becomes the next record when this node is the primary
 * -wal, -shm                            removed: what was committed in them is in the log; of a
 *                                       database in WAL mode an empty -wal is left
 * records after S                       written over the file, in order
 * a deletion after S                    the file is removed, unless it is a new one
 * a file longer or shorter than it is   cut or extended
 * no file, and the log has all of it    made
 * pages that do not match the ledger    the database is marked damaged, the file left as it is
 * a mark that the file was changed      every page is compared; what differs is taken in when this
 * without a journal                     node is the primary. Nothing is redone over it if the
 *                                       machine has been running since
 * that mark, and no file                it was renamed: recorded when this node is the primary
 *
 * It may be interrupted at any point and begun again.
 */

static int remove_file(struct database *db, enum file_kind kind)
{
    char path[DATABASE_PATH_MAX];
    database_file_path(db, kind, path);
    int err = file_unlink(database_tree(db), path);
    return err == -ERR_NOTFOUND ? 0 : err;
}

static int remove_companions(struct database *db)
{
    char path[DATABASE_PATH_MAX];
    int fd;
    bool hot;
    int err = remove_file(db, FILE_WAL);
    if (!err)
        err = remove_file(db, FILE_SHM);
    database_file_path(db, FILE_JOURNAL, path);
    if (!err)
        err = file_open(database_tree(db), path, O_RDONLY | O_NOFOLLOW, 0, &fd);
    if (err)
        return err == -ERR_NOTFOUND ? 0 : err;
    err = journal_look(fd, &hot);
    file_close(fd);
    return err || !hot ? err : remove_file(db, FILE_JOURNAL);
}

/*
 * SQLite creates the -wal of a database in WAL mode when it opens it, which a replica refuses to its
 * clients; and they may come as soon as the mount is there, before this node has found out what it
 * is. An empty one means nothing to SQLite.
 */
static int leave_empty_wal(struct database *db, int main_fd)
{
    char path[DATABASE_PATH_MAX];
    struct db_header h;
    struct stat st;
    int fd, err = db_header_read(main_fd, &h);
    if (err || !h.wal)
        return err == -ERR_NOTFOUND ? 0 : err;
    if (fstat(main_fd, &st))
        return err_from_errno(errno);
    database_file_path(db, FILE_WAL, path);
    err = file_open(database_tree(db), path, O_RDWR | O_CREAT | O_NOFOLLOW, 0600, &fd);
    if (err)
        return err;
    if ((geteuid() == 0 && fchown(fd, st.st_uid, st.st_gid)) || fchmod(fd, st.st_mode & 0777))
        err = err_from_errno(errno);
    file_close(fd);
    return err;
}

/* A database without records: its clients' last transaction may be unfinished all the same. */
int recover_stranger(struct catalog *c, const char *path)
{
    struct playback p = {.fd = -1};
    struct database *db = catalog_get(c, path);
    if (!db)
        return -ERR_NOMEM;
    mutex_lock(&db->mutex);
    int err = file_open(c->tree_dirfd, path, O_RDWR | O_NOFOLLOW, 0, &p.fd);
    if (!err)
        err = playback_run(db, &p);
    if (!err && p.hot)
        err = file_sync_data(p.fd);
    if (!err && p.hot)
        err = remove_file(db, FILE_JOURNAL);
    if (err)
        log_error("recover", "%s: its journal cannot be played back and is left as it is: %s", path,
                  err_text(err));
    dirty_fini(&p.touched);
    file_close(p.fd);
    database_close_files(db);
    mutex_unlock(&db->mutex);
    catalog_put(db);
    return 0;
}

static int redo(struct database *db, int fd, const struct ledger_info *info, uint64_t *records)
{
    struct txlog_entry e = {0};
    struct txlog *log = ledger_log(db->ledger);
    char why[160] = "";

    *records = 0;
    if (position_equal(info->recovery, info->last))
        return 0;
    int err = txlog_find_from(log, info->recovery, &e);
    while (!err) {
        err = apply_record_to_file(txlog_entry_source(&e), fd, why, sizeof why);
        if (err) {
            log_error("recover", "%s: record %llu cannot be redone: %s", db->path,
                      (unsigned long long)e.max_txid, *why ? why : err_text(err));
            txlog_entry_release(&e);
            return err;
        }
        (*records)++;
        err = txlog_next(log, &e);
    }
    return err == -ERR_NOTFOUND && *records > 0 ? 0 : err;
}

/* S may not pass a journal that would come back, nor a file whose name would go again. */
static int move_recovery_position(struct database *db, struct position to)
{
    int err = database_sync_names(db);
    return err ? err : ledger_checkpoint(db->ledger, to);
}

/* Something else has taken the place of the database. Nothing or zeros are what a loss of power leaves of one
 * that was never on disk. */
static bool is_foreign(struct database *db)
{
    uint8_t bytes[HEADER_SIZE];
    struct db_header h;
    size_t got;
    if (database_open_main(db) || file_read_some(db->main_fd, bytes, sizeof bytes, 0, &got))
        return false;
    bool zeros = true;
    for (size_t i = 0; zeros && i < got; i++)
        zeros = bytes[i] == 0;
    return !zeros && (got < sizeof bytes || !db_header_parse(bytes, &h));
}

static int recover_deleted(struct database *db, const struct ledger_info *info)
{
    if (position_equal(info->recovery, info->last))
        return 0; /* a file that is there now is a new one */
    /* It was being written after the deletion, or is not ours. */
    if (ledger_is_unclean(db->ledger) || is_foreign(db))
        return move_recovery_position(db, info->last);
    int err = remove_companions(db);
    if (!err)
        err = remove_file(db, FILE_MAIN);
    if (!err)
        err = remove_file(db, FILE_JOURNAL);
    return err ? err : move_recovery_position(db, info->last);
}

/* Do the records after S make the whole database, because there was none in between? */
static bool log_has_all(struct database *db, const struct ledger_info *info)
{
    struct txlog_entry e = {0};
    bool all = info->recovery_commit == 0;
    int err = all ? -ERR_NOTFOUND : txlog_find_from(ledger_log(db->ledger), info->recovery, &e);
    while (!err && !all) {
        all = e.commit == 0;
        err = txlog_next(ledger_log(db->ledger), &e);
    }
    txlog_entry_release(&e);
    return all;
}

/* The name of the file never came to disk. */
static int make_anew(struct database *db, int *fd)
{
    char path[DATABASE_PATH_MAX];
    database_file_path(db, FILE_MAIN, path);
    char *slash = strrchr(path, '/');
    int err = 0;
    if (slash) {
        *slash = '\0';
        err = file_mkdirs(database_tree(db), path, 0755);
        *slash = '/';
    }
    return err ? err : file_open(database_tree(db), path, O_RDWR | O_CREAT | O_NOFOLLOW, 0644, fd);
}

/* The recovery of one database file. */
struct recovery {
    struct database *db;
    const struct ledger_info *info;
    struct playback play;
    uint64_t redone; /* records */
    bool unclean;    /* there are, or were, changes without a journal */
    bool newer;      /* the file is ahead of the log: leftover_is_newer */
    bool undone;     /* the last record may have been, see playback_together */
};

/* The file gets its pages back, first those of an unfinished transaction. */
static int bring_to_log(struct recovery *r)
{
    if (!r->info->damaged && !r->unclean)
        r->play.ledger = r->db->ledger;
    int err = playback_run(r->db, &r->play);
    if (!err && !r->newer)
        err = redo(r->db, r->play.fd, r->info, &r->redone);
    r->undone = r->play.together && !r->info->damaged;
    if (!err && r->undone)
        err = playback_together(r->db, &r->play);
    return err;
}

/* What is in the file and not in the log. */
static int take_in(struct recovery *r)
{
    int64_t size, want = (int64_t)r->info->commit * r->info->page_size;
    int err = file_size(r->play.fd, &size);
    if (err)
        return err;
    if (r->newer || r->unclean)
        return leftover_take_in(r->db, r->info, r->play.fd, size);
    if (r->undone)
        return leftover_take_in_undone(r->db, r->info, &r->play.touched, size);
    if (size != want)
        err = file_truncate(r->play.fd, want);
    if (!r->info->damaged)
        dirty_add_page(&r->play.touched, 1); /* every start looks at the header */
    if (!err)
        err = playback_check(r->db, r->info, &r->play.touched);
    if (!err && r->play.hot)
        err = leftover_take_in_unused(r->db, r->info);
    return err;
}

/* What has been done is made to last, and the other files go. */
static int conclude(struct recovery *r)
{
    struct database *db = r->db;
    struct database_pages pages = {.db = db, .page_size = r->info->page_size};
    bool moves = !position_equal(r->info->recovery, r->info->last);
    /* What was redone can be redone again: the settler syncs it and moves S, when clients are served
     * already. A journal, or changes that have no record, cannot. */
    bool later = !r->play.hot && !r->newer && !r->info->damaged && !ledger_is_unclean(db->ledger);
    int err = later ? 0 : file_sync_data(r->play.fd);
    /* A record that was undone may not be redone when the journal is gone that undoes it. */
    if (!err && r->undone)
        err = move_recovery_position(db, r->info->last);
    if (!err)
        err = remove_companions(db);
    if (!err)
        err = leave_empty_wal(db, r->play.fd);
    if (!err && r->info->damaged)
        err = ledger_rebuild_sums(db->ledger, database_pages_read, &pages);
    if (!err && !later && (moves || r->undone))
        err = move_recovery_position(db, r->info->last);
    return err;
}

static int recover_file(struct database *db, const struct ledger_info *info)
{
    char path[DATABASE_PATH_MAX];
    struct recovery r = {.db = db, .info = info, .play.fd = -1};

    database_file_path(db, FILE_MAIN, path);
    int err = file_open(database_tree(db), path, O_RDWR | O_NOFOLLOW, 0, &r.play.fd);
    bool lost = err == -ERR_NOTFOUND;
    r.unclean = ledger_is_unclean(db->ledger);
    bool moved = lost && r.unclean && (db->catalog->same_boot || !log_has_all(db, info));
    if (moved)
        return leftover_take_in_absence(db);
    if (lost && log_has_all(db, info))
        err = make_anew(db, &r.play.fd);
    if (err)
        return err;
    r.newer = !lost && leftover_is_newer(db);
    err = bring_to_log(&r);
    if (!err)
        err = take_in(&r);
    if (!err)
        err = conclude(&r);
    if (!err && r.redone > 0)
        log_info("recover", "%s: %llu records redone, now at TXID %llu", db->path,
                 (unsigned long long)r.redone, (unsigned long long)info->last.txid);
    dirty_fini(&r.play.touched);
    file_close(r.play.fd);
    return err;
}

int recover_database(struct catalog *c, struct ledger *l)
{
    struct ledger_info info;
    struct database *db = catalog_get(c, ledger_name(l));
    if (!db)
        return -ERR_NOMEM;
    mutex_lock(&db->mutex);
    db->ledger = l;
    ledger_info(l, &info);
    int err = 0;
    if (info.last.txid > 0)
        err = info.commit == 0 ? recover_deleted(db, &info) : recover_file(db, &info);
    if (err) {
        char why[120];
        snprintf(why, sizeof why, "recovery failed: %s", err_text(err));
        log_error(
            "recover",
            "%s: its files and its log cannot be brought together (%s); they are left as they are",
            db->path, err_text(err));
        ledger_set_damaged(l, why);
    } else {
        db->backed = info.last;
        ledger_set_applied(l, info.last);
    }
    database_close_files(db);
    mutex_unlock(&db->mutex);
    catalog_put(db);
    return 0;
}
