/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <string.h>

#include "ltx/base/assert.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"
#include "ltx/txlog_internal.h"

/*
 * Finding records. The list of files says which file; in a segment the marks say from where to walk
 * from frame to frame. What is published never changes, so walking needs no lock, only a reference
 * to the file.
 */

/* Where a walk begins and must end, taken under the mutex. */
struct walk {
    struct txlog_file *file; /* a reference */
    struct position before;
    int64_t off;
    int64_t end;
    uint64_t last_txid; /* of the part */
    int64_t marked_off;
};

static void entry_from_frame(struct txlog_entry *e, struct txlog_file *file, int64_t frame_off,
                             const struct txlog_frame *f)
{
    *e = (struct txlog_entry){
        .file = file,
        .off = frame_off + TXLOG_FRAME_HEADER,
        .size = f->size,
        .min_txid = f->header.min_txid,
        .max_txid = f->max_txid,
        .pre_checksum = f->header.pre_checksum,
        .post_checksum = f->post_checksum,
        .page_size = f->header.page_size,
        .commit = f->header.commit,
        .flags = f->flags,
    };
}

static void entry_from_ltx(struct txlog_entry *e, struct txlog_file *file,
                           const struct txlog_part *p)
{
    *e = (struct txlog_entry){
        .file = file,
        .size = (uint64_t)p->end,
        .min_txid = p->header.min_txid,
        .max_txid = p->header.max_txid,
        .pre_checksum = p->header.pre_checksum,
        .post_checksum = p->last.checksum,
        .page_size = p->header.page_size,
        .commit = p->header.commit,
    };
}

static int read_frame(struct txlog_file *file, int64_t off, int64_t end, struct txlog_frame *f)
{
    int rc = segment_frame_read(file->fd, file->salt, off, end, f);
    if (rc == 0)
        return 0;
    log_error("log", "%s: no frame of the log at byte %" PRId64 " of a segment: %s",
              file->log->name, off, err_text(rc));
    return rc == -ERR_NOTFOUND ? -ERR_CORRUPT : rc;
}

/* With the mutex held: the newest of the last records that is not past the one after `after`. */
static void walk_from_recent(const struct txlog *t, uint64_t after, struct walk *w)
{
    uint32_t known = t->recent_count < TXLOG_RECENT ? t->recent_count : TXLOG_RECENT;
    for (uint32_t back = 1; back <= known; back++) {
        const struct txlog_mark *m = &t->recent[(t->recent_count - back) % TXLOG_RECENT];
        if (m->before.txid > after)
            continue;
        if (m->off > w->off) {
            w->before = m->before;
            w->off = m->off;
        }
        return;
    }
}

/* With the mutex held: from where in segment `p` to look for the record after `after`. */
static int walk_begin(struct txlog *t, struct txlog_part *p, uint64_t after, struct walk *w)
{
    int rc = part_open_file(t, p, &w->file);
    if (rc < 0)
        return rc;
    w->before = p->start;
    w->off = p->first_off;
    w->end = p->end;
    w->last_txid = p->last.txid;
    uint32_t low = 0, high = p->mark_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (p->marks[middle].before.txid <= after)
            low = middle + 1;
        else
            high = middle;
    }
    if (low > 0) {
        w->before = p->marks[low - 1].before;
        w->off = p->marks[low - 1].off;
    }
    if (p == t->tail)
        walk_from_recent(t, after, w);
    w->marked_off = p->mark_count == 0 ? 0 : p->marks[p->mark_count - 1].off;
    return 0;
}

/* A segment from before the last start gets its marks as it is walked. */
static void walk_mark(struct walk *w)
{
    if (w->off - w->marked_off < TXLOG_MARK_BYTES)
        return;
    struct txlog *t = w->file->log;
    mutex_lock(&t->mutex);
    if (w->file->part != NULL)
        part_mark(w->file->part, w->before, w->off);
    mutex_unlock(&t->mutex);
    w->marked_off = w->off;
}

/*
 * Without the mutex: the first record with max > after, and the position before it. Takes the
 * walk's reference over into *e, or gives it up.
 */
