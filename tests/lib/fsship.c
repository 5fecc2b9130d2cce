/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/fsship.h"

#include <limits.h>

#include "ltx/base/assert.h"
#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "tests/lib/tapvfs.h"

#define LIMIT_MS 20000

void fsship_pair_begin(struct fsnode *primary, char root[SCRATCH_PATH_MAX], struct fsnode *replica,
                       char replica_root[SCRATCH_PATH_MAX])
{
    scratch_make(root);
    scratch_make(replica_root);
    fsnode_open(primary, root, false);
    fsnode_lead(primary);
    tapvfs_register(fsnode_listen, primary);
    fsnode_open(replica, replica_root, true);
    fsnode_follow(replica);
}

void fsship_pair_end(struct fsnode *primary, const char *root, struct fsnode *replica,
                     const char *replica_root)
{
    fsnode_close(replica);
    fsnode_close(primary);
    scratch_remove(root);
    scratch_remove(replica_root);
}

static int hand_over(struct txlog_entry *e, struct ledger *to)
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
    return err ? err : ledger_receive_finish(&r, NULL);
}

void fsship_some(struct fsnode *from, struct fsnode *to, const char *name, unsigned n)
{
    struct txlog_entry e = {0};
    struct ledger *source = fsnode_ledger(from, name), *l;
    if (!source)
        return;
    ASSERT(store_get(to->store, name, &l) == 0, "the other node has a ledger of it");
    int err = txlog_find_from(ledger_log(source), ledger_last(l), &e);
    while (!err && n-- > 0) {
        ASSERT(hand_over(&e, l) == 0, "a record of one node is taken by the other");
        err = txlog_next(ledger_log(source), &e);
    }
    ASSERT(!err || err == -ERR_NOTFOUND, "the log can be read");
    txlog_entry_release(&e);
}

void fsship(struct fsnode *from, struct fsnode *to, const char *name)
{
    struct ledger *source = fsnode_ledger(from, name);
    if (!source)
        return;
    fsship_some(from, to, name, UINT_MAX);
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
