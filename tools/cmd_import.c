/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tandemfs import: an existing database, copied into the mount as SQLite would write it, so that
 * the daemon captures it like any other transaction.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "tools/command.h"
#include "tools/human.h"
#include "tools/names.h"
#include "tools/progress.h"
#include "tools/sqlite_copy.h"

#define WHY_MAX 1024

static int refuse_on_replica(const json_t *info)
{
    const char *role = command_text(info, "role"), *primary = command_text(info, "primary");
    if (strcmp(role, "primary") == 0)
        return 0;
    if (primary[0])
        command_say("import", "this node is a %s; import on the primary, %s", role, primary);
    else
        command_say("import", "this node is a %s; import on the primary, which is not known yet",
                    role);
    return EXIT_FAILED;
}

/* The path of the new database, its folders made. */
static int make_target(const char *mount, const char *name, char *out, size_t out_size)
{
    int dir, err;
    int n = snprintf(out, out_size, "%s/%s", mount, name);
    if (n < 0 || (size_t)n >= out_size) {
        command_say("import", "%s: the path is too long", name);
        return EXIT_FAILED;
    }
    err = file_open(AT_FDCWD, mount, O_RDONLY | O_DIRECTORY, 0, &dir);
    if (err) {
        command_say("import",
                    "cannot use the mount %s: %s; run this as a user who may use it, on the "
                    "machine where it is mounted",
                    mount, err_text(err));
        return EXIT_FAILED;
    }
    const char *slash = strrchr(name, '/');
    if (slash) {
        char folder[PATH_MAX];
        snprintf(folder, sizeof folder, "%.*s", (int)(slash - name), name);
        err = file_mkdirs(dir, folder, 0755);
        if (err)
            command_say("import", "cannot make the folder %s: %s", folder, err_text(err));
    }
    file_close(dir);
    return err ? EXIT_FAILED : 0;
}

static bool same_file(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static void show(void *ctx, uint64_t done, uint64_t total)
{
    progress_update(ctx, done, total);
}

static void say_done(const struct command_daemon *daemon, const char *name,
                     const struct sqlite_file *file, int64_t ms)
{
    char size[HUMAN_SIZE], took[HUMAN_SIZE];
    json_t *info = NULL, *db;
    size_t i;
    printf("%s: %s imported in %s", name, human_bytes(file->size, size), human_ms(ms, took));
    if (command_info(&command_import, daemon, &info) == 0) {
        json_array_foreach(json_object_get(info, "databases"), i, db)
        {
            if (strcmp(command_text(db, "name"), name) == 0)
                printf(", position %s", command_text(db, "position"));
        }
        json_decref(info);
    }
    putchar('\n');
}

static int import(const struct command_daemon *daemon, const char *file, const char *name)
{
    char why[WHY_MAX], what[WHY_MAX], target[PATH_MAX];
    struct sqlite_file found;
    struct progress progress;
    json_t *info;
    if (sqlite_examine(file, &found, why, sizeof why) != 0) {
        command_say("import", "%s", why);
        return EXIT_FAILED;
    }
    int status = command_info(&command_import, daemon, &info);
    if (status)
        return status;
    status = refuse_on_replica(info);
    if (!status)
        status = make_target(command_text(info, "mount"), name, target, sizeof target);
    json_decref(info);
    if (status)
        return status;
    if (same_file(file, target)) {
        command_say("import", "%s is that database already", file);
        return EXIT_FAILED;
    }
    struct mono began = mono_now();
    snprintf(what, sizeof what, "import of %s", name);
    progress_begin(&progress, what, PROGRESS_PAGES);
    int err = sqlite_copy(file, target, show, &progress, why, sizeof why);
    progress_end(&progress);
    if (err) {
        command_say("import", "%s", why);
        return EXIT_FAILED;
    }
    say_done(daemon, name, &found, mono_since_ms(began));
    return EXIT_SUCCESS;
}

static int run(int argc, char **argv)
{
    static const struct option options[] = {{"http", required_argument, NULL, 'H'},
                                            {"config", required_argument, NULL, 'c'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    struct command_daemon daemon = {0};
    char why[WHY_MAX];
    int option;
    while ((option = getopt_long(argc, argv, ":c:h", options, NULL)) != -1) {
        switch (option) {
        case 'H': daemon.http_option = optarg; break;
        case 'c': daemon.file_option = optarg; break;
        case 'h': command_help(&command_import); return EXIT_SUCCESS;
        default: return command_bad_option(&command_import, argc, argv, option);
        }
    }
    if (argc - optind != 2)
        return command_misuse(&command_import, "expected FILE and NAME");
    const char *file = argv[optind], *name = argv[optind + 1];
    if (name_check(name, why, sizeof why) != 0)
        return command_misuse(&command_import, "\"%s\" cannot be the name of a database: %s", name,
                              why);
    int status = command_find_daemon(&command_import, &daemon);
    return status ? status : import(&daemon, file, name);
}

const struct command command_import = {
    .name = "import",
    .run = run,
    .summary = "bring an existing SQLite database in",
    .synopsis = "[--http ADDR] [-c FILE] FILE NAME",
    .help = "Copies the SQLite database FILE, in one transaction, to NAME below the mount of the\n"
            "primary. A database that is there already is replaced. FILE is only read.\n"
            "\n"
            "      --http ADDR    the primary's admin address\n"
            "  -c, --config FILE  take the admin address from this configuration",
};
