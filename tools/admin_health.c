/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a load balancer, a probe or a person asks of a node: may it serve, is it the primary, is it
 * a replica that is recent enough; and the order to become the primary.
 */
#include "tools/admin.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/err.h"
#include "ltx/base/logger.h"

#define PROMOTE_TIMEOUT_MS 30000

static json_t *damaged_databases(struct store *store)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < store_count(store); i++) {
        struct ledger *l = store_at(store, i);
        struct ledger_info info;
        ledger_info(l, &info);
        if (info.damaged || info.bad > 0)
            json_array_append_new(list, admin_text(ledger_name(l)));
    }
    return list;
}

/*
 * 200 while the daemon serves, 503 while it starts or ends. A damaged database is told in the body
 * ("degraded") and does not make it 503: a supervisor that starts the daemon anew would only delay
 * the repair that is under way, and take the other databases away meanwhile.
 */
void admin_health(const struct admin_request *q, struct admin_reply *r)
{
    struct node_status status;
    json_t *doc = json_object();
    if (q->stage == ADMIN_STARTING || q->stage == ADMIN_ENDING) {
        const char *word = q->stage == ADMIN_STARTING ? "starting" : "ending";
        json_object_set_new(doc, "status", json_string(word));
        admin_reply_json(r, 503, doc);
        return;
    }
    node_status(q->parts->node, &status);
    if (q->stage == ADMIN_WAITING) {
        json_object_set_new(doc, "status", json_string("starting"));
        json_object_set_new(doc, "waiting_for", admin_text(status.waiting_for));
        admin_reply_json(r, 503, doc);
        return;
    }
    json_t *damaged = damaged_databases(q->parts->store);
    bool well = json_array_size(damaged) == 0;
    json_object_set_new(doc, "status", json_string(well ? "ok" : "degraded"));
    json_object_set_new(doc, "role", json_string(role_name(status.role)));
    if (well)
        json_decref(damaged);
    else
        json_object_set_new(doc, "damaged", damaged);
    admin_reply_json(r, 200, doc);
}

static json_t *role_document(const struct admin_parts *parts)
{
    char primary[ROLE_NAME_MAX] = "";
    role_primary(parts->role, primary);
    return json_pack("{s:s,s:I,s:o,s:I}", "role", role_name(role_get(parts->role)), "epoch",
                     (json_int_t)role_epoch(parts->role), "primary", admin_text(primary), "lag_ms",
                     (json_int_t)role_lag_ms(parts->role));
}

void admin_primary(const struct admin_request *q, struct admin_reply *r)
{
    bool yes = q->stage == ADMIN_READY && role_get(q->parts->role) == ROLE_PRIMARY;
    admin_reply_json(r, yes ? 200 : 503, role_document(q->parts));
}

void admin_replica(const struct admin_request *q, struct admin_reply *r)
{
    char text[32];
    int64_t limit = INT64_MAX;
    int err = admin_query(q->query, "lag", text, sizeof text);
    if (err != -ERR_NOTFOUND) {
        char *end = text;
        errno = 0;
        if (!err)
            limit = strtoll(text, &end, 10);
        if (err || end == text || *end || errno || limit < 0) {
            admin_refuse(r, 400, "lag: expected a number of milliseconds");
            return;
        }
    }
    bool yes = q->stage == ADMIN_READY && role_get(q->parts->role) == ROLE_REPLICA &&
               role_lag_ms(q->parts->role) <= limit;
    admin_reply_json(r, yes ? 200 : 503, role_document(q->parts));
}

static unsigned promote_status(int err)
{
    switch (-err) {
    case ERR_UNREACHABLE:
    case ERR_BUSY:
    case ERR_INVALID:
    case ERR_UNSUPPORTED:
    case ERR_DIVERGED: return 409;
    case ERR_TIMEOUT: return 504;
    case ERR_CLOSED: return 503;
    default: return 500;
    }
}

int admin_promote(const struct admin_request *q, struct admin_reply *r, struct admin_stream *s)
{
    char value[16] = "", why[512] = "";
    (void)s;
    int err = admin_query(q->query, "force", value, sizeof value);
    bool force = err == 0 && strcmp(value, "1") == 0;
    if (err != -ERR_NOTFOUND && !force && strcmp(value, "0") != 0) {
        admin_refuse(r, 400, "force: expected 1 or 0");
        return 0;
    }
    log_info("admin", "promotion was asked for%s", force ? ", with force" : "");
    err = node_promote(q->parts->node, force, PROMOTE_TIMEOUT_MS, why, sizeof why);
    if (err) {
        admin_reply_json(r, promote_status(err),
                         json_pack("{s:s,s:o}", "code", err_name(err), "error",
                                   admin_text(why[0] ? why : err_text(err))));
        return 0;
    }
    admin_reply_json(r, 200, role_document(q->parts));
    return 0;
}
