/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/db/mend.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/db/catalog_impl.h"
#include "fs/db/database_impl.h"
#include "fs/db/header.h"
#include "fs/db/locks.h"
#include "fs/db/own.h"
#include "fs/db/still.h"
#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"

#define STILL_MS 100
#define PENDING_MS 50
#define PAUSE_US 1000

/* The files through the own mount, and SQLite's locks on them. */
struct grip {
    struct database *db;
    int main_fd, wal_fd, shm_fd;
};

static int open_own(struct database *db, const char *suffix, int *fd)
{
    char path[DATABASE_PATH_MAX];
    int n =
        snprintf(path, sizeof path, "%s/%s%s", catalog_mountpoint(db->catalog), db->path, suffix);
    if (n >= (int)sizeof path)
        return -ERR_LIMIT;
    own_enter();
    int err = file_open(AT_FDCWD, path, O_RDWR | O_NOFOLLOW, 0, fd);
    own_leave();
    return err;
}

static void release(struct grip *g)
{
    file_close(g->shm_fd);
    file_close(g->wal_fd);
    file_close(g->main_fd);
}

/* Nobody reads or writes the database file. PENDING keeps new readers out for a moment, until those
 * that are in have left. */
static int lock_file(struct grip *g)
{
    struct mono start = mono_now();
    for (;;) {
        int err = 0;
        /* A writer is not held up by PENDING. (Of a replica's RESERVED lock the applier may be the
         * owner; it writes nothing now.) */
        if (database_is_primary(g->db))
            err = lock_exclusive(g->main_fd, LOCK_RESERVED, 1);
        if (!err)
            err = lock_exclusive(g->main_fd, LOCK_PENDING, 1);
        if (!err)
            err = lock_exclusive(g->main_fd, LOCK_SHARED_FIRST, LOCK_SHARED_SIZE);
        if (err != -ERR_BUSY || mono_since_ms(start) >= PENDING_MS)
            return err;
        usleep(PAUSE_US); /* there is no event for "the last reader has left" */
    }
}

/*
 * WAL mode: no checkpoint writes to the database file while CKPT is held, and nobody leaves WAL mode
 * while SHARED is. WRITE keeps the WAL as it is. (A connection with exclusive locks has no -shm and
 * holds the database file.)
 */
static int lock_wal(struct grip *g)
{
    int err = lock_database_shared(g->main_fd);
    if (!err)
        err = lock_exclusive(g->shm_fd, LOCK_SHM_CKPT, 1);
    if (!err)
        err = lock_exclusive(g->shm_fd, LOCK_SHM_WRITE, 1);
    bool applier =
        err == -ERR_BUSY && !database_is_primary(g->db) && catalog_writes_wait(g->db->catalog);
    return applier ? 0 : err; /* it keeps WRITE between records, and has none now */
}

static bool says_rollback(int fd)
{
    struct db_header h;
    return db_header_read(fd, &h) == 0 && !h.wal;
}

static int take_hold(struct grip *g, struct database *db)
{
    *g = (struct grip){.db = db, .main_fd = -1, .wal_fd = -1, .shm_fd = -1};
    int err = open_own(db, "", &g->main_fd);
    if (err)
        return err;
    err = open_own(db, "-wal", &g->wal_fd);
    if (!err)
        err = open_own(db, "-shm", &g->shm_fd);
    if (err && err != -ERR_NOTFOUND)
        return err;
    if (g->shm_fd < 0 || says_rollback(g->main_fd))
        return lock_file(g);
    err = lock_wal(g);
    /* It may have left WAL mode before it was locked. */
    return !err && says_rollback(g->main_fd) ? -ERR_BUSY : err;
}

/* Where to write: 0 and *off, or LEDGER_UNCHANGED if the page is right. */
static int aim(struct still *s, struct grip *g, uint32_t pgno, uint64_t sum, int *fd, int64_t *off)
{
    struct ledger *l = catalog_ledger(s->db->catalog, s->db->path);
    uint8_t *now = malloc(s->info.page_size);
    int err = now ? still_compare(s, pgno, now) : -ERR_NOMEM;
    free(now);
    if (!err)
        return LEDGER_UNCHANGED;
    if (err != -ERR_CHECKSUM && err != -ERR_IO)
        return err;
    if (ledger_page_sum(l, pgno) != sum)
        return -ERR_BUSY; /* a record has changed it, and will bring it */
    uint32_t frame = still_place(s, pgno);
    *fd = frame ? g->wal_fd : g->main_fd;
    *off = frame ? wal_frame_offset(s->info.page_size, frame) + WAL_FRAME_HEADER_SIZE
                 : (int64_t)(pgno - 1) * s->info.page_size;
    return *fd < 0 ? -ERR_BUSY : 0;
}

