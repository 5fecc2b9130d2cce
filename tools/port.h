/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TOOLS_PORT_H
#define TOOLS_PORT_H

#include <stddef.h>

/*
 * Can this node listen at a URL? Tried before anything is begun, by binding and letting go again,
 * so that a port that is taken is told while there is nothing to undo. `why` receives a sentence.
 */
int port_check(const char *url, char *why, size_t why_size);

#endif
