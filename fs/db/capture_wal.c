/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/db/capture_wal.h"

#include <stdlib.h>
#include <string.h>

#include "fs/db/capture_pages.h"
#include "fs/db/database_impl.h"
#include "ltx/base/bytes.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"

#define CHUNK_BYTES (128 << 10)

void capture_wal_fini(struct database *db)
{
    struct capture_wal *w = &db->wal;
    free(w->pgno);
    free(w->chunk);
    free(w->map);
    *w = (struct capture_wal){0};
}

void capture_wal_rewind(struct capture_wal *w)
{
    w->cursor = w->captured;
    w->cursor_cksum[0] = w->captured_cksum[0];
    w->cursor_cksum[1] = w->captured_cksum[1];
    w->cursor_unsealed = w->captured_unsealed;
    w->gap = 0;
}

/* What was captured, before the next transaction moves that on. */
static void keep_end(struct capture_wal *w)
{
    w->before.frame = w->captured;
    w->before.cksum[0] = w->captured_cksum[0];
    w->before.cksum[1] = w->captured_cksum[1];
    w->before.commit = w->captured_commit;
    w->before.broken = w->broken;
    w->before.unsealed = w->captured_unsealed;
    w->witness = 0;
}

void capture_wal_round_ends(struct database *db)
{
    struct capture_wal *w = &db->wal;
    if (!w->valid || w->captured == 0 || !db->ledger)
        return;
    if (capture_wal_last_in_file(db))
        db->backed = ledger_last(db->ledger);
    else
        capture_wal_take_back(db);
}

/* The WAL begins anew: with the next transaction, or with one that goes on after all it had written was rolled
 * back. What that overwrote, SQLite still means to seal again: `overwritten` stays. */
static void start_round(struct database *db, const struct wal_header *h)
{
    struct capture_wal *w = &db->wal;
    capture_wal_round_ends(db);
    w->valid = true;
    w->refused = 0;
    w->header = *h;
    w->captured = 0;
    w->captured_cksum[0] = h->cksum[0];
    w->captured_cksum[1] = h->cksum[1];
    w->captured_unsealed = false;
    w->header_alone = w->broken = 0;
    w->chunk_count = 0;
    w->map_frames = 0;
    keep_end(w);
    capture_wal_rewind(w);
}

void capture_wal_reset(struct database *db)
{
    struct capture_wal *w = &db->wal;
    w->valid = false;
    w->captured = w->cursor = w->before.frame = 0;
    w->header_alone = w->overwritten = w->broken = 0;
    w->chunk_count = w->map_frames = 0;
    w->index_behind = w->foreign = false;
}

int capture_wal_load_header(struct database *db)
{
    struct capture_wal *w = &db->wal;
    uint8_t bytes[WAL_HEADER_SIZE];
    struct wal_header h;
    int err = file_read(db->wal_fd, bytes, sizeof bytes, 0);
    if (err && err != -ERR_TRUNCATED)
        return err;
    if (err || !wal_header_parse(bytes, &h)) {
        capture_wal_reset(db);
        return 0;
    }
    if (!w->valid || memcmp(&h.salt, &w->header.salt, sizeof h.salt) != 0 ||
        h.page_size != w->header.page_size)
        start_round(db, &h);
    return 0;
}

/* Frame f from the file, in a chunk that reaches to `upto` if it fits. *bytes is NULL if it is not all
 * there. */
static int frame_bytes(struct database *db, uint32_t f, uint32_t upto, const uint8_t **bytes)
{
    struct capture_wal *w = &db->wal;
    size_t size = (size_t)wal_frame_size(w->header.page_size);
    if (w->chunk_count > 0 && f >= w->chunk_first && f - w->chunk_first < w->chunk_count) {
        *bytes = w->chunk + (f - w->chunk_first) * size;
        return 0;
    }

    uint32_t count = CHUNK_BYTES > size ? (uint32_t)(CHUNK_BYTES / size) : 1;
    if (count > upto - f + 1)
        count = upto - f + 1;
    size_t got, want = count * size;
    if (w->chunk_cap < want) {
        uint8_t *chunk = realloc(w->chunk, want);
        if (!chunk)
            return -ERR_NOMEM;
        w->chunk = chunk;
        w->chunk_cap = want;
    }
    w->chunk_count = 0;
    int err =
        file_read_some(db->wal_fd, w->chunk, want, wal_frame_offset(w->header.page_size, f), &got);
    if (err)
        return err;
    w->chunk_first = f;
    w->chunk_count = (uint32_t)(got / size);
    *bytes = w->chunk_count > 0 ? w->chunk : NULL;
    return 0;
}

