/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/db/boot.h"

#include <fcntl.h>
#include <string.h>

#include "ltx/base/err.h"
#include "ltx/base/file.h"

#define BOOT_ID_FILE "/proc/sys/kernel/random/boot_id"
#define BOOT_ID_SIZE 36

static int read_id(int dirfd, const char *path, char out[BOOT_ID_SIZE])
{
    int fd;
    int err = file_open(dirfd, path, O_RDONLY, 0, &fd);
    if (err)
        return err;
    err = file_read(fd, out, BOOT_ID_SIZE, 0);
    file_close(fd);
    return err;
}

bool boot_is_same(int data_dirfd)
{
    char now[BOOT_ID_SIZE], then[BOOT_ID_SIZE];
    return read_id(AT_FDCWD, BOOT_ID_FILE, now) == 0 && read_id(data_dirfd, "boot", then) == 0 &&
           memcmp(now, then, sizeof now) == 0;
}

int boot_remember(int data_dirfd)
{
    char now[BOOT_ID_SIZE];
    if (boot_is_same(data_dirfd) || read_id(AT_FDCWD, BOOT_ID_FILE, now) != 0)
        return 0; /* on a system without it every start is one after a loss of power */
    return file_replace(data_dirfd, "boot", now, sizeof now, 0600);
}
