/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clusters of two and three nodes in one process, over real connections on the loopback interface,
 * with stores in temporary folders and pages in memory instead of database files.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cluster/parts.h"
#include "cluster/transport.h"
#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/logger.h"
#include "tests/lib/clusternode.h"
#include "tests/lib/dice.h"
#include "tests/lib/nngleaks.h"

#define LONG_MS 30000

static struct clusternode *make_node(void)
{
    struct clusternode *c = malloc(sizeof *c);

    assert_non_null(c);
    clusternode_init(c);
    return c;
}

static void drop_node(struct clusternode *c)
{
    clusternode_fini(c);
    free(c);
}

/* A primary and a replica that follows it. */
static void make_pair(struct clusternode **p, struct clusternode **r)
{
    *p = make_node();
    *r = make_node();
    clusternode_start(*p, true);
    assert_int_equal(role_get(&(*p)->role), ROLE_PRIMARY);
    clusternode_peer(*r, (*p)->url);
    clusternode_start(*r, false);
    assert_int_equal(role_get(&(*r)->role), ROLE_REPLICA);
}

static const struct {
    const char *name;
    uint32_t page_size;
} bases[] = {{"small.db", 512}, {"dir/middle.db", 4096}, {"with space", 65536}};

static uint32_t size_of(struct clusternode *c, const char *name)
{
    struct ledger *l = store_find(c->store, name);
    struct ledger_info info = {0};

    if (l != NULL)
        ledger_info(l, &info);
    return info.commit;
}

static void write_random(struct clusternode *p)
{
    uint32_t i = dice_below(3), size = size_of(p, bases[i].name), page_size = bases[i].page_size;
    uint32_t dice = dice_below(100);

    if (dice < 2)
        size = 0; /* deleted */
    else if (dice < 10)
        size = 1 + dice_below(size + 1); /* shrinks */
    else if (dice < 40 || size == 0)
        size += 1 + dice_below(8);
    if (dice >= 95)
        page_size = page_size == 512 ? 1024 : 512; /* VACUUM with another page size */
    assert_int_equal(clusternode_write(p, bases[i].name, page_size, size, dice_below(5)), 0);
}

static void random_transactions_reach_a_replica(void **state)
{
    struct clusternode *p, *r;

    (void)state;
    make_pair(&p, &r);
    for (int i = 0; i < 500; i++)
        write_random(p);
    assert_true(clusternode_level(p, r, LONG_MS));
    for (int i = 0; i < 100; i++)
        write_random(p);
    assert_true(clusternode_level(p, r, LONG_MS));
    drop_node(r);
    drop_node(p);
}

static void a_replica_goes_on_after_a_restart_of_either(void **state)
{
    struct clusternode *p, *r;

    (void)state;
    make_pair(&p, &r);
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 30; i++)
            write_random(p);
        assert_true(clusternode_level(p, r, LONG_MS));
        if (round % 2 == 0) {
            clusternode_stop(r);
            for (int i = 0; i < 30; i++)
                write_random(p);
            clusternode_start(r, false);
        } else {
            clusternode_stop(p);
            clusternode_start(p, true);
            assert_int_equal(role_get(&p->role), ROLE_PRIMARY);
        }
    }
    write_random(p);
    assert_true(clusternode_level(p, r, LONG_MS));
    drop_node(r);
    drop_node(p);
}

static void a_late_replica_is_brought_up_by_pages(void **state)
{
    struct clusternode *p = make_node(), *r = make_node();
    uint64_t received;
    struct node_status *s = malloc(sizeof *s);

    (void)state;
    clusternode_start(p, true);
    for (int i = 0; i < 60; i++)
        assert_int_equal(clusternode_write(p, "a", 4096, 1000, 100), 0);
    clusternode_trim(p, "a");
    assert_true(txlog_first(ledger_log(store_find(p->store, "a"))).txid > 0);
    assert_int_equal(clusternode_write(p, "b", 512, 3, 0), 0);
    clusternode_peer(r, p->url);
    clusternode_start(r, false);
    for (int i = 0; i < 20; i++)
        assert_int_equal(clusternode_write(p, "a", 4096, 1000 + (uint32_t)i, 10), 0);
    assert_true(clusternode_level(p, r, LONG_MS));

    /* Away while the log is trimmed: the pages that differ come, not all of them. The primary keeps
     * its log for a replica that was there a moment ago, so it restarts first. */
    clusternode_stop(r);
    clusternode_stop(p);
    clusternode_start(p, true);
    for (int i = 0; i < 30; i++)
        assert_int_equal(clusternode_write(p, "a", 4096, 1019, 5), 0);
    for (int i = 0; i < 20; i++)
        assert_int_equal(clusternode_write(p, "b", 512, 2000, 2000), 0);
    clusternode_trim(p, "a");
    clusternode_trim(p, "b");
    clusternode_start(r, false);
    assert_true(clusternode_level(p, r, LONG_MS));
    node_status(r->node, s);
    received = s->bytes_received;
    assert_true(received > 0 && received < 3u << 20);
    free(s);
    drop_node(r);
    drop_node(p);
}