/*
 * The locks keep everything as it was found: on the primary from before the look, so that the own
 * mount is used without the mutex. On a replica they are taken when everything is applied, or the
 * applier could not get there; there the log is held until the page is written.
 */
static int put(struct database *db, uint32_t pgno, const void *page, uint32_t page_size)
{
    struct still s;
    struct grip g = {.main_fd = -1, .wal_fd = -1, .shm_fd = -1};
    bool primary = database_is_primary(db);
    int fd = -1;
    int64_t off = 0;
    int err = primary ? take_hold(&g, db) : 0;
    if (!err)
        err = still_begin(&s, db, STILL_MS);
    if (err) {
        release(&g);
        return err;
    }
    err = s.primary != primary || s.info.page_size != page_size ? -ERR_BUSY : 0;
    if (!err && !primary)
        err = take_hold(&g, db);
    if (!err)
        err = aim(&s, &g, pgno, checksum_page(pgno, page, page_size), &fd, &off);
    if (s.primary)
        still_end(&s);
    if (!err)
        err = file_write(fd, page, page_size, off);
    if (!s.primary && !still_end(&s) && !err)
        err = -ERR_BUSY;
    release(&g);
    return err;
}

/* A sync of an own handle does nothing: the backing file is synced. */
static int sync_file(struct database *db)
{
    char path[DATABASE_PATH_MAX];
    int fd;
    database_file_path(db, FILE_MAIN, path);
    int err = file_open(database_tree(db), path, O_RDWR | O_NOFOLLOW, 0, &fd);
    if (!err)
        err = file_sync_data(fd);
    file_close(fd);
    return err;
}

static int mend(struct database *db, struct ledger *l, uint32_t pgno, const void *page,
                const char *from)
{
    struct ledger_info info;
    ledger_info(l, &info);
    int err = put(db, pgno, page, info.page_size);
    if (err == LEDGER_UNCHANGED) {
        ledger_settle_bad(l, pgno, false);
        return 0;
    }
    if (!err)
        err = sync_file(db);
    if (err)
        return err;
    ledger_settle_bad(l, pgno, true);
    log_warn("check", "%s: page %u has been put right from %s", db->path, pgno, from);
    return 0;
}

int mend_page(void *catalog, struct ledger *l, uint32_t pgno, const void *page)
{
    struct database *db = catalog_get(catalog, ledger_name(l));
    if (!db)
        return -ERR_NOMEM;
    int err = mend(db, l, pgno, page, "the primary");
    catalog_put(db);
    return err;
}

/* ---- from the own log ---- */

struct from_log {
    struct database *db;
    struct ledger *ledger;
    bool busy; /* one was found, and could not be written now */
};

static int found(void *ctx, uint32_t pgno, const void *page)
{
    struct from_log *f = ctx;
    f->busy |= mend(f->db, f->ledger, pgno, page, "the log") == -ERR_BUSY;
    return 0;
}

int mend_from_log(struct database *db, bool *again, uint32_t *left)
{
    struct from_log f = {.db = db, .ledger = catalog_ledger(db->catalog, db->path)};
    uint32_t *pages = malloc(LEDGER_BAD_MAX * sizeof *pages);
    struct ledger_info info;
    int err = pages && f.ledger ? 0 : -ERR_NOMEM;
    *left = 0;
    if (!err) {
        uint32_t n = ledger_bad_pages(f.ledger, pages, LEDGER_BAD_MAX);
        err = n == 0 ? 0 : ledger_find_pages(f.ledger, pages, n, found, &f);
        ledger_info(f.ledger, &info);
        *left = info.bad;
    }
    *again = f.busy && *left > 0;
    free(pages);
    return err;
}
