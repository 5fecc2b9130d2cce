/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LTX_LEDGER_H
#define LTX_LEDGER_H

#include <stdbool.h>
#include <stdint.h>

#include "ltx/encode.h"
#include "ltx/pagesums.h"
#include "ltx/position.h"
#include "ltx/txlog.h"

/*
 * One database as a sequence of transactions: its log, the position it has reached, its size and
 * the checksum of each page. It knows nothing of SQLite's files: `fs` feeds it with commits on the
 * primary, `cluster` with received records on a replica. Guarded by a mutex of its own; every
 * function may be called from any thread and takes that mutex only for short, but those marked
 * "blocks" do I/O.
 *
 * On disk, in its folder: log/ and ltx/ (see txlog.h), `sums` (pagesums.h), `state` (what the
 * header of ledger.c says: name, page size, commit and the position S that the database file is
 * known to have reached durably; records after S are redone at start).
 */
struct ledger;

/* A transaction on its way in; the caller's memory, zeroed before the first use, reusable. */
struct ledger_tx {
    struct ledger *ledger;
    struct txlog_append append;
    struct ltx_encoder encoder;
    struct ltx_header header;
    struct ledger_delta *delta; /* page number and new sum of each page put */
    size_t delta_len, delta_cap;
    uint64_t checksum;   /* running */
    uint32_t old_commit; /* pages that stay unless put: 0 if every page must be put */
    bool changed;
    bool active;
    bool sealed;
};

struct ledger_change {
    uint32_t page_size; /* bytes; another than the database's only if every page is put */
    uint32_t commit;    /* pages after the transaction; 0: the database is deleted */
    uint64_t wal_offset, wal_size;
    uint32_t wal_salt1, wal_salt2;
};

/*
 * Primary: one committed transaction. ledger_begin, ledger_put_page for each page in rising page
 * number (never the lock page), then ledger_publish. Any failure ends the transaction (as
 * ledger_abort does). The pages between the old and the new size must all be put. Blocks (writes,
 * never syncs).
 */
int ledger_begin(struct ledger *l, struct ledger_tx *tx, const struct ledger_change *change);
int ledger_put_page(struct ledger_tx *tx, uint32_t pgno, const void *page);
/* The record is complete and in the file, yet invisible: publish can no longer fail but by a broken
 * invariant. Optional; for transactions over several databases: seal all, then publish all. */
int ledger_seal(struct ledger_tx *tx);
#define LEDGER_UNCHANGED 1 /* every page was as before and so was the size: no record was made */
/* 0 and the new position, or LEDGER_UNCHANGED, or a negated code. `position` may be NULL. */
int ledger_publish(struct ledger_tx *tx, struct position *position);
void ledger_abort(struct ledger_tx *tx); /* does nothing if it is not active */
void ledger_tx_fini(struct ledger_tx *tx);

/*
 * Replica: a record as it came from the primary, in pieces. ledger_receive_finish verifies all of
 * it (structure, file checksum, that it follows on, and that the database's checksum after it is
 * the one it states), updates the sums and publishes. A merged record (min <= txid+1 <= max) is
 * taken too. With TXLOG_REBASE in `flags` it may follow on any position. On failure nothing is left
 * of it.
 */
struct ledger_receive {
    struct ledger *ledger;
    struct txlog_append append;
    uint64_t expected, got; /* bytes */
    bool active;
};
int ledger_receive_begin(struct ledger *l, struct ledger_receive *r, uint64_t size, uint32_t flags);
int ledger_receive_write(struct ledger_receive *r, const void *data, size_t n);
int ledger_receive_finish(struct ledger_receive *r, struct position *position);
void ledger_receive_abort(struct ledger_receive *r);

/* What a ledger is now. */
struct ledger_info {
    struct position last;     /* in the log */
    struct position durable;  /* in the log and on disk */
    struct position applied;  /* in the database, as clients see it; see ledger_set_applied */
    struct position recovery; /* S */
    uint32_t recovery_commit; /* pages at S; 0: the log has all that came since */
    struct position first;    /* before the first record kept */
    uint32_t page_size;       /* bytes; 0 = never seen */
    uint32_t commit;          /* pages; 0 = deleted or never seen */
    int64_t timestamp_ms;     /* of the last record; 0 = unknown */
    int64_t log_bytes;
    uint64_t changed_bytes; /* of pages, in all records since the ledger was opened */
    bool damaged;           /* see ledger_set_damaged */
    char damage[128];       /* one clause why */
    uint32_t diverged;      /* LTX files in diverged/ for this database */
    uint32_t bad;           /* pages that are known to be bad, see ledger_note_bad */
    uint64_t mended;        /* pages that were put right since the start */
};
const char *ledger_name(const struct ledger *l); /* path below the mount, without a leading slash */
struct txlog *ledger_log(struct ledger *l);
void ledger_info(struct ledger *l, struct ledger_info *out);
struct position ledger_last(struct ledger *l);
struct position ledger_durable(struct ledger *l);
struct position ledger_applied(struct ledger *l);
int ledger_sync(struct ledger *l, uint64_t txid); /* blocks; see txlog_sync */

