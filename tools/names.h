/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TOOLS_NAMES_H
#define TOOLS_NAMES_H

#include <stddef.h>

/*
 * Is NAME, as somebody typed it, the path of a database below a mount? It must stay below it, and
 * not be one of the files that SQLite or tandemfs put beside a database. `why` receives a clause.
 */
int name_check(const char *name, char *why, size_t why_size);

#endif
