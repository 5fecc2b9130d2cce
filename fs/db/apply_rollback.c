/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "fs/db/database_impl.h"
#include "fs/db/header.h"
#include "fs/db/locks.h"
#include "fs/db/own.h"
#include "fs/db/replica.h"
#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"

/*
 * A record in place, under SQLite's own PENDING/EXCLUSIVE protocol. No journal is needed: the log
 * redoes the record if the daemon dies in the middle, and until it is back nobody can read. PENDING
 * keeps new readers out for a moment only; if the readers that are in do not finish, it is given
 * back, so that others go on meanwhile.
 */

#define PENDING_MS 50
#define PAUSE_US 1000

int apply_rollback_lock(struct replica *r)
{
    struct mono start = mono_now();
    for (;;) {
        int err = lock_database_exclusive(r->main_fd);
        if (err != -ERR_BUSY)
            return err;
        if (*r->quit || mono_since_ms(start) >= PENDING_MS) {
            lock_database_release(r->main_fd);
            r->holding = false;
            return -ERR_BUSY;
        }
        usleep(PAUSE_US); /* there is no event for "the last reader has left" */
    }
}

void apply_rollback_unlock(struct replica *r)
{
    if (!r->hold || r->state != REPLICA_ROLLBACK) {
        lock_database_release(r->main_fd);
        r->holding = false;
        return;
    }
    lock_release(r->main_fd, LOCK_PENDING, 1);
    lock_release(r->main_fd, LOCK_SHARED_FIRST, LOCK_SHARED_SIZE);
    r->holding = true; /* RESERVED stays */
}

int replica_remove(struct replica *r, const char *suffix)
{
    char path[DATABASE_PATH_MAX];
    int err = replica_path(r, suffix, path, sizeof path);
    if (err)
        return err;
    own_enter();
    err = unlink(path) == 0 || errno == ENOENT ? 0 : err_from_errno(errno);
    own_leave();
    return err;
}

/* The header says WAL from now on: before anybody reads it, there is a -wal to open. */
static int follow_header(struct replica *r)
{
    struct db_header h;
    int err = db_header_read(r->main_fd, &h);
    if (err)
        return err == -ERR_NOTFOUND ? 0 : err;
    r->page_size = h.page_size;
    r->state = h.wal ? REPLICA_WAL : REPLICA_ROLLBACK;
    if (!h.wal)
        return 0;
    r->holding = false;
    return replica_prepare_wal_file(r);
}

static int write_record(struct replica *r, struct txlog_entry *e)
{
    r->torn = true;
    struct ltx_decoder d = {0};
    uint8_t *page = malloc(e->page_size);
    uint32_t pgno;
    int more = 0, err = page ? ltx_decode_begin(&d, txlog_entry_source(e)) : -ERR_NOMEM;
    while (!err && (more = ltx_decode_page(&d, &pgno, page)) == 1)
        err = file_write(r->main_fd, page, e->page_size, (int64_t)(pgno - 1) * e->page_size);
    if (!err && more < 0)
        err = more;
    if (!err)
        err = file_truncate(r->main_fd, (int64_t)e->commit * e->page_size);
    ltx_decode_fini(&d);
    free(page);
    if (!err)
        r->torn = false;
    return err;
}

/* Another page size, while the WAL is open here: the own connection goes, and whoever else has it
 * open must too. */
static int give_up_wal(struct replica *r)
{
    if (r->state != REPLICA_WAL && r->state != REPLICA_LEAVING)
        return 0;
    replica_close_wal(r, true);
    return replica_open_main(r, false);
}

int apply_rollback(struct replica *r, struct txlog_entry *e, uint64_t last_txid,
                   struct position *at)
{
    bool had_wal = r->state == REPLICA_WAL || r->state == REPLICA_LEAVING;
    int err = give_up_wal(r);
    if (!err)
        err = replica_open_main(r, true);
    if (!err)
        err = apply_rollback_lock(r);
    if (err) {
        if (had_wal && r->main_fd >= 0)
            (void)replica_open_wal(r);
        return err;
    }
    if (had_wal || (e->flags & TXLOG_REBASE)) {
        err = replica_remove(r, "-wal");
        if (!err)
            err = replica_remove(r, "-shm");
        r->state = REPLICA_ROLLBACK;
    }
    uint64_t bytes = 0;
    bool more = true;
    while (!err && more) {
        err = write_record(r, e);
        if (err)
            break;
        *at = (struct position){e->max_txid, e->post_checksum};
        bytes += e->size;
        err = follow_header(r);
        more =
            e->max_txid < last_txid && bytes < REPLICA_BATCH_BYTES && r->state == REPLICA_ROLLBACK;
        int next = txlog_next(ledger_log(r->ledger), e);
        if (next && next != -ERR_NOTFOUND && !err)
            err = next;
        more = more && !next && e->commit > 0;
    }
    if (!r->torn)
        apply_rollback_unlock(
            r); /* else readers would see half a transaction: they wait until it has been
                      completed */
    if (err)
        log_error("follow", "%s: the record after TXID %llu is not applied: %s", r->db->path,
                  (unsigned long long)ledger_applied(r->ledger).txid, err_text(err));
    if (err == -ERR_CORRUPT || err == -ERR_CHECKSUM || err == -ERR_TRUNCATED)
        ledger_set_damaged(r->ledger, "a record in its log cannot be applied");
    return err;
}

int apply_deletion(struct replica *r)
{
    replica_close_wal(r, false);
    r->state = REPLICA_CLOSED;
    int err = replica_remove(r, "");
    if (!err)
        err = replica_remove(r, "-wal");
    if (!err)
        err = replica_remove(r, "-shm");
    return err;
}
