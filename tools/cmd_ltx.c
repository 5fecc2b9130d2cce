/* SPDX-License-Identifier: Apache-2.0 */
/* tandemfs ltx: looks at LTX files, checks them, and makes a database of them. */
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/err.h"
#include "ltx/checksum.h"
#include "tools/command.h"
#include "tools/human.h"
#include "tools/ltx_files.h"
#include "tools/table.h"

#define WHY_MAX 1024

static int fail(const char *why)
{
    command_say("ltx", "%s", why);
    return EXIT_FAILED;
}

static const char *checksum_text(uint64_t sum, char out[24])
{
    if (sum)
        snprintf(out, 24, "%016" PRIx64, sum);
    else
        snprintf(out, 24, "-");
    return out;
}

static int read_header(const char *path, struct ltx_header *h, int64_t *size, char *why, size_t n)
{
    struct ltx_file f;
    uint8_t bytes[LTX_HEADER_SIZE];
    int err = ltx_file_open(&f, path, why, n);
    if (err)
        return err;
    struct ltx_source source = ltx_file_source(&f);
    err = source.read(source.ctx, 0, bytes, sizeof bytes);
    if (!err)
        err = ltx_header_decode(bytes, h);
    if (err == -ERR_CORRUPT)
        snprintf(why, n, "%s: %s", path, ltx_header_fault(bytes));
    else if (err)
        snprintf(why, n, "%s: %s", path, err_text(err));
    *size = f.size;
    ltx_file_close(&f);
    return err;
}

static void list_row(struct table *t, const char *path, const struct ltx_header *h, int64_t size)
{
    char min[24], max[24], page[16], commit[16], sum[24], flags[24], time[HUMAN_SIZE], node[24];
    char bytes[HUMAN_SIZE];
    snprintf(min, sizeof min, "%" PRIu64, h->min_txid);
    snprintf(max, sizeof max, "%" PRIu64, h->max_txid);
    snprintf(page, sizeof page, "%u", h->page_size);
    snprintf(commit, sizeof commit, "%u", h->commit);
    snprintf(flags, sizeof flags, "%s%s%s", ltx_header_is_snapshot(h) ? "snapshot" : "",
             ltx_header_is_snapshot(h) && h->flags ? "," : "",
             h->flags & LTX_NO_CHECKSUM ? "no-checksum" : "");
    snprintf(node, sizeof node, h->node_id ? "%016" PRIx64 : "-", h->node_id);
    table_add(t, (const char *[]){path, min, max, page, commit, human_time(h->timestamp_ms, time),
                                  checksum_text(h->pre_checksum, sum), node,
                                  human_bytes((uint64_t)size, bytes), flags});
}

static int list(char **files, int count)
{
    static const char *const head[] = {"file",    "min",          "max",     "page", "pages",
                                       "written", "pre-checksum", "node id", "size", ""};
    char why[WHY_MAX];
    struct table t;
    int err = 0;
    table_init(&t, head, 10);
    for (size_t i = 1; i <= 4; i++)
        table_align_right(&t, i);
    table_align_right(&t, 8);
    for (int i = 0; i < count && !err; i++) {
        struct ltx_header h;
        int64_t size;
        err = read_header(files[i], &h, &size, why, sizeof why);
        if (!err)
            list_row(&t, files[i], &h, size);
    }
    table_print(&t, stdout);
    table_fini(&t);
    return err ? fail(why) : 0;
}

static void dump_header(const char *path, const struct ltx_header *h, int64_t size)
{
    char text[HUMAN_SIZE], sum[24];
    printf("file          %s\n", path);
    printf("size          %" PRId64 " bytes\n", size);
    printf("flags         0x%x%s\n", h->flags,
           h->flags & LTX_NO_CHECKSUM ? " (no database checksums)" : "");
    printf("page size     %u bytes\n", h->page_size);
    printf("commit        %u pages%s\n", h->commit,
           h->commit == 0 ? " (the database was deleted)" : "");
    printf("TXIDs         %" PRIu64 " to %" PRIu64 "%s\n", h->min_txid, h->max_txid,
           ltx_header_is_snapshot(h) ? " (snapshot)" : "");
    printf("timestamp     %" PRId64 " ms (%s)\n", h->timestamp_ms,
           human_time(h->timestamp_ms, text));
    printf("pre-checksum  %s\n", checksum_text(h->pre_checksum, sum));
    printf("WAL           offset %" PRIu64 ", size %" PRIu64 ", salts %08x %08x\n", h->wal_offset,
           h->wal_size, h->wal_salt1, h->wal_salt2);
    printf("node id       %016" PRIx64 "\n", h->node_id);
}

