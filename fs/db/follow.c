/* SPDX-License-Identifier: Apache-2.0 */
#include <stdatomic.h>
#include <stdlib.h>

#include "fs/db/catalog_impl.h"
#include "fs/db/database_impl.h"
#include "fs/db/mend.h"
#include "fs/db/replica.h"
#include "fs/db/unmap.h"
#include "ltx/base/err.h"
#include "ltx/base/logger.h"

/*
 * A replica's appliers: one thread for each database that has something to apply, and one that
 * looks for such databases. An applier that has had nothing to do for a while ends, and closes its
 * handles if the database file has everything; no client can remove -wal and -shm.
 */

#define IDLE_MS 10000 /* an applier ends after so long without work */
#define ROUND_MS 1000
#define RETRY_MS 10     /* readers are in the way */
#define TROUBLE_MS 1000 /* the disk is full or failing */

struct applier {
    struct follow *follow;
    struct ledger *ledger;
    struct replica replica;
    struct thread thread;
    bool running; /* follow's mutex */
};

struct follow {
    struct catalog *catalog;
    struct store *store;
    atomic_bool quit;
    struct thread finder;
    struct mutex mutex; /* RANK_LEAF; guards `running` of each applier */
    struct applier *
        *applier; /* by the ledger's number in the store; the finder's, then follow_stop's */
    uint32_t count;
};

static bool has_work(struct ledger *l)
{
    struct ledger_info info;
    ledger_info(l, &info);
    return !info.damaged && !position_equal(info.last, info.applied);
}

/* For this applier: something to apply, or a page to put right. */
static bool is_needed(struct applier *a)
{
    return has_work(a->ledger) || mend_is_ordered(a->replica.db);
}

/* It could not rest when it ended, and perhaps can now. It is not running. */
static bool may_rest(struct applier *a)
{
    return a->replica.conn && a->replica.state == REPLICA_WAL && !a->replica.hold &&
           !unmap_is_in_use(a->replica.db);
}

static int64_t pause_after(int err)
{
    return err == -ERR_BUSY ? RETRY_MS : TROUBLE_MS;
}

static void applier_run(void *arg)
{
    struct applier *a = arg;
    struct follow *f = a->follow;
    struct feed *feed = &store_feeds(f->store)->published;
    struct mono idle_since = mono_now();
    int told = 0;

    while (!f->quit) {
        uint64_t seen = feed_count(feed);
        int err = has_work(a->ledger) ? replica_apply(&a->replica) : 0;
        if (err == -ERR_CLOSED)
            break;
        if (err && err != -ERR_BUSY && err != told)
            log_warn("follow", "%s: applying pauses: %s", ledger_name(a->ledger), err_text(err));
        if (told && !err)
            log_info("follow", "%s: applying goes on", ledger_name(a->ledger));
        if (err != -ERR_BUSY)
            told = err;
        if (err) {
            feed_wait(feed, feed_count(feed), pause_after(err));
            continue;
        }
        mend_serve(&a->replica);
        if (has_work(a->ledger)) {
            idle_since = mono_now();
            continue;
        }
        if (feed_wait(feed, seen, ROUND_MS)) {
            if (has_work(a->ledger))
                idle_since = mono_now();
        } else {
            replica_idle(&a->replica);
        }
        if (mono_since_ms(idle_since) > IDLE_MS && a->replica.state != REPLICA_LEAVING)
            break;
    }
    if (!f->quit)
        replica_rest(&a->replica);
    mutex_lock(&f->mutex);
    a->running = false;
    mutex_unlock(&f->mutex);
}

static struct applier *applier_of(struct follow *f, uint32_t i)
{
    if (i >= f->count) {
        uint32_t count = store_count(f->store);
        struct applier **applier = realloc(f->applier, count * sizeof(struct applier *));
        if (!applier)
            return NULL;
        for (uint32_t k = f->count; k < count; k++)
            applier[k] = NULL;
        f->applier = applier;
        f->count = count;
    }
    if (f->applier[i])
        return f->applier[i];
    struct ledger *l = store_at(f->store, i);
    struct database *db = catalog_get(f->catalog, ledger_name(l));
    struct applier *a = calloc(1, sizeof *a);
    if (!a || !db) {
        free(a);
        if (db)
            catalog_put(db);
        return NULL;
    }
    mutex_lock(&db->mutex);
    if (!db->ledger)
        db->ledger = l;
    mutex_unlock(&db->mutex);
    a->follow = f;
    a->ledger = l;
    replica_init(&a->replica, db, l, &f->quit, catalog_writes_wait(f->catalog));
    return f->applier[i] = a;
}

static void start_if_busy(struct follow *f, uint32_t i)
{
    struct applier *a = applier_of(f, i);
    if (!a)
        return;
    mutex_lock(&f->mutex);
    bool running = a->running;
    mutex_unlock(&f->mutex);
    if (running || (!is_needed(a) && !may_rest(a)))
        return;
    thread_join(&a->thread); /* one that has ended; does nothing the first time */
    a->thread = (struct thread){0};
    a->running = true;
    if (thread_start(&a->thread, "applier", applier_run, a) != 0)
        a->running = false;
}

static void finder_run(void *arg)
{
    struct follow *f = arg;
    struct feed *feed = &store_feeds(f->store)->published;
    while (!f->quit) {
        uint64_t seen = feed_count(feed);
        for (uint32_t i = 0; i < store_count(f->store) && !f->quit; i++)
            start_if_busy(f, i);
        feed_wait(feed, seen, ROUND_MS);
    }
}

int follow_start(struct catalog *c, struct follow **out)
{
    struct follow *f = calloc(1, sizeof *f);
    if (!f)
        return -ERR_NOMEM;
    f->catalog = c;
    f->store = c->store;
    mutex_init(&f->mutex, RANK_LEAF);
    for (uint32_t i = 0; i < store_count(f->store); i++) {
        struct applier *a = applier_of(f, i);
        int err = a ? replica_prepare(&a->replica) : -ERR_NOMEM;
        if (err)
            log_warn("follow", "%s: readers may have to wait for its first record: %s",
                     ledger_name(store_at(f->store, i)), err_text(err));
    }
    int err = thread_start(&f->finder, "follow", finder_run, f);
    if (err) {
        follow_stop(f);
        return err;
    }
    *out = f;
    return 0;
}

static bool all_level(struct follow *f)
{
    for (uint32_t i = 0; i < store_count(f->store); i++)
        if (has_work(store_at(f->store, i)))
            return false;
    return true;
}

int follow_drain(struct follow *f, int64_t limit_ms)
{
    struct feed *feed = &store_feeds(f->store)->applied;
    struct mono start = mono_now();
    for (;;) {
        uint64_t seen = feed_count(feed);
        if (all_level(f))
            return 0;
        if (mono_since_ms(start) >= limit_ms)
            return -ERR_TIMEOUT;
        feed_wait(feed, seen, 100);
    }
}

void follow_halt(struct follow *f)
{
    f->quit = true;
    feed_wake(&store_feeds(f->store)->published);
    thread_join(&f->finder);
    for (uint32_t i = 0; i < f->count; i++)
        if (f->applier[i])
            thread_join(&f->applier[i]->thread);
}

void follow_stop(struct follow *f)
{
    if (!f)
        return;
    follow_halt(f);
    for (uint32_t i = 0; i < f->count; i++) {
        struct applier *a = f->applier[i];
        if (!a)
            continue;
        replica_close(&a->replica);
        catalog_put(a->replica.db);
        free(a);
    }
    free(f->applier);
    mutex_fini(&f->mutex);
    free(f);
}
