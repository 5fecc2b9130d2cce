/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_HEADER_H
#define FS_DB_HEADER_H

#include <stdbool.h>
#include <stdint.h>

/*
 * The first 100 bytes of a SQLite database (https://www.sqlite.org/fileformat2.html, 1.3), as far
 * as they matter here, big-endian:
 *    0 16  "SQLite format 3" and a NUL
 *   16  2  page size, bytes; 1 stands for 65,536
 *   18  1  write version: 1 rollback journal, 2 WAL
 *   19  1  read version
 *   24  4  change counter
 *   28  4  size in pages; trusted only if bytes 92..95 equal the change counter
 *   92  4  "version valid for": the change counter when the size was written
 */
#define HEADER_SIZE 100
#define HEADER_PAGES_MAX 0xfffffffeu /* SQLite's own limit; so a page number can count past it */

struct db_header {
    uint32_t page_size;  /* bytes */
    uint32_t page_count; /* 0 if the header does not say */
    bool wal;            /* readers of this page would use a WAL */
};

/* False if these are not the first bytes of a SQLite database. */
bool db_header_parse(const uint8_t bytes[HEADER_SIZE], struct db_header *out);

/* Reads it from the start of a file: 0, -ERR_NOTFOUND if there is no database in it, or a failure
 * to read. */
int db_header_read(int fd, struct db_header *out);

#endif
