/* SPDX-License-Identifier: Apache-2.0 */
/* GET /metrics: the same in the text format of Prometheus (version 0.0.4). */
#include "tools/admin.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "fs/db/scrub.h"

static void head(struct buf *b, const char *name, const char *type, const char *help)
{
    buf_printf(b, "# HELP tandemfs_%s %s\n# TYPE tandemfs_%s %s\n", name, help, name, type);
}

static void single(struct buf *b, const char *name, const char *type, const char *help,
                   double value)
{
    head(b, name, type, help);
    buf_printf(b, "tandemfs_%s %.17g\n", name, value);
}

/* In a label, backslash, quote and newline are escaped. */
static void label(struct buf *b, const char *text)
{
    buf_append(b, "\"", 1);
    for (; *text; text++) {
        if (*text == '\n')
            buf_append(b, "\\n", 2);
        else if (*text == '\\' || *text == '"')
            buf_printf(b, "\\%c", *text);
        else
            buf_append(b, text, 1);
    }
    buf_append(b, "\"", 1);
}

static void sample(struct buf *b, const char *name, const char *key, const char *text, double value)
{
    buf_printf(b, "tandemfs_%s{%s=", name, key);
    label(b, text);
    buf_printf(b, "} %.17g\n", value);
}

enum database_metric {
    TXID,
    DURABLE,
    APPLIED,
    PAGES,
    SIZE,
    LOG,
    DAMAGED,
    BAD,
    MENDED,
    LOG_FAULTS,
    CHECKED,
    DIVERGED,
    METRICS
};

static const struct {
    const char *name, *type, *help;
} database_metrics[METRICS] = {
    [TXID] = {"database_txid", "gauge", "Last transaction in the log."},
    [DURABLE] = {"database_durable_txid", "gauge", "Last transaction that is on disk."},
    [APPLIED] = {"database_applied_txid", "gauge", "Last transaction that readers here see."},
    [PAGES] = {"database_pages", "gauge", "Size of the database in pages; 0: deleted."},
    [SIZE] = {"database_size_bytes", "gauge", "Size of the database."},
    [LOG] = {"database_log_bytes", "gauge", "Size of the log kept for the database."},
    [DAMAGED] = {"database_damaged", "gauge", "1 if the database must be fetched again."},
    [BAD] = {"database_bad_pages", "gauge",
             "Pages in the files that do not match their checksums."},
    [MENDED] = {"database_mended_pages_total", "counter",
                "Such pages that were put right since the start."},
    [LOG_FAULTS] = {"database_log_faults", "gauge",
                    "Damaged files of the log, as the last check found them."},
    [CHECKED] = {"database_checked_timestamp_seconds", "gauge",
                 "When files and checksums were last compared; 0: not since the start."},
    [DIVERGED] = {"database_diverged_files", "gauge",
                  "Files in diverged/ with transactions that only this node had."},
};

static double database_value(enum database_metric m, const struct ledger_info *info,
                             const struct check_result *checked)
{
    switch (m) {
    case TXID: return (double)info->last.txid;
    case DURABLE: return (double)info->durable.txid;
    case APPLIED: return (double)info->applied.txid;
    case PAGES: return info->commit;
    case SIZE: return (double)info->commit * info->page_size;
    case LOG: return (double)info->log_bytes;
    case DAMAGED: return info->damaged;
    case BAD: return info->bad;
    case MENDED: return (double)info->mended;
    case LOG_FAULTS: return checked->log_faults;
    case CHECKED: return (double)checked->ended_ms / 1000;
    case DIVERGED: return info->diverged;
    case METRICS: break;
    }
    return 0;
}

