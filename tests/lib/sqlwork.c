/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/sqlwork.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/sql.h"

static uint64_t next(struct sqlwork *w)
{
    uint64_t z = (w->dice += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint32_t sqlwork_below(struct sqlwork *w, uint32_t n)
{
    return (uint32_t)(next(w) % n);
}

/* Bytes that compress a little, the same for the same dice: SQLite's randomblob() is not. */
static void fill(struct sqlwork *w, uint8_t *out, uint32_t n)
{
    uint64_t v = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (i % 16 == 0)
            v = next(w);
        out[i] = (uint8_t)(v >> (i % 8 * 8));
    }
}

static int run_with_blob(struct sqlwork *w, const char *text, uint32_t bytes)
{
    static _Thread_local uint8_t blob[200000];
    sqlite3_stmt *stmt;
    int rc = sqlite3_prepare_v2(w->db, text, -1, &stmt, NULL);
    if (rc != SQLITE_OK)
        return rc;
    fill(w, blob, bytes);
    sqlite3_bind_blob(stmt, 1, blob, (int)bytes, SQLITE_STATIC);
    sqlite3_bind_int64(stmt, 2, sqlwork_below(w, 300));
    sqlite3_step(stmt);
    return sqlite3_finalize(stmt);
}

static uint32_t row_size(struct sqlwork *w)
{
    uint32_t most = w->row_bytes ? w->row_bytes : 3 * w->page_size + 100;
    if (most > 100000)
        most = 100000;
    return sqlwork_below(w, 4) ? sqlwork_below(w, 120) : sqlwork_below(w, most);
}

static int change_rows(struct sqlwork *w)
{
    uint32_t a = sqlwork_below(w, 300);
    switch (sqlwork_below(w, 8)) {
    case 0:
    case 1:
    case 2: return run_with_blob(w, "INSERT INTO t(b, k) VALUES (?1, ?2)", row_size(w));
    case 3:
    case 4: return run_with_blob(w, "UPDATE t SET b = ?1 WHERE k = ?2", row_size(w));
    case 5: return sql_try(w->db, "UPDATE t SET k = k + 1 WHERE k BETWEEN %u AND %u", a, a + 9);
    case 6: return sql_try(w->db, "DELETE FROM t WHERE k BETWEEN %u AND %u", a, a + 20);
    default:
        return sql_try(w->db,
                       "INSERT INTO t(b, k) SELECT b, k + 7 FROM t WHERE k BETWEEN %u AND %u", a,
                       a + 5);
    }
}

static int change_schema(struct sqlwork *w)
{
    switch (sqlwork_below(w, 4)) {
    case 0: return sql_try(w->db, "CREATE TABLE IF NOT EXISTS u(x, y)");
    case 1: return sql_try(w->db, "DROP TABLE IF EXISTS u");
    case 2: return sql_try(w->db, "CREATE INDEX IF NOT EXISTS tk ON t(k)");
    default: return sql_try(w->db, "DROP INDEX IF EXISTS tk");
    }
}

/* Much at once: with a small cache, pages are written before the commit. */
static int change_much(struct sqlwork *w)
{
    int rc = SQLITE_OK;
    uint32_t n = 20 + sqlwork_below(w, 40);
    if (sqlwork_below(w, 3) == 0)
        return sql_try(w->db, "UPDATE t SET k = k + 1, b = b || zeroblob(3)");
    for (uint32_t i = 0; rc == SQLITE_OK && i < n; i++)
        rc = change_rows(w);
    return rc;
}

static int inside_savepoint(struct sqlwork *w, unsigned depth)
{
    int rc = sql_try(w->db, "SAVEPOINT s%u", depth);
    uint32_t n = 1 + sqlwork_below(w, 4);
    for (uint32_t i = 0; rc == SQLITE_OK && i < n; i++) {
        if (depth < 3 && sqlwork_below(w, 5) == 0)
            rc = inside_savepoint(w, depth + 1);
        else
            rc = sqlwork_below(w, 6) ? change_rows(w) : change_much(w);
    }
    if (rc == SQLITE_OK && sqlwork_below(w, 2) && !w->no_rollback)
        rc = sql_try(w->db, "ROLLBACK TO s%u", depth);
    return rc == SQLITE_OK ? sql_try(w->db, "RELEASE s%u", depth) : rc;
}

/* Pages are written, some of them more than once, all of that is taken back, and the transaction goes on with little. */
static int transaction_that_turns_back(struct sqlwork *w)
{
    int rc = sql_try(w->db, "BEGIN");
    uint32_t n = 5 + sqlwork_below(w, 40), again = sqlwork_below(w, n);
    if (rc == SQLITE_OK && sqlwork_below(w, 3) == 0)
        rc = change_rows(w);
    if (rc == SQLITE_OK)
        rc = sql_try(w->db, "SAVEPOINT s");
    for (uint32_t i = 0; rc == SQLITE_OK && i < n; i++) {
        rc = run_with_blob(w, "INSERT INTO t(b, k) VALUES (?1, ?2)", row_size(w));
        if (rc == SQLITE_OK && i >= again)
            rc = sql_try(w->db, "UPDATE t SET k = k + 1 WHERE a = (SELECT max(a) - %u FROM t)",
                         i - again);
    }
    if (rc == SQLITE_OK)
        rc = sql_try(w->db, "ROLLBACK TO s");
    for (uint32_t i = sqlwork_below(w, 3); rc == SQLITE_OK && i > 0; i--)
        rc = sql_try(w->db, "UPDATE t SET k = k + 1 WHERE a = %u", sqlwork_below(w, 30));
    snprintf(w->last, sizeof w->last, "transaction that turns back, COMMIT");
    return rc == SQLITE_OK ? sql_try(w->db, "COMMIT") : rc;
}

static int transaction(struct sqlwork *w)
{
    static const char *const begin[] = {"BEGIN", "BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"};
    int rc = sql_try(w->db, "%s", begin[sqlwork_below(w, 3)]);
    uint32_t n = 1 + sqlwork_below(w, 6);
    for (uint32_t i = 0; rc == SQLITE_OK && i < n; i++) {
        switch (sqlwork_below(w, 10)) {
        case 0: rc = change_schema(w); break;
        case 1: rc = change_much(w); break;
        case 2:
        case 3: rc = inside_savepoint(w, 0); break;
        default: rc = change_rows(w); break;
        }
    }
    if (rc != SQLITE_OK)
        return rc;
    bool keep = sqlwork_below(w, 4) != 0 || w->no_rollback;
    snprintf(w->last, sizeof w->last, "transaction, %s", keep ? "COMMIT" : "ROLLBACK");
    return sql_try(w->db, keep ? "COMMIT" : "ROLLBACK");
}

static int one(struct sqlwork *w, const char *text)
{
    snprintf(w->last, sizeof w->last, "%s", text);
    return sql_try(w->db, "%s", text);
}

static int checkpoint(struct sqlwork *w)
{
    static const char *const kind[] = {"PASSIVE", "FULL", "RESTART", "TRUNCATE"};
    char text[64];
    snprintf(text, sizeof text, "PRAGMA wal_checkpoint(%s)", kind[sqlwork_below(w, 4)]);
    return one(w, text);
}

static int change_mode(struct sqlwork *w)
{
    static const char *const mode[] = {"DELETE", "TRUNCATE", "PERSIST", "WAL", "MEMORY", "OFF"};
    char text[64];
    if (!w->changes_mode)
        return checkpoint(w);
    /* In OFF mode a rollback leaves a broken database behind: not here. In MEMORY mode a crash. */
    snprintf(text, sizeof text, "PRAGMA journal_mode=%s",
             mode[sqlwork_below(w, w->crashes ? 4 : 5)]);
    return one(w, text);
}

static int change_page_size(struct sqlwork *w)
{
    char text[96];
    if (!w->changes_page_size)
        return one(w, "VACUUM");
    uint32_t page_size = 512u << sqlwork_below(w, 5);
    snprintf(text, sizeof text, "PRAGMA page_size=%u; VACUUM", page_size);
    return one(w, text);
}

int sqlwork_step(struct sqlwork *w)
{
    int rc;
    snprintf(w->last, sizeof w->last, "transaction");
    switch (w->turns_back && sqlwork_below(w, 2) ? 24 : sqlwork_below(w, 24)) {
    case 0: rc = one(w, "VACUUM"); break;
    case 1: rc = checkpoint(w); break;
    case 2: rc = change_mode(w); break;
    case 3: rc = change_page_size(w); break;
    case 4: rc = one(w, "PRAGMA incremental_vacuum(5)"); break;
    case 5: rc = one(w, "DELETE FROM t WHERE k % 3 = 0"); break;
    case 6:
        snprintf(w->last, sizeof w->last, "schema");
        rc = change_schema(w);
        break;
    case 7:
    case 8:
    case 9:
        snprintf(w->last, sizeof w->last, "rows");
        rc = change_rows(w);
        break;
    case 24: rc = transaction_that_turns_back(w); break;
    default: rc = transaction(w); break;
    }
    if (rc != SQLITE_OK && !sqlite3_get_autocommit(w->db))
        (void)sql_try(w->db, "ROLLBACK");
    return rc;
}

bool sqlwork_in_wal_mode(struct sqlwork *w)
{
    char *mode = sql_text(w->db, "PRAGMA journal_mode");
    bool wal = strcmp(mode, "wal") == 0;
    free(mode);
    return wal;
}

void sqlwork_begin(struct sqlwork *w)
{
    sql_do(w->db, "PRAGMA page_size=%u", w->page_size);
    sql_do(w->db, "PRAGMA auto_vacuum=%u", w->auto_vacuum);
    if (w->exclusive)
        sql_do(w->db, "PRAGMA locking_mode=EXCLUSIVE");
    if (w->journal_mode)
        sql_do(w->db, "PRAGMA journal_mode=%s", w->journal_mode);
    if (w->synchronous)
        sql_do(w->db, "PRAGMA synchronous=%s", w->synchronous);
    if (w->size_limit)
        sql_do(w->db, "PRAGMA journal_size_limit=%lld", (long long)w->size_limit);
    sql_do(w->db, "PRAGMA cache_size=8; PRAGMA wal_autocheckpoint=60");
    sql_do(w->db, "CREATE TABLE IF NOT EXISTS t(a INTEGER PRIMARY KEY, b BLOB, k INTEGER)");
}

void sqlwork_commit_unsealed(sqlite3 *db, const char *value)
{
    sql_do(db, "PRAGMA journal_mode=DELETE; PRAGMA page_size=512;"
               "CREATE TABLE IF NOT EXISTS t(a INTEGER PRIMARY KEY, b);"
               "INSERT OR IGNORE INTO t VALUES(1, ''); PRAGMA journal_mode=WAL;"
               "PRAGMA cache_size=1; BEGIN; SAVEPOINT s");
    /* A frame that is not among the first ones is written twice: from there on it means to seal. */
    for (unsigned a = 2; a < 40; a++)
        sql_do(db, "INSERT INTO t VALUES(%u, zeroblob(400)); UPDATE t SET b = '%u' WHERE a = 12", a,
               a);
    /* The WAL begins once more, and the transaction ends before that frame. */
    sql_do(db, "ROLLBACK TO s; UPDATE t SET b = '%s' WHERE a = 1; COMMIT", value);
}
