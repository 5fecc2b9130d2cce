/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "fs/db/capture_wal.h"
#include "fs/db/database_impl.h"
#include "ltx/base/logger.h"
#include "ltx/checksum.h"

/*
 * The last captured transaction, if SQLite's connections do not have it. Either its writer died (then
 * walfix.h makes them see it), or it lives and failed after its commit frame: the wal-index could not
 * grow, say. Its client was told so, and the next transaction begins where that one began.
 */

static bool page_in_file(struct database *db, uint32_t pgno)
{
    uint8_t page[LTX_MAX_PAGE_SIZE];
    uint32_t page_size = db->wal.header.page_size;
    uint64_t sum = ledger_page_sum(db->ledger, pgno);
    return sum == 0 || database_read_main(db, page_size, pgno, page) != 0 ||
           checksum_page(pgno, page, page_size) == sum;
}

void capture_wal_witness(struct database *db, const uint64_t *keys, uint32_t n, uint64_t *before)
{
    db->wal.witness = 0;
    for (uint32_t i = 0; i < n && db->wal.witness == 0; i++) {
        uint32_t pgno = (uint32_t)(keys[i] >> 32);
        if (ledger_page_sum(db->ledger, pgno) != before[i])
            db->wal.witness = pgno;
    }
}

bool capture_wal_last_in_file(struct database *db)
{
    struct capture_wal *w = &db->wal;
    if (!w->valid || w->captured == w->before.frame || !db->ledger || database_open_main(db) != 0)
        return true;
    if (w->witness)
        return page_in_file(db, w->witness);
    capture_wal_frame_of(db, 1, false); /* reads the page numbers of all captured frames */
    for (uint32_t f = w->before.frame; f < w->captured && f < w->map_frames; f++)
        if (!page_in_file(db, w->map[f]))
            return false;
    return true;
}

bool capture_wal_unseen(struct database *db, const uint8_t salt[8], uint32_t mx_frame)
{
    struct capture_wal *w = &db->wal;
    if (!w->valid || w->captured == 0 || w->foreign)
        return false;
    if (memcmp(salt, w->header.salt, sizeof w->header.salt) == 0)
        return mx_frame < w->captured;
    /* The salts of a WAL that begins anew may be known to its first writer alone, until that enters
     * its frames. An index that is ahead, with salts for the next round, has all of this one in the
     * database file. */
    return mx_frame == 0 && w->before.frame == 0 && !capture_wal_last_in_file(db);
}

bool capture_wal_may_take_back(const struct database *db, int64_t off)
{
    const struct capture_wal *w = &db->wal;
    return w->captured > w->before.frame &&
           off == wal_frame_offset(w->header.page_size, w->before.frame + 1);
}

void capture_wal_take_back(struct database *db)
{
    struct capture_wal *w = &db->wal;
    capture_wal_frame_of(db, 1, false);
    if (w->map_frames < w->captured)
        db->dirty.all = true;
    for (uint32_t f = w->before.frame; f < w->captured && !db->dirty.all; f++)
        dirty_add_page(&db->dirty, w->map[f]);
    db->dirty.size = true;
    db->dirty.last_write = mono_now();
    log_info("capture",
             "%s: a transaction was taken back after its commit frame was written; the next record "
             "takes it back, too",
             db->path);
    if (w->map_frames > w->before.frame)
        w->map_frames = w->before.frame;
    w->captured = w->before.frame;
    w->captured_cksum[0] = w->before.cksum[0];
    w->captured_cksum[1] = w->before.cksum[1];
    w->captured_commit = w->before.commit;
    w->captured_unsealed = w->before.unsealed;
    w->broken = w->before.broken;
    w->header_alone = w->overwritten = w->witness = 0;
    w->chunk_count = 0;
    capture_wal_rewind(w);
}
