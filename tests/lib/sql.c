/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/sql.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SQL_MAX 4096

static void must(int rc, sqlite3 *db, const char *what)
{
    if (rc == SQLITE_OK)
        return;
    fprintf(stderr, "%s: %s (%d)\n", what, db ? sqlite3_errmsg(db) : "", rc);
    abort();
}

sqlite3 *sql_open(const char *path, const char *vfs)
{
    sqlite3 *db;
    int rc = sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, vfs);
    must(rc, db, path);
    sqlite3_extended_result_codes(db, 1);
    sqlite3_busy_timeout(db, 5000);
    return db;
}

void sql_close(sqlite3 *db)
{
    must(sqlite3_close(db), db, "close");
}

int sql_try(sqlite3 *db, const char *fmt, ...)
{
    char text[SQL_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return sqlite3_exec(db, text, NULL, NULL, NULL);
}

void sql_do(sqlite3 *db, const char *fmt, ...)
{
    char text[SQL_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    must(sqlite3_exec(db, text, NULL, NULL, NULL), db, text);
}

static sqlite3_stmt *first_row(sqlite3 *db, const char *text)
{
    sqlite3_stmt *stmt;
    must(sqlite3_prepare_v2(db, text, -1, &stmt, NULL), db, text);
    if (sqlite3_step(stmt) != SQLITE_ROW)
        must(SQLITE_ERROR, db, text);
    return stmt;
}

int64_t sql_int(sqlite3 *db, const char *fmt, ...)
{
    char text[SQL_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    sqlite3_stmt *stmt = first_row(db, text);
    int64_t value = sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    return value;
}

char *sql_text(sqlite3 *db, const char *fmt, ...)
{
    char text[SQL_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    sqlite3_stmt *stmt = first_row(db, text);
    const unsigned char *value = sqlite3_column_text(stmt, 0);
    char *copy = strdup(value ? (const char *)value : "");
    sqlite3_finalize(stmt);
    return copy;
}

void sql_check(sqlite3 *db)
{
    char *said = sql_text(db, "PRAGMA integrity_check");
    if (strcmp(said, "ok") != 0)
        must(SQLITE_CORRUPT, NULL, said);
    free(said);
}

uint8_t *sql_bytes(sqlite3 *db, const char *schema, size_t *size)
{
    sqlite3_int64 n = 0;
    uint8_t *bytes = sqlite3_serialize(db, schema, &n, 0);
    *size = (size_t)n;
    return bytes;
}
