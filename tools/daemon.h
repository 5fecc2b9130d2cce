/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TOOLS_DAEMON_H
#define TOOLS_DAEMON_H

#include "tools/config.h"

/*
 * The node as a whole: opens the parts in order, runs until there is a reason to end, and takes
 * them down in the opposite order. `config` has been checked. Returns the program's exit status.
 */
int daemon_run(const struct config *config);

#endif
