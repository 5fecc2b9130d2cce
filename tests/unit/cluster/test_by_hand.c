/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A node spoken to by hand: messages as a replica sends them, as another version would, and as nobody
 * would.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cluster/message.h"
#include "cluster/transport.h"
#include "ltx/base/err.h"
#include "ltx/base/logger.h"
#include "tests/lib/clusternode.h"
#include "tests/lib/dice.h"
#include "tests/lib/nngleaks.h"

#define LONG_MS 30000

static struct clusternode *make_primary(void)
{
    struct clusternode *c = malloc(sizeof *c);

    assert_non_null(c);
    clusternode_init(c);
    clusternode_start(c, true);
    assert_int_equal(role_get(&c->role), ROLE_PRIMARY);
    return c;
}

static void drop_node(struct clusternode *c)
{
    clusternode_fini(c);
    free(c);
}

static void bytes_that_are_not_ours_do_no_harm(void **state)
{
    struct clusternode *p = make_primary(), *r = malloc(sizeof *r);
    struct transport_call call = {0};
    struct transport_peer *peer;
    struct node_status *s = malloc(sizeof *s);
    struct buf b = {0};

    (void)state;
    assert_non_null(r);
    clusternode_init(r);
    clusternode_peer(r, p->url);
    clusternode_start(r, false);
    assert_int_equal(clusternode_write(p, "a", 512, 2, 0), 0);
    assert_true(clusternode_level(p, r, LONG_MS));
    node_status(p->node, s);
    assert_int_equal(peer_open(&peer, p->url), 0);
    for (int i = 0; i < 300; i++) {
        struct msg_stamp stamp = {.cluster_id = s->cluster_id, .node_id = 77, .epoch = 1};
        uint32_t type = 1 + dice_below(20);
        struct msg_writer w = msg_begin(&b, type == MSG_PREPARE ? MSG_ABORT : type, &stamp);
        size_t n = dice_below(100); /* a PREPARE of zeros would be one: it stops the writers */
        assert_int_equal(w.err, 0);
        assert_int_equal(buf_reserve(&b, n), 0);
        dice_fill(b.data + b.len, n);
        if (i % 2 == 0)
            memset(b.data + b.len, 0, n);
        b.len += n;
        if (i % 10 == 0)
            b.data[dice_below(8)] ^= 0x55;
        peer_call(peer, &call, b.data, b.len, 2000);
    }
    peer_done(&call);
    peer_close(peer);
    buf_fini(&b);
    assert_int_equal(clusternode_write(p, "a", 512, 2, 2), 0);
    assert_true(clusternode_level(p, r, LONG_MS));
    assert_int_equal(role_get(&p->role), ROLE_PRIMARY);
    free(s);
    drop_node(r);
    drop_node(p);
}

/* A replica by hand: one request, its answer's header and body. */
struct by_hand {
    struct transport_peer *peer;
    struct transport_call call;
    struct msg_stamp stamp;
    struct buf out;
    struct msg_reader in;
};

static unsigned say(struct by_hand *h, const struct msg_writer *w)
{
    struct msg_header head;

    assert_int_equal(w->err, 0);
    assert_int_equal(peer_call(h->peer, &h->call, h->out.data, h->out.len, LONG_MS), 0);
    assert_int_equal(msg_open(h->call.data, h->call.len, &head, &h->in), 0);
    return head.type;
}

/* The TXIDs of the records that a PULL brings; *seq is what the answer is numbered. */
static uint32_t pull_by_hand(struct by_hand *h, uint64_t session, uint32_t *seq, uint64_t *txids)
{
    struct msg_writer w = msg_begin(&h->out, MSG_PULL, &h->stamp);
    struct msg_item item;
    uint32_t n = 0;

    msg_put_u64(&w, session);
    msg_put_u32(&w, *seq);
    assert_int_equal(say(h, &w), MSG_RECORDS);
    *seq = msg_get_u32(&h->in);
    msg_get_bool(&h->in);
    while (msg_next_item(&h->in, &item) > 0) {
        struct ltx_header header;
        if (item.kind != MSG_RECORD)
            continue;
        assert_int_equal(ltx_header_decode(item.data, &header), 0);
        txids[n++] = header.max_txid;
    }
    return n;
}

static void a_lost_answer_is_given_again(void **state)
{
    struct clusternode *p = make_primary();
    struct by_hand h = {.stamp = {.node_id = 77}};
    struct msg_welcome welcome;
    struct msg_subscription sub = {.name = "a", .generation = 1, .on = true};
    struct msg_writer w;
    uint64_t txids[16];
    uint32_t seq = 0;

    (void)state;
    for (uint32_t i = 1; i <= 3; i++)
        assert_int_equal(clusternode_write(p, "a", 512, i, 0), 0);
    assert_int_equal(ledger_sync(store_find(p->store, "a"), 3), 0);
    assert_int_equal(peer_open(&h.peer, p->url), 0);
    w = msg_begin(&h.out, MSG_HELLO, &h.stamp);
    msg_put_text(&w, "");
    msg_put_u8(&w, 0);
    assert_int_equal(say(&h, &w), MSG_WELCOME);
    assert_int_equal(msg_get_welcome(&h.in, &welcome), 0);
    w = msg_begin(&h.out, MSG_SUBSCRIBE, &h.stamp);
    msg_put_u64(&w, welcome.session);
    msg_put_subscription(&w, &sub);
    assert_int_equal(say(&h, &w), MSG_OK);

    assert_int_equal(pull_by_hand(&h, welcome.session, &seq, txids), 3);
    assert_true(seq == 1 && txids[0] == 1 && txids[2] == 3);
    seq = 0; /* it never arrived */
    assert_int_equal(clusternode_write(p, "a", 512, 4, 0), 0);
    assert_int_equal(ledger_sync(store_find(p->store, "a"), 4), 0);
    assert_int_equal(pull_by_hand(&h, welcome.session, &seq, txids), 4);
    assert_true(seq == 1 && txids[0] == 1 && txids[3] == 4);
    assert_int_equal(clusternode_write(p, "a", 512, 5, 0), 0);
    assert_int_equal(ledger_sync(store_find(p->store, "a"), 5), 0);
    assert_int_equal(pull_by_hand(&h, welcome.session, &seq, txids), 1);
    assert_true(seq == 2 && txids[0] == 5);
    assert_int_equal(pull_by_hand(&h, welcome.session, &seq, txids), 0); /* the heartbeat */
    assert_int_equal(seq, 3);
    peer_done(&h.call);
    peer_close(h.peer);
    buf_fini(&h.out);
    drop_node(p);
}

