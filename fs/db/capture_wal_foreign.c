/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/db/capture_wal.h"
#include "fs/db/database_impl.h"
#include "fs/db/header.h"
#include "ltx/base/file.h"

/*
 * An encrypted database writes its WAL as any other does, with pages that nobody else can read. It is
 * an ordinary file: nothing of it is recorded, and its files are synced when it asks for that.
 */

bool capture_wal_page_1_is_foreign(struct database *db)
{
    uint8_t page[LTX_MAX_PAGE_SIZE];
    struct db_header h;
    return capture_wal_read_page(db, db->wal.header.page_size, 1, page) == 0 &&
           !db_header_parse(page, &h);
}

bool capture_wal_is_foreign(struct database *db)
{
    struct capture_wal *w = &db->wal;
    uint32_t page_1 = 0;
    struct ledger_info info = {0};
    for (uint32_t i = 0; i < w->cursor - w->captured; i++)
        if (w->pgno[i] == 1)
            page_1 = w->captured + 1 + i;
    if (page_1) {
        uint8_t bytes[HEADER_SIZE];
        struct db_header h;
        int64_t off = wal_frame_offset(w->header.page_size, page_1) + WAL_FRAME_HEADER_SIZE;
        return file_read(db->wal_fd, bytes, sizeof bytes, off) == 0 && !db_header_parse(bytes, &h);
    }
    if (db->ledger)
        ledger_info(db->ledger, &info);
    return info.commit == 0 && capture_wal_page_1_is_foreign(db);
}
