/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The transport over nng 1.5: one REP socket with a pool of contexts, one REQ socket for each peer.
 *
 * A slot is one REP context with its asynchronous operation. It passes through three states, and
 * its owner changes with them, so it needs no lock: RECEIVE (nng's), HELD (whoever holds the
 * request), SEND (nng's). Parked requests hold their slot; the pool is large enough for several
 * requests of each of the most peers a cluster may have, and a peer whose requests find no free
 * slot waits in its own connection only.
 *
 * REQ resends by itself unless its resend time is infinite; then a broken connection ends the call.
 */
#include "cluster/connections.h"
#include "cluster/transport.h"

#include <netinet/in.h>
#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>
#include <nng/protocol/reqrep0/req.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/logger.h"
#include "ltx/base/mutex.h"

#define SLOTS 256
#define RECONNECT_MIN_MS 50
#define RECONNECT_MAX_MS 1000
#define URL_SIZE 256
#define END_MS 1000
#define NEVER_MS 86400000
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

struct transport_peer {
    nng_socket socket;
    nng_dialer dialer;
    char url[URL_SIZE];
    struct connections connections;
    /* Guarded by the connections' mutex. */
    struct call *running;
    unsigned releasing; /* threads that close a context */
    bool closed;        /* no call begins any more */
    bool closing;       /* the socket is being closed */
};

struct call {
    nng_ctx ctx;
    nng_aio *aio;
    nng_msg *reply;
    struct mono begun;
    int64_t timeout_ms;
    struct call *next; /* of those that run */
};

static int from_nng(int rv)
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

/* Connections: nng's callbacks keep the list. */

static void to_sockaddr(const nng_sockaddr *in, struct sockaddr_storage *out)
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

static int watch_pipes(nng_socket socket, struct connections *c)
{
    static const nng_pipe_ev events[] = {NNG_PIPE_EV_ADD_PRE, NNG_PIPE_EV_ADD_POST,
                                         NNG_PIPE_EV_REM_POST};
    int rv = 0;

    for (size_t i = 0; rv == 0 && i < sizeof events / sizeof *events; i++)
        rv = nng_pipe_notify(socket, events[i], pipe_event, c);
    return rv;
}

/* The listening side. */

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

/* The asking side. */

int peer_open(struct transport_peer **out, const char *url)
{
    char clause[128];
    struct transport_peer *p;
    int rv;

    if (!transport_url_valid(url, clause, sizeof clause))
        return -ERR_INVALID;
    p = calloc(1, sizeof *p);
    if (p == NULL)
        return -ERR_NOMEM;
    snprintf(p->url, sizeof p->url, "%s", url);
    connections_init(&p->connections);
    if ((rv = nng_req0_open(&p->socket)) != 0)
        goto err;
    if ((rv = nng_socket_set_ms(p->socket, NNG_OPT_REQ_RESENDTIME, NNG_DURATION_INFINITE)) != 0 ||
        (rv = nng_socket_set_ms(p->socket, NNG_OPT_RECONNMINT, RECONNECT_MIN_MS)) != 0 ||
        (rv = nng_socket_set_ms(p->socket, NNG_OPT_RECONNMAXT, RECONNECT_MAX_MS)) != 0 ||
        (rv = nng_socket_set_size(p->socket, NNG_OPT_RECVMAXSZ, TRANSPORT_ANSWER_MAX)) != 0 ||
        (rv = watch_pipes(p->socket, &p->connections)) != 0 ||
        (rv = nng_dialer_create(&p->dialer, p->socket, url)) != 0 ||
        (rv = nng_dialer_start(p->dialer, NNG_FLAG_NONBLOCK)) != 0)
        goto err_after_open;
    *out = p;
    return 0;

err_after_open:
    nng_close(p->socket);
err:
    connections_fini(&p->connections);
    free(p);
    return from_nng(rv);
}

const char *peer_url(const struct transport_peer *p)
{
    return p->url;
}

bool peer_connected(struct transport_peer *p)
{
    return connections_any(&p->connections);
}

/* nng 1.5 does not bear calls on a socket while it is closed: all that run end first. */
static void end_calls(struct transport_peer *p)
{
    mutex_lock(&p->connections.mutex);
    p->closed = true;
    for (struct call *c = p->running; c != NULL; c = c->next)
        nng_aio_cancel(c->aio);
    while (p->running != NULL)
        cond_wait(&p->connections.cond, &p->connections.mutex);
    mutex_unlock(&p->connections.mutex);
}

/* Nor does it bear that a context is closed meanwhile: what the context still needs is freed then. */
static void close_socket(struct transport_peer *p)
{
    mutex_lock(&p->connections.mutex);
    while (p->releasing > 0)
        cond_wait(&p->connections.cond, &p->connections.mutex);
    p->closing = true;
    mutex_unlock(&p->connections.mutex);
    nng_close(p->socket);
    mutex_lock(&p->connections.mutex);
    p->closing = false;
    cond_broadcast(&p->connections.cond);
    mutex_unlock(&p->connections.mutex);
}

static void close_context(struct transport_peer *p, nng_ctx ctx)
{
    mutex_lock(&p->connections.mutex);
    while (p->closing)
        cond_wait(&p->connections.cond, &p->connections.mutex);
    p->releasing++;
    mutex_unlock(&p->connections.mutex);
    nng_ctx_close(ctx);
    mutex_lock(&p->connections.mutex);
    p->releasing--;
    cond_broadcast(&p->connections.cond);
    mutex_unlock(&p->connections.mutex);
}

void peer_quit(struct transport_peer *p)
{
    bool was;

    mutex_lock(&p->connections.mutex);
    was = p->closed;
    mutex_unlock(&p->connections.mutex);
    if (was)
        return;
    end_calls(p);
    /* A connection that begins while its socket is closed leaks: no dialing any more. */
    nng_dialer_set_ms(p->dialer, NNG_OPT_RECONNMAXT, NEVER_MS);
    nng_dialer_set_ms(p->dialer, NNG_OPT_RECONNMINT, NEVER_MS);
    connections_end_all(&p->connections, END_MS);
    close_socket(p);
}

void peer_close(struct transport_peer *p)
{
    if (p == NULL)
        return;
    peer_quit(p);
    connections_fini(&p->connections);
    free(p);
}

static void release_reply(struct transport_call *call)
{
    struct call *c = call->handle;

    nng_msg_free(c->reply);
    c->reply = NULL;
    call->data = NULL;
    call->len = 0;
}

static int prepare(struct transport_peer *p, struct transport_call *call)
{
    struct call *c = call->handle;
    int rv;

    if (c != NULL) {
        release_reply(call);
        return 0;
    }
    c = calloc(1, sizeof *c);
    if (c == NULL)
        return -ERR_NOMEM;
    if ((rv = nng_aio_alloc(&c->aio, NULL, NULL)) != 0)
        goto err;
    if ((rv = nng_ctx_open(&c->ctx, p->socket)) != 0)
        goto err_after_aio;
    call->handle = c;
    call->peer = p;
    return 0;

err_after_aio:
    nng_aio_free(c->aio);
err:
    free(c);
    return from_nng(rv);
}

/* Takes the call off the list of those that run; says how it ended. */
static int end_call(struct transport_peer *p, struct call *c, int rv)
{
    mutex_lock(&p->connections.mutex);
    for (struct call **at = &p->running; *at != NULL; at = &(*at)->next)
        if (*at == c) {
            *at = c->next;
            break;
        }
    if (rv != 0 && p->closed)
        rv = -ERR_CLOSED;
    cond_broadcast(&p->connections.cond);
    mutex_unlock(&p->connections.mutex);
    return rv;
}

int peer_begin(struct transport_peer *p, struct transport_call *call, const void *data, size_t len,
               int64_t timeout_ms)
{
    struct call *c;
    nng_msg *msg;
    int rv = -ERR_CLOSED;

    if (call->peer != p)
        peer_done(call);
    mutex_lock(&p->connections.mutex);
    if (!p->closed)
        rv = prepare(p, call);
    if (rv == 0 && nng_msg_alloc(&msg, len) != 0)
        rv = -ERR_NOMEM;
    if (rv == 0) {
        memcpy(nng_msg_body(msg), data, len);
        c = call->handle;
        c->begun = mono_now();
        c->timeout_ms = timeout_ms;
        c->next = p->running;
        p->running = c;
        nng_aio_set_msg(c->aio, msg);
        nng_aio_set_timeout(c->aio, (nng_duration)timeout_ms);
        nng_ctx_send(c->ctx, c->aio);
    }
    mutex_unlock(&p->connections.mutex);
    return rv;
}

/* The request is on its way: now for the answer. */
static int begin_receive(struct transport_peer *p, struct call *c)
{
    int64_t left = c->timeout_ms - mono_since_ms(c->begun);
    int rv = 0;

    nng_aio_set_msg(c->aio, NULL);
    nng_aio_set_timeout(c->aio, (nng_duration)(left > 1 ? left : 1));
    mutex_lock(&p->connections.mutex);
    if (p->closed)
        rv = -ERR_CLOSED;
    else
        nng_ctx_recv(c->ctx, c->aio);
    mutex_unlock(&p->connections.mutex);
    return rv;
}

int peer_finish(struct transport_call *call)
{
    struct call *c = call->handle;
    int rv;

    nng_aio_wait(c->aio);
    if ((rv = nng_aio_result(c->aio)) != 0) {
        nng_msg_free(nng_aio_get_msg(c->aio));
        nng_aio_set_msg(c->aio, NULL);
        /* A timeout here means that it was never sent. */
        return end_call(call->peer, c, rv == NNG_ETIMEDOUT ? -ERR_UNREACHABLE : from_nng(rv));
    }
    if ((rv = begin_receive(call->peer, c)) != 0)
        return end_call(call->peer, c, rv);
    nng_aio_wait(c->aio);
    if ((rv = nng_aio_result(c->aio)) != 0)
        return end_call(call->peer, c, from_nng(rv));
    c->reply = nng_aio_get_msg(c->aio);
    call->data = nng_msg_body(c->reply);
    call->len = nng_msg_len(c->reply);
    return end_call(call->peer, c, 0);
}

int peer_call(struct transport_peer *p, struct transport_call *call, const void *data, size_t len,
              int64_t timeout_ms)
{
    int rv = peer_begin(p, call, data, len, timeout_ms);

    return rv != 0 ? rv : peer_finish(call);
}

void peer_done(struct transport_call *call)
{
    struct call *c = call->handle;

    if (c == NULL)
        return;
    release_reply(call);
    close_context(call->peer, c->ctx);
    nng_aio_free(c->aio);
    free(c);
    call->handle = NULL;
    call->peer = NULL;
}

void transport_release_process(void)
{
    nng_fini();
}
