/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LTX_BASE_ASSERT_H
#define LTX_BASE_ASSERT_H

/*
 * Invariants of the program itself. ASSERT stays on in every build, has no side effect, and never
 * judges bytes that came from a disk, a network or the kernel. Cite the number of
 * docs/INVARIANTS.md where there is one: ASSERT(pgno > last, "I3: pages rise").
 */
#define ASSERT(cond, what)                                  \
    do {                                                    \
        if (!(cond))                                        \
            assert_failed(__FILE__, __LINE__, #cond, what); \
    } while (0)

_Noreturn void assert_failed(const char *file, int line, const char *cond, const char *what);

#endif
