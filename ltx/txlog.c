/* SPDX-License-Identifier: Apache-2.0 */
#include "ltx/txlog.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/assert.h"
#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"
#include "ltx/checksum.h"
#include "ltx/txlog_internal.h"

#define ALLOCATE_LEAST (64 << 10)
#define ALLOCATE_MOST (1 << 20)
#define LEAVE_US 1000 /* so long a commit that somebody will sync is left to him */

/*
 * Buffers go from log to log, as most logs are idle most of the time: a few for the whole program,
 * each with the frame header's room in front.
 */
#define POOL_SIZE 4
static _Atomic(uint8_t *) pool[POOL_SIZE];

static uint8_t *buffer_get(void)
{
    for (int i = 0; i < POOL_SIZE; i++) {
        uint8_t *b = atomic_exchange(&pool[i], NULL);
        if (b != NULL)
            return b;
    }
    return malloc(TXLOG_FRAME_HEADER + TXLOG_BUFFER_BYTES);
}

static void buffer_put(uint8_t *b)
{
    for (int i = 0; b != NULL && i < POOL_SIZE; i++) {
        uint8_t *none = NULL;
        if (atomic_compare_exchange_strong(&pool[i], &none, b))
            return;
    }
    free(b);
}

static void tell_durable(struct txlog *t)
{
    if (t->feeds != NULL)
        feed_wake(&t->feeds->durable);
}

void txlog_fail(struct txlog *t, const char *what, int rc)
{
    log_error("log", "%s: %s failed: %s; it accepts no more transactions until a restart", t->name,
              what, err_text(rc));
    mutex_lock(&t->mutex);
    t->failed = true;
    cond_broadcast(&t->slot_free);
    cond_broadcast(&t->synced);
    mutex_unlock(&t->mutex);
}

int txlog_slot_take(struct txlog *t)
{
    mutex_lock(&t->mutex);
    while (t->appending && !t->failed)
        cond_wait(&t->slot_free, &t->mutex);
    int rc = t->failed ? -ERR_IO : 0;
    if (rc == 0)
        t->appending = true;
    mutex_unlock(&t->mutex);
    return rc;
}

void txlog_slot_give(struct txlog *t)
{
    mutex_lock(&t->mutex);
    t->appending = false;
    cond_signal(&t->slot_free);
    mutex_unlock(&t->mutex);
}

/* Everything so far is durable: the file was synced with the append slot held. */
static void set_durable(struct txlog *t)
{
    mutex_lock(&t->mutex);
    t->durable = t->last;
    cond_broadcast(&t->synced);
    mutex_unlock(&t->mutex);
    tell_durable(t);
}

/*
 * The next segment may hold records that are durable before this one's would be, so this one is
 * synced first; and it gives back the room that was allocated ahead.
 */
static int close_active(struct txlog *t)
{
    struct txlog_part *p = t->tail;
    ASSERT(p != NULL, "the active file is that of a part");
    int rc = file_truncate(t->active->fd, p->end);
    if (rc == 0)
        rc = file_sync_data(t->active->fd);
    if (rc == 0)
        rc = file_sync_dir(t->dirfd, "log");
    if (rc < 0) {
        txlog_fail(t, "closing a segment", rc);
        return -ERR_IO;
    }
    t->allocated = p->end;
    set_durable(t);
    return 0;
}

static int create_segment(struct txlog *t, struct txlog_part *p, uint32_t flags)
{
    struct segment_header h = {p->salt, p->base, flags, p->sequence};
    int fd;
    int rc = file_open(t->dirfd, p->path, O_RDWR | O_CREAT | O_EXCL, 0600, &fd);
    if (rc < 0)
        return rc;
    rc = segment_header_write(fd, &h);
    int closed = file_close(fd);
    if (rc == 0)
        rc = closed;
    if (rc < 0)
        txlog_unlink(t, p->path);
    return rc;
}

