/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_LIB_NODECHECK_H
#define TESTS_LIB_NODECHECK_H

#include "tests/lib/fsnode.h"

/*
 * What must be so on a node whatever has happened to it. A failed check ends the cmocka test, and says
 * `nodecheck_what`: what was being tried. Names are those of databases, up to NULL. SQLite goes
 * through the tap.
 */
extern char nodecheck_what[500];

#define NODECHECK_BROKEN "broken"

/* What there is to see in all of them (those with a table `t` that has columns a, b and k), in words;
 * NODECHECK_BROKEN if one does not pass its integrity check. To be freed. */
char *nodecheck_content(struct fsnode *n, const char *const *names);
/* The log of one of them takes no more transactions before it is opened again. */
bool nodecheck_log_has_failed(struct fsnode *n);
/* Nothing is damaged, and each is what its log says, as far as that goes back to the beginning. */
void nodecheck_file_is_log(struct fsnode *n, const char *const *names, const char *when);
/* The log takes the next transaction. */
void nodecheck_can_write(struct fsnode *n, const char *name, const char *when);

#endif
