/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tandemfs export: a consistent copy of a database, from any node, as a SQLite file, one LTX file,
 * or a backup that Litestream opens. It is written beside its place and renamed when it is whole.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/format.h"
#include "tools/command.h"
#include "tools/job_watch.h"
#include "tools/folder.h"
#include "tools/http_client.h"
#include "tools/human.h"
#include "tools/names.h"

/* Where Litestream looks for snapshots below a backup's folder. */
#define LITESTREAM_SNAPSHOTS "ltx/9"

struct export_job {
    const char *name; /* of the database */
    const char *file; /* what the user named */
    const char *format;
    bool force;
    char path[PATH_MAX]; /* where the download ends up */
};

/* What a signal removes: set before the file is made, cleared when it has its name. */
static char unfinished[PATH_MAX + 8];

static void remove_unfinished(int signo)
{
    unlink(unfinished);
    signal(signo, SIG_DFL);
    raise(signo);
}

static void catch_signals(void (*handler)(int))
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
        signal(signals[i], handler);
}

static int make_uri(const struct export_job *e, struct buf *uri)
{
    int err = buf_printf(uri, "/export?format=%s&name=", e->format);
    if (!err)
        err = http_escape(uri, e->name);
    return err ? err : buf_put_u8(uri, 0);
}

static void show(void *ctx, uint64_t done, uint64_t total)
{
    job_watch_body(ctx, done, total);
}

/* Downloads into the open file; says what went wrong. */
static int download(const struct command_daemon *daemon, const struct export_job *e, int fd)
{
    char why[HTTP_WHY_MAX];
    struct buf uri = {0};
    struct http_reply reply = {0};
    struct job_watch watch;
    int status = 0, err = make_uri(e, &uri);
    if (err) {
        command_say("export", "%s", err_text(err));
        buf_fini(&uri);
        return EXIT_FAILED;
    }
    job_watch_begin(&watch, daemon->address, "export", e->name);
    err = http_download(daemon->address, (const char *)uri.data, fd, show, &watch, &reply, why,
                        sizeof why);
    job_watch_end(&watch);
    buf_fini(&uri);
    if (!err && reply.status != 200) {
        http_error_text(&reply, why, sizeof why);
        err = -ERR_INVALID;
    }
    if (!err) {
        err = file_sync(fd);
        if (err)
            snprintf(why, sizeof why, "cannot write the copy: %s", err_text(err));
    }
    if (err) {
        command_say("export", "%s", why);
        status = err == -ERR_UNREACHABLE ? EXIT_REFUSED : EXIT_FAILED;
    }
    http_reply_fini(&reply);
    return status;
}

/* The place of a snapshot in a backup says up to which transaction it goes. */
static int name_litestream(struct export_job *e, int fd)
{
    uint8_t bytes[LTX_HEADER_SIZE];
    struct ltx_header header;
    char name[LTX_NAME_SIZE];
    int err = file_read(fd, bytes, sizeof bytes, 0);
    if (!err)
        err = ltx_header_decode(bytes, &header);
    if (err)
        return err;
    ltx_name_format(header.min_txid, header.max_txid, name);
    size_t used = strlen(e->path);
    int n = snprintf(e->path + used, sizeof e->path - used, "/%s", name);
    return n < 0 || (size_t)n >= sizeof e->path - used ? -ERR_LIMIT : 0;
}

static int finish(struct export_job *e, int fd)
{
    char size[HUMAN_SIZE];
    int64_t bytes = 0;
    int err = file_size(fd, &bytes);
    if (!err && strcmp(e->format, "litestream") == 0)
        err = name_litestream(e, fd);
    if (!err)
        err = file_rename(AT_FDCWD, unfinished, AT_FDCWD, e->path);
    if (err) {
        command_say("export", "cannot make %s: %s", e->path, err_text(err));
        return EXIT_FAILED;
    }
    catch_signals(SIG_DFL);
    printf("%s: %s written to %s\n", e->name, human_bytes((uint64_t)bytes, size), e->path);
    return 0;
}