int txlog_roll(struct txlog *t, struct position base, uint32_t flags)
{
    struct txlog_part *p = part_new();
    if (p == NULL)
        return -ERR_NOMEM;
    p->sequence = t->next_sequence++;
    p->salt = random_u64();
    p->base = p->start = p->last = base;
    p->first_off = p->end = TXLOG_SEGMENT_HEADER;
    p->newest_ms = wall_ms();
    part_segment_path(p, base.txid + 1);
    int rc = t->active != NULL ? close_active(t) : 0;
    if (rc == 0)
        rc = create_segment(t, p, flags);
    if (rc < 0) {
        part_free(p);
        return rc;
    }
    mutex_lock(&t->mutex);
    struct txlog_file *old = t->active, *file = NULL;
    rc = part_open_file(t, p, &file);
    if (rc == 0)
        rc = txlog_add_part(t, p);
    if (rc == 0) {
        t->tail = p;
        t->recent_count = 0;
        t->active = file;
        t->allocated = p->end;
        t->folder_dirty = true;
    }
    mutex_unlock(&t->mutex);
    if (rc < 0) {
        txlog_file_unref(file);
        txlog_unlink(t, p->path);
        part_free(p);
        return rc;
    }
    txlog_file_unref(old);
    return 0;
}

/* The segment that the next frame goes to is there, open, and not too long. */
static int prepare(struct txlog *t, uint32_t flags)
{
    struct txlog_part *p = t->tail;
    if (p == NULL)
        return txlog_roll(t, t->last, 0);
    if (t->active == NULL) {
        mutex_lock(&t->mutex);
        int rc = part_open_file(t, p, &t->active);
        mutex_unlock(&t->mutex);
        if (rc < 0)
            return rc;
        t->allocated = p->end;
    }
    bool empty = p->end == TXLOG_SEGMENT_HEADER;
    if (!empty && (p->end >= t->segment_bytes || (flags & TXLOG_REBASE) != 0))
        return txlog_roll(t, t->last, 0);
    return 0;
}

/* More is asked for than needed, twice as much as there is at most: an idle database stays small.
 */
static int allocate(struct txlog *t, int64_t end)
{
    if (end <= t->allocated)
        return 0;
    int64_t ahead = t->allocated;
    if (ahead < ALLOCATE_LEAST)
        ahead = ALLOCATE_LEAST;
    if (ahead > ALLOCATE_MOST)
        ahead = ALLOCATE_MOST;
    int64_t want = end + ahead;
    int rc = file_allocate(t->active->fd, t->allocated, want - t->allocated);
    if (rc == -ERR_NOSPACE) {
        want = end;
        rc = file_allocate(t->active->fd, t->allocated, want - t->allocated);
    }
    if (rc == 0)
        t->allocated = want;
    return rc;
}

static int64_t body_off(const struct txlog_append *a)
{
    return a->off + TXLOG_FRAME_HEADER;
}

static int write_body(struct txlog_append *a, const void *data, size_t n, uint64_t at)
{
    int64_t off = body_off(a) + (int64_t)at;
    int rc = allocate(a->log, off + (int64_t)n);
    if (rc == 0)
        rc = file_write(a->log->active->fd, data, n, off);
    if (rc == 0)
        a->body_crc = checksum_update(a->body_crc, data, n);
    return rc;
}

static void end_append(struct txlog_append *a)
{
    struct txlog *t = a->log;
    buffer_put(a->small);
    memset(a, 0, sizeof *a);
    txlog_slot_give(t);
}

/* A record that goes out in one piece has its frame header in front of it. */
static int write_frame(struct txlog_append *a, struct txlog_frame *f)
{
    struct txlog *t = a->log;
    size_t rest = a->small_len;
    bool whole = rest == a->size;
    int rc = 0;
    if (whole)
        f->body_crc = checksum_update(0, a->small + TXLOG_FRAME_HEADER, rest);
    else {
        rc = txlog_append_flush(a);
        f->body_crc = a->body_crc;
    }
    if (rc < 0)
        return rc;
    size_t n = TXLOG_FRAME_HEADER + (whole ? rest : 0);
    rc = allocate(t, a->off + (int64_t)n);
    if (rc < 0)
        return rc;
    segment_frame_encode(f, t->active->salt, a->small);
    rc = file_write(t->active->fd, a->small, n, a->off);
    if (rc < 0) {
        /* What was not published must not be found after a restart, even if it got there. */
        static const uint8_t zeros[TXLOG_FRAME_HEADER];
        int undone = file_write(t->active->fd, zeros, sizeof zeros, a->off);
        if (undone < 0)
            txlog_fail(t, "taking back a record that could not be written", undone);
    }
    return rc;
}

