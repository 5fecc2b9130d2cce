/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/table.h"

#include <stdlib.h>
#include <string.h>

#include "ltx/base/assert.h"

/* Columns on the screen: UTF-8 continuation bytes take none. */
static size_t width(const char *text)
{
    size_t n = 0;
    for (; *text; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

static void pad(FILE *out, size_t n)
{
    for (; n > 0; n--)
        putc(' ', out);
}

void table_init(struct table *t, const char *const *head, size_t columns)
{
    ASSERT(columns <= TABLE_COLUMNS_MAX, "a table of ours has few columns");
    *t = (struct table){.columns = columns};
    table_add(t, head);
}

void table_align_right(struct table *t, size_t column)
{
    t->right[column] = true;
}

void table_add(struct table *t, const char *const *cells)
{
    char **more = reallocarray(t->cells, (t->rows + 1) * t->columns, sizeof *more);
    if (!more) {
        t->failed = true;
        return;
    }
    t->cells = more;
    for (size_t i = 0; i < t->columns; i++)
        more[t->rows * t->columns + i] = strdup(cells[i]);
    t->rows++;
}

void table_print(const struct table *t, FILE *out)
{
    size_t widest[TABLE_COLUMNS_MAX] = {0};
    for (size_t i = 0; i < t->rows * t->columns; i++) {
        size_t n = t->cells[i] ? width(t->cells[i]) : 0;
        if (n > widest[i % t->columns])
            widest[i % t->columns] = n;
    }
    for (size_t row = 0; row < t->rows; row++) {
        size_t owed = 0; /* blanks not yet written: a line has none at its end */
        for (size_t i = 0; i < t->columns; i++) {
            const char *cell = t->cells[row * t->columns + i];
            size_t n = cell ? width(cell) : 0;
            if (n > 0) {
                pad(out, owed + (t->right[i] ? widest[i] - n : 0));
                fputs(cell, out);
                owed = t->right[i] ? 2 : widest[i] - n + 2;
            } else {
                owed += widest[i] + 2;
            }
        }
        putc('\n', out);
    }
    if (t->failed)
        fputs("(rows are missing: out of memory)\n", out);
}

void table_fini(struct table *t)
{
    for (size_t i = 0; i < t->rows * t->columns; i++)
        free(t->cells[i]);
    free(t->cells);
    *t = (struct table){0};
}
