/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_LIB_SQLWORK_H
#define TESTS_LIB_SQLWORK_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

/*
 * A random workload for one connection, the same for the same seed: inserts, updates and deletes of
 * rows of every size, schema changes, savepoints that are rolled back, transactions larger than the
 * page cache, VACUUM, checkpoints, changes of journal mode.
 */
struct sqlwork {
    sqlite3 *db;
    uint64_t dice;
    const char *journal_mode;
    uint32_t page_size;
    const char *synchronous;
    unsigned auto_vacuum;   /* 0, 1 full, 2 incremental */
    bool exclusive;         /* locking_mode=EXCLUSIVE */
    int64_t size_limit;     /* journal_size_limit; 0: none set */
    bool changes_mode;      /* may switch the journal mode */
    bool crashes;           /* will be interrupted: only modes that survive it */
    bool changes_page_size; /* may VACUUM to another page size */
    bool no_rollback;       /* journal_mode=OFF: SQLite cannot roll back */
    bool turns_back;        /* every second step returns to a savepoint in its middle */
    unsigned row_bytes;     /* the largest row; 0: a default that fits the page size */
    char last[96];          /* what the last step was */
};

uint32_t sqlwork_below(struct sqlwork *w, uint32_t n);
bool sqlwork_in_wal_mode(struct sqlwork *w);
/* The pragmas and the tables. May itself be several transactions. */
void sqlwork_begin(struct sqlwork *w);
/* One step: a transaction (committed or rolled back), or a statement outside of any. SQLite's
 * result; on an error whatever was open is rolled back. */
int sqlwork_step(struct sqlwork *w);

/* Of the only connection: makes t(a, b) if there is no t, with one row of this value, by a commit in a new WAL that
 * SQLite 3.40 leaves unsealed (fs/db/wal.h). */
void sqlwork_commit_unsealed(sqlite3 *db, const char *value);

#endif