/* A rebase is durable before anybody sees it: what it replaces is dropped soon after. */
static int sync_rebase(struct txlog *t)
{
    int rc = file_sync_data(t->active->fd);
    if (rc == 0)
        rc = file_sync_dir(t->dirfd, "log");
    if (rc == 0)
        return 0;
    txlog_fail(t, "syncing a rebase", rc);
    return -ERR_IO;
}

static void publish_locked(struct txlog *t, const struct txlog_frame *f)
{
    t->recent[t->recent_count++ % TXLOG_RECENT] = (struct txlog_mark){t->tail->last, t->tail->end};
    segment_add(t->tail, f);
    t->last = t->tail->last;
    if (f->flags & TXLOG_REBASE) {
        t->chain = t->part_count - 1;
        t->superseded = true;
        t->durable = t->last;
        t->folder_dirty = false;
        t->history++;
        cond_broadcast(&t->synced);
    }
}

struct position txlog_last(struct txlog *t)
{
    mutex_lock(&t->mutex);
    struct position p = t->last;
    mutex_unlock(&t->mutex);
    return p;
}

struct position txlog_durable(struct txlog *t)
{
    mutex_lock(&t->mutex);
    struct position p = t->durable;
    mutex_unlock(&t->mutex);
    return p;
}

struct position txlog_first(struct txlog *t)
{
    mutex_lock(&t->mutex);
    struct position p = t->part_count == 0 ? t->last : t->parts[t->chain]->start;
    mutex_unlock(&t->mutex);
    return p;
}

int txlog_append_begin(struct txlog *t, struct txlog_append *a, uint32_t flags)
{
    int rc = txlog_slot_take(t);
    if (rc < 0)
        return rc;
    *a = (struct txlog_append){.log = t, .flags = flags, .small = buffer_get()};
    rc = a->small == NULL ? -ERR_NOMEM : prepare(t, flags);
    if (rc < 0)
        end_append(a);
    else
        a->off = t->tail->end;
    return rc;
}

int txlog_append_write(struct txlog_append *a, const void *data, size_t n)
{
    ASSERT(a->log != NULL, "an append has begun");
    if (a->small_len + n > TXLOG_BUFFER_BYTES) {
        int rc = txlog_append_flush(a);
        if (rc == 0 && n >= TXLOG_BUFFER_BYTES) {
            rc = write_body(a, data, n, a->size);
            if (rc == 0)
                a->size += n;
            return rc;
        }
        if (rc < 0)
            return rc;
    }
    memcpy(a->small + TXLOG_FRAME_HEADER + a->small_len, data, n);
    a->small_len += n;
    a->size += n;
    return 0;
}

int txlog_append_publish(struct txlog_append *a, const struct ltx_header *header,
                         uint64_t post_checksum)
{
    struct txlog *t = a->log;
    ASSERT(t != NULL, "an append has begun");
    struct txlog_frame f = {.flags = a->flags & TXLOG_REBASE,
                            .size = a->size,
                            .max_txid = header->max_txid,
                            .post_checksum = post_checksum,
                            .header = *header};
    /* Where there was nothing, a snapshot is the beginning like any other. */
    if (ltx_header_is_snapshot(header) && t->last.txid == 0)
        f.flags = 0;
    int rc = 0;
    if ((header->flags & LTX_NO_CHECKSUM) != 0 || a->size < LTX_MIN_FILE_SIZE)
        rc = -ERR_INVALID;
    else if (!segment_follows(t->last, f.flags, header))
        rc = -ERR_POSITION;
    else
        rc = write_frame(a, &f);
    if (rc == 0 && (f.flags & TXLOG_REBASE) != 0)
        rc = sync_rebase(t);
    if (rc == 0) {
        mutex_lock(&t->mutex);
        publish_locked(t, &f);
        mutex_unlock(&t->mutex);
    }
    end_append(a);
    if (rc == 0 && t->feeds != NULL) {
        feed_wake(&t->feeds->published);
        if ((f.flags & TXLOG_REBASE) != 0)
            feed_wake(&t->feeds->durable);
    }
    return rc;
}

int txlog_append_flush(struct txlog_append *a)
{
    ASSERT(a->log != NULL, "an append has begun");
    if (a->small_len == 0)
        return 0;
    int rc = write_body(a, a->small + TXLOG_FRAME_HEADER, a->small_len, a->size - a->small_len);
    if (rc == 0)
        a->small_len = 0;
    return rc;
}

