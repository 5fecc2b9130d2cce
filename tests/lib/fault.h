/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_LIB_FAULT_H
#define TESTS_LIB_FAULT_H

#include <stdbool.h>

/*
 * Makes one operation on the daemon's own files fail: the n-th from now, counted from 0 over all
 * kinds but close and unlink. A write may fail after half of it is done.
 *
 *     for (int n = 0; fired; n++) { fault_arm(n); ...; fired = fault_disarm(); look at the result }
 */
void fault_arm(int n);
bool fault_disarm(void); /* whether it has failed */

#endif
