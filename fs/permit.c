/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/permit.h"

#include <errno.h>
#include <fcntl.h>

#include "ltx/base/err.h"

int permit_change(struct fs *fs, bool own)
{
    return own || role_get(fs->role) == ROLE_PRIMARY ? 0 : EROFS;
}

int permit_open(struct fs *fs, struct database *db, enum file_kind kind, int flags, bool own)
{
    /* For the other kinds the error decides what SQLite reports (D6), so fs/db chooses it. */
    if ((flags & O_CREAT) && kind == FILE_MAIN) {
        int err = permit_change(fs, own);
        if (err)
            return err;
    }
    int rc = database_may_open(db, kind, flags, own);
    return rc ? err_errno(rc) : 0;
}

int permit_write(struct fs *fs, enum file_kind kind, bool own)
{
    return kind == FILE_SHM ? 0 : permit_change(fs, own);
}
