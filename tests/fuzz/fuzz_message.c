/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A message of the cluster (cluster/message.h): the header, and the body read as what its type says.
 * The first byte: give it the header that it lacks. What was read whole is written again and must be
 * the same bytes.
 */
#include <stdlib.h>
#include <string.h>

#include "cluster/message.h"
#include "ltx/base/bytes.h"
#include "ltx/base/err.h"
#include "ltx/format.h"
#include "ltx/role.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    fuzz_quiet();
    return 0;
}

static struct buf out;

static int items(struct msg_reader *r, struct msg_writer *w, unsigned type)
{
    static struct msg_subscription subscription;
    static struct msg_item item;
    static char name[STORE_NAME_MAX];
    char url[MSG_URL_MAX];
    struct msg_stand stand;
    struct msg_range range;
    struct msg_page page;
    struct msg_piece piece;
    struct position p;
    int rv;

    switch (type) {
    case MSG_STATE:
    case MSG_WELCOME:
        while ((rv = msg_next_url(r, url)) > 0)
            msg_put_text(w, url);
        break;
    case MSG_COMPARE:
    case MSG_PULL:
    case MSG_ACK:
    case MSG_PREPARED:
        while ((rv = msg_next_standing(r, name, &p)) > 0) {
            FUZZ_MUST(msg_name_valid(name));
            msg_put_standing(w, name, p);
        }
        break;
    case MSG_STANDS:
        while ((rv = msg_next_stand(r, &stand)) > 0) {
            FUZZ_MUST(stand.page_size == 0 || ltx_page_size_valid(stand.page_size));
            msg_put_stand(w, &stand);
        }
        break;
    case MSG_SUBSCRIBE:
        while ((rv = msg_next_subscription(r, &subscription)) > 0)
            msg_put_subscription(w, &subscription);
        break;
    case MSG_RECORDS:
        while ((rv = msg_next_item(r, &item)) > 0) {
            msg_put_item(w, &item);
            if (item.kind == MSG_RECORD)
                msg_put_bytes(w, item.data, item.size);
        }
        break;
    case MSG_WANT:
        while ((rv = msg_next_range(r, &range)) > 0) {
            FUZZ_MUST((uint64_t)range.first + range.count <= UINT32_MAX);
            msg_put_u32(w, range.first);
            msg_put_u32(w, range.count);
            msg_put_u8(w, range.with_sums);
            if (range.with_sums)
                msg_put_bytes(w, range.sums, (size_t)range.count * 8);
        }
        break;
    case MSG_PAGES:
        while ((rv = msg_next_page(r, &page)) > 0) {
            msg_put_u32(w, page.pgno);
            msg_put_u32(w, page.size);
            msg_put_bytes(w, page.data, page.size);
        }
        break;
    case MSG_PIECES:
        while ((rv = msg_next_piece(r, &piece)) > 0) {
            FUZZ_MUST(piece.offset + piece.length <= piece.size);
            msg_put_u64(w, piece.size);
            msg_put_u64(w, piece.offset);
            msg_put_u32(w, piece.length);
            msg_put_bytes(w, piece.data, piece.length);
        }
        break;
    default: rv = msg_end(r); break;
    }
    return rv;
}

/* What comes before the items. */
static void fixed(struct msg_reader *r, struct msg_writer *w, unsigned type)
{
    static char name[STORE_NAME_MAX];
    struct msg_state state;
    struct msg_welcome welcome;

    switch (type) {
    case MSG_STATE:
        if (msg_get_state(r, &state) == 0) {
            FUZZ_MUST(state.role <= ROLE_PRIMARY);
            msg_put_state(w, &state);
        }
        break;
    case MSG_WELCOME:
        if (msg_get_welcome(r, &welcome) == 0)
            msg_put_welcome(w, &welcome);
        break;
    case MSG_SUBSCRIBE:
    case MSG_ACK: msg_put_u64(w, msg_get_u64(r)); break;
    case MSG_PULL:
    case MSG_PREPARED:
        msg_put_u64(w, msg_get_u64(r));
        msg_put_u32(w, msg_get_u32(r));
        break;
    case MSG_RECORDS:
        msg_put_u32(w, msg_get_u32(r));
        msg_put_u8(w, msg_get_bool(r));
        break;
    case MSG_WANT:
        msg_get_name(r, name);
        msg_put_text(w, name);
        msg_put_u32(w, msg_get_u32(r));
        break;
    case MSG_PAGES:
        for (int i = 0; i < 3; i++)
            msg_put_u32(w, msg_get_u32(r));
        msg_put_u64(w, msg_get_u64(r));
        break;
    case MSG_PIECES:
        msg_put_u8(w, msg_get_bool(r));
        msg_put_position(w, msg_get_position(r));
        break;
    default: break;
    }
}

static void error(struct msg_reader *r, const struct msg_stamp *stamp)
{
    struct msg_header again;
    struct msg_reader in;
    struct msg_error e, e2;
    if (msg_error_read(r, &e) != 0)
        return;
    FUZZ_MUST(msg_error_write(&out, stamp, e.code, e.primary, e.text) == 0);
    FUZZ_MUST(msg_open(out.data, out.len, &again, &in) == 0 && msg_error_read(&in, &e2) == 0);
    FUZZ_MUST(e2.code == e.code && strcmp(e2.text, e.text) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct msg_header h = {0};
    struct msg_reader r;
    if (size == 0)
        return 0;
    uint8_t *bytes = fuzz_copy(data + 1, size - 1);
    if ((data[0] & 1) && size - 1 >= MSG_HEADER_SIZE) {
        memcpy(bytes, "TFSM", 4);
        put_be16(bytes + 4, MSG_VERSION);
    }
    int rv = msg_open(bytes, size - 1, &h, &r);
    FUZZ_MUST(rv == 0 || rv == -ERR_PROTOCOL || rv == -ERR_VERSION);
    FUZZ_MUST(msg_type_name(h.type) != NULL);
    if (rv == 0 && h.type == MSG_ERROR) {
        error(&r, &h.stamp);
    } else if (rv == 0) {
        struct msg_writer w = msg_begin(&out, (enum msg_type)h.type, &h.stamp);
        fixed(&r, &w, h.type);
        size_t left = r.left;
        rv = items(&r, &w, h.type);
        FUZZ_MUST(rv == 0 || rv == -ERR_PROTOCOL);
        FUZZ_MUST(r.left <= left);
        if (rv == 0 && w.err == 0 && r.left == 0 && !r.bad)
            FUZZ_MUST(out.len == size - 1 && memcmp(out.data, bytes, out.len) == 0);
    }
    free(bytes);
    return 0;
}
