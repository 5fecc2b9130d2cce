/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "fs/db/catalog.h"
#include "fs/db/database_impl.h"
#include "fs/db/mend.h"
#include "fs/db/stock.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"

/*
 * The current content of a page lies in the database file or in a frame of the WAL. Which of them
 * does not matter here: the one whose checksum the ledger holds is it. If none matches, a
 * transaction is changing the page (-ERR_BUSY), or, when nothing is going on, the file is damaged.
 */

#define DAMAGE_MS 1000

static bool matches(const void *page, uint32_t pgno, uint32_t page_size, uint64_t sum)
{
    return checksum_page(pgno, page, page_size) == sum;
}

static bool in_wal(struct database *db, uint32_t pgno, uint32_t page_size, uint64_t sum, void *page)
{
    bool replica = role_get(database_role(db)) != ROLE_PRIMARY;
    uint32_t f = capture_wal_frame_of(db, pgno, replica);
    if (f == 0 || db->wal.header.page_size != page_size)
        return false;
    int64_t off = wal_frame_offset(page_size, f) + WAL_FRAME_HEADER_SIZE;
    return file_read(db->wal_fd, page, page_size, off) == 0 && matches(page, pgno, page_size, sum);
}

/* Nothing is going on that could explain a page that does not match. */
static bool at_rest(struct database *db)
{
    return !db->journal_hot && !db->committing && !dirty_any(&db->dirty) &&
           position_equal(ledger_last(db->ledger), ledger_applied(db->ledger));
}

/*
 * Between the looks at the file and at the WAL a checkpoint may have moved the page, or an applier
 * may have written it. Only what stays so for a while, with nothing going on, is damage.
 */
static int unmatched(struct database *db, uint32_t pgno)
{
    struct position last = ledger_last(db->ledger);
    bool same = db->suspect == pgno && position_equal(db->suspect_at, last);
    if (!at_rest(db) || !same) {
        db->suspect = pgno;
        db->suspect_at = last;
        db->suspect_since = mono_now();
        return -ERR_BUSY;
    }
    if (mono_since_ms(db->suspect_since) < DAMAGE_MS)
        return -ERR_BUSY;
    (void)ledger_note_bad(db->ledger, pgno); /* if there is no room, there are others to mend */
    return -ERR_DAMAGED;
}

static int read_page(void *ctx, struct ledger *l, uint32_t pgno, void *page, uint32_t *page_size)
{
    struct catalog *c = ctx;
    struct ledger_info info;
    struct database *db = catalog_get(c, ledger_name(l));
    if (!db)
        return -ERR_NOMEM;
    mutex_lock(&db->mutex);
    if (!db->ledger)
        db->ledger = l;
    ledger_info(l, &info);
    uint64_t sum = ledger_page_sum(l, pgno);
    int err = 0;
    if (info.damaged)
        err = -ERR_DAMAGED;
    else if (pgno == 0 || pgno > info.commit || pgno == ltx_lock_pgno(info.page_size))
        err = -ERR_NOTFOUND;
    else if (database_read_main(db, info.page_size, pgno, page) == 0 &&
             matches(page, pgno, info.page_size, sum))
        err = 0;
    else if (!in_wal(db, pgno, info.page_size, sum, page))
        err = unmatched(db, pgno);
    mutex_unlock(&db->mutex);
    catalog_put(db);
    if (!err)
        *page_size = info.page_size;
    return err;
}

struct page_reader catalog_page_reader(struct catalog *c)
{
    return (struct page_reader){
        .read = read_page, .stock = stock_take, .mend = mend_page, .ctx = c};
}
