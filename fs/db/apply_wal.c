/* SPDX-License-Identifier: Apache-2.0 */
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#include "fs/db/database_impl.h"
#include "fs/db/header.h"
#include "fs/db/locks.h"
#include "fs/db/replica.h"
#include "fs/db/unmap.h"
#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"
#include "ltx/base/sparse.h"

/*
 * A record as a WAL transaction (D5): under WAL_WRITE the frames are appended with as few writes as
 * possible, entered in the wal-index, and become visible together when its header is published.
 * Readers are never waited for.
 *
 * Written are whole pages of the kernel's cache, so that a reader finds the frames there. Of a page
 * that is written in part the kernel knows only that part, and asks the mount for the page at the
 * first read. In front of the frames that is what stands there already, behind them zeros, which
 * end a WAL.
 */

struct writer {
    struct replica *r;
    uint32_t page_size;
    struct wal_header header;
    struct walindex_header index;
    uint32_t mx_frame; /* of the index, before */
    uint32_t frame;    /* last one built or held back */
    uint32_t cksum[2];
    size_t used;    /* bytes of frames that are built and not yet written */
    uint32_t first; /* number of the first of them */
    bool flushed;   /* frames behind mx_frame have been written */
    bool left_out;  /* so have zero pages not, which the file shall have instead: see is_hole */
    uint32_t *pgno; /* of the frames since mx_frame */
    uint32_t pgno_cap;
    enum replica_state mode; /* what the last page 1 among them says; CLOSED: there was none */
};

/* The frames on their way, with room for the rest of a cache page before them. */
static uint8_t *frames(const struct writer *w)
{
    return w->r->frames + CACHE_PAGE;
}

/*
 * Every reader may write to -shm, whole headers too. One that tells of frames which the -wal does not
 * have would have it and the -wal extended up to there: -ERR_BUSY. What was written here last needs
 * no look.
 */
static int check_index(struct replica *r, const struct walindex_header *h)
{
    int64_t size, end;
    if (h->mx_frame == 0)
        return 0;
    if (walindex_page_size(h) != r->page_size)
        return -ERR_BUSY;
    end = wal_frame_offset(r->page_size, h->mx_frame) + wal_frame_size(r->page_size);
    if (end == r->tail_end)
        return 0;
    int err = file_size(r->wal_fd, &size);
    return err ? err : end <= size ? 0 : -ERR_BUSY;
}

/* The wal-index header; SQLite builds a broken or missing one anew. */
static int read_index(struct replica *r, struct walindex_header *h)
{
    int err = walindex_read(&r->index, h);
    if (!err && (err = check_index(r, h)) == -ERR_BUSY && walindex_forget(&r->index) != 0)
        return -ERR_IO;
    if (err != -ERR_BUSY)
        return err;
    lock_release(r->shm_fd, LOCK_SHM_WRITE, 1);
    unmap_enter(r->db);
    int rc = replica_touch(r);
    unmap_leave();
    if (rc != SQLITE_OK)
        return rc == SQLITE_BUSY ? -ERR_BUSY : -ERR_IO;
    err = lock_exclusive(r->shm_fd, LOCK_SHM_WRITE, 1);
    if (!err)
        err = walindex_read(&r->index, h);
    return err ? err : check_index(r, h);
}

/* If all of the WAL is in the database file and nobody reads from it, begin again at its start. */
static int maybe_restart(struct replica *r, struct walindex_header *h)
{
    uint32_t backfill;
    int err = walindex_backfill(&r->index, &backfill);
    if (err || h->mx_frame == 0 || backfill < h->mx_frame)
        return err;
    if (lock_exclusive(r->shm_fd, LOCK_SHM_READ(1), 4) != 0)
        return 0;
    err = walindex_restart(&r->index, h);
    lock_release(r->shm_fd, LOCK_SHM_READ(1), 4);
    return err;
}

/*
 * Frames of one size are in a WAL, so another page size begins it anew. Connections find that in the
 * header of the wal-index, and in page 1, and follow; the database file becomes what it says with the
 * next checkpoint. Only a read transaction that uses frames of before is in the way, and no new one
 * does once they are all in the database file.
 */
static int must_restart(struct replica *r, struct walindex_header *h)
{
    bool whole;
    int err = h->mx_frame > 0 ? apply_checkpoint(r, 1, &whole) : 0;
    if (!err)
        err = maybe_restart(r, h);
    return err ? err : h->mx_frame > 0 ? -ERR_BUSY : 0;
}

