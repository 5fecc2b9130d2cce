/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP for the admin address, by nng's server. Its handlers run on nng's own threads, which must
 * not block: a quick request is queued for the one admin thread, and a long one is taken away from
 * the server together with its connection and gets a thread of its own.
 */
#include "tools/admin_http.h"

#include <inttypes.h>
#include <nng/nng.h>
#include <nng/supplemental/http/http.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/err.h"
#include "ltx/base/logger.h"
#include "ltx/base/mutex.h"
#include "ltx/base/thread.h"

#define QUEUE_MAX 64          /* quick requests that wait */
#define JOBS_MAX 8            /* long requests at a time */
#define BODY_MAX 4096         /* bytes that a request may carry; none of ours needs any */
#define SEND_TIMEOUT_MS 60000 /* for one piece; who takes none for so long is gone */

enum job_state { JOB_FREE, JOB_RUNNING, JOB_DONE };

struct admin_stream {
    struct admin_http *server;
    struct thread thread;
    enum job_state state; /* guarded by the server's mutex, as are the next four */
    nng_aio *aio;
    char what[256];
    uint64_t done, total, bytes_done, bytes_total;
    nng_aio *watch; /* reads what the other side never sends: ends when it is gone */
    uint8_t nothing;
    volatile bool cancel; /* set under the mutex, read anywhere */
    nng_http_conn *conn;
    const struct admin_route *route;
    char *method, *uri, *query; /* the query points into the uri */
    enum admin_stage stage;
    bool begun; /* the head is out: the reply is no longer ours to choose */
};

struct admin_http {
    nng_http_server *server;
    struct thread thread;
    struct mutex mutex; /* guards all below */
    struct cond work;
    nng_aio *queue[QUEUE_MAX];
    size_t queued;
    struct admin_stream jobs[JOBS_MAX];
    enum admin_stage stage;
    const struct admin_parts *parts;
    bool quit;
};

static int from_nng(int rv)
{
    switch (rv) {
    case 0: return 0;
    case NNG_ENOMEM: return -ERR_NOMEM;
    case NNG_EADDRINUSE: return -ERR_BUSY;
    case NNG_EPERM: return -ERR_ACCESS;
    case NNG_ETIMEDOUT: return -ERR_TIMEOUT;
    case NNG_ECANCELED:
    case NNG_ECLOSED: return -ERR_CLOSED;
    case NNG_EADDRINVAL: return -ERR_INVALID;
    default: return -ERR_IO;
    }
}

static nng_http_res *make_response(const struct admin_reply *r)
{
    nng_http_res *res;
    if (nng_http_res_alloc(&res) != 0)
        return NULL;
    int rv = nng_http_res_set_status(res, (uint16_t)(r->status ? r->status : 500));
    if (rv == 0 && r->type)
        rv = nng_http_res_set_header(res, "Content-Type", r->type);
    if (rv == 0 && r->allow)
        rv = nng_http_res_set_header(res, "Allow", r->allow);
    if (rv == 0)
        rv = nng_http_res_set_header(res, "Cache-Control", "no-store");
    if (rv == 0)
        rv = nng_http_res_copy_data(res, r->body.data, r->body.len);
    if (rv == 0)
        return res;
    nng_http_res_free(res);
    return NULL;
}

/* Ends a quick request; takes the reply's body. */
static void finish(nng_aio *aio, struct admin_reply *r)
{
    nng_http_res *res = make_response(r);
    buf_fini(&r->body);
    if (!res) {
        nng_aio_finish(aio, NNG_ENOMEM);
        return;
    }
    nng_aio_set_output(aio, 0, res);
    nng_aio_finish(aio, 0);
}

/* A request as the routes want it. `uri` is a copy that is cut at its '?'. */
static void read_request(struct admin_http *a, nng_http_req *req, char *uri,
                         struct admin_request *q)
{
    *q = (struct admin_request){.method = nng_http_req_get_method(req),
                                .path = uri,
                                .query = "",
                                .origin = nng_http_req_get_header(req, "Origin"),
                                .server = a};
    uri[strcspn(uri, "#")] = '\0';
    char *mark = strchr(uri, '?');
    if (mark) {
        *mark = '\0';
        q->query = mark + 1;
    }
    mutex_lock(&a->mutex);
    q->stage = a->stage;
    q->parts = a->stage == ADMIN_ENDING ? NULL : a->parts;
    mutex_unlock(&a->mutex);
}

