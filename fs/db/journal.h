/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_JOURNAL_H
#define FS_DB_JOURNAL_H

#include <stdbool.h>
#include <stdint.h>

/*
 * SQLite's rollback journal (https://www.sqlite.org/fileformat2.html, 3; pager.c of SQLite),
 * big-endian. One or more segments, each starting at a multiple of the sector size:
 *    0 8  magic d9 d5 05 f9 20 a1 63 d7; zero before the first sync, and after a commit in
 *         PERSIST mode
 *    8 4  number of records; 0xffffffff: as many as fit into the rest of the file
 *   12 4  nonce of the checksums
 *   16 4  size of the database before the transaction, pages
 *   20 4  sector size, bytes
 *   24 4  page size, bytes
 * then, after padding to the sector size, the records:
 *    0 4  page number
 *    4 n  the page as it was
 *  4+n 4  checksum: the nonce plus the bytes of the page at size-200, size-400, ...
 * A transaction over several databases adds the name of its super-journal, which ends with the file:
 *    0 4  the number of the lock page, which no record has
 *    4 n  absolute path, without a NUL
 *  4+n 4  n
 *  8+n 4  the sum of the name's characters
 * 12+n 8  magic
 */
#define JOURNAL_HEADER_SIZE 28
#define JOURNAL_MAGIC "\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"

/* *hot: does the file begin with a header that SQLite would roll back? An empty one does not. */
int journal_look(int fd, bool *hot);

/* The super-journal's name, "" if there is none or it does not match its checksum. */
#define JOURNAL_SUPER_MAX 4096 /* bytes, with the NUL */
int journal_super_name(int fd, char name[JOURNAL_SUPER_MAX]);

/*
 * Writes the pages of the journal back through `put` and, at the end, `resize` to the size before
 * the transaction (in pages). Stops quietly at the first record that is cut or does not match its
 * checksum, as SQLite does. Blocks.
 */
struct journal_target {
    int (*put)(void *ctx, uint32_t pgno, const void *page, uint32_t page_size);
    int (*resize)(void *ctx, uint32_t page_count, uint32_t page_size);
    void *ctx;
};
int journal_play_back(int fd, struct journal_target target, uint32_t *pages);

#endif
