/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A replica whose primary answers what no primary would: a listener that speaks the protocol, and in
 * one answer says what the test wants.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cluster/message.h"
#include "cluster/transport.h"
#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "tests/lib/clusternode.h"
#include "tests/lib/nngleaks.h"

#define LONG_MS 30000

struct strange {
    struct transport *transport;
    uint32_t total; /* databases that PREPARED says there are */
    uint32_t items; /* and names in each */
    atomic_uint prepares, aborts;
};

static const struct msg_stamp stamp = {.cluster_id = 0x77, .node_id = 0x1, .epoch = 5};

static void prepared(struct strange *s, struct msg_writer *w)
{
    msg_put_u64(w, 1);
    msg_put_u32(w, s->total);
    for (uint32_t i = 0; i < s->items; i++)
        msg_put_standing(w, "a.db", (struct position){1, UINT64_C(1) << 63});
    atomic_fetch_add(&s->prepares, 1);
}

static struct msg_writer answer_to(struct strange *s, const struct msg_header *h,
                                   struct msg_reader *in, struct buf *b)
{
    struct msg_state state = {.role = ROLE_PRIMARY, .candidate = true};
    struct msg_welcome welcome = {.session = 9, .heartbeat_ms = 1000, .ack_ms = 10};
    struct msg_writer w;

    switch (h->type) {
    case MSG_WHO:
        w = msg_begin(b, MSG_STATE, &stamp);
        snprintf(state.url, sizeof state.url, "%s", transport_url(s->transport));
        msg_put_state(&w, &state);
        break;
    case MSG_HELLO:
        w = msg_begin(b, MSG_WELCOME, &stamp);
        msg_put_welcome(&w, &welcome);
        break;
    case MSG_PULL:
        (void)msg_get_u64(in);
        w = msg_begin(b, MSG_RECORDS, &stamp);
        msg_put_u32(&w, msg_get_u32(in) + 1);
        msg_put_u8(&w, 1);
        break;
    case MSG_PREPARE:
        w = msg_begin(b, MSG_PREPARED, &stamp);
        prepared(s, &w);
        break;
    default:
        if (h->type == MSG_ABORT)
            atomic_fetch_add(&s->aborts, 1);
        w = msg_begin(b, MSG_OK, &stamp);
    }
    return w;
}

static void answer(void *ctx, struct transport_request *r)
{
    struct buf b = {0};
    struct msg_header h;
    struct msg_reader in;

    if (msg_open(r->data, r->len, &h, &in) == 0 && answer_to(ctx, &h, &in, &b).err == 0)
        transport_reply(r, b.data, b.len);
    else
        transport_drop(r, false);
    buf_fini(&b);
}

static void promote_against(uint32_t total, uint32_t items)
{
    struct strange s = {.total = total, .items = items};
    struct clusternode *c = malloc(sizeof *c);
    char why[512] = "";

    assert_non_null(c);
    assert_int_equal(
        transport_listen(&s.transport, "tcp://127.0.0.1:0", answer, &s, why, sizeof why), 0);
    assert_int_equal(transport_start(s.transport), 0);
    clusternode_init(c);
    clusternode_peer(c, transport_url(s.transport));
    clusternode_start(c, false);
    assert_int_equal(node_promote(c->node, false, LONG_MS, why, sizeof why), -ERR_PROTOCOL);
    assert_non_null(strstr(why, err_text(-ERR_PROTOCOL)));
    assert_int_equal(atomic_load(&s.prepares), 1);
    assert_int_equal(role_get(&c->role), ROLE_REPLICA);
    assert_true(store_count(c->store) <= 1);
    clusternode_fini(c);
    free(c);
    transport_quit(s.transport);
    transport_close(s.transport);
}

static void one_that_names_no_databases_is_not_asked_for_ever(void **state)
{
    (void)state;
    promote_against(10, 0);
}

static void one_that_names_more_than_it_has_is_not_believed(void **state)
{
    (void)state;
    promote_against(3, 1000);
}

static void one_that_has_more_than_a_node_can_have_is_not_believed(void **state)
{
    (void)state;
    promote_against(STORE_DATABASES_MAX + 1, 1);
}

static int release(void **state)
{
    (void)state;
    transport_release_process();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_that_names_no_databases_is_not_asked_for_ever),
        cmocka_unit_test(one_that_names_more_than_it_has_is_not_believed),
        cmocka_unit_test(one_that_has_more_than_a_node_can_have_is_not_believed),
    };
    return cmocka_run_group_tests(tests, NULL, release);
}
