/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/fsship.h"

#include "ltx/base/assert.h"
#include "ltx/base/clock.h"
#include "ltx/base/err.h"

#define LIMIT_MS 20000

static void hand_over(struct txlog_entry *e, struct ledger *to)
{
    static uint8_t bytes[60000];
    struct ledger_receive r = {0};
    int err = ledger_receive_begin(to, &r, e->size, 0);
    for (uint64_t off = 0; !err && off < e->size; off += sizeof bytes) {
        size_t n = e->size - off < sizeof bytes ? (size_t)(e->size - off) : sizeof bytes;
        err = txlog_entry_read(e, off, bytes, n);
        if (!err)
            err = ledger_receive_write(&r, bytes, n);
    }
    if (!err)
        err = ledger_receive_finish(&r, NULL);
    ASSERT(!err, "the record is received");
}

void fsship(struct fsnode *from, struct fsnode *to, const char *name)
{
    struct txlog_entry e = {0};
    struct ledger *source = fsnode_ledger(from, name), *l;
    if (!source)
        return;
    int err = store_get(to->store, name, &l);
    ASSERT(!err, "the replica has the database");
    err = txlog_find_from(ledger_log(source), ledger_last(l), &e);
    while (!err) {
        hand_over(&e, l);
        err = txlog_next(ledger_log(source), &e);
    }
    ASSERT(err == -ERR_NOTFOUND && position_equal(ledger_last(source), ledger_last(l)),
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
