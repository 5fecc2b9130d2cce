/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/catchup.h"

#include "ltx/format.h"

static bool nothing(struct position p)
{
    return p.txid == 0;
}

static enum catchup decide_empty(const struct catchup_question *q)
{
    if (!q->known || nothing(q->last))
        return CATCHUP_CURRENT;
    if (nothing(q->first) && q->log_bytes <= (uint64_t)q->commit * q->page_size)
        return CATCHUP_RECORDS;
    return CATCHUP_PAGES;
}

const char *catchup_name(enum catchup c)
{
    switch (c) {
    case CATCHUP_CURRENT: return "current";
    case CATCHUP_RECORDS: return "records";
    case CATCHUP_PAGES: return "pages";
    case CATCHUP_DIVERGED: return "diverged";
    }
    return "?";
}

enum catchup catchup_decide(const struct catchup_question *q)
{
    if (nothing(q->here))
        return decide_empty(q);
    if (!q->known || nothing(q->last))
        return q->here_commit == 0 ? CATCHUP_CURRENT : CATCHUP_DIVERGED;
    if (position_equal(q->here, q->last))
        return CATCHUP_CURRENT;
    if (q->here.txid >= q->last.txid)
        return CATCHUP_DIVERGED;
    if (q->checksum_at != 0)
        return q->checksum_at == q->here.checksum ? CATCHUP_RECORDS : CATCHUP_DIVERGED;
    if (q->here.txid >= q->first.txid)
        return CATCHUP_RECORDS;
    return q->unsettled ? CATCHUP_DIVERGED : CATCHUP_PAGES;
}
