/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LTX_BASE_LOGGER_H
#define LTX_BASE_LOGGER_H

#include <stdbool.h>

/*
 * Log lines on stderr, as text or JSON. ("log" alone is the log of transactions in this project.)
 * A line says what happened, to which database or peer, with numbers, and what to do about it.
 * errno survives a call.
 */
enum logger_level { LOGGER_DEBUG, LOGGER_INFO, LOGGER_WARN, LOGGER_ERROR };

void logger_configure(enum logger_level least, bool json);

void logger_line(enum logger_level level, const char *part, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* `part` names the module: "mount", "cluster", "recover". */
#define log_debug(part, ...) logger_line(LOGGER_DEBUG, part, __VA_ARGS__)
#define log_info(part, ...) logger_line(LOGGER_INFO, part, __VA_ARGS__)
#define log_warn(part, ...) logger_line(LOGGER_WARN, part, __VA_ARGS__)
#define log_error(part, ...) logger_line(LOGGER_ERROR, part, __VA_ARGS__)

#endif
