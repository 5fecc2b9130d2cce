/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/http_client.h"

#include <ctype.h>
#include <nng/nng.h>
#include <nng/supplemental/http/http.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/err.h"
#include "ltx/base/sparse.h"

#define BODY_MAX (64u << 20) /* bytes of an answer kept in memory */
#define PIECE (256u << 10)
#define STEP_MS 10000

/* One exchange. A zeroed struct can be released. */
struct exchange {
    const char *address;
    nng_url *url;
    nng_http_client *client;
    nng_http_conn *conn;
    nng_http_req *req;
    nng_http_res *res;
    nng_aio *aio;
    int64_t timeout_ms;
    char *why;
    size_t why_size;
};

static int from_nng(int rv)
{
    switch (rv) {
    case 0: return 0;
    case NNG_ENOMEM: return -ERR_NOMEM;
    case NNG_ETIMEDOUT: return -ERR_TIMEOUT;
    case NNG_ECONNREFUSED:
    case NNG_ECONNRESET:
    case NNG_ECONNABORTED:
    case NNG_ECLOSED:
    case NNG_EPEERAUTH:
    case NNG_EUNREACHABLE:
    case NNG_EADDRINVAL: return -ERR_UNREACHABLE;
    case NNG_EPROTO: return -ERR_PROTOCOL;
    default: return -ERR_IO;
    }
}

/* Waits for what was begun on the aio. */
static int wait_for(struct exchange *x)
{
    nng_aio_wait(x->aio);
    return nng_aio_result(x->aio);
}

static int connect_to(struct exchange *x)
{
    char text[512];
    snprintf(text, sizeof text, "http://%s/", x->address);
    int rv = nng_url_parse(&x->url, text);
    if (rv == 0)
        rv = nng_aio_alloc(&x->aio, NULL, NULL);
    if (rv == 0)
        rv = nng_http_client_alloc(&x->client, x->url);
    if (rv == 0) {
        nng_aio_set_timeout(x->aio, STEP_MS);
        nng_http_client_connect(x->client, x->aio);
        rv = wait_for(x);
    }
    if (rv == 0) {
        x->conn = nng_aio_get_output(x->aio, 0);
        return 0;
    }
    snprintf(
        x->why, x->why_size,
        "nothing answers at http://%s (%s): is the daemon running? Give its admin address with "
        "--http HOST:PORT, or its configuration with -c FILE",
        x->address, nng_strerror(rv));
    return rv == NNG_ENOMEM ? -ERR_NOMEM : -ERR_UNREACHABLE;
}

/* Sends the request and reads the head of the answer. */
static int ask(struct exchange *x, const char *method, const char *uri)
{
    int err = connect_to(x);
    if (err)
        return err;
    int rv = nng_http_req_alloc(&x->req, x->url);
    if (rv == 0)
        rv = nng_http_res_alloc(&x->res);
    if (rv == 0)
        rv = nng_http_req_set_method(x->req, method);
    if (rv == 0)
        rv = nng_http_req_set_uri(x->req, uri);
    if (rv == 0)
        rv = nng_http_req_set_header(x->req, "Connection", "close");
    if (rv == 0 && strcmp(method, "POST") == 0)
        rv = nng_http_req_set_header(x->req, "Content-Length", "0");
    if (rv == 0) {
        nng_http_conn_write_req(x->conn, x->req, x->aio);
        rv = wait_for(x);
    }
    if (rv == 0) {
        nng_aio_set_timeout(x->aio, (nng_duration)x->timeout_ms);
        nng_http_conn_read_res(x->conn, x->res, x->aio);
        rv = wait_for(x);
    }
    if (rv != 0)
        snprintf(x->why, x->why_size, "the daemon at http://%s gave no answer: %s", x->address,
                 nng_strerror(rv));
    return from_nng(rv);
}

static void end_exchange(struct exchange *x)
{
    if (x->conn)
        nng_http_conn_close(x->conn);
    if (x->req)
        nng_http_req_free(x->req);
    if (x->res)
        nng_http_res_free(x->res);
    if (x->client)
        nng_http_client_free(x->client);
    if (x->aio)
        nng_aio_free(x->aio);
    if (x->url)
        nng_url_free(x->url);
}

/* The stated length of the body; every answer of ours states it. */
static int body_size(struct exchange *x, uint64_t *size)
{
    const char *text = nng_http_res_get_header(x->res, "Content-Length");
    char *end;
    if (text && isdigit((unsigned char)*text)) {
        *size = strtoull(text, &end, 10);
        if (!*end && *size <= INT64_MAX)
            return 0;
    }
    snprintf(x->why, x->why_size, "what answers at http://%s is not tandemfs", x->address);
    return -ERR_PROTOCOL;
}

