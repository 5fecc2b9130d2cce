/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/ready.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/logger.h"

#define AWAY_MS 3000 /* a primary that is there answers much sooner */
#define SAY_MS 10000

static bool all_applied(struct store *store)
{
    for (uint32_t i = 0; i < store_count(store); i++) {
        struct ledger_info info;
        ledger_info(store_at(store, i), &info);
        if (!info.damaged && info.applied.txid < info.durable.txid)
            return false;
    }
    return true;
}

static bool has_databases(struct store *store)
{
    for (uint32_t i = 0; i < store_count(store); i++)
        if (ready_has_content(store_at(store, i)))
            return true;
    return false;
}

static void show_progress(struct ready *r, const struct node_status *s)
{
    if (!s->bringing_up[0]) {
        if (r->in_progress)
            progress_end(&r->progress);
        r->in_progress = false;
        return;
    }
    char what[sizeof r->what];
    snprintf(what, sizeof what, "bringing up %s", s->bringing_up);
    if (!r->in_progress || strcmp(what, r->what) != 0) {
        memcpy(r->what, what, sizeof what);
        progress_begin(&r->progress, r->what, PROGRESS_PAGES);
        r->in_progress = true;
    }
    progress_update(&r->progress, s->pages_done, s->pages_total);
}

/* Who was asked, if it is not in the sentence already. */
static void list_peers(const struct config *c, const char *waiting_for, char *out, size_t n)
{
    size_t used = 0;
    out[0] = '\0';
    if (strstr(waiting_for, "://"))
        return;
    for (size_t i = 0; i < c->peer_count && used < n; i++)
        used += (size_t)snprintf(out + used, n - used, "%s%s", i ? ", " : " (asking ", c->peers[i]);
    if (used > 0 && used < n)
        snprintf(out + used, n - used, ")");
}

static void say_waiting(struct ready *r, const struct node_status *s)
{
    char peers[512];
    if (!s->waiting_for[0] || mono_since_ms(r->said) < (r->waiting ? SAY_MS : AWAY_MS))
        return;
    list_peers(r->config, s->waiting_for, peers, sizeof peers);
    log_info("mount", "waiting for %s%s", s->waiting_for, peers);
    r->waiting = true;
    r->said = mono_now();
}

static bool in_contact(struct role_state *role, bool *level)
{
    mutex_lock(&role->mutex);
    bool connected = role->connected;
    *level = connected && role->level;
    mutex_unlock(&role->mutex);
    return connected;
}

static bool replica_ready(struct ready *r, const struct node_status *s)
{
    bool level, connected = in_contact(r->role, &level);
    if (level)
        return all_applied(r->store);
    if (connected || s->bringing_up[0] || mono_since_ms(r->began) < AWAY_MS)
        return false;
    if (!has_databases(r->store) || !all_applied(r->store))
        return false;
    log_warn("mount",
             "the primary does not answer; serving what is here meanwhile (waiting for %s)",
             s->waiting_for[0] ? s->waiting_for : "it");
    return true;
}

void ready_init(struct ready *r, const struct config *config, struct role_state *role,
                struct store *store, struct node *node)
{
    *r = (struct ready){
        .config = config, .role = role, .store = store, .node = node, .began = mono_now()};
    r->said = r->began;
}

bool ready_check(struct ready *r)
{
    struct node_status *s = calloc(1, sizeof *s);
    if (!s)
        return false;
    enum role role = role_get(r->role);
    node_status(r->node, s);
    bool ready = role == ROLE_PRIMARY;
    if (role == ROLE_REPLICA)
        ready = replica_ready(r, s);
    if (ready) {
        s->bringing_up[0] = '\0';
        show_progress(r, s);
    } else {
        show_progress(r, s);
        say_waiting(r, s);
    }
    free(s);
    return ready;
}

bool ready_has_content(struct ledger *l)
{
    struct ledger_info info;
    ledger_info(l, &info);
    return info.last.txid > 0 && info.commit > 0;
}
