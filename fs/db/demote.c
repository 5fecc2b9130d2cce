/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/db/demote.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/db/catalog_impl.h"
#include "fs/db/database_impl.h"
#include "fs/db/own.h"
#include "fs/db/walfix.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"

static int put_back(void *ctx, uint32_t pgno, const void *page, uint32_t page_size)
{
    return file_write(*(int *)ctx, page, page_size, (int64_t)(pgno - 1) * page_size);
}

static int put_size_back(void *ctx, uint32_t page_count, uint32_t page_size)
{
    return file_truncate(*(int *)ctx, (int64_t)page_count * page_size);
}

/* A client is stuck in a transaction: it may write no more. Its journal is played back for it. */
static int roll_back(struct database *db)
{
    char path[DATABASE_PATH_MAX];
    int main_fd = -1, fd = -1;
    uint32_t pages = 0;

    own_enter();
    snprintf(path, sizeof path, "%s/%s-journal", catalog_mountpoint(db->catalog), db->path);
    int err = file_open(AT_FDCWD, path, O_RDONLY | O_NOFOLLOW, 0, &fd);
    if (!err) {
        path[strlen(path) - strlen("-journal")] = '\0';
        err = file_open(AT_FDCWD, path, O_RDWR | O_NOFOLLOW, 0, &main_fd);
    }
    if (!err)
        err = journal_play_back(
            fd, (struct journal_target){.put = put_back, .resize = put_size_back, .ctx = &main_fd},
            &pages);
    if (!err)
        err = file_sync(main_fd);
    if (!err) {
        snprintf(path, sizeof path, "%s/%s-journal", catalog_mountpoint(db->catalog), db->path);
        err = file_unlink(AT_FDCWD, path);
    }
    file_close(main_fd);
    file_close(fd);
    own_leave();
    if (!err)
        log_warn("follow",
                 "%s: a transaction of %u pages was rolled back, because this node is no longer "
                 "the primary",
                 db->path, pages);
    return err;
}

/* A client is stuck behind its commit: the record is made, and its journal has not gone. It goes now. */
static int end_journal(struct database *db)
{
    char path[DATABASE_PATH_MAX];
    int err = db->ledger ? ledger_sync(db->ledger, ledger_last(db->ledger).txid) : 0;
    snprintf(path, sizeof path, "%s/%s-journal", catalog_mountpoint(db->catalog), db->path);
    own_enter();
    if (!err)
        err = file_unlink(AT_FDCWD, path);
    own_leave();
    return err == -ERR_NOTFOUND ? 0 : err;
}

/* From here on clients change nothing; what one has in hand is finished first. *hot: there is a journal, of a
 * transaction that has no record if *dirty. */
static void stop_changes(struct database *db, bool *hot, bool *dirty)
{
    mutex_lock(&db->mutex);
    db->demoted = true;
    while (db->changing > 0)
        cond_wait(&db->unchanging, &db->mutex);
    *hot = db->journal_hot;
    *dirty = dirty_any(&db->dirty);
    mutex_unlock(&db->mutex);
}

/*
 * Does the file hold what the ledger says, in the pages that were changed? A journal does not bring
 * back the bytes of pages that were unused before its transaction.
 */
static bool is_whole(struct database *db, bool rolled_back)
{
    struct ledger_info info;
    if (!dirty_any(&db->dirty))
        return true;
    if (!rolled_back || db->dirty.all || !db->ledger)
        return false;
    ledger_info(db->ledger, &info);
    uint8_t *page = malloc(info.page_size);
    bool whole = page != NULL;
    for (uint32_t i = 0; whole && i < db->dirty.len; i++) {
        uint32_t pgno = db->dirty.pgno[i];
        if (pgno <= info.commit && pgno != ltx_lock_pgno(info.page_size))
            whole = database_read_main(db, info.page_size, pgno, page) == 0 &&
                    checksum_page(pgno, page, info.page_size) == ledger_page_sum(db->ledger, pgno);
    }
    free(page);
    return whole;
}

/* Frames that SQLite has forgotten to seal are not found again when its last client has gone, and what is known of them
 * is about to be forgotten here. A client that is stuck in a transaction may be in the way: false. */
static bool seal_wal(struct database *db)
{
    mutex_lock(&db->mutex);
    bool sealed = db->wal.broken == 0;
    mutex_unlock(&db->mutex);
    if (sealed)
        return true;
    walfix_of_closing(db, 0);
    mutex_lock(&db->mutex);
    sealed = db->wal.broken == 0;
    mutex_unlock(&db->mutex);
    return sealed;
}

static void demote(struct database *db)
{
    bool hot, dirty;
    stop_changes(db, &hot, &dirty);
    int err = !hot ? 0 : dirty ? roll_back(db) : end_journal(db);
    bool sealed = seal_wal(db);

    mutex_lock(&db->mutex);
    const char *why = err || !is_whole(db, hot) ? "holds changes that never became a record"
                      : sealed                  ? NULL
                                                : "holds a commit that SQLite would not find again";
    if (why) {
        log_warn("follow", "%s: %s; it is fetched again", db->path, why);
        if (db->ledger)
            ledger_set_damaged(db->ledger, why);
    }
    dirty_clear(&db->dirty);
    db->leftover = false;
    db->journal_hot = false;
    database_end_transaction(db);
    db->sync_wanted = false;
    capture_wal_reset(db);
    database_close_files(db);
    mutex_unlock(&db->mutex);
}

/* Clients that meet the closed gate roll back by themselves; that is better than doing it for them.
 */
static void wait_for_journals(struct database **all, size_t count)
{
    struct mono start = mono_now();
    for (bool hot = true; hot && mono_since_ms(start) < 500;) {
        hot = false;
        for (size_t i = 0; i < count; i++) {
            mutex_lock(&all[i]->mutex);
            hot |= all[i]->journal_hot;
            mutex_unlock(&all[i]->mutex);
        }
        if (hot)
            usleep(5000);
    }
}

void demote_databases(struct catalog *c)
{
    size_t count;
    struct database **all = catalog_all(c, &count);
    if (!all)
        return;
    wait_for_journals(all, count);
    for (size_t i = 0; i < count; i++)
        demote(all[i]);
    catalog_put_all(all, count);
}
