/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_STILL_H
#define FS_DB_STILL_H

#include <stdbool.h>
#include <stdint.h>

#include "fs/db/wal.h"
#include "ltx/ledger.h"

struct database;

/*
 * A moment in which the files of a database are exactly what its ledger says, so that a page that
 * is not is bad beyond doubt.
 *
 * On the primary: nobody is changing a file just now, and nobody can begin to: the database's mutex
 * is held from still_begin to still_end. On a replica: nothing is received, because the log is held,
 * and everything that was received is applied; no mutex is held, so the own mount may be used.
 *
 * still_begin fails with -ERR_BUSY when such a moment cannot be had within `wait_ms` (on the
 * primary it does not wait), and with -ERR_DAMAGED or -ERR_NOTFOUND for a database that there is
 * nothing to compare with. Then there is nothing to end.
 */
struct still {
    struct database *db;
    struct ledger_info info;
    bool primary;
    /* Of a replica, its own. */
    int main_fd, wal_fd;
    struct wal_header wal;
    uint32_t *pgno; /* by frame number - 1; 0: a frame of an earlier round */
    uint32_t frames;
};

int still_begin(struct still *s, struct database *db, int64_t wait_ms);
/* False: it was not as still as it seemed, the role changed: what was found counts for nothing. */
bool still_end(struct still *s);

/* Where a page lies: number of the frame of the -wal, 0 for the database file. */
uint32_t still_place(struct still *s, uint32_t pgno);
/*
 * Compares page pgno with the ledger; `page` has room for it. 0: it is right, or there is no such
 * page; -ERR_CHECKSUM: it is not; -ERR_BUSY: a transaction is changing it; -ERR_IO: the disk does not
 * give it.
 */
int still_compare(struct still *s, uint32_t pgno, void *page);

/* Page number of each frame of the -wal open as `fd` that belongs to its present round, malloc'ed;
 * *frames of them, 0 if it is none. */
int wal_list_frames(int fd, struct wal_header *header, uint32_t **pgno, uint32_t *frames);

#endif