static void a_page_that_is_being_changed_is_asked_for_again(void **state)
{
    struct clusternode *p = make_node(), *r = make_node();
    struct mono begun = mono_now();

    (void)state;
    clusternode_start(p, true);
    for (int i = 0; i < 40; i++)
        assert_int_equal(clusternode_write(p, "a", 4096, 100, 100), 0);
    clusternode_trim(p, "a");
    mutex_lock(&p->mutex);
    p->bases[0].busy_pgno = 7;
    mutex_unlock(&p->mutex);
    clusternode_peer(r, p->url);
    clusternode_start(r, false);
    while (store_find(r->store, "a") == NULL && mono_since_ms(begun) < LONG_MS)
        feed_wait(&store_feeds(r->store)->published, feed_count(&store_feeds(r->store)->published),
                  100);
    assert_false(clusternode_level(p, r, 300));
    mutex_lock(&p->mutex);
    p->bases[0].busy_pgno = 0;
    mutex_unlock(&p->mutex);
    assert_true(clusternode_level(p, r, LONG_MS));
    drop_node(r);
    drop_node(p);
}

static void a_long_record_is_fetched_in_pieces_and_holds_up_nobody(void **state)
{
    struct clusternode *p, *r;

    (void)state;
    make_pair(&p, &r);
    assert_int_equal(clusternode_write(p, "long", 65536, 2, 0), 0);
    assert_int_equal(clusternode_write(p, "short", 512, 2, 0), 0);
    assert_true(clusternode_level(p, r, LONG_MS));
    assert_int_equal(clusternode_write(p, "long", 65536, 300, 300), 0);
    for (int i = 0; i < 50; i++)
        assert_int_equal(clusternode_write(p, "short", 512, 2, 1), 0);
    assert_int_equal(clusternode_write(p, "long", 65536, 200, 200), 0);
    assert_int_equal(clusternode_write(p, "long", 65536, 200, 1), 0);
    assert_true(clusternode_level(p, r, LONG_MS));
    assert_int_equal(clusternode_write(p, "long", 65536, 200, 2), 0);
    assert_true(clusternode_level(p, r, LONG_MS));
    drop_node(r);
    drop_node(p);
}

static void promote(struct clusternode *c, bool force)
{
    char why[512] = "";
    int rv = node_promote(c->node, force, 15000, why, sizeof why);

    if (rv != 0)
        fail_msg("promotion: %s", why);
    assert_int_equal(role_get(&c->role), ROLE_PRIMARY);
    assert_int_equal(role_enter(&c->role), 0);
    role_leave(&c->role);
}

/* Writes on whichever node lets it, and counts what was acknowledged. */
struct writer {
    struct clusternode *nodes[2];
    struct thread thread;
    _Atomic bool quit;
    _Atomic uint64_t acknowledged;
};

static void run_writer(void *arg)
{
    struct writer *w = arg;

    for (unsigned i = 0; !w->quit; i++) {
        struct clusternode *c = w->nodes[i % 2];
        if (clusternode_write(c, "w", 1024, 4, 2) == 0) {
            w->acknowledged++;
            i--; /* it goes on where it works */
        } else {
            feed_wait(&c->role.changed, feed_count(&c->role.changed), 1);
        }
    }
}

