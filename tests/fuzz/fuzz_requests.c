/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a primary does with the requests of peers: the two threads' handlers themselves, without the
 * threads and without a network. An input is a conversation: pieces of a length (2 bytes), a type
 * and a body. The target puts the header before each, and the session's number where HELLO has given
 * one, since no fuzzer guesses these. Each request is answered or dropped, exactly once, with a
 * message within the limit of answers.
 */
#include <stdio.h>

#include "ltx/base/err.h"
#include "tests/fuzz/fuzz.h"
#include "tests/lib/record.h"

/* The sources themselves: their handlers are static. */
#define handle supply_handle
#define run supply_run
#include "cluster/supply.c"
#undef handle
#undef run
#undef EXPIRE_MS
#define put_range pages_put_range
#include "cluster/supply_pages.c"

#define CLUSTER 0x77
#define EPOCH 5
#define REQUESTS_MAX 64

/* ---- in place of the transport ---- */

struct asked {
    struct transport_request request;
    uint8_t *bytes;
    int ended; /* answered or dropped */
};

static struct asked asked[REQUESTS_MAX];
static uint64_t session;

void transport_reply(struct transport_request *r, const void *data, size_t len)
{
    struct msg_header h;
    struct msg_reader in;
    FUZZ_MUST(((struct asked *)r)->ended++ == 0);
    FUZZ_MUST(len <= TRANSPORT_ANSWER_MAX);
    FUZZ_MUST(msg_open(data, len, &h, &in) == 0);
    FUZZ_MUST(h.type >= MSG_OK && h.type < MSG_ANSWER_END);
    if (h.type == MSG_WELCOME)
        session = msg_get_u64(&in);
}

void transport_drop(struct transport_request *r, bool bad)
{
    (void)bad;
    FUZZ_MUST(((struct asked *)r)->ended++ == 0);
}

void transport_request_peer(const struct transport_request *r, char *out, size_t size)
{
    (void)r;
    snprintf(out, size, "the fuzzer");
}

/* Nobody is asked here. */
int peer_call(struct transport_peer *p, struct transport_call *call, const void *data, size_t len,
              int64_t timeout_ms)
{
    (void)p;
    (void)call;
    (void)data;
    (void)len;
    (void)timeout_ms;
    return -ERR_CLOSED;
}

const char *peer_url(const struct transport_peer *p)
{
    (void)p;
    return "";
}

void peer_done(struct transport_call *call)
{
    (void)call;
}

/* ---- the primary ---- */

static struct store *store;
static struct role_state role;
static struct self self;
static struct members members;
static struct image app, other;

/* Pages of app.db; page 3 is always being changed. */
static int read_page(void *ctx, struct ledger *l, uint32_t pgno, void *page, uint32_t *page_size)
{
    (void)ctx;
    if (strcmp(ledger_name(l), "app.db") != 0 || pgno > app.commit)
        return -ERR_NOTFOUND;
    if (pgno == 3)
        return -ERR_BUSY;
    memcpy(page, image_page(&app, pgno), app.page_size);
    *page_size = app.page_size;
    return 0;
}

static void write_records(const char *name, struct image *image, unsigned count)
{
    struct buf record = {0};
    struct ledger *l;
    image_init(image, 512);
    FUZZ_MUST(store_get(store, name, &l) == 0);
    for (unsigned i = 0; i < count; i++) {
        struct ledger_receive r = {0};
        image_transaction(image, 300 + 10 * i, &record);
        FUZZ_MUST(ledger_receive_begin(l, &r, record.len, 0) == 0);
        FUZZ_MUST(ledger_receive_write(&r, record.data, record.len) == 0);
        FUZZ_MUST(ledger_receive_finish(&r, NULL) == 0);
    }
    FUZZ_MUST(ledger_sync(l, UINT64_MAX) == 0);
    buf_fini(&record);
}

static void lead(void *ctx, struct identity *id)
{
    (void)ctx;
    id->cluster_id = CLUSTER;
    id->epoch = EPOCH;
    id->role = ROLE_PRIMARY;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    char why[512];
    (void)argc;
    (void)argv;
    fuzz_quiet();
    role_init(&role, 1);
    FUZZ_MUST(store_open(&store, fuzz_folder_fd(), &(struct store_options){.node_id = 1}) == 0);
    write_records("app.db", &app, 6);
    write_records("sub/b.db", &other, 2);
    store_set_page_reader(store, (struct page_reader){.read = read_page});
    FUZZ_MUST(
        self_open(&self, fuzz_folder_fd(), &role, "tcp://127.0.0.1:1", true, why, sizeof why) == 0);
    FUZZ_MUST(self_change(&self, lead, NULL) == 0);
    role_set(&role, ROLE_PRIMARY, EPOCH, "");
    role_open(&role);
    return 0;
}

/* ---- one conversation ---- */

static struct supply supply;
static struct supply_pages pages;

/* As node.c gives a request to one of the two. */
static void route(struct transport_request *r)
{
    struct msg_header h;
    struct msg_reader in;
    FUZZ_MUST(self_read(&self, r->data, r->len, &h, &in) == 0);
    switch (h.type) {
    case MSG_COMPARE:
    case MSG_BEGIN:
    case MSG_BLOCKS:
    case MSG_WANT:
    case MSG_FETCH:
    case MSG_END:
    case MSG_COMMON: handle(&pages, r); break;
    default: supply_handle(&supply, r); break;
    }
    for (struct session *x = supply.sessions.first; x != NULL; x = x->next)
        if (x->parked != NULL)
            serve(&supply, x);
}

static void ask(struct asked *a, const uint8_t *piece, size_t n)
{
    struct fuzz_input in = {piece, n};
    unsigned type = fuzz_u8(&in), node = type >> 6 & 1; /* two replicas */
    type = type & 0x3f;
    if (type < MSG_WHO || type >= MSG_PREPARE)
        type = MSG_WHO + type % (MSG_PREPARE - MSG_WHO);
    struct msg_stamp stamp = {.cluster_id = CLUSTER, .node_id = 100 + node, .epoch = EPOCH};
    struct buf b = {0};
    struct msg_writer w = msg_begin(&b, (enum msg_type)type, &stamp);
    msg_put_bytes(&w, in.p, in.left);
    FUZZ_MUST(w.err == 0);
    if ((type == MSG_SUBSCRIBE || type == MSG_PULL || type == MSG_ACK) &&
        b.len >= MSG_HEADER_SIZE + 8)
        put_be64(b.data + MSG_HEADER_SIZE, session);
    a->bytes = fuzz_copy(b.data, b.len);
    a->request = (struct transport_request){.data = a->bytes, .len = b.len};
    buf_fini(&b);
    route(&a->request);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    unsigned count = 0;
    session = 0;
    members_init(&members);
    supply_init(&supply, &self, store, &members, 1000);
    supply_pages_init(&pages, &self, store);
    pages.page = malloc(LTX_MAX_PAGE_SIZE);
    FUZZ_MUST(pages.page != NULL);
    while (in.left > 0 && count < REQUESTS_MAX) {
        size_t n;
        const uint8_t *piece = fuzz_piece(&in, &n);
        asked[count] = (struct asked){.ended = 0};
        ask(&asked[count++], piece, n);
    }
    expire(&pages, true);
    supply_pages_fini(&pages);
    supply_fini(&supply); /* lets go of what is parked */
    members_fini(&members);
    for (unsigned i = 0; i < count; i++) {
        FUZZ_MUST(asked[i].ended == 1);
        free(asked[i].bytes);
    }
    return 0;
}
