/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LTX_POSITION_H
#define LTX_POSITION_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Where a database stands: the TXID of its last transaction and the checksum of the whole database
 * after it. Two nodes that agree on both hold the same bytes. {0, 0} is a database nobody has seen.
 */
struct position {
    uint64_t txid;
    uint64_t checksum;
};

#define POSITION_TEXT_SIZE 34 /* "%016x/%016x\n", the line of LiteFS's <db>-pos file */

static inline bool position_equal(struct position a, struct position b)
{
    return a.txid == b.txid && a.checksum == b.checksum;
}

/* Writes "%016x/%016x" and a NUL: 34 bytes. */
void position_format(struct position p, char out[POSITION_TEXT_SIZE]);
/* Reads what position_format wrote (a trailing newline is allowed). -ERR_INVALID otherwise. */
int position_parse(const char *text, struct position *out);

#endif
