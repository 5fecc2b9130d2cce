/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "fs/db/capture_pages.h"
#include "fs/db/catalog_impl.h"
#include "fs/db/database_impl.h"
#include "fs/db/locks.h"
#include "fs/db/own.h"
#include "fs/db/unmap.h"
#include "fs/db/walfix.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"

/*
 * The thread that ends what no client call ends: it captures files that were written without a
 * journal once their writer pauses, brings a wal-index forward that a dead writer left behind, and
 * moves the recovery position along.
 */

#define PAUSE_MS 20 /* a writer that does nothing for so long pauses */
#define ROUND_MS 1000
#define CHECKPOINT_MS 10000        /* the recovery position moves this often, */
#define CHECKPOINT_BYTES (8 << 20) /* or after so much log, */
#define CHANGED_BYTES (32 << 20)   /* or so much in changed pages: a start redoes them */
#define CLEAN_MS 5000              /* a file is called clean again after so long */

/*
 * Nobody must be in the middle of a transaction: no connection holds EXCLUSIVE, and none that gets it
 * now can write before the mutex is free. A lock of our own would stand in the way of clients that
 * do not wait. (The kernel keeps the locks: asking for them is no request to us.)
 */
static void capture_quiet(struct database *db)
{
    char path[DATABASE_PATH_MAX];
    int fd = -1;
    snprintf(path, sizeof path, "%s/%s", catalog_mountpoint(db->catalog), db->path);
    own_enter();
    int err = file_open(AT_FDCWD, path, O_RDONLY | O_NOFOLLOW, 0, &fd);
    own_leave();
    /* The next round tries again. It is not gone if only the mount is: somebody has unmounted it, and a client
     * still has the file open. */
    if (err && (err != -ERR_NOTFOUND || file_exists(database_tree(db), db->path))) {
        mutex_lock(&db->mutex);
        db->unsettled = true;
        mutex_unlock(&db->mutex);
        return;
    }
    bool stays = false;
    mutex_lock(&db->mutex);
    if (err) {
        err = database_sync_names(db);
        if (!err)
            err = capture_deletion(db);
        if (!err)
            dirty_clear(&db->dirty);
    } else if (!db->journal_hot && !lock_database_is_written(fd)) {
        err = capture_pages(db, CAPTURE_QUIET);
        stays = !err && dirty_any(&db->dirty); /* a part of a database: more comes, or never */
    }
    if (err && !db->unsettled)
        log_warn("capture", "%s: changes could not be recorded yet: %s", db->path, err_text(err));
    db->unsettled = err != 0 || stays;
    mutex_unlock(&db->mutex);
    file_close(fd);
}

/*
 * Recovery plays a hot journal back: one whose transaction lies before S would undo what no record
 * brings again. So S passes a commit only when its journal is finished on disk, too; and that is
 * also so if another one has taken its name since. -ERR_BUSY: it is not finished.
 */
static int sync_journal(struct database *db)
{
    char path[DATABASE_PATH_MAX];
    int fd;
    database_file_path(db, FILE_JOURNAL, path);
    int err = file_open(database_tree(db), path, O_RDWR | O_NOFOLLOW, 0, &fd);
    if (!err) {
        bool hot;
        err = journal_look(fd, &hot);
        if (!err)
            err = hot ? -ERR_BUSY : file_sync_data(fd);
        file_close(fd);
    }
    return err && err != -ERR_NOTFOUND ? err : database_sync_names(db);
}

/* Should S move? Then *backed says how far; *fd is the database file, -1 if there is none. */
static bool recovery_position_due(struct database *db, bool now, struct position *backed,
                                  uint64_t *changed, int *fd)
{
    struct ledger_info info;
    char path[DATABASE_PATH_MAX];
    *backed = db->backed;
    if (!db->ledger || backed->txid == 0 || db->journal_hot)
        return false;
    ledger_info(db->ledger, &info);
    if (position_equal(*backed, info.recovery) || backed->txid > info.last.txid)
        return false;
    *changed = info.changed_bytes;
    if (!now && mono_since_ms(db->checkpointed) < CHECKPOINT_MS &&
        info.changed_bytes - db->checkpointed_bytes <= CHANGED_BYTES &&
        txlog_bytes_after(ledger_log(db->ledger), info.recovery.txid) <= CHECKPOINT_BYTES)
        return false;
    if (info.commit == 0)
        return true;
    database_file_path(db, FILE_MAIN, path);
    return file_open(database_tree(db), path, O_RDWR, 0, fd) == 0;
}

/* S moves to where the database file is; see ledger_checkpoint. */
static void move_recovery_position(struct database *db, bool now)
{
    struct position backed;
    uint64_t changed;
    int fd = -1;
    mutex_lock(&db->mutex);
    bool due = recovery_position_due(db, now, &backed, &changed, &fd);
    mutex_unlock(&db->mutex);
    if (!due)
        return;
    int err = sync_journal(db);
    if (!err)
        err = ledger_sync(db->ledger, backed.txid);
    if (!err && fd >= 0)
        err = file_sync_data(fd);
    file_close(fd);
    if (!err)
        err = ledger_checkpoint(db->ledger, backed);
    if (err == -ERR_BUSY)
        return; /* the next round tries again */
    if (err)
        log_error("recover", "%s: the recovery position stays before TXID %llu: %s", db->path,
                  (unsigned long long)backed.txid, err_text(err));
    mutex_lock(&db->mutex); /* a rename or a removal moves it too, on another thread */
    db->checkpointed = mono_now();
    db->checkpointed_bytes = changed;
    mutex_unlock(&db->mutex);
}

