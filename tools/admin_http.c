/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP for the admin address, by libmicrohttpd: see admin_impl.h. What a client can make the daemon
 * take has limits: so many connections, each with one buffer for request line and headers, and so long
 * without a byte.
 */
#include "tools/admin_http.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "ltx/base/err.h"
#include "tools/admin_impl.h"
#include "tools/port.h"

#define CONNECTIONS_MAX 64u
#define HEAD_MAX (16u << 10) /* bytes of request line, headers and the answer's head */
#define BODY_MAX 4096u       /* bytes that a request may carry; none of ours needs any */
#define IDLE_S 15u           /* a connection on which nothing comes ends */
#define FLUSH_MS 2000        /* at the end, for the answers that are on their way */
#define FLUSH_LOOK_MS 20

/* A connection's request, from its first line to its end. */
struct request {
    struct admin_http *server;
    char *uri;
    size_t body; /* bytes so far */
    bool seen;
    struct admin_stream *job;
};

enum MHD_Result admin_send(struct MHD_Connection *c, struct admin_reply *r)
{
    struct MHD_Response *res =
        MHD_create_response_from_buffer(r->body.len, r->body.data, MHD_RESPMEM_MUST_FREE);
    unsigned status = r->status ? r->status : 500;
    if (!res) {
        buf_fini(&r->body);
        return MHD_NO;
    }
    r->body = (struct buf){0};
    if (r->type)
        MHD_add_response_header(res, "Content-Type", r->type);
    if (r->allow)
        MHD_add_response_header(res, "Allow", r->allow);
    MHD_add_response_header(res, "Cache-Control", "no-store");
    enum MHD_Result sent = MHD_queue_response(c, status, res);
    MHD_destroy_response(res);
    return sent;
}

static enum MHD_Result refuse(struct MHD_Connection *c, unsigned status, const char *text)
{
    struct admin_reply r = {0};
    admin_refuse(&r, status, "%s", text);
    return admin_send(c, &r);
}

void admin_wake(struct admin_http *a)
{
    (void)eventfd_write(a->wake_fd, 1);
}

static void clear_request(struct request *q)
{
    if (q->job)
        job_forget(q->job);
    free(q->uri);
    *q = (struct request){.server = q->server};
}

/*
 * A connection has one request at a time. It has the memory for it, because not every request that has
 * begun ends with end_request: one that the library refuses after its first line may not.
 */
static void on_connection(void *server, struct MHD_Connection *c, void **state,
                          enum MHD_ConnectionNotificationCode what)
{
    struct request *q = *state;
    (void)c;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        q = calloc(1, sizeof *q);
        if (q)
            q->server = server;
        *state = q;
    } else if (q) {
        clear_request(q);
        free(q);
        *state = NULL;
    }
}

/* The request line, as it was sent. What is returned comes with every call for this request. */
static void *begin_request(void *server, const char *uri, struct MHD_Connection *c)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct request *q = info ? info->socket_context : NULL;
    (void)server;
    if (!q)
        return NULL;
    clear_request(q);
    q->uri = strdup(uri);
    return q->uri ? q : NULL;
}

static void end_request(void *server, struct MHD_Connection *c, void **state,
                        enum MHD_RequestTerminationCode how)
{
    struct request *q = *state;
    (void)server;
    (void)c;
    (void)how;
    if (q)
        clear_request(q);
    *state = NULL;
}

/* Escapes stay as they are: the path is compared, and the query decodes itself. */
static size_t leave_escaped(void *server, struct MHD_Connection *c, char *text)
{
    (void)server;
    (void)c;
    return strlen(text);
}

/* Is there, or will there be, a body that no request of ours has? */
static bool body_is_too_long(struct MHD_Connection *c)
{
    const char *length = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Content-Length");
    return length && strtoull(length, NULL, 10) > BODY_MAX;
}

static enum MHD_Result answer(struct request *q, struct MHD_Connection *c, const char *method)
{
    struct admin_http *a = q->server;
    struct admin_reply r = {0};
    struct admin_request request = {.method = method,
                                    .origin =
                                        MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Origin"),
                                    .server = a};
    admin_split(q->uri, &request);
    mutex_lock(&a->mutex);
    request.stage = a->stage;
    request.parts = a->stage == ADMIN_ENDING ? NULL : a->parts;
    mutex_unlock(&a->mutex);
    const struct admin_route *route = admin_route(&request, &r);
    if (route && route->answer)
        route->answer(&request, &r);
    if (!route || route->answer)
        return admin_send(c, &r);
    if (job_start(a, c, route, &request, &q->job) == 0)
        return MHD_YES;
    return refuse(c, 503, "too many requests at a time; try again in a moment");
}

