/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/db/walfix.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/db/database_impl.h"
#include "fs/db/locks.h"
#include "fs/db/own.h"
#include "fs/db/walindex.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"

/* What was captured, copied out: the own mount must not be touched under the database's mutex. */
struct captured {
    struct wal_header header;
    uint32_t frame, commit;
    uint32_t cksum[2];
    uint32_t *pgno; /* by frame number - 1 */
};

static int copy_captured(struct database *db, struct captured *out)
{
    struct capture_wal *w = &db->wal;
    struct ledger_info info;
    int err = 0;

    mutex_lock(&db->mutex);
    if (w->valid && db->ledger && w->captured > 0) {
        ledger_info(db->ledger, &info);
        capture_wal_frame_of(db, 1, false); /* reads the page numbers of all captured frames */
        out->pgno = malloc(w->captured * sizeof *out->pgno);
        err = !out->pgno ? -ERR_NOMEM : w->map_frames < w->captured ? -ERR_IO : 0;
        if (!err) {
            memcpy(out->pgno, w->map, w->captured * sizeof *out->pgno);
            out->header = w->header;
            out->frame = w->captured;
            out->commit = info.commit;
            memcpy(out->cksum, w->captured_cksum, sizeof out->cksum);
        }
    }
    mutex_unlock(&db->mutex);
    return err;
}

/* WAL_WRITE is held, so no frame is added meanwhile. */
static int bring_forward(struct database *db, struct walindex *index)
{
    struct captured c = {0};
    struct walindex_header h;

    int err = walindex_read(index, &h);
    if (err == -ERR_BUSY)
        return 0; /* the next SQLite connection recovers it from the file, and finds the frames */
    if (!err)
        err = copy_captured(db, &c);
    if (err || memcmp(h.salt, c.header.salt, sizeof h.salt) != 0 || h.mx_frame >= c.frame)
        goto out;
    uint32_t before = h.mx_frame;
    for (uint32_t f = before + 1; !err && f <= c.frame; f++)
        err = walindex_append(index, f, c.pgno[f - 1], before);
    if (err)
        goto out;
    h.mx_frame = c.frame;
    h.page_count = c.commit;
    memcpy(h.frame_cksum, c.cksum, sizeof h.frame_cksum);
    h.big_endian = c.header.big_endian;
    h.page_size = walindex_page_size_field(c.header.page_size);
    err = walindex_publish(index, &h);
    if (!err)
        log_info("capture",
                 "%s: %u frames of a writer that died after its commit are now in the wal-index",
                 db->path, c.frame - before);
out:
    free(c.pgno);
    return err;
}

void walfix(struct database *db)
{
    char path[DATABASE_PATH_MAX];
    struct walindex index;
    int fd;

    snprintf(path, sizeof path, "%s/%s-shm", catalog_mountpoint(db->catalog), db->path);
    own_enter();
    int err = file_open(AT_FDCWD, path, O_RDWR | O_NOFOLLOW, 0, &fd);
    own_leave();
    if (err == -ERR_NOTFOUND) { /* nobody shares it: the next connection builds it from the file */
        mutex_lock(&db->mutex);
        db->wal.index_behind = false;
        mutex_unlock(&db->mutex);
        return;
    }
    if (err)
        return;
    walindex_init(&index, fd);
    err = lock_exclusive(fd, LOCK_SHM_WRITE, 1);
    if (!err) {
        err = bring_forward(db, &index);
        if (!err) {
            mutex_lock(&db->mutex);
            db->wal.index_behind = false;
            mutex_unlock(&db->mutex);
        }
        lock_release(fd, LOCK_SHM_WRITE, 1);
    }
    if (err && err != -ERR_BUSY)
        log_error("capture", "%s: its wal-index cannot be brought forward: %s", db->path,
                  err_text(err));
    walindex_fini(&index);
    file_close(fd);
}
