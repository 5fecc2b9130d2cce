/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ltx/base/assert.h"
#include "ltx/base/bytes.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"
#include "ltx/txlog_internal.h"

/*
 * From a folder to a log. Only the last segment is read through: those before it were closed, which
 * means synced and cut to their length, and end where the next one begins. What a crash can have
 * left behind besides a torn tail:
 *   - a segment whose header never reached the disk: nothing in it was ever durable; removed;
 *   - an LTX file and the segment it was made of: the segment goes;
 *   - LTX files beside a first segment that begins with a rebase: they are from before it, or hold
 *     a part of it; they go;
 *   - a reset that had not removed the former segments: they go.
 * A gap in the chain is none of these. What lies before it is named and left alone. A last segment
 * with a foreign header is refused: to go on without it would use its TXIDs a second time.
 */

#define SEGMENT_NAME_SIZE (8 + 1 + 16 + 4)
#define DEFAULT_SEGMENT_BYTES (16 << 20)

/* The files of one folder that bear names of ours, while the log is put together. */
struct found {
    struct txlog_part **parts;
    uint32_t count, cap;
};

static int found_add(struct found *f, struct txlog_part *p)
{
    if (f->count == f->cap) {
        uint32_t cap = f->cap == 0 ? 16 : f->cap * 2;
        struct txlog_part **parts = realloc(f->parts, cap * sizeof *parts);
        if (parts == NULL)
            return -ERR_NOMEM;
        f->parts = parts;
        f->cap = cap;
    }
    f->parts[f->count++] = p;
    return 0;
}

/* Forgets the first n. */
static void found_drop(struct found *f, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        part_free(f->parts[i]);
    f->count -= n;
    if (n > 0 && f->count > 0)
        memmove(f->parts, f->parts + n, f->count * sizeof *f->parts);
}

static void found_fini(struct found *f)
{
    found_drop(f, f->count);
    free(f->parts);
}

static int parse_segment_name(const char *name, uint32_t *sequence)
{
    if (strlen(name) != SEGMENT_NAME_SIZE || name[8] != '-' || strcmp(name + 25, ".seg") != 0)
        return -ERR_INVALID;
    char padded[17] = "00000000";
    memcpy(padded + 8, name, 8);
    uint64_t number, first;
    if (get_hex16(padded, &number) < 0 || get_hex16(name + 9, &first) < 0)
        return -ERR_INVALID;
    *sequence = (uint32_t)number;
    return 0;
}

/* A part for a name of ours; *out is NULL for a name that is not. */
static int part_for_name(struct txlog *t, const char *folder, const char *name,
                         struct txlog_part **out)
{
    *out = NULL;
    struct txlog_part *p = part_new();
    if (p == NULL)
        return -ERR_NOMEM;
    bool ltx = strcmp(folder, "ltx") == 0;
    p->compacted = ltx;
    int rc = ltx ? ltx_name_parse(name, &p->header.min_txid, &p->header.max_txid)
                 : parse_segment_name(name, &p->sequence);
    if (rc == 0) {
        snprintf(p->path, sizeof p->path, "%s/%.*s", folder, LTX_NAME_SIZE, name);
        *out = p;
        return 0;
    }
    part_free(p);
    if (ltx && strcmp(name, TXLOG_COMPACT_NAME) == 0)
        txlog_unlink(t, "ltx/" TXLOG_COMPACT_NAME);
    else
        log_warn("log", "%s: %s/%s is not a file of the log; it is left alone", t->name, folder,
                 name);
    return 0;
}

static int list_folder(struct txlog *t, const char *folder, struct found *f)
{
    int rc = file_mkdir(t->dirfd, folder, 0700);
    int fd;
    if (rc == 0)
        rc = file_open(t->dirfd, folder, O_RDONLY | O_DIRECTORY, 0, &fd);
    if (rc != 0)
        return rc;
    DIR *dir = fdopendir(fd);
    if (dir == NULL) {
        (void)file_close(fd);
        return -ERR_NOMEM;
    }
    const struct dirent *entry;
    while (rc == 0 && (rc = file_next_entry(dir, &entry)) == 0 && entry != NULL) {
        struct txlog_part *p;
        rc = part_for_name(t, folder, entry->d_name, &p);
        if (rc == 0 && p != NULL) {
            rc = found_add(f, p);
            if (rc < 0)
                part_free(p);
        }
    }
    closedir(dir);
    return rc;
}

