/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/nng_common.h"

#include <netinet/in.h>
#include <string.h>

void to_sockaddr(const nng_sockaddr *in, struct sockaddr_storage *out)
{
    memset(out, 0, sizeof *out);
    if (in->s_family == NNG_AF_INET) {
        struct sockaddr_in *v4 = (struct sockaddr_in *)out;
        v4->sin_family = AF_INET;
        v4->sin_port = in->s_in.sa_port;
        v4->sin_addr.s_addr = in->s_in.sa_addr;
    } else if (in->s_family == NNG_AF_INET6) {
        struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
        v6->sin6_family = AF_INET6;
        v6->sin6_port = in->s_in6.sa_port;
        memcpy(&v6->sin6_addr, in->s_in6.sa_addr, sizeof v6->sin6_addr);
    }
}

static void pipe_event(nng_pipe pipe, nng_pipe_ev event, void *arg)
{
    struct connections *c = arg;
    struct connection x = {.id = (uint32_t)nng_pipe_id(pipe)};
    nng_sockaddr local, remote;

    if (event == NNG_PIPE_EV_REM_POST) {
        connections_remove(c, x.id);
    } else if (event == NNG_PIPE_EV_ADD_PRE) {
        if (!connections_may_begin(c))
            nng_pipe_close(pipe); /* nothing has begun on it */
    } else if (nng_pipe_get_addr(pipe, NNG_OPT_LOCADDR, &local) == 0 &&
               nng_pipe_get_addr(pipe, NNG_OPT_REMADDR, &remote) == 0) {
        to_sockaddr(&local, &x.local);
        to_sockaddr(&remote, &x.remote);
        connections_add(c, &x);
    }
}

int watch_pipes(nng_socket socket, struct connections *c)
{
    static const nng_pipe_ev events[] = {NNG_PIPE_EV_ADD_PRE, NNG_PIPE_EV_ADD_POST,
                                         NNG_PIPE_EV_REM_POST};
    int rv = 0;

    for (size_t i = 0; rv == 0 && i < sizeof events / sizeof *events; i++)
        rv = nng_pipe_notify(socket, events[i], pipe_event, c);
    return rv;
}
