/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TOOLS_ADMIN_H
#define TOOLS_ADMIN_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cluster/node.h"
#include "fs/db/catalog.h"
#include "ltx/base/buf.h"
#include "ltx/base/clock.h"
#include "ltx/role.h"
#include "ltx/store.h"
#include "tools/config.h"

/*
 * What the admin address answers, without the HTTP: a table of methods and paths (admin_routes.c)
 * and one function for each. admin_http.c brings the requests, on a thread of its own.
 */

/* The daemon's parts, as the answers need them. Set once, before admin_http_serve. */
struct admin_parts {
    const struct config *config;
    struct role_state *role;
    struct store *store;
    struct catalog *catalog;
    struct node *node;
    uint32_t foreign; /* entries of the data folder that are not ours */
    int tmp_dirfd;
    struct mono began;
};

struct admin_http;

/* How far the daemon is. Until the parts are there, every path but /healthz answers 503. */
enum admin_stage { ADMIN_STARTING, ADMIN_WAITING, ADMIN_READY, ADMIN_ENDING };

#define ADMIN_URI_MAX 8192 /* bytes of path and query; a longer one is refused */

struct admin_request {
    const char *method;
    const char *path;   /* as sent, without the query */
    const char *query;  /* after the '?'; "" */
    const char *origin; /* what a browser sends along; NULL */
    enum admin_stage stage;
    const struct admin_parts *parts; /* NULL in ADMIN_STARTING */
    struct admin_http *server;
};

struct admin_reply {
    unsigned status;
    const char *type;  /* content type, static */
    const char *allow; /* for 405, static; NULL */
    struct buf body;
};

/* A large answer, in pieces, from a job (see admin_route). */
struct admin_stream;
/* Sends the head; `position` (may be NULL) goes out as a header. */
int admin_stream_begin(struct admin_stream *s, const char *type, uint64_t size,
                       const char *position);
int admin_stream_write(struct admin_stream *s, const void *data, size_t n);
/* Becomes true when the daemon ends or the other side is gone. */
const volatile bool *admin_stream_cancel(struct admin_stream *s);
/* How far the work before the first byte is, in pages, and if it is known in bytes; /info shows it. */
void admin_stream_progress(struct admin_stream *s, const char *what, uint64_t done, uint64_t total);
void admin_stream_bytes(struct admin_stream *s, uint64_t done, uint64_t total);
/* From now on the work is cancelled when the other side goes away before it has the answer. */
void admin_stream_watch(struct admin_stream *s);

/*
 * One way of asking. `answer` is quick: it takes locks for short and reads little, on the one admin
 * thread. `work` may take as long as it needs, on a thread of its own; it fills the reply or, after
 * admin_stream_begin, has answered by itself and returns 0 or a negated code.
 */
struct admin_route {
    const char *method;
    const char *path;
    void (*answer)(const struct admin_request *q, struct admin_reply *r);
    int (*work)(const struct admin_request *q, struct admin_reply *r, struct admin_stream *s);
};

/* Cuts `uri` (as it was sent) into path and query, which point into it. */
void admin_split(char *uri, struct admin_request *q);
/* The route, or NULL with a complete reply (404, 405, 503). HEAD finds what GET does. */
const struct admin_route *admin_route(const struct admin_request *q, struct admin_reply *r);

/* Decodes the query's parameter `name`: 0, -ERR_NOTFOUND, or -ERR_INVALID (bad %, too long). */
int admin_query(const char *query, const char *name, char *out, size_t out_size);

/* {"error": "..."} with a status. */
void admin_refuse(struct admin_reply *r, unsigned status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* The document as the body; takes it. */
void admin_reply_json(struct admin_reply *r, unsigned status, json_t *document);
/* A JSON text; bytes that are not UTF-8 (a file's name may hold any) become U+FFFD. */
json_t *admin_text(const char *text);

/* Work in progress of the streams, for /info. */
struct admin_job_info {
    char what[256];
    uint64_t done, total;             /* pages */
    uint64_t bytes_done, bytes_total; /* 0 = not known */
};
size_t admin_jobs(struct admin_http *a, struct admin_job_info *out, size_t max);

void admin_info(const struct admin_request *q, struct admin_reply *r);
void admin_metrics(const struct admin_request *q, struct admin_reply *r);
void admin_health(const struct admin_request *q, struct admin_reply *r);
void admin_primary(const struct admin_request *q, struct admin_reply *r);
void admin_replica(const struct admin_request *q, struct admin_reply *r);
int admin_promote(const struct admin_request *q, struct admin_reply *r, struct admin_stream *s);
int admin_verify(const struct admin_request *q, struct admin_reply *r, struct admin_stream *s);
int admin_export(const struct admin_request *q, struct admin_reply *r, struct admin_stream *s);

#endif
