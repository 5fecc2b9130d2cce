/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cluster/message.h"
#include "ltx/base/err.h"
#include "ltx/role.h"
#include "tests/lib/dice.h"

static const struct msg_stamp stamp = {.cluster_id = 0x1122, .node_id = 0x3344, .epoch = 7};

static void a_header_comes_back(void **state)
{
    struct buf b = {0};
    struct msg_writer w = msg_begin(&b, MSG_HELLO, &stamp);
    struct msg_header h;
    struct msg_reader r;
    static const uint8_t head[8] = {'T', 'F', 'S', 'M', 0, MSG_VERSION, 0, MSG_HELLO};

    (void)state;
    assert_int_equal(w.err, 0);
    assert_int_equal(b.len, MSG_HEADER_SIZE);
    assert_memory_equal(b.data, head, sizeof head);
    assert_int_equal(msg_open(b.data, b.len, &h, &r), 0);
    assert_int_equal(h.type, MSG_HELLO);
    assert_true(h.stamp.cluster_id == 0x1122 && h.stamp.node_id == 0x3344 && h.stamp.epoch == 7);
    assert_int_equal(msg_end(&r), 0);
    b.data[5]++;
    assert_int_equal(msg_open(b.data, b.len, &h, &r), -ERR_VERSION);
    assert_int_equal(h.version, MSG_VERSION + 1);
    b.data[5]--;
    b.data[0] ^= 1;
    assert_int_equal(msg_open(b.data, b.len, &h, &r), -ERR_PROTOCOL);
    b.data[0] ^= 1;
    assert_int_equal(msg_open(b.data, b.len - 1, &h, &r), -ERR_PROTOCOL);
    buf_fini(&b);
}

static void every_error_code_comes_back(void **state)
{
    static const int codes[] = {
        -ERR_CLUSTER,  -ERR_VERSION, -ERR_NOTPRIMARY, -ERR_CLOSED,  -ERR_DIVERGED,   -ERR_POSITION,
        -ERR_NOTFOUND, -ERR_BUSY,    -ERR_PROTOCOL,   -ERR_FENCED,  -ERR_IO,         -ERR_TIMEOUT,
        -ERR_DAMAGED,  -ERR_NOMEM,   -ERR_ACCESS,     -ERR_NOSPACE, -ERR_UNSUPPORTED};
    struct buf b = {0};

    (void)state;
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        struct msg_header h;
        struct msg_reader r;
        struct msg_error e;
        assert_int_equal(msg_error_write(&b, &stamp, codes[i], "tcp://127.0.0.1:1", "why"), 0);
        assert_int_equal(msg_open(b.data, b.len, &h, &r), 0);
        assert_int_equal(h.type, MSG_ERROR);
        assert_int_equal(msg_error_read(&r, &e), 0);
        assert_int_equal(e.code, codes[i]);
        assert_string_equal(e.primary, "tcp://127.0.0.1:1");
        assert_string_equal(e.text, "why");
    }
    buf_fini(&b);
}

static void every_item_comes_back(void **state)
{
    const struct msg_item items[] = {
        {.kind = MSG_NEWS, .name = "a", .position = {5, 6}},
        {.kind = MSG_RECORD, .name = "b/c.db", .generation = 3, .size = 4},
        {.kind = MSG_LARGE, .name = "d", .generation = 4, .size = UINT64_C(1) << 40},
        {.kind = MSG_TRIMMED, .name = "e", .generation = 5}};
    struct buf b = {0};
    struct msg_writer w = msg_begin(&b, MSG_RECORDS, &stamp);
    struct msg_header h;
    struct msg_reader r;
    struct msg_item got;

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        msg_put_item(&w, &items[i]);
        if (items[i].kind == MSG_RECORD)
            msg_put_bytes(&w, "data", 4);
    }
    assert_int_equal(w.err, 0);
    assert_int_equal(msg_open(b.data, b.len, &h, &r), 0);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(msg_next_item(&r, &got), 1);
        assert_int_equal(got.kind, items[i].kind);
        assert_string_equal(got.name, items[i].name);
        assert_int_equal(got.generation, items[i].generation);
        if (got.kind == MSG_RECORD)
            assert_memory_equal(got.data, "data", 4);
        else if (got.kind == MSG_NEWS)
            assert_true(got.position.txid == 5 && got.position.checksum == 6);
        else if (got.kind == MSG_LARGE)
            assert_true(got.size == UINT64_C(1) << 40);
    }
    assert_int_equal(msg_next_item(&r, &got), 0);
    buf_fini(&b);
}

