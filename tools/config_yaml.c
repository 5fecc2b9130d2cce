/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The configuration file: YAML, read into a document by libyaml (the only file that includes it)
 * and walked with a table of keys. The first fault ends the reading and is told with its line.
 */
#include "tools/config.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "ltx/base/buf.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "tools/config_value.h"

struct reader {
    struct config *config;
    const char *name; /* of the file, for messages */
    yaml_document_t document;
    struct buf value; /* the expanded text of the scalar at hand; with the file's own limit */
    size_t exec_size; /* of the words so far, bytes: an alias may repeat a long one */
    char *why;
    size_t why_size;
};

struct key {
    const char *name;
    int (*take)(struct reader *r, const struct key *k, yaml_node_t *node);
    enum config_key key;
    const struct key *below; /* of a mapping; ends with a NULL name */
};

__attribute__((format(printf, 3, 4))) static int refuse(struct reader *r, const yaml_node_t *node,
                                                        const char *fmt, ...)
{
    va_list args;
    int n = snprintf(r->why, r->why_size, "%s:%zu: ", r->name, node->start_mark.line + 1);
    if (n < 0 || (size_t)n >= r->why_size)
        return -ERR_INVALID;
    va_start(args, fmt);
    vsnprintf(r->why + n, r->why_size - (size_t)n, fmt, args);
    va_end(args);
    return -ERR_INVALID;
}

static const char *describe(const yaml_node_t *node)
{
    switch (node->type) {
    case YAML_SEQUENCE_NODE: return "a list";
    case YAML_MAPPING_NODE: return "a group of keys";
    case YAML_SCALAR_NODE: return "a single value";
    default: return "nothing";
    }
}

static const char *scalar(const yaml_node_t *node)
{
    return (const char *)node->data.scalar.value;
}

/* Puts the scalar's text, with ${NAME} expanded, into r->value. */
static int expand(struct reader *r, const struct key *k, const yaml_node_t *node)
{
    char name[128] = "";
    if (strlen(scalar(node)) != node->data.scalar.length)
        return refuse(r, node, "%s: the value holds a NUL byte", k->name);
    buf_reset(&r->value);
    int err = value_expand(scalar(node), &r->value, name, sizeof name);
    if (err == -ERR_NOTFOUND)
        return refuse(r, node, "%s: the environment variable %s is not set", k->name, name);
    if (err == -ERR_INVALID)
        return refuse(r, node, "%s: found \"%s\", expected ${NAME} (write $${ for a plain ${)",
                      k->name, scalar(node));
    if (!err)
        err = buf_put_u8(&r->value, 0);
    if (err == -ERR_LIMIT)
        return refuse(r, node, "%s: the value is longer than %d bytes", k->name, CONFIG_FILE_MAX);
    return err;
}

static int take_scalar(struct reader *r, const struct key *k, yaml_node_t *node)
{
    const char *expected;
    if (node->type != YAML_SCALAR_NODE) {
        config_set(r->config, k->key, "", &expected);
        return refuse(r, node, "%s: found %s, expected %s", k->name, describe(node), expected);
    }
    int err = expand(r, k, node);
    if (err)
        return err;
    const char *text = (const char *)r->value.data;
    if (k->key == CONFIG_EXEC_ARG && (r->exec_size += r->value.len) > CONFIG_FILE_MAX)
        return refuse(r, node, "%s: the command is longer than %d bytes", k->name, CONFIG_FILE_MAX);
    err = config_set(r->config, k->key, text, &expected);
    if (err == -ERR_INVALID && text[0] == '\0')
        return refuse(r, node, "%s: found nothing, expected %s", k->name, expected);
    if (err == -ERR_INVALID)
        return refuse(r, node, "%s: found \"%s\", expected %s", k->name, text, expected);
    return err;
}

static int take_items(struct reader *r, const struct key *k, yaml_node_t *node)
{
    yaml_node_item_t *item = node->data.sequence.items.start;
    for (; item < node->data.sequence.items.top; item++) {
        int err = take_scalar(r, k, yaml_document_get_node(&r->document, *item));
        if (err)
            return err;
    }
    return 0;
}

static int take_peers(struct reader *r, const struct key *k, yaml_node_t *node)
{
    if (node->type != YAML_SEQUENCE_NODE)
        return refuse(r, node, "%s: found %s, expected a list of URLs (- tcp://HOST:PORT)", k->name,
                      describe(node));
    config_clear_peers(r->config);
    return take_items(r, k, node);
}

