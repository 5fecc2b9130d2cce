/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_LIB_LOGCOPY_H
#define TESTS_LIB_LOGCOPY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ltx/ledger.h"

/* A database as its log tells it: each record is verified and laid over the copy in turn. */
struct logcopy {
    int fd; /* an unnamed file */
    struct position at;
    uint32_t page_size, commit;
};

void logcopy_open(struct logcopy *c);
void logcopy_close(struct logcopy *c);
/* Takes what the log has beyond c->at: how many records. */
unsigned logcopy_advance(struct logcopy *c, struct ledger *l);
/* The same, and `each` is called after each record. */
unsigned logcopy_walk(struct logcopy *c, struct ledger *l,
                      void (*each)(void *ctx, const struct logcopy *c), void *ctx);
/* Is it these bytes, the lock page aside? Says on stderr where they differ. */
bool logcopy_equals(const struct logcopy *c, const uint8_t *bytes, size_t size);
uint64_t logcopy_digest(const struct logcopy *c);

#endif
