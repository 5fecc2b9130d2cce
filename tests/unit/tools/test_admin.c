/* SPDX-License-Identifier: Apache-2.0 */
/* Requests to the admin address as the routes see them, and the server over a real socket. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "tools/admin_http.h"
#include "tools/http_client.h"
#include "tools/names.h"

/* The distribution's nng, whose HTTP client this uses, is not built with the sanitizer, which so cannot
 * see how its reaper and its users agree. */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
    return "race:libnng\n";
}

static unsigned route_status(const char *method, const char *path, const char *origin,
                             enum admin_stage stage)
{
    static const struct admin_parts parts;
    struct admin_reply r = {0};
    struct admin_request q = {.method = method,
                              .path = path,
                              .query = "",
                              .origin = origin,
                              .stage = stage,
                              .parts = stage == ADMIN_READY ? &parts : NULL};
    const struct admin_route *route = admin_route(&q, &r);
    unsigned status = route ? 200 : r.status;
    if (!route)
        assert_true(r.body.len > 0);
    if (status == 405)
        assert_non_null(r.allow);
    buf_fini(&r.body);
    return status;
}

static void paths_and_methods_that_are_not_there_are_refused(void **state)
{
    (void)state;
    assert_int_equal(route_status("GET", "/info", NULL, ADMIN_READY), 200);
    assert_int_equal(route_status("HEAD", "/info", NULL, ADMIN_READY), 200);
    assert_int_equal(route_status("POST", "/promote", NULL, ADMIN_READY), 200);
    assert_int_equal(route_status("GET", "/", NULL, ADMIN_READY), 404);
    assert_int_equal(route_status("GET", "/info/", NULL, ADMIN_READY), 404);
    assert_int_equal(route_status("GET", "/INFO", NULL, ADMIN_READY), 404);
    assert_int_equal(route_status("GET", "/promote", NULL, ADMIN_READY), 405);
    assert_int_equal(route_status("POST", "/info", NULL, ADMIN_READY), 405);
    assert_int_equal(route_status("HEAD", "/export", NULL, ADMIN_READY), 405);
    assert_int_equal(route_status("BREW", "/info", NULL, ADMIN_READY), 405);
}

static void a_web_page_cannot_promote(void **state)
{
    (void)state;
    assert_int_equal(route_status("POST", "/promote", "http://elsewhere", ADMIN_READY), 403);
    assert_int_equal(route_status("GET", "/info", "http://elsewhere", ADMIN_READY), 200);
}

static void only_health_answers_while_the_daemon_starts(void **state)
{
    (void)state;
    assert_int_equal(route_status("GET", "/healthz", NULL, ADMIN_STARTING), 200);
    assert_int_equal(route_status("GET", "/info", NULL, ADMIN_STARTING), 503);
    assert_int_equal(route_status("POST", "/promote", NULL, ADMIN_ENDING), 503);
}

static void a_query_is_decoded(void **state)
{
    char out[16];
    (void)state;
    assert_int_equal(admin_query("name=a%2Fb+c&x=1", "name", out, sizeof out), 0);
    assert_string_equal(out, "a/b c");
    assert_int_equal(admin_query("name=a&x=1", "x", out, sizeof out), 0);
    assert_string_equal(out, "1");
    assert_int_equal(admin_query("xname=1&name", "name", out, sizeof out), 0);
    assert_string_equal(out, "");
    assert_int_equal(admin_query("", "name", out, sizeof out), -ERR_NOTFOUND);
    assert_int_equal(admin_query("names=1", "name", out, sizeof out), -ERR_NOTFOUND);
    assert_int_equal(admin_query("name=%", "name", out, sizeof out), -ERR_INVALID);
    assert_int_equal(admin_query("name=%4", "name", out, sizeof out), -ERR_INVALID);
    assert_int_equal(admin_query("name=%zz", "name", out, sizeof out), -ERR_INVALID);
    assert_int_equal(admin_query("name=a%00b", "name", out, sizeof out), -ERR_INVALID);
    assert_int_equal(admin_query("name=0123456789abcdef", "name", out, sizeof out), -ERR_INVALID);
}

static void what_is_escaped_comes_back(void **state)
{
    struct buf b = {0};
    char text[256], back[256], query[1024];
    (void)state;
    for (int i = 0; i < 255; i++)
        text[i] = (char)(i + 1);
    text[255] = '\0';
    assert_int_equal(http_escape(&b, text), 0);
    snprintf(query, sizeof query, "a=1&name=%.*s", (int)b.len, (const char *)b.data);
    assert_int_equal(admin_query(query, "name", back, sizeof back), 0);
    assert_string_equal(back, text);
    buf_fini(&b);
}

