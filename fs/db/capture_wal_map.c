/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "fs/db/capture_wal.h"
#include "fs/db/database_impl.h"
#include "ltx/base/bytes.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"

/* Which frame of the WAL holds a page: for those who read pages, and for walfix. */

/* Page numbers of the frames up to `upto` into the map. */
static int extend_map(struct database *db, uint32_t upto)
{
    struct capture_wal *w = &db->wal;
    if (memcmp(w->map_salt, w->header.salt, sizeof w->map_salt) != 0) {
        memcpy(w->map_salt, w->header.salt, sizeof w->map_salt);
        w->map_frames = 0;
    }
    if (upto > w->map_cap) {
        size_t cap = (size_t)upto + upto / 2;
        if (cap > UINT32_MAX)
            cap = UINT32_MAX;
        uint32_t *map = realloc(w->map, cap * sizeof *map);
        if (!map)
            return -ERR_NOMEM;
        w->map = map;
        w->map_cap = (uint32_t)cap;
    }
    while (w->map_frames < upto) {
        uint8_t head[16];
        int err = file_read(db->wal_fd, head, sizeof head,
                            wal_frame_offset(w->header.page_size, w->map_frames + 1));
        if (err)
            return err;
        /* What was captured belongs here also without salts: see wal_frame_unsealed. */
        bool ours = w->map_frames < w->captured ||
                    memcmp(head + 8, w->header.salt, sizeof w->header.salt) == 0;
        w->map[w->map_frames++] = ours ? get_be32(head) : 0;
    }
    return 0;
}

/* How many frames the file has, also such as were not captured. */
static int all_frames(struct database *db, uint32_t *count)
{
    struct capture_wal *w = &db->wal;
    int64_t size = 0;
    int err = capture_wal_load_header(db);
    if (!err && w->valid)
        err = file_size(db->wal_fd, &size);
    *count = size > WAL_HEADER_SIZE ? wal_frame_at(w->header.page_size, size) - 1 : 0;
    w->map_frames = 0; /* others write this file; what was read before may be stale */
    return err;
}

int capture_wal_find(struct database *db, uint32_t pgno, bool any, uint32_t *frame)
{
    struct capture_wal *w = &db->wal;
    uint32_t upto = w->captured;
    *frame = 0;
    int err = database_open_wal(db);
    if (err)
        return err == -ERR_NOTFOUND ? 0 : err;
    if (any)
        err = all_frames(db, &upto);
    if (err || !w->valid || upto == 0)
        return err;
    err = extend_map(db, upto);
    for (uint32_t f = upto; !err && f > 0 && *frame == 0; f--)
        if (w->map[f - 1] == pgno)
            *frame = f;
    return err;
}

uint32_t capture_wal_frame_of(struct database *db, uint32_t pgno, bool any)
{
    uint32_t frame;
    return capture_wal_find(db, pgno, any, &frame) == 0 ? frame : 0;
}

void capture_wal_newest(struct database *db, uint32_t count, uint32_t *frame)
{
    struct capture_wal *w = &db->wal;
    if (!w->valid || w->captured == 0 || database_open_wal(db) != 0 ||
        extend_map(db, w->captured) != 0)
        return;
    for (uint32_t f = 1; f <= w->captured; f++)
        if (w->map[f - 1] > 0 && w->map[f - 1] <= count)
            frame[w->map[f - 1] - 1] = f;
}

int capture_wal_read_page(struct database *db, uint32_t page_size, uint32_t pgno, void *page)
{
    struct capture_wal *w = &db->wal;
    uint32_t f = 0;
    int err = w->valid && w->captured > 0 ? capture_wal_find(db, pgno, false, &f) : 0;
    if (err)
        return err;
    return f ? file_read(db->wal_fd, page, page_size,
                         wal_frame_offset(page_size, f) + WAL_FRAME_HEADER_SIZE)
             : database_read_main(db, page_size, pgno, page);
}
