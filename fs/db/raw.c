/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/db/raw.h"

#include "fs/db/database_impl.h"
#include "ltx/base/err.h"
#include "ltx/base/logger.h"

bool raw_is(const struct database *db, enum file_kind kind)
{
    switch (kind) {
    case FILE_MAIN: return db->wal.valid && db->handles[FILE_WAL] == 0;
    case FILE_WAL:
    case FILE_JOURNAL: return db->handles[FILE_MAIN] == 0;
    default: return false;
    }
}

void raw_note(struct database *db)
{
    capture_wal_reset(db);
    db->raw = true;
    db->dirty.all = true;
    db->dirty.last_write = mono_now();
}

int raw_begin(struct database *db)
{
    int err = database_may_change_plain(db);
    if (!err && db->ledger && !ledger_is_unclean(db->ledger))
        err = ledger_set_unclean(db->ledger, true);
    if (!err && !db->raw)
        log_debug("capture", "%s is changed by something that is not SQLite", db->path);
    if (!err)
        raw_note(db);
    return err;
}

int raw_look(struct database *db)
{
    int err = db->raw ? capture_wal_attach_sealed(db) : 0;
    if (!err)
        db->raw = false;
    return err;
}