static void a_text_that_is_not_utf8_is_still_json(void **state)
{
    (void)state;
    json_t *t = admin_text("caf\xe9.db");
    assert_string_equal(json_string_value(t), "caf\xef\xbf\xbd.db");
    json_decref(t);
    t = admin_text("caf\xc3\xa9");
    assert_string_equal(json_string_value(t), "caf\xc3\xa9");
    json_decref(t);
}

static void a_name_stays_below_the_mount(void **state)
{
    static const char *const good[] = {
        "a.db", "a/b/c.db", "with space/\xc3\xbc-wal x.db", "..a", "a/...", "a-walx", ".hidden"};
    static const char *const bad[] = {"",       "/a",        "a//b",     "a/",       "../a",
                                      "a/../b", "./a",       "a/.",      "..",       "a.db-wal",
                                      "a-shm",  "a-journal", ".primary", "sub/.lag", "a.db-pos"};
    char why[128], component[300], name[600];
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        assert_int_equal(name_check(good[i], why, sizeof why), 0);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        why[0] = '\0';
        assert_int_equal(name_check(bad[i], why, sizeof why), -ERR_INVALID);
        assert_true(strlen(why) > 0);
    }
    memset(component, 'x', 256);
    component[256] = '\0';
    assert_int_equal(name_check(component, why, sizeof why), -ERR_INVALID);
    component[255] = '\0';
    snprintf(name, sizeof name, "%s/%s", component, component);
    assert_int_equal(name_check(name, why, sizeof why), 0);
}

/* A port that is free, or was a moment ago. */
static void open_somewhere(struct admin_http **a, char address[64])
{
    char why[512];
    for (int port = 20300; port < 20400; port++) {
        snprintf(address, 64, "127.0.0.1:%d", port);
        if (admin_http_open(a, address, why, sizeof why) == 0)
            return;
    }
    fail_msg("no port is free: %s", why);
}

static void close_server(struct admin_http *a)
{
    admin_http_quit(a);
    admin_http_join(a);
    admin_http_close(a);
}

static unsigned get(const char *address, const char *method, const char *uri, char *body, size_t n)
{
    struct http_reply reply;
    char why[HTTP_WHY_MAX];
    assert_int_equal(http_call(address, method, uri, 5000, &reply, why, sizeof why), 0);
    unsigned status = reply.status;
    snprintf(body, n, "%s", (const char *)reply.body.data);
    http_reply_fini(&reply);
    return status;
}

static void the_server_answers_before_the_daemon_is_there(void **state)
{
    struct admin_http *a;
    char address[64], body[512];
    (void)state;
    open_somewhere(&a, address);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(get(address, "GET", "/healthz", body, sizeof body), 503);
        assert_non_null(strstr(body, "starting"));
        assert_int_equal(get(address, "GET", "/info?x=1", body, sizeof body), 503);
        assert_int_equal(get(address, "GET", "/nothing", body, sizeof body), 404);
        assert_non_null(strstr(body, "error"));
        assert_int_equal(get(address, "DELETE", "/info", body, sizeof body), 405);
    }
    close_server(a);
}

static int connect_to(const char *address)
{
    struct sockaddr_in addr = {.sin_family = AF_INET,
                               .sin_port = htons((uint16_t)atoi(strchr(address, ':') + 1)),
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval limit = {.tv_sec = 5};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof addr), 0);
    return fd;
}

/* Header after header, one write each, so that the server takes each when it comes. (How many are on
 * their way when it refuses is up to the kernel.) */
static void headers_without_end_are_not_taken(void **state)
{
    enum { LIMIT = 64000000 };
    struct admin_http *a;
    char address[64], line[1000], body[512];
    size_t sent = 0;
    (void)state;
    open_somewhere(&a, address);
    int fd = connect_to(address);
    int n = snprintf(line, sizeof line, "GET /healthz HTTP/1.1\r\nHost: x\r\n");
    assert_int_equal(send(fd, line, (size_t)n, MSG_NOSIGNAL), n);
    for (int i = 0; sent < LIMIT; i++) {
        n = snprintf(line, sizeof line, "X-%d: %0800d\r\n", i, i);
        if (send(fd, line, (size_t)n, MSG_NOSIGNAL) != n)
            break;
        sent += (size_t)n;
        if (recv(fd, line, sizeof line, MSG_DONTWAIT) >= 0)
            break; /* it has refused, or closed */
    }
    assert_true(sent < LIMIT);
    close(fd);
    assert_int_equal(get(address, "GET", "/healthz", body, sizeof body), 503);
    close_server(a);
}

