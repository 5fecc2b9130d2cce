/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TOOLS_SQLITE_COPY_H
#define TOOLS_SQLITE_COPY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Copying one SQLite database into another through SQLite itself; the only file of this folder that
 * includes sqlite3.h. */
struct sqlite_file {
    uint32_t page_size; /* bytes */
    uint64_t size;      /* of the file, bytes */
    bool wal;           /* journal mode of the file; false: a rollback mode */
};

/* Is the file a SQLite database that can be read? 0 and what it is, or -ERR_INVALID and a sentence.
 */
int sqlite_examine(const char *path, struct sqlite_file *out, char *why, size_t why_size);

typedef void sqlite_progress(void *ctx, uint64_t pages_done, uint64_t pages_total);

/*
 * The content of `from` becomes that of `to`, in one transaction; `to` is made if it is not there.
 * A new file gets the journal mode of `from`, an existing one keeps its own. Waits for other users
 * of `to` up to a minute. On failure `to` is as it was.
 */
int sqlite_copy(const char *from, const char *to, sqlite_progress *progress, void *ctx, char *why,
                size_t why_size);

#endif
