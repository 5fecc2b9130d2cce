/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/db/scrub.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fs/db/catalog_impl.h"
#include "fs/db/database_impl.h"
#include "fs/db/mend.h"
#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"

#define FIRST_MS 60000 /* a start has other things to do */
#define LATER_MS \
    (INT64_C(3600) * 1000) /* a wait is cut into pieces: the clock of the wall may be set */
#define TRIES 20           /* clients are in the way of mending */
#define TRY_US 100000
#define REPAIR_MS 15000   /* verify waits so long for the primary's pages */
#define LAST_FILE "scrub" /* in the data folder */

struct scrub {
    struct catalog *catalog;
    int64_t interval_ms, bytes_per_s;
    struct thread thread;
    struct mutex mutex; /* RANK_LEAF; guards all below */
    struct cond changed;
    bool quit;
    struct scrub_view view;
};

/* Waits unless it is time to quit; true then. */
static bool rest_us(void *ctx, int64_t us)
{
    struct scrub *s = ctx;
    struct mono start = mono_now();
    mutex_lock(&s->mutex);
    while (!s->quit && mono_since_us(start) < us)
        cond_wait_us(&s->changed, &s->mutex, us - mono_since_us(start));
    bool quit = s->quit;
    mutex_unlock(&s->mutex);
    return quit;
}

/* ---- what is done about it ---- */

static void mend_here(struct scrub *s, struct database *db, struct ledger *l)
{
    uint32_t left = 0;
    bool again = true;
    int err = 0;
    for (int i = 0; !err && again && i < TRIES; i++) {
        if (i > 0 && rest_us(s, TRY_US))
            return;
        err = mend_from_log(db, &again, &left);
    }
    if (left > 0)
        log_error(
            "check",
            "%s: %u bad page%s cannot be put right from the log of this node%s; check the disk, "
            "and promote a replica: this node then gets %s from there",
            ledger_name(l), left, left == 1 ? "" : "s",
            again ? ", because clients are in the way" : "", left == 1 ? "it" : "them");
}

static void act_on(struct scrub *s, struct database *db, struct ledger *l)
{
    struct ledger_info info;
    ledger_info(l, &info);
    if (info.bad == 0 || info.damaged)
        return;
    if (role_get(s->catalog->role) == ROLE_PRIMARY)
        mend_here(s, db, l);
    else if (info.bad == LEDGER_BAD_MAX)
        ledger_set_damaged(l, "too many of its pages do not match their checksums");
}

static int check(struct scrub *s, struct database *db, const struct check_options *o,
                 struct check_result *out)
{
    int err = check_database(db, o, out);
    struct ledger *l = catalog_ledger(s->catalog, db->path);
    if (err)
        return err;
    mutex_lock(&db->mutex);
    db->checked = *out;
    mutex_unlock(&db->mutex);
    act_on(s, db, l);
    return 0;
}

/* ---- the thread ---- */

static bool show(void *ctx, const struct check_progress *p)
{
    struct scrub *s = ctx;
    mutex_lock(&s->mutex);
    s->view.progress = *p;
    bool quit = s->quit;
    mutex_unlock(&s->mutex);
    return !quit;
}

static void show_name(struct scrub *s, const char *name)
{
    mutex_lock(&s->mutex);
    s->view.running = name != NULL;
    s->view.progress = (struct check_progress){0};
    snprintf(s->view.name, sizeof s->view.name, "%s", name ? name : "");
    mutex_unlock(&s->mutex);
}

struct sum {
    uint32_t databases, bad, undecided, log_faults;
    uint64_t bytes;
};

static void add(struct sum *sum, const struct check_result *r)
{
    sum->databases++;
    sum->bad += r->bad;
    sum->undecided += r->undecided;
    sum->log_faults += r->log_faults;
    sum->bytes += r->bytes;
}