static void answer(struct admin_http *a, nng_aio *aio)
{
    nng_http_req *req = nng_aio_get_input(aio, 0);
    struct admin_reply r = {0};
    struct admin_request q;
    char *uri = strdup(nng_http_req_get_uri(req));
    if (!uri) {
        nng_aio_finish(aio, NNG_ENOMEM);
        return;
    }
    read_request(a, req, uri, &q);
    const struct admin_route *route = admin_route(&q, &r);
    if (route)
        route->answer(&q, &r);
    finish(aio, &r);
    free(uri);
}

static void serve(void *arg)
{
    struct admin_http *a = arg;
    mutex_lock(&a->mutex);
    for (;;) {
        while (a->queued == 0 && !a->quit)
            cond_wait(&a->work, &a->mutex);
        if (a->queued == 0)
            break;
        nng_aio *aio = a->queue[0];
        memmove(a->queue, a->queue + 1, --a->queued * sizeof a->queue[0]);
        mutex_unlock(&a->mutex);
        answer(a, aio);
        mutex_lock(&a->mutex);
    }
    mutex_unlock(&a->mutex);
}

/* One transfer on a job's own connection, waited for. */
static int transfer(struct admin_stream *s, void (*start)(struct admin_stream *s, void *arg),
                    void *arg)
{
    if (__atomic_load_n(&s->cancel, __ATOMIC_RELAXED))
        return -ERR_CLOSED;
    nng_aio_set_timeout(s->aio, SEND_TIMEOUT_MS);
    start(s, arg);
    nng_aio_wait(s->aio);
    int rv = nng_aio_result(s->aio);
    if (rv != 0)
        __atomic_store_n(&s->cancel, true, __ATOMIC_RELAXED); /* nobody listens any more: whatever
                                                                 is still being made is in vain */
    return from_nng(rv);
}

static void start_write(struct admin_stream *s, void *arg)
{
    if (nng_aio_set_iov(s->aio, 1, arg) == 0)
        nng_http_conn_write_all(s->conn, s->aio);
}

static void start_response(struct admin_stream *s, void *arg)
{
    nng_http_conn_write_res(s->conn, arg, s->aio);
}

static int send_reply(struct admin_stream *s, const struct admin_reply *r)
{
    nng_http_res *res = make_response(r);
    if (!res)
        return -ERR_NOMEM;
    nng_http_res_set_header(res, "Connection", "close");
    int err = transfer(s, start_response, res);
    nng_http_res_free(res);
    return err;
}

static void run_job(void *arg)
{
    struct admin_stream *s = arg;
    struct admin_http *a = s->server;
    struct admin_reply r = {0};
    struct admin_request q = {.method = s->method,
                              .path = s->route->path,
                              .query = s->query,
                              .stage = s->stage,
                              .parts = a->parts,
                              .server = a};
    int err = s->route->work(&q, &r, s);
    if (err && !s->begun && r.status == 0)
        admin_refuse(&r, 500, "%s", err_text(err));
    if (!s->begun)
        err = send_reply(s, &r);
    if (err && s->begun)
        log_warn("admin", "%s ended early: %s", s->what[0] ? s->what : s->route->path,
                 err_text(err));
    buf_fini(&r.body);
    if (s->watch) {
        nng_aio_stop(s->watch);
        nng_aio_free(s->watch);
    }
    nng_http_conn_close(s->conn); /* frees it */
    mutex_lock(&a->mutex);
    nng_aio_free(s->aio);
    s->aio = NULL;
    s->what[0] = '\0';
    free(s->method);
    free(s->uri);
    s->state = JOB_DONE;
    mutex_unlock(&a->mutex);
}

/* A free place for a job, marked as taken, or NULL. */
static struct admin_stream *take_job(struct admin_http *a)
{
    struct admin_stream *found = NULL;
    mutex_lock(&a->mutex);
    for (size_t i = 0; i < JOBS_MAX && !found && !a->quit; i++)
        if (a->jobs[i].state != JOB_RUNNING)
            found = &a->jobs[i];
    if (found) {
        thread_join(&found->thread); /* it has nothing left to do but to return */
        *found = (struct admin_stream){.server = a, .state = JOB_RUNNING};
    }
    mutex_unlock(&a->mutex);
    return found;
}

static void free_job(struct admin_http *a, struct admin_stream *s)
{
    free(s->method);
    free(s->uri);
    if (s->aio)
        nng_aio_free(s->aio);
    mutex_lock(&a->mutex);
    *s = (struct admin_stream){.server = a};
    mutex_unlock(&a->mutex);
}

/*
 * Takes the connection away from the server and gives it to a thread. After the hijack neither the
 * connection nor the request is the server's, so both are released here if no thread can be had.
 */