uint64_t ledger_page_sum(struct ledger *l, uint32_t pgno);
/* Copies up to n sums from page `first` on; returns how many there are. */
uint32_t ledger_page_sums(struct ledger *l, uint32_t first, uint32_t n, uint64_t *out);
uint32_t ledger_block_sums(struct ledger *l, uint32_t first_block, uint32_t n, uint64_t *out);

/* fs says how far clients of this node see the database. Wakes the feed. ledger_publish
 * does it itself; ledger_receive_finish does not: what was received is applied later. */
void ledger_set_applied(struct ledger *l, struct position p);

/* A database that cannot be used until it has been fetched again: set by fs or cluster, cleared by
 * a rebase. */
void ledger_set_damaged(struct ledger *l, const char *why);

/*
 * Pages that are not in the files as they should be: noted by whoever compares, gone through by
 * whoever can put them right, settled when that is done, or when a look shows that they are right.
 * Kept in memory only. ledger_note_bad: 1 = new, 0 = known already, -ERR_LIMIT with
 * LEDGER_BAD_MAX of them. Both wake the feed `applied`.
 */
#define LEDGER_BAD_MAX 4096
int ledger_note_bad(struct ledger *l, uint32_t pgno);
void ledger_settle_bad(struct ledger *l, uint32_t pgno, bool mended);
uint32_t ledger_bad_pages(struct ledger *l, uint32_t *out, uint32_t max); /* rising */

/*
 * Looks in the log for pages pgno[0] < pgno[1] < ... as they are now: `found` gets each, perhaps more
 * than once, and ends the search with anything but 0. Reads the whole log: blocks.
 */
typedef int ledger_page_found(void *ctx, uint32_t pgno, const void *page);
int ledger_find_pages(struct ledger *l, const uint32_t *pgno, uint32_t n, ledger_page_found *found,
                      void *ctx);

/*
 * The database file on disk is known to hold everything up to `p` (the caller has synced it): keeps
 * the sums and S = p, so that recovery starts there. Blocks. `p` is at or before the last position.
 */
int ledger_checkpoint(struct ledger *l, struct position p);

/*
 * "The file holds changes that no record has yet" (a plain copy in progress): kept on disk, so that
 * a start after a crash compares the whole file. Cheap when nothing changes. Blocks on a change.
 */
int ledger_set_unclean(struct ledger *l, bool unclean);
bool ledger_is_unclean(struct ledger *l);

/*
 * For a ledger whose sums were lost: `read` gives each page (never the lock page) of the database
 * as it is at the last position, into room for page_size bytes. Sets all sums and clears the damage
 * if they give the checksum of the last position, else changes nothing: -ERR_CHECKSUM. Blocks; no
 * transaction may be in progress on this thread.
 */
int ledger_rebuild_sums(struct ledger *l, int (*read)(void *ctx, uint32_t pgno, void *page),
                        void *ctx);

/*
 * A damaged database becomes what its files hold: `sums` of that many pages (taken on success), at
 * the position that these sums make, which no transaction has led to; the log begins anew there. So
 * it can be brought up like any other that has fallen behind: by the pages that differ. It stays
 * marked as damaged until a rebase has come. What only this node has must have been kept before.
 * Blocks; one thread at a time for a ledger, and none that receives.
 */
int ledger_take_stock(struct ledger *l, uint32_t page_size, struct pagesums *sums);

/* Keeps each record after `common` as diverged/<escaped name>/MIN-MAX.ltx (standard files). Blocks.
 * *kept: files written. */
int ledger_keep_diverged(struct ledger *l, uint64_t common, uint32_t *kept);

/* What lies in diverged/ for this database now. Reads that folder. */
struct ledger_kept {
    uint32_t files;
    uint64_t first_txid, last_txid; /* 0 if there are none */
    uint64_t bytes;
    int64_t newest_ms; /* when the last of them was kept; since the Unix epoch */
    char folder[272];  /* below the data folder */
};
void ledger_kept(struct ledger *l, struct ledger_kept *out);

#endif