static int take_exec(struct reader *r, const struct key *k, yaml_node_t *node)
{
    if (node->type == YAML_SCALAR_NODE)
        return take_scalar(r, k, node);
    if (node->type != YAML_SEQUENCE_NODE ||
        node->data.sequence.items.start == node->data.sequence.items.top)
        return refuse(r, node, "%s: found %s, expected a command, or a list of its words", k->name,
                      node->type == YAML_SEQUENCE_NODE ? "an empty list" : describe(node));
    struct key word = {k->name, take_scalar, CONFIG_EXEC_ARG, NULL};
    config_clear_exec(r->config);
    return take_items(r, &word, node);
}

static int unknown_key(struct reader *r, const struct key *table, const char *group,
                       const yaml_node_t *node)
{
    const char *names[CONFIG_KEY_COUNT];
    size_t count = 0;
    char list[256] = "";
    size_t used = 0;
    for (const struct key *k = table; k->name; k++) {
        names[count++] = k->name;
        int n = snprintf(list + used, sizeof list - used, "%s%s", used ? ", " : "", k->name);
        if (n > 0 && used + (size_t)n < sizeof list)
            used += (size_t)n;
    }
    const char *close = value_closest(scalar(node), names, count);
    if (close)
        return refuse(r, node, "unknown key \"%s%s\"; did you mean \"%s\"?", group, scalar(node),
                      close);
    return refuse(r, node, "unknown key \"%s%s\", expected one of: %s", group, scalar(node), list);
}

static int read_mapping(struct reader *r, const struct key *table, const char *group,
                        const yaml_node_t *node)
{
    yaml_node_pair_t *first = node->data.mapping.pairs.start;
    for (yaml_node_pair_t *p = first; p < node->data.mapping.pairs.top; p++) {
        const yaml_node_t *name = yaml_document_get_node(&r->document, p->key);
        const struct key *k = table;
        if (name->type != YAML_SCALAR_NODE)
            return refuse(r, name, "found %s, expected a key", describe(name));
        while (k->name && strcmp(k->name, scalar(name)) != 0)
            k++;
        if (!k->name)
            return unknown_key(r, table, group, name);
        for (yaml_node_pair_t *q = first; q < p; q++) {
            const yaml_node_t *other = yaml_document_get_node(&r->document, q->key);
            if (strcmp(scalar(other), k->name) == 0)
                return refuse(r, name, "%s%s: stands here for the second time", group, k->name);
        }
        int err = k->take(r, k, yaml_document_get_node(&r->document, p->value));
        if (err)
            return err;
    }
    return 0;
}

static int take_group(struct reader *r, const struct key *k, yaml_node_t *node)
{
    char group[64];
    snprintf(group, sizeof group, "%s.", k->name);
    /* "retention: 24h" is short for its age, "scrub: 24h" for its interval. */
    if (node->type == YAML_SCALAR_NODE && k->key != CONFIG_KEY_COUNT)
        return take_scalar(r, k, node);
    if (node->type == YAML_MAPPING_NODE)
        return read_mapping(r, k->below, group, node);
    return refuse(r, node, "%s: found %s, expected keys below it, such as \"%s:\"", k->name,
                  describe(node), k->below->name);
}

static const struct key lease_keys[] = {
    {"type", take_scalar, CONFIG_LEASE_TYPE, NULL},
    {"primary", take_scalar, CONFIG_LEASE_PRIMARY, NULL},
    {"candidate", take_scalar, CONFIG_LEASE_CANDIDATE, NULL},
    {0},
};

static const struct key retention_keys[] = {
    {"age", take_scalar, CONFIG_RETENTION_AGE, NULL},
    {"size", take_scalar, CONFIG_RETENTION_SIZE, NULL},
    {0},
};

static const struct key scrub_keys[] = {
    {"interval", take_scalar, CONFIG_SCRUB_INTERVAL, NULL},
    {"rate", take_scalar, CONFIG_SCRUB_RATE, NULL},
    {0},
};

static const struct key log_keys[] = {
    {"format", take_scalar, CONFIG_LOG_FORMAT, NULL},
    {"level", take_scalar, CONFIG_LOG_LEVEL, NULL},
    {0},
};

