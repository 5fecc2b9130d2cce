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
#include "ltx/base/bytes.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"

/* ---- a wal-index that is behind ---- */

/* What was captured, copied out: the own mount must not be touched under the database's mutex. */
struct captured {
    struct wal_header header;
    uint32_t frame, commit;
    uint32_t cksum[2];
    uint32_t *pgno; /* by frame number - 1 */
};

/* Nothing (frame 0) unless the index with that header lacks some of it. */
static int copy_captured(struct database *db, const struct walindex_header *index,
                         struct captured *out)
{
    struct capture_wal *w = &db->wal;
    struct ledger_info info;
    int err = 0;

    mutex_lock(&db->mutex);
    if (db->ledger && capture_wal_unseen(db, index->salt, index->mx_frame)) {
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
    uint32_t backfilled = 0;

    int err = walindex_read(index, &h);
    if (err == -ERR_BUSY)
        return 0; /* the next SQLite connection recovers it from the file, and finds the frames */
    if (!err)
        err = walindex_backfill(index, &backfilled);
    if (!err)
        err = copy_captured(db, &h, &c);
    if (err || c.frame == 0 || backfilled > h.mx_frame)
        goto out;
    uint32_t before = h.mx_frame;
    for (uint32_t f = before + 1; !err && f <= c.frame; f++)
        err = walindex_append(index, f, c.pgno[f - 1], before);
    if (err)
        goto out;
    h.mx_frame = c.frame;
    h.page_count = c.commit;
    memcpy(h.salt, c.header.salt, sizeof h.salt);
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

/* ---- frames without checksums ---- */

/* Whose frames are given new checksums, and where to begin. */
struct mending {
    struct wal_header header;
    uint32_t first, last;
    uint32_t cksum[2];
};

static bool what_to_mend(struct database *db, struct mending *m)
{
    struct capture_wal *w = &db->wal;
    mutex_lock(&db->mutex);
    m->header = w->header;
    m->first = w->broken;
    m->last = w->captured;
    memcpy(m->cksum, w->header.cksum, sizeof m->cksum);
    bool needed = w->valid && w->broken > 0;
    mutex_unlock(&db->mutex);
    return needed;
}

static int seal_frames(int fd, struct mending *m)
{
    uint32_t page_size = m->header.page_size;
    size_t size = (size_t)wal_frame_size(page_size);
    uint8_t head[WAL_FRAME_HEADER_SIZE], *frame = malloc(size);
    int err = frame ? 0 : -ERR_NOMEM;
    if (!err && m->first > 1) {
        err = file_read(fd, head, sizeof head, wal_frame_offset(page_size, m->first - 1));
        m->cksum[0] = get_be32(head + 16);
        m->cksum[1] = get_be32(head + 20);
    }
    for (uint32_t f = m->first; !err && f <= m->last; f++) {
        err = file_read(fd, frame, size, wal_frame_offset(page_size, f));
        if (err)
            break;
        struct wal_frame is = {.pgno = get_be32(frame), .commit = get_be32(frame + 4)};
        wal_frame_build(&m->header, frame, is, m->cksum);
        err = file_write(fd, frame, WAL_FRAME_HEADER_SIZE, wal_frame_offset(page_size, f));
    }
    free(frame);
    return err;
}

/* The next writer continues from the checksum that stands in the wal-index. */
static int publish_checksum(struct walindex *index, const struct mending *m)
{
    struct walindex_header h;
    int err = walindex_read(index, &h);
    if (err == -ERR_BUSY)
        return 0; /* SQLite builds it from the file, which is right now */
    if (err || h.mx_frame != m->last || memcmp(h.salt, m->header.salt, sizeof h.salt) != 0)
        return err;
    memcpy(h.frame_cksum, m->cksum, sizeof h.frame_cksum);
    return walindex_publish(index, &h);
}

/* No frame is added meanwhile: WAL_WRITE is held, or nobody has a wal-index (`index` is NULL). */
static int mend(struct database *db, struct walindex *index)
{
    char path[DATABASE_PATH_MAX];
    struct mending m;
    int fd;
    if (!what_to_mend(db, &m))
        return 0;
    snprintf(path, sizeof path, "%s/%s-wal", catalog_mountpoint(db->catalog), db->path);
    own_enter();
    int err = file_open(AT_FDCWD, path, O_RDWR | O_NOFOLLOW, 0, &fd);
    own_leave();
    if (err)
        return err == -ERR_NOTFOUND ? 0 : err;
    err = seal_frames(fd, &m);
    file_close(fd);
    if (!err) {
        mutex_lock(&db->mutex);
        capture_wal_mended(db, m.cksum);
        mutex_unlock(&db->mutex);
        err = index ? publish_checksum(index, &m) : 0;
    }
    if (!err)
        log_debug("capture", "%s-wal: frames %u to %u have checksums now", db->path, m.first,
                  m.last);
    return err;
}

/* ---- both ---- */

static int open_main(struct database *db, int *fd)
{
    char path[DATABASE_PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", catalog_mountpoint(db->catalog), db->path);
    own_enter();
    int err = file_open(AT_FDCWD, path, O_RDONLY | O_NOFOLLOW, 0, fd);
    own_leave();
    return err;
}

/* SHARED: a connection with exclusive locks has no wal-index to lock, and nobody else may write
 * then. */
static int open_database(struct database *db, int *fd)
{
    int err = open_main(db, fd);
    return err ? err : lock_database_shared(*fd);
}

/* WAL_WRITE is held. */
static int fix_index(struct database *db, int shm_fd)
{
    struct walindex index;
    walindex_init_copy(&index, shm_fd);
    int err = mend(db, &index);
    if (!err)
        err = bring_forward(db, &index);
    walindex_fini(&index);
    return err;
}

static int fix_with_lock(struct database *db, int shm_fd)
{
    int err = lock_exclusive(shm_fd, LOCK_SHM_WRITE, 1);
    if (err)
        return err;
    err = fix_index(db, shm_fd);
    lock_release(shm_fd, LOCK_SHM_WRITE, 1);
    return err;
}

static int open_index(struct database *db, int *fd)
{
    char path[DATABASE_PATH_MAX];
    snprintf(path, sizeof path, "%s/%s-shm", catalog_mountpoint(db->catalog), db->path);
    own_enter();
    int err = file_open(AT_FDCWD, path, O_RDWR | O_NOFOLLOW, 0, fd);
    own_leave();
    return err;
}

/* What the wal-index lacks of what has been captured, at one moment. */
struct lag {
    bool behind;
    uint32_t captured; /* frames, of the WAL with */
    uint8_t salt[8];
};

static int measure(struct database *db, int shm_fd, struct lag *out)
{
    struct walindex_header h;
    int err = walindex_peek(shm_fd, &h);
    *out = (struct lag){0};
    if (err) /* a torn header is being written, or makes the next connection read the file */
        return err == -ERR_BUSY ? 0 : err;
    mutex_lock(&db->mutex);
    out->behind = capture_wal_unseen(db, h.salt, h.mx_frame);
    out->captured = db->wal.captured;
    memcpy(out->salt, db->wal.header.salt, sizeof out->salt);
    mutex_unlock(&db->mutex);
    return 0;
}

/*
 * Without any lock, which a client could meet: mostly a connection has just been closed. *behind only if nobody
 * is at work: the commit that the index lacks was there before it was seen that there is no writer, and he
 * enters his frames before he gives his lock away. -ERR_BUSY: to be looked at again.
 */
static int look_at_index(struct database *db, int shm_fd, bool *behind)
{
    struct lag first, again = {0};
    pid_t writer;
    int err = measure(db, shm_fd, &first);
    *behind = false;
    if (err || !first.behind)
        return err;
    err = lock_holder(shm_fd, LOCK_SHM_WRITE, &writer);
    if (!err)
        err = writer ? -ERR_BUSY : measure(db, shm_fd, &again);
    if (err || !again.behind)
        return err;
    *behind =
        first.captured == again.captured && memcmp(first.salt, again.salt, sizeof first.salt) == 0;
    return *behind ? 0 : -ERR_BUSY;
}

/* The locks that sealing takes may be in the way of clients that do not wait for any: as long as somebody has
 * the wal-index open, it waits for the close (dying.h). */
static int is_needed(struct database *db, bool closing, bool *needed)
{
    struct capture_wal *w = &db->wal;
    int fd = -1;
    mutex_lock(&db->mutex);
    bool captured = w->valid && w->captured > 0;
    *needed = w->broken > 0 && (closing || db->handles[FILE_SHM] == 0);
    mutex_unlock(&db->mutex);
    if (*needed || !captured)
        return 0;
    int err = open_index(db, &fd);
    if (err)
        return err == -ERR_NOTFOUND ? 0 : err;
    err = look_at_index(db, fd, needed);
    file_close(fd);
    return err;
}

static void in_line(struct database *db)
{
    mutex_lock(&db->mutex);
    db->wal.index_behind = false;
    mutex_unlock(&db->mutex);
}

static void fixed(struct database *db, int err)
{
    if (!err || err == -ERR_NOTFOUND)
        in_line(db);
    else if (err != -ERR_BUSY)
        log_error("capture", "%s: its WAL cannot be brought in line with what was captured: %s",
                  db->path, err_text(err));
}

static void fix(struct database *db, bool closing)
{
    int main_fd = -1, shm_fd = -1;
    bool needed;

    int err = is_needed(db, closing, &needed);
    if (err || !needed) {
        fixed(db, err);
        return;
    }
    err = open_database(db, &main_fd);
    if (!err) {
        err = open_index(db, &shm_fd);
        /* Nobody shares it: the next connection builds it from the file. */
        err = err == -ERR_NOTFOUND ? mend(db, NULL) : err ? err : fix_with_lock(db, shm_fd);
    }
    fixed(db, err);
    file_close(shm_fd);
    file_close(main_fd);
}

void walfix(struct database *db)
{
    fix(db, false);
}

/* A connection with exclusive locks keeps its wal-index to itself: it goes with the process. */
static int fix_of_exclusive(struct database *db, pid_t pid)
{
    pid_t holder = 0;
    int fd, err = open_main(db, &fd);
    if (err)
        return err;
    err = lock_holder(fd, LOCK_SHARED_FIRST, &holder);
    if (!err && holder == pid && lock_database_is_written(fd))
        err = mend(db, NULL);
    file_close(fd);
    return err;
}

void walfix_of_closing(struct database *db, pid_t pid)
{
    pid_t holder = 0;
    int shm_fd, err = open_index(db, &shm_fd);
    if (err == -ERR_NOTFOUND && pid > 0)
        fixed(db, fix_of_exclusive(db, pid));
    if (err)
        return; /* the settler looks again when its files are closed */
    err = lock_holder(shm_fd, LOCK_SHM_WRITE, &holder);
    if (!err && holder > 0 && holder == pid)
        fixed(db, fix_index(db, shm_fd));
    file_close(shm_fd);
    if (!err && holder == 0)
        fix(db, true);
}
