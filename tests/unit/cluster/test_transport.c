/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "cluster/inbox.h"
#include "cluster/transport.h"
#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/thread.h"
#include "tests/lib/dice.h"
#include "tests/lib/nngleaks.h"

#define LONG_MS 5000

/* A listener whose requests gather in an inbox. */
struct server {
    struct transport *transport;
    struct inbox inbox;
    struct feed feed;
};

static void into_inbox(void *ctx, struct transport_request *r)
{
    inbox_push(&((struct server *)ctx)->inbox, r);
}

static void server_open(struct server *s, const char *url)
{
    char why[512];

    feed_init(&s->feed);
    inbox_init(&s->inbox, &s->feed);
    assert_int_equal(transport_listen(&s->transport, url, into_inbox, s, why, sizeof why), 0);
    assert_int_equal(transport_start(s->transport), 0);
}

static void server_close(struct server *s)
{
    transport_quit(s->transport);
    inbox_fini(&s->inbox);
    transport_close(s->transport);
    feed_fini(&s->feed);
}

static struct transport_request *wait_request(struct server *s)
{
    struct mono begun = mono_now();

    for (;;) {
        uint64_t seen = feed_count(&s->feed);
        struct transport_request *r = inbox_pop(&s->inbox);
        if (r != NULL)
            return r;
        assert_true(mono_since_ms(begun) < LONG_MS);
        feed_wait(&s->feed, seen, LONG_MS);
    }
}

struct asker {
    struct transport_peer *peer;
    struct thread thread;
    const void *data;
    size_t len;
    int64_t timeout_ms;
    int rv;
    char answer[64];
};

static void ask(void *arg)
{
    struct asker *a = arg;
    struct transport_call call = {0};

    a->rv = peer_call(a->peer, &call, a->data, a->len, a->timeout_ms);
    if (a->rv == 0)
        snprintf(a->answer, sizeof a->answer, "%.*s", (int)call.len, (const char *)call.data);
    peer_done(&call);
}

static void asker_start(struct asker *a, struct transport_peer *peer, const char *text)
{
    *a = (struct asker){.peer = peer, .data = text, .len = strlen(text), .timeout_ms = LONG_MS};
    assert_int_equal(thread_start(&a->thread, "asker", ask, a), 0);
}

static void requests_are_answered_in_any_order(void **state)
{
    struct server s;
    struct transport_peer *peer;
    struct asker a, b;
    struct transport_request *first, *second;

    (void)state;
    server_open(&s, "tcp://127.0.0.1:0");
    assert_int_equal(peer_open(&peer, transport_url(s.transport)), 0);
    asker_start(&a, peer, "one");
    first = wait_request(&s);
    asker_start(&b, peer, "two");
    second = wait_request(&s);
    assert_int_equal(first->len, 3);
    assert_memory_equal(first->data, "one", 3);
    assert_memory_equal(second->data, "two", 3);
    transport_reply(second, "for two", 7);
    thread_join(&b.thread);
    transport_reply(first, "for one", 7);
    thread_join(&a.thread);
    assert_int_equal(a.rv, 0);
    assert_int_equal(b.rv, 0);
    assert_string_equal(a.answer, "for one");
    assert_string_equal(b.answer, "for two");
    struct mono begun = mono_now();
    while (!peer_connected(peer)) /* nng tells of a connection after the first use of it */
        assert_true(mono_since_ms(begun) < LONG_MS);
    peer_close(peer);
    server_close(&s);
}

static void a_broken_connection_ends_the_call_and_nothing_is_sent_twice(void **state)
{
    struct server s, again;
    struct transport_peer *peer;
    struct transport_request *r;
    char url[128];
    struct asker a;

    (void)state;
    server_open(&s, "tcp://127.0.0.1:0");
    snprintf(url, sizeof url, "%s", transport_url(s.transport));
    assert_int_equal(peer_open(&peer, url), 0);
    asker_start(&a, peer, "once");
    r = wait_request(&s);
    transport_drop(r, true);
    thread_join(&a.thread);
    assert_int_equal(a.rv, -ERR_UNREACHABLE);
    server_close(&s);
    server_open(&again, url);
    asker_start(&a, peer, "again");
    r = wait_request(&again);
    assert_memory_equal(r->data, "again", 5);
    transport_reply(r, "yes", 3);
    thread_join(&a.thread);
    assert_int_equal(a.rv, 0);
    assert_null(inbox_pop(&again.inbox));
    peer_close(peer);
    server_close(&again);
}

static void a_call_ends_in_time(void **state)
{
    struct server s;
    struct transport_peer *peer, *nobody;
    struct transport_call call = {0};
    struct mono begun;
    char url[128];

    (void)state;
    server_open(&s, "tcp://127.0.0.1:0");
    assert_int_equal(peer_open(&peer, transport_url(s.transport)), 0);
    begun = mono_now();
    assert_int_equal(peer_call(peer, &call, "x", 1, 200), -ERR_TIMEOUT);
    assert_true(mono_since_ms(begun) < 3000);
    transport_drop(wait_request(&s), false);
    peer_done(&call);
    snprintf(url, sizeof url, "%s", transport_url(s.transport));
    server_close(&s);
    assert_int_equal(peer_open(&nobody, url), 0);
    begun = mono_now();
    assert_int_equal(peer_call(nobody, &call, "x", 1, 200), -ERR_UNREACHABLE);
    assert_true(mono_since_ms(begun) < 3000);
    peer_done(&call);
    peer_close(nobody);
    peer_close(peer);
}