static int by_sequence(const void *a, const void *b)
{
    const struct txlog_part *x = *(struct txlog_part *const *)a;
    const struct txlog_part *y = *(struct txlog_part *const *)b;
    return x->sequence < y->sequence ? -1 : x->sequence > y->sequence;
}

static int by_max_txid(const void *a, const void *b)
{
    const struct txlog_part *x = *(struct txlog_part *const *)a;
    const struct txlog_part *y = *(struct txlog_part *const *)b;
    return x->header.max_txid < y->header.max_txid ? -1 : x->header.max_txid > y->header.max_txid;
}

static void sort(struct found *f, int (*compare)(const void *, const void *))
{
    if (f->count > 1)
        qsort(f->parts, f->count, sizeof *f->parts, compare);
}

/* Header and first frame of a segment. -ERR_CORRUPT if it is none, and *blank. */
static int read_segment(struct txlog *t, struct txlog_part *p, uint32_t *flags, bool *blank)
{
    int fd;
    int rc = file_open(t->dirfd, p->path, O_RDONLY, 0, &fd);
    if (rc < 0)
        return rc;
    struct segment_header h;
    struct stat st;
    rc = segment_header_read(fd, &h, blank);
    if (rc == 0 && h.sequence != p->sequence)
        rc = -ERR_CORRUPT;
    if (rc == 0 && fstat(fd, &st) < 0)
        rc = -ERR_IO;
    if (rc == 0) {
        *flags = h.flags;
        p->salt = h.salt;
        p->base = p->start = p->last = h.base;
        p->first_off = TXLOG_SEGMENT_HEADER;
        p->end = st.st_size;
        p->newest_ms = (int64_t)st.st_mtim.tv_sec * 1000;
        struct txlog_frame f;
        int frame = segment_frame_read(fd, p->salt, TXLOG_SEGMENT_HEADER, p->end, &f);
        if (frame == 0 && (f.flags & TXLOG_REBASE)) {
            p->rebase = true;
            p->start = (struct position){f.max_txid, f.post_checksum};
            p->first_off += TXLOG_FRAME_HEADER + (int64_t)f.size;
        } else if (frame < 0 && frame != -ERR_NOTFOUND && frame != -ERR_CORRUPT)
            rc = frame;
    }
    (void)file_close(fd);
    return rc;
}

/* Removes the files of the first n parts: what is in them is elsewhere, or of no more use. */
static void discard(struct txlog *t, struct found *f, uint32_t n, const char *why)
{
    for (uint32_t i = 0; i < n; i++) {
        log_info("log", "%s: %s is removed: %s", t->name, f->parts[i]->path, why);
        txlog_unlink(t, f->parts[i]->path);
    }
    found_drop(f, n);
}

/* Leaves the first n parts alone. */
static void leave(struct txlog *t, struct found *f, uint32_t n, const char *why)
{
    for (uint32_t i = 0; i < n; i++)
        log_warn("log", "%s: %s is left alone: %s", t->name, f->parts[i]->path, why);
    found_drop(f, n);
}

static int read_segments(struct txlog *t, struct found *f)
{
    for (uint32_t i = 0; i < f->count; i++) {
        struct txlog_part *p = f->parts[i];
        uint32_t flags = 0;
        bool blank = false;
        if (p->sequence >= t->next_sequence)
            t->next_sequence = p->sequence + 1;
        int rc = read_segment(t, p, &flags, &blank);
        bool last = i + 1 == f->count;
        if (rc == -ERR_CORRUPT && last && blank) {
            log_warn("log", "%s: %s was being made when the machine stopped; it is removed",
                     t->name, p->path);
            txlog_unlink(t, p->path);
            part_free(p);
            f->count--;
        } else if (rc == -ERR_CORRUPT && last) {
            log_error("log",
                      "%s: %s has no readable header, and what it holds is the end of the log; put "
                      "the file right, or remove the database's folder to have it fetched again",
                      t->name, p->path);
            return rc;
        } else if (rc == -ERR_CORRUPT) {
            leave(t, f, i + 1, "its header, or that of a later segment, is not one of a segment");
            i = UINT32_MAX;
        } else if (rc < 0) {
            log_error("log", "%s: %s cannot be read: %s", t->name, p->path, err_text(rc));
            return rc;
        } else if (flags & SEGMENT_RESET) {
            discard(t, f, i, "the log was started again after it");
            t->reset_found = true;
            i = 0;
        }
    }
    for (uint32_t i = 0; i + 1 < f->count; i++)
        f->parts[i]->last = f->parts[i + 1]->base;
    return 0;
}

