/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The listening side of the transport over nng 1.5: one REP socket with a pool of contexts.
 *
 * A slot is one REP context with its asynchronous operation. It passes through three states, and
 * its owner changes with them, so it needs no lock: RECEIVE (nng's), HELD (whoever holds the
 * request), SEND (nng's). Parked requests hold their slot; the pool is large enough for several
 * requests of each of the most peers a cluster may have, and a peer whose requests find no free
 * slot waits in its own connection only.
 */
#include "cluster/nng_common.h"
#include "cluster/transport.h"

#include <nng/protocol/reqrep0/rep.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/err.h"

#define SLOTS 256
#define URL_SIZE 256
#define END_MS 1000
/* nng drops a longer message with its connection and says nothing; what lies between this and
 * TRANSPORT_REQUEST_MAX is seen, and dropped with a log line. */
#define REQUEST_TAKEN_MAX (TRANSPORT_REQUEST_MAX << 1)

enum slot_state { SLOT_RECEIVE, SLOT_HELD, SLOT_SEND };

struct slot {
    struct transport_request request; /* first: a request is its slot */
    struct transport *transport;
    enum slot_state state;
    nng_ctx ctx;
    nng_aio *aio;
    nng_msg *msg; /* while held */
};

struct transport {
    nng_socket socket;
    nng_listener listener;
    transport_handler *handler;
    void *handler_ctx;
    char url[URL_SIZE];
    struct slot *slots;
    unsigned slot_count; /* opened */
    struct connections connections;
    uint64_t refused; /* as last counted */
    _Atomic uint64_t bytes_sent;
    atomic_bool quitting;
};

static void slot_receive(struct slot *s)
{
    if (atomic_load(&s->transport->quitting))
        return;
    s->state = SLOT_RECEIVE;
    nng_ctx_recv(s->ctx, s->aio);
}

static void slot_event(void *arg)
{
    struct slot *s = arg;
    int rv = nng_aio_result(s->aio);

    if (rv != 0) {
        if (s->state == SLOT_SEND)
            nng_msg_free(nng_aio_get_msg(s->aio));
        nng_aio_set_msg(s->aio, NULL);
        if (rv != NNG_ECLOSED && rv != NNG_ECANCELED)
            slot_receive(s);
        return;
    }
    if (s->state == SLOT_SEND) {
        slot_receive(s);
        return;
    }
    s->msg = nng_aio_get_msg(s->aio);
    nng_aio_set_msg(s->aio, NULL);
    s->request =
        (struct transport_request){.data = nng_msg_body(s->msg), .len = nng_msg_len(s->msg)};
    s->state = SLOT_HELD;
    s->transport->handler(s->transport->handler_ctx, &s->request);
}

static void real_url(struct transport *t, const char *url)
{
    int port = 0;
    int rv = nng_listener_get_int(t->listener, NNG_OPT_TCP_BOUND_PORT, &port);
    const char *colon = strrchr(url, ':');

    if (rv != 0 || colon == NULL)
        snprintf(t->url, sizeof t->url, "%s", url);
    else
        snprintf(t->url, sizeof t->url, "%.*s:%d", (int)(colon - url), url, port);
}

int transport_listen(struct transport **out, const char *url, transport_handler *handler, void *ctx,
                     char *why, size_t why_size)
{
    char clause[128];
    struct transport *t;
    int rv;

    if (!transport_url_valid(url, clause, sizeof clause)) {
        snprintf(why, why_size, "cannot listen on \"%s\": %s", url, clause);
        return -ERR_INVALID;
    }
    t = calloc(1, sizeof *t);
    if (t == NULL || (t->slots = calloc(SLOTS, sizeof *t->slots)) == NULL) {
        free(t);
        snprintf(why, why_size, "out of memory");
        return -ERR_NOMEM;
    }
    t->handler = handler;
    t->handler_ctx = ctx;
    connections_init(&t->connections);
    t->connections.most = TRANSPORT_CONNECTIONS_MAX;
    if ((rv = nng_rep0_open(&t->socket)) != 0)
        goto err;
    if ((rv = nng_socket_set_size(t->socket, NNG_OPT_RECVMAXSZ, REQUEST_TAKEN_MAX)) != 0 ||
        (rv = watch_pipes(t->socket, &t->connections)) != 0 ||
        (rv = nng_listener_create(&t->listener, t->socket, url)) != 0 ||
        (rv = nng_listener_start(t->listener, 0)) != 0)
        goto err_after_open;
    real_url(t, url);
    *out = t;
    return 0;

err_after_open:
    nng_close(t->socket);
err:
    transport_explain(url, from_nng(rv), why, why_size);
    connections_fini(&t->connections);
    free(t->slots);
    free(t);
    return from_nng(rv) == -ERR_UNREACHABLE ? -ERR_IO : from_nng(rv);
}

const char *transport_url(const struct transport *t)
{
    return t->url;
}

int transport_start(struct transport *t)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        struct slot *s = &t->slots[i];
        int rv;

        s->transport = t;
        if ((rv = nng_ctx_open(&s->ctx, t->socket)) != 0)
            return from_nng(rv);
        if ((rv = nng_aio_alloc(&s->aio, slot_event, s)) != 0) {
            nng_ctx_close(s->ctx);
            return from_nng(rv);
        }
        t->slot_count = i + 1;
        slot_receive(s);
    }
    return 0;
}