static const struct key top_keys[] = {
    {"mount", take_scalar, CONFIG_MOUNT, NULL},
    {"data", take_scalar, CONFIG_DATA, NULL},
    {"listen", take_scalar, CONFIG_LISTEN, NULL},
    {"advertise", take_scalar, CONFIG_ADVERTISE, NULL},
    {"http", take_scalar, CONFIG_HTTP, NULL},
    {"lease", take_group, CONFIG_KEY_COUNT, lease_keys},
    {"peers", take_peers, CONFIG_PEER, NULL},
    {"retention", take_group, CONFIG_RETENTION_AGE, retention_keys},
    {"scrub", take_group, CONFIG_SCRUB_INTERVAL, scrub_keys},
    {"log", take_group, CONFIG_KEY_COUNT, log_keys},
    {"exec", take_exec, CONFIG_EXEC, NULL},
    {"replica-writes", take_scalar, CONFIG_REPLICA_WRITES, NULL},
    {"allow-other", take_scalar, CONFIG_ALLOW_OTHER, NULL},
    {0},
};

static int read_document(struct reader *r)
{
    const yaml_node_t *root = yaml_document_get_root_node(&r->document);
    if (!root)
        return 0; /* an empty file sets nothing */
    if (root->type == YAML_SCALAR_NODE && root->data.scalar.length == 0)
        return 0;
    if (root->type != YAML_MAPPING_NODE)
        return refuse(r, root, "found %s, expected keys, such as \"mount:\"", describe(root));
    return read_mapping(r, top_keys, "", root);
}

/* A second document would be ignored without a word, so it is refused. */
static int expect_end(struct reader *r, yaml_parser_t *parser)
{
    yaml_document_t more;
    if (!yaml_parser_load(parser, &more))
        return -ERR_CORRUPT;
    const yaml_node_t *root = yaml_document_get_root_node(&more);
    int err = root ? refuse(r, root, "found a second document, expected the end of the file") : 0;
    yaml_document_delete(&more);
    return err;
}

static void say_syntax(struct reader *r, const yaml_parser_t *parser)
{
    const char *context = parser->context ? parser->context : "";
    snprintf(r->why, r->why_size, "%s:%zu: this is not YAML: %s%s%s", r->name,
             parser->problem_mark.line + 1,
             parser->problem ? parser->problem : "it cannot be understood", context[0] ? ", " : "",
             context);
}

int config_read_text(struct config *c, const char *name, const char *text, size_t n, char *why,
                     size_t why_size)
{
    struct reader r = {.config = c,
                       .name = name,
                       .value = {.limit = CONFIG_FILE_MAX},
                       .why = why,
                       .why_size = why_size};
    yaml_parser_t parser;
    why[0] = '\0';
    if (!yaml_parser_initialize(&parser))
        return -ERR_NOMEM;
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, n);
    int err = -ERR_CORRUPT;
    if (yaml_parser_load(&parser, &r.document)) {
        err = read_document(&r);
        if (!err && yaml_document_get_root_node(&r.document))
            err = expect_end(&r, &parser);
        yaml_document_delete(&r.document);
    }
    if (err == -ERR_CORRUPT) {
        say_syntax(&r, &parser);
        err = -ERR_INVALID;
    } else if (err == -ERR_NOMEM) {
        snprintf(why, why_size, "%s: out of memory", name);
    }
    yaml_parser_delete(&parser);
    buf_fini(&r.value);
    return err;
}

int config_read_file(struct config *c, const char *path, char *why, size_t why_size)
{
    int fd, err = file_open(AT_FDCWD, path, O_RDONLY, 0, &fd);
    size_t n = 0;
    if (err) {
        snprintf(why, why_size, "cannot read the configuration file %s: %s", path, err_text(err));
        return err;
    }
    char *text = malloc(CONFIG_FILE_MAX + 1);
    err = text ? file_read_some(fd, text, CONFIG_FILE_MAX + 1, 0, &n) : -ERR_NOMEM;
    file_close(fd);
    if (!err && n > CONFIG_FILE_MAX)
        err = -ERR_LIMIT;
    if (err)
        snprintf(why, why_size, "cannot read the configuration file %s: %s", path, err_text(err));
    else
        err = config_read_text(c, path, text, n, why, why_size);
    free(text);
    return err;
}
