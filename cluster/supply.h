/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLUSTER_SUPPLY_H
#define CLUSTER_SUPPLY_H

#include <stdint.h>

#include "cluster/inbox.h"
#include "cluster/member.h"
#include "cluster/self.h"
#include "cluster/session.h"
#include "ltx/base/thread.h"
#include "ltx/store.h"

/*
 * The primary's quick answers, on one thread, "supply": WHO, ANNOUNCE, HELLO, SUBSCRIBE, PULL, ACK.
 * It waits on the store's feed, which the inbox wakes too, so that from a record that became
 * durable to its bytes on the wire there is one thread to wake.
 *
 * A PULL that finds nothing new is parked until something comes or the heartbeat passes.
 */
struct supply {
    struct self *self;
    struct store *store;
    struct members *members;
    struct inbox inbox;
    struct sessions sessions;
    int64_t heartbeat_ms;
    struct thread thread;
    struct buf out;      /* the thread's, for answers */
    struct mono expired; /* when silent sessions were looked for */
    bool serving;        /* the thread's: whether it was primary at the last look */
    _Atomic bool quit;
};

void supply_init(struct supply *s, struct self *self, struct store *store, struct members *members,
                 int64_t heartbeat_ms);
int supply_start(struct supply *s);
void supply_quit(struct supply *s);
void supply_join(struct supply *s);
void supply_fini(struct supply *s);

/* Appends the URLs of the members that the cluster is known to have. */
void supply_put_members(struct supply *s, struct msg_writer *w);

#endif
