/* SPDX-License-Identifier: Apache-2.0 */
/* tandemfs status: the /info document, as tables for people. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/clock.h"
#include "tools/command.h"
#include "tools/human.h"
#include "tools/table.h"

static int64_t number(const json_t *o, const char *key)
{
    return json_integer_value(json_object_get(o, key));
}

static bool is_true(const json_t *o, const char *key)
{
    return json_is_true(json_object_get(o, key));
}

static void print_node(const json_t *info)
{
    char text[HUMAN_SIZE];
    const char *role = command_text(info, "role"), *primary = command_text(info, "primary");
    printf("node      %s  %s", command_text(info, "node_id"), role);
    if (strcmp(role, "replica") == 0)
        printf(" of %s", primary[0] ? primary : "a primary that is not known yet");
    printf("  epoch %" PRId64 "%s\n", number(info, "epoch"),
           is_true(info, "candidate") ? "" : "  not a candidate");
    printf("cluster   %s  this node is %s\n", command_text(info, "cluster_id"),
           command_text(info, "advertise")[0] ? command_text(info, "advertise") : "not reachable");
    printf("mount     %s  data %s\n", command_text(info, "mount"), command_text(info, "data"));
    if (strcmp(role, "replica") == 0)
        printf("lag       %s\n", human_ms(number(info, "lag_ms"), text));
    if (command_text(info, "waiting_for")[0])
        printf("waiting   for %s\n", command_text(info, "waiting_for"));
    if (!is_true(info, "ready"))
        printf("ready     not yet\n");
}

/* When all databases were compared with their checksums, and when they will be again. */
static void print_checks(const json_t *info)
{
    const json_t *scrub = json_object_get(info, "scrub");
    int64_t now = wall_ms(), last = number(scrub, "last_ms"), next = number(scrub, "next_ms");
    char text[HUMAN_SIZE];
    if (next == 0)
        return;
    if (last > 0)
        printf("checks    last %s ago, ",
               human_duration(now > last ? (now - last) / 1000 : 0, text));
    else
        printf("checks    none yet, ");
    if (command_text(scrub, "database")[0])
        printf("now at %s, page %" PRId64 " of %" PRId64 "\n", command_text(scrub, "database"),
               number(scrub, "pages_done"), number(scrub, "pages_total"));
    else
        printf("next in %s\n", human_duration(next > now ? (next - now) / 1000 : 0, text));
}

/* What a check has found that is not put right by itself. */
static void print_faults(const json_t *info)
{
    const json_t *list = json_object_get(info, "databases"), *db;
    bool replica = strcmp(command_text(info, "role"), "replica") == 0;
    size_t i;
    json_array_foreach(list, i, db)
    {
        const char *name = command_text(db, "name");
        if (number(db, "bad_pages") > 0)
            printf("\n%s: pages in its files do not match their checksums. %s\n", name,
                   replica ? "They are fetched from the primary."
                           : "Check the disk, and promote a replica: this node then gets them "
                             "from there.");
        if (number(db, "log_faults") > 0)
            printf("\n%s: its log is damaged, %s. The database is not concerned; a replica that "
                   "needs these\nrecords gets pages instead. Check the disk.\n",
                   name, command_text(db, "log_fault"));
    }
}

static void print_work(const char *what, const char *name, const json_t *o)
{
    int64_t done = number(o, "pages_done"), total = number(o, "pages_total");
    printf("%-9s %s: %" PRId64 " of %" PRId64 " pages", what, name, done, total);
    if (total > 0)
        printf(" (%d%%)", (int)((double)done * 100 / (double)total));
    putchar('\n');
}

/* "; 3 bad pages" behind what is there, unless there are none. */
static void add_count(char *out, size_t n, int64_t count, const char *what)
{
    size_t used = strlen(out);
    if (count > 0)
        snprintf(out + used, n - used, "%s%" PRId64 " %s%s", used ? "; " : "", count, what,
                 count == 1 ? "" : "s");
}

