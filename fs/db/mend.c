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
#include "fs/db/replica.h"
#include "fs/db/still.h"
#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"

#define STILL_MS 100
#define PENDING_MS 50
#define PAUSE_US 1000
#define APPLIER_MS 3000 /* until the applier looks */

/* Must the page be mended? 0 and its frame, or LEDGER_UNCHANGED if it is right. `sum` is that of the
 * content. */
static int aim(struct still *s, uint32_t pgno, uint64_t sum, uint32_t *frame)
{
    struct ledger *l = catalog_ledger(s->db->catalog, s->db->path);
    uint8_t *now = malloc(s->info.page_size);
    int err = now ? still_compare(s, pgno, now) : -ERR_NOMEM;
    free(now);
    if (!err)
        return LEDGER_UNCHANGED;
    if (err != -ERR_CHECKSUM && err != -ERR_IO)
        return err;
    *frame = still_place(s, pgno);
    /* If a record has changed it meanwhile it also brings it. */
    return ledger_page_sum(l, pgno) == sum ? 0 : -ERR_BUSY;
}

static int64_t offset_of(uint32_t pgno, uint32_t frame, uint32_t page_size)
{
    return frame ? wal_frame_offset(page_size, frame) + WAL_FRAME_HEADER_SIZE
                 : (int64_t)(pgno - 1) * page_size;
}

/* ---- primary ---- */

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
 * that are in have left; RESERVED comes first, so that no writer is held up by it. */
static int lock_file(struct grip *g)
{
    struct mono start = mono_now();
    for (;;) {
        int err = lock_database_exclusive(g->main_fd);
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
    return err;
}

static bool says_rollback(int fd)
{
    struct db_header h;
    return db_header_read(fd, &h) == 0 && !h.wal;
}

static int take_hold(struct grip *g)
{
    int err = open_own(g->db, "", &g->main_fd);
    if (err)
        return err;
    err = open_own(g->db, "-wal", &g->wal_fd);
    if (!err)
        err = open_own(g->db, "-shm", &g->shm_fd);
    if (err && err != -ERR_NOTFOUND)
        return err;
    if (g->shm_fd < 0 || says_rollback(g->main_fd))
        return lock_file(g);
    err = lock_wal(g);
    /* It may have left WAL mode before it was locked. */
    return !err && says_rollback(g->main_fd) ? -ERR_BUSY : err;
}

/* The locks keep everything as it was found: the own mount is not used under the mutex. */
static int put_locked(struct grip *g, uint32_t pgno, const void *page, uint32_t page_size)
{
    struct still s;
    uint32_t frame = 0;
    int err = still_begin(&s, g->db, STILL_MS);
    if (err)
        return err;
    if (!s.primary || s.info.page_size != page_size)
        err = -ERR_BUSY;
    if (!err)
        err = aim(&s, pgno, checksum_page(pgno, page, page_size), &frame);
    if (!still_end(&s) && !err)
        err = -ERR_BUSY;
    int fd = frame ? g->wal_fd : g->main_fd;
    if (!err)
        err =
            fd < 0 ? -ERR_BUSY : file_write(fd, page, page_size, offset_of(pgno, frame, page_size));
    return err;
}

/* This node was a replica until a moment ago, and the applier's handles are still there. */
static bool was_replica(struct catalog *c)
{
    mutex_lock(&c->mutex);
    bool held = c->held != NULL;
    mutex_unlock(&c->mutex);
    return held;
}

static int put_on_primary(struct database *db, uint32_t pgno, const void *page, uint32_t page_size)
{
    struct grip g = {.db = db, .main_fd = -1, .wal_fd = -1, .shm_fd = -1};
    if (was_replica(db->catalog))
        return -ERR_BUSY;
    int err = take_hold(&g);
    if (!err)
        err = put_locked(&g, pgno, page, page_size);
    release(&g);
    return err;
}

/* ---- replica ---- */

struct mend_order {
    uint32_t pgno, page_size;
    const void *page;
    bool taken, done;
    int result;
};

static int put_in_place(struct replica *r, struct still *s, const struct mend_order *o)
{
    uint32_t frame = 0;
    int err = aim(s, o->pgno, checksum_page(o->pgno, o->page, o->page_size), &frame);
    if (!err)
        err = replica_begin_mend(r, frame > 0);
    if (err)
        return err;
    err = file_write(frame ? r->wal_fd : r->main_fd, o->page, o->page_size,
                     offset_of(o->pgno, frame, o->page_size));
    replica_end_mend(r);
    return err;
}

/* On the applier's thread, so that nothing is applied meanwhile; and nothing is received. */
static int serve(struct replica *r, const struct mend_order *o)
{
    struct still s;
    int err = still_begin(&s, r->db, 0);
    if (err)
        return err;
    err = s.primary || s.info.page_size != o->page_size ? -ERR_BUSY : put_in_place(r, &s, o);
    still_end(&s);
    return err;
}

bool mend_is_ordered(struct database *db)
{
    return db->mend != NULL; /* without the mutex: it is asked at each record */
}

void mend_serve(struct replica *r)
{
    struct database *db = r->db;
    mutex_lock(&db->mutex);
    struct mend_order *o = db->mend;
    db->mend = NULL;
    if (o)
        o->taken = true;
    mutex_unlock(&db->mutex);
    if (!o)
        return;
    int result = serve(r, o);
    mutex_lock(&db->mutex);
    o->result = result;
    o->done = true;
    cond_broadcast(&db->mended);
    mutex_unlock(&db->mutex);
}

static int put_on_replica(struct database *db, uint32_t pgno, const void *page, uint32_t page_size)
{
    struct mend_order o = {.pgno = pgno, .page_size = page_size, .page = page, .result = -ERR_BUSY};
    struct mono start = mono_now();
    mutex_lock(&db->mutex);
    bool mine = db->mend == NULL;
    if (mine)
        db->mend = &o;
    mutex_unlock(&db->mutex);
    if (!mine)
        return -ERR_BUSY;
    feed_wake(&store_feeds(database_store(db))->published); /* the appliers look */
    mutex_lock(&db->mutex);
    while (!o.done && (o.taken || mono_since_ms(start) < APPLIER_MS))
        cond_wait_ms(&db->mended, &db->mutex, APPLIER_MS);
    if (!o.taken)
        db->mend = NULL;
    mutex_unlock(&db->mutex);
    return o.result;
}

/* ---- both ---- */

/* A sync of an own handle does nothing: the backing file is synced. */
static int sync_file(struct database *db)
{
    char path[DATABASE_PATH_MAX];
    int fd;
    database_file_path(db, FILE_MAIN, path);
    int err = file_open(database_tree(db), path, O_RDWR | O_NOFOLLOW, 0, &fd);
    if (err)
        return err;
    err = file_sync_data(fd);
    file_close(fd);
    return err;
}

static int mend(struct database *db, struct ledger *l, uint32_t pgno, const void *page,
                const char *from)
{
    struct ledger_info info;
    ledger_info(l, &info);
    int err = database_is_primary(db) ? put_on_primary(db, pgno, page, info.page_size)
                                      : put_on_replica(db, pgno, page, info.page_size);
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
