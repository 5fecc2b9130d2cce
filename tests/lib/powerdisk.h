/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_LIB_POWERDISK_H
#define TESTS_LIB_POWERDISK_H

#include "tests/lib/powerloss.h"

/*
 * The states of a disk that loses power in the middle of a recording. What was synced is there: the
 * content of a file by a sync of the file, a name by a sync of its folder and by nothing else (more
 * than ext4 and XFS take away, and all that POSIX lets one hope for). Of everything since then any part
 * may be there, in any order:
 *   - each write, or some of its sectors of 512 bytes, which are never torn themselves;
 *   - the size that a write gave the file, without its bytes (zeros are there), or not even that
 *     while those of its bytes are there that lie below the former size;
 *   - each truncation;
 *   - each name that was made, removed or changed. A rename is one change.
 *
 *     power_disk_init; power_disk_advance to ever later operations, and at each, as often as wanted,
 *     power_disk_choose, power_disk_write; power_disk_fini.
 */
struct power_disk {
    const struct powerloss *record;
    size_t at; /* operations that have been made */
    struct disk_node *nodes;
    uint32_t *pending; /* operations that need not be on disk, in order */
    size_t pending_count, pending_cap;
    uint64_t seed;    /* of the state that was chosen last */
    uint8_t *choices; /* and one choice for each of these */
    const char *how;  /* and in a word or two */
    uint64_t *seen;   /* hashes of all states so far */
    size_t seen_count, seen_cap;
};

void power_disk_init(struct power_disk *d, const struct powerloss *record);
void power_disk_fini(struct power_disk *d);
void power_disk_advance(struct power_disk *d, size_t at); /* never back */

/*
 * Chooses what of the pending operations is there. The same seed gives the same state; 0: nothing of
 * them, 1: all of them. False: this disk has been in this state before.
 */
bool power_disk_choose(struct power_disk *d, uint64_t seed);
void power_disk_write(const struct power_disk *d, const char *path); /* to an empty folder */
/* Places where the power may be lost, in order, more of them where much is pending; to be freed. */
size_t *power_cuts(const struct powerloss *p, size_t count, uint64_t (*dice)(void));
/* On stderr: the operations that were pending, and what became of them in the last state. */
void power_disk_explain(const struct power_disk *d);

#endif
