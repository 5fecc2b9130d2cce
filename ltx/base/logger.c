/* SPDX-License-Identifier: Apache-2.0 */
#include "ltx/base/logger.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ltx/base/clock.h"

/*
 * A line is built on the stack and leaves in one write(2), so lines of different threads never mix
 * and no mutex is needed. What is too long is cut and ends in "...".
 */
#define MESSAGE_MAX 2048
#define LINE_MAX_BYTES 8192

static atomic_int least_level = LOGGER_INFO;
static atomic_bool as_json;

struct line {
    char bytes[LINE_MAX_BYTES];
    size_t len;
};

static void put(struct line *l, const char *text, size_t n)
{
    /* Room for the closing characters and the newline always stays. */
    if (n > sizeof l->bytes - 8 - l->len)
        return;
    memcpy(l->bytes + l->len, text, n);
    l->len += n;
}

static void put_text(struct line *l, const char *text)
{
    put(l, text, strlen(text));
}

/* Length of the well-formed UTF-8 sequence at s, 0 if it is none (RFC 3629, section 4). */
static size_t utf8_length(const unsigned char *s)
{
    size_t n;
    unsigned char low = 0x80, high = 0xbf;
    if (s[0] >= 0xc2 && s[0] <= 0xdf) {
        n = 2;
    } else if (s[0] >= 0xe0 && s[0] <= 0xef) {
        n = 3;
        low = s[0] == 0xe0 ? 0xa0 : 0x80;
        high = s[0] == 0xed ? 0x9f : 0xbf;
    } else if (s[0] >= 0xf0 && s[0] <= 0xf4) {
        n = 4;
        low = s[0] == 0xf0 ? 0x90 : 0x80;
        high = s[0] == 0xf4 ? 0x8f : 0xbf;
    } else {
        return 0;
    }
    if (s[1] < low || s[1] > high)
        return 0;
    for (size_t i = 2; i < n; i++)
        if (s[i] < 0x80 || s[i] > 0xbf)
            return 0;
    return n;
}

/*
 * Names of files and texts of peers come from outside: a control character must neither break the
 * line nor reach a terminal, and JSON must stay valid.
 */
static void put_escaped(struct line *l, const char *text, bool json)
{
    char escape[8];
    for (const unsigned char *s = (const unsigned char *)text; *s != 0;) {
        if (*s < 0x20 || *s == 0x7f) {
            snprintf(escape, sizeof escape, json ? "\\u%04x" : "\\x%02x", *s);
            put_text(l, escape);
            s++;
        } else if (json && (*s == '"' || *s == '\\')) {
            put(l, "\\", 1);
            put(l, (const char *)s, 1);
            s++;
        } else if (*s < 0x80) {
            put(l, (const char *)s, 1);
            s++;
        } else {
            size_t n = utf8_length(s);
            if (n > 0) {
                put(l, (const char *)s, n);
                s += n;
            } else {
                snprintf(escape, sizeof escape, json ? "\\ufffd" : "\\x%02x", *s);
                put_text(l, escape);
                s++;
            }
        }
    }
}

static void put_time(struct line *l)
{
    int64_t ms = wall_ms();
    time_t seconds = (time_t)(ms / 1000);
    struct tm tm;
    char text[64];
    gmtime_r(&seconds, &tm);
    size_t n = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
    put(l, text, n);
    snprintf(text, sizeof text, ".%03dZ", (int)(ms % 1000));
    put_text(l, text);
}

static const char *level_name(enum logger_level level)
{
    switch (level) {
    case LOGGER_DEBUG: return "DEBUG";
    case LOGGER_INFO: return "INFO";
    case LOGGER_WARN: return "WARN";
    case LOGGER_ERROR: return "ERROR";
    }
    return "ERROR";
}

static void build_text(struct line *l, const char *level, const char *part, const char *message)
{
    put_time(l);
    put_text(l, " ");
    put_text(l, level);
    put(l, "      ", strlen(level) < 6 ? 6 - strlen(level) : 1);
    put_escaped(l, part, false);
    put_text(l, ": ");
    put_escaped(l, message, false);
}

static void build_json(struct line *l, const char *level, const char *part, const char *message)
{
    put_text(l, "{\"time\":\"");
    put_time(l);
    put_text(l, "\",\"level\":\"");
    put_text(l, level);
    put_text(l, "\",\"part\":\"");
    put_escaped(l, part, true);
    put_text(l, "\",\"message\":\"");
    put_escaped(l, message, true);
    memcpy(l->bytes + l->len, "\"}", 2);
    l->len += 2;
}

void logger_configure(enum logger_level least, bool json)
{
    atomic_store(&least_level, (int)least);
    atomic_store(&as_json, json);
}

void logger_line(enum logger_level level, const char *part, const char *fmt, ...)
{
    if ((int)level < atomic_load_explicit(&least_level, memory_order_relaxed))
        return;
    int saved_errno = errno;
    char message[MESSAGE_MAX];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    if (n < 0)
        snprintf(message, sizeof message, "(a log line that could not be formatted: %s)", fmt);
    else if ((size_t)n >= sizeof message)
        memcpy(message + sizeof message - 4, "...", 4);

    struct line line;
    line.len = 0;
    if (atomic_load_explicit(&as_json, memory_order_relaxed))
        build_json(&line, level_name(level), part, message);
    else
        build_text(&line, level_name(level), part, message);
    line.bytes[line.len++] = '\n';

    /* Nobody can be told that stderr does not take the line. */
    ssize_t done;
    do
        done = write(STDERR_FILENO, line.bytes, line.len);
    while (done < 0 && errno == EINTR);
    errno = saved_errno;
}
