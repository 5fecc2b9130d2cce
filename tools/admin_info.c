/* SPDX-License-Identifier: Apache-2.0 */
/* GET /info: everything an operator may ask, as one JSON document. */
#include "tools/admin.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "fs/db/scrub.h"
#include "ltx/position.h"

#define JOBS_MAX 16

static json_t *hex(uint64_t v)
{
    char text[17];
    snprintf(text, sizeof text, "%016" PRIx64, v);
    return json_string(text);
}

static json_t *position(struct position p)
{
    char text[POSITION_TEXT_SIZE];
    position_format(p, text);
    return json_string(text);
}

static json_t *number(uint64_t v)
{
    return json_integer((json_int_t)v);
}

static void set(json_t *o, const char *key, json_t *value)
{
    json_object_set_new(o, key, value);
}

/* A time; 0 = never. */
static json_t *when(int64_t ms)
{
    return ms ? json_integer(ms) : json_null();
}

static json_t *database(const struct admin_parts *parts, struct ledger *l)
{
    struct ledger_info info;
    struct ledger_kept kept = {0};
    struct check_result checked;
    json_t *o = json_object();
    const char *name = ledger_name(l);
    ledger_info(l, &info);
    if (info.diverged > 0) /* somebody may have removed them since */
        ledger_kept(l, &kept);
    set(o, "name", admin_text(name));
    set(o, "txid", number(info.last.txid));
    set(o, "checksum", hex(info.last.checksum));
    set(o, "position", position(info.last));
    set(o, "durable", position(info.durable));
    set(o, "applied", position(info.applied));
    set(o, "first", position(info.first));
    set(o, "page_size", number(info.page_size));
    set(o, "pages", number(info.commit));
    set(o, "size", number((uint64_t)info.page_size * info.commit));
    set(o, "deleted", json_boolean(info.commit == 0 && info.last.txid > 0));
    set(o, "journal_mode", json_string(catalog_journal_mode(parts->catalog, name)));
    set(o, "log_bytes", json_integer(info.log_bytes));
    set(o, "timestamp_ms", json_integer(info.timestamp_ms));
    set(o, "damaged", json_boolean(info.damaged));
    if (info.damaged)
        set(o, "why", admin_text(info.damage));
    scrub_last(catalog_scrub(parts->catalog), name, &checked);
    set(o, "bad_pages", number(info.bad));
    set(o, "mended_pages", number(info.mended));
    set(o, "log_faults", number(checked.log_faults));
    if (checked.log_faults > 0)
        set(o, "log_fault", admin_text(checked.log_fault));
    set(o, "checked_ms", when(checked.ended_ms));
    set(o, "diverged", number(kept.files));
    if (kept.files > 0)
        set(o, "diverged_files",
            json_pack("{s:o,s:o,s:o,s:o,s:o}", "first_txid", number(kept.first_txid), "last_txid",
                      number(kept.last_txid), "bytes", number(kept.bytes), "kept_ms",
                      json_integer(kept.newest_ms), "folder", admin_text(kept.folder)));
    return o;
}

static json_t *databases(const struct admin_parts *parts, uint64_t *diverged)
{
    json_t *list = json_array();
    *diverged = 0;
    for (uint32_t i = 0; i < store_count(parts->store); i++) {
        struct ledger *l = store_at(parts->store, i);
        struct ledger_info info;
        ledger_info(l, &info);
        if (info.last.txid == 0 && info.diverged == 0 && !info.damaged)
            continue; /* a name that nobody has written under yet */
        json_t *o = database(parts, l);
        *diverged += (uint64_t)json_integer_value(json_object_get(o, "diverged"));
        json_array_append_new(list, o);
    }
    return list;
}

/* How far a member is in each database that it follows. */
static json_t *member_positions(const struct admin_parts *parts, const char *url)
{
    json_t *o = json_object();
    for (uint32_t i = 0; i < store_count(parts->store); i++) {
        const char *name = ledger_name(store_at(parts->store, i));
        struct position p;
        if (node_member_position(parts->node, url, name, &p) != 0)
            continue;
        json_t *key = admin_text(name); /* a key, too, must be UTF-8 */
        json_object_set_new(o, json_string_value(key), position(p));
        json_decref(key);
    }
    return o;
}