/* This process's descriptors of connections that came to the address. */
static unsigned accepted(const char *address)
{
    unsigned count = 0;
    for (int fd = 3; fd < 1000; fd++) {
        struct sockaddr_in here, there;
        socklen_t n = sizeof here, m = sizeof there;
        if (getpeername(fd, (struct sockaddr *)&there, &m) == 0 &&
            getsockname(fd, (struct sockaddr *)&here, &n) == 0 &&
            ntohs(here.sin_port) == atoi(strchr(address, ':') + 1))
            count++;
    }
    return count;
}

static void connections_have_a_limit(void **state)
{
    enum { MOST = 64, TRIED = 100 };
    struct admin_http *a;
    char address[64], body[512];
    int fds[TRIED];
    struct mono began = mono_now();
    (void)state;
    open_somewhere(&a, address);
    for (int i = 0; i < TRIED; i++) {
        fds[i] = connect_to(address);
        assert_int_equal(send(fds[i], "GET ", 4, MSG_NOSIGNAL), 4);
    }
    while (accepted(address) < MOST && mono_since_ms(began) < 5000)
        usleep(1000); /* the server sends no event that it has taken one */
    assert_int_equal(accepted(address), MOST);
    for (int i = 0; i < TRIED; i++)
        close(fds[i]);
    assert_int_equal(get(address, "GET", "/healthz", body, sizeof body), 503);
    close_server(a);
}

static void a_body_or_a_path_that_nobody_needs_is_refused(void **state)
{
    static const struct {
        const char *begin;
        size_t path; /* bytes between the two */
        const char *end, *status;
    } cases[] = {{"POST /promote", 0, "Content-Length: 4097\r\n", "413"},
                 {"POST /promote", 0, "Content-Length: 99999999999999999999\r\n", "413"},
                 {"GET /healthz?", 8192, "", "414"}};
    struct admin_http *a;
    char address[64], text[10000], path[9000];
    (void)state;
    open_somewhere(&a, address);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        memset(path, 'x', sizeof path);
        path[cases[i].path] = '\0';
        int n = snprintf(text, sizeof text, "%s%s HTTP/1.1\r\nHost: x\r\n%s\r\n", cases[i].begin,
                         path, cases[i].end);
        int fd = connect_to(address);
        assert_int_equal(send(fd, text, (size_t)n, MSG_NOSIGNAL), n);
        assert_true(recv(fd, text, 12, MSG_WAITALL) == 12);
        text[12] = '\0';
        assert_string_equal(text + 9, cases[i].status);
        close(fd);
    }
    close_server(a);
}

static void a_port_that_is_taken_is_refused_with_a_sentence(void **state)
{
    struct admin_http *a, *b;
    char address[64], other[64], why[512] = "";
    (void)state;
    open_somewhere(&a, address);
    snprintf(other, sizeof other, "localhost:%s", strchr(address, ':') + 1);
    assert_int_equal(admin_http_open(&b, other, why, sizeof why), -ERR_BUSY);
    assert_non_null(strstr(why, other));
    close_server(a);
}

static void nobody_there_is_told_as_such(void **state)
{
    struct http_reply reply;
    char why[HTTP_WHY_MAX] = "";
    (void)state;
    assert_int_equal(http_call("127.0.0.1:1", "GET", "/info", 5000, &reply, why, sizeof why),
                     -ERR_UNREACHABLE);
    assert_non_null(strstr(why, "127.0.0.1:1"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paths_and_methods_that_are_not_there_are_refused),
        cmocka_unit_test(a_web_page_cannot_promote),
        cmocka_unit_test(only_health_answers_while_the_daemon_starts),
        cmocka_unit_test(a_query_is_decoded),
        cmocka_unit_test(what_is_escaped_comes_back),
        cmocka_unit_test(a_text_that_is_not_utf8_is_still_json),
        cmocka_unit_test(a_name_stays_below_the_mount),
        cmocka_unit_test(the_server_answers_before_the_daemon_is_there),
        cmocka_unit_test(headers_without_end_are_not_taken),
        cmocka_unit_test(connections_have_a_limit),
        cmocka_unit_test(a_body_or_a_path_that_nobody_needs_is_refused),
        cmocka_unit_test(a_port_that_is_taken_is_refused_with_a_sentence),
        cmocka_unit_test(nobody_there_is_told_as_such),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
