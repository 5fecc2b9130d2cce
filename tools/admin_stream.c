/* SPDX-License-Identifier: Apache-2.0 */
/* Requests that take long: see admin_impl.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "ltx/base/err.h"
#include "ltx/base/logger.h"
#include "tools/admin_impl.h"

#define BLOCK (64u << 10)  /* bytes that the server asks for at a time */
#define SEND_TIMEOUT_S 60u /* who takes nothing for so long is gone */

/* Lets the server ask what there is. The mutex is held. */
static void resume(struct admin_stream *s)
{
    if (!s->suspended)
        return;
    s->suspended = false;
    MHD_resume_connection(s->connection);
    admin_wake(s->server); /* the library only notes it */
}

static void suspend(struct admin_stream *s)
{
    s->suspended = true;
    MHD_suspend_connection(s->connection);
}

static void run_job(void *arg)
{
    struct admin_stream *s = arg;
    struct admin_http *a = s->server;
    struct admin_reply r = {0};
    struct admin_request q = {.method = s->route->method,
                              .path = s->route->path,
                              .query = s->query,
                              .stage = s->stage,
                              .parts = a->parts,
                              .server = a};
    int err = s->route->work(&q, &r, s);
    mutex_lock(&a->mutex);
    if (s->begun) {
        if (err)
            log_warn("admin", "%s ended early: %s", s->what[0] ? s->what : s->route->path,
                     err_text(err));
        buf_fini(&r.body);
    } else if (err && r.status == 0) {
        admin_refuse(&r, 500, "%s", err_text(err));
    }
    s->reply = r;
    if (!s->connection)
        buf_fini(&s->reply.body);
    s->what[0] = '\0';
    free(s->query);
    s->query = NULL;
    s->running = false;
    resume(s);
    mutex_unlock(&a->mutex);
}

/* A free place for a job, or NULL. The mutex is held. */
static struct admin_stream *take_job(struct admin_http *a)
{
    for (size_t i = 0; i < ADMIN_JOBS_MAX && !a->quit; i++) {
        struct admin_stream *s = &a->jobs[i];
        if (s->running || s->connection)
            continue;
        if (s->server) {
            thread_join(&s->thread); /* it has nothing left to do but to return */
            cond_fini(&s->taken);
        }
        *s = (struct admin_stream){.server = a};
        cond_init(&s->taken);
        return s;
    }
    return NULL;
}

int job_start(struct admin_http *a, struct MHD_Connection *c, const struct admin_route *route,
              const struct admin_request *q, struct admin_stream **out)
{
    mutex_lock(&a->mutex);
    struct admin_stream *s = take_job(a);
    int err = s ? 0 : -ERR_BUSY;
    if (!err) {
        s->route = route;
        s->query = strdup(q->query);
        s->stage = q->stage;
        s->running = true;
        err = s->query ? thread_start(&s->thread, "admin-job", run_job, s) : -ERR_NOMEM;
    }
    if (!err) {
        s->connection = c;
        MHD_set_connection_option(c, MHD_CONNECTION_OPTION_TIMEOUT, SEND_TIMEOUT_S);
        suspend(s);
        *out = s;
    } else if (s) {
        s->running = false;
        free(s->query);
        s->query = NULL;
    }
    mutex_unlock(&a->mutex);
    return err;
}

/* The server wants more of a stream. */
static ssize_t read_piece(void *job, uint64_t pos, char *out, size_t room)
{
    struct admin_stream *s = job;
    ssize_t n = 0;
    (void)pos;
    mutex_lock(&s->server->mutex);
    if (s->piece_left > 0) {
        n = (ssize_t)(s->piece_left < room ? s->piece_left : room);
        memcpy(out, s->piece, (size_t)n);
        s->piece += n;
        s->piece_left -= (size_t)n;
        if (s->piece_left == 0)
            cond_signal(&s->taken);
    } else if (!s->running || s->cancel) {
        n = MHD_CONTENT_READER_END_WITH_ERROR;
    } else {
        suspend(s);
    }
    mutex_unlock(&s->server->mutex);
    return n;
}

static enum MHD_Result send_stream(struct admin_stream *s, struct MHD_Connection *c)
{
    struct MHD_Response *res =
        MHD_create_response_from_callback(s->size, BLOCK, read_piece, s, NULL);
    if (!res)
        return MHD_NO;
    MHD_add_response_header(res, "Content-Type", s->type);
    if (s->position[0])
        MHD_add_response_header(res, "X-Tandemfs-Position", s->position);
    MHD_add_response_header(res, "Cache-Control", "no-store");
    MHD_add_response_header(res, "Connection", "close");
    enum MHD_Result sent = MHD_queue_response(c, MHD_HTTP_OK, res);
    MHD_destroy_response(res);
    return sent;
}

