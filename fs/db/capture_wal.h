/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_CAPTURE_WAL_H
#define FS_DB_CAPTURE_WAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fs/db/wal.h"

struct database;

/*
 * Commits of WAL mode. It works from the -wal file alone: from the last captured commit frame on,
 * frame by frame along the checksum chain, to the next commit frame. What calls it is replaceable:
 * today the write that may have completed a commit.
 *
 * The cursor runs ahead of what was captured over frames of a transaction that has not committed
 * yet; any write at or below it sends it back to the captured end (frames are overwritten after a
 * rollback, and their headers rewritten after a spill). All functions: the database's mutex is
 * held.
 */
struct capture_wal {
    bool valid; /* the file begins with a good header, kept here */
    struct wal_header header;
    uint32_t captured;          /* number of the last captured commit frame, 0 = none */
    uint32_t captured_cksum[2]; /* of the chain there */
    uint32_t captured_commit;   /* and the size of the database there, in pages */
    bool captured_unsealed;     /* that frame is one without a checksum: see wal_frame_unsealed */
    struct {                    /* the same before the last captured transaction */
        uint32_t frame, cksum[2], commit, broken;
        bool unsealed;
    } before;
    uint32_t witness; /* a page whose content that transaction has changed; 0: none is known */
    uint32_t cursor;  /* last frame that was checked */
    uint32_t cursor_cksum[2];
    bool cursor_unsealed;
    uint32_t header_alone; /* frame of which only the header was written, last of all; 0: none */
    uint32_t gap;          /* lowest unsealed frame up to the cursor; 0: none */
    uint32_t broken;       /* lowest unsealed frame that was captured; 0: none. See walfix.h */
    uint32_t overwritten;  /* lowest frame whose page the transaction has overwritten; 0: none */
    uint32_t *pgno;        /* of frames captured+1 .. cursor */
    uint32_t pgno_cap;
    uint8_t *chunk; /* frames as read last, from number chunk_first */
    size_t chunk_cap;
    uint32_t chunk_first, chunk_count;
    uint32_t *map; /* for reading pages: see capture_wal_frame_of */
    uint32_t map_cap, map_frames;
    uint8_t map_salt[8];
    bool synced;       /* the client has synced since the last commit was captured */
    bool sync_follows; /* it did so after the commit before, so it will again */
    uint32_t refused;  /* a commit frame that could not be captured, 0 = none */
    int refused_why;   /* and the code that its writer got */
    bool index_behind; /* a writer died between its commit frame and its wal-index: see walfix.h */
    bool foreign;      /* its page 1 is not one of a SQLite database: nothing is recorded */
    bool sealed_only;  /* frames without checksums are not followed: no writer will seal them */
};

void capture_wal_fini(struct database *db);

/* A write of n bytes at `off` reached the file. Captures every commit that is complete now. On
 * failure the commit frame has been destroyed in the file. */
int capture_wal_written(struct database *db, int64_t off, size_t n);

/*
 * The kernel hands one write of SQLite's over in pieces. When the last piece of a commit frame is refused, SQLite sees a
 * short write and repeats the rest of it: that must fail too, with the same code, until the frame is written from its
 * start. 0, or that code.
 */
int capture_wal_may_write(struct database *db, int64_t off);

/* Would a write at `off` change a frame that was captured? */
bool capture_wal_overwrites(const struct database *db, int64_t off);

/* The file is gone or empty: the next header starts anew. */
void capture_wal_reset(struct database *db);

/* Frames up to `captured` have been given new checksums, the last of them this one; they are whole.
 */
void capture_wal_mended(struct database *db, const uint32_t cksum[2]);

/* Takes what is in the file as captured (this node becomes the primary: all of it came from
 * records). */
int capture_wal_attach(struct database *db);
/* The same for a file that nobody is writing: exactly the frames that a recovery of SQLite's would
 * find. */
int capture_wal_attach_sealed(struct database *db);

/* Looks at the header in the file: a new round, the same one, or no WAL at all. On failure nothing has
 * changed. */
int capture_wal_load_header(struct database *db);

/* The frames are no longer needed, SQLite says: the WAL begins anew, or is cut to nothing. */
void capture_wal_round_ends(struct database *db);

/* The cursor back to the captured end. */
void capture_wal_rewind(struct capture_wal *w);

/* ---- capture_wal_write.c: what a write means ---- */

/* *last: the last frame that a write of the bytes from `off` to `end` has completed, 0 if there is none;
 * *first: the first that it has touched. Both are set on failure, too. */
int capture_wal_completed(struct database *db, int64_t off, int64_t end, uint32_t *first,
                          uint32_t *last);
/* Is there a commit frame among them, perhaps? */
bool capture_wal_may_commit(struct database *db, uint32_t first, uint32_t last);

/* ---- capture_wal_foreign.c ---- */

/* Does the transaction up to the cursor make, or leave, something that is no SQLite database? */
bool capture_wal_is_foreign(struct database *db);
bool capture_wal_page_1_is_foreign(struct database *db); /* as of what was captured */

/* ---- capture_wal_back.c: the last captured transaction, if SQLite does not have it ---- */

/* After the capture of pages with these keys: `before` has the checksums that they had. */
#define CAPTURE_WAL_WITNESSES 8
void capture_wal_witness(struct database *db, const uint64_t *keys, uint32_t n, uint64_t *before);

/*
 * Is its content in the database file? If the WAL begins anew, or an index says that it is empty, and
 * this is false, SQLite has not seen the transaction.
 */
bool capture_wal_last_in_file(struct database *db);

/* Does a wal-index with these salts and that last frame lack what was captured? */
bool capture_wal_unseen(struct database *db, const uint8_t salt[8], uint32_t mx_frame);

/* Is a write at `off` how a writer begins who does not have it? */
bool capture_wal_may_take_back(const struct database *db, int64_t off);

/* It never was: its pages are dirty, and the next record puts them back as they were. */
void capture_wal_take_back(struct database *db);

/* ---- capture_wal_map.c ---- */

/* Number of the newest captured frame that holds page pgno, 0 if none; of any frame with the
 * current salts if `any`. */
uint32_t capture_wal_frame_of(struct database *db, uint32_t pgno, bool any);
/* The same, for who must know that the file could be read. */
int capture_wal_find(struct database *db, uint32_t pgno, bool any, uint32_t *frame);

/* The same for pages 1 to `count` at once, frame[pgno - 1] each; what is in no frame is left alone. */
void capture_wal_newest(struct database *db, uint32_t count, uint32_t *frame);

/* Page pgno as of the last captured frame: from the -wal, else the database file; zeros beyond its
 * end. */
int capture_wal_read_page(struct database *db, uint32_t page_size, uint32_t pgno, void *page);

#endif