static int note_pgno(struct capture_wal *w, uint32_t index, uint32_t pgno)
{
    if (index >= w->pgno_cap) {
        size_t cap = w->pgno_cap ? (size_t)w->pgno_cap * 2 : 64;
        if (cap > UINT32_MAX)
            return -ERR_LIMIT;
        uint32_t *pgnos = realloc(w->pgno, cap * sizeof *pgnos);
        if (!pgnos)
            return -ERR_NOMEM;
        w->pgno = pgnos;
        w->pgno_cap = (uint32_t)cap;
    }
    w->pgno[index] = pgno;
    return 0;
}

/*
 * An unsealed frame: its transaction goes on, unless it commits and nothing will seal it any more.
 * SQLite then continues from the checksum before the frame that it meant to begin with. 1, or a negated
 * code.
 */
static int unsealed_follows(struct database *db, struct wal_frame *f)
{
    struct capture_wal *w = &db->wal;
    uint32_t page_size = w->header.page_size, n = w->cursor + 1;
    uint8_t cksum[8];
    if (w->gap == 0)
        w->gap = n;
    if (f->commit == 0 || w->overwritten <= n || w->header_alone == n) {
        f->commit = 0;
        w->cursor_unsealed = true;
        return 1;
    }
    int err = file_read(db->wal_fd, cksum, sizeof cksum,
                        wal_frame_offset(page_size, w->overwritten - 1) + 16);
    if (err)
        return err;
    w->cursor_cksum[0] = get_be32(cksum);
    w->cursor_cksum[1] = get_be32(cksum + 4);
    w->cursor_unsealed = true;
    return 1;
}

/* Does the frame follow on the cursor? 1, 0, or a negated code. */
static int follows(struct database *db, const uint8_t *bytes, struct wal_frame *f)
{
    struct capture_wal *w = &db->wal;
    uint32_t zero[2] = {0, 0};
    if (wal_frame_check(&w->header, bytes, w->cursor_cksum, f)) {
        w->cursor_unsealed = false;
        return 1;
    }
    if (w->cursor_unsealed && wal_frame_check(&w->header, bytes, zero, f)) {
        memcpy(w->cursor_cksum, zero, sizeof zero);
        w->cursor_unsealed = false;
        return 1;
    }
    return !w->sealed_only && wal_frame_unsealed(bytes, f) ? unsealed_follows(db, f) : 0;
}

/* Moves the cursor along the chain, at most to frame `upto`. 1: it stands on a commit frame, of a
 * database of *commit pages. 0: no commit yet. */
static int scan(struct database *db, uint32_t upto, uint32_t *commit)
{
    struct capture_wal *w = &db->wal;
    while (w->cursor < upto) {
        struct wal_frame f;
        const uint8_t *bytes;
        int err = frame_bytes(db, w->cursor + 1, upto, &bytes);
        if (err || !bytes)
            return err;
        int next = follows(db, bytes, &f);
        if (next <= 0)
            return next;
        err = note_pgno(w, w->cursor - w->captured, f.pgno);
        if (err)
            return err;
        w->cursor++;
        if (f.commit) {
            *commit = f.commit;
            return 1;
        }
    }
    return 0;
}

