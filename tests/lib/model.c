/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ltx/base/err.h"
#include "ltx/checksum.h"
#include "tests/lib/dice.h"

#define LARGEST_PAGE 4096

void model_init(struct model *m)
{
    memset(m, 0, sizeof *m);
    m->page_size = 512;
    m->pages = calloc(MODEL_PAGES_MAX, LARGEST_PAGE);
    assert_non_null(m->pages);
}

void model_fini(struct model *m)
{
    free(m->pages);
    ledger_tx_fini(&m->tx);
}

uint8_t *model_page(const struct model *m, uint32_t pgno)
{
    return m->pages + (size_t)(pgno - 1) * m->page_size;
}

uint64_t model_checksum(const struct model *m)
{
    uint64_t sum = LTX_EMPTY_CHECKSUM;
    for (uint32_t pgno = 1; pgno <= m->commit; pgno++)
        sum = checksum_toggle(sum, checksum_page(pgno, model_page(m, pgno), m->page_size));
    return sum;
}

struct position model_commit(struct model *m, struct ledger *l, uint32_t page_size, uint32_t commit)
{
    struct position before = ledger_last(l), after = {0};
    uint32_t old = page_size == m->page_size ? m->commit : 0;
    struct ledger_change change = {.page_size = page_size, .commit = commit};
    m->page_size = page_size;
    m->commit = commit;
    assert_int_equal(ledger_begin(l, &m->tx, &change), 0);
    uint32_t always = commit == 0 ? 0 : 1 + dice_below(commit);
    for (uint32_t pgno = 1; pgno <= commit; pgno++) {
        if (pgno <= old && pgno != always && dice_below(3) != 0)
            continue;
        dice_page(model_page(m, pgno), page_size);
        /* No page is ever as it was. */
        uint64_t unique = dice_u64();
        memcpy(model_page(m, pgno), &unique, sizeof unique);
        assert_int_equal(ledger_put_page(&m->tx, pgno, model_page(m, pgno)), 0);
    }
    if (dice_below(4) == 0)
        assert_int_equal(ledger_seal(&m->tx), 0);
    assert_int_equal(ledger_publish(&m->tx, &after), 0);
    assert_int_equal(after.txid, before.txid + 1);
    assert_true(after.checksum == model_checksum(m));
    return after;
}

struct position model_commit_any(struct model *m, struct ledger *l)
{
    uint32_t kind = m->commit == 0 ? 3 : dice_below(20);
    uint32_t commit = m->commit;
    uint32_t page_size = m->page_size;
    if (kind == 0)
        commit = 0;
    else if (kind == 1)
        page_size = 512u << dice_below(4);
    else if (kind <= 5)
        commit = 1 + dice_below(MODEL_PAGES_MAX);
    return model_commit(m, l, page_size, commit);
}

void assert_ledger_is(struct ledger *l, const struct model *m)
{
    struct ledger_info info;
    ledger_info(l, &info);
    assert_false(info.damaged);
    assert_int_equal(info.commit, m->commit);
    if (info.last.txid == 0)
        return;
    assert_int_equal(info.page_size, m->page_size);
    assert_true(info.last.checksum == model_checksum(m));
    uint64_t sums[MODEL_PAGES_MAX + 1];
    assert_int_equal(ledger_page_sums(l, 1, MODEL_PAGES_MAX + 1, sums), m->commit);
    for (uint32_t pgno = 1; pgno <= m->commit; pgno++) {
        uint64_t want = checksum_page(pgno, model_page(m, pgno), m->page_size);
        assert_true(sums[pgno - 1] == want);
        assert_true(ledger_page_sum(l, pgno) == want);
    }
    assert_true(ledger_page_sum(l, m->commit + 1) == 0);
}
