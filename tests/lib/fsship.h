/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_LIB_FSSHIP_H
#define TESTS_LIB_FSSHIP_H

#include "tests/lib/fsnode.h"
#include "tests/lib/scratch.h"

/* Between two nodes, in place of the cluster. What must work is checked here. */

/* A primary on which SQLite works through the tap, and a replica that is handed its records; each in a folder of its
 * own. */
void fsship_pair_begin(struct fsnode *primary, char root[SCRATCH_PATH_MAX], struct fsnode *replica,
                       char replica_root[SCRATCH_PATH_MAX]);
void fsship_pair_end(struct fsnode *primary, const char *root, struct fsnode *replica,
                     const char *replica_root);

/* Hands over what `from` has in its log of the database and `to` lacks. */
void fsship(struct fsnode *from, struct fsnode *to, const char *name);
/* The same, `n` records at most. */
void fsship_some(struct fsnode *from, struct fsnode *to, const char *name, unsigned n);
/* Waits until all that the log holds is applied. */
void fsship_wait_applied(struct fsnode *n, const char *name);

#endif
