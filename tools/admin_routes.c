/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/admin.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/err.h"

static const struct admin_route routes[] = {
    {"GET", "/info", admin_info, NULL},       {"GET", "/metrics", admin_metrics, NULL},
    {"GET", "/healthz", admin_health, NULL},  {"GET", "/primary", admin_primary, NULL},
    {"GET", "/replica", admin_replica, NULL}, {"POST", "/promote", NULL, admin_promote},
    {"GET", "/export", NULL, admin_export},   {"POST", "/verify", NULL, admin_verify},
};

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)tolower((unsigned char)c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Decodes up to '&' or the end. NUL bytes are refused: what follows one would be ignored. */
static int decode_value(const char *p, char *out, size_t out_size)
{
    size_t n = 0;
    for (; *p && *p != '&'; p++) {
        int c = *p == '+' ? ' ' : (unsigned char)*p;
        if (*p == '%') {
            int high = hex_digit(p[1]);
            int low = high < 0 ? -1 : hex_digit(p[2]);
            if (low < 0 || (high == 0 && low == 0))
                return -ERR_INVALID;
            c = high * 16 + low;
            p += 2;
        }
        if (n + 1 >= out_size)
            return -ERR_INVALID;
        out[n++] = (char)c;
    }
    out[n] = '\0';
    return 0;
}

/* A document for people: indented, with a newline at the end. */
static int dump(struct buf *body, json_t *document)
{
    char *text = document ? json_dumps(document, JSON_INDENT(2) | JSON_PRESERVE_ORDER) : NULL;
    if (!text)
        return -ERR_NOMEM;
    int err = buf_append(body, text, strlen(text));
    if (!err)
        err = buf_append(body, "\n", 1);
    free(text);
    return err;
}

/* A browser page of another site may send a POST to a loopback address without its user knowing; it
 * says so with an Origin. Programs and people send none. */
static bool comes_from_a_page(const struct admin_request *q)
{
    return q->origin && strcmp(q->method, "POST") == 0;
}

void admin_split(char *uri, struct admin_request *q)
{
    uri[strcspn(uri, "#")] = '\0';
    char *mark = strchr(uri, '?');
    if (mark)
        *mark = '\0';
    q->path = uri;
    q->query = mark ? mark + 1 : "";
}

const struct admin_route *admin_route(const struct admin_request *q, struct admin_reply *r)
{
    const struct admin_route *found = NULL;
    bool head = strcmp(q->method, "HEAD") == 0;
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++)
        if (strcmp(q->path, routes[i].path) == 0)
            found = &routes[i];
    if (!found) {
        admin_refuse(r, 404,
                     "there is no such path; try /info, /metrics, /healthz, /primary, /replica, "
                     "/promote, /export or /verify");
        return NULL;
    }
    if (strcmp(q->method, found->method) != 0 &&
        !(head && found->answer && strcmp(found->method, "GET") == 0)) {
        admin_refuse(r, 405, "%s takes %s", found->path, found->method);
        r->allow = found->method;
        return NULL;
    }
    if (comes_from_a_page(q)) {
        admin_refuse(r, 403, "%s is not for web pages", found->path);
        return NULL;
    }
    if (!q->parts && found->answer != admin_health) {
        admin_refuse(r, 503, "the daemon is %s",
                     q->stage == ADMIN_ENDING ? "ending" : "starting; try again in a moment");
        return NULL;
    }
    return found;
}

int admin_query(const char *query, const char *name, char *out, size_t out_size)
{
    size_t n = strlen(name);
    for (const char *p = query; p; p = strchr(p, '&')) {
        if (*p == '&')
            p++;
        if (strncmp(p, name, n) != 0)
            continue;
        if (p[n] == '=')
            return decode_value(p + n + 1, out, out_size);
        if (p[n] == '&' || p[n] == '\0')
            return decode_value("", out, out_size);
    }
    return -ERR_NOTFOUND;
}

void admin_refuse(struct admin_reply *r, unsigned status, const char *fmt, ...)
{
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    admin_reply_json(r, status, json_pack("{s:o}", "error", admin_text(text)));
}

void admin_reply_json(struct admin_reply *r, unsigned status, json_t *document)
{
    buf_reset(&r->body);
    r->status = status;
    r->type = "application/json";
    if (dump(&r->body, document) != 0) {
        buf_reset(&r->body);
        r->status = 500;
    }
    json_decref(document);
}

json_t *admin_text(const char *text)
{
    json_t *plain = json_string(text);
    if (plain)
        return plain;
    struct buf clean = {0};
    for (const char *p = text; *p; p++) {
        bool ascii = (unsigned char)*p < 0x80;
        if (buf_append(&clean, ascii ? p : "\xef\xbf\xbd", ascii ? 1 : 3) != 0)
            break;
    }
    plain = json_stringn((const char *)clean.data, clean.len);
    buf_fini(&clean);
    return plain;
}
