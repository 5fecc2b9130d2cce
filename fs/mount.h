/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_MOUNT_H
#define FS_MOUNT_H

#include <stdbool.h>
#include <stddef.h>

#include "fs/db/catalog.h"

/*
 * The FUSE mount: session, worker threads, orderly end. Below it lie the backing files
 * (catalog_options.tree_dirfd), above it applications. libfuse's low-level API; `fuse_lowlevel.h`
 * is included by fs/<files>.c only, never by fs/db.
 *
 * mount_check (before anything else is opened), mount_open, mount_start, ..., mount_quit,
 * mount_join, mount_close.
 */
struct mount;

struct mount_options {
    const char *mountpoint; /* absolute, an existing empty folder or a dead mount of ours */
    const char *fsname;     /* what findmnt shows as SOURCE: the data folder */
    struct catalog *catalog;
    struct role_state *role;
    int tree_dirfd;
    bool allow_other;
    struct roll *roll; /* where open files are entered; borrowed, NULL: nowhere */
    unsigned workers;  /* FUSE worker threads; 0 = default */
};

/*
 * Looks at the mount point before anything is begun: creates the folder if its parent exists, leaves a mount that a
 * killed daemon left (only a dead one of type fuse.tandemfs) to mount_open, and refuses a
 * non-empty folder, one already mounted, a missing /dev/fuse, a missing fusermount3 for an ordinary
 * user. `why` receives a sentence that says what is wrong and what to do.
 */
int mount_check(const char *mountpoint, char *why, size_t why_size);

int mount_open(struct mount **out, const struct mount_options *options, char *why, size_t why_size);
int mount_start(struct mount *m); /* the mount answers when this returns */
/* The descriptor of the kernel's connection, for who shall answer it after the daemon's death. The
 * connection lasts as long as any duplicate of it. Borrowed; after mount_start, before mount_close.
 */
int mount_device(const struct mount *m);
/* True when the session has ended by itself (somebody unmounted it). */
bool mount_ended(struct mount *m);
/* Unmounts, also while clients have files open (lazily then: they get ENOTCONN or finish what they
 * hold). */
void mount_quit(struct mount *m);
void mount_join(struct mount *m);
void mount_close(struct mount *m);

#endif
