/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_BOOT_H
#define FS_DB_BOOT_H

#include <stdbool.h>

/*
 * Has the machine been running since the last start of the daemon? Then the backing files hold all
 * that clients have written, whether it was synced or not, and however the daemon ended. Kept as
 * the kernel's boot id in the file `boot` of the data folder.
 */
bool boot_is_same(int data_dirfd);
int boot_remember(int data_dirfd); /* once recovery is over */

#endif
