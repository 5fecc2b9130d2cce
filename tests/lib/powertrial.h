/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_LIB_POWERTRIAL_H
#define TESTS_LIB_POWERTRIAL_H

#include <sqlite3.h>

#include "tests/lib/fsnode.h"
#include "tests/lib/powerdisk.h"

/*
 * A workload on a node is recorded; then power is lost at many places of it, and each time a node starts on
 * what may be left. It finds every commit that was promised to last, each database at exactly one of its
 * commits, a log that can be read from end to end and takes the next transaction, and nothing
 * damaged. Of some of these starts the power is lost, too.
 *
 *     powertrial_begin(&t); work on powertrial_node, and powertrial_note after each step; powertrial_end;
 *     powertrial_sweep, or all of it again for another workload
 *
 * and powertrial_explain as the teardown of the cmocka test.
 *
 * TANDEMFS_POWER_STATES: states for each trial, instead of the default; more of them take more rounds, with
 * another workload each. TEST_TRIAL and TEST_CUT as a
 * failed test prints them, with its seed in TANDEMFS_SEED: this state alone.
 */
#define POWERTRIAL_DATABASES 4

struct powertrial {
    const char *name; /* with the round, unlike that of any other */
    unsigned round;
    const char *databases[POWERTRIAL_DATABASES]; /* below the tree; the first one at least */
    int64_t segment_bytes;
    tap_listener *listener; /* NULL: fsnode_listen */
    bool replica;           /* the starts are those of a replica */
    /* There are commits without a journal: SQLite promises nothing of the file if the power is lost
     * within one. The log is held to its promise all the same, and the file to the log from the next
     * commit on, if one is possible. */
    bool unguarded;
    void (*look)(struct fsnode *n); /* after each start, when the node leads; NULL: nothing more */
};

unsigned powertrial_rounds(void);
/* False: another trial is wanted. */
bool powertrial_begin(const struct powertrial *t);
/* The same for the same name and TANDEMFS_SEED, whatever runs before. */
uint64_t powertrial_dice(void);
uint32_t powertrial_below(uint32_t n);
struct fsnode *powertrial_node(void);
/* A step has ended. `synced`: every commit of this database was acknowledged as one that lasts; NULL: of
 * none it is known. */
void powertrial_note(const char *synced);
/*
 * The daemon is killed, with its clients, after so many more operations; the machine runs on. When that has
 * happened, nothing that anybody is told is true: his connections are closed, and it is started again.
 */
void powertrial_kill_after(unsigned operations);
bool powertrial_is_killed(void);
/* This connection is one of those clients: its statement ends when it has been killed, and does not go on over what only
 * seems to have been written. */
void powertrial_client(sqlite3 *db);
void powertrial_revive(void);
void powertrial_end(void);
void powertrial_sweep(void);
int powertrial_explain(void **state);
/* How many states of each workload were tried, in all its rounds. */
void powertrial_report(void);

#endif