static int begin_round(struct writer *w)
{
    static const uint8_t none[8];
    uint8_t bytes[WAL_HEADER_SIZE];
    w->header = (struct wal_header){.page_size = w->page_size};
    if (memcmp(w->index.salt, none, sizeof none) == 0) {
        uint64_t salt = random_u64();
        memcpy(w->index.salt, &salt, sizeof salt);
    }
    memcpy(w->header.salt, w->index.salt, sizeof w->header.salt);
    wal_header_build(&w->header, bytes);
    memcpy(w->cksum, w->header.cksum, sizeof w->cksum);
    w->index.big_endian = 0;
    w->index.page_size = walindex_page_size_field(w->page_size);
    memcpy(w->r->tail, bytes, sizeof bytes);
    w->r->tail_end = sizeof bytes;
    w->r->highest = 0;
    return file_write(w->r->wal_fd, bytes, sizeof bytes, 0);
}

/* Fills r->highest in, if it is not known. */
static int need_highest(struct writer *w)
{
    struct replica *r = w->r;
    int64_t size;
    uint32_t in_wal;
    if (r->highest > 0)
        return 0;
    int err = file_size(r->main_fd, &size);
    if (!err)
        err = walindex_highest_page(&r->index, w->mx_frame, &in_wal);
    if (err)
        return err;
    uint32_t in_file = (uint32_t)((size + w->page_size - 1) / w->page_size);
    r->highest = in_wal > in_file ? in_wal : in_file;
    return 0;
}

static int begin(struct writer *w)
{
    struct replica *r = w->r;
    int err = replica_open_wal(r);
    if (!err && !r->holding)
        err = lock_exclusive(r->shm_fd, LOCK_SHM_WRITE, 1);
    if (!err)
        err = read_index(r, &w->index);
    if (!err)
        err =
            w->page_size == r->page_size ? maybe_restart(r, &w->index) : must_restart(r, &w->index);
    if (err)
        return err;
    w->mx_frame = w->frame = w->index.mx_frame;
    w->first = w->mx_frame + 1;
    if (w->mx_frame == 0) {
        err = begin_round(w);
        return err ? err : need_highest(w);
    }
    w->header = (struct wal_header){.page_size = walindex_page_size(&w->index),
                                    .big_endian = w->index.big_endian};
    memcpy(w->header.salt, w->index.salt, sizeof w->header.salt);
    memcpy(w->cksum, w->index.frame_cksum, sizeof w->cksum);
    return need_highest(w);
}

/* What stands before `end` in the last cache page of the WAL, which is remembered from the last write. */
static int need_tail(struct replica *r, int64_t end)
{
    if (r->tail_end == end)
        return 0;
    size_t size = (size_t)(end % CACHE_PAGE);
    r->tail_end = -1;
    int err = file_read(r->wal_fd, r->tail, size, end - (int64_t)size);
    if (!err)
        r->tail_end = end;
    return err;
}

/* `to_end`: nothing is held behind the frames, so the last cache page can be filled. */
static int flush(struct writer *w, bool to_end)
{
    struct replica *r = w->r;
    if (w->used == 0)
        return 0;
    int64_t from = wal_frame_offset(w->header.page_size, w->first), end = from + (int64_t)w->used;
    size_t before = (size_t)(from % CACHE_PAGE), tail = (size_t)(end % CACHE_PAGE);
    size_t behind = to_end && tail ? CACHE_PAGE - tail : 0;
    int err = need_tail(r, from);
    if (err)
        return err;
    memcpy(frames(w) - before, r->tail, before);
    memset(frames(w) + w->used, 0, behind);
    r->tail_end = -1;
    w->flushed = true;
    err = file_write(r->wal_fd, frames(w) - before, before + w->used + behind,
                     from - (int64_t)before);
    if (err)
        return err;
    memcpy(r->tail, frames(w) + w->used - tail, tail);
    r->tail_end = end;
    w->first += (uint32_t)(w->used / (size_t)wal_frame_size(w->header.page_size));
    w->used = 0;
    return 0;
}

/*
 * Where the next page goes: after the frames that are built and, if `held`, after one more page
 * whose frame is built only when it is known whether it is the last one of its record.
 */
