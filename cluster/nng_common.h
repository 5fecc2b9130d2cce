/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLUSTER_NNG_COMMON_H
#define CLUSTER_NNG_COMMON_H

#include <nng/nng.h>
#include <sys/socket.h>

#include "cluster/connections.h"

/* What both sides of the transport over nng share: its errors, its addresses, its connections. */

int from_nng(int rv); /* a code of err.h, 0 for 0 */
void to_sockaddr(const nng_sockaddr *in, struct sockaddr_storage *out);
/* nng's callbacks keep the list of the socket's connections from now on. A result of nng. */
int watch_pipes(nng_socket socket, struct connections *c);

#endif
