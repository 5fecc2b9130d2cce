/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TOOLS_PORT_H
#define TOOLS_PORT_H

#include <stddef.h>

/*
 * Can this node listen at a URL? Tried before anything is begun, by binding and letting go again,
 * so that a port that is taken is told while there is nothing to undo. `why` receives a sentence.
 */
int port_check(const char *url, char *why, size_t why_size);

/*
 * A socket that listens at HOST:PORT (or such a URL), the caller's to close. -ERR_BUSY: the port is
 * taken. `why` receives a clause on failure.
 */
int port_listen(const char *address, int *fd, char *why, size_t why_size);

#endif
