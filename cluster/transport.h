/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLUSTER_TRANSPORT_H
#define CLUSTER_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Requests and replies between nodes, over nng's REQ and REP with contexts. transport_nng.c is the
 * only file of this folder that includes nng; nothing of nng shows here.
 *
 * A request has one reply. What is sent once is never sent again by itself: a connection that
 * breaks ends the call with -ERR_UNREACHABLE, and the caller knows what may be repeated.
 */

/* No request and no answer is longer than this, bytes; a connection that brings a longer one is
 * dropped. */
#define TRANSPORT_REQUEST_MAX (1u << 20)
#define TRANSPORT_ANSWER_MAX (4u << 20)
/* A listener has so many connections at a time, three for each of the most members and some to spare;
 * each may hold one request. More are closed as they begin. */
#define TRANSPORT_CONNECTIONS_MAX 256

/*
 * The listening side.
 *
 * transport_listen (the port is taken, nothing is answered yet), transport_start, ...,
 * transport_quit (no request comes any more, replies go nowhere), then join whoever holds requests,
 * transport_close.
 */
struct transport;

/* One request that has come in. Its holder answers or drops it, exactly once. */
struct transport_request {
    const uint8_t *data;            /* valid until it is answered or dropped */
    size_t len;                     /* bytes */
    struct transport_request *next; /* free for the holder's queue */
};

/*
 * Called for each request on one of nng's threads: does not block, and takes `r`. May answer at
 * once.
 */
typedef void transport_handler(void *ctx, struct transport_request *r);

/*
 * Takes the address `url` ("tcp://HOST:PORT"; port 0 takes a free one). `why` receives a sentence
 * for people on failure: -ERR_INVALID for an address that is none, -ERR_BUSY for one that is taken,
 * -ERR_ACCESS, -ERR_IO.
 */
int transport_listen(struct transport **out, const char *url, transport_handler *handler, void *ctx,
                     char *why, size_t why_size);
const char *transport_url(const struct transport *t); /* with the real port */
int transport_start(struct transport *t);

/* Answers `r` with a copy of the bytes and gives it up. Never blocks; a peer that is gone is no
 * error. Any thread. */
void transport_reply(struct transport_request *r, const void *data, size_t len);
/* Gives `r` up without an answer. `bad`: its bytes were not ours, so its connection is closed. */
void transport_drop(struct transport_request *r, bool bad);
/* Where the request came from, "127.0.0.1:4711", for log lines. */
void transport_request_peer(const struct transport_request *r, char *out, size_t size);

/*
 * Connections that ended since the last call because they did not begin as those of a peer do. nng
 * drops them before anything is seen here. Takes a moment: not for a hot path.
 */
uint64_t transport_refused(struct transport *t);

uint64_t transport_bytes_sent(const struct transport *t);

void transport_quit(struct transport *t);
void transport_close(struct transport *t); /* NULL is fine */

/*
 * The asking side: one peer, connected to in the background and again after each break.
 *
 * peer_open, peer_call from any number of threads, peer_quit (every call, running or new, ends with
 * -ERR_CLOSED), join the callers, peer_close.
 */
struct transport_peer;

/* Never waits for the network. -ERR_INVALID if `url` is no address. */
int peer_open(struct transport_peer **out, const char *url);
const char *peer_url(const struct transport_peer *p);
bool peer_connected(struct transport_peer *p);
void peer_quit(struct transport_peer *p);
void peer_close(struct transport_peer *p); /* NULL is fine */

/* A call in progress and, after peer_call or peer_finish, its answer. Zeroed before first use. */
struct transport_call {
    struct transport_peer *peer;
    void *handle;        /* nng's side of it */
    const uint8_t *data; /* the answer, until peer_done or the next call */
    size_t len;
};

/*
 * Sends and waits for the answer, at most `timeout_ms` in all. -ERR_TIMEOUT; -ERR_UNREACHABLE when
 * there is no connection within that time or when it broke; -ERR_CLOSED after peer_quit. A call may
 * be used again for the same peer without peer_done.
 */
int peer_call(struct transport_peer *p, struct transport_call *call, const void *data, size_t len,
              int64_t timeout_ms);
/* The same in two steps, for asking several peers at once. peer_begin does not block. */
int peer_begin(struct transport_peer *p, struct transport_call *call, const void *data, size_t len,
               int64_t timeout_ms);
int peer_finish(struct transport_call *call);
/* Releases the answer and the call. A zeroed call is fine. Before peer_close; meanwhile it may quit. */
void peer_done(struct transport_call *call);

/*
 * Releases what nng holds for the whole process, once everything is closed; nothing of it may be
 * used after. For programs that are watched for leaks; others just end.
 */
void transport_release_process(void);

/* Whether `url` is an address a peer can have; `why` receives a clause otherwise. */
bool transport_url_valid(const char *url, char *why, size_t why_size);
/* Why `url` cannot be listened on, as a sentence, from the code. */
void transport_explain(const char *url, int code, char *why, size_t why_size);

#endif
