/* SPDX-License-Identifier: Apache-2.0 */
/* tandemfs promote: make a node the primary. */
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/err.h"
#include "tools/command.h"
#include "tools/http_client.h"

#define TIMEOUT_MS 60000

static int promote(const struct command_daemon *daemon, bool force)
{
    char why[HTTP_WHY_MAX];
    json_t *doc;
    int err = http_json(daemon->address, "POST", force ? "/promote?force=1" : "/promote",
                        TIMEOUT_MS, &doc, NULL, why, sizeof why);
    if (err) {
        command_say("promote", "%s", why);
        return err == -ERR_UNREACHABLE ? EXIT_REFUSED : EXIT_FAILED;
    }
    printf("%s is the primary now, epoch %lld\n", daemon->address,
           (long long)json_integer_value(json_object_get(doc, "epoch")));
    json_decref(doc);
    return EXIT_SUCCESS;
}

static int run(int argc, char **argv)
{
    static const struct option options[] = {{"http", required_argument, NULL, 'H'},
                                            {"config", required_argument, NULL, 'c'},
                                            {"force", no_argument, NULL, 'f'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    struct command_daemon daemon = {0};
    bool force = false;
    int option;
    while ((option = getopt_long(argc, argv, ":c:h", options, NULL)) != -1) {
        switch (option) {
        case 'H': daemon.http_option = optarg; break;
        case 'c': daemon.file_option = optarg; break;
        case 'f': force = true; break;
        case 'h': command_help(&command_promote); return EXIT_SUCCESS;
        default: return command_bad_option(&command_promote, argc, argv, option);
        }
    }
    if (optind < argc)
        return command_misuse(&command_promote, "unexpected \"%s\"", argv[optind]);
    int status = command_find_daemon(&command_promote, &daemon);
    return status ? status : promote(&daemon, force);
}

const struct command command_promote = {
    .name = "promote",
    .run = run,
    .summary = "make a node the primary",
    .synopsis = "[--http ADDR] [-c FILE] [--force]",
    .help = "A primary that can be reached stops its writers, hands over everything it has and\n"
            "becomes a replica: nothing is lost. One that cannot be reached is passed over only\n"
            "with --force; what it alone has is kept on it in diverged/ when it comes back.\n"
            "\n"
            "      --http ADDR    the admin address of the node that shall be the primary\n"
            "  -c, --config FILE  take the admin address from this configuration\n"
            "      --force        also if the present primary cannot be reached",
};