enum MHD_Result job_answer(struct admin_stream *s, struct MHD_Connection *c)
{
    struct admin_reply reply = {0};
    mutex_lock(&s->server->mutex);
    bool begun = s->begun, done = !s->running;
    if (!begun && done) {
        reply = s->reply;
        s->reply = (struct admin_reply){0};
    } else if (!begun) {
        suspend(s);
    }
    mutex_unlock(&s->server->mutex);
    if (begun)
        return send_stream(s, c);
    return done ? admin_send(c, &reply) : MHD_YES;
}

void job_forget(struct admin_stream *s)
{
    mutex_lock(&s->server->mutex);
    s->connection = NULL;
    s->suspended = false;
    if (s->running)
        __atomic_store_n(&s->cancel, true, __ATOMIC_RELAXED); /* what is being made is in vain */
    else
        buf_fini(&s->reply.body);
    cond_signal(&s->taken);
    mutex_unlock(&s->server->mutex);
}

void jobs_cancel(struct admin_http *a)
{
    for (size_t i = 0; i < ADMIN_JOBS_MAX; i++) {
        struct admin_stream *s = &a->jobs[i];
        if (!s->server)
            continue;
        __atomic_store_n(&s->cancel, true, __ATOMIC_RELAXED);
        cond_signal(&s->taken);
    }
}

bool jobs_any(const struct admin_http *a)
{
    bool any = false;
    for (size_t i = 0; i < ADMIN_JOBS_MAX; i++)
        any = any || a->jobs[i].connection;
    return any;
}

void jobs_join(struct admin_http *a)
{
    for (size_t i = 0; i < ADMIN_JOBS_MAX; i++) {
        struct admin_stream *s = &a->jobs[i];
        if (!s->server)
            continue;
        thread_join(&s->thread);
    }
}

int admin_stream_begin(struct admin_stream *s, const char *type, uint64_t size,
                       const char *position)
{
    mutex_lock(&s->server->mutex);
    s->type = type;
    s->size = size;
    snprintf(s->position, sizeof s->position, "%s", position ? position : "");
    s->begun = true;
    bool cancelled = s->cancel;
    resume(s);
    mutex_unlock(&s->server->mutex);
    return cancelled ? -ERR_CLOSED : 0;
}

int admin_stream_write(struct admin_stream *s, const void *data, size_t n)
{
    mutex_lock(&s->server->mutex);
    s->piece = data;
    s->piece_left = n;
    if (n > 0)
        resume(s);
    while (s->piece_left > 0 && !s->cancel)
        cond_wait(&s->taken, &s->server->mutex);
    bool cancelled = s->piece_left > 0;
    s->piece_left = 0;
    mutex_unlock(&s->server->mutex);
    return cancelled ? -ERR_CLOSED : 0;
}

const volatile bool *admin_stream_cancel(struct admin_stream *s)
{
    return &s->cancel;
}

void admin_stream_watch(struct admin_stream *s)
{
    mutex_lock(&s->server->mutex);
    s->watched = true;
    mutex_unlock(&s->server->mutex);
}

/* The library does not look at a connection that is suspended. The mutex is held. */
static void look_for_end(struct admin_stream *s)
{
    if (!s->watched || !s->connection || !s->suspended)
        return;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(s->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    char byte;
    ssize_t n = info ? recv(info->connect_fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) : 1;
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        __atomic_store_n(&s->cancel, true, __ATOMIC_RELAXED);
}

void admin_stream_progress(struct admin_stream *s, const char *what, uint64_t done, uint64_t total)
{
    mutex_lock(&s->server->mutex);
    snprintf(s->what, sizeof s->what, "%s", what);
    s->done = done;
    s->total = total;
    look_for_end(s);
    mutex_unlock(&s->server->mutex);
}

void admin_stream_bytes(struct admin_stream *s, uint64_t done, uint64_t total)
{
    mutex_lock(&s->server->mutex);
    s->bytes_done = done;
    s->bytes_total = total;
    mutex_unlock(&s->server->mutex);
}

size_t admin_jobs(struct admin_http *a, struct admin_job_info *out, size_t max)
{
    size_t n = 0;
    mutex_lock(&a->mutex);
    for (size_t i = 0; i < ADMIN_JOBS_MAX && n < max; i++) {
        const struct admin_stream *s = &a->jobs[i];
        if (!s->running || !s->what[0])
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
