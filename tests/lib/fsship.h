/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_LIB_FSSHIP_H
#define TESTS_LIB_FSSHIP_H

#include "tests/lib/fsnode.h"

/* Between two nodes, in place of the cluster. What must work is checked here. */

/* Hands over what `from` has in its log of the database and `to` lacks. */
void fsship(struct fsnode *from, struct fsnode *to, const char *name);
/* Waits until all that the log holds is applied. */
void fsship_wait_applied(struct fsnode *n, const char *name);

#endif