static void write_databases(struct buf *b, const struct admin_parts *parts)
{
    struct store *store = parts->store;
    uint32_t count = store_count(store);
    single(b, "databases", "gauge", "Databases that this node knows.", count);
    for (int m = 0; m < METRICS; m++) {
        const char *name = database_metrics[m].name;
        head(b, name, database_metrics[m].type, database_metrics[m].help);
        for (uint32_t i = 0; i < count; i++) {
            struct ledger *l = store_at(store, i);
            struct ledger_info info;
            struct check_result checked = {0};
            ledger_info(l, &info);
            if (m == LOG_FAULTS || m == CHECKED)
                scrub_last(catalog_scrub(parts->catalog), ledger_name(l), &checked);
            sample(b, name, "database", ledger_name(l), database_value(m, &info, &checked));
        }
    }
}

static void write_members(struct buf *b, const struct node_status *s)
{
    size_t n = s->member_count < NODE_MEMBERS_MAX ? s->member_count : NODE_MEMBERS_MAX;
    head(b, "member_connected", "gauge", "1 if the other node is in contact.");
    for (size_t i = 0; i < n; i++)
        sample(b, "member_connected", "url", s->members[i].url, s->members[i].connected);
    head(b, "member_behind_transactions", "gauge", "Transactions that the other node lacks.");
    for (size_t i = 0; i < n; i++)
        sample(b, "member_behind_transactions", "url", s->members[i].url,
               (double)s->members[i].behind);
    head(b, "member_lag_seconds", "gauge", "Age of the oldest thing that the other node lacks.");
    for (size_t i = 0; i < n; i++)
        sample(b, "member_lag_seconds", "url", s->members[i].url,
               (double)s->members[i].lag_ms / 1000);
}

static double resident_bytes(void)
{
    unsigned long total, resident = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f)
        return 0;
    if (fscanf(f, "%lu %lu", &total, &resident) != 2)
        resident = 0;
    fclose(f);
    return (double)resident * (double)sysconf(_SC_PAGESIZE);
}

void admin_metrics(const struct admin_request *q, struct admin_reply *r)
{
    const struct admin_parts *parts = q->parts;
    struct buf *b = &r->body;
    struct node_status *s = calloc(1, sizeof *s);
    if (!s) {
        admin_refuse(r, 500, "out of memory");
        return;
    }
    node_status(parts->node, s);
    r->status = 200;
    r->type = "text/plain; version=0.0.4; charset=utf-8";
    head(b, "build_info", "gauge", "Always 1; the version is in the label.");
    sample(b, "build_info", "version", TANDEMFS_VERSION, 1);
    head(b, "role", "gauge", "1 for the role that the node has.");
    for (int role = ROLE_STARTING; role <= ROLE_PRIMARY; role++)
        sample(b, "role", "role", role_name((enum role)role), s->role == (enum role)role);
    single(b, "ready", "gauge", "1 while the node serves.", q->stage == ADMIN_READY);
    single(b, "epoch", "gauge", "Epoch of the cluster; rises at every promotion.",
           (double)s->epoch);
    single(b, "lag_seconds", "gauge", "How long this node has not been level with its primary.",
           (double)role_lag_ms(parts->role) / 1000);
    single(b, "uptime_seconds", "gauge", "Time since the daemon was started.",
           (double)mono_since_ms(parts->began) / 1000);
    single(b, "resident_memory_bytes", "gauge", "Memory of the daemon.", resident_bytes());
    single(b, "plain_files", "gauge", "Files in the mount that are not databases.",
           catalog_plain_files(parts->catalog));
    single(b, "foreign_entries", "gauge", "Entries of the data folder that are not ours.",
           (double)store_foreign_count(parts->store) + parts->foreign);
    single(b, "bring_up_pages", "gauge", "Pages of the database that is being brought up.",
           (double)s->pages_total);
    single(b, "bring_up_pages_done", "gauge", "Of these, pages that are here.",
           (double)s->pages_done);
    single(b, "received_bytes_total", "counter", "Bytes received from other nodes.",
           (double)s->bytes_received);
    single(b, "sent_bytes_total", "counter", "Bytes sent to other nodes.", (double)s->bytes_sent);
    write_members(b, s);
    write_databases(b, parts);
    free(s);
}
