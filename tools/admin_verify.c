/* SPDX-License-Identifier: Apache-2.0 */
/* POST /verify?name=NAME: compares one database with its checksums, now and at full speed. */
#include "tools/admin.h"

#include <stdio.h>

#include "fs/db/scrub.h"
#include "ltx/base/err.h"

struct verifying {
    struct admin_stream *stream;
    char what[256]; /* as /info shows it */
};

static bool go_on(void *ctx, const struct check_progress *p)
{
    struct verifying *v = ctx;
    admin_stream_progress(v->stream, v->what, p->pages_done, p->pages);
    admin_stream_bytes(v->stream, p->bytes_done, p->bytes);
    return !*admin_stream_cancel(v->stream);
}

static void refuse(const struct admin_request *q, struct admin_reply *r, const char *name, int err)
{
    struct ledger *l = store_find(q->parts->store, name);
    struct ledger_info info = {0};
    if (l)
        ledger_info(l, &info);
    if (err == -ERR_NOTFOUND)
        admin_refuse(r, 404, "there is no database %s here", name);
    else if (err == -ERR_DAMAGED && role_get(q->parts->role) == ROLE_REPLICA)
        admin_refuse(r, 409, "%s is damaged (%s): it is being fetched again", name, info.damage);
    else if (err == -ERR_DAMAGED)
        admin_refuse(r, 409,
                     "%s is damaged (%s): promote a replica that has it, then this node fetches it",
                     name, info.damage);
    else
        admin_refuse(r, err == -ERR_CLOSED ? 503 : 500, "%s cannot be verified: %s", name,
                     err_text(err));
}

static json_t *number(uint64_t v)
{
    return json_integer((json_int_t)v);
}

static json_t *document(const struct admin_request *q, const char *name,
                        const struct scrub_verdict *v)
{
    const struct check_result *c = &v->check;
    json_t *o = json_object(), *pages = json_array();
    for (uint32_t i = 0; i < c->bad && i < CHECK_NAMED; i++)
        json_array_append_new(pages, number(c->bad_page[i]));
    json_object_set_new(o, "name", admin_text(name));
    json_object_set_new(o, "role", json_string(role_name(role_get(q->parts->role))));
    json_object_set_new(o, "page_size", number(c->page_size));
    json_object_set_new(o, "pages", number(c->pages));
    json_object_set_new(o, "bytes", number(c->bytes));
    json_object_set_new(o, "took_ms", json_integer(c->took_ms));
    json_object_set_new(o, "bad", number(c->bad));
    json_object_set_new(o, "bad_pages", pages);
    json_object_set_new(o, "mended", number(v->mended));
    json_object_set_new(o, "left", number(v->left));
    json_object_set_new(o, "undecided", number(c->undecided));
    json_object_set_new(o, "log_faults", number(c->log_faults));
    json_object_set_new(o, "log_fault", c->log_faults ? admin_text(c->log_fault) : json_null());
    return o;
}

int admin_verify(const struct admin_request *q, struct admin_reply *r, struct admin_stream *s)
{
    char name[STORE_NAME_MAX];
    struct scrub_verdict verdict;
    struct verifying v = {.stream = s};
    if (admin_query(q->query, "name", name, sizeof name) != 0 || !name[0]) {
        admin_refuse(r, 400, "expected /verify?name=NAME with the database's path in the mount");
        return 0;
    }
    snprintf(v.what, sizeof v.what, "verify of %.200s", name);
    admin_stream_watch(s);
    int err = scrub_verify(catalog_scrub(q->parts->catalog), name, go_on, &v, &verdict);
    if (err)
        refuse(q, r, name, err);
    else
        admin_reply_json(r, 200, document(q, name, &verdict));
    return 0;
}
