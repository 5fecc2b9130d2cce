/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/assert.h"
#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"
#include "ltx/compact.h"
#include "ltx/txlog_internal.h"

/*
 * What keeps the log from growing for ever. One thread at a time (`maintaining`), beside appenders
 * and readers: it works on closed segments through references, and changes the list of files under
 * the mutex only when the new file is durable.
 */

void txlog_end_maintenance(struct txlog *t)
{
    atomic_store(&t->no_maintenance, true);
}

struct file_sink {
    const struct txlog *log;
    int fd;
    int64_t off;
};

static int sink_write(void *ctx, const void *data, size_t n)
{
    struct file_sink *s = ctx;
    int rc = s->log->no_maintenance ? -ERR_CLOSED : file_write(s->fd, data, n, s->off);
    s->off += (int64_t)n;
    return rc;
}

/* The records of one closed segment. */
struct gathered {
    struct ltx_file_range *ranges;
    uint64_t *sizes;
    uint32_t count, cap;
};

static int gather_one(struct gathered *g, int fd, int64_t off, uint64_t size)
{
    if (g->count == g->cap) {
        uint32_t cap = g->cap == 0 ? 256 : g->cap * 2;
        struct ltx_file_range *ranges = realloc(g->ranges, cap * sizeof *ranges);
        if (ranges == NULL)
            return -ERR_NOMEM;
        g->ranges = ranges;
        uint64_t *sizes = realloc(g->sizes, cap * sizeof *sizes);
        if (sizes == NULL)
            return -ERR_NOMEM;
        g->sizes = sizes;
        g->cap = cap;
    }
    g->ranges[g->count] = (struct ltx_file_range){.fd = fd, .off = off};
    g->sizes[g->count++] = size;
    return 0;
}

/* All records of the segment but a rebase: nobody but this node could apply that one. */
static int gather(struct gathered *g, const struct txlog_part *p, struct txlog_file *file)
{
    uint64_t at = p->start.txid;
    int64_t off = p->first_off;
    while (at < p->last.txid) {
        struct txlog_frame f;
        int rc = segment_frame_read(file->fd, file->salt, off, p->end, &f);
        if (rc == 0)
            rc = gather_one(g, file->fd, off + TXLOG_FRAME_HEADER, f.size);
        if (rc < 0)
            return rc == -ERR_NOTFOUND ? -ERR_CORRUPT : rc;
        at = f.max_txid;
        off += TXLOG_FRAME_HEADER + (int64_t)f.size;
    }
    return 0;
}

/* One of them, as long as the log may be maintained: a single record may be of many gigabytes. */
struct gathered_record {
    const struct txlog *log;
    struct ltx_source source;
};

static int read_gathered(void *ctx, uint64_t off, void *buf, size_t n)
{
    struct gathered_record *r = ctx;
    return r->log->no_maintenance ? -ERR_CLOSED : r->source.read(r->source.ctx, off, buf, n);
}

static void gathered_fini(struct gathered *g)
{
    free(g->ranges);
    free(g->sizes);
}

/* Merges what was gathered into ltx/MIN-MAX.ltx, durable, and fills in `made`. */
static int write_ltx(struct txlog *t, struct gathered *g, struct txlog_part *made)
{
    static const char tmp[] = "ltx/" TXLOG_COMPACT_NAME;
    struct file_sink out = {.log = t};
    struct ltx_source *sources = calloc(g->count, sizeof *sources);
    struct gathered_record *records = calloc(g->count, sizeof *records);
    int folder = -1, rc = -ERR_NOMEM;
    if (sources == NULL || records == NULL)
        goto done;
    for (uint32_t i = 0; i < g->count; i++) {
        records[i] = (struct gathered_record){t, ltx_source_file(&g->ranges[i], g->sizes[i])};
        sources[i] = (struct ltx_source){read_gathered, &records[i], g->sizes[i]};
    }
    rc = file_open(t->dirfd, "ltx", O_RDONLY | O_DIRECTORY, 0, &folder);
    if (rc < 0)
        goto done;
    rc = file_open(t->dirfd, tmp, O_RDWR | O_CREAT | O_TRUNC, 0600, &out.fd);
    if (rc < 0)
        goto done;
    rc = compact_records(sources, g->count, folder, 0, (struct ltx_sink){sink_write, &out},
                         &made->header, &made->last.checksum);
    if (rc == 0)
        rc = file_sync(out.fd);
    int closed = file_close(out.fd);
    if (rc == 0)
        rc = closed;
    if (rc == 0) {
        made->compacted = true;
        made->last.txid = made->header.max_txid;
        made->base = (struct position){made->header.min_txid - 1, made->header.pre_checksum};
        made->start = made->base;
        made->end = out.off;
        made->newest_ms = made->header.timestamp_ms;
        part_ltx_path(made);
        rc = file_rename(t->dirfd, tmp, t->dirfd, made->path);
    }
    if (rc == 0)
        rc = file_sync_dir(t->dirfd, "ltx");
    else
        txlog_unlink(t, tmp);
done:
    (void)file_close(folder);
    free(records);
    free(sources);
    return rc;
}

