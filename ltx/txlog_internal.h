/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LTX_TXLOG_INTERNAL_H
#define LTX_TXLOG_INTERNAL_H

#include <stdatomic.h>

#include "ltx/base/clock.h"
#include "ltx/base/mutex.h"
#include "ltx/txlog.h"

/*
 * What the files of the log share: txlog.c (append and sync), txlog_segment.c (the bytes of a
 * segment), txlog_open.c (from a folder to a log), txlog_parts.c (the list of files), txlog_read.c
 * (finding records), txlog_maintain.c (compaction, retention, pins, reset).
 *
 * Two locks. The mutex guards every field but those marked otherwise and is held for short. The
 * append slot (`appending`) belongs to one appender from begin to publish or abort; only its holder
 * changes `last`, `tail`, the end of the active segment and what is allocated, and it does so under
 * the mutex where others may look. So the holder may read these without the mutex.
 */

#define TXLOG_BUFFER_BYTES (256 << 10) /* a longer record goes to the file in pieces */
#define TXLOG_MARK_BYTES (64 << 10)    /* one mark for so much of a segment */
#define TXLOG_RECENT 32                /* records at the end that are found without a walk */

/* An open file of the log, counted: by each entry, and by the log for the active segment. */
struct txlog_file {
    struct txlog *log;
    struct txlog_part *part; /* NULL once the log no longer has it */
    uint64_t salt;
    int refs;
    int fd;
};

/* A place in a segment where walking may begin. */
struct txlog_mark {
    struct position before;
    int64_t off;
};

#define TXLOG_PATH_SIZE 64
#define TXLOG_COMPACT_NAME "compact.tmp" /* in ltx/: a file being made */

/* One file of the log: an LTX file or a segment; the last segment is the active one. */
struct txlog_part {
    char path[TXLOG_PATH_SIZE]; /* below the log's folder */
    bool compacted;             /* an LTX file, one record */
    bool rebase;                /* the first frame is a rebase */
    bool stuck;                 /* its records could not be merged; not tried again */
    uint32_t sequence;          /* of a segment */
    uint64_t salt;
    struct position base;  /* before the first record */
    struct position start; /* from where it can be served: after a rebase, else base */
    struct position last;
    int64_t first_off;        /* in a segment: where the record after `start` is, or will be */
    int64_t end;              /* bytes in use */
    int64_t newest_ms;        /* when the last record was made */
    struct ltx_header header; /* of an LTX file */
    struct txlog_file *file;  /* NULL while nobody has it open; not a reference */
    struct txlog_mark *marks;
    uint32_t mark_count, mark_cap;
};

struct txlog {
    int dirfd; /* borrowed */
    char *name;
    int64_t segment_bytes;
    struct feeds *feeds;

    struct mutex mutex;    /* RANK_TXLOG */
    struct cond slot_free; /* not `appending`, or `failed` */
    struct cond synced;    /* not `syncing`, or `failed` */
    struct cond idle;      /* not `maintaining` */
    bool appending;
    bool syncing;
    bool maintaining;
    atomic_bool no_maintenance; /* no mutex */
    bool failed;                /* a sync or a write failed in a way that leaves the file unknown */
    struct txlog_part **parts;
    uint32_t part_count, part_cap;
    uint32_t chain;  /* index of the first part of the newest chain */
    bool superseded; /* the database file may stand before the rebase that begins that chain */
    struct txlog_part *tail;   /* the active segment, the last part; NULL: there is none */
    struct txlog_file *active; /* reference to the last part's file; NULL until it is needed */
    /* Where the last records of the active segment begin, round and round: who keeps up with the log
     * finds the next one here. */
    struct txlog_mark recent[TXLOG_RECENT];
    uint32_t recent_count; /* of all that were noted in this segment */
    int64_t allocated;     /* of the active file; the append slot's alone */
    bool folder_dirty;     /* a segment was made whose name may not be on disk yet */
    uint32_t next_sequence;
    bool reset_found; /* at open: the first segment was made by a reset */
    uint64_t history; /* counts rebases and resets */
    struct position last, durable;
    bool attended;      /* the records lately were synced by those who made them */
    uint64_t left_txid; /* up to here syncing was left to them, since `left_at` */
    struct mono left_at;
    struct txlog_pin *pins;
};

/* txlog_segment.c */

#define SEGMENT_RESET 0x1u

struct segment_header {
    uint64_t salt;
    struct position base;
    uint32_t flags;
    uint32_t sequence;
};

struct txlog_frame {
    uint32_t flags;
    uint64_t size; /* of the record, bytes */
    uint64_t max_txid;
    uint64_t post_checksum;
    uint64_t body_crc;
    struct ltx_header header; /* of the record */
};

int segment_header_write(int fd, const struct segment_header *h);
/* -ERR_CORRUPT: not a segment; *blank then says whether it was cut or zero, as a crash leaves it.
 */
int segment_header_read(int fd, struct segment_header *h, bool *blank);
void segment_frame_encode(const struct txlog_frame *f, uint64_t salt,
                          uint8_t out[TXLOG_FRAME_HEADER]);
/*
 * The frame at `off` of a file of `end` bytes, with the header of its record. -ERR_NOTFOUND: there
 * are zeros, or the end; -ERR_CORRUPT: something that is no whole frame; others: the file cannot be
 * read.
 */
int segment_frame_read(int fd, uint64_t salt, int64_t off, int64_t end, struct txlog_frame *f);
/* CRC of the record at `off`, and the checksum its trailer states: -ERR_CHECKSUM if either is not the
 * frame's. `buffer` has SEGMENT_SCAN_BYTES. */
#define SEGMENT_SCAN_BYTES (256 << 10)
int segment_check_body(int fd, int64_t off, const struct txlog_frame *f, uint8_t *buffer);
/* Whether a record may come after `last`. */
bool segment_follows(struct position last, uint32_t flags, const struct ltx_header *h);
/* The frame now stands at the end of the segment. */
void segment_add(struct txlog_part *p, const struct txlog_frame *f);
/*
 * Goes through the segment from its start, checks each frame with its record, and fills in start,
 * last, end and marks. *torn names what ended it, NULL for a clean end. Fails only if the file
 * cannot be read.
 */
int segment_scan(struct txlog_part *p, int fd, int64_t file_size, const char **torn);

/* txlog_parts.c; all with the mutex held unless they say otherwise */

struct txlog_part *part_new(void);
void part_free(struct txlog_part *p); /* its file lives on while entries hold it */
void part_segment_path(struct txlog_part *p, uint64_t first_txid);
void part_ltx_path(struct txlog_part *p);
void part_mark(struct txlog_part *p, struct position before, int64_t off); /* best effort */
int txlog_add_part(struct txlog *t, struct txlog_part *p);                 /* at the end */
void txlog_remove_part(struct txlog *t, uint32_t index);                   /* and frees it */
/* Opens the file of the part, or counts it once more. */
int part_open_file(struct txlog *t, struct txlog_part *p, struct txlog_file **out);
void txlog_file_unref(struct txlog_file *f);          /* takes the mutex itself; NULL is fine */
void txlog_unlink(struct txlog *t, const char *path); /* without the mutex; failure is logged */

/* txlog.c; with the append slot, without the mutex */

int txlog_slot_take(struct txlog *t); /* waits; -ERR_IO if the log has failed */
void txlog_slot_give(struct txlog *t);
/* Closes the active segment, durable and without spare room, and makes the next. */
int txlog_roll(struct txlog *t, struct position base, uint32_t flags);
void txlog_fail(struct txlog *t, const char *what, int rc); /* takes the mutex */

#endif
