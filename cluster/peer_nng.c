/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The asking side of the transport over nng 1.5: one REQ socket for each peer, one of its contexts for each
 * call. REQ resends by itself unless its resend time is infinite; then a broken connection ends the call.
 */
#include "cluster/nng_common.h"
#include "cluster/transport.h"

#include <nng/protocol/reqrep0/req.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/mutex.h"

#define RECONNECT_MIN_MS 50
#define RECONNECT_MAX_MS 1000
#define URL_SIZE 256
#define END_MS 1000
#define NEVER_MS 86400000

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