static void quitting_ends_a_call_that_waits(void **state)
{
    struct server s;
    struct transport_peer *peer;
    struct asker a;

    (void)state;
    server_open(&s, "tcp://127.0.0.1:0");
    assert_int_equal(peer_open(&peer, transport_url(s.transport)), 0);
    asker_start(&a, peer, "x");
    transport_drop(wait_request(&s), false); /* never answered */
    peer_quit(peer);
    thread_join(&a.thread);
    assert_int_equal(a.rv, -ERR_CLOSED);
    peer_close(peer);
    server_close(&s);
}

/* Nobody listens, so that nothing delays the end: the calls are released while the socket is closed. */
static void calls_are_released_while_their_peer_quits(void **state)
{
    enum { ASKERS = 8 };
    struct server s;
    char url[128];
    (void)state;
    server_open(&s, "tcp://127.0.0.1:0");
    snprintf(url, sizeof url, "%s", transport_url(s.transport));
    server_close(&s);
    for (unsigned round = 0; round < 1000; round++) {
        struct transport_peer *peer;
        struct asker a[ASKERS];
        assert_int_equal(peer_open(&peer, url), 0);
        for (unsigned i = 0; i < ASKERS; i++)
            asker_start(&a[i], peer, "x");
        peer_quit(peer);
        for (unsigned i = 0; i < ASKERS; i++) {
            thread_join(&a[i].thread);
            assert_int_equal(a[i].rv, -ERR_CLOSED);
        }
        peer_close(peer);
    }
}

static void answer_all(void *arg)
{
    struct server *s = arg;
    uint64_t seen = 0;
    do {
        for (struct transport_request *r; (r = inbox_pop(&s->inbox)) != NULL;)
            transport_reply(r, "yes", 3);
    } while (feed_wait(&s->feed, seen, LONG_MS) && (seen = feed_count(&s->feed)));
}

static void ask_on_and_on(void *arg)
{
    struct asker *a = arg;
    struct transport_call call = {0};
    while ((a->rv = peer_call(a->peer, &call, "x", 1, 200)) == 0)
        ;
    peer_done(&call);
}

static void a_listener_may_quit_while_answers_are_given(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 100; round++) {
        struct server s;
        struct asker a[3];
        struct thread answerer;

        server_open(&s, "tcp://127.0.0.1:0");
        assert_int_equal(thread_start(&answerer, "answerer", answer_all, &s), 0);
        for (unsigned i = 0; i < 3; i++) {
            a[i] = (struct asker){0};
            assert_int_equal(peer_open(&a[i].peer, transport_url(s.transport)), 0);
            assert_int_equal(thread_start(&a[i].thread, "asker", ask_on_and_on, &a[i]), 0);
        }
        usleep(1000 + dice_below(4000));
        transport_quit(s.transport);
        feed_close(&s.feed);
        thread_join(&answerer);
        inbox_fini(&s.inbox);
        transport_close(s.transport);
        for (unsigned i = 0; i < 3; i++) {
            thread_join(&a[i].thread);
            assert_int_not_equal(a[i].rv, 0);
            peer_close(a[i].peer);
        }
        feed_fini(&s.feed);
    }
}

static int connect_raw(const char *url)
{
    struct sockaddr_in addr = {.sin_family = AF_INET,
                               .sin_port = htons((uint16_t)atoi(strrchr(url, ':') + 1)),
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval limit = {.tv_sec = LONG_MS / 1000};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    assert_true(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof addr), 0);
    return fd;
}

/* Reads until the other side has closed. */
static void wait_closed(int fd)
{
    uint8_t byte;
    ssize_t n;

    while ((n = recv(fd, &byte, 1, 0)) > 0)
        ;
    assert_true(n == 0 || errno == ECONNRESET);
    close(fd);
}

