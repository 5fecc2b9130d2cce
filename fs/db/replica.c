/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/db/replica.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/db/database_impl.h"
#include "fs/db/header.h"
#include "fs/db/locks.h"
#include "fs/db/own.h"
#include "fs/db/unmap.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"

#define WAL_CHECKPOINT_FRAMES 1000

int replica_init(struct replica *r, struct database *db, struct ledger *l, const atomic_bool *quit,
                 bool hold)
{
    *r = (struct replica){.db = db,
                          .ledger = l,
                          .quit = quit,
                          .hold = hold,
                          .main_fd = -1,
                          .wal_fd = -1,
                          .tail_end = -1,
                          .shm_fd = -1};
    return 0;
}

int replica_path(const struct replica *r, const char *suffix, char *out, size_t size)
{
    int n = snprintf(out, size, "%s/%s%s", catalog_mountpoint(r->db->catalog), r->db->path, suffix);
    return n < (int)size ? 0 : -ERR_LIMIT;
}

/* The folder of a database that is new here. */
static int make_folder(struct replica *r)
{
    const char *slash = strrchr(r->db->path, '/');
    char path[DATABASE_PATH_MAX];
    if (!slash)
        return 0;
    snprintf(path, sizeof path, "%s/%.*s", catalog_mountpoint(r->db->catalog),
             (int)(slash - r->db->path), r->db->path);
    return file_mkdirs(AT_FDCWD, path, 0755);
}

static int open_own(struct replica *r, const char *suffix, int flags, int *fd)
{
    char path[DATABASE_PATH_MAX];
    if (*fd >= 0)
        return 0;
    int err = replica_path(r, suffix, path, sizeof path);
    if (err)
        return err;
    own_enter();
    if (flags & O_CREAT)
        err = make_folder(r);
    if (!err)
        err = file_open(AT_FDCWD, path, flags | O_NOFOLLOW, 0644, fd);
    own_leave();
    return err;
}

int replica_open_main(struct replica *r, bool create)
{
    return open_own(r, "", O_RDWR | (create ? O_CREAT : 0), &r->main_fd);
}

/* -wal and -shm belong to whom the database belongs, so that its readers can use them. */
static void same_owner(struct replica *r, int fd)
{
    struct stat main_st, st;
    if (fstat(r->main_fd, &main_st) != 0 || fstat(fd, &st) != 0)
        return;
    own_enter();
    if (st.st_uid != main_st.st_uid || st.st_gid != main_st.st_gid)
        (void)!fchown(fd, main_st.st_uid, main_st.st_gid);
    if ((st.st_mode & 0777) != (main_st.st_mode & 0777))
        (void)fchmod(fd, main_st.st_mode & 0777);
    own_leave();
}

int replica_touch(struct replica *r)
{
    return sqlite3_exec(r->conn, "PRAGMA schema_version", NULL, NULL, NULL);
}

/* Its syncs do nothing, as those of all own handles. With a writable schema it does not care whether the
 * header tells the size of the file. */