static int by_key(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/*
 * The pages of frames captured+1 .. cursor as (page number, frame) in rising order, each page once
 * with its last frame, none above `commit`; with frame 0 those that are dirty otherwise. Returns how
 * many.
 */
static uint32_t newest_pages(const struct capture_wal *w, const struct dirty *d, uint32_t commit,
                             uint64_t *keys)
{
    uint32_t n = w->cursor - w->captured, kept = 0;
    for (uint32_t i = 0; i < n; i++)
        keys[i] = (uint64_t)w->pgno[i] << 32 | (w->captured + 1 + i);
    for (uint32_t i = 0; i < d->len; i++)
        keys[n++] = (uint64_t)d->pgno[i] << 32;
    if (n > 1)
        qsort(keys, n, sizeof *keys, by_key);
    for (uint32_t i = 0; i < n; i++) {
        bool last = i + 1 == n || keys[i + 1] >> 32 != keys[i] >> 32;
        if (last && keys[i] >> 32 <= commit)
            keys[kept++] = keys[i];
    }
    return kept;
}

/* A page that this transaction did not write, if the ledger does not have it so. */
static int put_gap_page(struct database *db, uint32_t pgno, uint32_t known)
{
    uint32_t page_size = db->wal.header.page_size;
    uint8_t *page = malloc(page_size);
    if (!page)
        return -ERR_NOMEM;
    int err = capture_wal_read_page(db, page_size, pgno, page);
    if (!err &&
        (pgno > known || checksum_page(pgno, page, page_size) != ledger_page_sum(db->ledger, pgno)))
        err = ledger_put_page(&db->tx, pgno, page);
    free(page);
    return err;
}

/* `known`: pages up to here are in the ledger; above it every page must be put, whether written or
 * not. `whole`: the others are looked at, too. */
static int put_pages(struct database *db, const uint64_t *keys, uint32_t n, uint32_t known,
                     uint32_t commit, bool whole)
{
    struct capture_wal *w = &db->wal;
    uint32_t lock_pgno = ltx_lock_pgno(w->header.page_size), next = whole ? 1 : known + 1;
    int err = 0;
    for (uint32_t i = 0; !err && i <= n; i++) {
        uint32_t pgno = i < n ? (uint32_t)(keys[i] >> 32) : commit + 1;
        for (; !err && next < pgno; next++)
            if (next != lock_pgno)
                err = put_gap_page(db, next, known);
        if (err || i == n)
            break;
        if (next <= pgno)
            next = pgno + 1;
        uint32_t frame = (uint32_t)keys[i];
        if (frame == 0) {
            err = pgno == lock_pgno ? 0 : put_gap_page(db, pgno, known);
            continue;
        }
        const uint8_t *bytes = NULL;
        err = frame_bytes(db, frame, w->cursor, &bytes);
        if (!err && !bytes)
            err = -ERR_IO;
        if (!err)
            err = ledger_put_page(&db->tx, pgno, bytes + WAL_FRAME_HEADER_SIZE);
    }
    return err;
}

/* The cursor stands on a commit frame that is dealt with. */
static void captured(struct capture_wal *w, uint32_t commit)
{
    keep_end(w);
    w->captured = w->cursor;
    w->captured_cksum[0] = w->cursor_cksum[0];
    w->captured_cksum[1] = w->cursor_cksum[1];
    w->captured_commit = commit;
    w->captured_unsealed = w->cursor_unsealed;
    w->sync_follows = w->synced;
    w->synced = false;
    w->overwritten = 0;
    if (w->broken == 0)
        w->broken = w->gap;
    w->gap = 0;
}

static int capture_foreign(struct database *db, uint32_t commit)
{
    int err = capture_no_database(db);
    if (err)
        return err;
    captured(&db->wal, commit);
    db->wal.foreign = true;
    return 0;
}

/* Frames captured+1 .. cursor are one transaction: into the log with it. */
static int capture(struct database *db, uint32_t commit)
{
    struct capture_wal *w = &db->wal;
    uint32_t n = w->cursor - w->captured;
    size_t most = (size_t)n + db->dirty.len;
    uint64_t few[64], *keys = few, sums[CAPTURE_WAL_WITNESSES];
    struct ledger_info info;

    if (capture_wal_is_foreign(db))
        return capture_foreign(db, commit);
    w->foreign = false;
    int err = role_enter(database_role(db));
    if (err)
        return err;
    err = database_need_ledger(db);
    if (!err && most > sizeof few / sizeof *few && !(keys = malloc(most * sizeof *keys)))
        err = -ERR_NOMEM;
    if (err)
        goto leave;
    ledger_info(db->ledger, &info);
    /* What changed by other means as well goes into this record. */
    bool fresh = info.page_size != w->header.page_size;
    bool whole = db->dirty.all || fresh;
    uint32_t count = newest_pages(w, &db->dirty, commit, keys);
    uint32_t watched = count < CAPTURE_WAL_WITNESSES ? count : CAPTURE_WAL_WITNESSES;
    for (uint32_t i = 0; i < watched; i++)
        sums[i] = ledger_page_sum(db->ledger, (uint32_t)(keys[i] >> 32));
    struct ledger_change change = {
        .page_size = w->header.page_size,
        .commit = commit,
        .wal_offset = (uint64_t)wal_frame_offset(w->header.page_size, w->captured + 1),
        .wal_size = (uint64_t)n * (uint64_t)wal_frame_size(w->header.page_size),
        .wal_salt1 = get_be32(w->header.salt),
        .wal_salt2 = get_be32(w->header.salt + 4)};
    err = ledger_begin(db->ledger, &db->tx, &change);
    if (!err)
        err = put_pages(db, keys, count, fresh ? 0 : info.commit, commit, whole);
    if (!err)
        err = ledger_publish(&db->tx, NULL);
    else
        ledger_abort(&db->tx);
    if (err >= 0) {
        err = 0;
        dirty_clear(&db->dirty);
        captured(w, commit);
        capture_wal_witness(db, keys, watched, sums);
    }
leave:
    if (keys != few)
        free(keys);
    role_leave(database_role(db));
    return err;
}

/* A later recovery by SQLite must not find the frame: without its header and the start of its page
 * it is none. */
static void destroy_frame(struct database *db, uint32_t f)
{
    static const uint8_t zeros[WAL_FRAME_HEADER_SIZE + 8];
    int err =
        file_write(db->wal_fd, zeros, sizeof zeros, wal_frame_offset(db->wal.header.page_size, f));
    if (err)
        log_error("capture", "%s-wal: frame %u, which could not be captured, stays in the file: %s",
                  db->path, f, err_text(err));
}

/* The commit that ends at or after the frame is none. */
static int refuse_frame(struct database *db, uint32_t frame, int why)
{
    struct capture_wal *w = &db->wal;
    destroy_frame(db, frame);
    w->refused = frame;
    w->refused_why = why;
    w->chunk_count = 0;
    capture_wal_rewind(w);
    return why;
}

static int capture_up_to(struct database *db, uint32_t upto)
{
    struct capture_wal *w = &db->wal;
    uint32_t commit = 0;
    int got;
    while ((got = scan(db, upto, &commit)) == 1) {
        uint32_t frame = w->cursor;
        int err = capture(db, commit);
        if (err)
            return refuse_frame(db, frame, err);
    }
    return got < 0 ? refuse_frame(db, w->cursor + 1, got) : 0;
}

int capture_wal_written(struct database *db, int64_t off, size_t n)
{
    struct capture_wal *w = &db->wal;
    int err = database_open_wal(db);
    if (err)
        return err;
    if (off < WAL_HEADER_SIZE || !w->valid)
        err = capture_wal_load_header(db);
    if (err)
        return err;
    int64_t end = off + (int64_t)n;
    if (!w->valid || end <= WAL_HEADER_SIZE)
        return 0;

    uint32_t first, last;
    err = capture_wal_completed(db, off, end, &first, &last);
    w->chunk_count = 0;
    if (first <= w->cursor)
        capture_wal_rewind(w);
    if (w->map_frames >= first)
        w->map_frames = first - 1;
    if (err)
        return refuse_frame(db, last ? last : first, err);
    return capture_wal_may_commit(db, first, last) ? capture_up_to(db, last) : 0;
}

void capture_wal_mended(struct database *db, const uint32_t cksum[2])
{
    struct capture_wal *w = &db->wal;
    memcpy(w->captured_cksum, cksum, sizeof w->captured_cksum);
    w->captured_unsealed = false;
    w->broken = 0;
    w->chunk_count = 0;
    keep_end(w); /* the end before it may have another checksum now */
    capture_wal_rewind(w);
}

int capture_wal_attach(struct database *db)
{
    struct capture_wal *w = &db->wal;
    int64_t size;
    uint32_t commit = 0;

    capture_wal_reset(db);
    int err = database_open_wal(db);
    if (err)
        return err == -ERR_NOTFOUND ? 0 : err;
    err = capture_wal_load_header(db);
    if (!err)
        err = file_size(db->wal_fd, &size);
    if (err || !w->valid)
        return err;
    uint32_t frames = wal_frame_at(w->header.page_size, size) - 1;
    int got = 0;
    while (size > WAL_HEADER_SIZE && (got = scan(db, frames, &commit)) == 1) {
        keep_end(w);
        w->captured = w->cursor;
        w->captured_cksum[0] = w->cursor_cksum[0];
        w->captured_cksum[1] = w->cursor_cksum[1];
        w->captured_commit = commit;
    }
    capture_wal_rewind(w);
    w->foreign = got == 0 && w->captured > 0 && capture_wal_page_1_is_foreign(db);
    return got;
}

int capture_wal_attach_sealed(struct database *db)
{
    db->wal.sealed_only = true;
    int err = capture_wal_attach(db);
    db->wal.sealed_only = false;
    return err;
}
