/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_LIB_NNGLEAKS_H
#define TESTS_LIB_NNGLEAKS_H

/*
 * nng 1.5 loses some 4 kB now and then when a socket whose connection was just made or just lost is
 * closed (its connection and its dialer hold each other). What it holds is all that is let pass.
 * Included by the one source of a test program; the leak sanitizer calls it.
 */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libnng\n";
}

#endif
