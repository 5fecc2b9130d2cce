/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/db/header.h"

#include <string.h>

#include "ltx/base/bytes.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/format.h"

bool db_header_parse(const uint8_t bytes[HEADER_SIZE], struct db_header *out)
{
    if (memcmp(bytes, "SQLite format 3", 16) != 0)
        return false;
    uint32_t page_size = get_be16(bytes + 16);
    if (page_size == 1)
        page_size = 65536;
    if (!ltx_page_size_valid(page_size))
        return false;
    uint32_t page_count = get_be32(bytes + 28);
    bool counted = get_be32(bytes + 24) == get_be32(bytes + 92) && page_count <= HEADER_PAGES_MAX;
    out->page_size = page_size;
    out->page_count = counted ? page_count : 0;
    out->wal = bytes[18] == 2 && bytes[19] == 2;
    return true;
}

int db_header_read(int fd, struct db_header *out)
{
    uint8_t bytes[HEADER_SIZE];
    size_t got;
    int err = file_read_some(fd, bytes, sizeof bytes, 0, &got);
    if (err)
        return err;
    if (got < sizeof bytes || !db_header_parse(bytes, out))
        return -ERR_NOTFOUND;
    return 0;
}