static void lists_and_fixed_parts_come_back(void **state)
{
    struct msg_state s = {.role = ROLE_PRIMARY, .candidate = true, .url = "u", .primary = "p"}, s2;
    struct msg_welcome m = {.session = 9, .heartbeat_ms = 1000, .ack_ms = 10, .url = "x"}, m2;
    struct msg_stand d = {.known = true,
                          .last = {9, 8},
                          .first = {7, 6},
                          .checksum_at = 5,
                          .page_size = 4096,
                          .commit = 3,
                          .log_bytes = 2},
                     d2;
    struct msg_subscription u = {.name = "n", .generation = 2, .on = true, .position = {3, 4}}, u2;
    struct buf b = {0};
    struct msg_writer w = msg_begin(&b, MSG_STATE, &stamp);
    char name[STORE_NAME_MAX], url[MSG_URL_MAX];
    struct position p;
    struct msg_header h;
    struct msg_reader r;

    (void)state;
    msg_put_state(&w, &s);
    msg_put_welcome(&w, &m);
    msg_put_stand(&w, &d);
    msg_put_subscription(&w, &u);
    msg_put_standing(&w, "name", (struct position){1, 2});
    msg_put_text(&w, "tcp://h:1");
    assert_int_equal(w.err, 0);
    assert_int_equal(msg_open(b.data, b.len, &h, &r), 0);
    assert_int_equal(msg_get_state(&r, &s2), 0);
    assert_true(s2.role == ROLE_PRIMARY && s2.candidate && strcmp(s2.primary, "p") == 0);
    assert_int_equal(msg_get_welcome(&r, &m2), 0);
    assert_true(m2.session == 9 && m2.heartbeat_ms == 1000 && m2.ack_ms == 10);
    assert_int_equal(msg_next_stand(&r, &d2), 1);
    assert_true(d2.known && position_equal(d2.last, d.last) && position_equal(d2.first, d.first));
    assert_true(d2.checksum_at == 5 && d2.page_size == 4096 && d2.commit == 3 && d2.log_bytes == 2);
    assert_int_equal(msg_next_subscription(&r, &u2), 1);
    assert_true(strcmp(u2.name, "n") == 0 && u2.generation == 2 && u2.on && u2.position.txid == 3);
    assert_int_equal(msg_next_standing(&r, name, &p), 1);
    assert_true(strcmp(name, "name") == 0 && p.txid == 1 && p.checksum == 2);
    assert_int_equal(msg_next_url(&r, url), 1);
    assert_string_equal(url, "tcp://h:1");
    assert_int_equal(msg_end(&r), 0);
    buf_fini(&b);
}

static void names_that_lead_elsewhere_are_refused(void **state)
{
    static const char *const good[] = {"a",    "a/b",     "a b.db", "..a", "a..", "\xc3\xa4/x-wal",
                                       "a\nb", "\xff\x7f"};
    static const char *const bad[] = {"", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "./a"};
    char longest[STORE_NAME_MAX + 1];

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(msg_name_valid(good[i]));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(msg_name_valid(bad[i]));
    for (size_t i = 0; i < STORE_NAME_MAX; i++)
        longest[i] = i % 200 == 199 ? '/' : 'x';
    longest[STORE_NAME_MAX] = '\0';
    assert_false(msg_name_valid(longest));
    longest[STORE_NAME_MAX - 1] = '\0';
    longest[STORE_NAME_MAX - 2] = 'x';
    assert_true(msg_name_valid(longest));
}