void transport_reply(struct transport_request *r, const void *data, size_t len)
{
    struct slot *s = (struct slot *)r;
    nng_msg *reply;

    nng_msg_free(s->msg);
    s->msg = NULL;
    if (atomic_load(&s->transport->quitting))
        return;
    if (nng_msg_alloc(&reply, len) != 0) {
        slot_receive(s); /* the peer's call times out; it asks again */
        return;
    }
    memcpy(nng_msg_body(reply), data, len);
    atomic_fetch_add_explicit(&s->transport->bytes_sent, len, memory_order_relaxed);
    nng_aio_set_msg(s->aio, reply);
    s->state = SLOT_SEND;
    nng_ctx_send(s->ctx, s->aio);
}

void transport_drop(struct transport_request *r, bool bad)
{
    struct slot *s = (struct slot *)r;
    struct transport *t = s->transport;
    nng_pipe pipe = nng_msg_get_pipe(s->msg);

    nng_msg_free(s->msg);
    s->msg = NULL;
    if (bad && !connections_end(&t->connections, (uint32_t)nng_pipe_id(pipe)))
        nng_pipe_close(pipe);
    slot_receive(s);
}

void transport_request_peer(const struct transport_request *r, char *out, size_t size)
{
    const struct slot *s = (const struct slot *)r;
    struct sockaddr_storage remote;
    nng_sockaddr addr;

    snprintf(out, size, "a connection that is gone");
    if (nng_pipe_get_addr(nng_msg_get_pipe(s->msg), NNG_OPT_REMADDR, &addr) != 0)
        return;
    to_sockaddr(&addr, &remote);
    address_print((struct sockaddr *)&remote, out, size);
}

/* The listener's own branch; nng_stat_find_listener takes the first one there is. */
static nng_stat *find_listener(nng_stat *all, nng_listener listener)
{
    for (nng_stat *s = nng_stat_child(all); s != NULL; s = nng_stat_next(s)) {
        nng_stat *id = nng_stat_child(s);
        if (strcmp(nng_stat_name(s), "listener") == 0 && id != NULL &&
            nng_stat_value(id) == (uint64_t)nng_listener_id(listener))
            return s;
    }
    return NULL;
}

/* nng counts how connections end, by cause; "proto" is bytes that are no handshake of its protocol.
 * Longer messages than it takes are in "other", where every ordinary end is, too. */
uint64_t transport_refused(struct transport *t)
{
    uint64_t sum = 0, since;
    nng_stat *all, *mine;

    if (nng_stats_get(&all) != 0)
        return 0;
    mine = find_listener(all, t->listener);
    for (nng_stat *s = mine == NULL ? NULL : nng_stat_child(mine); s != NULL; s = nng_stat_next(s))
        if (strcmp(nng_stat_name(s), "proto") == 0)
            sum += nng_stat_value(s);
    nng_stats_free(all);
    since = sum - t->refused;
    t->refused = sum;
    return since;
}

uint64_t transport_bytes_sent(const struct transport *t)
{
    return atomic_load_explicit(&t->bytes_sent, memory_order_relaxed);
}

/* As with end_calls: the socket stays until nobody can be in a call on it, which is when those who
 * hold requests have been joined. */
void transport_quit(struct transport *t)
{
    if (atomic_exchange(&t->quitting, true))
        return;
    connections_end_all(&t->connections, END_MS);
    for (unsigned i = 0; i < t->slot_count; i++)
        nng_aio_stop(t->slots[i].aio); /* waits for slot_event, and lets none follow */
}

void transport_close(struct transport *t)
{
    if (t == NULL)
        return;
    transport_quit(t);
    nng_close(t->socket);
    for (unsigned i = 0; i < t->slot_count; i++) {
        nng_aio_free(t->slots[i].aio);
        nng_msg_free(t->slots[i].msg);
    }
    connections_fini(&t->connections);
    free(t->slots);
    free(t);
}

void transport_release_process(void)
{
    nng_fini();
}