void settle_position(struct database *db)
{
    move_recovery_position(db, true);
}

/* Has nobody written without a journal for a while? After a deletion the mark keeps a start from removing
 * what is there, until S has passed it. With the mutex held. */
static bool is_at_rest(struct database *db)
{
    struct ledger_info info;
    if (!db->ledger || !ledger_is_unclean(db->ledger) || dirty_any(&db->dirty))
        return false;
    ledger_info(db->ledger, &info);
    return !info.damaged && mono_since_ms(db->dirty.last_write) >= CLEAN_MS &&
           (info.commit > 0 || position_equal(info.recovery, info.last));
}

/*
 * The file is as its records say, and on disk too: what was written and taken back between two of them is
 * in none. What fails is tried again in the next round.
 */
static void call_clean(struct database *db)
{
    int fd = -1;
    mutex_lock(&db->mutex);
    bool rests = is_at_rest(db);
    struct mono written = db->dirty.last_write;
    char path[DATABASE_PATH_MAX];
    database_file_path(db, FILE_MAIN, path);
    int err = rests ? file_open(database_tree(db), path, O_RDWR | O_NOFOLLOW, 0, &fd) : 0;
    mutex_unlock(&db->mutex);
    if (!rests)
        return;
    if (err == -ERR_NOTFOUND)
        err = database_sync_names(db);
    else if (!err)
        err = file_sync_data(fd);
    file_close(fd);
    if (!err)
        err = ledger_sync(db->ledger, ledger_last(db->ledger).txid);
    mutex_lock(&db->mutex);
    if (!err && is_at_rest(db) && db->dirty.last_write.us == written.us)
        (void)ledger_set_unclean(db->ledger, false);
    mutex_unlock(&db->mutex);
}

/* May commits enter? */
static bool gate_open(struct database *db)
{
    if (role_enter(database_role(db)) != 0)
        return false;
    role_leave(database_role(db));
    return true;
}

void settle(struct database *db)
{
    bool primary = role_get(database_role(db)) == ROLE_PRIMARY;
    mutex_lock(&db->mutex);
    database_look_again(db);
    bool quiet = primary && dirty_any(&db->dirty) && !db->journal_hot &&
                 mono_since_ms(db->dirty.last_write) >= PAUSE_MS;
    bool behind = primary && (db->wal.index_behind || db->wal.broken > 0);
    mutex_unlock(&db->mutex);
    if (quiet && gate_open(db))
        capture_quiet(db);
    if (behind)
        walfix(db);
    unmap_waiting(db);
    move_recovery_position(db, false);
    call_clean(db);
}

void settle_at_end(struct database *db)
{
    bool primary = role_get(database_role(db)) == ROLE_PRIMARY;
    mutex_lock(&db->mutex);
    database_look_again(db);
    bool quiet = primary && dirty_any(&db->dirty) && !db->journal_hot;
    mutex_unlock(&db->mutex);
    if (quiet)
        capture_quiet(db);
    unmap_waiting(db);
    move_recovery_position(db, true);
}

/* Is there anything that cannot wait for the next full round? */
static bool waits_for_pause(struct database *db)
{
    mutex_lock(&db->mutex);
    bool waits =
        (dirty_any(&db->dirty) && !db->journal_hot && !db->unsettled) || db->wal.index_behind;
    mutex_unlock(&db->mutex);
    return waits && gate_open(db);
}

/* The new primary's gate is open: those who waited for the write locks may have them. True: not yet. */
static bool release_when_open(struct catalog *c)
{
    mutex_lock(&c->mutex);
    bool held = c->held != NULL;
    mutex_unlock(&c->mutex);
    if (!held)
        return false;
    if (role_enter(c->role) != 0)
        return true;
    role_leave(c->role);
    catalog_release_held(c);
    return false;
}

static void settler_run(void *arg)
{
    struct catalog *c = arg;
    bool soon = false;
    for (;;) {
        mutex_lock(&c->mutex);
        if (!c->poke && !c->quit)
            cond_wait_ms(&c->poked, &c->mutex, soon ? PAUSE_MS : ROUND_MS);
        bool quit = c->quit;
        c->poke = false;
        if (!quit && !soon) /* let the writer that poked go on for a moment */
            cond_wait_ms(&c->poked, &c->mutex, PAUSE_MS);
        quit = c->quit;
        mutex_unlock(&c->mutex);
        if (quit)
            return;
        size_t count;
        struct database **all = catalog_all(c, &count);
        soon = release_when_open(c);
        for (size_t i = 0; all && i < count; i++) {
            settle(all[i]);
            soon |= waits_for_pause(all[i]);
        }
        if (all)
            catalog_put_all(all, count);
    }
}

int settler_start(struct catalog *c)
{
    return thread_start(&c->settler, "settler", settler_run, c);
}
