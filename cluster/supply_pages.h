/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLUSTER_SUPPLY_PAGES_H
#define CLUSTER_SUPPLY_PAGES_H

#include <stdint.h>

#include "cluster/inbox.h"
#include "cluster/self.h"
#include "ltx/base/clock.h"
#include "ltx/base/thread.h"
#include "ltx/store.h"

/*
 * The primary's slower answers, on a thread of their own, "pages", so that they delay no record:
 * COMPARE, BEGIN, BLOCKS, WANT, FETCH, END, COMMON. Each answer is bounded by MSG_BATCH.
 *
 * A bring-up keeps nothing here but a pin on the log from where it began; one that is silent for
 * longer than BRINGING_SILENT_MS loses it.
 */
#define BRINGINGS_MAX 64
#define BRINGING_SILENT_MS 60000

struct bringing {
    struct ledger *ledger; /* NULL: free */
    uint64_t node_id;
    struct txlog_pin pin;
    struct mono used;
};

struct supply_pages {
    struct self *self;
    struct store *store;
    struct inbox inbox;
    struct feed wake;
    struct thread thread;
    struct bringing bringings[BRINGINGS_MAX];
    struct buf out;
    uint8_t *page; /* LTX_MAX_PAGE_SIZE bytes */
    _Atomic bool quit;
};

void supply_pages_init(struct supply_pages *s, struct self *self, struct store *store);
int supply_pages_start(struct supply_pages *s);
void supply_pages_quit(struct supply_pages *s);
void supply_pages_join(struct supply_pages *s);
void supply_pages_fini(struct supply_pages *s);

#endif
