/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_REPLICA_H
#define FS_DB_REPLICA_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "fs/db/walindex.h"
#include "ltx/base/clock.h"
#include "ltx/ledger.h"

struct sqlite3;
struct database;

/*
 * One database of a replica as its applier sees it: an ordinary client of the own mount, and the
 * only one that may write. It belongs to the thread that runs replica_apply; no FUSE worker touches
 * it, and it never takes the database's mutex while it is in the mount.
 *
 *   state      when                                    how a record gets in
 *   CLOSED     nothing was applied yet                 -
 *   ROLLBACK   the file's header says so, or there     in place, under PENDING and EXCLUSIVE
 *              is no file
 *   WAL        the header says WAL                     as a WAL writer: readers keep their
 *                                                      snapshots
 *   LEAVING    the header says no WAL, but readers     as a WAL writer, until the last of them has
 *              still have it open, or would not        closed it
 *              notice the record otherwise, or
 *              leave no gap for one
 */
enum replica_state { REPLICA_CLOSED, REPLICA_ROLLBACK, REPLICA_WAL, REPLICA_LEAVING };

#define CACHE_PAGE 4096 /* of the kernel, bytes */

/* Of page 1: change counter, size, head and length of the freelist. See apply_need_wal. */
#define VERSION_OFFSET 24
#define VERSION_SIZE 16

struct replica {
    struct database *db;
    struct ledger *ledger;
    const atomic_bool *quit;
    bool hold; /* keep the write lock between records (replica-writes: wait) */
    enum replica_state state;
    int main_fd, wal_fd, shm_fd; /* through the own mount */
    struct walindex index;
    struct sqlite3 *conn; /* keeps -wal and -shm there, recovers the wal-index, checkpoints */
    uint32_t page_size;
    uint32_t
        highest; /* no page above it is in this round of the WAL, or in the file; 0: not known */
    uint8_t *frames; /* on their way to the WAL */
    size_t frames_cap;
    uint8_t tail[CACHE_PAGE]; /* what the WAL has before tail_end in that page */
    int64_t tail_end;         /* -1: not known */
    bool unnoticed;           /* connections without the WAL may have cached pages of before, */
    uint8_t known_version[VERSION_SIZE]; /* and take them for right while page 1 says this */
    struct mono checkpoint_tried, leave_tried;
    bool checkpoint_blocked; /* by a reader, at that time */
    int64_t pending_ms;      /* how long the next try keeps PENDING; 0: there was none yet */
    struct mono pending_given_back;
    bool holding;
};

#define LEAVE_AGAIN_MS 200
#define CHECKPOINT_AGAIN_MS 200 /* after one that a reader has blocked */
#define REPLICA_BATCH_BYTES (1 << 20)

int replica_init(struct replica *r, struct database *db, struct ledger *l, const atomic_bool *quit,
                 bool hold);
void replica_close(struct replica *r); /* closes all handles and drops all locks */

/*
 * Applies what the log holds beyond the applied position. 0: level; -ERR_BUSY: clients are in the
 * way, call again; -ERR_CLOSED: *quit was set; else the database has been marked damaged or the
 * disk is at fault (-ERR_NOSPACE, -ERR_IO: call again later).
 */
int replica_apply(struct replica *r);

/* Something to do without a new record? Leaves WAL mode if the readers have gone. */
void replica_idle(struct replica *r);

/* Nothing has come for a while: closes its handles if they are not needed. Twelve descriptors of this process belong to a
 * database in WAL mode, and there may be thousands. */
void replica_rest(struct replica *r);

/* Before any client reads: a database in WAL mode needs a -wal that clients can open; in `hold`
 * mode the write lock is taken. */
int replica_prepare(struct replica *r);

/*
 * For who puts a single page right, on the applier's thread, when nothing is to be applied: then
 * main_fd and, if the page is `in_wal`, wal_fd are open for it, and in the rollback modes nobody reads
 * the file until replica_end_mend. -ERR_BUSY: readers are in the way.
 */
int replica_begin_mend(struct replica *r, bool in_wal);
void replica_end_mend(struct replica *r);

/* ---- between replica.c, apply_wal.c and apply_rollback.c ---- */

int replica_open_main(struct replica *r, bool create);
/* Connection, -wal, -shm. -ERR_CORRUPT: the header is one that SQLite does not take for a database's. */
int replica_open_wal(struct replica *r);
/* The connection looks at the database, as far as its header: what SQLite the clients have, and whether this one
 * understands their schema, does not matter. The code is SQLite's. */
int replica_touch(struct replica *r);
/* A -wal, if there is none, for readers to open; it begins with these bytes. */
int replica_prepare_wal_file(struct replica *r, const void *bytes, size_t size);
void replica_close_wal(struct replica *r, bool checkpoint);
/* I4: before a page goes into the database file, its record is on disk. Blocks. */
int replica_sync(struct replica *r);
int replica_remove(struct replica *r, const char *suffix); /* a file that is not there is fine */
int replica_path(const struct replica *r, const char *suffix, char *out, size_t size);

/* Records from *e on, as many as fit a batch and stay in WAL mode's bounds. *at: the position
 * reached. r->state follows the last page 1 among them: WAL or LEAVING. *e is advanced past what was
 * applied (released at the end of the log: then e->file is NULL). */
int apply_wal(struct replica *r, struct txlog_entry *e, uint64_t last_txid, struct position *at);
int apply_rollback(struct replica *r, struct txlog_entry *e, uint64_t last_txid,
                   struct position *at);
/* In state ROLLBACK, before apply_rollback: if clients would not notice the record there, it shall be
 * applied by apply_wal (state LEAVING). */
int apply_need_wal(struct replica *r, struct txlog_entry *e);
int apply_deletion(struct replica *r);
/* EXCLUSIVE, as for a record; and back to what was held before. */
int apply_rollback_lock(struct replica *r);
void apply_rollback_unlock(struct replica *r);
/* A checkpoint if the WAL is long. *whole: the database file holds everything now. */
int apply_checkpoint(struct replica *r, uint32_t at_frames, bool *whole);

#endif
