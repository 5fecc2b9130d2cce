/* SPDX-License-Identifier: Apache-2.0 */
#include "ltx/base/assert.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

_Noreturn void assert_failed(const char *file, int line, const char *cond, const char *what)
{
    /* Straight to the descriptor: the logger or stdio may be what is broken. */
    char text[512];
    int n = snprintf(text, sizeof text, "tandemfs: broken invariant at %s:%d: %s (%s); stopping\n",
                     file, line, what, cond);
    if (n > 0) {
        size_t len = (size_t)n < sizeof text ? (size_t)n : sizeof text - 1;
        if (write(STDERR_FILENO, text, len) < 0)
            abort();
    }
    abort();
}
