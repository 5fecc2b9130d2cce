/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_INFO_H
#define FS_INFO_H

#include <stdbool.h>
#include <stddef.h>

#include "fs/adapter.h"

/*
 * Informational files, byte for byte those of LiteFS: opened by name, never listed, made when they
 * are read.
 *
 *   .primary   top folder of a replica that knows its primary: the primary's URL, no newline
 *   .lag       top folder: "%+010d\n", milliseconds behind the primary
 *   NAME-pos   beside a replicated database: "%016x/%016x\n", TXID and checksum it has reached
 *
 * A real file of such a name is visible only while there is nothing to inform about.
 */
enum info_kind { INFO_NONE, INFO_PRIMARY, INFO_LAG, INFO_POS };

#define INFO_SIZE_MAX ROLE_NAME_MAX

/* Could the name be one, now or later? Then the kernel must not remember what a lookup said. */
bool info_is_name(const char *name);

/* What `path` below the mount is at this moment. */
enum info_kind info_kind_of(struct fs *fs, const char *path);

/* Writes the content and returns its length; 0 if the file has ceased to be. */
size_t info_read(struct fs *fs, enum info_kind kind, const char *path, char out[INFO_SIZE_MAX]);

#endif
