/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/config_value.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "ltx/base/err.h"

struct unit {
    const char *name;
    int64_t factor;
};

static const struct unit duration_units[] = {
    {"ms", 1},
    {"s", 1000},
    {"m", INT64_C(60) * 1000},
    {"h", INT64_C(3600) * 1000},
    {"d", INT64_C(24) * 3600 * 1000},
    {"w", INT64_C(7) * 24 * 3600 * 1000},
    {NULL, 0},
};

static const struct unit size_units[] = {
    {"", 1},
    {"B", 1},
    {"KB", 1000},
    {"MB", INT64_C(1000) * 1000},
    {"GB", INT64_C(1000) * 1000 * 1000},
    {"TB", INT64_C(1000) * 1000 * 1000 * 1000},
    {"KiB", 1 << 10},
    {"MiB", 1 << 20},
    {"GiB", 1 << 30},
    {"TiB", INT64_C(1) << 40},
    {NULL, 0},
};

/* Digits, perhaps blanks, and a unit of the table. A bare 0 needs no unit. */
static int read_quantity(const char *text, const struct unit *units, int64_t *out)
{
    int64_t n = 0;
    const char *p = text;
    if (!isdigit((unsigned char)*p))
        return -ERR_INVALID;
    for (; isdigit((unsigned char)*p); p++)
        if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, *p - '0', &n))
            return -ERR_INVALID;
    while (*p == ' ')
        p++;
    if (n == 0 && *p == '\0') {
        *out = 0;
        return 0;
    }
    for (; units->name; units++) {
        if (strcasecmp(p, units->name) != 0)
            continue;
        if (__builtin_mul_overflow(n, units->factor, &n))
            return -ERR_INVALID;
        *out = n;
        return 0;
    }
    return -ERR_INVALID;
}

/* Checks HOST:PORT; a host in brackets may hold colons. `port` receives where the port begins. */
static int split_host_port(const char *text, const char **host, size_t *host_len, unsigned *port)
{
    const char *colon;
    *host = text;
    if (*text == '[') {
        const char *end = strchr(text, ']');
        if (!end || end[1] != ':')
            return -ERR_INVALID;
        *host = text + 1;
        *host_len = (size_t)(end - text - 1);
        colon = end + 1;
    } else {
        colon = strchr(text, ':');
        if (!colon)
            return -ERR_INVALID;
        *host_len = (size_t)(colon - text);
    }
    const char *p = colon + 1;
    unsigned n = 0;
    if (!isdigit((unsigned char)*p) || strlen(p) > 5)
        return -ERR_INVALID;
    for (; isdigit((unsigned char)*p); p++)
        n = n * 10 + (unsigned)(*p - '0');
    if (*p != '\0' || n > 65535 || n == 0)
        return -ERR_INVALID;
    for (size_t i = 0; i < *host_len; i++)
        if (isspace((unsigned char)(*host)[i]) || (*host)[i] == '/' || (*host)[i] == '@')
            return -ERR_INVALID;
    *port = n;
    return 0;
}

static const char *without_scheme(const char *text, const char *scheme)
{
    size_t n = strlen(scheme);
    return strncmp(text, scheme, n) == 0 ? text + n : text;
}

/* The smallest number of single-letter changes from a to b; names are short. */
static size_t edit_distance(const char *a, const char *b)
{
    size_t row[64];
    size_t la = strlen(a), lb = strlen(b);
    if (lb >= sizeof row / sizeof row[0])
        return SIZE_MAX;
    for (size_t j = 0; j <= lb; j++)
        row[j] = j;
    for (size_t i = 1; i <= la; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= lb; j++) {
            size_t change = diagonal + (tolower((unsigned char)a[i - 1]) != b[j - 1]);
            size_t best = row[j] + 1 < row[j - 1] + 1 ? row[j] + 1 : row[j - 1] + 1;
            diagonal = row[j];
            row[j] = change < best ? change : best;
        }
    }
    return row[lb];
}

int value_duration(const char *text, int64_t *ms)
{
    return read_quantity(text, duration_units, ms);
}

int value_size(const char *text, int64_t *bytes)
{
    return read_quantity(text, size_units, bytes);
}

int value_bool(const char *text, bool *value)
{
    static const struct {
        const char *text;
        bool value;
    } words[] = {{"true", true}, {"false", false}, {"yes", true},
                 {"no", false},  {"on", true},     {"off", false}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strcasecmp(text, words[i].text) == 0) {
            *value = words[i].value;
            return 0;
        }
    }
    return -ERR_INVALID;
}

int value_url(const char *text)
{
    const char *host;
    size_t n;
    unsigned port;
    if (strlen(text) >= 250) /* a URL travels in messages and has a limit there */
        return -ERR_INVALID;
    if (strncmp(text, "tcp://", 6) != 0)
        return -ERR_INVALID;
    return split_host_port(text + 6, &host, &n, &port);
}