/* Reads whatever the bytes may be as every kind of body: nothing crashes, every answer is a code.
 */
static void read_as_everything(const uint8_t *data, size_t len)
{
    static struct msg_item item;
    static struct msg_subscription sub;
    static char name[STORE_NAME_MAX];
    struct msg_header h;
    struct msg_reader r, again;
    struct msg_state state;
    struct msg_welcome welcome;
    struct msg_error error;
    struct msg_stand stand;
    struct msg_range range;
    struct msg_page page;
    struct msg_piece piece;
    struct position p;
    char url[MSG_URL_MAX];
    int rv = msg_open(data, len, &h, &r);

    assert_true(rv == 0 || rv == -ERR_PROTOCOL || rv == -ERR_VERSION);
    if (rv != 0)
        return;
#define ALL(call)                                    \
    do {                                             \
        again = r;                                   \
        while ((rv = (call)) > 0)                    \
            assert_true(again.left <= len);          \
        assert_true(rv == 0 || rv == -ERR_PROTOCOL); \
    } while (0)
    ALL(msg_get_state(&again, &state));
    ALL(msg_get_welcome(&again, &welcome));
    ALL(msg_error_read(&again, &error));
    ALL(msg_next_stand(&again, &stand));
    ALL(msg_next_item(&again, &item));
    ALL(msg_next_subscription(&again, &sub));
    ALL(msg_next_standing(&again, name, &p));
    ALL(msg_next_url(&again, url));
    ALL(msg_next_range(&again, &range));
    ALL(msg_next_page(&again, &page));
    ALL(msg_next_piece(&again, &piece));
#undef ALL
}

static void random_bytes_are_read_safely(void **state)
{
    struct buf b = {0};

    (void)state;
    for (int round = 0; round < 20000; round++) {
        struct msg_writer w = msg_begin(&b, 1 + dice_below(80), &stamp);
        size_t n = dice_below(round % 100 == 0 ? 5000 : 60);
        uint8_t *copy;
        assert_int_equal(w.err, 0);
        assert_int_equal(buf_reserve(&b, n), 0);
        dice_fill(b.data + b.len, n);
        if (dice_below(2) == 0 && n > 2)
            memset(b.data + b.len, 0, 2 + dice_below((uint32_t)n - 2)); /* small lengths */
        b.len += n;
        copy = malloc(b.len); /* exactly as long: a sanitizer sees each byte too far */
        memcpy(copy, b.data, b.len);
        read_as_everything(copy, b.len);
        free(copy);
    }
    buf_fini(&b);
}

static void a_cut_message_is_refused(void **state)
{
    const struct msg_item item = {.kind = MSG_RECORD, .name = "b/c.db", .generation = 3, .size = 4};
    struct buf b = {0};
    struct msg_writer w = msg_begin(&b, MSG_RECORDS, &stamp);
    size_t begin = b.len;

    (void)state;
    msg_put_item(&w, &item);
    msg_put_bytes(&w, "data", 4);
    for (size_t len = begin + 1; len < b.len; len++) {
        struct msg_header h;
        struct msg_reader r;
        struct msg_item got;
        assert_int_equal(msg_open(b.data, len, &h, &r), 0);
        assert_int_equal(msg_next_item(&r, &got), -ERR_PROTOCOL);
    }
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_header_comes_back),
        cmocka_unit_test(every_error_code_comes_back),
        cmocka_unit_test(every_item_comes_back),
        cmocka_unit_test(lists_and_fixed_parts_come_back),
        cmocka_unit_test(names_that_lead_elsewhere_are_refused),
        cmocka_unit_test(random_bytes_are_read_safely),
        cmocka_unit_test(a_cut_message_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
