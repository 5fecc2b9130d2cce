/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LTX_TXLOG_H
#define LTX_TXLOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ltx/decode.h"
#include "ltx/feed.h"
#include "ltx/format.h"
#include "ltx/position.h"

/*
 * The log of one database: records in the order of their TXIDs, in append-only segment files
 * log/SEQUENCE-FIRSTTXID.seg (8 and 16 hexadecimal digits) and, where segments were compacted, in
 * standard LTX files ltx/MIN-MAX.ltx.
 *
 * Appending: txlog_append_begin, txlog_append_write ..., then txlog_append_publish or
 * txlog_append_abort. One append at a time: begin waits for the one before. A record is readable
 * once published, and durable once txlog_sync has passed it. A record that was never published
 * leaves no trace after a restart.
 *
 * A rebase (TXLOG_REBASE) begins a new chain: what is before it can no longer be served to peers
 * (txlog_first is the rebase's own position), but is kept until txlog_drop_superseded, because this
 * node's own database file may still stand there. A local reader goes by txlog_find_from, which
 * leads from the old chain over the rebase into the new one.
 *
 * A segment, big-endian: header, 48 bytes
 *      0  8  magic "TFSEG001"
 *      8  8  salt, random: enters the checksum of every frame header, so bytes of a database can
 *            never be taken for a frame
 *     16  8+8  position before the first record
 *     32  4  flags: 1 = txlog_reset made it, the segments before it are of no more use
 *     36  4  sequence, as in the name
 *     40  8  CRC-64 of the 40 bytes before
 *   then frames, each a header and one LTX record
 *      0  4  magic "TFRM"
 *      4  4  flags: TXLOG_REBASE (only in the first frame of a segment)
 *      8  8  length of the record, bytes
 *     16  8  max TXID of the record
 *     24  8  checksum of the database after it
 *     32  8  CRC-64 of the record as stored
 *     40  8  CRC-64 of salt and the 40 bytes before
 * A frame counts if both CRCs hold and its TXIDs and checksums follow on from the one before; the
 * first that does not is the torn tail and is cut. Space is allocated ahead (zeros), so that
 * fdatasync of an append need not change the file's size (100 against 140 us measured on ext4).
 */
#define TXLOG_REBASE \
    0x1u /* a bring-up: follows on any position; everything before it is of no more use */
#define TXLOG_SEGMENT_HEADER 48
#define TXLOG_FRAME_HEADER 48

struct txlog;

struct txlog_options {
    int64_t segment_bytes; /* a segment is closed when it is this long (default 16 MiB if 0) */
    struct feeds *feeds;   /* `published` and `durable` of it are woken; may be NULL */
};

/* One record where it lies. Holds a reference to its file until txlog_entry_release. */
struct txlog_entry {
    struct txlog_file *file; /* opaque, counted */
    int64_t off;             /* of the LTX record in the file, bytes */
    uint64_t size;           /* of the LTX record, bytes */
    uint64_t min_txid, max_txid;
    uint64_t pre_checksum, post_checksum;
    uint32_t page_size, commit;
    uint32_t flags; /* TXLOG_REBASE */
};

/* Opens or creates the log in folder `dirfd` (borrowed; holds log/ and ltx/). Cuts a torn tail and
 * says so in the log lines. Files whose names or headers are not ours are named in a warning and
 * left alone. What it finds is durable when it returns. */
int txlog_open(struct txlog **out, int dirfd, const char *name,
               const struct txlog_options *options);
/* Syncs what is not yet durable. Every entry must have been released. NULL is fine. */
void txlog_close(struct txlog *t);

struct position txlog_last(struct txlog *t);    /* after the last published record */
struct position txlog_durable(struct txlog *t); /* after the last durable record */
struct position txlog_first(struct txlog *t);   /* before the first record that is kept */
int64_t txlog_bytes(struct txlog *t);           /* on disk */
uint64_t txlog_bytes_after(struct txlog *t,
                           uint64_t txid); /* roughly, for progress and for when to checkpoint */

/* An append in progress; lives in the caller's memory. */
struct txlog_append {
    struct txlog *log;
    int64_t off;
    uint64_t size;
    uint64_t body_crc;
    uint8_t *small; /* what has not been written yet; a small record goes out in one write */
    size_t small_len;
    uint32_t flags;
};
int txlog_append_begin(struct txlog *t, struct txlog_append *a, uint32_t flags);
int txlog_append_write(struct txlog_append *a, const void *data, size_t n);
/* `header` and `post_checksum` as in the record. Checks that it follows on (else -ERR_POSITION). On
 * failure the append is aborted. */
int txlog_append_publish(struct txlog_append *a, const struct ltx_header *header,
                         uint64_t post_checksum);
/* Makes sure the bytes are in the file without publishing (prepare of a multi-database commit;
 * verification of what was received). */