int value_address(const char *text, char *out, size_t out_size)
{
    const char *rest = without_scheme(text, "http://"), *host;
    size_t n = strlen(rest), host_len;
    unsigned port;
    char copy[256];
    if (n > 0 && rest[n - 1] == '/')
        n--;
    if (n >= sizeof copy || n >= out_size)
        return -ERR_INVALID;
    memcpy(copy, rest, n);
    copy[n] = '\0';
    int err = split_host_port(copy, &host, &host_len, &port);
    if (err)
        return err;
    if (host_len == 0)
        return -ERR_INVALID;
    memcpy(out, copy, n + 1);
    return 0;
}

unsigned value_port(const char *text)
{
    const char *host;
    size_t n;
    unsigned port;
    return split_host_port(without_scheme(text, "tcp://"), &host, &n, &port) == 0 ? port : 0;
}

int value_host(const char *text, char *out, size_t out_size)
{
    const char *host;
    size_t n;
    unsigned port;
    int err = split_host_port(without_scheme(text, "tcp://"), &host, &n, &port);
    if (err)
        return err;
    if (n >= out_size)
        return -ERR_INVALID;
    memcpy(out, host, n);
    out[n] = '\0';
    return 0;
}

bool value_is_wildcard(const char *url)
{
    char host[256];
    if (value_host(url, host, sizeof host) != 0)
        return false;
    return host[0] == '\0' || strcmp(host, "*") == 0 || strcmp(host, "0.0.0.0") == 0 ||
           strcmp(host, "::") == 0;
}

int value_expand(const char *text, struct buf *out, char *name, size_t name_size)
{
    for (const char *p = text; *p;) {
        if (strncmp(p, "$${", 3) == 0) {
            int err = buf_append(out, "${", 2);
            if (err)
                return err;
            p += 3;
            continue;
        }
        if (strncmp(p, "${", 2) != 0) {
            int err = buf_append(out, p, 1);
            if (err)
                return err;
            p++;
            continue;
        }
        size_t n = 0;
        for (p += 2; isalnum((unsigned char)*p) || *p == '_'; p++) {
            if (n + 1 >= name_size)
                return -ERR_INVALID;
            name[n++] = *p;
        }
        name[n] = '\0';
        if (*p != '}' || n == 0 || isdigit((unsigned char)name[0]))
            return -ERR_INVALID;
        p++;
        const char *value = getenv(name);
        if (!value)
            return -ERR_NOTFOUND;
        int err = buf_append(out, value, strlen(value));
        if (err)
            return err;
    }
    return 0;
}

/* Reads one word at *p into `word`. -ERR_INVALID: a quote without its end. */
static int next_word(const char **p, struct buf *word)
{
    const char *s = *p;
    char quote = '\0';
    int err = 0;
    for (; *s && (quote || !isspace((unsigned char)*s)) && !err; s++) {
        if (!quote && (*s == '\'' || *s == '"')) {
            quote = *s;
        } else if (quote && *s == quote) {
            quote = '\0';
        } else if (*s == '\\' && quote != '\'' && s[1]) {
            s++;
            err = buf_append(word, s, 1);
        } else {
            err = buf_append(word, s, 1);
        }
    }
    *p = s;
    if (!err && quote)
        err = -ERR_INVALID;
    return err ? err : buf_put_u8(word, 0);
}

int value_words(const char *text, char ***words, size_t *count)
{
    struct buf word = {0};
    char **list = calloc(1, sizeof *list);
    size_t n = 0;
    int err = list ? 0 : -ERR_NOMEM;
    while (!err) {
        while (isspace((unsigned char)*text))
            text++;
        if (!*text)
            break;
        buf_reset(&word);
        err = next_word(&text, &word);
        if (err)
            break;
        char **more = reallocarray(list, n + 2, sizeof *list);
        if (!more) {
            err = -ERR_NOMEM;
            break;
        }
        list = more;
        list[n] = strdup((const char *)word.data);
        err = list[n] ? 0 : -ERR_NOMEM;
        if (!err)
            list[++n] = NULL;
    }
    buf_fini(&word);
    if (err) {
        value_words_free(list);
        return err;
    }
    *words = list;
    *count = n;
    return 0;
}

void value_words_free(char **words)
{
    for (size_t i = 0; words && words[i]; i++)
        free(words[i]);
    free(words);
}

const char *value_closest(const char *text, const char *const *names, size_t count)
{
    const char *best = NULL;
    size_t least = strlen(text) / 3 + 1; /* more changes than that, and it is another word */
    for (size_t i = 0; i < count; i++) {
        size_t d = edit_distance(text, names[i]);
        if (d <= least && (!best || d < least)) {
            best = names[i];
            least = d;
        }
    }
    return best;
}
