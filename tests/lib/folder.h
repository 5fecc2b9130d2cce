/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_LIB_FOLDER_H
#define TESTS_LIB_FOLDER_H

#include <stddef.h>
#include <stdint.h>

#include "tests/lib/scratch.h"

/* Temporary folders for tests that keep files. A failed call ends the program. */

struct folder {
    char path[SCRATCH_PATH_MAX];
    int fd;
};

void folder_make(struct folder *f);
/* A new folder with the same files: what a program that was killed leaves behind. */
void folder_copy(struct folder *to, const struct folder *from);
void folder_remove(struct folder *f); /* with all that is in it; a zeroed struct is fine */

/* Counts the files of `below` whose names end in `suffix`; the name of the first in order goes to
 * `name` (may be NULL, else 256 bytes). */
int folder_count(const struct folder *f, const char *below, const char *suffix, char *name);
/* A whole file below the folder; to be freed. */
uint8_t *folder_read(const struct folder *f, const char *path, size_t *size);
void folder_write(const struct folder *f, const char *path, const void *data, size_t size);

#endif
