/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/clusternode.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/decode.h"
#include "ltx/txlog.h"
#include "tests/lib/dice.h"

#define MUST(cond)                                                                   \
    do {                                                                             \
        if (!(cond)) {                                                               \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #cond); \
            abort();                                                                 \
        }                                                                            \
    } while (0)

#define RANK_CLUSTERNODE 28 /* below store and ledger */

static uint8_t *page_at(struct clusterbase *b, uint32_t pgno)
{
    return b->pages + (size_t)(pgno - 1) * b->page_size;
}

/* With the mutex held. */
static struct clusterbase *find_base(struct clusternode *c, const char *name)
{
    for (uint32_t i = 0; i < c->base_count; i++)
        if (strcmp(c->bases[i].name, name) == 0)
            return &c->bases[i];
    return NULL;
}

static struct clusterbase *get_base(struct clusternode *c, const char *name)
{
    struct clusterbase *b = find_base(c, name);

    if (b != NULL)
        return b;
    MUST(c->base_count < CLUSTERNODE_BASES);
    b = &c->bases[c->base_count++];
    snprintf(b->name, sizeof b->name, "%s", name);
    return b;
}

static void resize(struct clusterbase *b, uint32_t page_size, uint32_t commit)
{
    size_t old = b->page_size == page_size ? (size_t)b->commit * page_size : 0;
    size_t new = (size_t)commit *page_size;

    b->pages = realloc(b->pages, new + 1);
    MUST(b->pages != NULL);
    if (new > old)
        memset(b->pages + old, 0, new - old);
    b->page_size = page_size;
    b->commit = commit;
}

static int read_page(void *ctx, struct ledger *l, uint32_t pgno, void *page, uint32_t *page_size)
{
    struct clusternode *c = ctx;
    struct clusterbase *b;
    int rv = -ERR_NOTFOUND;

    mutex_lock(&c->mutex);
    b = find_base(c, ledger_name(l));
    if (b != NULL && pgno == b->busy_pgno) {
        rv = -ERR_BUSY;
    } else if (b != NULL && pgno <= b->commit) {
        memcpy(page, page_at(b, pgno), b->page_size);
        *page_size = b->page_size;
        rv = 0;
    }
    mutex_unlock(&c->mutex);
    return rv;
}

/* The applier of a replica. */

static void apply_record(struct clusternode *c, struct clusterbase *b, struct txlog_entry *e)
{
    struct ltx_decoder d = {0};
    uint8_t *page = malloc(LTX_MAX_PAGE_SIZE);
    uint32_t pgno;
    int rv = ltx_decode_begin(&d, txlog_entry_source(e));

    MUST(rv == 0 && page != NULL);
    mutex_lock(&c->mutex);
    resize(b, d.header.page_size, d.header.commit);
    while ((rv = ltx_decode_page(&d, &pgno, page)) > 0)
        memcpy(page_at(b, pgno), page, b->page_size);
    MUST(rv == 0);
    b->applied = (struct position){e->max_txid, e->post_checksum};
    mutex_unlock(&c->mutex);
    ltx_decode_fini(&d);
    free(page);
}

static struct position applied(struct clusternode *c, const struct clusterbase *b)
{
    struct position p;

    mutex_lock(&c->mutex);
    p = b->applied;
    mutex_unlock(&c->mutex);
    return p;
}

static bool apply_some(struct clusternode *c, struct ledger *l)
{
    struct txlog_entry e;
    struct clusterbase *b;
    struct position p;
    bool moved = false;

    mutex_lock(&c->mutex);
    b = get_base(c, ledger_name(l));
    mutex_unlock(&c->mutex);
    for (p = applied(c, b); !position_equal(p, ledger_last(l)); p = applied(c, b)) {
        if (txlog_find_from(ledger_log(l), p, &e) != 0)
            break;
        apply_record(c, b, &e);
        txlog_entry_release(&e);
        ledger_set_applied(l, applied(c, b));
        moved = true;
    }
    if (moved && ledger_durable(l).txid == p.txid)
        ledger_checkpoint(l, p);
    return moved;
}

static void apply_all(struct clusternode *c)
{
    uint32_t count = store_count(c->store);

    for (uint32_t i = 0; i < count; i++)
        apply_some(c, store_at(c->store, i));
}

static void run_applier(void *arg)
{
    struct clusternode *c = arg;
    struct feed *feed = &store_feeds(c->store)->published;

    for (;;) {
        uint64_t seen = feed_count(feed);
        bool quit, hold;
        mutex_lock(&c->mutex);
        quit = c->quit;
        hold = c->hold_apply;
        mutex_unlock(&c->mutex);
        if (quit)
            return;
        if (!hold && role_get(&c->role) == ROLE_REPLICA)
            apply_all(c);
        feed_wait(feed, seen, 1000);
    }
}

/* Hooks. */

static int on_primary(void *ctx)
{
    struct clusternode *c = ctx;

    apply_all(c);
    mutex_lock(&c->mutex);
    c->became_primary++;
    mutex_unlock(&c->mutex);
    feed_wake(&c->events);
    return 0;
}