struct ltx_source txlog_append_source(struct txlog_append *a, struct ltx_file_range *range)
{
    *range = (struct ltx_file_range){.fd = a->log->active->fd, .off = body_off(a)};
    return ltx_source_file(range, a->size);
}

void txlog_append_abort(struct txlog_append *a)
{
    if (a->log != NULL)
        end_append(a);
}

int txlog_reserve(struct txlog *t, int64_t bytes)
{
    int rc = txlog_slot_take(t);
    if (rc < 0)
        return rc;
    rc = prepare(t, 0);
    if (rc == 0)
        rc = allocate(t, t->tail->end + bytes + TXLOG_FRAME_HEADER);
    txlog_slot_give(t);
    return rc;
}

/* With the mutex held, which it gives up while the disk works. */
static void sync_as_leader(struct txlog *t)
{
    struct position target = t->last;
    uint64_t history = t->history;
    struct txlog_file *f = t->active;
    bool folder = t->folder_dirty;
    f->refs++;
    t->syncing = true;
    t->folder_dirty = false;
    mutex_unlock(&t->mutex);

    int rc = folder ? file_sync_dir(t->dirfd, "log") : 0;
    if (rc == 0)
        rc = file_sync_data(f->fd);
    txlog_file_unref(f);
    if (rc < 0)
        txlog_fail(t, "syncing it", rc);

    mutex_lock(&t->mutex);
    t->syncing = false;
    /* A segment closed or a rebase published meanwhile has gone further already. */
    if (rc == 0 && history == t->history && target.txid > t->durable.txid)
        t->durable = target;
    cond_broadcast(&t->synced);
}

/* With the mutex held. True if this thread has led a sync. */
static int sync_locked(struct txlog *t, uint64_t txid, bool *led)
{
    int rc = 0;
    *led = false;
    /* What is appended while we wait is not waited for. */
    if (txid > t->last.txid)
        txid = t->last.txid;
    for (;;) {
        /* What a rebase has replaced meanwhile is of no more interest. */
        if (t->durable.txid >= (txid < t->last.txid ? txid : t->last.txid))
            break;
        if (t->failed) {
            rc = -ERR_IO;
            break;
        }
        if (t->syncing)
            cond_wait(&t->synced, &t->mutex);
        else {
            sync_as_leader(t);
            *led = true;
        }
    }
    return rc;
}

int txlog_sync(struct txlog *t, uint64_t txid)
{
    bool led;
    mutex_lock(&t->mutex);
    t->attended = txid >= t->last.txid || t->attended;
    int rc = sync_locked(t, txid, &led);
    mutex_unlock(&t->mutex);
    if (led && rc == 0)
        tell_durable(t);
    return rc;
}

/*
 * With the mutex held: how long to leave what is not durable to those who made it, 0 if they do not
 * see to it. A second thread at a sync that somebody is about to begin, or waits for, costs him two
 * changes of thread.
 */
static int64_t leave_to_others(struct txlog *t)
{
    if (t->syncing)
        return LEAVE_US;
    if (!t->attended)
        return 0;
    if (t->left_txid <= t->durable.txid) {
        t->left_txid = t->last.txid;
        t->left_at = mono_now();
        return LEAVE_US;
    }
    int64_t left_us = LEAVE_US - mono_since_us(t->left_at);
    t->attended = left_us > 0;
    return left_us > 0 ? left_us : 0;
}

int64_t txlog_sync_behind(struct txlog *t, int64_t again_us)
{
    bool led = false;
    int rc = 0;
    mutex_lock(&t->mutex);
    if (t->failed || position_equal(t->last, t->durable))
        again_us = 0;
    else {
        int64_t left_us = leave_to_others(t);
        if (left_us > 0)
            again_us = left_us;
        else
            rc = sync_locked(t, UINT64_MAX, &led);
    }
    mutex_unlock(&t->mutex);
    if (led && rc == 0)
        tell_durable(t);
    return again_us;
}

bool txlog_needs_sync(struct txlog *t)
{
    mutex_lock(&t->mutex);
    bool needs = !t->failed && !position_equal(t->last, t->durable);
    mutex_unlock(&t->mutex);
    return needs;
}
