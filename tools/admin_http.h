/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TOOLS_ADMIN_HTTP_H
#define TOOLS_ADMIN_HTTP_H

#include <stddef.h>

#include "tools/admin.h"

/*
 * The admin address: an HTTP server, one thread that answers what is quick, and one thread for each
 * request that takes long (a few at a time).
 *
 * admin_http_open takes the port and answers "starting" until admin_http_serve; admin_http_stage as
 * the daemon comes further; admin_http_quit, admin_http_join, admin_http_close. Answers may use the
 * parts until admin_http_join has returned.
 */
struct admin_http;

/* `address` is HOST:PORT. `why` receives a sentence on failure. */
int admin_http_open(struct admin_http **out, const char *address, char *why, size_t why_size);
/* The parts are borrowed. */
void admin_http_serve(struct admin_http *a, const struct admin_parts *parts);
void admin_http_stage(struct admin_http *a, enum admin_stage stage);
void admin_http_quit(struct admin_http *a);
void admin_http_join(struct admin_http *a);
void admin_http_close(struct admin_http *a);

#endif
