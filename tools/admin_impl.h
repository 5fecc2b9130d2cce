/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TOOLS_ADMIN_IMPL_H
#define TOOLS_ADMIN_IMPL_H

#include <microhttpd.h>

#include "ltx/base/clock.h"
#include "ltx/base/mutex.h"
#include "ltx/base/thread.h"
#include "tools/admin.h"

/*
 * The inside of the admin address: admin_http.c (the server, and what is quick), admin_stream.c (what
 * takes long). Nobody else includes this, or libmicrohttpd.
 *
 * The server runs on the one thread "admin", which also answers what is quick. A request that takes
 * long is a job: its connection is suspended, its work runs on a thread of its own, and whenever that
 * has something to say it resumes the connection, whereupon the server asks for it. So only the admin
 * thread touches a connection, but for resuming it.
 */

#define ADMIN_JOBS_MAX 8 /* long requests at a time */

struct admin_stream {
    struct admin_http *server;
    struct thread thread;
    const struct admin_route *route;
    char *query;
    enum admin_stage stage;

    /* Guarded by the server's mutex. */
    bool running;                      /* `work` has not returned */
    struct MHD_Connection *connection; /* NULL: the request is over, whichever way */
    bool suspended;                    /* and waits for the job */
    bool begun;                        /* the head was given: type, size and position are known */
    const char *type;
    uint64_t size;
    char position[64];
    const uint8_t *piece; /* what admin_stream_write wants to get rid of */
    size_t piece_left;
    struct cond taken;
    struct admin_reply reply; /* instead of a stream, when `work` has returned */
    char what[256];
    uint64_t done, total, bytes_done, bytes_total;
    bool watched;         /* the work is in vain once the other side has gone */
    volatile bool cancel; /* set under the mutex, read anywhere */
};

struct admin_http {
    struct MHD_Daemon *server;
    int wake_fd; /* an eventfd: something has changed for the admin thread */
    struct thread thread;
    struct mutex mutex; /* guards all below */
    struct admin_stream jobs[ADMIN_JOBS_MAX];
    enum admin_stage stage;
    const struct admin_parts *parts;
    bool quit;
    struct mono quit_at;
};

/* admin_http.c */

/* On the admin thread; takes the reply's body. */
enum MHD_Result admin_send(struct MHD_Connection *c, struct admin_reply *r);
void admin_wake(struct admin_http *a); /* the admin thread looks again; any thread */

/* admin_stream.c */

/* Begins a job for this connection, which is suspended then. -ERR_BUSY: too many. */
int job_start(struct admin_http *a, struct MHD_Connection *c, const struct admin_route *route,
              const struct admin_request *q, struct admin_stream **out);
/* The connection was resumed: what the job has to say. */
enum MHD_Result job_answer(struct admin_stream *s, struct MHD_Connection *c);
/* The request is over: answered, or its connection ended. */
void job_forget(struct admin_stream *s);
/* All jobs end as soon as they can. The mutex is held. */
void jobs_cancel(struct admin_http *a);
/* Is there one whose answer is not out yet? The mutex is held. */
bool jobs_any(const struct admin_http *a);
void jobs_join(struct admin_http *a);

#endif
