/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/sqlite_copy.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ltx/base/bytes.h"
#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/format.h"

#define STEP_PAGES 512
#define BUSY_MS 2000       /* that SQLite itself waits for a lock */
#define GIVE_UP_MS 60000   /* without a page copied */
#define DB_HEADER_SIZE 100 /* bytes */

struct copy {
    sqlite3 *from, *to;
    const char *to_path;
    bool to_exists; /* it holds a database already */
    bool to_wal;
    sqlite_progress *progress;
    void *ctx;
    char *why;
    size_t why_size;
};

static int say_fault(struct copy *c, sqlite3 *db, const char *what)
{
    int rc = db ? sqlite3_errcode(db) : SQLITE_NOMEM;
    snprintf(c->why, c->why_size, "%s: %s", what, db ? sqlite3_errmsg(db) : "out of memory");
    switch (rc & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED: return -ERR_BUSY;
    case SQLITE_FULL: return -ERR_NOSPACE;
    case SQLITE_READONLY: return -ERR_READONLY;
    case SQLITE_NOMEM: return -ERR_NOMEM;
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT: return -ERR_INVALID;
    default: return -ERR_IO;
    }
}

static int open_database(struct copy *c, const char *path, int flags, sqlite3 **db)
{
    if (sqlite3_open_v2(path, db, flags, NULL) != SQLITE_OK)
        return say_fault(c, *db, path);
    sqlite3_busy_timeout(*db, BUSY_MS);
    return 0;
}

/* Runs a PRAGMA that gives one value, and copies it. */
static int query(struct copy *c, sqlite3 *db, const char *sql, char *out, size_t out_size)
{
    sqlite3_stmt *stmt = NULL;
    int err = 0;
    if (out)
        out[0] = '\0';
    int rc = sqlite3_prepare_v2(db, sql, -1, &stmt, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW && out)
        snprintf(out, out_size, "%s", (const char *)sqlite3_column_text(stmt, 0));
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        err = say_fault(c, db, sql);
    sqlite3_finalize(stmt);
    return err;
}

/* Sets the journal mode; refused by SQLite, without an error, while others use the database. */
static int set_journal_mode(struct copy *c, const char *mode)
{
    char sql[64], got[32];
    snprintf(sql, sizeof sql, "PRAGMA journal_mode=%s", mode);
    int err = query(c, c->to, sql, got, sizeof got);
    if (err == -ERR_BUSY || (!err && strcmp(got, mode) != 0)) {
        snprintf(c->why, c->why_size,
                 "%s is in use, and its journal mode cannot be changed to %s meanwhile: close the "
                 "programs that use it and try again",
                 c->to_path, mode);
        err = -ERR_BUSY;
    }
    return err;
}

/* SQLite cannot change the page size of a database while it is in WAL mode. */
static int prepare_target(struct copy *c)
{
    char mode[32], from_size[16], to_size[16], count[24];
    int err = query(c, c->to, "PRAGMA page_count", count, sizeof count);
    if (!err)
        err = query(c, c->to, "PRAGMA journal_mode", mode, sizeof mode);
    if (!err)
        err = query(c, c->to, "PRAGMA page_size", to_size, sizeof to_size);
    if (!err)
        err = query(c, c->from, "PRAGMA page_size", from_size, sizeof from_size);
    if (err)
        return err;
    c->to_exists = strcmp(count, "0") != 0;
    c->to_wal = strcmp(mode, "wal") == 0;
    if (c->to_wal && strcmp(from_size, to_size) != 0)
        err = set_journal_mode(c, "delete");
    return err;
}

static int copy_pages(struct copy *c)
{
    struct mono moved = mono_now();
    sqlite3_backup *backup = sqlite3_backup_init(c->to, "main", c->from, "main");
    int rc;
    if (!backup)
        return say_fault(c, c->to, c->to_path);
    do {
        rc = sqlite3_backup_step(backup, STEP_PAGES);
        if (rc == SQLITE_OK) {
            moved = mono_now();
            uint64_t total = (uint64_t)sqlite3_backup_pagecount(backup);
            if (c->progress)
                c->progress(c->ctx, total - (uint64_t)sqlite3_backup_remaining(backup), total);
        }
    } while (rc == SQLITE_OK ||
             ((rc == SQLITE_BUSY || rc == SQLITE_LOCKED) && mono_since_ms(moved) < GIVE_UP_MS));
    sqlite3_backup_finish(backup); /* leaves its error in c->to */
    return rc == SQLITE_DONE ? 0 : say_fault(c, c->to, c->to_path);
}

