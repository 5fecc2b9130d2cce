/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LTX_FORMAT_H
#define LTX_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The bytes of an LTX record, version 3. All fixed-width integers are big-endian.
 *
 *   header, 100 bytes
 *      0  4  magic "LTX1"
 *      4  4  flags: LTX_NO_CHECKSUM; every other bit 0
 *      8  4  page size, bytes: power of two, 512 to 65,536
 *     12  4  commit: database size after the record, pages; 0 = the database was deleted
 *     16  8  min TXID, >= 1
 *     24  8  max TXID, >= min
 *     32  8  timestamp, ms since the Unix epoch
 *     40  8  checksum of the database before; 0 on a snapshot or with LTX_NO_CHECKSUM
 *     48  8  WAL offset of the transaction's frames; 0 for a journal or a merged record
 *     56  8  WAL size, bytes of frames; 0 if the offset is 0
 *     64  8  WAL salts 1 and 2; 0 if the offset is 0
 *     72  8  id of the node that wrote it; 0 = unset
 *     80 20  zero
 *   pages, in rising page number, each
 *      0  4  page number, from 1; never the lock page, never above commit
 *      4  2  flags: LTX_PAGE_SIZED
 *      6  4  size of the compressed data, bytes
 *     10  n  the page as one LZ4 block
 *     (older writers: no flag, no size field, the page as an LZ4 frame; read, never written)
 *   six zero bytes
 *   index
 *      for each page three uvarints: page number, offset of its header, size of the whole entry;
 *      a zero uvarint; then 8 bytes: the list's length in bytes with its zero, without these 8
 *   trailer, 16 bytes
 *      0  8  checksum of the database after the record; 0 with LTX_NO_CHECKSUM
 *      8  8  checksum of the file: header; each page's header and size field as stored and its data
 *            decompressed; the six zero bytes; the index with its length; the first 8 trailer bytes
 */
#define LTX_HEADER_SIZE 100
#define LTX_PAGE_HEADER_SIZE 6
#define LTX_PAGE_SIZE_FIELD 4
#define LTX_TRAILER_SIZE 16
#define LTX_MIN_FILE_SIZE (LTX_HEADER_SIZE + LTX_PAGE_HEADER_SIZE + 9 + LTX_TRAILER_SIZE)

#define LTX_NO_CHECKSUM 0x2u
#define LTX_PAGE_SIZED 0x1u
#define LTX_CHECKSUM_BIT (UINT64_C(1) << 63)
#define LTX_EMPTY_CHECKSUM LTX_CHECKSUM_BIT

#define LTX_MIN_PAGE_SIZE 512u
#define LTX_MAX_PAGE_SIZE 65536u

struct ltx_header {
    uint32_t flags;
    uint32_t page_size; /* bytes */
    uint32_t commit;    /* pages */
    uint64_t min_txid;
    uint64_t max_txid;
    int64_t timestamp_ms;
    uint64_t pre_checksum;
    uint64_t wal_offset; /* bytes */
    uint64_t wal_size;   /* bytes */
    uint32_t wal_salt1;
    uint32_t wal_salt2;
    uint64_t node_id;
};

void ltx_header_encode(const struct ltx_header *h, uint8_t out[LTX_HEADER_SIZE]);
/* Decodes and checks every rule of the table. -ERR_CORRUPT if one is broken. */
int ltx_header_decode(const uint8_t in[LTX_HEADER_SIZE], struct ltx_header *h);
/* The rule that is broken, as one clause for people; NULL if none is. Static storage. */
const char *ltx_header_fault(const uint8_t in[LTX_HEADER_SIZE]);
/* Whether a record with this header may state this checksum of the database after it. */
bool ltx_post_checksum_valid(const struct ltx_header *h, uint64_t post_checksum);

static inline bool ltx_page_size_valid(uint32_t page_size)
{
    return page_size >= LTX_MIN_PAGE_SIZE && page_size <= LTX_MAX_PAGE_SIZE &&
           (page_size & (page_size - 1)) == 0;
}

/* The page that holds SQLite's lock bytes at 1 GiB; it is in no record and in no checksum. */
static inline uint32_t ltx_lock_pgno(uint32_t page_size)
{
    return 0x40000000u / page_size + 1;
}

static inline bool ltx_header_is_snapshot(const struct ltx_header *h)
{
    return h->min_txid == 1;
}

/* A snapshot holds every page: the one that comes after page `last` (0 at the start). */
static inline uint64_t ltx_snapshot_next(uint32_t page_size, uint32_t last)
{
    uint64_t next = (uint64_t)last + 1;
    return next == ltx_lock_pgno(page_size) ? next + 1 : next;
}

#define LTX_NAME_SIZE 38 /* "MINTXID-MAXTXID.ltx" and a NUL */
void ltx_name_format(uint64_t min_txid, uint64_t max_txid, char out[LTX_NAME_SIZE]);
int ltx_name_parse(const char *name, uint64_t *min_txid, uint64_t *max_txid); /* -ERR_INVALID */

#endif