/* The end of the last segment: what is torn is cut off, so that it can never come back. */
static int scan_last(struct txlog *t, struct txlog_part *p)
{
    int fd;
    int rc = file_open(t->dirfd, p->path, O_RDWR, 0, &fd);
    if (rc < 0)
        return rc;
    int64_t size = p->end;
    const char *torn;
    rc = segment_scan(p, fd, size, &torn);
    if (rc == 0 && torn != NULL)
        log_warn("log",
                 "%s: %s is torn at byte %" PRId64
                 " (%s) and cut there; the last transaction is %016" PRIx64,
                 t->name, p->path, p->end, torn, p->last.txid);
    if (rc == 0 && size > p->end)
        rc = file_truncate(fd, p->end);
    /* After a crash the kernel may still hold what was never synced. */
    if (rc == 0)
        rc = file_sync_data(fd);
    if (rc < 0)
        log_error("log", "%s: %s cannot be recovered: %s", t->name, p->path, err_text(rc));
    (void)file_close(fd);
    return rc;
}

/* Header and checksum after of an LTX file. -ERR_CORRUPT if they are not as the name says. */
static int read_ltx(struct txlog *t, struct txlog_part *p)
{
    int fd;
    int rc = file_open(t->dirfd, p->path, O_RDONLY, 0, &fd);
    if (rc < 0)
        return rc;
    uint8_t head[LTX_HEADER_SIZE], tail[8] = {0};
    int64_t size;
    struct ltx_header h;
    rc = file_size(fd, &size);
    if (rc == 0 && size < LTX_MIN_FILE_SIZE)
        rc = -ERR_CORRUPT;
    if (rc == 0)
        rc = file_read(fd, head, sizeof head, 0);
    if (rc == 0)
        rc = file_read(fd, tail, sizeof tail, size - LTX_TRAILER_SIZE);
    if (rc == 0)
        rc = ltx_header_decode(head, &h);
    if (rc == 0 && (h.min_txid != p->header.min_txid || h.max_txid != p->header.max_txid ||
                    !ltx_post_checksum_valid(&h, get_be64(tail)) || h.flags != 0))
        rc = -ERR_CORRUPT;
    (void)file_close(fd);
    if (rc != 0)
        return rc == -ERR_TRUNCATED ? -ERR_CORRUPT : rc;
    p->header = h;
    p->end = size;
    p->newest_ms = h.timestamp_ms;
    p->base = p->start = (struct position){h.min_txid - 1, h.pre_checksum};
    p->last = (struct position){h.max_txid, get_be64(tail)};
    return 0;
}

static int read_ltx_files(struct txlog *t, struct found *f)
{
    for (uint32_t i = 0; i < f->count;) {
        int rc = read_ltx(t, f->parts[i]);
        if (rc == -ERR_CORRUPT) {
            leave(t, f, i + 1, "its header, or that of a later file, is not what its name says");
            i = 0;
            continue;
        }
        if (rc < 0) {
            log_error("log", "%s: %s cannot be read: %s", t->name, f->parts[i]->path, err_text(rc));
            return rc;
        }
        i++;
    }
    /* Only those that lead without a gap to the last one are of use. */
    for (uint32_t i = f->count; i > 1; i--)
        if (!segment_follows(f->parts[i - 2]->last, 0, &f->parts[i - 1]->header)) {
            leave(t, f, i - 1, "the file after it does not follow on");
            break;
        }
    return 0;
}

