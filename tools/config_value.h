/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TOOLS_CONFIG_VALUE_H
#define TOOLS_CONFIG_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ltx/base/buf.h"

/* The texts that stand for values in a configuration, each read by one function: 0, or
 * -ERR_INVALID. */

/* "45s", "30m", "24h", "7d", "2w", "500ms", or "0". Milliseconds. */
int value_duration(const char *text, int64_t *ms);
/* "512MB" (powers of 1000), "512MiB" (powers of 1024), a plain number of bytes, or "0". */
int value_size(const char *text, int64_t *bytes);
/* true, false, yes, no, on, off */
int value_bool(const char *text, bool *value);

/* tcp://HOST:PORT */
int value_url(const char *text);
/* HOST:PORT, with or without http:// before it; copies HOST:PORT (HOST may be in brackets). */
int value_address(const char *text, char *out, size_t out_size);
/* The port of HOST:PORT or tcp://HOST:PORT; 0 if it has none. */
unsigned value_port(const char *text);
/* The host of tcp://HOST:PORT or HOST:PORT, without brackets. -ERR_INVALID if there is none. */
int value_host(const char *text, char *out, size_t out_size);
/* Does the URL's host stand for every address of the machine? */
bool value_is_wildcard(const char *url);

/*
 * Replaces each ${NAME} by the environment's NAME; "$${" stands for "${". Appends to `out`, without
 * a NUL. -ERR_NOTFOUND: NAME (copied to `name`) is not set. -ERR_INVALID: a "${" without its "}" or
 * with a name that cannot be one.
 */
int value_expand(const char *text, struct buf *out, char *name, size_t name_size);

/* Splits a command line into words at blanks; '...', "..." and \x as a shell reads them, nothing
 * else is special. *words is NULL-terminated and malloc'ed, as are the words. */
int value_words(const char *text, char ***words, size_t *count);
void value_words_free(char **words);

/* The name of the table that `text` is most probably meant to be, or NULL. */
const char *value_closest(const char *text, const char *const *names, size_t count);

#endif
