/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLUSTER_NNG_COMMON_H
#define CLUSTER_NNG_COMMON_H

#include <nng/nng.h>
#include <sys/socket.h>

#include "cluster/connections.h"
#include "ltx/base/err.h"

/* What both sides of the transport over nng share: its errors, its addresses, its connections. */

/* A code of err.h, 0 for 0 alone: inline, so that whoever reads the callers sees that, too. */
static inline int from_nng(int rv)
{
    switch (rv) {
    case 0: return 0;
    case NNG_ENOMEM: return -ERR_NOMEM;
    case NNG_EINVAL:
    case NNG_EADDRINVAL: return -ERR_INVALID;
    case NNG_EADDRINUSE: return -ERR_BUSY;
    case NNG_EPERM: return -ERR_ACCESS;
    case NNG_ETIMEDOUT: return -ERR_TIMEOUT;
    case NNG_ECLOSED: return -ERR_CLOSED;
    case NNG_EMSGSIZE: return -ERR_LIMIT;
    case NNG_ENOTSUP: return -ERR_UNSUPPORTED;
    default: return -ERR_UNREACHABLE;
    }
}

void to_sockaddr(const nng_sockaddr *in, struct sockaddr_storage *out);
/* nng's callbacks keep the list of the socket's connections from now on. A result of nng. */
int watch_pipes(nng_socket socket, struct connections *c);

#endif
