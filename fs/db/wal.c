/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/db/wal.h"

#include <string.h>

#include "ltx/base/bytes.h"
#include "ltx/format.h"

void wal_checksum(bool big_endian, const void *data, uint32_t n, uint32_t cksum[2])
{
    const uint8_t *p = data, *end = p + n;
    uint32_t s0 = cksum[0], s1 = cksum[1];
    for (; p < end; p += 8) {
        uint32_t a, b;
        memcpy(&a, p, 4);
        memcpy(&b, p + 4, 4);
        if (big_endian) {
            a = __builtin_bswap32(a);
            b = __builtin_bswap32(b);
        }
        s0 += a + s1;
        s1 += b + s0;
    }
    cksum[0] = s0;
    cksum[1] = s1;
}

bool wal_header_parse(const uint8_t in[WAL_HEADER_SIZE], struct wal_header *out)
{
    uint32_t magic = get_be32(in);
    if ((magic & ~1u) != WAL_MAGIC || get_be32(in + 4) != WAL_VERSION)
        return false;
    struct wal_header h = {.page_size = get_be32(in + 8),
                           .checkpoint_seq = get_be32(in + 12),
                           .big_endian = magic & 1};
    if (!ltx_page_size_valid(h.page_size))
        return false;
    wal_checksum(h.big_endian, in, 24, h.cksum);
    if (h.cksum[0] != get_be32(in + 24) || h.cksum[1] != get_be32(in + 28))
        return false;
    memcpy(h.salt, in + 16, sizeof h.salt);
    *out = h;
    return true;
}

void wal_header_build(struct wal_header *h, uint8_t out[WAL_HEADER_SIZE])
{
    put_be32(out, WAL_MAGIC | (h->big_endian ? 1 : 0));
    put_be32(out + 4, WAL_VERSION);
    put_be32(out + 8, h->page_size);
    put_be32(out + 12, h->checkpoint_seq);
    memcpy(out + 16, h->salt, sizeof h->salt);
    h->cksum[0] = h->cksum[1] = 0;
    wal_checksum(h->big_endian, out, 24, h->cksum);
    put_be32(out + 24, h->cksum[0]);
    put_be32(out + 28, h->cksum[1]);
}

bool wal_frame_check(const struct wal_header *h, const uint8_t *frame, uint32_t cksum[2],
                     struct wal_frame *out)
{
    uint32_t pgno = get_be32(frame), commit = get_be32(frame + 4);
    if (memcmp(frame + 8, h->salt, sizeof h->salt) != 0 || pgno == 0 || commit > WAL_COMMIT_MAX)
        return false;
    uint32_t sum[2] = {cksum[0], cksum[1]};
    wal_checksum(h->big_endian, frame, 8, sum);
    wal_checksum(h->big_endian, frame + WAL_FRAME_HEADER_SIZE, h->page_size, sum);
    if (sum[0] != get_be32(frame + 16) || sum[1] != get_be32(frame + 20))
        return false;
    cksum[0] = sum[0];
    cksum[1] = sum[1];
    out->pgno = pgno;
    out->commit = commit;
    return true;
}

bool wal_frame_unsealed(const uint8_t *frame, struct wal_frame *out)
{
    static const uint8_t zeros[16];
    out->pgno = get_be32(frame);
    out->commit = get_be32(frame + 4);
    return out->pgno != 0 && out->commit <= WAL_COMMIT_MAX &&
           memcmp(frame + 8, zeros, sizeof zeros) == 0;
}

void wal_frame_build(const struct wal_header *h, uint8_t *frame, struct wal_frame f,
                     uint32_t cksum[2])
{
    put_be32(frame, f.pgno);
    put_be32(frame + 4, f.commit);
    memcpy(frame + 8, h->salt, sizeof h->salt);
    wal_checksum(h->big_endian, frame, 8, cksum);
    wal_checksum(h->big_endian, frame + WAL_FRAME_HEADER_SIZE, h->page_size, cksum);
    put_be32(frame + 16, cksum[0]);
    put_be32(frame + 20, cksum[1]);
}
