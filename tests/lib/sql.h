/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_LIB_SQL_H
#define TESTS_LIB_SQL_H

#include <sqlite3.h>
#include <stddef.h>
#include <stdint.h>

/* SQLite in a test: what must work is checked here. */

sqlite3 *sql_open(const char *path, const char *vfs); /* vfs NULL: the system's */
void sql_close(sqlite3 *db);
void sql_do(sqlite3 *db, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same, but gives SQLite's (extended) result. */
int sql_try(sqlite3 *db, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int64_t sql_int(sqlite3 *db, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The first column of the first row; to be freed by the caller. */
char *sql_text(sqlite3 *db, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void sql_check(sqlite3 *db); /* integrity_check says ok */

/* All bytes of a database as this connection sees it. To be freed with sqlite3_free. */
uint8_t *sql_bytes(sqlite3 *db, const char *schema, size_t *size);

#endif