/*
 * What is not on disk yet may be lost, so it is no place to begin at; and a page count of one position
 * with the checksum of another fits no record.
 */
static void a_bringing_up_begins_at_one_position_and_that_is_durable(void **state)
{
    struct clusternode *p = make_primary();
    struct by_hand h = {.stamp = {.node_id = 77}};
    struct position begun, last;
    struct msg_writer w;
    struct ledger *l;

    (void)state;
    assert_int_equal(clusternode_write(p, "a", 512, 5, 0), 0);
    l = store_find(p->store, "a");
    assert_int_equal(ledger_sync(l, 1), 0);
    assert_int_equal(clusternode_write(p, "a", 512, 0, 0), 0);
    last = ledger_last(l);
    assert_int_equal(ledger_durable(l).txid, 1);
    assert_int_equal(peer_open(&h.peer, p->url), 0);
    w = msg_begin(&h.out, MSG_BEGIN, &h.stamp);
    msg_put_text(&w, "a");
    assert_int_equal(say(&h, &w), MSG_BEGUN);
    begun = msg_get_position(&h.in);
    assert_int_equal(msg_get_u32(&h.in), 512);
    assert_int_equal(msg_get_u32(&h.in), 0);
    assert_true(position_equal(begun, last));
    assert_true(position_equal(ledger_durable(l), last));
    peer_done(&h.call);
    peer_close(h.peer);
    buf_fini(&h.out);
    drop_node(p);
}

static void a_peer_of_another_version_is_told_so(void **state)
{
    struct clusternode *p = make_primary();
    struct transport_call call = {0};
    struct transport_peer *peer;
    const struct msg_stamp stamp = {.node_id = 1};
    struct buf b = {0};
    struct msg_writer w = msg_begin(&b, MSG_WHO, &stamp);
    struct msg_header h;
    struct msg_reader in;
    struct msg_error e;

    (void)state;
    msg_put_text(&w, "");
    b.data[5] = MSG_VERSION + 1;
    assert_int_equal(peer_open(&peer, p->url), 0);
    assert_int_equal(peer_call(peer, &call, b.data, b.len, 5000), 0);
    assert_int_equal(msg_open(call.data, call.len, &h, &in), 0);
    assert_int_equal(h.type, MSG_ERROR);
    assert_int_equal(msg_error_read(&in, &e), 0);
    assert_int_equal(e.code, -ERR_VERSION);
    peer_done(&call);
    peer_close(peer);
    buf_fini(&b);
    drop_node(p);
}

static void a_higher_epoch_in_any_message_stops_a_primary(void **state)
{
    struct clusternode *p = make_primary();
    struct node_status *s = malloc(sizeof *s);
    struct transport_call call = {0};
    struct transport_peer *peer;
    struct msg_stamp stamp;
    struct buf b = {0};
    struct msg_writer w;

    (void)state;
    assert_int_equal(clusternode_write(p, "a", 512, 2, 0), 0);
    node_status(p->node, s);
    stamp = (struct msg_stamp){.cluster_id = s->cluster_id, .node_id = 5, .epoch = s->epoch + 3};
    w = msg_begin(&b, MSG_ACK, &stamp);
    msg_put_u64(&w, 99);
    assert_int_equal(peer_open(&peer, p->url), 0);
    assert_int_equal(peer_call(peer, &call, b.data, b.len, 5000), 0);
    assert_int_not_equal(clusternode_write(p, "a", 512, 2, 1), 0);
    assert_true(clusternode_wait_role(p, ROLE_REPLICA, LONG_MS));
    assert_true(role_epoch(&p->role) == s->epoch + 3);
    assert_int_equal(p->became_replica, 1);
    peer_done(&call);
    peer_close(peer);
    buf_fini(&b);
    free(s);
    drop_node(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_that_are_not_ours_do_no_harm),
        cmocka_unit_test(a_lost_answer_is_given_again),
        cmocka_unit_test(a_bringing_up_begins_at_one_position_and_that_is_durable),
        cmocka_unit_test(a_peer_of_another_version_is_told_so),
        cmocka_unit_test(a_higher_epoch_in_any_message_stops_a_primary),
    };
    int failed;

    logger_configure(getenv("VERBOSE") != NULL ? LOGGER_DEBUG : LOGGER_ERROR, false);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    transport_release_process();
    return failed;
}