int txlog_append_flush(struct txlog_append *a);
/* The record being appended as a source, after txlog_append_flush; `range` is the caller's. */
struct ltx_source txlog_append_source(struct txlog_append *a, struct ltx_file_range *range);
void txlog_append_abort(struct txlog_append *a);

/* Reserves room for `bytes` more, so that the next append cannot meet a full disk. -ERR_NOSPACE.
 * Waits for an append in progress, so never call it within one. */
int txlog_reserve(struct txlog *t, int64_t bytes);

/* Blocks until everything up to `txid` is durable; one fdatasync serves all who wait. After a
 * failed sync the log refuses further appends with -ERR_IO until it is opened again. */
int txlog_sync(struct txlog *t, uint64_t txid);
bool txlog_needs_sync(struct txlog *t);
/*
 * For the thread that syncs what nobody waits for: syncs, unless whoever commits to this log syncs it
 * too, which is left to him then for a moment. Blocks. 0: all is durable, or the log has failed; else
 * microseconds until the next look, `again_us` after a sync.
 */
int64_t txlog_sync_behind(struct txlog *t, int64_t again_us);

/* The record that takes a database at `after` further: min <= after+1 <= max. -ERR_NOTFOUND:
 * trimmed, or `after` is the last. */
int txlog_find(struct txlog *t, uint64_t after, struct txlog_entry *out);
/*
 * For a reader of this node that stands at exactly `p`: the record that takes it further, which is
 * the rebase if that is what comes next. -ERR_NOTFOUND: `p` is the last position, or no kept record
 * follows on it (compare with txlog_last to tell).
 */
int txlog_find_from(struct txlog *t, struct position p, struct txlog_entry *out);
/* The record after which the database is at exactly `p`. -ERR_NOTFOUND if it is not kept. */
int txlog_find_ending(struct txlog *t, struct position p, struct txlog_entry *out);
/* The record after *e, a rebase included; releases *e and replaces it. On failure *e is released
 * and zeroed. */
int txlog_next(struct txlog *t, struct txlog_entry *e);
int txlog_entry_read(const struct txlog_entry *e, uint64_t off, void *buf, size_t n);
struct ltx_source txlog_entry_source(struct txlog_entry *e); /* borrows e */
void txlog_entry_release(struct txlog_entry *e);             /* a zeroed entry is fine */
/* The checksum of the database at `txid`, if a kept record boundary falls there. -ERR_NOTFOUND
 * otherwise. */
int txlog_checksum_at(struct txlog *t, uint64_t txid, uint64_t *checksum);

/* Records after `txid` are kept while the pin is held. The struct is the caller's and must stay
 * where it is. */
struct txlog_pin {
    struct txlog *log;
    uint64_t txid;
    struct txlog_pin *prev, *next;
};
void txlog_pin(struct txlog *t, struct txlog_pin *pin, uint64_t txid);
void txlog_pin_move(struct txlog_pin *pin, uint64_t txid);
void txlog_unpin(struct txlog_pin *pin); /* a zeroed pin is fine */

struct txlog_retention {
    int64_t age_ms;     /* records younger than this are kept; 0: no limit by time */
    int64_t size_bytes; /* and no more than this much; 0: no limit by size */
};
/* Compacts closed segments whose records all lie at or before `recovery_txid` and every pin into
 * LTX files, and removes the oldest files past the retention. May take long; call it from a
 * background thread. Does nothing while something waits for txlog_drop_superseded. */
int txlog_maintain(struct txlog *t, const struct txlog_retention *r, uint64_t recovery_txid);
/* A compaction that is under way ends soon, with -ERR_CLOSED and as if it had not begun, and no other
 * begins. Any thread; does not wait. */
void txlog_end_maintenance(struct txlog *t);

/* The database file durably stands at `recovery`: removes what lies before the last rebase if that is
 * a position after it. Does nothing otherwise, or if there is nothing. */
int txlog_drop_superseded(struct txlog *t, struct position recovery);

/* Forgets everything and starts again at `base` (after what mattered was kept elsewhere). */
int txlog_reset(struct txlog *t, struct position base);

/*
 * Reads everything that the log has published, and compares checksums. `go_on` is told how many
 * bytes more were read and may take its time; false ends it with -ERR_CLOSED. `fault` is told each
 * file in which something is wrong. 0 if all of it was read, whatever was found. Blocks.
 */
struct txlog_checker {
    bool (*go_on)(void *ctx, uint64_t bytes);
    void (*fault)(void *ctx, const char *file, const char *why);
    void *ctx;
};
int txlog_check(struct txlog *t, const struct txlog_checker *checker);

/* Nothing is appended until txlog_let_go. -ERR_BUSY if somebody appends just now: it never waits. */
int txlog_hold(struct txlog *t);
void txlog_let_go(struct txlog *t);

#endif