/* The copied first page brought the source's mode with it, unless the target is in WAL mode. */
static int restore_mode(struct copy *c)
{
    char mode[32];
    if (!c->to_exists)
        return 0;
    const char *want = c->to_wal ? "wal" : "delete";
    int err = query(c, c->to, "PRAGMA journal_mode", mode, sizeof mode);
    if (!err && (strcmp(mode, "wal") == 0) != c->to_wal)
        err = set_journal_mode(c, want);
    return err;
}

int sqlite_examine(const char *path, struct sqlite_file *out, char *why, size_t why_size)
{
    struct copy c = {.why = why, .why_size = why_size};
    uint8_t header[DB_HEADER_SIZE] = {0};
    struct stat st;
    size_t got = 0;
    int fd, err = file_open(AT_FDCWD, path, O_RDONLY, 0, &fd);
    if (err) {
        snprintf(why, why_size, "%s: %s", path, err_text(err));
        return -ERR_INVALID;
    }
    err = fstat(fd, &st) != 0 ? -ERR_IO : 0;
    if (!err && S_ISREG(st.st_mode))
        err = file_read_some(fd, header, sizeof header, 0, &got);
    file_close(fd);
    if (err || !S_ISREG(st.st_mode))
        snprintf(why, why_size, "%s: %s", path, err ? err_text(err) : "this is not a file");
    else if (got == 0)
        snprintf(why, why_size, "%s is empty: there is no database in it", path);
    else if (got < sizeof header || memcmp(header, "SQLite format 3", 16) != 0)
        snprintf(why, why_size,
                 "%s is not a SQLite database (or it is encrypted): it does not begin with "
                 "\"SQLite format 3\"",
                 path);
    else
        why = NULL;
    if (why)
        return -ERR_INVALID;
    uint32_t page_size = get_be16(header + 16);
    *out = (struct sqlite_file){.page_size = page_size == 1 ? 65536 : page_size,
                                .size = (uint64_t)st.st_size,
                                .wal = header[19] == 2};
    err = ltx_page_size_valid(out->page_size) ? 0 : -ERR_INVALID;
    if (err)
        snprintf(c.why, c.why_size, "%s is damaged: its header states a page size of %u", path,
                 page_size);
    if (!err)
        err = open_database(&c, path, SQLITE_OPEN_READONLY, &c.from);
    if (!err)
        err = query(&c, c.from, "PRAGMA schema_version", NULL, 0);
    sqlite3_close(c.from);
    return err;
}

int sqlite_copy(const char *from, const char *to, sqlite_progress *progress, void *ctx, char *why,
                size_t why_size)
{
    struct copy c = {
        .to_path = to, .progress = progress, .ctx = ctx, .why = why, .why_size = why_size};
    int err = open_database(&c, from, SQLITE_OPEN_READONLY, &c.from);
    if (!err)
        err = open_database(&c, to, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, &c.to);
    /* One read transaction for the whole copy: changes of others do not begin it anew. */
    if (!err)
        err = query(&c, c.from, "BEGIN", NULL, 0);
    if (!err)
        err = query(&c, c.from, "SELECT count(*) FROM sqlite_schema", NULL, 0);
    if (!err)
        err = prepare_target(&c);
    if (!err)
        err = copy_pages(&c);
    if (!err) {
        err = restore_mode(&c);
    } else if (c.to_wal) {
        char kept[256]; /* the sentence is about the copy, not about what follows */
        snprintf(kept, sizeof kept, "%s", why);
        restore_mode(&c);
        snprintf(why, why_size, "%s", kept);
    }
    sqlite3_close(c.to);
    sqlite3_close(c.from);
    return err;
}
