/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/db/capture_wal.h"
#include "fs/db/database_impl.h"
#include "ltx/base/bytes.h"
#include "ltx/base/file.h"

/* What one write to the -wal means: which frames it completes, and which it may not touch. */

/* A frame that is appended sealed says that no earlier one waits for it. */
static int appended(struct database *db, uint32_t frame)
{
    struct capture_wal *w = &db->wal;
    uint8_t head[WAL_FRAME_HEADER_SIZE];
    struct wal_frame f;
    int64_t off = wal_frame_offset(w->header.page_size, frame);
    int err = file_read(db->wal_fd, head, sizeof head, off);
    if (!err && !wal_frame_unsealed(head, &f))
        w->overwritten = 0;
    return err;
}

/*
 * A header that is written alone may complete its frame, too: SQLite seals frames so (wal.h). Or its
 * page is about to follow, and what lies there of an earlier round is the same: then it is captured
 * now, and capture_wal_overwrites lets the page pass.
 */
int capture_wal_completed(struct database *db, int64_t off, int64_t end, uint32_t *first,
                          uint32_t *last)
{
    struct capture_wal *w = &db->wal;
    uint32_t page_size = w->header.page_size;
    uint32_t at = wal_frame_at(page_size, end - 1);
    int64_t start = wal_frame_offset(page_size, at);
    bool after_header = w->header_alone == at;
    *first = wal_frame_at(page_size, off < WAL_HEADER_SIZE ? WAL_HEADER_SIZE : off);

    if (off == start && end - off == WAL_FRAME_HEADER_SIZE) {
        w->header_alone = *last = at;
        return 0;
    }
    if (off == start + WAL_FRAME_HEADER_SIZE && !after_header &&
        (w->overwritten == 0 || at < w->overwritten))
        w->overwritten = at;
    bool whole = end == wal_frame_offset(page_size, at + 1);
    *last = 0;
    if (!whole && off > start)
        return 0; /* a piece of its page: the rest comes */
    w->header_alone = 0;
    int err = w->overwritten && whole && (after_header || off <= start) ? appended(db, at) : 0;
    if (!whole)
        at--;
    if (at >= *first)
        *last = at;
    return err;
}

/* Is there a commit frame among them, perhaps? */
bool capture_wal_may_commit(struct database *db, uint32_t first, uint32_t last)
{
    uint8_t commit[4];
    if (last == 0 || last > first)
        return last > 0;
    return file_read(db->wal_fd, commit, sizeof commit,
                     wal_frame_offset(db->wal.header.page_size, last) + 4) != 0 ||
           get_be32(commit) != 0;
}

int capture_wal_may_write(struct database *db, int64_t off)
{
    struct capture_wal *w = &db->wal;
    if (w->refused == 0)
        return 0;
    if (off > wal_frame_offset(w->header.page_size, w->refused))
        return w->refused_why;
    w->refused = 0;
    return 0;
}

bool capture_wal_overwrites(const struct database *db, int64_t off)
{
    const struct capture_wal *w = &db->wal;
    if (!w->valid || w->captured == 0 || off < WAL_HEADER_SIZE)
        return false;
    uint32_t frame = wal_frame_at(w->header.page_size, off);
    bool page_follows =
        frame == w->header_alone && off > wal_frame_offset(w->header.page_size, frame);
    return frame < w->captured || (frame == w->captured && !page_follows);
}