/* With the mutex held: the largest TXID at or before which records may go. */
static uint64_t limit_locked(const struct txlog *t, uint64_t recovery_txid)
{
    uint64_t limit = recovery_txid;
    for (const struct txlog_pin *pin = t->pins; pin != NULL; pin = pin->next)
        if (pin->txid < limit)
            limit = pin->txid;
    return limit;
}

/* With the mutex held: the index of the first segment, if it may be compacted. */
static bool next_to_compact(struct txlog *t, uint64_t recovery_txid, uint32_t *index)
{
    uint32_t i = 0;
    while (i < t->part_count && t->parts[i]->compacted)
        i++;
    if (i >= t->part_count || t->parts[i] == t->tail || t->parts[i]->stuck)
        return false;
    *index = i;
    return !t->superseded && t->parts[i]->last.txid <= limit_locked(t, recovery_txid);
}

/* The last segment is on disk, header and name: it says where the log ends when nothing else does. */
static int sync_tail(struct txlog *t)
{
    struct txlog_file *file = NULL;
    mutex_lock(&t->mutex);
    int rc = t->tail == NULL ? 0 : part_open_file(t, t->tail, &file);
    mutex_unlock(&t->mutex);
    if (rc < 0 || file == NULL)
        return rc;
    rc = file_sync_data(file->fd);
    txlog_file_unref(file);
    return rc < 0 ? rc : file_sync_dir(t->dirfd, "log");
}

/*
 * Replaces part i by `made`, or only removes it if that is NULL, and then its file. The removals before
 * this one are on disk first: a loss of power must not bring back a file from before one that is gone. On
 * failure everything is as before.
 */
static int replace_part(struct txlog *t, uint32_t i, struct txlog_part *made)
{
    char old[TXLOG_PATH_SIZE];
    mutex_lock(&t->mutex);
    bool compacted = t->parts[i]->compacted;
    mutex_unlock(&t->mutex);
    int rc = made == NULL ? sync_tail(t) : 0;
    if (rc == 0)
        rc = file_sync_dir(t->dirfd, compacted ? "ltx" : "log");
    if (rc < 0)
        return rc;
    mutex_lock(&t->mutex);
    memcpy(old, t->parts[i]->path, sizeof old);
    if (made != NULL) {
        part_free(t->parts[i]);
        t->parts[i] = made;
    } else
        txlog_remove_part(t, i);
    mutex_unlock(&t->mutex);
    txlog_unlink(t, old);
    return 0;
}

