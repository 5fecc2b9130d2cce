/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cluster/catchup.h"

#define P(t, c)  \
    {            \
        (t), (c) \
    }

static void each_row_of_the_table_holds(void **state)
{
    static const struct {
        struct catchup_question q;
        enum catchup way;
    } rows[] = {
        /* the same */
        {{.here = P(5, 55), .here_commit = 1, .known = true, .last = P(5, 55)}, CATCHUP_CURRENT},
        {{.known = false}, CATCHUP_CURRENT},
        {{.known = true, .last = P(0, 0)}, CATCHUP_CURRENT},
        /* only here */
        {{.here = P(5, 55), .here_commit = 1, .known = false}, CATCHUP_DIVERGED},
        {{.here = P(5, 55), .here_commit = 0, .known = false}, CATCHUP_CURRENT},
        {{.here = P(5, 55), .here_commit = 1, .known = true, .last = P(0, 0)}, CATCHUP_DIVERGED},
        /* nothing here */
        {{.known = true,
          .last = P(9, 99),
          .first = P(0, 0),
          .page_size = 512,
          .commit = 10,
          .log_bytes = 5000},
         CATCHUP_RECORDS},
        {{.known = true,
          .last = P(9, 99),
          .first = P(0, 0),
          .page_size = 512,
          .commit = 10,
          .log_bytes = 6000},
         CATCHUP_PAGES},
        {{.known = true,
          .last = P(9, 99),
          .first = P(3, 33),
          .page_size = 512,
          .commit = 10,
          .log_bytes = 1},
         CATCHUP_PAGES},
        /* ahead, and level but different */
        {{.here = P(10, 1), .here_commit = 1, .known = true, .last = P(9, 99)}, CATCHUP_DIVERGED},
        {{.here = P(9, 1), .here_commit = 1, .known = true, .last = P(9, 99), .checksum_at = 99},
         CATCHUP_DIVERGED},
        /* behind */
        {{.here = P(4, 44), .here_commit = 1, .known = true, .last = P(9, 99), .checksum_at = 44},
         CATCHUP_RECORDS},
        {{.here = P(4, 45), .here_commit = 1, .known = true, .last = P(9, 99), .checksum_at = 44},
         CATCHUP_DIVERGED},
        {{.here = P(4, 44), .here_commit = 1, .known = true, .last = P(9, 99), .first = P(2, 22)},
         CATCHUP_RECORDS},
        {{.here = P(4, 44), .here_commit = 1, .known = true, .last = P(9, 99), .first = P(7, 77)},
         CATCHUP_PAGES},
        {{.here = P(4, 44),
          .here_commit = 1,
          .known = true,
          .last = P(9, 99),
          .first = P(7, 77),
          .unsettled = true},
         CATCHUP_DIVERGED},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (catchup_decide(&rows[i].q) != rows[i].way)
            fail_msg("row %zu: %s", i, catchup_name(catchup_decide(&rows[i].q)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_row_of_the_table_holds)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