/* Every database once. False if it was not ended. */
static bool round_of(struct scrub *s)
{
    struct check_options o = {
        .bytes_per_s = s->bytes_per_s, .go_on = show, .rest_us = rest_us, .ctx = s};
    struct mono began = mono_now();
    struct sum sum = {0};
    size_t count;
    struct database **all = catalog_all(s->catalog, &count);
    int err = all ? 0 : -ERR_NOMEM;
    for (size_t i = 0; all && err != -ERR_CLOSED && i < count; i++) {
        struct check_result r;
        show_name(s, all[i]->path);
        err = check(s, all[i], &o, &r);
        if (!err)
            add(&sum, &r);
        else if (err != -ERR_NOTFOUND && err != -ERR_DAMAGED && err != -ERR_CLOSED)
            log_error("check", "%s: cannot be compared with its checksums: %s", all[i]->path,
                      err_text(err));
    }
    if (all)
        catalog_put_all(all, count);
    show_name(s, NULL);
    if (err == -ERR_CLOSED)
        return false;
    logger_line(sum.bad || sum.log_faults ? LOGGER_ERROR : LOGGER_INFO, "check",
                "%u database%s compared with their checksums, %.1f MB in %.1f s: %u bad page%s, %u "
                "damaged log file%s, %u page%s always being changed",
                sum.databases, sum.databases == 1 ? "" : "s", (double)sum.bytes / 1e6,
                (double)mono_since_ms(began) / 1000, sum.bad, sum.bad == 1 ? "" : "s",
                sum.log_faults, sum.log_faults == 1 ? "" : "s", sum.undecided,
                sum.undecided == 1 ? "" : "s");
    return true;
}

/* Kept over restarts: "LAST SINCE", both ms since the Unix epoch: the end of the last round, 0 if there
 * was none, and from when on the next is counted. */
static void remember(struct scrub *s, int64_t last_ms, int64_t since_ms)
{
    char text[64];
    int n = snprintf(text, sizeof text, "%" PRId64 " %" PRId64 "\n", last_ms, since_ms);
    mutex_lock(&s->mutex);
    s->view.last_ms = last_ms;
    s->view.next_ms = since_ms + s->interval_ms;
    mutex_unlock(&s->mutex);
    int err = file_replace(store_data_dirfd(s->catalog->store), LAST_FILE, text, (size_t)n, 0600);
    if (err)
        log_warn("check", "that the databases were checked cannot be remembered: %s",
                 err_text(err));
}

static void recall(struct scrub *s, int64_t now)
{
    char text[64] = "";
    int64_t last = 0, since = 0, first = now + FIRST_MS;
    size_t got;
    int fd;
    if (file_open(store_data_dirfd(s->catalog->store), LAST_FILE, O_RDONLY, 0, &fd) == 0) {
        (void)file_read_some(fd, text, sizeof text - 1, 0, &got);
        file_close(fd);
    }
    bool known = sscanf(text, "%" SCNd64 " %" SCNd64, &last, &since) == 2 && last >= 0 &&
                 since > 0 && since <= now && last <= now;
    if (!known) /* a new node: nothing is old yet */
        remember(s, 0, now);
    mutex_lock(&s->mutex);
    if (known) {
        s->view.last_ms = last;
        s->view.next_ms = since + s->interval_ms;
    }
    if (s->interval_ms > FIRST_MS && s->view.next_ms < first)
        s->view.next_ms = first;
    mutex_unlock(&s->mutex);
}

/* Waits for the next round; true if it is time to quit. */
static bool wait_for_round(struct scrub *s)
{
    for (;;) {
        mutex_lock(&s->mutex);
        int64_t left = s->view.next_ms - wall_ms();
        mutex_unlock(&s->mutex);
        if (left <= 0)
            return rest_us(s, 0);
        if (rest_us(s, INT64_C(1000) * (left < LATER_MS ? left : LATER_MS)))
            return true;
    }
}

/* Who waits for the disk comes first. (Schedulers that know no priorities leave it at the rate.) */
static void lowest_priority(void)
{
    enum { WHO_PROCESS = 1, CLASS_IDLE = 3, CLASS_SHIFT = 13 };
    (void)syscall(SYS_ioprio_set, WHO_PROCESS, 0, CLASS_IDLE << CLASS_SHIFT);
}