static int walk_to(struct walk *w, uint64_t after, struct txlog_entry *e, struct position *before)
{
    int rc = -ERR_NOTFOUND;
    while (w->before.txid < w->last_txid) {
        struct txlog_frame f;
        walk_mark(w);
        rc = read_frame(w->file, w->off, w->end, &f);
        if (rc < 0)
            break;
        if (f.max_txid > after) {
            entry_from_frame(e, w->file, w->off, &f);
            *before = w->before;
            return 0;
        }
        w->before = (struct position){f.max_txid, f.post_checksum};
        w->off += TXLOG_FRAME_HEADER + (int64_t)f.size;
        rc = -ERR_NOTFOUND;
    }
    txlog_file_unref(w->file);
    return rc;
}

/* The first part of [low, high) whose last TXID is above `after`; high if none is. */
static uint32_t part_after(struct txlog *t, uint32_t low, uint32_t high, uint64_t after)
{
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (t->parts[middle]->last.txid <= after)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/*
 * With the mutex held, which it gives up: the record after `after` in the parts [low, high) of one
 * chain, and the position before it.
 */
static int find_in_chain(struct txlog *t, uint32_t low, uint32_t high, uint64_t after,
                         struct txlog_entry *e, struct position *before)
{
    uint32_t i = part_after(t, low, high, after);
    if (i == high) {
        mutex_unlock(&t->mutex);
        return -ERR_NOTFOUND;
    }
    struct txlog_part *p = t->parts[i];
    if (p->compacted) {
        struct txlog_file *file;
        int rc = part_open_file(t, p, &file);
        if (rc == 0) {
            entry_from_ltx(e, file, p);
            *before = i > low ? t->parts[i - 1]->last : p->base;
        }
        mutex_unlock(&t->mutex);
        return rc;
    }
    struct walk w;
    int rc = walk_begin(t, p, after, &w);
    mutex_unlock(&t->mutex);
    return rc < 0 ? rc : walk_to(&w, after, e, before);
}

/* With the mutex held, which it gives up: the rebase at the start of part i. */
static int rebase_entry(struct txlog *t, uint32_t i, struct txlog_entry *e)
{
    struct txlog_file *file;
    struct txlog_frame f;
    int64_t end = t->parts[i]->end;
    int rc = part_open_file(t, t->parts[i], &file);
    mutex_unlock(&t->mutex);
    if (rc < 0)
        return rc;
    rc = read_frame(file, TXLOG_SEGMENT_HEADER, end, &f);
    if (rc < 0)
        txlog_file_unref(file);
    else
        entry_from_frame(e, file, TXLOG_SEGMENT_HEADER, &f);
    return rc;
}

/*
 * With the mutex held: the parts [*low, *high) of the k-th chain, the newest being chain 0. The one
 * before a rebase that is the first thing kept is empty, and yet has an end. False: there is no
 * such chain.
 */
static bool chain_bounds(const struct txlog *t, uint32_t k, uint32_t *low, uint32_t *high)
{
    uint32_t end = t->part_count;
    for (;;) {
        uint32_t start = end;
        while (start > 0 && !t->parts[--start]->rebase)
            ;
        if (k-- == 0) {
            *low = start;
            *high = end;
            return true;
        }
        if (end == 0 || !t->parts[start]->rebase)
            return false;
        end = start;
    }
}

/* With the mutex held: where the chain ends that goes up to part `high`. */
static struct position chain_last(const struct txlog *t, uint32_t high)
{
    return high == t->part_count ? t->last : t->parts[high]->base;
}

/* With the mutex held, which it gives up: the record after `p` if one of the chain ends there. */
static int find_from_in_chain(struct txlog *t, uint32_t low, uint32_t high, struct position p,
                              struct txlog_entry *out)
{
    if (position_equal(p, chain_last(t, high))) {
        if (high < t->part_count)
            return rebase_entry(t, high, out);
        mutex_unlock(&t->mutex);
        return -ERR_NOTFOUND;
    }
    struct position before;
    struct txlog_entry e;
    int rc = find_in_chain(t, low, high, p.txid, &e, &before);
    if (rc == 0 && !position_equal(before, p)) {
        txlog_entry_release(&e);
        rc = -ERR_NOTFOUND;
    }
    if (rc == 0)
        *out = e;
    return rc;
}

/* With the mutex held, which it gives up: the record of the chain that ends at `p`. */
static int find_ending_in_chain(struct txlog *t, uint32_t low, uint32_t high, struct position p,
                                struct txlog_entry *out)
{
    if (low < high && t->parts[low]->rebase && position_equal(p, t->parts[low]->start))
        return rebase_entry(t, low, out);
    struct position before;
    struct txlog_entry e;
    int rc = find_in_chain(t, low, high, p.txid - 1, &e, &before);
    if (rc == 0 && !position_equal(p, (struct position){e.max_txid, e.post_checksum})) {
        txlog_entry_release(&e);
        rc = -ERR_NOTFOUND;
    }
    if (rc == 0)
        *out = e;
    return rc;
}

/* With the mutex held: the part after `p` that has a record, NULL if there is none. */
static struct txlog_part *next_part(struct txlog *t, const struct txlog_part *p)
{
    uint32_t i = 0;
    while (t->parts[i] != p)
        i++;
    while (++i < t->part_count)
        if (t->parts[i]->compacted || t->parts[i]->end > TXLOG_SEGMENT_HEADER)
            return t->parts[i];
    return NULL;
}

/* With the mutex held, which it gives up: the first record of part `p`. */
static int first_of_part(struct txlog *t, struct txlog_part *p, struct txlog_entry *out)
{
    struct txlog_file *file;
    int64_t end = p->end;
    int rc = part_open_file(t, p, &file);
    bool compacted = p->compacted;
    if (rc == 0 && compacted)
        entry_from_ltx(out, file, p);
    mutex_unlock(&t->mutex);
    if (rc < 0 || compacted)
        return rc;
    struct txlog_frame f;
    rc = read_frame(file, TXLOG_SEGMENT_HEADER, end, &f);
    if (rc < 0)
        txlog_file_unref(file);
    else
        entry_from_frame(out, file, TXLOG_SEGMENT_HEADER, &f);
    return rc;
}

/* With the mutex held, which it gives up: the record behind `e` in the same segment. */
static int next_in_part(struct txlog *t, struct txlog_part *p, const struct txlog_entry *e,
                        struct txlog_entry *out)
{
    struct txlog_file *file = e->file;
    int64_t end = p->end, off = e->off + (int64_t)e->size;
    file->refs++;
    mutex_unlock(&t->mutex);
    struct txlog_frame f;
    int rc = read_frame(file, off, end, &f);
    if (rc < 0)
        txlog_file_unref(file);
    else
        entry_from_frame(out, file, off, &f);
    return rc;
}

static int read_entry(void *ctx, uint64_t off, void *buf, size_t n)
{
    return txlog_entry_read(ctx, off, buf, n);
}

int64_t txlog_bytes(struct txlog *t)
{
    int64_t total = 0;
    mutex_lock(&t->mutex);
    for (uint32_t i = 0; i < t->part_count; i++)
        total += t->parts[i]->end;
    mutex_unlock(&t->mutex);
    return total;
}

uint64_t txlog_bytes_after(struct txlog *t, uint64_t txid)
{
    int64_t total = 0;
    mutex_lock(&t->mutex);
    for (uint32_t i = t->part_count; i > t->chain && t->last.txid > txid; i--) {
        const struct txlog_part *p = t->parts[i - 1];
        if (p->last.txid <= txid)
            break;
        int64_t from = p->compacted ? 0 : p->first_off;
        for (uint32_t m = p->mark_count; m > 0 && from == p->first_off; m--)
            if (p->marks[m - 1].before.txid <= txid)
                from = p->marks[m - 1].off;
        total += p->end - from;
    }
    mutex_unlock(&t->mutex);
    return (uint64_t)total;
}

int txlog_find(struct txlog *t, uint64_t after, struct txlog_entry *out)
{
    struct position before;
    struct txlog_entry e;
    mutex_lock(&t->mutex);
    if (t->part_count == 0 || after >= t->last.txid || after < t->parts[t->chain]->start.txid) {
        mutex_unlock(&t->mutex);
        return -ERR_NOTFOUND;
    }
    int rc = find_in_chain(t, t->chain, t->part_count, after, &e, &before);
    if (rc == 0 && e.min_txid > after + 1) {
        txlog_entry_release(&e);
        rc = -ERR_NOTFOUND;
    }
    if (rc == 0)
        *out = e;
    return rc;
}

int txlog_find_from(struct txlog *t, struct position p, struct txlog_entry *out)
{
    for (uint32_t k = 0;; k++) {
        uint32_t low, high;
        mutex_lock(&t->mutex);
        if (position_equal(p, t->last) || !chain_bounds(t, k, &low, &high)) {
            mutex_unlock(&t->mutex);
            return -ERR_NOTFOUND;
        }
        int rc = find_from_in_chain(t, low, high, p, out);
        if (rc != -ERR_NOTFOUND)
            return rc;
    }
}

int txlog_find_ending(struct txlog *t, struct position p, struct txlog_entry *out)
{
    for (uint32_t k = 0;; k++) {
        uint32_t low, high;
        mutex_lock(&t->mutex);
        if (p.txid == 0 || !chain_bounds(t, k, &low, &high)) {
            mutex_unlock(&t->mutex);
            return -ERR_NOTFOUND;
        }
        int rc = find_ending_in_chain(t, low, high, p, out);
        if (rc != -ERR_NOTFOUND)
            return rc;
    }
}

int txlog_next(struct txlog *t, struct txlog_entry *e)
{
    struct txlog_entry out = {0};
    ASSERT(e->file != NULL, "there is an entry to go on from");
    mutex_lock(&t->mutex);
    struct txlog_part *p = e->file->part;
    int rc;
    if (p != NULL && !p->compacted && e->max_txid != p->last.txid)
        rc = next_in_part(t, p, e, &out);
    else if (p != NULL && (p = next_part(t, p)) != NULL)
        rc = first_of_part(t, p, &out);
    else {
        bool gone = e->file->part == NULL;
        mutex_unlock(&t->mutex);
        /* Its segment has become an LTX file meanwhile, which may hold the next record too. */
        rc = gone ? txlog_find(t, e->max_txid, &out) : -ERR_NOTFOUND;
    }
    txlog_entry_release(e);
    *e = out;
    return rc;
}

int txlog_entry_read(const struct txlog_entry *e, uint64_t off, void *buf, size_t n)
{
    if (off > e->size || n > e->size - off)
        return -ERR_TRUNCATED;
    return file_read(e->file->fd, buf, n, e->off + (int64_t)off);
}

struct ltx_source txlog_entry_source(struct txlog_entry *e)
{
    return (struct ltx_source){.read = read_entry, .ctx = e, .size = e->size};
}

void txlog_entry_release(struct txlog_entry *e)
{
    txlog_file_unref(e->file);
    *e = (struct txlog_entry){0};
}

int txlog_checksum_at(struct txlog *t, uint64_t txid, uint64_t *checksum)
{
    struct txlog_entry e = {0};
    struct position before = {0};
    mutex_lock(&t->mutex);
    struct position first = t->part_count == 0 ? t->last : t->parts[t->chain]->start;
    struct position known = txid == t->last.txid ? t->last : first;
    if (txid == known.txid || txid < first.txid || txid > t->last.txid) {
        mutex_unlock(&t->mutex);
        if (txid != known.txid)
            return -ERR_NOTFOUND;
        *checksum = known.checksum;
        return 0;
    }
    int rc = find_in_chain(t, t->chain, t->part_count, txid, &e, &before);
    if (rc < 0)
        return rc;
    txlog_entry_release(&e);
    if (before.txid != txid)
        return -ERR_NOTFOUND;
    *checksum = before.checksum;
    return 0;
}