/* LTX files end where the first segment begins, or something is left over, or missing. */
static void join(struct txlog *t, struct found *ltx, struct found *segments)
{
    if (ltx->count == 0 || segments->count == 0)
        return;
    struct txlog_part *first = segments->parts[0];
    struct position end = ltx->parts[ltx->count - 1]->last;
    if (t->reset_found || first->rebase)
        discard(t, ltx, ltx->count, "it is from before a rebase or a reset");
    else if (segments->count > 1 && position_equal(end, first->last))
        discard(t, segments, 1, "an LTX file holds the same");
    else if (!position_equal(end, first->base))
        leave(t, ltx, ltx->count, "the first segment does not follow on it");
}

static int assemble(struct txlog *t, struct found *ltx, struct found *segments)
{
    for (uint32_t i = 0; i < ltx->count + segments->count; i++) {
        bool is_ltx = i < ltx->count;
        struct txlog_part *p = is_ltx ? ltx->parts[i] : segments->parts[i - ltx->count];
        int rc = txlog_add_part(t, p);
        if (rc < 0) {
            t->part_count = 0; /* they are still the caller's */
            return rc;
        }
        if (p->rebase) {
            t->chain = i;
            t->superseded = true;
        }
        t->last = p->last;
        if (!is_ltx)
            t->tail = p;
    }
    t->durable = t->last;
    ltx->count = segments->count = 0;
    return 0;
}

static int load(struct txlog *t)
{
    struct found ltx = {0}, segments = {0};
    int rc = list_folder(t, "log", &segments);
    if (rc == 0)
        rc = list_folder(t, "ltx", &ltx);
    sort(&segments, by_sequence);
    sort(&ltx, by_max_txid);
    if (rc == 0)
        rc = read_segments(t, &segments);
    if (rc == 0 && segments.count > 0)
        rc = scan_last(t, segments.parts[segments.count - 1]);
    if (rc == 0)
        rc = read_ltx_files(t, &ltx);
    if (rc == 0) {
        join(t, &ltx, &segments);
        rc = assemble(t, &ltx, &segments);
    }
    /* What a segment before the crash had not yet is a name on disk. */
    if (rc == 0 && t->part_count > 0)
        rc = file_sync_dir(t->dirfd, "log");
    found_fini(&ltx);
    found_fini(&segments);
    return rc;
}

int txlog_open(struct txlog **out, int dirfd, const char *name, const struct txlog_options *options)
{
    struct txlog *t = calloc(1, sizeof *t);
    if (t == NULL)
        return -ERR_NOMEM;
    mutex_init(&t->mutex, RANK_TXLOG);
    cond_init(&t->slot_free);
    cond_init(&t->synced);
    cond_init(&t->idle);
    t->dirfd = dirfd;
    t->feeds = options->feeds;
    t->segment_bytes = options->segment_bytes > 0 ? options->segment_bytes : DEFAULT_SEGMENT_BYTES;
    t->next_sequence = 1;
    t->name = strdup(name);
    int rc = t->name == NULL ? -ERR_NOMEM : load(t);
    if (rc < 0) {
        txlog_close(t);
        return rc;
    }
    *out = t;
    return 0;
}

void txlog_close(struct txlog *t)
{
    if (t == NULL)
        return;
    ASSERT(!t->appending && t->pins == NULL, "nobody uses a log that is closed");
    if (txlog_needs_sync(t))
        (void)txlog_sync(t, UINT64_MAX);
    /* The room ahead goes back; the next start has less to look at. */
    if (t->active != NULL && !t->failed && t->allocated > t->tail->end)
        (void)file_truncate(t->active->fd, t->tail->end);
    txlog_file_unref(t->active);
    for (uint32_t i = 0; i < t->part_count; i++) {
        ASSERT(t->parts[i]->file == NULL, "every entry of a log is released before it is closed");
        part_free(t->parts[i]);
    }
    free(t->parts);
    free(t->name);
    cond_fini(&t->idle);
    cond_fini(&t->synced);
    cond_fini(&t->slot_free);
    mutex_fini(&t->mutex);
    free(t);
}
