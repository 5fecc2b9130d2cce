/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cluster/identity.h"
#include "cluster/lease.h"
#include "ltx/base/err.h"
#include "tests/lib/dice.h"
#include "tests/lib/folder.h"

static void a_new_identity_is_kept(void **state)
{
    struct folder f;
    struct identity *a = calloc(1, sizeof *a), *b = calloc(1, sizeof *b);
    char why[512];

    (void)state;
    folder_make(&f);
    assert_int_equal(identity_load(a, f.fd, why, sizeof why), 0);
    assert_true(a->node_id != 0 && a->cluster_id == 0 && a->role == ROLE_STARTING);
    a->cluster_id = 0xabcdef;
    a->epoch = 12;
    a->role = ROLE_REPLICA;
    a->pledge = 13;
    a->unsettled = true;
    strcpy(a->primary, "tcp://10.0.0.1:4600");
    assert_true(identity_add_member(a, "tcp://10.0.0.2:4600"));
    assert_false(identity_add_member(a, "tcp://10.0.0.2:4600"));
    assert_true(identity_add_member(a, "tcp://10.0.0.3:4600"));
    assert_int_equal(identity_save(a, f.fd), 0);
    assert_int_equal(identity_load(b, f.fd, why, sizeof why), 0);
    assert_memory_equal(a, b, sizeof *a);
    free(a);
    free(b);
    folder_remove(&f);
}

static void a_changed_byte_is_noticed_and_left_alone(void **state)
{
    struct folder f;
    struct identity *id = calloc(1, sizeof *id);
    char why[512];
    uint8_t *data;
    size_t size;

    (void)state;
    folder_make(&f);
    assert_int_equal(identity_load(id, f.fd, why, sizeof why), 0);
    data = folder_read(&f, IDENTITY_FILE, &size);
    for (size_t i = 0; i < size; i++) {
        uint8_t *after;
        size_t after_size;
        data[i] ^= (uint8_t)(1 + dice_below(255));
        folder_write(&f, IDENTITY_FILE, data, size);
        why[0] = '\0';
        assert_int_equal(identity_load(id, f.fd, why, sizeof why), -ERR_CORRUPT);
        assert_non_null(strstr(why, "node"));
        after = folder_read(&f, IDENTITY_FILE, &after_size);
        assert_int_equal(after_size, size);
        assert_memory_equal(after, data, size);
        free(after);
        free(data);
        identity_save(id, f.fd);
        id->node_id = 0x1234567812345678;
        identity_save(id, f.fd);
        data = folder_read(&f, IDENTITY_FILE, &size);
    }
    free(data);
    folder_remove(&f);
    free(id);
}

/* The table of lease_static.c. */
static void the_static_lease_follows_its_table(void **state)
{
    static const struct {
        enum role remembers;
        bool configured;
        uint64_t own_epoch, heard_epoch;
        const char *heard;
        bool first_hand;
        enum lease_verdict verdict;
        uint64_t epoch;
        const char *primary;
    } rows[] = {
        {ROLE_STARTING, true, 0, 0, "", false, LEASE_LEAD, 1, ""},
        {ROLE_STARTING, true, 0, 4, "x", true, LEASE_FOLLOW, 4, "x"},
        {ROLE_STARTING, false, 0, 0, "", false, LEASE_FOLLOW, 0, ""},
        {ROLE_STARTING, false, 0, 3, "x", false, LEASE_FOLLOW, 3, "x"},
        {ROLE_PRIMARY, true, 5, 0, "", false, LEASE_LEAD, 5, ""},
        {ROLE_PRIMARY, false, 5, 4, "x", true, LEASE_LEAD, 5, ""},
        {ROLE_PRIMARY, true, 5, 5, "own", false, LEASE_LEAD, 5, ""},
        {ROLE_PRIMARY, true, 5, 5, "x", true, LEASE_REFUSE, 0, ""},
        {ROLE_PRIMARY, true, 5, 6, "x", true, LEASE_FOLLOW, 6, "x"},
        {ROLE_REPLICA, true, 5, 0, "", false, LEASE_FOLLOW, 5, "remembered"},
        {ROLE_REPLICA, true, 5, 6, "x", false, LEASE_FOLLOW, 6, "x"},
        {ROLE_REPLICA, false, 5, 5, "x", true, LEASE_FOLLOW, 5, "remembered"},
    };
    struct identity *id = calloc(1, sizeof *id);

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct lease_view view = {.configured = rows[i].configured,
                                  .own = id,
                                  .advertise = "own",
                                  .heard_epoch = rows[i].heard_epoch,
                                  .heard_primary = rows[i].heard,
                                  .heard_first_hand = rows[i].first_hand};
        struct lease_decision d;
        *id = (struct identity){.role = rows[i].remembers, .epoch = rows[i].own_epoch};
        if (rows[i].remembers == ROLE_REPLICA)
            strcpy(id->primary, "remembered");
        lease_static.begin(&view, &d);
        assert_int_equal(d.verdict, rows[i].verdict);
        assert_true(d.epoch == rows[i].epoch);
        assert_string_equal(d.primary, rows[i].primary);
        assert_true(d.verdict != LEASE_REFUSE || d.why[0] != '\0');
    }
    free(id);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_identity_is_kept),
        cmocka_unit_test(a_changed_byte_is_noticed_and_left_alone),
        cmocka_unit_test(the_static_lease_follows_its_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
