/* SPDX-License-Identifier: Apache-2.0 */
/* tandemfs verify: compares databases with their checksums, now. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/err.h"
#include "tools/command.h"
#include "tools/http_client.h"
#include "tools/human.h"
#include "tools/job_watch.h"
#include "tools/names.h"

#define NO_TIMEOUT (-1)

/* What all databases together came to. */
struct verify {
    const struct command_daemon *daemon;
    uint64_t databases, bytes, bad, mended, undecided, log_faults, failed;
};

static uint64_t number(const json_t *o, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(o, key));
}

static const char *plural(uint64_t n)
{
    return n == 1 ? "" : "s";
}

/* "pages 7, 9, 12, ..." */
static void print_pages(const json_t *doc)
{
    const json_t *pages = json_object_get(doc, "bad_pages"), *page;
    uint64_t bad = number(doc, "bad");
    size_t i;
    printf("%" PRIu64 " bad page%s (", bad, plural(bad));
    json_array_foreach(pages, i, page)
    {
        printf("%s%" PRId64, i ? ", " : "", (int64_t)json_integer_value(page));
    }
    printf("%s)", bad > json_array_size(pages) ? ", ..." : "");
}

static void print_bad(const char *name, const json_t *doc)
{
    uint64_t left = number(doc, "left");
    bool replica = strcmp(command_text(doc, "role"), "replica") == 0;
    printf("%s: ", name);
    print_pages(doc);
    if (left == 0) {
        printf(": put right from %s\n", replica ? "the primary" : "the log of this node");
        return;
    }
    if (replica)
        printf(": %" PRIu64
               " of them not put right yet: the primary does not answer, or has no such "
               "pages; it is tried again\n",
               left);
    else
        printf(": %" PRIu64
               " of them NOT put right: the log of this node does not have them. Check "
               "the disk,\n  and promote a replica: this node then gets them from there\n",
               left);
}

static void print_one(struct verify *v, const char *name, const json_t *doc)
{
    char size[HUMAN_SIZE], took[HUMAN_SIZE];
    uint64_t undecided = number(doc, "undecided"), faults = number(doc, "log_faults");
    v->databases++;
    v->bytes += number(doc, "bytes");
    v->bad += number(doc, "bad");
    v->mended += number(doc, "mended");
    v->undecided += undecided;
    v->log_faults += faults;
    if (number(doc, "bad") > 0)
        print_bad(name, doc);
    if (faults > 0)
        printf("%s: %" PRIu64 " damaged file%s of its log: %s\n", name, faults, plural(faults),
               command_text(doc, "log_fault"));
    if (undecided > 0)
        printf("%s: %" PRIu64 " page%s always being changed and could not be judged\n", name,
               undecided, undecided == 1 ? " was" : "s were");
    if (number(doc, "bad") + faults == 0)
        printf("%s: ok, %" PRIu64 " pages, %s in %s\n", name, number(doc, "pages"),
               human_bytes(number(doc, "bytes"), size),
               human_ms(json_integer_value(json_object_get(doc, "took_ms")), took));
    fflush(stdout);
}

static int verify_one(struct verify *v, const char *name)
{
    char why[HTTP_WHY_MAX];
    struct job_watch watch;
    struct buf uri = {0};
    json_t *doc;
    int err = buf_printf(&uri, "/verify?name=");
    if (!err)
        err = http_escape(&uri, name);
    if (!err)
        err = buf_put_u8(&uri, 0);
    if (err) {
        command_say("verify", "%s", err_text(err));
        buf_fini(&uri);
        return EXIT_FAILED;
    }
    job_watch_begin(&watch, v->daemon->address, "verify", name);
    err = http_json(v->daemon->address, "POST", (const char *)uri.data, NO_TIMEOUT, &doc, NULL, why,
                    sizeof why);
    job_watch_end(&watch);
    buf_fini(&uri);
    if (err) {
        command_say("verify", "%s", why);
        v->failed++;
        return err == -ERR_UNREACHABLE ? EXIT_REFUSED : EXIT_FAILED;
    }
    print_one(v, name, doc);
    json_decref(doc);
    return 0;
}

static void print_sum(const struct verify *v)
{
    char size[HUMAN_SIZE];
    printf("%" PRIu64 " database%s, %s: ", v->databases, plural(v->databases),
           human_bytes(v->bytes, size));
    if (v->bad + v->log_faults + v->failed == 0) {
        printf("everything matches its checksums\n");
        return;
    }
    printf("%" PRIu64 " bad page%s, %" PRIu64 " put right; %" PRIu64 " damaged log file%s", v->bad,
           plural(v->bad), v->mended, v->log_faults, plural(v->log_faults));
    if (v->failed > 0)
        printf("; %" PRIu64 " database%s not verified", v->failed, plural(v->failed));
    putchar('\n');
}

/* All that the node has, if none is named. */
static int verify_all(struct verify *v)
{
    json_t *info;
    const json_t *db;
    size_t i;
    int worst = command_info(&command_verify, v->daemon, &info);
    if (worst)
        return worst;
    json_array_foreach(json_object_get(info, "databases"), i, db)
    {
        if (json_is_true(json_object_get(db, "deleted")))
            continue;
        int status = verify_one(v, command_text(db, "name"));
        worst = status > worst ? status : worst;
        if (status == EXIT_REFUSED)
            break; /* the daemon has gone */
    }
    json_decref(info);
    return worst;
}

static int verify_named(struct verify *v, char **names, int count)
{
    char why[256];
    int worst = 0;
    for (int i = 0; i < count; i++)
        if (name_check(names[i], why, sizeof why) != 0)
            return command_misuse(&command_verify, "\"%s\" cannot be the name of a database: %s",
                                  names[i], why);
    for (int i = 0; i < count && worst != EXIT_REFUSED; i++) {
        int status = verify_one(v, names[i]);
        worst = status > worst ? status : worst;
    }
    return worst;
}

static int run(int argc, char **argv)
{
    static const struct option options[] = {{"http", required_argument, NULL, 'H'},
                                            {"config", required_argument, NULL, 'c'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    struct command_daemon daemon = {0};
    struct verify v = {.daemon = &daemon};
    int option;
    while ((option = getopt_long(argc, argv, ":c:h", options, NULL)) != -1) {
        switch (option) {
        case 'H': daemon.http_option = optarg; break;
        case 'c': daemon.file_option = optarg; break;
        case 'h': command_help(&command_verify); return EXIT_SUCCESS;
        default: return command_bad_option(&command_verify, argc, argv, option);
        }
    }
    int status = command_find_daemon(&command_verify, &daemon);
    if (status)
        return status;
    status = optind < argc ? verify_named(&v, argv + optind, argc - optind) : verify_all(&v);
    if (status != EXIT_REFUSED)
        print_sum(&v);
    return status ? status : v.bad + v.log_faults > 0 ? EXIT_FAILED : EXIT_SUCCESS;
}

const struct command command_verify = {
    .name = "verify",
    .run = run,
    .summary = "compare databases with their checksums, now",
    .synopsis = "[--http ADDR] [-c FILE] [NAME ...]",
    .help =
        "Reads the files of the databases NAME, or of all, and their logs, and compares every\n"
        "page with its checksum, while writers write and readers read. A bad page of a replica\n"
        "is fetched from its primary; on the primary it is put right from the log if that still\n"
        "has it. The exit status is 0 if everything matched, 1 if anything did not, whether or\n"
        "not it was put right.\n"
        "\n"
        "      --http ADDR    the node's admin address\n"
        "  -c, --config FILE  take the admin address from this configuration",
};
