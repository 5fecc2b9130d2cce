/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TOOLS_CONFIG_H
#define TOOLS_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fs/db/catalog.h"
#include "ltx/base/logger.h"

/*
 * The settings of one node: defaults, then a YAML file, then flags; each overrides the one before.
 *
 * config_init, config_read_file, config_set (flags), config_check, ..., config_fini. What is wrong
 * is told in one sentence with file and line, what was found and what was expected.
 */
#define CONFIG_DEFAULT_FILE "/etc/tandemfs.yml"
#define CONFIG_DEFAULT_LISTEN "tcp://127.0.0.1:20210"
#define CONFIG_DEFAULT_HTTP "127.0.0.1:20211"
#define CONFIG_FILE_MAX (1 << 20) /* bytes of a configuration file, a value, a command */
#define CONFIG_PEERS_MAX 64
#define CONFIG_WHY_MAX 1024 /* room for any sentence of these functions */

enum config_key {
    CONFIG_MOUNT,
    CONFIG_DATA,
    CONFIG_LISTEN,
    CONFIG_ADVERTISE,
    CONFIG_HTTP,
    CONFIG_LEASE_TYPE,
    CONFIG_LEASE_PRIMARY,
    CONFIG_LEASE_CANDIDATE,
    CONFIG_PEER, /* adds one to the list */
    CONFIG_RETENTION_AGE,
    CONFIG_RETENTION_SIZE,
    CONFIG_SCRUB_INTERVAL,
    CONFIG_SCRUB_RATE,
    CONFIG_LOG_FORMAT,
    CONFIG_LOG_LEVEL,
    CONFIG_EXEC,     /* a command line, split into words */
    CONFIG_EXEC_ARG, /* adds one word */
    CONFIG_REPLICA_WRITES,
    CONFIG_ALLOW_OTHER,
    CONFIG_KEY_COUNT
};

struct config {
    char *mount;     /* absolute after config_check */
    char *data;      /* absolute after config_check */
    char *listen;    /* nng URL; NULL = nobody can follow this node */
    char *advertise; /* NULL = what it listens on */
    char *http;      /* host:port */
    char **peers;
    size_t peer_count;
    bool primary;
    bool primary_given; /* false: config_check decides (primary if there are no peers) */
    bool candidate;
    int64_t retention_age_ms;     /* 0 = no limit */
    int64_t retention_size_bytes; /* 0 = no limit */
    int64_t scrub_interval_ms;    /* 0 = never */
    int64_t scrub_rate_bytes;     /* a second; 0 = no limit */
    bool log_json;
    enum logger_level log_level;
    char **exec; /* NULL-terminated; NULL = no command */
    size_t exec_count;
    enum replica_writes replica_writes;
    bool allow_other;
};

void config_init(struct config *c); /* the defaults; -ERR_NOMEM shows as missing values in check */
void config_fini(struct config *c);

/*
 * Sets one setting from text. On -ERR_INVALID `expected` receives a clause that says what would
 * have been right.
 */
int config_set(struct config *c, enum config_key key, const char *text, const char **expected);

void config_clear_peers(struct config *c);
void config_clear_exec(struct config *c);

/* Reads a YAML file over what is there. `why` receives the sentence on failure. */
int config_read_file(struct config *c, const char *path, char *why, size_t why_size);
/* The same from memory; `name` stands for the file in messages. */
int config_read_text(struct config *c, const char *name, const char *text, size_t n, char *why,
                     size_t why_size);

/* Makes paths absolute, fills in what depends on other settings, and refuses what does not fit
 * together. */
int config_check(struct config *c, char *why, size_t why_size);

#endif