static int dump_pages(struct ltx_file *f, char *why, size_t why_size)
{
    struct ltx_decoder d = {0};
    uint32_t pgno, count = 0;
    char sum[24];
    uint8_t *page = NULL;
    int rc = ltx_decode_begin(&d, ltx_file_source(f));
    if (rc == 0) {
        dump_header(f->path, &d.header, f->size);
        printf("%10s  %-16s  %s\n", "page", "checksum", "offset");
        page = malloc(d.header.page_size);
        rc = page ? 0 : -ERR_NOMEM;
    }
    while (rc == 0) {
        uint64_t off = d.offset;
        rc = ltx_decode_page(&d, &pgno, page);
        if (rc != 1)
            break;
        printf("%10u  %016" PRIx64 "  %" PRIu64 "\n", pgno,
               checksum_page(pgno, page, d.header.page_size), off);
        count++;
        rc = 0;
    }
    if (rc == 0)
        printf("%u pages, post-checksum %s\n", count, checksum_text(d.post_checksum, sum));
    else
        snprintf(why, why_size, "%s: %s", f->path, d.fault[0] ? d.fault : err_text(rc));
    free(page);
    ltx_decode_fini(&d);
    return rc;
}

static int dump(char **files, int count)
{
    char why[WHY_MAX];
    for (int i = 0; i < count; i++) {
        struct ltx_file f;
        if (ltx_file_open(&f, files[i], why, sizeof why) != 0)
            return fail(why);
        if (i > 0)
            putchar('\n');
        int err = dump_pages(&f, why, sizeof why);
        ltx_file_close(&f);
        if (err)
            return fail(why);
    }
    return 0;
}

static int verify(char **files, int count)
{
    char why[WHY_MAX], clause[256], sum[24];
    struct ltx_summary last = {0}, one;
    for (int i = 0; i < count; i++) {
        if (ltx_file_verify(files[i], &one, why, sizeof why) != 0)
            return fail(why);
        if (i > 0 && ltx_follows(&last, &one, clause, sizeof clause) != 0) {
            snprintf(why, sizeof why, "%s: %s", files[i], clause);
            return fail(why);
        }
        last = one;
    }
    printf("%d file%s ok, up to TXID %" PRIu64 ", checksum %s\n", count, count == 1 ? "" : "s",
           last.header.max_txid, checksum_text(last.post_checksum, sum));
    return 0;
}

static int apply(const char *db, char **files, int count)
{
    char why[WHY_MAX], sum[24];
    struct ltx_summary last;
    if (ltx_apply_files(db, files, (size_t)count, &last, why, sizeof why) != 0)
        return fail(why);
    printf("%s: %u pages of %u bytes, TXID %" PRIu64 ", checksum %s\n", db, last.header.commit,
           last.header.page_size, last.header.max_txid, checksum_text(last.post_checksum, sum));
    return 0;
}

static int run(int argc, char **argv)
{
    static const struct option options[] = {
        {"db", required_argument, NULL, 'd'}, {"help", no_argument, NULL, 'h'}, {0}};
    const char *db = NULL;
    int option;
    while ((option = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
        switch (option) {
        case 'd': db = optarg; break;
        case 'h': command_help(&command_ltx); return EXIT_SUCCESS;
        default: return command_bad_option(&command_ltx, argc, argv, option);
        }
    }
    if (optind >= argc)
        return command_misuse(&command_ltx, "expected list, dump, verify or apply");
    const char *verb = argv[optind];
    char **files = argv + optind + 1;
    int count = argc - optind - 1;
    bool is_apply = strcmp(verb, "apply") == 0;
    bool known = is_apply || strcmp(verb, "list") == 0 || strcmp(verb, "dump") == 0 ||
                 strcmp(verb, "verify") == 0;
    if (!known)
        return command_misuse(&command_ltx, "found \"%s\", expected list, dump, verify or apply",
                              verb);
    if (count < 1)
        return command_misuse(&command_ltx, "%s: expected one or more files", verb);
    if (is_apply != (db != NULL))
        return command_misuse(&command_ltx,
                              is_apply ? "apply: expected --db FILE" : "--db goes with apply only");
    if (is_apply)
        return apply(db, files, count);
    if (verb[0] == 'l')
        return list(files, count);
    return verb[0] == 'd' ? dump(files, count) : verify(files, count);
}

const struct command command_ltx = {
    .name = "ltx",
    .run = run,
    .summary = "list, dump, verify or apply LTX files",
    .synopsis = "list|dump|verify FILE...\n       tandemfs ltx apply --db DB FILE...",
    .help = "  list    one line with the header of each file\n"
            "  dump    header, pages and trailer of each file\n"
            "  verify  check each file, and that they follow on one another in this order\n"
            "  apply   apply the files in this order to the database DB, made if it is not there;\n"
            "          on a fault DB is left as it was\n"
            "\n"
            "The exit status is 1 at the first fault, which is named.",
};
