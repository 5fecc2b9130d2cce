/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/config.h"

#include <stdlib.h>
#include <string.h>

#include "fs/db/scrub.h"
#include "ltx/base/err.h"
#include "tools/config_value.h"

static const char *const expected_text[CONFIG_KEY_COUNT] = {
    [CONFIG_MOUNT] = "a path",
    [CONFIG_DATA] = "a path",
    [CONFIG_LISTEN] = "tcp://HOST:PORT or none",
    [CONFIG_ADVERTISE] = "tcp://HOST:PORT, as other nodes reach this one",
    [CONFIG_HTTP] = "HOST:PORT",
    [CONFIG_LEASE_TYPE] = "static",
    [CONFIG_LEASE_PRIMARY] = "true or false",
    [CONFIG_LEASE_CANDIDATE] = "true or false",
    [CONFIG_PEER] = "tcp://HOST:PORT (at most 64 peers)",
    [CONFIG_RETENTION_AGE] = "a time such as 45s, 30m, 24h, 7d, or 0 for no limit",
    [CONFIG_RETENTION_SIZE] = "a size such as 512MB, 10GB, 1GiB, or 0 for no limit",
    [CONFIG_SCRUB_INTERVAL] = "a time such as 12h, 24h, 7d, or 0 for never",
    [CONFIG_SCRUB_RATE] = "bytes a second such as 500kB, 16MB, or 0 for no limit",
    [CONFIG_LOG_FORMAT] = "text or json",
    [CONFIG_LOG_LEVEL] = "debug, info, warn or error",
    [CONFIG_EXEC] = "a command with its arguments",
    [CONFIG_EXEC_ARG] = "a word of a command",
    [CONFIG_REPLICA_WRITES] = "refuse or wait",
    [CONFIG_ALLOW_OTHER] = "true or false",
};

static int set_text(char **field, const char *text)
{
    char *copy = strdup(text);
    if (!copy)
        return -ERR_NOMEM;
    free(*field);
    *field = copy;
    return 0;
}

/* Appends a copy of `text` to a NULL-terminated list. */
static int add_text(char ***list, size_t *count, const char *text)
{
    char **more = reallocarray(*list, *count + 2, sizeof **list);
    if (!more)
        return -ERR_NOMEM;
    *list = more;
    more[*count] = strdup(text);
    more[*count + 1] = NULL;
    if (!more[*count])
        return -ERR_NOMEM;
    (*count)++;
    return 0;
}

static int set_path(char **field, const char *text)
{
    return text[0] ? set_text(field, text) : -ERR_INVALID;
}

static int set_url(char **field, const char *text)
{
    int err = value_url(text);
    return err ? err : set_text(field, text);
}

static int set_listen(struct config *c, const char *text)
{
    if (strcmp(text, "none") == 0) {
        free(c->listen);
        c->listen = NULL;
        return 0;
    }
    return set_url(&c->listen, text);
}

static int set_http(struct config *c, const char *text)
{
    char address[256];
    int err = value_address(text, address, sizeof address);
    return err ? err : set_text(&c->http, address);
}

/* The place of `text` in a table of words, or -ERR_INVALID. */
static int choose(const char *text, const char *const *words, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(text, words[i]) == 0)
            return (int)i;
    return -ERR_INVALID;
}

static int set_primary(struct config *c, const char *text)
{
    int err = value_bool(text, &c->primary);
    if (!err)
        c->primary_given = true;
    return err;
}

static int set_log_format(struct config *c, const char *text)
{
    static const char *const words[] = {"text", "json"};
    int i = choose(text, words, 2);
    if (i >= 0)
        c->log_json = i == 1;
    return i < 0 ? i : 0;
}

static int set_log_level(struct config *c, const char *text)
{
    static const char *const words[] = {"debug", "info", "warn", "error"};
    static const enum logger_level levels[] = {LOGGER_DEBUG, LOGGER_INFO, LOGGER_WARN,
                                               LOGGER_ERROR};
    int i = choose(text, words, 4);
    if (i >= 0)
        c->log_level = levels[i];
    return i < 0 ? i : 0;
}

