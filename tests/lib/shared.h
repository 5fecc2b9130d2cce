/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_LIB_SHARED_H
#define TESTS_LIB_SHARED_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Files beside the repository (../shared, or $TANDEMFS_SHARED): records made by other tools and an
 * independent reader. They may be missing; a test then skips and says so.
 */
bool shared_path(char *out, size_t size, const char *below);

#endif