static int next_page(struct writer *w, bool held, uint8_t **page)
{
    size_t size = (size_t)wal_frame_size(w->header.page_size);
    size_t behind = held ? size : 0;
    if (w->used > 0 && w->used + behind + size > REPLICA_BATCH_BYTES) {
        size_t used = w->used;
        int err = flush(w, false);
        if (err)
            return err;
        memmove(frames(w), frames(w) + used, behind);
    }
    size_t need = CACHE_PAGE + w->used + behind + size + CACHE_PAGE;
    if (w->r->frames_cap < need) {
        size_t cap = w->r->frames_cap * 2 > need ? w->r->frames_cap * 2 : need;
        uint8_t *larger = realloc(w->r->frames, cap);
        if (!larger)
            return -ERR_NOMEM;
        w->r->frames = larger;
        w->r->frames_cap = cap;
    }
    *page = frames(w) + w->used + behind + WAL_FRAME_HEADER_SIZE;
    return 0;
}

static int build(struct writer *w, uint32_t pgno, uint32_t commit)
{
    uint32_t i = w->frame - w->mx_frame;
    if (i >= w->pgno_cap) {
        uint32_t cap = w->pgno_cap ? w->pgno_cap * 2 : 64;
        uint32_t *pgnos = realloc(w->pgno, cap * sizeof *pgnos);
        if (!pgnos)
            return -ERR_NOMEM;
        w->pgno = pgnos;
        w->pgno_cap = cap;
    }
    uint8_t *frame = frames(w) + w->used;
    wal_frame_build(&w->header, frame, (struct wal_frame){.pgno = pgno, .commit = commit},
                    w->cksum);
    struct db_header h;
    if (pgno == 1 && db_header_parse(frame + WAL_FRAME_HEADER_SIZE, &h))
        w->mode = h.wal ? REPLICA_WAL : REPLICA_LEAVING;
    w->pgno[i] = pgno;
    w->frame++;
    if (pgno > w->r->highest)
        w->r->highest = pgno;
    w->used += (size_t)wal_frame_size(w->header.page_size);
    return 0;
}

/* As it is after all that has been built: the log may hold a later one. */
static int read_page_one(struct writer *w, uint8_t *page)
{
    uint32_t size = w->header.page_size, f = w->frame, head = WAL_FRAME_HEADER_SIZE;
    while (f > w->mx_frame && w->pgno[f - 1 - w->mx_frame] != 1)
        f--;
    if (f > w->mx_frame && f >= w->first) {
        memcpy(page, frames(w) + (f - w->first) * (size_t)wal_frame_size(size) + head, size);
        return 0;
    }
    int err = f > w->mx_frame ? 0 : walindex_last_frame(&w->r->index, w->mx_frame, 1, &f);
    if (err)
        return err;
    return f > 0 ? file_read(w->r->wal_fd, page, size, wal_frame_offset(size, f) + head)
                 : file_read(w->r->main_fd, page, size, 0);
}

/* A record that changes nothing but the size still needs a frame that says so: page 1 again. */
static int put_size_only(struct writer *w, uint32_t commit)
{
    uint8_t *page;
    int err = next_page(w, false, &page);
    if (!err)
        err = read_page_one(w, page);
    return err ? err : build(w, 1, commit);
}

/*
 * Zeros beyond all that there is need no frame, if the file gets its size. Of a database of gigabytes that
 * was hardly ever written to, each page would go through the WAL otherwise.
 */
static bool is_hole(const struct writer *w, uint32_t pgno, const uint8_t *page)
{
    return pgno > w->r->highest && sparse_is_zero(page, w->header.page_size);
}

/* A record of gigabytes does not hold up the end of the daemon: -ERR_CLOSED, and it is taken back. */
static int put_record(struct writer *w, struct txlog_entry *e)
{
    struct ltx_decoder d = {0};
    uint32_t held = 0, pgno = 0;
    int err = ltx_decode_begin(&d, txlog_entry_source(e));

    for (int more = 1; !err && more;) {
        uint8_t *page;
        err = *w->r->quit ? -ERR_CLOSED : next_page(w, held != 0, &page);
        if (err)
            break;
        more = ltx_decode_page(&d, &pgno, page);
        if (more > 0 && is_hole(w, pgno, page)) {
            w->left_out = true;
            continue;
        }
        if (more < 0)
            err = more;
        else if (held)
            err = build(w, held, more ? 0 : d.header.commit);
        else if (!more)
            err = put_size_only(w, d.header.commit);
        held = pgno;
    }
    ltx_decode_fini(&d);
    return err;
}