/* What the last column says of a database that is not simply well. */
static void database_note(const json_t *db, char *out, size_t n)
{
    out[0] = '\0';
    if (is_true(db, "damaged"))
        snprintf(out, n, "damaged: %s", command_text(db, "why"));
    else if (is_true(db, "deleted"))
        snprintf(out, n, "deleted");
    else if (strcmp(command_text(db, "position"), command_text(db, "applied")) != 0)
        snprintf(out, n, "being applied");
    add_count(out, n, number(db, "bad_pages"), "bad page");
    add_count(out, n, number(db, "log_faults"), "damaged log file");
    add_count(out, n, number(db, "diverged"), "diverged file");
}

static void print_databases(const json_t *info)
{
    static const char *const head[] = {"database", "txid", "checksum", "mode", "size", ""};
    const json_t *list = json_object_get(info, "databases"), *db;
    size_t i;
    struct table t;
    if (json_array_size(list) == 0) {
        printf("\nno databases yet: create one below %s\n", command_text(info, "mount"));
        return;
    }
    table_init(&t, head, 6);
    table_align_right(&t, 1);
    table_align_right(&t, 4);
    json_array_foreach(list, i, db)
    {
        char txid[24], size[HUMAN_SIZE], note[256];
        const char *mode = command_text(db, "journal_mode");
        snprintf(txid, sizeof txid, "%" PRId64, number(db, "txid"));
        database_note(db, note, sizeof note);
        table_add(&t, (const char *[]){command_text(db, "name"), txid, command_text(db, "checksum"),
                                       mode[0] ? mode : "-",
                                       human_bytes((uint64_t)number(db, "size"), size), note});
    }
    putchar('\n');
    table_print(&t, stdout);
    table_fini(&t);
}

static void print_members(const json_t *info)
{
    static const char *const head[] = {"peer", "role", "behind", "lag", "seen", ""};
    const json_t *list = json_object_get(info, "members"), *m;
    size_t i;
    struct table t;
    if (json_array_size(list) == 0)
        return;
    table_init(&t, head, 6);
    json_array_foreach(list, i, m)
    {
        char behind[64] = "-", lag[HUMAN_SIZE] = "-", seen[HUMAN_SIZE + 8] = "never";
        char text[HUMAN_SIZE];
        const json_t *seen_ms = json_object_get(m, "seen_ms");
        const char *role = json_is_integer(seen_ms) ? command_text(m, "role") : "-";
        bool primary = strcmp(role, "primary") == 0;
        /* Only a node that asks us for records tells how far it is. */
        if (number(m, "databases") > 0 && !primary) {
            int64_t n = number(m, "behind");
            if (n == 0)
                snprintf(behind, sizeof behind, "level");
            else
                snprintf(behind, sizeof behind, "%" PRId64 " transaction%s", n, n == 1 ? "" : "s");
            human_ms(number(m, "lag_ms"), lag);
        }
        if (json_is_integer(seen_ms))
            snprintf(seen, sizeof seen, "%s ago", human_ms(json_integer_value(seen_ms), text));
        table_add(&t, (const char *[]){command_text(m, "url"), role, behind, lag, seen,
                                       is_true(m, "connected") ? "" : "not in contact"});
    }
    putchar('\n');
    table_print(&t, stdout);
    table_fini(&t);
}

