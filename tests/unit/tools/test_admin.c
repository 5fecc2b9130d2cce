/* SPDX-License-Identifier: Apache-2.0 */
/* Requests to the admin address as the routes see them, and the server over a real socket. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ltx/base/err.h"
#include "tools/admin_http.h"
#include "tools/http_client.h"
#include "tools/names.h"

/* The distribution's nng is not built with the sanitizer, which so cannot see how its reaper and
 * its users agree. */
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

static void a_port_that_is_taken_is_refused_with_a_sentence(void **state)
{
    struct admin_http *a, *b;
    char address[64], other[64], why[512] = "";
    (void)state;
    open_somewhere(&a, address);
    /* The same port by another name: nng itself would share one server within a process. */
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
        cmocka_unit_test(a_port_that_is_taken_is_refused_with_a_sentence),
        cmocka_unit_test(nobody_there_is_told_as_such),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
