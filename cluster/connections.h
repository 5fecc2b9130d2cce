/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLUSTER_CONNECTIONS_H
#define CLUSTER_CONNECTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "ltx/base/mutex.h"

/*
 * The TCP connections that a library holds for one socket of its own, by its ids, and a way to end
 * them from below: the kernel's socket is shut down, so that the library sees the connection end as
 * if the other side had ended it.
 *
 * nng 1.5 may wait for ever for a pipe that is closed in the moment in which bytes arrive on it: the
 * part of a message that has come is handed to a receive that was stopped meanwhile, and nobody
 * completes it. A pipe whose connection has ended closes by the way of its own errors, which has no
 * such moment.
 */
struct connection {
    uint32_t id;
    struct sockaddr_storage local, remote;
};

struct connections {
    struct mutex mutex; /* RANK_LEAF; guards everything */
    struct cond cond;   /* whenever something changes */
    struct connection *list;
    unsigned count, cap;
    unsigned most; /* so many at a time; 0: no limit. Set before the first */
    bool closing;  /* no new ones are wanted */
};

void connections_init(struct connections *c);
void connections_fini(struct connections *c);

/* The library's events. */
void connections_add(struct connections *c, const struct connection *x);
void connections_remove(struct connections *c, uint32_t id);
bool connections_may_begin(struct connections *c); /* another one is wanted */
bool connections_any(struct connections *c);

/* Ends one; false if it is not there, or its socket was not found. */
bool connections_end(struct connections *c, uint32_t id);
/* Ends all, refuses new ones, and waits at most `ms` for the library to have removed them. */
void connections_end_all(struct connections *c, int64_t ms);

/* "127.0.0.1:4600" */
void address_print(const struct sockaddr *a, char *out, size_t size);

#endif