/* 1: one segment is now an LTX file; 0: there is none to compact. */
static int compact_one(struct txlog *t, uint64_t recovery_txid)
{
    uint32_t i;
    mutex_lock(&t->mutex);
    if (!next_to_compact(t, recovery_txid, &i)) {
        mutex_unlock(&t->mutex);
        return 0;
    }
    struct txlog_part *p = t->parts[i];
    struct txlog_file *file;
    int rc = part_open_file(t, p, &file);
    mutex_unlock(&t->mutex);
    if (rc < 0)
        return rc;
    struct gathered g = {0};
    struct txlog_part *made = NULL;
    rc = gather(&g, p, file);
    if (rc == 0 && g.count > 0) {
        made = part_new();
        rc = made == NULL ? -ERR_NOMEM : write_ltx(t, &g, made);
    }
    gathered_fini(&g);
    if (rc == 0)
        rc = replace_part(t, i, made);
    if (rc < 0)
        part_free(made);
    txlog_file_unref(file);
    if (rc == 0)
        return 1;
    if (rc == -ERR_CLOSED)
        return rc;
    log_warn("log", "%s: %s cannot be compacted: %s; it is kept as it is", t->name, p->path,
             err_text(rc));
    if (rc != -ERR_NOSPACE && rc != -ERR_NOMEM) {
        mutex_lock(&t->mutex);
        p->stuck = true;
        mutex_unlock(&t->mutex);
    }
    return rc;
}

/* With the mutex held: whether the oldest file is past the retention. */
static bool first_is_past(struct txlog *t, const struct txlog_retention *r, uint64_t recovery_txid)
{
    if (t->part_count == 0 || t->parts[0] == t->tail || t->superseded)
        return false;
    const struct txlog_part *p = t->parts[0];
    if (p->last.txid > limit_locked(t, recovery_txid))
        return false;
    if (r->age_ms > 0 && wall_ms() - p->newest_ms > r->age_ms)
        return true;
    int64_t total = 0;
    for (uint32_t i = 0; i < t->part_count; i++)
        total += t->parts[i]->end;
    return r->size_bytes > 0 && total > r->size_bytes;
}

/* With a log that ends in an LTX file, the last position would be gone with the file. */
static bool is_last_part(const struct txlog *t)
{
    return t->part_count == 1;
}

static int trim(struct txlog *t, const struct txlog_retention *r, uint64_t recovery_txid)
{
    for (;;) {
        mutex_lock(&t->mutex);
        bool past = first_is_past(t, r, recovery_txid) && !is_last_part(t);
        mutex_unlock(&t->mutex);
        int rc = past ? replace_part(t, 0, NULL) : 0;
        if (rc < 0 || !past)
            return rc;
    }
}

/*
 * The active segment is closed by the next append when it is long enough. Here it is, too, when no
 * append comes: a start has less to read then, and what is old can go.
 */
static int close_idle(struct txlog *t, const struct txlog_retention *r, uint64_t recovery_txid)
{
    mutex_lock(&t->mutex);
    struct txlog_part *p = t->tail;
    bool roll = false;
    if (p != NULL && !t->appending && !t->failed && p->end > TXLOG_SEGMENT_HEADER) {
        bool done_with = p->last.txid <= limit_locked(t, recovery_txid) && !t->superseded;
        bool old = r->age_ms > 0 && wall_ms() - p->newest_ms > r->age_ms;
        bool large = r->size_bytes > 0 && p->end > r->size_bytes / 2;
        roll = p->end >= t->segment_bytes || (done_with && (old || large));
    }
    if (roll)
        t->appending = true;
    mutex_unlock(&t->mutex);
    if (!roll)
        return 0;
    int rc = 0;
    if (t->active == NULL) {
        mutex_lock(&t->mutex);
        rc = part_open_file(t, t->tail, &t->active);
        mutex_unlock(&t->mutex);
    }
    if (rc == 0)
        rc = txlog_roll(t, t->last, 0);
    txlog_slot_give(t);
    return rc;
}

static void maintenance_begin(struct txlog *t)
{
    mutex_lock(&t->mutex);
    while (t->maintaining)
        cond_wait(&t->idle, &t->mutex);
    t->maintaining = true;
    mutex_unlock(&t->mutex);
}

static void maintenance_end(struct txlog *t)
{
    mutex_lock(&t->mutex);
    t->maintaining = false;
    cond_signal(&t->idle);
    mutex_unlock(&t->mutex);
}

