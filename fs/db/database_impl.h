/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_DATABASE_IMPL_H
#define FS_DB_DATABASE_IMPL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "fs/db/capture_wal.h"
#include "fs/db/catalog.h"
#include "fs/db/check.h"
#include "fs/db/database.h"
#include "fs/db/dirty.h"
#include "fs/db/journal.h"
#include "ltx/base/mutex.h"
#include "ltx/checksum.h"
#include "ltx/ledger.h"

/* The inside of a database, for the files of fs/db only. */

struct applier;

struct database {
    struct catalog *catalog;
    char *path; /* below the mount */

    /* Guarded by the catalog's mutex. */
    unsigned refs;
    struct database *next;   /* in its hash chain */
    struct applier *applier; /* replica: the thread that works on it, NULL if none */

    atomic_bool applying; /* replica: the applier is at work on the files */
    atomic_bool torn; /* replica: part of a record is in the file: EXCLUSIVE is held until all is */

    struct mutex mutex; /* RANK_FS_DATABASE; guards all that follows */
    /* Changes by clients that have begun and not ended; no new one begins while `demoted`. */
    unsigned changing;
    bool demoted;
    struct cond unchanging; /* signalled when `changing` falls to 0 */

    struct ledger *ledger;             /* NULL until there was a record; set once */
    int main_fd, wal_fd;               /* backing files, -1 if not open */
    unsigned handles[FILE_KIND_COUNT]; /* of clients, on the file that has the name now */
    unsigned file[FILE_KIND_COUNT];    /* counts the files that have lost that name */

    /* Rollback modes and plain files. */
    bool journal_hot;      /* the journal's header is one that would be rolled back */
    bool journal_unseen;   /* that could not be read: taken for hot until the settler has looked */
    bool journal_finished; /* nothing was written to it since its header was zeroed */
    bool full;             /* a writer was told that there is no room: it may roll back */
    bool unsettled;   /* the last capture without a call of a client has failed, or was too early */
    bool sync_wanted; /* the client has synced something in this transaction */
    bool begun;       /* role_begin was called for the transaction in the journal */
    bool committing;  /* between capture_pages_prepare and _finish */
    bool entered;     /* the gate was passed for that */
    uint8_t journal_header[JOURNAL_HEADER_SIZE]; /* before the write that may zero it */
    struct dirty dirty;
    struct ledger_tx tx;
    struct db_header_size {
        uint32_t page_size, page_count;
    } pending; /* of the prepared capture */

    struct capture_wal wal;
    bool raw; /* files were changed by something that is no connection: see raw.h */

    struct unmap_later *unmap_later; /* mappings of -shm, while a client has it open: see unmap.h */
    unsigned unmaps;                 /* are being unmapped; no client gets -shm opened, */
    struct cond unmapped;            /* until this was signalled */

    struct mend_order *_Atomic mend; /* replica: a page that the applier shall put right */
    struct cond mended;              /* signalled when it has tried to */

    struct check_result checked; /* what the last look at it has found; see scrub.h */

    /* page_reader.c: a page that matched nowhere, at which position, and since when. */
    uint32_t suspect;
    struct position suspect_at;
    struct mono suspect_since;

    /* The database file holds (in the page cache) every change up to here: the next recovery
     * position. */
    struct position backed;
    struct mono checkpointed;    /* when the recovery position was last brought forward, */
    uint64_t checkpointed_bytes; /* and how much in pages had changed by then */
    bool leftover; /* found at start with content that no record has: captured when this node
                      becomes primary */
};

/* ---- database_files.c: the backing files. The mutex is held. ---- */

int database_open_main(struct database *db); /* main_fd for reading and writing; -ERR_NOTFOUND */
int database_open_wal(struct database *db);
void database_close_files(struct database *db);
/* NAME, NAME-wal, NAME-journal, NAME-shm below the tree, into `out`. */
#define DATABASE_PATH_MAX 4200
void database_file_path(const struct database *db, enum file_kind kind,
                        char out[DATABASE_PATH_MAX]);
/* Which of its files are there, and which are not, is on disk: each folder on the way to the database is
 * synced, but for one that has no name any more. */
int database_sync_names(struct database *db);
/* One page of the database file; what lies beyond its end reads as zero. */
int database_read_main(struct database *db, uint32_t page_size, uint32_t pgno, void *page);
/* The same as a callback, whose `ctx` is one of these. */
struct database_pages {
    struct database *db;
    uint32_t page_size;
};
int database_pages_read(void *ctx, uint32_t pgno, void *page);
/* Page size of the last record, 0 if there is none. */
uint32_t database_page_size(struct database *db);
/* db->ledger, created if there is none yet. */
int database_need_ledger(struct database *db);

/* ---- between database.c, database_write.c and database_names.c ---- */

bool database_is_primary(struct database *db);
/* The file of that kind has lost its name: handles on it do not count any more. The mutex is held. */
void database_file_gone(struct database *db, enum file_kind kind);
/* On a replica only the daemon's own handles change anything but the shared memory. */
int database_may_change(struct database *db, enum file_kind kind, bool own);
/* Between these two a file is being changed by a client; demotion waits for the end. Without the
 * mutex. */
int database_begin_change(struct database *db, enum file_kind kind);
void database_end_change(struct database *db);
/* A transaction in a rollback journal begins, or has ended, whichever way; a change without a
 * journal: all with the mutex held. Refused behind the closed gate. */
int database_begin_transaction(struct database *db);
void database_end_transaction(struct database *db);
int database_may_change_plain(struct database *db);
/* Writes to the database file while a WAL is in use are a checkpoint's. */
bool database_is_checkpoint(const struct database *db);
/* What was committed is on disk. Without the mutex: it takes a while. */
int database_sync_log(struct database *db);
/* Before and after its file gets another name or, the first, is replaced. Both block. */
int database_will_move(struct database *db);
/* A journal that could not be read is looked at again. The mutex is held. */
void database_look_again(struct database *db);
void database_has_moved_away(struct database *db);
/* The journal is about to be removed, cut to nothing, or zeroed: that commits, or ends a rollback.
 * Without the mutex. */
int database_finish_journal(struct database *db);

/* ---- catalog.c ---- */

struct store *database_store(const struct database *db);
struct role_state *database_role(const struct database *db);
int database_tree(const struct database *db);
/* Something wants the settler's attention (pages to capture, a wal-index to look at). */
void catalog_poke(struct catalog *c);
const char *catalog_mountpoint(const struct catalog *c);
int catalog_tree(const struct catalog *c);
bool catalog_writes_wait(const struct catalog *c);

#endif