static void promotion_back_and_forth_loses_nothing(void **state)
{
    struct clusternode *n[2];
    struct writer w = {0};
    struct mono begun = mono_now();

    (void)state;
    make_pair(&n[0], &n[1]);
    w.nodes[0] = n[0];
    w.nodes[1] = n[1];
    assert_int_equal(thread_start(&w.thread, "writer", run_writer, &w), 0);
    for (int i = 0; i < 20; i++) {
        uint64_t before = w.acknowledged;
        while (w.acknowledged < before + 20 && mono_since_ms(begun) < 60000)
            feed_wait(&store_feeds(n[0]->store)->published,
                      feed_count(&store_feeds(n[0]->store)->published), 20);
        assert_true(w.acknowledged >= before + 20);
        promote(n[(i + 1) % 2], false);
        assert_true(clusternode_wait_role(n[i % 2], ROLE_REPLICA, LONG_MS));
    }
    w.quit = true;
    thread_join(&w.thread);
    assert_true(clusternode_level(n[0], n[1], LONG_MS));
    assert_true(clusternode_position(n[0], "w").txid == w.acknowledged);
    assert_int_equal(folder_count(&n[0]->folder, "diverged", ".ltx", NULL), 0);
    assert_int_equal(folder_count(&n[1]->folder, "diverged", ".ltx", NULL), 0);
    assert_true(role_epoch(&n[0]->role) == 21);
    assert_int_equal(n[0]->became_primary + n[1]->became_primary, 21);
    drop_node(n[0]);
    drop_node(n[1]);
}

/* The old primary's answer and its announcement both say so. */
static void who_leads_already_does_not_begin_again(void **state)
{
    struct clusternode *p, *r;

    (void)state;
    make_pair(&p, &r);
    promote(r, false);
    int before = r->became_primary;
    assert_int_equal(node_lead(r->node, role_epoch(&r->role)), 0);
    assert_int_equal(node_lead(r->node, role_epoch(&r->role) - 1), -ERR_FENCED);
    assert_int_equal(r->became_primary, before);
    assert_int_equal(role_get(&r->role), ROLE_PRIMARY);
    drop_node(p);
    drop_node(r);
}

static void a_replica_of_a_dead_primary_is_promoted_only_by_force(void **state)
{
    struct clusternode *p, *r;
    char why[512] = "";

    (void)state;
    make_pair(&p, &r);
    for (int i = 0; i < 20; i++)
        write_random(p);
    assert_true(clusternode_level(p, r, LONG_MS));
    clusternode_stop(p);
    assert_int_equal(node_promote(r->node, false, 3000, why, sizeof why), -ERR_UNREACHABLE);
    assert_non_null(strstr(why, "--force"));
    assert_int_equal(role_get(&r->role), ROLE_REPLICA);
    promote(r, true);
    for (int i = 0; i < 20; i++)
        write_random(r);
    /* It comes back, configured as primary as ever, and has nothing of its own. */
    clusternode_peer(p, r->url);
    clusternode_start(p, true);
    assert_int_equal(role_get(&p->role), ROLE_REPLICA);
    assert_true(clusternode_level(r, p, LONG_MS));
    assert_int_equal(folder_count(&p->folder, "diverged", ".ltx", NULL), 0);
    drop_node(r);
    drop_node(p);
}

static int diverged_files(struct clusternode *c, const char *name)
{
    char escaped[256], path[300];

    store_escape(name, escaped);
    snprintf(path, sizeof path, "diverged/%s", escaped);
    return folder_count(&c->folder, path, ".ltx", NULL);
}

static void wait_deleted(struct clusternode *c, const char *name)
{
    struct feed *feed = &store_feeds(c->store)->published;
    struct mono begun = mono_now();

    for (;;) {
        uint64_t seen = feed_count(feed);
        if (size_of(c, name) == 0)
            return;
        assert_true(mono_since_ms(begun) < LONG_MS);
        feed_wait(feed, seen, 1000);
    }
}

static void what_an_old_primary_alone_has_is_kept(void **state)
{
    struct clusternode *p, *r;

    (void)state;
    make_pair(&p, &r);
    assert_int_equal(clusternode_write(p, "a", 4096, 20, 0), 0);
    for (int i = 0; i < 10; i++)
        assert_int_equal(clusternode_write(p, "a", 4096, 20, 3), 0);
    assert_true(clusternode_level(p, r, LONG_MS));
    clusternode_stop(r);
    for (int i = 0; i < 5; i++)
        assert_int_equal(clusternode_write(p, "a", 4096, 20 + (uint32_t)i, 3), 0);
    assert_int_equal(clusternode_write(p, "alone", 512, 2, 0), 0);
    clusternode_stop(p);

    clusternode_start(r, false);
    promote(r, true);
    for (int i = 0; i < 2; i++)
        assert_int_equal(clusternode_write(r, "a", 4096, 21, 2), 0);
    clusternode_start(p, true); /* nobody told it: it does not know the new one's address */
    assert_true(clusternode_wait_role(p, ROLE_REPLICA, LONG_MS));
    assert_true(clusternode_level(r, p, LONG_MS));
    assert_int_equal(diverged_files(p, "a"), 5);
    wait_deleted(p, "alone");
    assert_int_equal(diverged_files(p, "alone"), 1);
    for (int i = 0; i < 20; i++)
        assert_int_equal(clusternode_write(r, "a", 4096, 21, 2), 0);
    assert_int_equal(clusternode_write(r, "alone", 1024, 3, 0), 0);
    assert_true(clusternode_level(r, p, LONG_MS));
    assert_int_equal(diverged_files(p, "a"), 5);
    assert_int_equal(diverged_files(p, "alone"), 1);
    drop_node(r);
    drop_node(p);
}

