/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LTX_STORE_H
#define LTX_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "ltx/feed.h"
#include "ltx/ledger.h"

/*
 * All ledgers of this node: one folder each below <data>/db, named after the database with every
 * byte but [A-Za-z0-9._-] written %XX (and '/' so too). A folder that cannot be read is named in a
 * warning and left alone. Ledgers live as long as the store; one whose database was deleted stays,
 * at commit 0.
 *
 * store_open, store_start (the sync and maintenance threads), ..., store_quit, store_join,
 * store_close.
 */
struct store;

/*
 * What a damaged database of a replica really holds: the checksum of each page as a client would
 * find it, whatever the ledger says. A page that cannot be read has checksum 0; without a file there
 * are no pages.
 */
struct page_stock {
    struct pagesums sums; /* zeroed before; filled on success, the caller's to release */
    uint32_t page_size;   /* bytes */
    bool (*go_on)(void *ctx, uint64_t done, uint64_t total); /* pages; asked now and then */
    void *ctx;
};

/*
 * Access to the pages of a database as they are, whatever lies where; `fs` provides it. All block.
 *
 * read: the content of a page, for snapshots and for bringing up a replica: one whose checksum the
 * ledger held for the page at some moment during the call. -ERR_NOTFOUND: beyond the end; -ERR_BUSY:
 * a transaction is changing it, try again; -ERR_DAMAGED: the file does not match the ledger. `page`
 * has room for the ledger's page size at the call, which *page_size receives.
 *
 * stock: of a database that is marked damaged; nobody changes its files then. -ERR_BUSY: a record is
 * still being applied, ask again; -ERR_CLOSED: `go_on` said no. NULL: cannot be had.
 *
 * mend: puts a bad page right where it lies. `page` has the checksum that the ledger holds. 0: it is
 * right now, or was; -ERR_BUSY: not now, try again; others: the disk. NULL: cannot be done.
 */
struct page_reader {
    int (*read)(void *ctx, struct ledger *l, uint32_t pgno, void *page, uint32_t *page_size);
    int (*stock)(void *ctx, struct ledger *l, struct page_stock *stock);
    int (*mend)(void *ctx, struct ledger *l, uint32_t pgno, const void *page);
    void *ctx;
};

struct store_options {
    int64_t segment_bytes;            /* see txlog.h; 0 = default */
    struct txlog_retention retention; /* zeroed: no limit */
    uint64_t node_id;                 /* stands in the records */
    int64_t group_sync_us;  /* least time between two background syncs; 0 = default 1,000 */
    uint32_t databases_max; /* so many ledgers at most; 0 = STORE_DATABASES_MAX */
};

/* `data_dirfd` is the data folder (borrowed, must outlive the store). Opening each ledger redoes
 * its sums (not the database). */
int store_open(struct store **out, int data_dirfd, const struct store_options *options);
int store_start(struct store *s);
void store_quit(struct store *s);
void store_join(struct store *s);
void store_close(struct store *s);

/*
 * Least time between two background syncs from now on, microseconds; 0: what the options say. On the
 * primary nothing is sent before it is durable, so it is short; on a replica nobody waits for it,
 * and the disk has other work.
 */
void store_set_group_sync(struct store *s, int64_t us);

/* What happens in any of its ledgers. */
struct feeds *store_feeds(struct store *s);

struct ledger *store_find(struct store *s, const char *name); /* NULL if there is none */
/* Creates it at position {0, 0} if there is none. -ERR_LIMIT: there are as many as may be; what the
 * folder holds at the start is opened all the same. */
int store_get(struct store *s, const char *name, struct ledger **out);
/* The i-th ledger in the order of creation since the start, i < store_count. Order and pointers
 * stay. */
uint32_t store_count(struct store *s);
struct ledger *store_at(struct store *s, uint32_t i);

void store_set_page_reader(struct store *s, struct page_reader reader);
struct page_reader store_page_reader(struct store *s);
int store_data_dirfd(struct store *s);
/* Number of foreign entries found in <data>/db and left alone, for status. */
uint32_t store_foreign_count(struct store *s);

/* A peer names the databases that a replica makes, so their number has a limit: some kilobytes of
 * memory and a descriptor or two each. */
#define STORE_DATABASES_MAX 65536
#define STORE_NAME_MAX 4096
/* Folder name for a database name; longer results than a file name may have end in '~' and a
 * checksum. */
int store_escape(const char *name, char out[256]);

#endif