static void run(void *arg)
{
    struct scrub *s = arg;
    lowest_priority();
    recall(s, wall_ms());
    while (!wait_for_round(s) && round_of(s)) {
        int64_t now = wall_ms();
        remember(s, now, now);
    }
}

int scrub_start(struct catalog *c, int64_t interval_ms, int64_t bytes_per_s, struct scrub **out)
{
    struct scrub *s = calloc(1, sizeof *s);
    if (!s)
        return -ERR_NOMEM;
    s->catalog = c;
    s->interval_ms = interval_ms;
    s->bytes_per_s = bytes_per_s;
    mutex_init(&s->mutex, RANK_LEAF);
    cond_init(&s->changed);
    int err = interval_ms > 0 ? thread_start(&s->thread, "scrub", run, s) : 0;
    if (err) {
        scrub_stop(s);
        return err;
    }
    *out = s;
    return 0;
}

void scrub_quit(struct scrub *s)
{
    mutex_lock(&s->mutex);
    s->quit = true;
    cond_broadcast(&s->changed);
    mutex_unlock(&s->mutex);
}

void scrub_stop(struct scrub *s)
{
    if (!s)
        return;
    thread_join(&s->thread);
    cond_fini(&s->changed);
    mutex_fini(&s->mutex);
    free(s);
}

/* ---- on request ---- */

struct verifying {
    struct scrub *scrub;
    bool (*go_on)(void *ctx, const struct check_progress *p);
    void *ctx;
};

static bool verify_goes_on(void *ctx, const struct check_progress *p)
{
    struct verifying *v = ctx;
    return !v->go_on || v->go_on(v->ctx, p);
}

static bool verify_rests(void *ctx, int64_t us)
{
    struct verifying *v = ctx;
    return rest_us(v->scrub, us);
}

/* Until the primary's pages have come and taken the place of the bad ones. */
static void wait_for_repair(struct scrub *s, struct ledger *l, uint64_t mended_before,
                            struct scrub_verdict *out)
{
    struct feed *feed = &store_feeds(s->catalog->store)->applied;
    struct mono start = mono_now();
    struct ledger_info info;
    for (;;) {
        uint64_t seen = feed_count(feed);
        ledger_info(l, &info);
        out->left = info.bad;
        out->mended = (uint32_t)(info.mended - mended_before);
        if ((info.bad == 0 && !info.damaged) || mono_since_ms(start) >= REPAIR_MS ||
            role_get(s->catalog->role) != ROLE_REPLICA || rest_us(s, 0))
            return;
        feed_wait(feed, seen, 100);
    }
}

int scrub_verify(struct scrub *s, const char *name,
                 bool (*go_on)(void *ctx, const struct check_progress *p), void *ctx,
                 struct scrub_verdict *out)
{
    struct verifying v = {.scrub = s, .go_on = go_on, .ctx = ctx};
    struct check_options o = {.go_on = verify_goes_on, .rest_us = verify_rests, .ctx = &v};
    struct ledger *l = catalog_ledger(s->catalog, name);
    struct ledger_info info;
    *out = (struct scrub_verdict){0};
    if (!l)
        return -ERR_NOTFOUND;
    ledger_info(l, &info);
    struct database *db = catalog_get(s->catalog, name);
    if (!db)
        return -ERR_NOMEM;
    int err = check(s, db, &o, &out->check);
    if (!err)
        wait_for_repair(s, l, info.mended, out);
    catalog_put(db);
    return err;
}

/* ---- what is asked of it ---- */

void scrub_view(struct scrub *s, struct scrub_view *out)
{
    mutex_lock(&s->mutex);
    *out = s->view;
    mutex_unlock(&s->mutex);
}

void scrub_last(struct scrub *s, const char *name, struct check_result *out)
{
    *out = (struct check_result){0};
    struct database *db = catalog_get(s->catalog, name);
    if (!db)
        return;
    mutex_lock(&db->mutex);
    *out = db->checked;
    mutex_unlock(&db->mutex);
    catalog_put(db);
}