/* With `maintaining`: removes the first n parts, oldest first, so that a crash leaves no gap. */
static int remove_first(struct txlog *t, uint32_t n)
{
    struct txlog_part **gone = NULL;
    if (n > 0 && (gone = malloc(n * sizeof(struct txlog_part *))) == NULL)
        return -ERR_NOMEM;
    mutex_lock(&t->mutex);
    for (uint32_t i = 0; i < n; i++) {
        gone[i] = t->parts[i];
        if (gone[i]->file != NULL)
            gone[i]->file->part = NULL;
        gone[i]->file = NULL;
    }
    t->part_count -= n;
    t->chain = t->chain > n ? t->chain - n : 0;
    memmove(t->parts, t->parts + n, t->part_count * sizeof(struct txlog_part *));
    mutex_unlock(&t->mutex);
    for (uint32_t i = 0; i < n; i++) {
        txlog_unlink(t, gone[i]->path);
        part_free(gone[i]);
    }
    free(gone);
    return 0;
}

void txlog_pin(struct txlog *t, struct txlog_pin *pin, uint64_t txid)
{
    mutex_lock(&t->mutex);
    *pin = (struct txlog_pin){.log = t, .txid = txid, .next = t->pins};
    if (t->pins != NULL)
        t->pins->prev = pin;
    t->pins = pin;
    mutex_unlock(&t->mutex);
}

void txlog_pin_move(struct txlog_pin *pin, uint64_t txid)
{
    mutex_lock(&pin->log->mutex);
    pin->txid = txid;
    mutex_unlock(&pin->log->mutex);
}

void txlog_unpin(struct txlog_pin *pin)
{
    struct txlog *t = pin->log;
    if (t == NULL)
        return;
    mutex_lock(&t->mutex);
    if (pin->prev != NULL)
        pin->prev->next = pin->next;
    else
        t->pins = pin->next;
    if (pin->next != NULL)
        pin->next->prev = pin->prev;
    mutex_unlock(&t->mutex);
    *pin = (struct txlog_pin){0};
}

int txlog_maintain(struct txlog *t, const struct txlog_retention *r, uint64_t recovery_txid)
{
    maintenance_begin(t);
    int rc = close_idle(t, r, recovery_txid);
    int step = 1;
    while (rc == 0 && step == 1) {
        step = compact_one(t, recovery_txid);
        if (step < 0)
            rc = step;
    }
    int trimmed = trim(t, r, recovery_txid);
    maintenance_end(t);
    return rc < 0 ? rc : trimmed;
}

int txlog_drop_superseded(struct txlog *t, struct position recovery)
{
    uint64_t checksum;
    mutex_lock(&t->mutex);
    bool any = t->superseded;
    uint64_t history = t->history;
    mutex_unlock(&t->mutex);
    if (!any || txlog_checksum_at(t, recovery.txid, &checksum) != 0 ||
        checksum != recovery.checksum)
        return 0;
    maintenance_begin(t);
    mutex_lock(&t->mutex);
    uint32_t n = history == t->history ? t->chain : 0;
    mutex_unlock(&t->mutex);
    int rc = remove_first(t, n);
    mutex_lock(&t->mutex);
    if (rc == 0 && history == t->history)
        t->superseded = false;
    mutex_unlock(&t->mutex);
    maintenance_end(t);
    return rc;
}

int txlog_reset(struct txlog *t, struct position base)
{
    int rc = txlog_slot_take(t);
    if (rc < 0)
        return rc;
    maintenance_begin(t);
    rc = txlog_roll(t, base, SEGMENT_RESET);
    if (rc == 0) {
        rc = file_sync(t->active->fd);
        if (rc == 0)
            rc = file_sync_dir(t->dirfd, "log");
        if (rc < 0)
            txlog_fail(t, "starting it again", rc);
    }
    if (rc == 0) {
        mutex_lock(&t->mutex);
        uint32_t n = t->part_count - 1;
        t->last = t->durable = base;
        t->folder_dirty = false;
        t->chain = n;
        t->superseded = false;
        t->history++;
        cond_broadcast(&t->synced);
        mutex_unlock(&t->mutex);
        rc = remove_first(t, n);
    }
    maintenance_end(t);
    txlog_slot_give(t);
    return rc;
}