static json_t *member(const struct admin_parts *parts, const struct node_member *m)
{
    json_t *o = json_object();
    set(o, "url", admin_text(m->url));
    set(o, "node_id", hex(m->node_id));
    set(o, "role", json_string(m->primary ? "primary" : "replica"));
    set(o, "connected", json_boolean(m->connected));
    set(o, "seen_ms", m->seen_ms < 0 ? json_null() : json_integer(m->seen_ms));
    set(o, "databases", number(m->databases));
    set(o, "level", number(m->level));
    set(o, "behind", number(m->behind));
    set(o, "lag_ms", json_integer(m->lag_ms));
    set(o, "positions", member_positions(parts, m->url));
    return o;
}

static json_t *members(const struct admin_parts *parts, const struct node_status *status)
{
    json_t *list = json_array();
    for (size_t i = 0; i < status->member_count && i < NODE_MEMBERS_MAX; i++)
        json_array_append_new(list, member(parts, &status->members[i]));
    return list;
}

static json_t *jobs(struct admin_http *server)
{
    struct admin_job_info info[JOBS_MAX];
    json_t *list = json_array();
    size_t n = admin_jobs(server, info, JOBS_MAX);
    for (size_t i = 0; i < n; i++)
        json_array_append_new(
            list,
            json_pack("{s:o,s:o,s:o,s:o,s:o}", "what", admin_text(info[i].what), "pages_done",
                      number(info[i].done), "pages_total", number(info[i].total), "bytes_done",
                      number(info[i].bytes_done), "bytes_total", number(info[i].bytes_total)));
    return list;
}

static json_t *bringing_up(const struct node_status *status)
{
    if (!status->bringing_up[0])
        return json_null();
    return json_pack("{s:o,s:o,s:o}", "database", admin_text(status->bringing_up), "pages_done",
                     number(status->pages_done), "pages_total", number(status->pages_total));
}

static json_t *scrub(struct scrub *s)
{
    struct scrub_view v;
    json_t *o = json_object();
    scrub_view(s, &v);
    set(o, "database", v.running ? admin_text(v.name) : json_null());
    set(o, "pages_done", number(v.progress.pages_done));
    set(o, "pages_total", number(v.progress.pages));
    set(o, "last_ms", when(v.last_ms));
    set(o, "next_ms", when(v.next_ms));
    return o;
}

void admin_info(const struct admin_request *q, struct admin_reply *r)
{
    const struct admin_parts *parts = q->parts;
    struct node_status *status = calloc(1, sizeof *status);
    uint64_t diverged;
    if (!status) {
        admin_refuse(r, 500, "out of memory");
        return;
    }
    node_status(parts->node, status);
    json_t *o = json_object();
    set(o, "version", json_string(TANDEMFS_VERSION));
    set(o, "pid", json_integer(getpid()));
    set(o, "uptime_ms", json_integer(mono_since_ms(parts->began)));
    set(o, "ready", json_boolean(q->stage == ADMIN_READY));
    set(o, "node_id", hex(status->node_id));
    set(o, "cluster_id", hex(status->cluster_id));
    set(o, "role", json_string(role_name(status->role)));
    set(o, "epoch", number(status->epoch));
    set(o, "candidate", json_boolean(status->candidate));
    set(o, "primary", status->primary[0] ? admin_text(status->primary) : json_null());
    set(o, "advertise", admin_text(status->advertise));
    set(o, "listen", admin_text(status->listen));
    set(o, "mount", admin_text(parts->config->mount));
    set(o, "data", admin_text(parts->config->data));
    set(o, "lag_ms", json_integer(role_lag_ms(parts->role)));
    set(o, "waiting_for", status->waiting_for[0] ? admin_text(status->waiting_for) : json_null());
    set(o, "bringing_up", bringing_up(status));
    set(o, "jobs", jobs(q->server));
    set(o, "scrub", scrub(catalog_scrub(parts->catalog)));
    set(o, "databases", databases(parts, &diverged));
    set(o, "diverged", number(diverged));
    set(o, "members", members(parts, status));
    set(o, "plain_files", number(catalog_plain_files(parts->catalog)));
    set(o, "foreign_entries", number((uint64_t)store_foreign_count(parts->store) + parts->foreign));
    set(o, "bytes_received", number(status->bytes_received));
    set(o, "bytes_sent", number(status->bytes_sent));
    free(status);
    admin_reply_json(r, 200, o);
}
