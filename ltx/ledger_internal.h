/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LTX_LEDGER_INTERNAL_H
#define LTX_LEDGER_INTERNAL_H

#include "ltx/base/mutex.h"
#include "ltx/feed.h"
#include "ltx/ledger.h"

/*
 * What the files of the ledger share: ledger.c (transactions, what it is now), ledger_receive.c
 * (records from a peer), ledger_state.c (the state file, checkpoints), ledger_open.c (from a folder
 * to a ledger, lost sums), ledger_bad.c (bad pages), ledger_diverged.c.
 *
 * The mutex guards every field that changes. Position, size and sums change only with the log's
 * append slot held as well, so its holder may read them without the mutex.
 */

#define LEDGER_FOLDER_SIZE 256

/* What the state file says besides the name: the database file holds everything up to `recovery`,
 * where it has this size. */
struct ledger_state {
    struct position recovery;
    uint32_t page_size; /* bytes */
    uint32_t commit;    /* pages */
    int64_t timestamp_ms;
    bool unclean;
};

/* Packed: a bring-up holds one for each page of the database. */
struct ledger_delta {
    uint64_t sum;
    uint32_t pgno;
} __attribute__((packed));

struct ledger_delta_list {
    struct ledger_delta *items;
    size_t len, cap;
};

struct ledger {
    char *name;
    char folder[LEDGER_FOLDER_SIZE]; /* escaped name */
    int data_dirfd;                  /* borrowed */
    int dirfd;                       /* <data>/db/<folder> */
    uint64_t node_id;
    struct feeds *feeds;
    struct txlog *log;

    struct mutex mutex; /* RANK_LEDGER */
    struct cond saved;  /* not `saving` */
    bool saving;        /* somebody writes sums or state */
    struct pagesums sums;
    struct position last, applied;
    uint32_t page_size, commit;
    int64_t timestamp_ms;
    struct ledger_state state; /* as on disk */
    uint64_t changed_bytes;    /* of pages, in all records since it was opened */
    bool damaged;
    char damage[128];
    uint32_t diverged;
    uint32_t *bad; /* LEDGER_BAD_MAX of room, or NULL */
    uint32_t bad_count;
    uint64_t mended;
};

struct ledger_options {
    int data_dirfd;
    const char *folder; /* below <data>/db */
    struct feeds *feeds;
    int64_t segment_bytes;
    uint64_t node_id;
};

/* ledger_open.c */

/* Makes folder and state for `name`; a folder that is there is used. Blocks. */
int ledger_create(struct ledger **out, const char *name, const struct ledger_options *o);
/* -ERR_NOTFOUND: a folder that holds nothing yet; others: it cannot be used. Blocks. */
int ledger_open(struct ledger **out, const struct ledger_options *o);
void ledger_close(struct ledger *l); /* NULL is fine */

/* ledger.c */

int ledger_delta_add(struct ledger_delta_list *list, uint32_t pgno, uint64_t sum);
/* Whether a record must hold every page, because nothing of what is there stays. */
bool ledger_is_fresh(const struct ledger *l, uint32_t page_size, uint32_t commit);
/* XORs out the pages between `commit` and the present size. */
uint64_t ledger_cut_sums(const struct ledger *l, uint64_t checksum, uint32_t commit);
/* Whether all pages above `old_commit` are in the list, which is sorted. */
bool ledger_has_new_pages(const struct ledger_delta *items, size_t len, uint32_t page_size,
                          uint32_t old_commit, uint32_t commit);
/* Publishes and, that done, takes the sums over, with mutex and append slot held. The append has
 * ended when it returns. `fresh`: the old sums are worth nothing. */
int ledger_install(struct ledger *l, struct txlog_append *a, const struct ltx_header *h,
                   uint64_t post_checksum, bool fresh, const struct ledger_delta *items,
                   size_t len);
void ledger_damage_locked(struct ledger *l, const char *why);

/* ledger_state.c */

int ledger_state_read(int dirfd, struct ledger_state *state, char **name); /* *name: malloc'ed */
int ledger_state_write(int dirfd, const struct ledger_state *state, const char *name);

#endif
