/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/scratch.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "ltx/base/assert.h"

void scratch_make(char out[SCRATCH_PATH_MAX])
{
    const char *below = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(out, SCRATCH_PATH_MAX, "%s/tandemfs-unit-%d-XXXXXX", below, (int)getpid());
    ASSERT(mkdtemp(out) != NULL, "a test can make its folder");
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

void scratch_remove(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}
