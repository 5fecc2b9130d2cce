/* SPDX-License-Identifier: Apache-2.0 */
#include "ltx/checksum.h"

#include <isa-l/crc64.h>

#include "ltx/base/bytes.h"
#include "ltx/format.h"

/*
 * libisal inverts the running value on the way in and out, as Go's hash/crc64.Update does, so 0 is
 * the start and each result can be continued.
 */
uint64_t checksum_update(uint64_t crc, const void *data, size_t n)
{
    return crc64_iso_refl(crc, data, n);
}

uint64_t checksum_page(uint32_t pgno, const void *page, uint32_t page_size)
{
    uint8_t number[4];
    put_be32(number, pgno);
    uint64_t crc = crc64_iso_refl(0, number, sizeof number);
    return crc64_iso_refl(crc, page, page_size) | LTX_CHECKSUM_BIT;
}

uint64_t checksum_toggle(uint64_t database, uint64_t page_sum)
{
    return (database ^ page_sum) | LTX_CHECKSUM_BIT;
}
