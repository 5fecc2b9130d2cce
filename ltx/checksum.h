/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LTX_CHECKSUM_H
#define LTX_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* CRC-64/ISO as Go's hash/crc64 computes it, through libisal. The only file that includes isa-l. */

/* Continues `crc` (0 at the start) over n bytes. */
uint64_t checksum_update(uint64_t crc, const void *data, size_t n);

/* Checksum of one page: CRC of (page number, big-endian, 4 bytes; the page), with bit 63 set. */
uint64_t checksum_page(uint32_t pgno, const void *page, uint32_t page_size);

/*
 * The rolling checksum of a database is the XOR of its pages' checksums with bit 63 set. Adding
 * and removing a page are the same operation; a sum of 0 stands for "no page" and changes nothing.
 */
uint64_t checksum_toggle(uint64_t database, uint64_t page_sum);

#endif