static int on_replica(void *ctx)
{
    struct clusternode *c = ctx;

    mutex_lock(&c->mutex);
    c->became_replica++;
    mutex_unlock(&c->mutex);
    feed_wake(&c->events);
    return 0;
}

static void on_fatal(void *ctx, const char *why)
{
    struct clusternode *c = ctx;

    mutex_lock(&c->mutex);
    snprintf(c->fatal, sizeof c->fatal, "%s", why);
    mutex_unlock(&c->mutex);
    feed_wake(&c->events);
}

/* Life. */

void clusternode_init(struct clusternode *c)
{
    memset(c, 0, sizeof *c);
    folder_make(&c->folder);
    mutex_init(&c->mutex, RANK_CLUSTERNODE);
    feed_init(&c->events);
    c->store_options.segment_bytes = 256 << 10;
    c->options.candidate = true;
    c->options.heartbeat_ms = 200;
}

void clusternode_peer(struct clusternode *c, const char *url)
{
    MUST(c->options.peer_count < 8);
    c->peers[c->options.peer_count++] = url;
}

void clusternode_start(struct clusternode *c, bool primary)
{
    struct node_status *status = malloc(sizeof *status);
    char why[512] = "";
    struct mono begun = mono_now();

    MUST(store_open(&c->store, c->folder.fd, &c->store_options) == 0);
    store_set_page_reader(c->store, (struct page_reader){.read = read_page, .ctx = c});
    role_init(&c->role, 0);
    c->quit = false;
    c->fatal[0] = '\0';
    for (uint32_t i = 0; i < store_count(c->store); i++) {
        struct ledger *l = store_at(c->store, i);
        ledger_set_applied(l, get_base(c, ledger_name(l))->applied);
    }
    MUST(store_start(c->store) == 0);
    c->options.store = c->store;
    c->options.role = &c->role;
    c->options.data_dirfd = c->folder.fd;
    c->options.listen = c->url[0] != '\0' ? c->url : "tcp://127.0.0.1:0";
    c->options.peers = c->peers;
    c->options.primary = primary;
    c->options.hooks = (struct node_hooks){
        .become_primary = on_primary, .become_replica = on_replica, .fatal = on_fatal, .ctx = c};
    if (node_open(&c->node, &c->options, why, sizeof why) != 0) {
        fprintf(stderr, "%s\n", why);
        abort();
    }
    MUST(thread_start(&c->applier, "applier", run_applier, c) == 0);
    MUST(node_start(c->node, why, sizeof why) == 0);
    node_status(c->node, status);
    snprintf(c->url, sizeof c->url, "%s", status->listen);
    free(status);
    c->running = true;
    while (node_wait_role(c->node, 50) != 0 && !clusternode_wait_fatal(c, 0))
        MUST(mono_since_ms(begun) < 10000);
}

void clusternode_stop(struct clusternode *c)
{
    if (!c->running)
        return;
    c->running = false;
    node_quit(c->node);
    node_join(c->node);
    node_close(c->node);
    mutex_lock(&c->mutex);
    c->quit = true;
    mutex_unlock(&c->mutex);
    feed_wake(&store_feeds(c->store)->published);
    thread_join(&c->applier);
    c->applier = (struct thread){0};
    store_quit(c->store);
    store_join(c->store);
    store_close(c->store);
    role_fini(&c->role);
}

void clusternode_fini(struct clusternode *c)
{
    clusternode_stop(c);
    for (uint32_t i = 0; i < c->base_count; i++)
        free(c->bases[i].pages);
    feed_fini(&c->events);
    mutex_fini(&c->mutex);
    folder_remove(&c->folder);
}

/* Writing. */

/* Which pages a transaction changes: all new ones, and some of the old. */
static uint8_t *choose_pages(const struct clusterbase *b, uint32_t old, uint32_t commit,
                             uint32_t changes)
{
    uint32_t lock = ltx_lock_pgno(b->page_size);
    uint8_t *chosen = calloc(commit + 1, 1);

    MUST(chosen != NULL);
    for (uint32_t pgno = old + 1; pgno <= commit; pgno++)
        chosen[pgno] = 1;
    for (uint32_t i = 0; i < changes && commit > 0; i++)
        chosen[1 + dice_below(commit)] = 1;
    if (lock <= commit)
        chosen[lock] = 0;
    return chosen;
}

static int put_pages(struct clusterbase *b, struct ledger_tx *tx, const uint8_t *chosen,
                     uint32_t commit)
{
    int rv = 0;

    for (uint32_t pgno = 1; rv == 0 && pgno <= commit; pgno++) {
        if (!chosen[pgno])
            continue;
        dice_page(page_at(b, pgno), b->page_size);
        rv = ledger_put_page(tx, pgno, page_at(b, pgno));
    }
    return rv;
}

