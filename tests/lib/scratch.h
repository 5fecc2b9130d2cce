/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_LIB_SCRATCH_H
#define TESTS_LIB_SCRATCH_H

#include <stddef.h>

/* A folder of its own for one test: in memory if the machine has room there, else below /tmp. Its name has
 * the number of the process, so that what a killed program leaves is found by the next run. */
#define SCRATCH_PATH_MAX 96

void scratch_make(char out[SCRATCH_PATH_MAX]);
void scratch_remove(const char *path); /* with all that is in it */

#endif
