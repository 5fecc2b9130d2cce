/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LTX_SNAPSHOT_H
#define LTX_SNAPSHOT_H

#include <stdint.h>

#include "ltx/ledger.h"
#include "ltx/store.h"

/*
 * A consistent copy of a database without a lock that a writer or reader could wait for: pages are
 * copied as they are while the log is pinned, then every record since the copy began is laid over
 * it; records hold whole pages, so the result is exactly the database at the position reported
 * (I7).
 */
typedef void snapshot_progress(void *ctx, uint64_t pages_done, uint64_t pages_total);

/* Into the empty file `fd`, as a SQLite database. Verifies the result against the checksum. Blocks;
 * progress and cancel may be NULL. -ERR_CLOSED when *cancel becomes true; -ERR_NOTFOUND if the
 * database is deleted or was never seen; -ERR_DAMAGED if it must be fetched again first. */
int snapshot_database(struct store *s, struct ledger *l, int fd, struct position *at,
                      uint32_t *page_size, uint32_t *commit, snapshot_progress *progress, void *ctx,
                      const volatile bool *cancel);

/* As one LTX record (min TXID 1) into `sink`. With flags LTX_NO_CHECKSUM as Litestream wants it.
 * `tmp_dirfd`: room for a copy. */
int snapshot_ltx(struct store *s, struct ledger *l, int tmp_dirfd, uint32_t flags,
                 struct ltx_sink sink, struct position *at);

#endif
