/* SPDX-License-Identifier: Apache-2.0 */
/* The program: a table of subcommands. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/command.h"
#include "tools/config_value.h"

static const struct command *const commands[] = {&command_mount,  &command_status, &command_promote,
                                                 &command_import, &command_export, &command_verify,
                                                 &command_ltx};
#define COMMANDS (sizeof commands / sizeof commands[0])

static const struct command *find(const char *name)
{
    for (size_t i = 0; i < COMMANDS; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

static int unknown(const char *name)
{
    const char *names[COMMANDS];
    for (size_t i = 0; i < COMMANDS; i++)
        names[i] = commands[i]->name;
    const char *close = value_closest(name, names, COMMANDS);
    if (close)
        fprintf(stderr, "tandemfs: there is no command %s; did you mean %s?\n", name, close);
    else
        fprintf(stderr, "tandemfs: there is no command %s. Try 'tandemfs help'.\n", name);
    return EXIT_REFUSED;
}

static void overview(FILE *out)
{
    fputs("usage: tandemfs COMMAND [options]\n\n", out);
    for (size_t i = 0; i < COMMANDS; i++)
        fprintf(out, "  %-9s %s\n", commands[i]->name, commands[i]->summary);
    fputs("  version   print the version\n"
          "  help      print this, or the help of a command: tandemfs help mount\n",
          out);
}

static int help(const char *name)
{
    const struct command *c = name ? find(name) : NULL;
    if (name && !c)
        return unknown(name);
    if (c)
        command_help(c);
    else
        overview(stdout);
    return EXIT_SUCCESS;
}

/* What could not be printed was not said: a full disk or a closed pipe is a failure. */
static int close_output(int status)
{
    if ((fflush(stdout) != 0 || ferror(stdout)) && status == EXIT_SUCCESS) {
        perror("tandemfs: standard output");
        return EXIT_FAILED;
    }
    return status;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        overview(stderr);
        return EXIT_REFUSED;
    }
    const char *name = argv[1];
    if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        return close_output(help(argc > 2 ? argv[2] : NULL));
    if (strcmp(name, "version") == 0 || strcmp(name, "--version") == 0) {
        printf("tandemfs %s\n", TANDEMFS_VERSION);
        return close_output(EXIT_SUCCESS);
    }
    const struct command *c = find(name);
    return c ? close_output(c->run(argc - 1, argv + 1)) : unknown(name);
}