int clusternode_write(struct clusternode *c, const char *name, uint32_t page_size, uint32_t commit,
                      uint32_t changes)
{
    const struct ledger_change change = {.page_size = page_size, .commit = commit};
    struct ledger_tx tx = {0};
    struct clusterbase *b;
    struct ledger *l;
    uint8_t *chosen;
    uint32_t old;
    int rv = role_enter(&c->role);

    if (rv != 0)
        return rv;
    rv = store_get(c->store, name, &l);
    MUST(rv == 0);
    mutex_lock(&c->mutex);
    b = get_base(c, name);
    old = b->page_size == page_size ? b->commit : 0;
    resize(b, page_size, commit);
    chosen = choose_pages(b, old, commit, changes);
    rv = ledger_begin(l, &tx, &change);
    if (rv == 0)
        rv = put_pages(b, &tx, chosen, commit);
    if (rv == 0)
        rv = ledger_publish(&tx, &b->applied);
    MUST(rv == 0 || rv == LEDGER_UNCHANGED);
    mutex_unlock(&c->mutex);
    ledger_tx_fini(&tx);
    free(chosen);
    role_leave(&c->role);
    return 0;
}

/* Looking. */

static bool same_base(struct clusternode *from, struct clusternode *to, struct ledger *l)
{
    const char *name = ledger_name(l);
    struct ledger *other = store_find(to->store, name);
    struct clusterbase *a, *b;
    bool same;

    if (other == NULL || !position_equal(ledger_last(l), ledger_last(other))) {
        fprintf(stderr, "%s: positions differ\n", name);
        return false;
    }
    mutex_lock(&from->mutex);
    a = get_base(from, name);
    mutex_unlock(&from->mutex);
    mutex_lock(&to->mutex);
    b = get_base(to, name);
    same = a->commit == b->commit &&
           (a->commit == 0 || (a->page_size == b->page_size &&
                               memcmp(a->pages, b->pages, (size_t)a->commit * a->page_size) == 0));
    mutex_unlock(&to->mutex);
    for (uint32_t pgno = 1; same && pgno <= a->commit; pgno++)
        same = ledger_page_sum(l, pgno) == ledger_page_sum(other, pgno);
    if (!same)
        fprintf(stderr, "%s: contents differ\n", name);
    return same;
}

static struct ledger *first_behind(struct clusternode *from, struct clusternode *to)
{
    for (uint32_t i = 0; i < store_count(from->store); i++) {
        struct ledger *l = store_at(from->store, i);
        struct ledger *other = store_find(to->store, ledger_name(l));
        struct position last = ledger_last(l);
        if (last.txid == 0)
            continue;
        if (other == NULL || !position_equal(ledger_applied(other), last) ||
            !position_equal(ledger_durable(other), last))
            return l;
    }
    return NULL;
}

bool clusternode_level(struct clusternode *from, struct clusternode *to, int64_t ms)
{
    struct feed *feed = &store_feeds(to->store)->durable;
    struct mono begun = mono_now();

    for (;;) {
        uint64_t seen = feed_count(feed);
        struct ledger *l = first_behind(from, to);
        if (l == NULL)
            break;
        if (mono_since_ms(begun) > ms) {
            struct position p = clusternode_position(to, ledger_name(l));
            fprintf(stderr,
                    "%s: still at %" PRIu64 "/%016" PRIx64 " instead of %" PRIu64 "/%016" PRIx64
                    " (durable there: %" PRIu64 ")\n",
                    ledger_name(l), p.txid, p.checksum, ledger_last(l).txid,
                    ledger_last(l).checksum, ledger_durable(l).txid);
            return false;
        }
        feed_wait(feed, seen, 100);
    }
    for (uint32_t i = 0; i < store_count(from->store); i++)
        if (!same_base(from, to, store_at(from->store, i)))
            return false;
    return true;
}

bool clusternode_wait_role(struct clusternode *c, enum role role, int64_t ms)
{
    struct mono begun = mono_now();

    for (;;) {
        uint64_t seen = feed_count(&c->role.changed);
        if (role_get(&c->role) == role)
            return true;
        if (mono_since_ms(begun) >= ms)
            return false;
        feed_wait(&c->role.changed, seen, ms);
    }
}

bool clusternode_wait_fatal(struct clusternode *c, int64_t ms)
{
    struct mono begun = mono_now();

    for (;;) {
        uint64_t seen = feed_count(&c->events);
        bool fatal;
        mutex_lock(&c->mutex);
        fatal = c->fatal[0] != '\0';
        mutex_unlock(&c->mutex);
        if (fatal || mono_since_ms(begun) >= ms)
            return fatal;
        feed_wait(&c->events, seen, ms);
    }
}

void clusternode_trim(struct clusternode *c, const char *name)
{
    const struct txlog_retention r = {.size_bytes = 1};
    struct ledger *l = store_find(c->store, name);
    struct position last = ledger_last(l);

    MUST(ledger_sync(l, last.txid) == 0);
    MUST(ledger_checkpoint(l, last) == 0);
    MUST(txlog_maintain(ledger_log(l), &r, last.txid) == 0);
    MUST(txlog_maintain(ledger_log(l), &r, last.txid) == 0);
}

struct position clusternode_position(struct clusternode *c, const char *name)
{
    struct ledger *l = store_find(c->store, name);

    struct position none = {0};

    return l == NULL ? none : ledger_last(l);
}
