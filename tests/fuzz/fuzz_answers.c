/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a replica does with the answers of its primary: its session (records), a bring-up by pages, a
 * long record in pieces, histories that have parted, single pages that are bad. The sources themselves, over a transport that
 * gives the answers of the input, one after the other, whatever was asked. The first byte chooses;
 * then pieces of a length (2 bytes), a type and a body, before which the target puts the header.
 *
 * Whatever comes, the replica's ledgers can be opened again and are where they were, or where a record
 * that was right has led.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cluster/follow.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/checksum.h"
#include "tests/fuzz/fuzz.h"
#include "tests/lib/record.h"

/* Nothing is waited for here. */
static bool no_pause(struct follower *f, int64_t ms)
{
    (void)ms;
    return follower_quits(f);
}
#define follower_pause(f, ms) no_pause(f, ms)
#include "cluster/bringup_pages.c"
#include "cluster/fetch.c"
#include "cluster/pull.c"
#undef follower_pause

#define CLUSTER 0x77
#define EPOCH 5
#define ANSWERS_MAX 256

/* ---- in place of the transport ---- */

static struct fuzz_input in;
static struct follower *follower;
static struct buf answer;
static unsigned answers;

/* What was asked for last, if that was pages; and whether more than that came. */
static struct {
    uint32_t page_size, pages;
    bool too_many;
} want_asked;

static void note_want(struct msg_reader *r)
{
    static char name[STORE_NAME_MAX];
    struct msg_range range;
    want_asked.pages = 0;
    msg_get_name(r, name);
    want_asked.page_size = msg_get_u32(r);
    while (msg_next_range(r, &range) > 0)
        want_asked.pages += range.count;
    FUZZ_MUST(!r->bad && r->left == 0 && want_asked.pages > 0);
}

static void note_pages(void)
{
    struct msg_header h;
    struct msg_reader r;
    struct msg_page page;
    uint32_t count = 0;
    FUZZ_MUST(msg_open(answer.data, answer.len, &h, &r) == 0);
    if (h.type != MSG_PAGES || msg_get_u32(&r) != want_asked.page_size)
        return;
    (void)msg_get_bytes(&r, 4 + 4 + 8);
    while (msg_next_page(&r, &page) > 0)
        count++;
    want_asked.too_many = count > want_asked.pages;
}

static void no_more(void)
{
    mutex_lock(&follower->mutex);
    follower->quit = true;
    mutex_unlock(&follower->mutex);
}

int peer_call(struct transport_peer *p, struct transport_call *call, const void *data, size_t len,
              int64_t timeout_ms)
{
    struct msg_stamp stamp = {.cluster_id = CLUSTER, .node_id = 200, .epoch = EPOCH};
    struct msg_header h;
    struct msg_reader r;
    size_t n;
    (void)timeout_ms;
    FUZZ_MUST(len <= TRANSPORT_REQUEST_MAX);
    FUZZ_MUST(msg_open(data, len, &h, &r) == 0 && h.type >= MSG_WHO && h.type < MSG_REQUEST_END);
    FUZZ_MUST(!want_asked.too_many || h.type == MSG_END); /* such an answer ends the bring-up */
    want_asked.too_many = false;
    if (h.type == MSG_WANT)
        note_want(&r);
    if (in.left == 0 || ++answers > ANSWERS_MAX) {
        no_more();
        return -ERR_CLOSED;
    }
    struct fuzz_input piece = {0};
    piece.p = fuzz_piece(&in, &n);
    piece.left = n;
    unsigned type = fuzz_u8(&piece);
    struct msg_writer w = msg_begin(&answer, (enum msg_type)type, &stamp);
    msg_put_bytes(&w, piece.p, piece.left);
    FUZZ_MUST(w.err == 0);
    if (h.type == MSG_WANT)
        note_pages();
    free((void *)call->data);
    call->data = fuzz_copy(answer.data, answer.len);
    call->len = answer.len;
    call->peer = p;
    return 0;
}

void peer_done(struct transport_call *call)
{
    free((void *)call->data);
    *call = (struct transport_call){0};
}

int peer_open(struct transport_peer **out, const char *url)
{
    static int one;
    (void)url;
    *out = (struct transport_peer *)(void *)&one;
    return 0;
}

const char *peer_url(const struct transport_peer *p)
{
    (void)p;
    return "tcp://127.0.0.1:2";
}

void peer_quit(struct transport_peer *p)
{
    (void)p;
}

void peer_close(struct transport_peer *p)
{
    (void)p;
}

void transport_reply(struct transport_request *r, const void *data, size_t len)
{
    (void)r;
    (void)data;
    (void)len;
}

void transport_drop(struct transport_request *r, bool bad)
{
    (void)r;
    (void)bad;
}

/* ---- the replica ---- */

static struct role_state role;
static struct self self;
static struct members members;
static struct buf first_records;
static size_t first_sizes[3];

