/* SPDX-License-Identifier: Apache-2.0 */
/* tandemfs mount: the flags, over the file, over the defaults; then the daemon. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "ltx/base/err.h"
#include "tools/command.h"
#include "tools/config.h"
#include "tools/daemon.h"

enum {
    OPT_MOUNT = 256,
    OPT_DATA,
    OPT_LISTEN,
    OPT_ADVERTISE,
    OPT_HTTP,
    OPT_PRIMARY,
    OPT_REPLICA_OF,
    OPT_ALLOW_OTHER,
    OPT_LOG_LEVEL,
    OPT_LOG_FORMAT,
};

static const struct option options[] = {
    {"config", required_argument, NULL, 'c'},
    {"mount", required_argument, NULL, OPT_MOUNT},
    {"data", required_argument, NULL, OPT_DATA},
    {"listen", required_argument, NULL, OPT_LISTEN},
    {"advertise", required_argument, NULL, OPT_ADVERTISE},
    {"http", required_argument, NULL, OPT_HTTP},
    {"primary", no_argument, NULL, OPT_PRIMARY},
    {"replica-of", required_argument, NULL, OPT_REPLICA_OF},
    {"allow-other", no_argument, NULL, OPT_ALLOW_OTHER},
    {"log-level", required_argument, NULL, OPT_LOG_LEVEL},
    {"log-format", required_argument, NULL, OPT_LOG_FORMAT},
    {"help", no_argument, NULL, 'h'},
    {0},
};

/* A flag that sets one key of the configuration. */
static const struct {
    int option;
    enum config_key key;
    const char *name;
} settings[] = {
    {OPT_MOUNT, CONFIG_MOUNT, "--mount"},
    {OPT_DATA, CONFIG_DATA, "--data"},
    {OPT_LISTEN, CONFIG_LISTEN, "--listen"},
    {OPT_ADVERTISE, CONFIG_ADVERTISE, "--advertise"},
    {OPT_HTTP, CONFIG_HTTP, "--http"},
    {OPT_REPLICA_OF, CONFIG_PEER, "--replica-of"},
    {OPT_LOG_LEVEL, CONFIG_LOG_LEVEL, "--log-level"},
    {OPT_LOG_FORMAT, CONFIG_LOG_FORMAT, "--log-format"},
};

/* What a first look at the words shows: which file to read, before the flags go over it. */
struct words {
    const char *file;
    bool places; /* --mount or --data was given */
    bool primary, replica;
    bool help;
};

static int look(int argc, char **argv, struct words *w)
{
    int option;
    optind = 0;
    while ((option = getopt_long(argc, argv, "+:c:h", options, NULL)) != -1) {
        switch (option) {
        case 'c': w->file = optarg; break;
        case OPT_MOUNT:
        case OPT_DATA: w->places = true; break;
        case OPT_PRIMARY: w->primary = true; break;
        case OPT_REPLICA_OF: w->replica = true; break;
        case 'h': w->help = true; break;
        case '?':
        case ':': return command_bad_option(&command_mount, argc, argv, option);
        default: break;
        }
    }
    if (w->primary && w->replica)
        return command_misuse(&command_mount, "--primary and --replica-of exclude each other");
    return 0;
}

static int apply(struct config *c, int option, const char *value)
{
    const char *expected;
    for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
        if (settings[i].option != option)
            continue;
        int err = config_set(c, settings[i].key, value, &expected);
        if (err == -ERR_INVALID)
            return command_misuse(&command_mount, "%s: found \"%s\", expected %s", settings[i].name,
                                  value, expected);
        if (err)
            command_say("mount", "%s", err_text(err));
        return err ? EXIT_FAILED : 0;
    }
    return 0;
}

static int take_command(struct config *c, int argc, char **argv)
{
    const char *expected;
    if (optind >= argc)
        return 0;
    if (optind == 0 || argv[optind - 1][0] != '-' || argv[optind - 1][1] != '-' ||
        argv[optind - 1][2] != '\0')
        return command_misuse(&command_mount, "unexpected \"%s\"; a command comes after --",
                              argv[optind]);
    config_clear_exec(c);
    for (int i = optind; i < argc; i++) {
        if (config_set(c, CONFIG_EXEC_ARG, argv[i], &expected) != 0) {
            command_say("mount", "%s", err_text(-ERR_NOMEM));
            return EXIT_FAILED;
        }
    }
    return 0;
}

static int apply_flags(struct config *c, int argc, char **argv, const struct words *w)
{
    int option, status = 0;
    if (w->replica)
        config_clear_peers(c);
    if (w->primary || w->replica) {
        c->primary = w->primary;
        c->primary_given = true;
    }
    optind = 0;
    while (!status && (option = getopt_long(argc, argv, "+:c:h", options, NULL)) != -1) {
        if (option == OPT_ALLOW_OTHER)
            c->allow_other = true;
        status = apply(c, option, optarg);
    }
    return status ? status : take_command(c, argc, argv);
}

static int configure(struct config *c, int argc, char **argv, const struct words *w)
{
    char why[CONFIG_WHY_MAX];
    const char *file = w->file;
    if (!file && !w->places && access(CONFIG_DEFAULT_FILE, F_OK) == 0)
        file = CONFIG_DEFAULT_FILE;
    if (file && config_read_file(c, file, why, sizeof why) != 0) {
        command_say("mount", "%s", why);
        return EXIT_REFUSED;
    }
    int status = apply_flags(c, argc, argv, w);
    if (!status && config_check(c, why, sizeof why) != 0) {
        command_say("mount", "%s", why);
        status = EXIT_REFUSED;
    }
    return status;
}

static int run(int argc, char **argv)
{
    struct words w = {0};
    struct config c;
    int status = look(argc, argv, &w);
    if (status)
        return status;
    if (w.help) {
        command_help(&command_mount);
        return 0;
    }
    config_init(&c);
    status = configure(&c, argc, argv, &w);
    if (!status) {
        logger_configure(c.log_level, c.log_json);
        status = daemon_run(&c);
    }
    config_fini(&c);
    return status;
}

const struct command command_mount = {
    .name = "mount",
    .run = run,
    .summary = "mount a folder of replicated SQLite databases and serve it",
    .synopsis = "[-c FILE] [options] [-- COMMAND ...]",
    .help = "Stays in the foreground until it is told to end (SIGTERM, SIGINT), the folder is\n"
            "unmounted, or COMMAND ends. COMMAND runs when the node is ready; the exit status is\n"
            "COMMAND's then.\n"
            "\n"
            "  -c, --config FILE    read this configuration (default: " CONFIG_DEFAULT_FILE
            " if it is\n"
            "                       there and neither --mount nor --data is given)\n"
            "      --mount DIR      where applications find the databases; an empty folder\n"
            "      --data DIR       where the node keeps everything; a folder of its own\n"
            "      --listen URL     where other nodes reach this one, or none\n"
            "                       (default " CONFIG_DEFAULT_LISTEN ")\n"
            "      --advertise URL  the same as others see it (default: as --listen)\n"
            "      --primary        this node is the primary, unless the cluster has a newer one\n"
            "      --replica-of URL this node follows the cluster of the node at URL; repeatable\n"
            "      --http ADDR      the admin address (default " CONFIG_DEFAULT_HTTP ")\n"
            "      --allow-other    other users may use the mount\n"
            "      --log-level L    debug, info, warn or error (default info)\n"
            "      --log-format F   text or json (default text)",
};