static int set_replica_writes(struct config *c, const char *text)
{
    static const char *const words[] = {"refuse", "wait"};
    int i = choose(text, words, 2);
    if (i >= 0)
        c->replica_writes = i == 1 ? REPLICA_WRITES_WAIT : REPLICA_WRITES_REFUSE;
    return i < 0 ? i : 0;
}

static int set_exec(struct config *c, const char *text)
{
    char **words;
    size_t count;
    int err = value_words(text, &words, &count);
    if (err)
        return err;
    if (count == 0) {
        value_words_free(words);
        return -ERR_INVALID;
    }
    config_clear_exec(c);
    c->exec = words;
    c->exec_count = count;
    return 0;
}

static int add_peer(struct config *c, const char *text)
{
    int err = c->peer_count < CONFIG_PEERS_MAX ? value_url(text) : -ERR_INVALID;
    if (!err && value_is_wildcard(text))
        err = -ERR_INVALID;
    return err ? err : add_text(&c->peers, &c->peer_count, text);
}

void config_init(struct config *c)
{
    *c = (struct config){
        .listen = strdup(CONFIG_DEFAULT_LISTEN),
        .http = strdup(CONFIG_DEFAULT_HTTP),
        .candidate = true,
        .retention_age_ms = INT64_C(24) * 3600 * 1000,
        .scrub_interval_ms = SCRUB_INTERVAL_MS,
        .scrub_rate_bytes = SCRUB_BYTES_PER_S,
        .log_level = LOGGER_INFO,
        .replica_writes = REPLICA_WRITES_REFUSE,
    };
}

void config_fini(struct config *c)
{
    free(c->mount);
    free(c->data);
    free(c->listen);
    free(c->advertise);
    free(c->http);
    config_clear_peers(c);
    config_clear_exec(c);
    *c = (struct config){0};
}

int config_set(struct config *c, enum config_key key, const char *text, const char **expected)
{
    *expected = expected_text[key];
    switch (key) {
    case CONFIG_MOUNT: return set_path(&c->mount, text);
    case CONFIG_DATA: return set_path(&c->data, text);
    case CONFIG_LISTEN: return set_listen(c, text);
    case CONFIG_ADVERTISE:
        return value_is_wildcard(text) ? -ERR_INVALID : set_url(&c->advertise, text);
    case CONFIG_HTTP: return set_http(c, text);
    case CONFIG_LEASE_TYPE: return strcmp(text, "static") == 0 ? 0 : -ERR_INVALID;
    case CONFIG_LEASE_PRIMARY: return set_primary(c, text);
    case CONFIG_LEASE_CANDIDATE: return value_bool(text, &c->candidate);
    case CONFIG_PEER: return add_peer(c, text);
    case CONFIG_RETENTION_AGE: return value_duration(text, &c->retention_age_ms);
    case CONFIG_RETENTION_SIZE: return value_size(text, &c->retention_size_bytes);
    case CONFIG_SCRUB_INTERVAL: return value_duration(text, &c->scrub_interval_ms);
    case CONFIG_SCRUB_RATE: return value_size(text, &c->scrub_rate_bytes);
    case CONFIG_LOG_FORMAT: return set_log_format(c, text);
    case CONFIG_LOG_LEVEL: return set_log_level(c, text);
    case CONFIG_EXEC: return set_exec(c, text);
    case CONFIG_EXEC_ARG: return add_text(&c->exec, &c->exec_count, text);
    case CONFIG_REPLICA_WRITES: return set_replica_writes(c, text);
    case CONFIG_ALLOW_OTHER: return value_bool(text, &c->allow_other);
    case CONFIG_KEY_COUNT: break;
    }
    return -ERR_INVALID;
}

void config_clear_peers(struct config *c)
{
    value_words_free(c->peers);
    c->peers = NULL;
    c->peer_count = 0;
}

void config_clear_exec(struct config *c)
{
    value_words_free(c->exec);
    c->exec = NULL;
    c->exec_count = 0;
}
