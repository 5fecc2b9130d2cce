/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/db/database.h"

#include <fcntl.h>
#include <string.h>

#include "fs/db/capture_pages.h"
#include "fs/db/database_impl.h"
#include "fs/db/raw.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"

bool database_is_primary(struct database *db)
{
    return role_get(database_role(db)) == ROLE_PRIMARY;
}

/* On a replica only the daemon's own handles change anything but the shared memory. */
int database_may_change(struct database *db, enum file_kind kind, bool own)
{
    if (own || kind == FILE_SHM)
        return 0;
    return database_is_primary(db) && !db->demoted ? 0 : -ERR_READONLY;
}

/* Between these two a file is being changed by a client; demotion waits for the end. */
int database_begin_change(struct database *db, enum file_kind kind)
{
    mutex_lock(&db->mutex);
    int err = database_may_change(db, kind, false);
    if (!err)
        db->changing++;
    mutex_unlock(&db->mutex);
    return err;
}

void database_end_change(struct database *db)
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
int database_begin_transaction(struct database *db)
{
    if (db->begun || db->journal_hot)
        return 0;
    if (raw_is(db, FILE_JOURNAL))
        return database_may_change_plain(db);
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
int database_may_change_plain(struct database *db)
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
bool database_is_checkpoint(const struct database *db)
{
    return db->wal.valid && !db->wal.foreign && db->handles[FILE_WAL] > 0;
}

/* After a commit: what the client has asked to be synced is on disk before its call returns. The
 * mutex is not held: it takes a while. */
int database_sync_log(struct database *db)
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
    if (own || kind == FILE_SHM || !writes || database_is_primary(db))
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

void database_file_gone(struct database *db, enum file_kind kind)
{
    db->handles[kind] = 0;
    db->file[kind]++;
}

unsigned database_opened(struct database *db, enum file_kind kind, bool own)
{
    if (own)
        return 0;
    mutex_lock(&db->mutex);
    while (kind == FILE_SHM && db->unmaps > 0)
        cond_wait(&db->unmapped, &db->mutex);
    unsigned file = db->file[kind];
    db->handles[kind]++;
    if (kind == FILE_MAIN && raw_look(db) != 0)
        log_warn("capture", "%s-wal cannot be read: its transactions are not recorded yet",
                 db->path);
    mutex_unlock(&db->mutex);
    return file;
}

int database_flushed(struct database *db, enum file_kind kind, unsigned file, bool own)
{
    int err = 0;
    if (own || (kind != FILE_MAIN && kind != FILE_WAL))
        return 0;
    mutex_lock(&db->mutex);
    /* The last one closes: what the writer has left is whole, or never will be. Were another one
     * open, it might be in the middle of a transaction. */
    bool last = kind == FILE_MAIN ? db->handles[kind] <= 1 && !database_is_checkpoint(db)
                                  : db->handles[kind] <= 1 && db->raw;
    if (last && file == db->file[kind] && dirty_any(&db->dirty) && !db->journal_hot &&
        database_is_primary(db))
        err = capture_pages(db, CAPTURE_QUIET);
    mutex_unlock(&db->mutex);
    return err;
}

void database_released(struct database *db, enum file_kind kind, unsigned file, bool own)
{
    bool poke = false;
    if (own)
        return;
    mutex_lock(&db->mutex);
    if (file != db->file[kind]) { /* a file without a name: nothing follows */
        mutex_unlock(&db->mutex);
        return;
    }
    db->handles[kind]--;
    if (kind == FILE_WAL && db->wal.captured > 0 && db->handles[FILE_SHM] > 0) {
        db->wal.index_behind = true; /* perhaps; the settler looks */
        poke = true;
    }
    if (kind == FILE_JOURNAL && db->handles[kind] == 0 && !db->journal_hot)
        database_end_transaction(db);
    if (dirty_any(&db->dirty) || (db->unmap_later && db->handles[FILE_SHM] == 0))
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

/* ---- syncing ---- */

static int sync_main(struct database *db, int fd)
{
    mutex_lock(&db->mutex);
    database_look_again(db);
    bool log_holds_it = db->ledger && (database_is_checkpoint(db) || db->journal_hot);
    int err = 0;
    if (db->journal_hot)
        db->sync_wanted = true;
    else if (!log_holds_it && dirty_any(&db->dirty) && database_is_primary(db))
        err = capture_pages(db, CAPTURE_SYNC);
    if (db->ledger && !dirty_any(&db->dirty))
        log_holds_it = true;
    bool transaction_open = db->journal_hot;
    mutex_unlock(&db->mutex);
    if (err || transaction_open)
        return err; /* the end of the journal syncs */
    return log_holds_it ? database_sync_log(db) : file_sync_data(fd);
}

bool database_is_settled(struct database *db)
{
    if (db->applying || db->torn || !mutex_try(&db->mutex))
        return false;
    bool settled = !dirty_any(&db->dirty);
    mutex_unlock(&db->mutex);
    return settled;
}

bool database_is_synced(struct database *db, enum file_kind kind)
{
    mutex_lock(&db->mutex);
    struct ledger *l = kind == FILE_WAL && db->wal.valid && !db->wal.foreign ? db->ledger : NULL;
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
    int err = 0;
    if (own || kind == FILE_SHM)
        return 0;
    switch (kind) {
    case FILE_MAIN: return sync_main(db, fd);
    case FILE_WAL:
        mutex_lock(&db->mutex);
        if (db->raw && !db->journal_hot)
            err = capture_pages(db, CAPTURE_SYNC);
        skip = db->wal.valid && db->ledger && !db->wal.foreign;
        mutex_unlock(&db->mutex);
        if (err)
            return err;
        return skip ? database_sync_log(db) : file_sync_data(fd);
    case FILE_JOURNAL:
        mutex_lock(&db->mutex);
        skip = db->journal_finished && db->ledger;
        if (!skip)
            db->sync_wanted = true;
        mutex_unlock(&db->mutex);
        return skip ? database_sync_log(db) : file_sync_data(fd);
    default: return file_sync_data(fd);
    }
}