/* What was kept of each database when the node was brought in line, and what to do with it. */
static void print_diverged(const json_t *info)
{
    static const char *const head[] = {"  database", "files", "transactions",
                                       "size",       "kept",  "where"};
    const char *data = command_text(info, "data");
    const json_t *list = json_object_get(info, "databases"), *db;
    size_t i;
    struct table t;
    int64_t n = number(info, "diverged");
    printf("\n%" PRId64
           " diverged file%s: what only this node had committed when it was brought in "
           "line with the primary.\n",
           n, n == 1 ? "" : "s");
    table_init(&t, head, 6);
    table_align_right(&t, 1);
    table_align_right(&t, 3);
    json_array_foreach(list, i, db)
    {
        const json_t *kept = json_object_get(db, "diverged_files");
        char name[512], files[24], range[64], size[HUMAN_SIZE], when[HUMAN_SIZE], where[8192];
        if (!kept)
            continue;
        snprintf(name, sizeof name, "  %s", command_text(db, "name"));
        snprintf(files, sizeof files, "%" PRId64, number(db, "diverged"));
        snprintf(range, sizeof range, "%" PRId64 " to %" PRId64, number(kept, "first_txid"),
                 number(kept, "last_txid"));
        snprintf(where, sizeof where, "%s/%s", data, command_text(kept, "folder"));
        table_add(&t, (const char *[]){name, files, range,
                                       human_bytes((uint64_t)number(kept, "bytes"), size),
                                       human_time(number(kept, "kept_ms"), when), where});
    }
    table_print(&t, stdout);
    table_fini(&t);
    printf(
        "Look at them with 'tandemfs ltx list FILE...' and 'tandemfs ltx dump FILE...'. Given a "
        "copy of the database\nas it was before the first of them, 'tandemfs ltx apply --db COPY "
        "FILE...' makes the lost state.\nThey are never removed by tandemfs: remove the folder "
        "when nothing in it is needed any more.\n");
}

/* What lies there that is not replicated, and what to do about it. */
static void print_remarks(const json_t *info)
{
    int64_t plain = number(info, "plain_files"), foreign = number(info, "foreign_entries");
    if (plain || foreign)
        putchar('\n');
    if (plain)
        printf("%" PRId64 " ordinary file%s in the mount, kept on this node and not replicated.\n",
               plain, plain == 1 ? "" : "s");
    if (foreign)
        printf("%" PRId64 " entr%s in %s not of tandemfs; see the log for the names. Left alone.\n",
               foreign, foreign == 1 ? "y" : "ies", command_text(info, "data"));
    if (number(info, "diverged"))
        print_diverged(info);
}

static void print_info(const json_t *info)
{
    const json_t *work = json_object_get(info, "bringing_up"), *job;
    size_t i;
    print_node(info);
    print_checks(info);
    if (json_is_object(work))
        print_work("bring-up", command_text(work, "database"), work);
    json_array_foreach(json_object_get(info, "jobs"), i, job)
    {
        print_work("job", command_text(job, "what"), job);
    }
    print_databases(info);
    print_members(info);
    print_faults(info);
    print_remarks(info);
}

static int run(int argc, char **argv)
{
    static const struct option options[] = {{"http", required_argument, NULL, 'H'},
                                            {"config", required_argument, NULL, 'c'},
                                            {"json", no_argument, NULL, 'j'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    struct command_daemon daemon = {0};
    bool json = false;
    json_t *info;
    int option;
    while ((option = getopt_long(argc, argv, ":c:h", options, NULL)) != -1) {
        switch (option) {
        case 'H': daemon.http_option = optarg; break;
        case 'c': daemon.file_option = optarg; break;
        case 'j': json = true; break;
        case 'h': command_help(&command_status); return EXIT_SUCCESS;
        default: return command_bad_option(&command_status, argc, argv, option);
        }
    }
    if (optind < argc)
        return command_misuse(&command_status, "unexpected \"%s\"", argv[optind]);
    int status = command_find_daemon(&command_status, &daemon);
    if (!status)
        status = command_info(&command_status, &daemon, &info);
    if (status)
        return status;
    if (json) {
        json_dumpf(info, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
        putchar('\n');
    } else {
        print_info(info);
    }
    json_decref(info);
    return EXIT_SUCCESS;
}

const struct command command_status = {
    .name = "status",
    .run = run,
    .summary = "show role, databases, positions and peers of a node",
    .synopsis = "[--http ADDR] [-c FILE] [--json]",
    .help = "      --http ADDR    the node's admin address\n"
            "  -c, --config FILE  take the admin address from this configuration\n"
            "      --json         the whole document, as /info gives it",
};
