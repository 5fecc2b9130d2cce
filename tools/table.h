/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TOOLS_TABLE_H
#define TOOLS_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* Text in columns as wide as their widest cell. table_init, table_add ..., table_print, table_fini.
 */
#define TABLE_COLUMNS_MAX 12

struct table {
    size_t columns, rows;
    char **cells; /* rows * columns; the first row is the head */
    bool right[TABLE_COLUMNS_MAX];
    bool failed; /* out of memory: a row is missing */
};

void table_init(struct table *t, const char *const *head, size_t columns);
void table_align_right(struct table *t, size_t column);
void table_add(struct table *t, const char *const *cells); /* copies */
void table_print(const struct table *t, FILE *out);
void table_fini(struct table *t);

#endif
