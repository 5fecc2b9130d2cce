/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What each database of a replica needs to get to where the primary is: asked in bulk, decided one
 * by one (catchup.h). On the pull thread.
 */
#include <inttypes.h>
#include <string.h>

#include "cluster/catchup.h"
#include "cluster/follow.h"
#include "ltx/base/err.h"
#include "ltx/base/logger.h"

#define CALL_MS 3000

static enum follow_state state_of(struct follower *f, const struct follow *x)
{
    enum follow_state state;

    mutex_lock(&f->mutex);
    state = x->state;
    mutex_unlock(&f->mutex);
    return state;
}

static enum follow_state choose(struct follower *f, struct follow *x, const struct msg_stand *stand)
{
    struct catchup_question q = {.known = stand->known,
                                 .last = stand->last,
                                 .first = stand->first,
                                 .checksum_at = stand->checksum_at,
                                 .page_size = stand->page_size,
                                 .commit = stand->commit,
                                 .log_bytes = stand->log_bytes};
    struct ledger_info info;
    struct identity id;
    enum catchup way;
    bool taken;

    ledger_info(x->ledger, &info);
    self_identity(f->self, &id);
    q.here = info.last;
    q.here_commit = info.commit;
    q.unsettled = id.unsettled;
    way = catchup_decide(&q);
    log_debug("replica", "%s: here %" PRIu64 ", primary %" PRIu64 " (first kept %" PRIu64 "): %s",
              ledger_name(x->ledger), q.here.txid, q.last.txid, q.first.txid, catchup_name(way));
    mutex_lock(&f->mutex);
    x->known = stand->known;
    mutex_unlock(&f->mutex);
    /* After a bring-up that was not ended the position is no transaction's, and the log is empty. */
    taken = info.damaged && q.here.txid != 0 && position_equal(info.first, info.last);
    if ((way == CATCHUP_DIVERGED && !(taken && q.known)) || (x->distrust && q.here.txid != 0))
        return FOLLOW_DIVERGED;
    if (!stand->known)
        return FOLLOW_QUIET;
    if (way != CATCHUP_RECORDS && way != CATCHUP_CURRENT)
        return FOLLOW_PAGES;
    if (info.damaged || (way == CATCHUP_RECORDS && (x->trimmed || x->distrust)))
        return FOLLOW_PAGES;
    return FOLLOW_RECORDS;
}

static int subscribe(struct follower *f, struct self_call *c, struct follow **list, size_t count)
{
    struct msg_stamp stamp = self_stamp(f->self);
    struct msg_writer w = msg_begin(&c->out, MSG_SUBSCRIBE, &stamp);
    struct msg_subscription m = {.on = true};
    size_t n = 0;

    msg_put_u64(&w, f->session);
    for (size_t i = 0; i < count; i++) {
        struct follow *x = list[i];
        if (state_of(f, x) != FOLLOW_RECORDS)
            continue;
        memcpy(m.name, ledger_name(x->ledger), strlen(ledger_name(x->ledger)) + 1);
        m.generation = x->generation;
        m.position = x->last;
        msg_put_subscription(&w, &m);
        n++;
    }
    return n == 0 ? 0 : self_call(f->self, f->peer, c, w.err, MSG_OK, CALL_MS);
}

/* Asks how the primary stands in these databases, and sends each its way. */
static int compare_some(struct follower *f, struct self_call *c, struct follow **list, size_t count)
{
    struct msg_stamp stamp = self_stamp(f->self);
    struct msg_writer w = msg_begin(&c->out, MSG_COMPARE, &stamp);
    struct msg_stand stand;
    size_t i = 0;
    int rv;

    for (size_t n = 0; n < count; n++)
        msg_put_standing(&w, ledger_name(list[n]->ledger), ledger_last(list[n]->ledger));
    rv = self_call(f->self, f->peer, c, w.err, MSG_STANDS, CALL_MS);
    if (rv != 0)
        return rv;
    while ((rv = msg_next_stand(&c->in, &stand)) > 0 && i < count) {
        struct follow *x = list[i++];
        enum follow_state state = choose(f, x, &stand);
        mutex_lock(&f->mutex);
        if (state == FOLLOW_RECORDS) {
            x->generation++;
            x->last = ledger_last(x->ledger);
            x->acked = (struct position){0};
            x->applied = 0;
        }
        mutex_unlock(&f->mutex);
        follow_set(f, x, state);
    }
    if (rv != 0 || i != count)
        return -ERR_PROTOCOL;
    rv = subscribe(f, c, list, count);
    for (i = 0; rv != 0 && i < count; i++)
        if (state_of(f, list[i]) == FOLLOW_RECORDS)
            follow_set(f, list[i], FOLLOW_NEW);
    return rv;
}

static bool is_due(const struct follow *x)
{
    return x->state == FOLLOW_NEW ||
           (x->state == FOLLOW_HELD && mono_since_ms(x->held) >= x->hold_ms);
}

int follower_compare(struct follower *f, struct self_call *c)
{
    struct follow *list[256];
    size_t count = 0, bytes = 0;
    int rv = 0;

    for (uint32_t i = 0; rv == 0 && i < f->count; i++) {
        struct follow *x = f->list[i];
        bool due;
        mutex_lock(&f->mutex);
        due = is_due(x) && !x->working;
        mutex_unlock(&f->mutex);
        if (!due)
            continue;
        list[count++] = x;
        bytes += strlen(ledger_name(x->ledger)) + 32;
        if (count == sizeof list / sizeof *list || bytes > MSG_LIST) {
            rv = compare_some(f, c, list, count);
            count = bytes = 0;
        }
    }
    return rv == 0 && count > 0 ? compare_some(f, c, list, count) : rv;
}

/* A database that fs found damaged is fetched again. */
void follower_look_for_damage(struct follower *f)
{
    for (uint32_t i = 0; i < f->count; i++) {
        struct follow *x = f->list[i];
        struct ledger_info info;
        ledger_info(x->ledger, &info);
        if (!info.damaged || state_of(f, x) != FOLLOW_RECORDS)
            continue;
        log_warn("replica", "%s: damaged here (%s): it is fetched again", ledger_name(x->ledger),
                 info.damage);
        mutex_lock(&f->mutex);
        x->generation++;
        mutex_unlock(&f->mutex);
        follow_set(f, x, FOLLOW_PAGES);
    }
}