static void follow_cluster(void *ctx, struct identity *id)
{
    (void)ctx;
    id->cluster_id = CLUSTER;
    id->epoch = EPOCH;
    id->role = ROLE_REPLICA;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    char why[512];
    struct image image;
    struct buf record = {0};
    (void)argc;
    (void)argv;
    fuzz_quiet();
    role_init(&role, 1);
    role_set(&role, ROLE_REPLICA, EPOCH, "tcp://127.0.0.1:2");
    FUZZ_MUST(
        self_open(&self, fuzz_folder_fd(), &role, "tcp://127.0.0.1:1", true, why, sizeof why) == 0);
    FUZZ_MUST(self_change(&self, follow_cluster, NULL) == 0);
    image_init(&image, 512);
    for (int i = 0; i < 3; i++) {
        image_transaction(&image, 20 + 10u * (unsigned)i, &record);
        FUZZ_MUST(buf_append(&first_records, record.data, record.len) == 0);
        first_sizes[i] = record.len;
    }
    image_fini(&image);
    buf_fini(&record);
    return 0;
}

/* What the replica has of app.db at the beginning, if anything. */
static void receive_first(struct ledger *l)
{
    size_t at = 0;
    for (int i = 0; i < 3; i++) {
        struct ledger_receive r = {0};
        FUZZ_MUST(ledger_receive_begin(l, &r, first_sizes[i], 0) == 0);
        FUZZ_MUST(ledger_receive_write(&r, first_records.data + at, first_sizes[i]) == 0);
        FUZZ_MUST(ledger_receive_finish(&r, NULL) == 0);
        at += first_sizes[i];
    }
}

/* Each database is found again as it was left. */
static void check_ledgers(struct store *was, int dir)
{
    struct store *now;
    FUZZ_MUST(store_open(&now, dir, &(struct store_options){.node_id = 1}) == 0);
    FUZZ_MUST(store_count(now) == store_count(was) && store_foreign_count(now) == 0);
    for (uint32_t i = 0; i < store_count(was); i++) {
        struct ledger_info a, b;
        struct ledger *l = store_find(now, ledger_name(store_at(was, i)));
        FUZZ_MUST(l != NULL);
        ledger_info(store_at(was, i), &a);
        ledger_info(l, &b);
        FUZZ_MUST(position_equal(a.last, b.last) && a.commit == b.commit);
    }
    store_close(now);
}

/* fs is handed a page only if it is one that the ledger has. */
static int put_right(void *ctx, struct ledger *l, uint32_t pgno, const void *page)
{
    struct ledger_info info;
    (void)ctx;
    ledger_info(l, &info);
    FUZZ_MUST(checksum_page(pgno, page, info.page_size) == ledger_page_sum(l, pgno));
    ledger_settle_bad(l, pgno, true);
    return 0;
}

static void mend_bad_pages(struct store *store, struct follower_worker *w, struct follow *x)
{
    struct ledger_info info;
    store_set_page_reader(store, (struct page_reader){.mend = put_right});
    ledger_info(x->ledger, &info);
    for (uint32_t pgno = 1; pgno <= info.commit; pgno += 3)
        (void)ledger_note_bad(x->ledger, pgno);
    (void)mend_job(w, x);
}

static void run_job(struct store *store, unsigned how)
{
    struct follower_worker w = {.follower = follower};
    struct follow x = {.state = FOLLOW_PAGES, .known = (how & 8) == 0, .working = true};
    struct ledger_info before, after;
    int rv = 0;

    FUZZ_MUST(store_get(store, "app.db", &x.ledger) == 0);
    if (how & 4)
        receive_first(x.ledger);
    ledger_info(x.ledger, &before);
    switch (how & 0x10 ? 4 : how & 3) {
    case 0: pull_run(follower); break;
    case 1: rv = bringup_job(&w, &x); break;
    case 2: rv = fetch_job(&w, &x); break;
    case 4: mend_bad_pages(store, &w, &x); break;
    default:
        rv = diverged_job(&w, &x);
        if (rv == 0 && x.known)
            rv = bringup_job(&w, &x);
    }
    ledger_info(x.ledger, &after);
    if (((how & 3) == 1 && rv != 0) || (how & 0x10))
        FUZZ_MUST(position_equal(before.last, after.last));
    FUZZ_MUST(txlog_sync(ledger_log(x.ledger), UINT64_MAX) == 0);
    self_call_fini(&w.call);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct store *store;
    char path[SCRATCH_PATH_MAX + 8];
    int dir;
    if (size == 0)
        return 0;
    in = (struct fuzz_input){data + 1, size - 1};
    answers = 0;
    want_asked.too_many = false;
    snprintf(path, sizeof path, "%s/data", fuzz_folder());
    FUZZ_MUST(mkdir(path, 0700) == 0);
    FUZZ_MUST(file_open(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0, &dir) == 0);
    FUZZ_MUST(store_open(&store, dir, &(struct store_options){.node_id = 1}) == 0);
    members_init(&members);
    FUZZ_MUST(follower_open(&follower, &self, store, &members, "tcp://127.0.0.1:2", 1000) == 0);
    run_job(store, data[0]);
    follower_close(follower);
    members_fini(&members);
    check_ledgers(store, dir);
    store_close(store);
    file_close(dir);
    scratch_remove(path);
    return 0;
}