static void bytes_that_are_not_ours_end_their_connection_only(void **state)
{
    /* The handshake of REQ, then a message of a length that nobody has. */
    static const uint8_t hello[8] = {0, 'S', 'P', 0, 0, 0x30, 0, 0};
    static const uint8_t length[8] = {0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff};
    struct server s, other;
    struct transport_peer *peer;
    struct asker a;
    uint8_t garbage[256];
    uint64_t refused = 0;
    struct mono begun = mono_now();
    int fd;

    (void)state;
    server_open(&other, "tcp://127.0.0.1:0");
    server_open(&s, "tcp://127.0.0.1:0");
    fd = connect_raw(transport_url(s.transport));
    dice_fill(garbage, sizeof garbage);
    garbage[0] = 1;
    assert_true(send(fd, garbage, sizeof garbage, MSG_NOSIGNAL) > 0);
    wait_closed(fd);
    fd = connect_raw(transport_url(s.transport));
    assert_int_equal(send(fd, hello, sizeof hello, MSG_NOSIGNAL), sizeof hello);
    assert_int_equal(send(fd, length, sizeof length, MSG_NOSIGNAL), sizeof length);
    wait_closed(fd);
    while (refused < 1 && mono_since_ms(begun) < LONG_MS)
        refused += transport_refused(s.transport);
    assert_true(refused == 1);
    assert_int_equal(peer_open(&peer, transport_url(s.transport)), 0);
    asker_start(&a, peer, "still there?");
    transport_reply(wait_request(&s), "yes", 3);
    thread_join(&a.thread);
    assert_string_equal(a.answer, "yes");
    assert_int_equal(transport_refused(s.transport), 0);
    assert_int_equal(transport_refused(other.transport), 0);
    peer_close(peer);
    server_close(&s);
    server_close(&other);
}

/* A connection that has asked something and been answered; what follows on it is up to the test. */
static int connect_and_ask(struct server *s)
{
    static const uint8_t bytes[] = {0, 'S', 'P', 0, 0, 0x30, 0, 0, 0, 0,  0,
                                    0, 0,   0,   0, 5, 0x80, 0, 0, 1, 'x'};
    int fd = connect_raw(transport_url(s->transport));

    assert_int_equal(send(fd, bytes, sizeof bytes, MSG_NOSIGNAL), sizeof bytes);
    transport_reply(wait_request(s), "yes", 3);
    return fd;
}

static void answer_one(void *server)
{
    transport_reply(wait_request(server), "yes", 3);
}

static void connections_beyond_the_limit_are_closed(void **state)
{
    static int fds[TRANSPORT_CONNECTIONS_MAX];
    struct server s;
    struct transport_peer *peer;
    struct transport_call call = {0};
    struct thread answers;
    struct mono begun;
    int err;

    (void)state;
    server_open(&s, "tcp://127.0.0.1:0");
    for (int i = 0; i < TRANSPORT_CONNECTIONS_MAX; i++)
        fds[i] = connect_and_ask(&s);
    int one_more = connect_raw(transport_url(s.transport));
    assert_int_equal(send(one_more, "\0SP\0\0\x30\0", 8, MSG_NOSIGNAL), 8);
    wait_closed(one_more);
    close(fds[0]); /* makes room */
    assert_int_equal(peer_open(&peer, transport_url(s.transport)), 0);
    assert_int_equal(thread_start(&answers, "answers", answer_one, &s), 0);
    begun = mono_now();
    do /* until the listener has seen that there is room, connections end, and calls with them */
        err = peer_call(peer, &call, "is there room?", 14, LONG_MS);
    while (err == -ERR_UNREACHABLE && mono_since_ms(begun) < LONG_MS);
    assert_int_equal(err, 0);
    assert_int_equal(call.len, 3);
    peer_done(&call);
    thread_join(&answers);
    peer_close(peer);
    for (int i = 1; i < TRANSPORT_CONNECTIONS_MAX; i++)
        close(fds[i]);
    server_close(&s);
}

static void an_address_is_taken_or_wrong(void **state)
{
    struct server s;
    struct transport *t;
    struct transport_peer *peer;
    char why[512] = "";

    (void)state;
    server_open(&s, "tcp://127.0.0.1:0");
    assert_int_equal(
        transport_listen(&t, transport_url(s.transport), into_inbox, &s, why, sizeof why),
        -ERR_BUSY);
    assert_non_null(strstr(why, "taken"));
    assert_int_equal(transport_listen(&t, "127.0.0.1:1", into_inbox, &s, why, sizeof why),
                     -ERR_INVALID);
    assert_int_equal(transport_listen(&t, "tcp://127.0.0.1", into_inbox, &s, why, sizeof why),
                     -ERR_INVALID);
    assert_int_not_equal(
        transport_listen(&t, "tcp://192.0.2.1:4600", into_inbox, &s, why, sizeof why), 0);
    assert_int_equal(peer_open(&peer, "ipc:///tmp/x"), -ERR_INVALID);
    assert_int_equal(peer_open(&peer, "tcp://host"), -ERR_INVALID);
    server_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_are_answered_in_any_order),
        cmocka_unit_test(a_broken_connection_ends_the_call_and_nothing_is_sent_twice),
        cmocka_unit_test(a_call_ends_in_time),
        cmocka_unit_test(quitting_ends_a_call_that_waits),
        cmocka_unit_test(calls_are_released_while_their_peer_quits),
        cmocka_unit_test(a_listener_may_quit_while_answers_are_given),
        cmocka_unit_test(bytes_that_are_not_ours_end_their_connection_only),
        cmocka_unit_test(connections_beyond_the_limit_are_closed),
        cmocka_unit_test(an_address_is_taken_or_wrong),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    transport_release_process();
    return failed;
}
