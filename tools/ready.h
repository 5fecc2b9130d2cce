/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TOOLS_READY_H
#define TOOLS_READY_H

#include <stdbool.h>

#include "cluster/node.h"
#include "ltx/base/clock.h"
#include "ltx/role.h"
#include "ltx/store.h"
#include "tools/config.h"
#include "tools/progress.h"

/*
 * When may applications begin? A primary: when it is one. A replica: when it has once had all that
 * its primary had, and readers here see it; or, if it has databases but its primary does not
 * answer, with those. A replica that has nothing waits, and says for what.
 */
#define READY_LOOK_MS 20

struct ready {
    const struct config *config;
    struct role_state *role;
    struct store *store;
    struct node *node;
    struct mono began;
    struct mono said;
    bool waiting; /* it was said for what */
    struct progress progress;
    char what[160];
    bool in_progress;
};

void ready_init(struct ready *r, const struct config *config, struct role_state *role,
                struct store *store, struct node *node);
/* Looks once, and tells what is being waited for; true when ready. One thread. */
bool ready_check(struct ready *r);

/* Does the ledger stand for a database that exists? */
bool ready_has_content(struct ledger *l);

#endif
