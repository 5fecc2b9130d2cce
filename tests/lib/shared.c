/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/shared.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

bool shared_path(char *out, size_t size, const char *below)
{
    const char *root = getenv("TANDEMFS_SHARED");
    snprintf(out, size, "%s/%s", root == NULL ? "../shared" : root, below);
    if (access(out, R_OK) == 0)
        return true;
    printf("not there: %s\n", out);
    return false;
}