static int read_piece(struct exchange *x, void *data, size_t n, size_t *got)
{
    nng_iov iov = {.iov_buf = data, .iov_len = n};
    nng_aio_set_timeout(x->aio, 6 * STEP_MS);
    int rv = nng_aio_set_iov(x->aio, 1, &iov);
    if (rv == 0) {
        nng_http_conn_read(x->conn, x->aio);
        rv = wait_for(x);
    }
    *got = rv == 0 ? nng_aio_count(x->aio) : 0;
    if (rv == 0 && *got == 0)
        rv = NNG_ECLOSED;
    if (rv != 0)
        snprintf(x->why, x->why_size, "the answer of http://%s was cut: %s", x->address,
                 nng_strerror(rv));
    return from_nng(rv);
}

static int body_to_memory(struct exchange *x, struct http_reply *reply)
{
    if (reply->size > BODY_MAX) {
        snprintf(x->why, x->why_size, "the answer of http://%s is too long", x->address);
        return -ERR_LIMIT;
    }
    int err = buf_reserve(&reply->body, (size_t)reply->size + 1);
    while (!err && reply->body.len < reply->size) {
        size_t got;
        err = read_piece(x, reply->body.data + reply->body.len,
                         (size_t)reply->size - reply->body.len, &got);
        reply->body.len += got;
    }
    if (!err)
        reply->body.data[reply->body.len] = '\0';
    return err;
}

static int body_to_file(struct exchange *x, uint64_t size, int fd, http_progress *progress,
                        void *ctx)
{
    uint8_t *piece = malloc(PIECE);
    uint64_t done = 0;
    struct sparse file;
    int err = piece ? 0 : -ERR_NOMEM;
    sparse_begin(&file, fd);
    while (!err && done < size) {
        size_t got, want = size - done < PIECE ? (size_t)(size - done) : PIECE;
        err = read_piece(x, piece, want, &got);
        if (err)
            break;
        err = sparse_write(&file, piece, got, (int64_t)done);
        done += got;
        if (!err && done == size)
            err = sparse_set_size(&file, (int64_t)size);
        if (err)
            snprintf(x->why, x->why_size, "cannot write the copy: %s", err_text(err));
        if (progress)
            progress(ctx, done, size);
    }
    free(piece);
    return err;
}

void http_reply_fini(struct http_reply *r)
{
    buf_fini(&r->body);
    *r = (struct http_reply){0};
}

int http_call(const char *address, const char *method, const char *uri, int64_t timeout_ms,
              struct http_reply *reply, char *why, size_t why_size)
{
    struct exchange x = {
        .address = address, .timeout_ms = timeout_ms, .why = why, .why_size = why_size};
    *reply = (struct http_reply){0};
    int err = ask(&x, method, uri);
    if (!err) {
        reply->status = nng_http_res_get_status(x.res);
        err = body_size(&x, &reply->size);
    }
    if (!err)
        err = body_to_memory(&x, reply);
    if (err)
        http_reply_fini(reply);
    end_exchange(&x);
    return err;
}

int http_download(const char *address, const char *uri, int fd, http_progress *progress, void *ctx,
                  struct http_reply *reply, char *why, size_t why_size)
{
    struct exchange x = {
        .address = address, .timeout_ms = NNG_DURATION_INFINITE, .why = why, .why_size = why_size};
    *reply = (struct http_reply){0};
    int err = ask(&x, "GET", uri);
    if (!err) {
        reply->status = nng_http_res_get_status(x.res);
        err = body_size(&x, &reply->size);
    }
    if (!err)
        err = reply->status == 200 ? body_to_file(&x, reply->size, fd, progress, ctx)
                                   : body_to_memory(&x, reply);
    if (err)
        http_reply_fini(reply);
    end_exchange(&x);
    return err;
}

int http_json(const char *address, const char *method, const char *uri, int64_t timeout_ms,
              json_t **out, unsigned *status, char *why, size_t why_size)
{
    struct http_reply reply;
    int err = http_call(address, method, uri, timeout_ms, &reply, why, why_size);
    if (err)
        return err;
    if (status)
        *status = reply.status;
    json_t *doc = json_loadb((const char *)reply.body.data, reply.body.len, 0, NULL);
    if (reply.status != 200) {
        http_error_text(&reply, why, why_size);
        err = -ERR_INVALID;
    } else if (!json_is_object(doc)) {
        snprintf(why, why_size, "what answers at http://%s is not tandemfs", address);
        err = -ERR_PROTOCOL;
    }
    http_reply_fini(&reply);
    if (err)
        json_decref(doc);
    else
        *out = doc;
    return err;
}

void http_error_text(const struct http_reply *reply, char *out, size_t out_size)
{
    json_t *doc = json_loadb((const char *)reply->body.data, reply->body.len, 0, NULL);
    const char *text = json_string_value(json_object_get(doc, "error"));
    if (text)
        snprintf(out, out_size, "%s", text);
    else
        snprintf(out, out_size, "the daemon answered with HTTP status %u", reply->status);
    json_decref(doc);
}

int http_escape(struct buf *out, const char *text)
{
    int err = 0;
    for (; *text && !err; text++) {
        unsigned char c = (unsigned char)*text;
        if (isalnum(c) || strchr("-._~/", c))
            err = buf_append(out, text, 1);
        else
            err = buf_printf(out, "%%%02X", c);
    }
    return err;
}
