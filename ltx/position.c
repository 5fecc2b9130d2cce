/* SPDX-License-Identifier: Apache-2.0 */
#include "ltx/position.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "ltx/base/bytes.h"
#include "ltx/base/err.h"

void position_format(struct position p, char out[POSITION_TEXT_SIZE])
{
    snprintf(out, POSITION_TEXT_SIZE, "%016" PRIx64 "/%016" PRIx64, p.txid, p.checksum);
}

int position_parse(const char *text, struct position *out)
{
    struct position p;
    if (strnlen(text, POSITION_TEXT_SIZE) < 33 || get_hex16(text, &p.txid) < 0 || text[16] != '/' ||
        get_hex16(text + 17, &p.checksum) < 0)
        return -ERR_INVALID;
    if (text[33] != '\0' && strcmp(text + 33, "\n") != 0)
        return -ERR_INVALID;
    *out = p;
    return 0;
}
