/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_STOCK_H
#define FS_DB_STOCK_H

#include "ltx/store.h"

/* `stock` of a page reader (ltx/store.h); `catalog` is its ctx. Never from a FUSE worker. */
int stock_take(void *catalog, struct ledger *l, struct page_stock *stock);

#endif
