/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TOOLS_COMMAND_H
#define TOOLS_COMMAND_H

#include <jansson.h>
#include <stddef.h>

/*
 * The subcommands of the program. Each gets its own words, argv[0] being its name, and returns the
 * exit status.
 */
enum {
    EXIT_FAILED = 1, /* it was tried and did not work */
    EXIT_REFUSED = 2 /* wrong use, a daemon that does not answer, a start that was refused */
};

struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;  /* one line */
    const char *synopsis; /* what follows the name */
    const char *help;     /* the options */
};

extern const struct command command_mount, command_status, command_promote, command_import,
    command_export, command_verify, command_ltx;

/* "tandemfs import: ..." on stderr. */
void command_say(const char *name, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same with a hint at the help; returns EXIT_REFUSED. */
int command_misuse(const struct command *c, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
void command_help(const struct command *c);

/* An option that getopt did not know, or one without its argument. */
int command_bad_option(const struct command *c, int argc, char **argv, int found);

/*
 * Where the daemon's admin address is: --http if it was given, else what the file says (-c, or the
 * default file if it is there), else the default. 0, or an exit status after having said why.
 */
struct command_daemon {
    const char *http_option; /* NULL if not given */
    const char *file_option;
    char address[256];
};
int command_find_daemon(const struct command *c, struct command_daemon *d);
/* Fetches /info: 0, or an exit status after having said why. */
int command_info(const struct command *c, const struct command_daemon *d, json_t **info);
/* A text of a JSON object, "" if it has none of that name. */
const char *command_text(const json_t *object, const char *key);

#endif
