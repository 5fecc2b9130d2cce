/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_WAL_H
#define FS_DB_WAL_H

#include <stdbool.h>
#include <stdint.h>

/*
 * SQLite's write-ahead log (https://www.sqlite.org/fileformat2.html, 4; wal.c of SQLite),
 * big-endian:
 *   header, 32 bytes
 *      0 4  magic 0x377f0682, or ...83 if checksums read their input big-endian
 *      4 4  version 3007000
 *      8 4  page size, bytes
 *     12 4  checkpoint sequence number
 *     16 8  salts 1 and 2
 *     24 8  checksum of the 24 bytes before
 *   frames, 24 bytes and a page each
 *      0 4  page number
 *      4 4  database size in pages if this frame commits, else 0
 *      8 8  salts as in the header; a frame with others is left over from an earlier round
 *     16 8  checksum of the header (first 24 bytes) and of all frames so far (first 8 bytes and
 *           page of each)
 */
#define WAL_HEADER_SIZE 32
#define WAL_FRAME_HEADER_SIZE 24
#define WAL_VERSION 3007000u
#define WAL_MAGIC 0x377f0682u
#define WAL_COMMIT_MAX \
    0xfffffffeu /* pages; SQLite's own limit, so a page number can count past it */

struct wal_header {
    uint32_t page_size;
    uint32_t checkpoint_seq;
    uint8_t salt[8]; /* as stored */
    bool big_endian; /* how checksums read their input */
    uint32_t cksum[2];
};

struct wal_frame {
    uint32_t pgno;
    uint32_t commit; /* pages; 0: the transaction goes on */
};

/* The checksum over n bytes (a multiple of 8), continuing from cksum. */
void wal_checksum(bool big_endian, const void *data, uint32_t n, uint32_t cksum[2]);

/* False unless magic, version, page size and checksum are right. */
bool wal_header_parse(const uint8_t in[WAL_HEADER_SIZE], struct wal_header *out);
/* Computes out->cksum and writes the 32 bytes. */
void wal_header_build(struct wal_header *h, uint8_t out[WAL_HEADER_SIZE]);

/*
 * Is this frame (header and page together) the next one of the chain? Then cksum moves on. A frame
 * with other salts, with page number 0, with more pages than there can be, or with a wrong checksum
 * is not.
 */
bool wal_frame_check(const struct wal_header *h, const uint8_t *frame, uint32_t cksum[2],
                     struct wal_frame *out);
/*
 * A frame whose salts and checksum are still zero. SQLite writes it so once it has overwritten the
 * page of an earlier frame of the same transaction, and seals the frames from that one on when it
 * commits, in order, beginning with the checksum that stands in the frame before it. If a savepoint
 * was rolled back meanwhile that leaves gaps (seen with 3.40.1): frames before the overwritten one
 * stay unsealed; and if the transaction ends before it, all of them do, the commit frame included,
 * and the next transaction begins with whatever checksum stands before the overwritten frame.
 */
bool wal_frame_unsealed(const uint8_t *frame, struct wal_frame *out);
/* Fills in the 24 bytes before a page, and moves cksum on. `frame` has room for header and page;
 * the page is there already. */
void wal_frame_build(const struct wal_header *h, uint8_t *frame, struct wal_frame f,
                     uint32_t cksum[2]);

static inline int64_t wal_frame_size(uint32_t page_size)
{
    return (int64_t)page_size + WAL_FRAME_HEADER_SIZE;
}

/* Offset of frame number n (from 1). */
static inline int64_t wal_frame_offset(uint32_t page_size, uint32_t n)
{
    return WAL_HEADER_SIZE + (int64_t)(n - 1) * wal_frame_size(page_size);
}

/* Number of the frame that holds byte `off`; 0 within the header. Frames beyond what 32 bits count,
 * which a sparse file may seem to have, are all the last one. */
static inline uint32_t wal_frame_at(uint32_t page_size, int64_t off)
{
    if (off < WAL_HEADER_SIZE)
        return 0;
    int64_t n = (off - WAL_HEADER_SIZE) / wal_frame_size(page_size) + 1;
    return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

#endif
