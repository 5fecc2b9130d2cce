/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TOOLS_HTTP_CLIENT_H
#define TOOLS_HTTP_CLIENT_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "ltx/base/buf.h"

/*
 * The commands' side of the admin address: one request, one answer, waited for. By nng's HTTP
 * client, which only this file includes. `address` is HOST:PORT throughout; a server that does not
 * answer gives -ERR_UNREACHABLE.
 */
#define HTTP_WHY_MAX 1024

struct http_reply {
    unsigned status;
    struct buf body; /* NUL-terminated past its length; for a download: of an error only */
    uint64_t size;   /* of the body, bytes */
};
void http_reply_fini(struct http_reply *r);

/* The whole answer into memory (at most 64 MiB). `timeout_ms` for each step. */
int http_call(const char *address, const char *method, const char *uri, int64_t timeout_ms,
              struct http_reply *reply, char *why, size_t why_size);

/*
 * The body of a 200 into the empty file `fd`, zeros as holes; anything else into the reply. Waits
 * without limit for the answer to begin. progress may be NULL.
 */
typedef void http_progress(void *ctx, uint64_t done, uint64_t total);
int http_download(const char *address, const char *uri, int fd, http_progress *progress, void *ctx,
                  struct http_reply *reply, char *why, size_t why_size);

/*
 * Fetches a JSON object. An answer that is none, or whose status is not 200, is told in `why` (with
 * the "error" the server gave) and gives -ERR_PROTOCOL or -ERR_INVALID; *status (may be NULL)
 * receives it.
 */
int http_json(const char *address, const char *method, const char *uri, int64_t timeout_ms,
              json_t **out, unsigned *status, char *why, size_t why_size);
/* The sentence that an error reply carries. */
void http_error_text(const struct http_reply *reply, char *out, size_t out_size);

/* Appends a query's value, percent-encoded. */
int http_escape(struct buf *out, const char *text);

#endif
