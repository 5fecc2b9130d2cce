/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cluster/self.h"
#include "ltx/base/err.h"
#include "tests/lib/folder.h"

#define CLUSTER 0xc1
#define NODE 1000
#define EPOCH 3

struct fixture {
    struct folder folder;
    struct role_state role;
    struct self self;
};

static void be_primary(void *ctx, struct identity *id)
{
    (void)ctx;
    id->cluster_id = CLUSTER;
    id->node_id = NODE;
    id->epoch = EPOCH;
    id->role = ROLE_PRIMARY;
}

/* A primary of epoch 3 whose gate is open, without any thread of a node. */
static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    char why[256];

    folder_make(&f->folder);
    role_init(&f->role, NODE);
    assert_int_equal(
        self_open(&f->self, f->folder.fd, &f->role, "tcp://own:1", true, why, sizeof why), 0);
    assert_int_equal(self_change(&f->self, be_primary, NULL), 0);
    role_set(&f->role, ROLE_PRIMARY, EPOCH, "tcp://own:1");
    self_open_gate(&f->self);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    self_close(&f->self);
    role_fini(&f->role);
    folder_remove(&f->folder);
    free(f);
    return 0;
}

static int enter(struct fixture *f)
{
    int rv = role_enter(&f->role);

    if (rv == 0)
        role_leave(&f->role);
    return rv;
}

static int read_header(struct fixture *f, uint64_t cluster_id, uint64_t epoch)
{
    const struct msg_stamp stamp = {.cluster_id = cluster_id, .node_id = 5, .epoch = epoch};
    struct buf b = {0};
    struct msg_header h;
    struct msg_reader r;
    int rv;

    msg_begin(&b, MSG_ACK, &stamp);
    rv = self_read(&f->self, b.data, b.len, &h, &r);
    buf_fini(&b);
    return rv;
}

static void a_higher_epoch_closes_the_gate_at_once(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(read_header(f, CLUSTER, EPOCH), 0);
    assert_int_equal(enter(f), 0);
    assert_int_equal(read_header(f, CLUSTER, EPOCH + 1), 0);
    assert_int_equal(enter(f), -ERR_FENCED);
    self_open_gate(&f->self); /* as a handover would that was given up meanwhile */
    assert_int_equal(enter(f), -ERR_FENCED);
}

static void strangers_close_nothing(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(read_header(f, CLUSTER + 1, EPOCH + 1), -ERR_CLUSTER);
    assert_int_equal(read_header(f, 0, EPOCH + 1), 0); /* a node that belongs to none yet */
    self_hear(&f->self, EPOCH - 1, "tcp://old:1", true, NODE + 1);
    assert_int_equal(enter(f), 0);
    assert_false(self_superseded(&f->self));
}

static void of_two_primaries_of_one_epoch_the_lower_id_stops(void **state)
{
    struct fixture *f = *state;

    self_hear(&f->self, EPOCH, "tcp://hearsay:1", false, 0);
    self_hear(&f->self, EPOCH, "tcp://lower:1", true, NODE - 1);
    assert_int_equal(enter(f), 0);
    self_hear(&f->self, EPOCH, "tcp://higher:1", true, NODE + 1);
    assert_int_equal(enter(f), -ERR_FENCED);
}

static void what_is_heard_first_hand_beats_hearsay(void **state)
{
    struct fixture *f = *state;
    char primary[NODE_URL_MAX];
    uint64_t epoch, count;
    bool first_hand;

    self_hear(&f->self, EPOCH + 1, "tcp://hearsay:1", false, 0);
    self_hear(&f->self, EPOCH + 1, "tcp://itself:1", true, 7);
    count = self_heard(&f->self, &epoch, primary, &first_hand);
    assert_true(epoch == EPOCH + 1 && first_hand);
    assert_string_equal(primary, "tcp://itself:1");
    self_hear(&f->self, EPOCH + 1, "tcp://hearsay:1", false, 0);
    self_hear(&f->self, EPOCH + 1, "tcp://another-address-of-it:1", true, 7);
    assert_true(self_heard(&f->self, &epoch, primary, &first_hand) == count);
    self_doubt(&f->self);
    self_hear(&f->self, EPOCH + 1, "tcp://another-address-of-it:1", true, 7);
    self_heard(&f->self, &epoch, primary, &first_hand);
    assert_string_equal(primary, "tcp://another-address-of-it:1");
}

static void a_node_joins_one_cluster_only(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(self_join_cluster(&f->self, CLUSTER), 0);
    assert_int_equal(self_join_cluster(&f->self, CLUSTER + 1), -ERR_CLUSTER);
}

#define WITH(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(a_higher_epoch_closes_the_gate_at_once),
        WITH(strangers_close_nothing),
        WITH(of_two_primaries_of_one_epoch_the_lower_id_stops),
        WITH(what_is_heard_first_hand_beats_hearsay),
        WITH(a_node_joins_one_cluster_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
