/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/fsship.h"

#include "ltx/base/assert.h"
#include "ltx/base/clock.h"

#define LIMIT_MS 20000

void fsship(struct fsnode *from, struct fsnode *to, const char *name)
{
    struct ledger *source = fsnode_ledger(from, name);
    if (!source)
        return;
    fsnode_ship(from, to, name);
    ASSERT(position_equal(ledger_last(source), ledger_last(fsnode_ledger(to, name))),
           "all of it is handed over");
}

void fsship_wait_applied(struct fsnode *n, const char *name)
{
    struct ledger *l = fsnode_ledger(n, name);
    struct feed *feed = &store_feeds(n->store)->applied;
    struct mono start = mono_now();
    for (;;) {
        uint64_t seen = feed_count(feed);
        struct ledger_info info;
        ledger_info(l, &info);
        ASSERT(!info.damaged, "the replica is well");
        if (position_equal(info.last, info.applied))
            return;
        ASSERT(mono_since_ms(start) < LIMIT_MS, "what was received is applied");
        feed_wait(feed, seen, 100);
    }
}