static int open_connection(struct replica *r)
{
    char path[DATABASE_PATH_MAX];
    int err = replica_path(r, "", path, sizeof path);
    if (err || r->conn)
        return err;
    unmap_enter(r->db);
    int rc = sqlite3_open_v2(path, &r->conn, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_db_config(r->conn, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_db_config(r->conn, SQLITE_DBCONFIG_WRITABLE_SCHEMA, 1, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_wal_autocheckpoint(r->conn, 0);
    if (rc == SQLITE_OK)
        rc = replica_touch(r);
    if (rc != SQLITE_OK) {
        err = rc == SQLITE_BUSY || rc == SQLITE_PROTOCOL    ? -ERR_BUSY
              : rc == SQLITE_FULL                           ? -ERR_NOSPACE
              : rc == SQLITE_NOTADB || rc == SQLITE_CORRUPT ? -ERR_CORRUPT
                                                            : -ERR_IO;
        log_debug("follow", "%s: own connection: %s", r->db->path, sqlite3_errmsg(r->conn));
        sqlite3_close(r->conn);
        r->conn = NULL;
    }
    unmap_leave();
    return err;
}

int replica_open_wal(struct replica *r)
{
    int err = replica_open_main(r, false);
    if (!err && r->wal_fd < 0) {
        err = open_own(r, "-wal", O_RDWR | O_CREAT, &r->wal_fd);
        if (!err)
            same_owner(r, r->wal_fd);
    }
    if (!err)
        err = open_connection(r);
    if (!err && r->shm_fd < 0) {
        err = open_own(r, "-shm", O_RDWR | O_CREAT, &r->shm_fd);
        if (!err)
            walindex_init(&r->index, r->shm_fd, r->db);
    }
    return err;
}

int replica_sync(struct replica *r)
{
    return ledger_sync(r->ledger, ledger_last(r->ledger).txid);
}

static void close_fd(int *fd)
{
    file_close(*fd);
    *fd = -1;
}

/*
 * The connection goes first: closing any other descriptor of its files would drop its locks. With
 * `checkpoint` SQLite removes -wal and -shm if nobody else has them open.
 */
void replica_close_wal(struct replica *r, bool checkpoint)
{
    if (checkpoint && r->conn)
        checkpoint = replica_sync(r) == 0;
    unmap_enter(r->db);
    if (r->conn) {
        if (checkpoint)
            sqlite3_db_config(r->conn, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
        sqlite3_close(r->conn);
        r->conn = NULL;
    }
    unmap_leave();
    if (r->shm_fd >= 0) {
        walindex_fini(&r->index);
        /* A mapping that waits to be unmapped keeps what was opened, and with it the locks. */
        lock_release(r->shm_fd, LOCK_SHM_BASE, LOCK_SHM_COUNT);
    }
    close_fd(&r->shm_fd);
    close_fd(&r->wal_fd);
    r->tail_end = -1;
    r->highest = 0;
    close_fd(&r->main_fd);
    r->holding = false;
}

void replica_close(struct replica *r)
{
    replica_close_wal(r, false);
    free(r->frames);
    r->frames = NULL;
    r->frames_cap = 0;
    r->state = REPLICA_CLOSED;
}

/* What the file says now, when no WAL is open here. */
static int find_state(struct replica *r)
{
    struct db_header h;
    if (r->state != REPLICA_CLOSED)
        return 0;
    int err = replica_open_main(r, false);
    if (!err)
        err = db_header_read(r->main_fd, &h);
    if (err == -ERR_NOTFOUND) {
        r->state = REPLICA_ROLLBACK;
        return 0;
    }
    if (err)
        return err;
    r->state = h.wal ? REPLICA_WAL : REPLICA_ROLLBACK;
    r->page_size = h.page_size;
    return 0;
}

/* Hands the lock to nobody until the next record, or until this node is the primary. */
static int hold_lock(struct replica *r)
{
    if (!r->hold || r->holding || r->state == REPLICA_CLOSED)
        return 0;
    int err;
    if (r->state == REPLICA_ROLLBACK) {
        err = r->main_fd < 0 ? 0 : lock_exclusive(r->main_fd, LOCK_RESERVED, 1);
    } else {
        err = replica_open_wal(r);
        if (!err)
            err = lock_exclusive(r->shm_fd, LOCK_SHM_WRITE, 1);
    }
    r->holding = !err && r->main_fd >= 0;
    return err;
}

int replica_prepare_wal_file(struct replica *r, const void *bytes, size_t size)
{
    int64_t there;
    int fd = -1;
    int err = open_own(r, "-wal", O_RDWR | O_CREAT, &fd);
    if (!err) {
        same_owner(r, fd);
        err = file_size(fd, &there);
    }
    if (!err && there == 0 && size > 0)
        err = file_write(fd, bytes, size, 0);
    file_close(fd);
    return err;
}

int replica_prepare(struct replica *r)
{
    struct ledger_info info;
    ledger_info(r->ledger, &info);
    int err = find_state(r);
    if (err || info.commit == 0)
        return err;
    if (r->state == REPLICA_WAL && r->hold) {
        err = replica_open_wal(r);
    } else if (r->state == REPLICA_WAL) {
        err = replica_prepare_wal_file(r, NULL, 0);
    }
    return err ? err : hold_lock(r);
}

static void tell_backed(struct replica *r, struct position at)
{
    mutex_lock(&r->db->mutex);
    r->db->backed = at;
    mutex_unlock(&r->db->mutex);
}

/* Would connections that know the database from before the WAL notice what is in it now? */
static bool is_noticed(struct replica *r)
{
    uint8_t page[LTX_MAX_PAGE_SIZE];
    uint32_t page_size;
    struct page_reader reader = catalog_page_reader(r->db->catalog);
    if (r->unnoticed && reader.read(reader.ctx, r->ledger, 1, page, &page_size) == 0)
        r->unnoticed = memcmp(page + VERSION_OFFSET, r->known_version, VERSION_SIZE) == 0;
    return !r->unnoticed;
}

/* The readers of the WAL may have gone: then SQLite, closing as the last one, brings everything
 * back and removes it. Who has -shm open has not gone. */
static int leave_wal(struct replica *r)
{
    char path[DATABASE_PATH_MAX];
    struct stat st;
    r->leave_tried = mono_now();
    if (!is_noticed(r) || unmap_is_in_use(r->db))
        return 0;
    replica_close_wal(r, true);
    int err = replica_path(r, "-wal", path, sizeof path);
    if (err)
        return err;
    if (stat(path, &st) == 0)
        return replica_open_wal(r); /* not yet */
    r->state = REPLICA_CLOSED;
    tell_backed(r, ledger_applied(r->ledger));
    return replica_prepare(r);
}

void replica_idle(struct replica *r)
{
    r->db->applying = true;
    if (r->state == REPLICA_LEAVING)
        (void)leave_wal(r); /* the next round tries again */
    r->db->applying = false;
    (void)hold_lock(r);
}

/* Is all of the WAL in the database file? */
static bool is_whole(struct replica *r)
{
    struct walindex_header h;
    uint32_t backfill;
    bool now;
    return apply_checkpoint(r, 1, &now) == 0 && walindex_read(&r->index, &h) == 0 &&
           walindex_backfill(&r->index, &backfill) == 0 && backfill >= h.mx_frame;
}

void replica_rest(struct replica *r)
{
    if (r->hold || r->db->torn || (r->state != REPLICA_WAL && r->state != REPLICA_ROLLBACK))
        return;
    r->db->applying = true;
    if (r->state == REPLICA_ROLLBACK ||
        (r->conn && r->shm_fd >= 0 && !unmap_is_in_use(r->db) && is_whole(r))) {
        tell_backed(r, ledger_applied(r->ledger));
        replica_close(r);
    }
    r->db->applying = false;
}

/*
 * To SQLite the header is not that of a database: no connection has a WAL open, and none can. If the
 * file holds everything, what comes next is applied without one.
 */
static int give_up_wal(struct replica *r)
{
    mutex_lock(&r->db->mutex);
    bool whole = position_equal(r->db->backed, ledger_applied(r->ledger));
    mutex_unlock(&r->db->mutex);
    if (!whole || unmap_is_in_use(r->db))
        return -ERR_IO;
    replica_close_wal(r, false);
    int err = replica_remove(r, "-wal");
    if (!err)
        err = replica_remove(r, "-shm");
    if (!err)
        r->state = REPLICA_ROLLBACK;
    return err;
}

static int apply_one_batch(struct replica *r, struct txlog_entry *e, uint64_t last)
{
    struct position at;
    bool whole = false;
    int err = find_state(r);
    /* What a database that was damaged had beside it is not what belongs to the rebase. */
    if (!err && (e->flags & TXLOG_REBASE))
        err = replica_remove(r, "-journal");
    if (err)
        return err;
    uint32_t page_size = r->page_size;
    if (e->commit == 0) {
        at = (struct position){e->max_txid, e->post_checksum};
        err = apply_deletion(r);
        if (!err)
            err = txlog_next(ledger_log(r->ledger), e);
        if (err == -ERR_NOTFOUND)
            err = 0;
        whole = true;
    } else {
        if (r->state == REPLICA_ROLLBACK)
            err = apply_need_wal(r, e);
        if (!err && r->state != REPLICA_ROLLBACK && replica_open_wal(r) == -ERR_CORRUPT)
            err = give_up_wal(r);
        if (!err && r->state == REPLICA_ROLLBACK) {
            err = apply_rollback(r, e, last, &at);
            whole = true;
        } else if (!err) {
            err = apply_wal(r, e, last, &at);
        }
    }
    if (err)
        return err;
    ledger_set_applied(r->ledger, at);
    if (r->state == REPLICA_LEAVING && mono_since_ms(r->leave_tried) >= LEAVE_AGAIN_MS) {
        err = leave_wal(r);
        if (err || r->state != REPLICA_LEAVING)
            return err;
    }
    if (r->state == REPLICA_WAL || r->state == REPLICA_LEAVING)
        (void)apply_checkpoint(r, r->page_size == page_size ? WAL_CHECKPOINT_FRAMES : 1,
                               &whole); /* the next batch tries again */
    if (whole)
        tell_backed(r, at);
    return 0;
}

static int apply_all(struct replica *r)
{
    struct txlog *log = ledger_log(r->ledger);
    struct txlog_entry e = {0};
    struct ledger_info info;
    int err = 0;

    while (!err && !*r->quit) {
        ledger_info(r->ledger, &info);
        if (info.damaged || position_equal(info.last, info.applied))
            break;
        if (!e.file)
            err = txlog_find_from(log, info.applied, &e);
        if (err == -ERR_NOTFOUND)
            ledger_set_damaged(r->ledger, "its log does not follow on what was applied");
        if (!err)
            err = apply_one_batch(r, &e, info.last.txid);
    }
    txlog_entry_release(&e);
    if (*r->quit && !err)
        return -ERR_CLOSED;
    if (!err)
        (void)hold_lock(r); /* taken in the next idle round if somebody has it now */
    return err;
}

int replica_apply(struct replica *r)
{
    r->db->applying = true;
    int err = apply_all(r);
    r->db->applying = false;
    return err;
}

int replica_begin_mend(struct replica *r, bool in_wal)
{
    int err = find_state(r);
    if (err)
        return err;
    r->db->applying = true;
    err = in_wal ? replica_open_wal(r) : replica_open_main(r, true);
    if (!err && r->state == REPLICA_ROLLBACK)
        err = apply_rollback_lock(r);
    if (err)
        r->db->applying = false;
    return err;
}

void replica_end_mend(struct replica *r)
{
    if (r->state == REPLICA_ROLLBACK) {
        apply_rollback_unlock(r);
        if (!r->holding)
            r->state = REPLICA_CLOSED; /* what was mended may be the header */
    }
    r->db->applying = false;
}