static void a_third_node_follows_the_new_primary(void **state)
{
    struct clusternode *a, *b, *c = make_node();

    (void)state;
    make_pair(&a, &b);
    clusternode_peer(c, a->url);
    clusternode_start(c, false);
    for (int i = 0; i < 20; i++)
        write_random(a);
    assert_true(clusternode_level(a, b, LONG_MS));
    assert_true(clusternode_level(a, c, LONG_MS));
    promote(b, false);
    for (int i = 0; i < 20; i++)
        write_random(b);
    assert_true(clusternode_level(b, a, LONG_MS));
    assert_true(clusternode_level(b, c, LONG_MS));
    clusternode_stop(b);
    promote(c, true);
    for (int i = 0; i < 20; i++)
        write_random(c);
    assert_true(clusternode_level(c, a, LONG_MS));
    clusternode_start(b, false);
    assert_true(clusternode_wait_role(b, ROLE_REPLICA, LONG_MS));
    assert_true(clusternode_level(c, b, LONG_MS));
    drop_node(c);
    drop_node(b);
    drop_node(a);
}

static void a_primary_that_is_not_a_candidate_stays_none(void **state)
{
    struct clusternode *p, *r;
    char why[512] = "";

    (void)state;
    p = make_node();
    r = make_node();
    r->options.candidate = false;
    clusternode_start(p, true);
    clusternode_peer(r, p->url);
    clusternode_start(r, false);
    assert_int_equal(node_promote(r->node, true, 3000, why, sizeof why), -ERR_UNSUPPORTED);
    assert_true(why[0] != '\0');
    assert_int_equal(node_promote(p->node, false, 3000, why, sizeof why), 0);
    drop_node(r);
    drop_node(p);
}

static void a_node_of_another_cluster_does_not_start(void **state)
{
    struct clusternode *p, *r, *other = make_node();

    (void)state;
    make_pair(&p, &r);
    assert_int_equal(clusternode_write(p, "a", 512, 2, 0), 0);
    assert_true(clusternode_level(p, r, LONG_MS));
    clusternode_stop(r);
    clusternode_start(other, true);
    r->options.peer_count = 0;
    clusternode_peer(r, other->url);
    clusternode_stop(p);
    clusternode_start(r, false);
    assert_true(clusternode_wait_fatal(r, LONG_MS));
    assert_non_null(strstr(r->fatal, "cluster"));
    assert_non_null(strstr(r->fatal, other->url));
    drop_node(other);
    drop_node(r);
    drop_node(p);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_transactions_reach_a_replica),
        cmocka_unit_test(a_replica_goes_on_after_a_restart_of_either),
        cmocka_unit_test(a_late_replica_is_brought_up_by_pages),
        cmocka_unit_test(a_page_that_is_being_changed_is_asked_for_again),
        cmocka_unit_test(a_long_record_is_fetched_in_pieces_and_holds_up_nobody),
        cmocka_unit_test(promotion_back_and_forth_loses_nothing),
        cmocka_unit_test(who_leads_already_does_not_begin_again),
        cmocka_unit_test(a_replica_of_a_dead_primary_is_promoted_only_by_force),
        cmocka_unit_test(what_an_old_primary_alone_has_is_kept),
        cmocka_unit_test(a_third_node_follows_the_new_primary),
        cmocka_unit_test(a_primary_that_is_not_a_candidate_stays_none),
        cmocka_unit_test(a_node_of_another_cluster_does_not_start),
    };

    int failed;

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    logger_configure(getenv("VERBOSE") != NULL ? LOGGER_DEBUG : LOGGER_ERROR, false);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    transport_release_process();
    return failed;
}
