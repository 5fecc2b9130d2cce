/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_LIB_FSCHECK_H
#define TESTS_LIB_FSCHECK_H

#include <stdbool.h>
#include <stdint.h>

#include <sqlite3.h>

#include "fs/db/check.h"
#include "tests/lib/fsnode.h"

/* A node's database whose files are damaged on purpose, and compared with its checksums (fs/db/check.h). What
 * goes wrong fails the test. */

/* A database with some 20 pages of content in a table t(x), and never a checkpoint by itself. The connection is
 * the caller's. */
sqlite3 *fscheck_make(struct fsnode *n, const char *name, const char *journal_mode);

/* Changes a bit of the byte at `off`. */
void fscheck_flip(const char *path, int64_t off);

struct check_result fscheck_look(struct fsnode *n, const char *name);
/* The same; between two tries it rests that way. */
struct check_result fscheck_look_resting(struct fsnode *n, const char *name,
                                         bool (*rest_us)(void *ctx, int64_t us));
bool fscheck_rest(void *ctx, int64_t us); /* sleeps */
/* Nothing is wrong, and nothing was left undecided. */
void fscheck_need_right(struct fsnode *n, const char *name);

/* Pages that the ledger knows to be bad. */
uint32_t fscheck_bad_pages(struct fsnode *n, const char *name);

#endif
