/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "fs/db/catalog.h"
#include "fs/db/database_impl.h"
#include "fs/db/header.h"
#include "fs/db/stock.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"

/*
 * Of a damaged database nothing is known but what its files hold: the database file, and over it
 * the frames of the -wal that SQLite would find. Without a header that SQLite takes for one a -wal
 * does not count: the applier removes it before it writes a header.
 */

#define AT_ONCE 256 /* pages between two moments in which others may have the mutex */

struct taking {
    struct database *db;
    uint32_t page_size, count;
    uint32_t *frame; /* by page number - 1: the frame that holds it, 0 = the database file does */
    uint8_t *page;
};

/* Pages that the database has, as its clients see it. */
static int measure(struct taking *t, const struct ledger_info *info)
{
    struct database *db = t->db;
    struct db_header h;
    int64_t size;

    t->page_size = info->page_size;
    database_close_files(db);
    int err = database_open_main(db);
    if (!err)
        err = file_size(db->main_fd, &size);
    if (err)
        return err;
    err = db_header_read(db->main_fd, &h);
    if (!err) {
        t->page_size = h.page_size;
        err = capture_wal_attach_sealed(db);
    } else if (err == -ERR_NOTFOUND) {
        capture_wal_reset(db);
        err = 0;
    }
    if (!ltx_page_size_valid(t->page_size))
        err = err ? err : -ERR_NOTFOUND;
    if (err)
        return err;
    if (db->wal.valid && db->wal.captured > 0) {
        t->page_size = db->wal.header.page_size;
        t->count = db->wal.captured_commit;
        return 0;
    }
    int64_t pages = (size + t->page_size - 1) / t->page_size;
    t->count = pages > UINT32_MAX - 1 ? UINT32_MAX - 1 : (uint32_t)pages;
    return 0;
}

static int begin(struct taking *t, struct ledger *l, struct page_stock *stock)
{
    struct ledger_info info;

    ledger_info(l, &info);
    if (t->db->applying)
        return -ERR_BUSY;
    if (!info.damaged)
        return -ERR_INVALID;
    if (!t->db->ledger)
        t->db->ledger = l;
    t->db->backed = (struct position){0}; /* the file is at no position that the log leads to */
    int err = measure(t, &info);
    if (err)
        return err == -ERR_NOTFOUND ? 0 : err;
    t->page = malloc(t->page_size);
    t->frame = calloc(t->count + 1u, sizeof *t->frame);
    if (!t->page || !t->frame)
        return -ERR_NOMEM;
    capture_wal_newest(t->db, t->count, t->frame);
    return pagesums_resize(&stock->sums, t->count);
}

static int sum_page(struct taking *t, uint32_t pgno, struct pagesums *sums)
{
    struct database *db = t->db;
    uint32_t f = t->frame[pgno - 1];
    int err = f ? file_read(db->wal_fd, t->page, t->page_size,
                            wal_frame_offset(t->page_size, f) + WAL_FRAME_HEADER_SIZE)
                : database_read_main(db, t->page_size, pgno, t->page);
    /* What the disk does not give is fetched like what is wrong. */
    return err ? 0 : pagesums_set(sums, pgno, checksum_page(pgno, t->page, t->page_size));
}

static int sum_pages(struct taking *t, struct page_stock *stock)
{
    int err = 0;
    if (t->count == 0) /* there is no file, or nothing in it; nor need a page size be known */
        return 0;
    uint32_t lock_pgno = ltx_lock_pgno(t->page_size);

    for (uint32_t pgno = 1; !err && pgno <= t->count;) {
        mutex_lock(&t->db->mutex);
        for (uint32_t n = 0; !err && n < AT_ONCE && pgno <= t->count; n++, pgno++)
            if (pgno != lock_pgno)
                err = sum_page(t, pgno, &stock->sums);
        mutex_unlock(&t->db->mutex);
        if (!err && stock->go_on && !stock->go_on(stock->ctx, pgno - 1, t->count))
            err = -ERR_CLOSED;
    }
    return err;
}

int stock_take(void *catalog, struct ledger *l, struct page_stock *stock)
{
    struct taking t = {.db = catalog_get(catalog, ledger_name(l))};

    if (!t.db)
        return -ERR_NOMEM;
    mutex_lock(&t.db->mutex);
    int err = begin(&t, l, stock);
    mutex_unlock(&t.db->mutex);
    if (!err)
        err = sum_pages(&t, stock);
    if (err != -ERR_BUSY) {
        mutex_lock(&t.db->mutex);
        capture_wal_reset(t.db);
        database_close_files(t.db);
        mutex_unlock(&t.db->mutex);
    }
    stock->page_size = t.page_size;
    if (err)
        pagesums_fini(&stock->sums);
    free(t.frame);
    free(t.page);
    catalog_put(t.db);
    return err;
}