static int start_job(struct admin_http *a, nng_aio *aio, const struct admin_route *route,
                     const struct admin_request *q)
{
    nng_http_req *req = nng_aio_get_input(aio, 0);
    struct admin_stream *s = take_job(a);
    if (!s)
        return -ERR_BUSY;
    s->route = route;
    s->stage = q->stage;
    s->conn = nng_aio_get_input(aio, 2);
    s->method = strdup(q->method);
    s->uri = strdup(q->query);
    s->query = s->uri;
    nng_aio *own = NULL;
    if (!s->method || !s->uri || nng_aio_alloc(&own, NULL, NULL) != 0) {
        free_job(a, s);
        return -ERR_NOMEM;
    }
    nng_http_hijack(s->conn);
    mutex_lock(&a->mutex);
    s->aio = own;
    int err = a->quit ? -ERR_CLOSED : thread_start(&s->thread, "admin-job", run_job, s);
    mutex_unlock(&a->mutex);
    if (err) {
        nng_http_conn_close(s->conn);
        free_job(a, s);
    }
    nng_aio_finish(aio, 0);
    nng_http_req_free(req);
    return 0;
}

static bool enqueue(struct admin_http *a, nng_aio *aio)
{
    mutex_lock(&a->mutex);
    bool room = a->queued < QUEUE_MAX && !a->quit;
    if (room) {
        a->queue[a->queued++] = aio;
        cond_signal(&a->work);
    }
    mutex_unlock(&a->mutex);
    return room;
}

/* On one of nng's threads: must not block. */
static void handle(nng_aio *aio)
{
    nng_http_req *req = nng_aio_get_input(aio, 0);
    struct admin_http *a = nng_http_handler_get_data(nng_aio_get_input(aio, 1));
    struct admin_reply r = {0};
    struct admin_request q;
    char *uri = strdup(nng_http_req_get_uri(req));
    if (!uri) {
        nng_aio_finish(aio, NNG_ENOMEM);
        return;
    }
    read_request(a, req, uri, &q);
    const struct admin_route *route = admin_route(&q, &r);
    int err = 0;
    if (!route)
        finish(aio, &r);
    else if (route->answer)
        err = enqueue(a, aio) ? 0 : -ERR_BUSY;
    else
        err = start_job(a, aio, route, &q);
    if (err) {
        admin_refuse(&r, 503, "too many requests at a time; try again in a moment");
        finish(aio, &r);
    }
    free(uri);
}

/* When the server and the last handler that still ran have let go of it. */
static void release(void *arg)
{
    struct admin_http *a = arg;
    cond_fini(&a->work);
    mutex_fini(&a->mutex);
    free(a);
}

/* Makes the handler of everything; from then on the handler owns `a`, also on failure. */
static int add_handler(struct admin_http *a)
{
    nng_http_handler *h;
    int rv = nng_http_handler_alloc(&h, "/", handle);
    if (rv != 0) {
        release(a);
        return rv;
    }
    nng_http_handler_set_data(h, a, release);
    nng_http_handler_set_method(h, NULL);
    nng_http_handler_set_tree(h);
    nng_http_handler_collect_body(h, true, BODY_MAX);
    rv = nng_http_server_add_handler(a->server, h);
    if (rv != 0)
        nng_http_handler_free(h);
    return rv;
}

static int start_server(struct admin_http *a, nng_http_server *server)
{
    int rv = add_handler(a);
    if (rv == 0) {
        rv = nng_http_server_start(server);
        if (rv == 0 && thread_start(&a->thread, "admin", serve, a) != 0) {
            nng_http_server_stop(server);
            rv = NNG_ENOMEM;
        }
    }
    if (rv != 0)
        nng_http_server_release(server);
    return rv;
}

int admin_stream_begin(struct admin_stream *s, const char *type, uint64_t size,
                       const char *position)
{
    char head[512];
    int n = snprintf(head, sizeof head,
                     "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %" PRIu64
                     "\r\n%s%s%sCache-Control: no-store\r\nConnection: close\r\n\r\n",
                     type, size, position ? "X-Tandemfs-Position: " : "", position ? position : "",
                     position ? "\r\n" : "");
    s->begun = true;
    return admin_stream_write(s, head, (size_t)n);
}

int admin_stream_write(struct admin_stream *s, const void *data, size_t n)
{
    nng_iov iov = {.iov_buf = (void *)data, .iov_len = n};
    return n ? transfer(s, start_write, &iov) : 0;
}

const volatile bool *admin_stream_cancel(struct admin_stream *s)
{
    return &s->cancel;
}