/* Called when the head is there, for each piece of a body, at the end, and after a job resumed it. */
static enum MHD_Result on_request(void *server, struct MHD_Connection *c, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *size, void **state)
{
    struct request *q = *state;
    (void)server;
    (void)url;
    (void)version;
    (void)data;
    if (!q)
        return MHD_NO;
    if (!q->seen) {
        q->seen = true;
        if (strlen(q->uri) > ADMIN_URI_MAX)
            return refuse(c, 414, "the path is too long");
        return body_is_too_long(c) ? refuse(c, 413, "no request has a body here") : MHD_YES;
    }
    if (*size > 0) {
        q->body += *size;
        *size = 0;
        return q->body <= BODY_MAX ? MHD_YES : MHD_NO;
    }
    return q->job ? job_answer(q->job, c) : answer(q, c, method);
}

static bool is_over(struct admin_http *a, bool *ending)
{
    mutex_lock(&a->mutex);
    *ending = a->quit;
    bool over = a->quit && (!jobs_any(a) || mono_since_ms(a->quit_at) > FLUSH_MS);
    mutex_unlock(&a->mutex);
    return over;
}

static unsigned connections(struct admin_http *a)
{
    return MHD_get_daemon_info(a->server, MHD_DAEMON_INFO_CURRENT_CONNECTIONS)->num_connections;
}

/* With as many connections as there may be the library does not wait for another, and looks again
 * whether it should only when it is run after some have ended. */
static void run_server(struct admin_http *a)
{
    unsigned before;
    do {
        before = connections(a);
        MHD_run(a->server);
    } while (connections(a) < before);
}

static void serve(void *arg)
{
    struct admin_http *a = arg;
    int epoll_fd = MHD_get_daemon_info(a->server, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
    struct pollfd fds[] = {{.fd = epoll_fd, .events = POLLIN},
                           {.fd = a->wake_fd, .events = POLLIN}};
    bool ending;
    while (!is_over(a, &ending)) {
        MHD_UNSIGNED_LONG_LONG left;
        int ms = MHD_get_timeout(a->server, &left) == MHD_YES ? (int)(left < 60000 ? left : 60000)
                                                              : 60000;
        (void)poll(fds, 2, ending && ms > FLUSH_LOOK_MS ? FLUSH_LOOK_MS : ms);
        eventfd_t count;
        if (fds[1].revents)
            (void)eventfd_read(a->wake_fd, &count);
        run_server(a);
    }
}

static int start_server(struct admin_http *a, int fd)
{
    a->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (a->wake_fd < 0)
        return -ERR_NOMEM;
    a->server = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, on_request, a,
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS_MAX,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HEAD_MAX, MHD_OPTION_CONNECTION_TIMEOUT, IDLE_S,
        MHD_OPTION_URI_LOG_CALLBACK, begin_request, a, MHD_OPTION_UNESCAPE_CALLBACK, leave_escaped,
        NULL, MHD_OPTION_NOTIFY_CONNECTION, on_connection, a, MHD_OPTION_NOTIFY_COMPLETED,
        end_request, NULL, MHD_OPTION_END);
    return a->server ? thread_start(&a->thread, "admin", serve, a) : -ERR_NOMEM;
}

int admin_http_open(struct admin_http **out, const char *address, char *why, size_t why_size)
{
    char clause[256];
    int fd;
    int err = port_listen(address, &fd, clause, sizeof clause);
    if (err == -ERR_BUSY)
        snprintf(why, why_size,
                 "the admin address %s is already in use: end what uses it, or give another with "
                 "--http",
                 address);
    else if (err)
        snprintf(why, why_size, "cannot listen on the admin address %s: %s", address, clause);
    if (err)
        return err;
    struct admin_http *a = calloc(1, sizeof *a);
    if (!a) {
        close(fd);
        return -ERR_NOMEM;
    }
    mutex_init(&a->mutex, RANK_LEAF);
    err = start_server(a, fd);
    if (!err) {
        *out = a;
        return 0;
    }
    if (!a->server)
        close(fd);
    admin_http_close(a);
    return err;
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
    a->quit_at = mono_now();
    a->stage = ADMIN_ENDING;
    jobs_cancel(a);
    mutex_unlock(&a->mutex);
    admin_wake(a);
}

void admin_http_join(struct admin_http *a)
{
    if (!a)
        return;
    thread_join(&a->thread);
    jobs_join(a);
}

void admin_http_close(struct admin_http *a)
{
    if (!a)
        return;
    if (a->server)
        MHD_stop_daemon(a->server); /* ends what connections are left */
    for (size_t i = 0; i < ADMIN_JOBS_MAX; i++)
        if (a->jobs[i].server)
            cond_fini(&a->jobs[i].taken);
    if (a->wake_fd >= 0)
        close(a->wake_fd);
    mutex_fini(&a->mutex);
    free(a);
}