/* Refuses to write over what is there; makes a backup's folders. */
static int prepare(struct export_job *e)
{
    bool folder = strcmp(e->format, "litestream") == 0;
    struct stat st;
    int err = 0, n;
    if (strlen(e->file) + 64 >= sizeof e->path) {
        command_say("export", "%s: the path is too long", e->file);
        return EXIT_FAILED;
    }
    bool there = stat(e->file, &st) == 0;
    if (!folder && there && S_ISDIR(st.st_mode)) {
        command_say("export", "%s is a folder; give the name of a file", e->file);
        return EXIT_FAILED;
    }
    if (folder && there && !S_ISDIR(st.st_mode)) {
        command_say("export", "%s is a file; a backup for Litestream is a folder", e->file);
        return EXIT_FAILED;
    }
    if (there && !e->force && !(folder && folder_is_empty(e->file))) {
        command_say("export", "%s is there already; give another name, or --force", e->file);
        return EXIT_FAILED;
    }
    n = snprintf(e->path, sizeof e->path, folder ? "%s/" LITESTREAM_SNAPSHOTS : "%s", e->file);
    if (folder)
        err = file_mkdirs(AT_FDCWD, e->path, 0755);
    if (err)
        command_say("export", "cannot make the folder %s: %s", e->path, err_text(err));
    snprintf(unfinished, sizeof unfinished, "%.*s%s", n, e->path, folder ? "/new.tmp" : ".tmp");
    return err ? EXIT_FAILED : 0;
}

static int export_database(const struct command_daemon *daemon, struct export_job *e)
{
    int fd, status = prepare(e);
    if (status)
        return status;
    catch_signals(remove_unfinished);
    int err = file_open(AT_FDCWD, unfinished, O_RDWR | O_CREAT | O_TRUNC, 0644, &fd);
    if (err) {
        command_say("export", "cannot write %s: %s", unfinished, err_text(err));
        return EXIT_FAILED;
    }
    status = download(daemon, e, fd);
    if (!status)
        status = finish(e, fd);
    if (status)
        unlink(unfinished);
    file_close(fd);
    if (status && strcmp(e->format, "litestream") == 0)
        folder_remove_empty(e->file, LITESTREAM_SNAPSHOTS);
    return status;
}

static bool known_format(const char *format)
{
    return strcmp(format, "sqlite") == 0 || strcmp(format, "ltx") == 0 ||
           strcmp(format, "litestream") == 0;
}

static int run(int argc, char **argv)
{
    static const struct option options[] = {
        {"http", required_argument, NULL, 'H'},   {"config", required_argument, NULL, 'c'},
        {"format", required_argument, NULL, 'F'}, {"force", no_argument, NULL, 'f'},
        {"help", no_argument, NULL, 'h'},         {0}};
    struct command_daemon daemon = {0};
    struct export_job e = {.format = "sqlite"};
    char why[256];
    int option;
    while ((option = getopt_long(argc, argv, ":c:h", options, NULL)) != -1) {
        switch (option) {
        case 'H': daemon.http_option = optarg; break;
        case 'c': daemon.file_option = optarg; break;
        case 'F': e.format = optarg; break;
        case 'f': e.force = true; break;
        case 'h': command_help(&command_export); return EXIT_SUCCESS;
        default: return command_bad_option(&command_export, argc, argv, option);
        }
    }
    if (argc - optind != 2)
        return command_misuse(&command_export, "expected NAME and FILE");
    if (!known_format(e.format))
        return command_misuse(&command_export,
                              "--format: found \"%s\", expected sqlite, ltx or litestream",
                              e.format);
    e.name = argv[optind];
    e.file = argv[optind + 1];
    if (name_check(e.name, why, sizeof why) != 0)
        return command_misuse(&command_export, "\"%s\" cannot be the name of a database: %s",
                              e.name, why);
    int status = command_find_daemon(&command_export, &daemon);
    return status ? status : export_database(&daemon, &e);
}

const struct command command_export = {
    .name = "export",
    .run = run,
    .summary = "take a consistent copy of a database out",
    .synopsis = "[--http ADDR] [-c FILE] [--format F] [--force] NAME FILE",
    .help = "Works on any node; writers and readers do not wait for it. NAME is the path of the\n"
            "database below the mount.\n"
            "\n"
            "      --http ADDR    the node's admin address\n"
            "  -c, --config FILE  take the admin address from this configuration\n"
            "      --format F     sqlite (default): a database file\n"
            "                     ltx: one LTX file that holds all of it\n"
            "                     litestream: a folder that Litestream restores from\n"
            "      --force        write over FILE, or add to the folder",
};
