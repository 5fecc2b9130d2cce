/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
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
#include "ltx/compact.h"

/*
 * A record in place, under SQLite's own PENDING/EXCLUSIVE protocol. No journal is needed: the log
 * redoes the record if the daemon dies in the middle, and until it is back nobody can read. PENDING
 * keeps new readers out for a moment only; if the readers that are in do not finish, it is given
 * back, so that others go on meanwhile.
 *
 * Transactions of readers that overlap would leave no gap for ever. So PENDING is kept twice as long
 * at each try, up to what busy timeouts stand, and readers are let in for as long before the next.
 * Whoever had to wait once makes a WAL when the lock is there (apply_need_wal): then nobody waits for
 * these readers any more.
 */

#define PENDING_MS 50
#define PENDING_MAX_MS 3200
#define PAUSE_US 1000

static bool is_strained(const struct replica *r)
{
    return r->pending_ms > PENDING_MS;
}

int apply_rollback_lock(struct replica *r)
{
    struct mono start = mono_now();
    if (is_strained(r) && mono_since_ms(r->pending_given_back) < r->pending_ms / 2)
        return -ERR_BUSY;
    if (r->pending_ms == 0)
        r->pending_ms = PENDING_MS;
    for (;;) {
        int err = lock_database_exclusive(r->main_fd);
        if (!err)
            r->pending_ms = PENDING_MS;
        if (err != -ERR_BUSY)
            return err;
        if (*r->quit || mono_since_ms(start) >= r->pending_ms) {
            lock_database_release(r->main_fd);
            r->holding = false;
            r->pending_given_back = mono_now();
            if (r->pending_ms < PENDING_MAX_MS)
                r->pending_ms *= 2;
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
    err = file_unlink(AT_FDCWD, path);
    own_leave();
    return err == -ERR_NOTFOUND ? 0 : err;
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
    return replica_prepare_wal_file(r, NULL, 0);
}

static int write_record(struct replica *r, struct txlog_entry *e)
{
    r->db->torn = true;
    struct ltx_decoder d = {0};
    int err = ltx_decode_begin(&d, txlog_entry_source(e));
    if (!err)
        err = apply_pages_to_file(&d, r->main_fd);
    ltx_decode_fini(&d);
    if (!err)
        r->db->torn = false;
    return err;
}

/* ---- will others notice? ---- */

/*
 * A connection in a rollback mode keeps its cached pages as long as 16 bytes of page 1 stay as they
 * are: change counter, size, head and length of the freelist. Every transaction counts, but those of
 * a connection with locking_mode=EXCLUSIVE after its first one: on its own machine nobody else can
 * read meanwhile. Other content with the same 16 bytes may also come when histories have parted. In
 * WAL mode the wal-index tells of every change. So such a record is applied there, and the WAL stays until page 1 says
 * something else: connections that are idle hold no lock, and nobody knows of them.
 */

/* What the record leaves there; `was` is what stands there before it. */
static int version_after(struct txlog_entry *e, const uint8_t *was, uint8_t *out)
{
    struct ltx_decoder d = {0};
    uint8_t *page = malloc(e->page_size);
    uint32_t pgno;
    int err = page ? ltx_decode_begin(&d, txlog_entry_source(e)) : -ERR_NOMEM;
    int more = err ? 0 : ltx_decode_page(&d, &pgno, page);
    memcpy(out, more == 1 && pgno == 1 ? page + VERSION_OFFSET : was, VERSION_SIZE);
    ltx_decode_fini(&d);
    free(page);
    return err ? err : more < 0 ? more : 0;
}

static int version_now(struct replica *r, uint8_t *out)
{
    size_t got;
    memset(out, 0, VERSION_SIZE);
    return file_read_some(r->main_fd, out, VERSION_SIZE, VERSION_OFFSET, &got);
}

/* A WAL without frames. One of no bytes would not be seen. */
static int make_wal(struct replica *r)
{
    uint8_t bytes[WAL_HEADER_SIZE];
    struct wal_header h = {.page_size = r->page_size};
    uint64_t salt = random_u64();
    memcpy(h.salt, &salt, sizeof salt);
    wal_header_build(&h, bytes);
    int err = replica_remove(r, "-wal"); /* of a database that was damaged */
    if (!err)
        err = replica_remove(r, "-shm");
    if (!err)
        err = replica_prepare_wal_file(r, bytes, sizeof bytes);
    if (!err)
        r->state = REPLICA_LEAVING;
    return err;
}

int apply_need_wal(struct replica *r, struct txlog_entry *e)
{
    uint8_t before[VERSION_SIZE], after[VERSION_SIZE];
    if (r->db->torn || e->page_size != r->page_size)
        return 0;
    int err = replica_open_main(r, false);
    if (err)
        return err == -ERR_NOTFOUND ? 0 : err;
    err = version_now(r, before);
    if (!err)
        err = version_after(e, before, after);
    bool noticed = memcmp(before, after, sizeof before) != 0;
    if (err || (noticed && !is_strained(r)))
        return err;
    /* Those who read without a WAL must have left before anything is brought from it into the file. */
    err = apply_rollback_lock(r);
    if (err)
        return err;
    err = make_wal(r);
    r->leave_tried = mono_now(); /* readers shall find it, and keep it */
    if (!err && !noticed) {
        memcpy(r->known_version, before, sizeof before);
        r->unnoticed = true;
    }
    lock_database_release(r->main_fd);
    r->holding = false;
    return err;
}

/* ---- in place ---- */

int apply_rollback(struct replica *r, struct txlog_entry *e, uint64_t last_txid,
                   struct position *at)
{
    int err = replica_sync(r);
    if (!err)
        err = replica_open_main(r, true);
    if (!err)
        err = apply_rollback_lock(r);
    if (err)
        return err;
    if (e->flags & TXLOG_REBASE) {
        err = replica_remove(r, "-wal");
        if (!err)
            err = replica_remove(r, "-shm");
    }
    uint8_t before[VERSION_SIZE], after[VERSION_SIZE];
    uint64_t bytes = 0;
    bool more = true;
    if (!err)
        err = version_now(r, before);
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
        if (!err && more)
            err = version_now(r, after);
        if (!err && more)
            err = version_after(e, after, after);
        if (!err && more && memcmp(before, after, sizeof before) == 0)
            more = false; /* back to what connections may know */
    }
    if (!r->db->torn)
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
    r->db->torn = false;
    int err = replica_sync(r); /* a start that found no file would take it for lost */
    if (!err)
        err = replica_remove(r, "");
    if (!err)
        err = replica_remove(r, "-wal");
    if (!err)
        err = replica_remove(r, "-shm");
    return err;
}
