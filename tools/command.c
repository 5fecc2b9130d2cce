/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/command.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ltx/base/err.h"
#include "tools/config.h"
#include "tools/config_value.h"
#include "tools/http_client.h"

#define INFO_TIMEOUT_MS 30000

__attribute__((format(printf, 2, 0))) static void say(const char *name, const char *fmt,
                                                      va_list args)
{
    fprintf(stderr, "tandemfs %s: ", name);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
}

static int address_from_file(const struct command *c, struct command_daemon *d, const char *file)
{
    struct config config;
    char why[CONFIG_WHY_MAX];
    config_init(&config);
    int err = config_read_file(&config, file, why, sizeof why);
    if (err)
        command_say(c->name, "%s", why);
    else
        snprintf(d->address, sizeof d->address, "%s", config.http);
    config_fini(&config);
    return err ? EXIT_REFUSED : 0;
}

void command_say(const char *name, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    say(name, fmt, args);
    va_end(args);
}

int command_misuse(const struct command *c, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    say(c->name, fmt, args);
    va_end(args);
    fprintf(stderr, "Try 'tandemfs help %s'.\n", c->name);
    return EXIT_REFUSED;
}

void command_help(const struct command *c)
{
    printf("usage: tandemfs %s %s\n\n%s\n", c->name, c->synopsis, c->help);
}

int command_bad_option(const struct command *c, int argc, char **argv, int found)
{
    const char *word = optind > 0 && optind <= argc ? argv[optind - 1] : "";
    if (found == ':')
        return command_misuse(c, "%s needs a value", word);
    if (strncmp(word, "--", 2) == 0 || optopt == 0)
        return command_misuse(c, "%s is not an option of this command", word);
    return command_misuse(c, "-%c is not an option of this command", optopt);
}

int command_find_daemon(const struct command *c, struct command_daemon *d)
{
    if (d->http_option) {
        if (value_address(d->http_option, d->address, sizeof d->address) == 0)
            return 0;
        return command_misuse(c, "--http: found \"%s\", expected HOST:PORT", d->http_option);
    }
    if (d->file_option)
        return address_from_file(c, d, d->file_option);
    if (access(CONFIG_DEFAULT_FILE, R_OK) == 0)
        return address_from_file(c, d, CONFIG_DEFAULT_FILE);
    snprintf(d->address, sizeof d->address, "%s", CONFIG_DEFAULT_HTTP);
    return 0;
}

int command_info(const struct command *c, const struct command_daemon *d, json_t **info)
{
    char why[HTTP_WHY_MAX];
    int err = http_json(d->address, "GET", "/info", INFO_TIMEOUT_MS, info, NULL, why, sizeof why);
    if (!err)
        return 0;
    command_say(c->name, "%s", why);
    return EXIT_REFUSED;
}

const char *command_text(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}