void admin_stream_progress(struct admin_stream *s, const char *what, uint64_t done, uint64_t total)
{
    mutex_lock(&s->server->mutex);
    snprintf(s->what, sizeof s->what, "%s", what);
    s->done = done;
    s->total = total;
    mutex_unlock(&s->server->mutex);
}

void admin_stream_bytes(struct admin_stream *s, uint64_t done, uint64_t total)
{
    mutex_lock(&s->server->mutex);
    s->bytes_done = done;
    s->bytes_total = total;
    mutex_unlock(&s->server->mutex);
}

static void other_side_gone(void *arg)
{
    struct admin_stream *s = arg;
    __atomic_store_n(&s->cancel, true, __ATOMIC_RELAXED);
}

void admin_stream_watch(struct admin_stream *s)
{
    nng_iov iov = {.iov_buf = &s->nothing, .iov_len = sizeof s->nothing};
    if (s->watch || nng_aio_alloc(&s->watch, other_side_gone, s) != 0)
        return; /* then it ends when the answer finds nobody */
    nng_aio_set_timeout(s->watch, NNG_DURATION_INFINITE);
    if (nng_aio_set_iov(s->watch, 1, &iov) == 0)
        nng_http_conn_read(s->conn, s->watch);
}

size_t admin_jobs(struct admin_http *a, struct admin_job_info *out, size_t max)
{
    size_t n = 0;
    mutex_lock(&a->mutex);
    for (size_t i = 0; i < JOBS_MAX && n < max; i++) {
        const struct admin_stream *s = &a->jobs[i];
        if (s->state != JOB_RUNNING || !s->what[0])
            continue;
        snprintf(out[n].what, sizeof out[n].what, "%s", s->what);
        out[n].done = s->done;
        out[n].bytes_done = s->bytes_done;
        out[n].bytes_total = s->bytes_total;
        out[n++].total = s->total;
    }
    mutex_unlock(&a->mutex);
    return n;
}

int admin_http_open(struct admin_http **out, const char *address, char *why, size_t why_size)
{
    char text[512];
    nng_url *url = NULL;
    nng_http_server *server = NULL;
    struct admin_http *a = calloc(1, sizeof *a);
    if (!a)
        return -ERR_NOMEM;
    mutex_init(&a->mutex, RANK_LEAF);
    cond_init(&a->work);
    snprintf(text, sizeof text, "http://%s", address);
    int rv = nng_url_parse(&url, text);
    if (rv == 0)
        rv = nng_http_server_hold(&server, url);
    if (rv == 0) {
        a->server = server;
        rv = start_server(a, server);
    } else {
        release(a);
    }
    if (url)
        nng_url_free(url);
    if (rv == NNG_EADDRINUSE)
        snprintf(why, why_size,
                 "the admin address %s is already in use: end what uses it, or give another with "
                 "--http",
                 address);
    else if (rv != 0)
        snprintf(why, why_size, "cannot listen on the admin address %s: %s", address,
                 nng_strerror(rv));
    if (rv == 0)
        *out = a;
    return from_nng(rv);
}

void admin_http_serve(struct admin_http *a, const struct admin_parts *parts)
{
    mutex_lock(&a->mutex);
    a->parts = parts;
    a->stage = ADMIN_WAITING;
    mutex_unlock(&a->mutex);
}

void admin_http_stage(struct admin_http *a, enum admin_stage stage)
{
    mutex_lock(&a->mutex);
    a->stage = stage;
    mutex_unlock(&a->mutex);
}

void admin_http_quit(struct admin_http *a)
{
    if (!a)
        return;
    mutex_lock(&a->mutex);
    a->quit = true;
    a->stage = ADMIN_ENDING;
    for (size_t i = 0; i < JOBS_MAX; i++) {
        struct admin_stream *s = &a->jobs[i];
        __atomic_store_n(&s->cancel, true, __ATOMIC_RELAXED);
        if (s->state == JOB_RUNNING && s->aio)
            nng_aio_cancel(s->aio);
    }
    cond_broadcast(&a->work);
    mutex_unlock(&a->mutex);
}

void admin_http_join(struct admin_http *a)
{
    if (!a)
        return;
    thread_join(&a->thread);
    for (size_t i = 0; i < JOBS_MAX; i++)
        thread_join(&a->jobs[i].thread);
}

void admin_http_close(struct admin_http *a)
{
    if (!a)
        return;
    nng_http_server *server = a->server;
    nng_http_server_stop(server);
    nng_http_server_release(server); /* and with it, sooner or later, `a` */
}