/* Longer than they know of does not matter to readers. */
static int extend_file(struct writer *w, uint32_t commit)
{
    int64_t size, want = (int64_t)commit * w->page_size;
    int err = file_size(w->r->main_fd, &size);
    return err || size >= want ? err : file_truncate(w->r->main_fd, want);
}

/* Readers see all of it from here on. */
static int publish(struct writer *w, uint32_t commit)
{
    int err = w->left_out ? extend_file(w, commit) : 0;
    if (!err)
        err = flush(w, true);
    for (uint32_t f = w->mx_frame + 1; !err && f <= w->frame; f++)
        err = walindex_append(&w->r->index, f, w->pgno[f - 1 - w->mx_frame], w->mx_frame);
    if (err)
        return err;
    w->index.mx_frame = w->frame;
    w->index.page_count = commit;
    memcpy(w->index.frame_cksum, w->cksum, sizeof w->cksum);
    return walindex_publish(&w->r->index, &w->index);
}

/*
 * Frames that were written and will not be published go again: whoever reads the file and not the
 * wal-index must not take them for transactions.
 */
static void take_back(struct writer *w)
{
    struct replica *r = w->r;
    if (!w->flushed)
        return;
    r->tail_end = -1;
    int err = file_truncate(r->wal_fd, wal_frame_offset(w->header.page_size, w->mx_frame + 1));
    if (err)
        log_warn("follow", "%s-wal: frames that were not published remain: %s", r->db->path,
                 err_text(err));
}

int apply_wal(struct replica *r, struct txlog_entry *e, uint64_t last_txid, struct position *at)
{
    struct writer w = {.r = r, .page_size = e->page_size};
    uint32_t commit = 0;
    uint64_t bytes = 0;

    int err = begin(&w);
    bool more = true;
    while (!err && more) {
        err = put_record(&w, e);
        if (err)
            break;
        *at = (struct position){e->max_txid, e->post_checksum};
        commit = e->commit;
        bytes += e->size;
        more = e->max_txid < last_txid && bytes < REPLICA_BATCH_BYTES && w.mode != REPLICA_LEAVING;
        int next = txlog_next(ledger_log(r->ledger), e);
        if (next && next != -ERR_NOTFOUND)
            err = next;
        more = more && !next && e->commit > 0 && e->page_size == w.page_size;
    }
    if (!err)
        err = publish(&w, commit);
    if (err) {
        take_back(&w);
    } else {
        r->page_size = w.page_size;
        if (w.mode != REPLICA_CLOSED)
            r->state = w.mode;
    }
    if (r->shm_fd >= 0 && !r->holding)
        lock_release(r->shm_fd, LOCK_SHM_WRITE, 1);
    free(w.pgno);
    if (err == -ERR_CORRUPT || err == -ERR_CHECKSUM || err == -ERR_TRUNCATED) {
        log_error("follow", "%s: the record after TXID %llu cannot be applied: %s", r->db->path,
                  (unsigned long long)ledger_applied(r->ledger).txid, err_text(err));
        ledger_set_damaged(r->ledger, "a record in its log cannot be applied");
    }
    return err;
}

int apply_checkpoint(struct replica *r, uint32_t at_frames, bool *whole)
{
    struct walindex_header h;
    uint32_t backfill = 0;
    int err = walindex_read(&r->index, &h);
    if (!err)
        err = walindex_backfill(&r->index, &backfill);
    if (err || h.mx_frame < at_frames || backfill >= h.mx_frame)
        return err;
    /* A reader is in the way, and each try sorts the whole WAL. */
    if (r->checkpoint_blocked && mono_since_ms(r->checkpoint_tried) < CHECKPOINT_AGAIN_MS)
        return 0;
    r->checkpoint_tried = mono_now();
    r->checkpoint_blocked = true;
    err = replica_sync(r);
    if (err)
        return err;
    int frames, done;
    unmap_enter(r->db);
    /* It must have seen the page size. */
    int rc = replica_touch(r);
    if (rc == SQLITE_OK)
        rc = sqlite3_wal_checkpoint_v2(r->conn, NULL, SQLITE_CHECKPOINT_PASSIVE, &frames, &done);
    unmap_leave();
    if (rc != SQLITE_OK)
        return rc == SQLITE_BUSY ? -ERR_BUSY : rc == SQLITE_FULL ? -ERR_NOSPACE : -ERR_IO;
    *whole = frames >= 0 && done == frames;
    r->checkpoint_blocked = !*whole;
    return 0;
}
