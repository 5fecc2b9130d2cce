/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLUSTER_CATCHUP_H
#define CLUSTER_CATCHUP_H

#include <stdbool.h>
#include <stdint.h>

#include "ltx/position.h"

/*
 * How one database of a replica gets to where its primary is. Pure: positions in, a way out.
 *
 *   here            primary                              way
 *   = last          last                                 CURRENT
 *   nothing         nothing                              CURRENT
 *   deleted         does not know the database           CURRENT
 *   something       does not know it, or has nothing     DIVERGED
 *   nothing         whole log kept, and it is no larger
 *                   than the pages                       RECORDS
 *   nothing         otherwise                            PAGES
 *   txid > last     -                                    DIVERGED
 *   txid = last, another checksum                        DIVERGED
 *   txid < last     knows another checksum there         DIVERGED
 *   txid < last     knows the same checksum there        RECORDS
 *   txid < last     a merged record spans it             RECORDS (its checksum proves it)
 *   txid < last     it was trimmed                       PAGES; DIVERGED if this node may have
 *                                                        transactions of its own (unsettled)
 */
enum catchup { CATCHUP_CURRENT, CATCHUP_RECORDS, CATCHUP_PAGES, CATCHUP_DIVERGED };

const char *catchup_name(enum catchup c);

struct catchup_question {
    struct position here;
    uint32_t here_commit; /* pages */
    bool unsettled;       /* this node was a primary that did not hand over */
    bool known;           /* the primary has a database of this name */
    struct position last, first;
    uint64_t checksum_at; /* the primary's at here.txid; 0 = not known */
    uint32_t page_size, commit;
    uint64_t log_bytes; /* that the primary's records after here.txid take */
};

enum catchup catchup_decide(const struct catchup_question *q);

#endif
