/* SPDX-License-Identifier: Apache-2.0 */
#include "ltx/format.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "ltx/base/bytes.h"
#include "ltx/base/err.h"

static const uint8_t magic[4] = {'L', 'T', 'X', '1'};

/* Set by writers of the format before version 3: one LZ4 frame around all pages. */
#define FLAG_ONE_FRAME 0x1u

static struct ltx_header fields_of(const uint8_t in[LTX_HEADER_SIZE])
{
    return (struct ltx_header){
        .flags = get_be32(in + 4),
        .page_size = get_be32(in + 8),
        .commit = get_be32(in + 12),
        .min_txid = get_be64(in + 16),
        .max_txid = get_be64(in + 24),
        .timestamp_ms = (int64_t)get_be64(in + 32),
        .pre_checksum = get_be64(in + 40),
        .wal_offset = get_be64(in + 48),
        .wal_size = get_be64(in + 56),
        .wal_salt1 = get_be32(in + 64),
        .wal_salt2 = get_be32(in + 68),
        .node_id = get_be64(in + 72),
    };
}

void ltx_header_encode(const struct ltx_header *h, uint8_t out[LTX_HEADER_SIZE])
{
    memset(out, 0, LTX_HEADER_SIZE);
    memcpy(out, magic, sizeof magic);
    put_be32(out + 4, h->flags);
    put_be32(out + 8, h->page_size);
    put_be32(out + 12, h->commit);
    put_be64(out + 16, h->min_txid);
    put_be64(out + 24, h->max_txid);
    put_be64(out + 32, (uint64_t)h->timestamp_ms);
    put_be64(out + 40, h->pre_checksum);
    put_be64(out + 48, h->wal_offset);
    put_be64(out + 56, h->wal_size);
    put_be32(out + 64, h->wal_salt1);
    put_be32(out + 68, h->wal_salt2);
    put_be64(out + 72, h->node_id);
}

int ltx_header_decode(const uint8_t in[LTX_HEADER_SIZE], struct ltx_header *h)
{
    if (ltx_header_fault(in) != NULL)
        return -ERR_CORRUPT;
    *h = fields_of(in);
    return 0;
}

const char *ltx_header_fault(const uint8_t in[LTX_HEADER_SIZE])
{
    static const uint8_t zeros[LTX_HEADER_SIZE - 80];
    struct ltx_header h = fields_of(in);
    if (memcmp(in, magic, sizeof magic) != 0)
        return "not an LTX file (it does not begin with LTX1)";
    if (h.flags & FLAG_ONE_FRAME)
        return "an older LTX version (flag 0x1, as LiteFS 0.5 writes), which is not supported";
    if ((h.flags & ~LTX_NO_CHECKSUM) != 0)
        return "unknown flags in the header";
    if (!ltx_page_size_valid(h.page_size))
        return "the page size is not a power of two from 512 to 65536";
    if (h.min_txid == 0)
        return "the min TXID is 0";
    if (h.max_txid < h.min_txid)
        return "the max TXID is below the min TXID";
    if (h.flags & LTX_NO_CHECKSUM || ltx_header_is_snapshot(&h)) {
        if (h.pre_checksum != 0)
            return "a pre-apply checksum where there must be none";
    } else if ((h.pre_checksum & LTX_CHECKSUM_BIT) == 0) {
        return "the pre-apply checksum is missing";
    }
    if (h.wal_offset == 0 && (h.wal_size != 0 || h.wal_salt1 != 0 || h.wal_salt2 != 0))
        return "WAL size or salts without a WAL offset";
    if (memcmp(in + 80, zeros, sizeof zeros) != 0)
        return "the reserved bytes of the header are not zero";
    return NULL;
}

bool ltx_post_checksum_valid(const struct ltx_header *h, uint64_t post_checksum)
{
    if (h->flags & LTX_NO_CHECKSUM)
        return post_checksum == 0;
    if (h->commit == 0)
        return post_checksum == LTX_EMPTY_CHECKSUM;
    return (post_checksum & LTX_CHECKSUM_BIT) != 0;
}

void ltx_name_format(uint64_t min_txid, uint64_t max_txid, char out[LTX_NAME_SIZE])
{
    snprintf(out, LTX_NAME_SIZE, "%016" PRIx64 "-%016" PRIx64 ".ltx", min_txid, max_txid);
}

int ltx_name_parse(const char *name, uint64_t *min_txid, uint64_t *max_txid)
{
    uint64_t min, max;
    if (strnlen(name, LTX_NAME_SIZE) != LTX_NAME_SIZE - 1 || get_hex16(name, &min) < 0 ||
        name[16] != '-' || get_hex16(name + 17, &max) < 0 || strcmp(name + 33, ".ltx") != 0)
        return -ERR_INVALID;
    if (min == 0 || max < min)
        return -ERR_INVALID;
    *min_txid = min;
    *max_txid = max;
    return 0;
}
