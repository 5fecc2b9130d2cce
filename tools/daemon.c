/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How the parts are wired. `fs` and `cluster` never see each other: they meet in the store and in
 * the role, both made here, and in the node's hooks, which tell the catalog of a change of role.
 *
 * Each step of the start names how far it came, so that the end, whenever it comes, undoes exactly
 * what was begun.
 */
#include "tools/daemon.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/identity.h"
#include "fs/mount.h"
#include "ltx/base/err.h"
#include "tools/admin_http.h"
#include "tools/command.h"
#include "tools/datadir.h"
#include "tools/notify.h"
#include "tools/port.h"
#include "tools/ready.h"
#include "tools/supervisor.h"

#define CLOSE_GATE_MS 5000
#define END_CHILD_MS 10000
#define LOOK_MS 250 /* how often the mount is asked whether somebody has taken it away */
#define WHY_MAX 1024

struct daemon {
    const struct config *config;
    struct supervisor supervisor;
    struct datadir data;
    struct role_state role;
    struct admin_http *admin;
    struct admin_parts parts;
    struct store *store;
    struct catalog *catalog;
    struct mount *mount;
    struct node *node;
    bool has_supervisor, has_data, has_role;
    bool catalog_started, mount_started, store_started, node_started;
    uint64_t node_id;
    char why[WHY_MAX];
};

static int become_primary(void *ctx)
{
    struct daemon *d = ctx;
    return catalog_become_primary(d->catalog);
}

static int become_replica(void *ctx)
{
    struct daemon *d = ctx;
    return catalog_become_replica(d->catalog);
}

static void fatal(void *ctx, const char *why)
{
    struct daemon *d = ctx;
    supervisor_set_fatal(&d->supervisor, why);
}

/* A step that has no sentence of its own gets one from its error code. */
static int explain(struct daemon *d, int err, const char *what)
{
    if (err && !d->why[0])
        snprintf(d->why, sizeof d->why, "cannot %s: %s", what, err_text(err));
    return err;
}

/* What can be refused without having touched anything but the data folder. */
static int take_places(struct daemon *d)
{
    const struct config *c = d->config;
    struct identity *id = NULL;
    int err = supervisor_start(&d->supervisor);
    d->has_supervisor = !err;
    explain(d, err, "handle signals");
    if (!err) {
        err = datadir_open(&d->data, c->data, d->why, sizeof d->why);
        d->has_data = !err;
    }
    if (!err)
        err = mount_check(c->mount, d->why, sizeof d->why);
    if (!err)
        err = admin_http_open(&d->admin, c->http, d->why, sizeof d->why);
    if (!err && c->listen)
        err = port_check(c->listen, d->why, sizeof d->why);
    if (!err) {
        id = calloc(1, sizeof *id);
        err = id ? identity_load(id, d->data.fd, d->why, sizeof d->why) : -ERR_NOMEM;
    }
    if (!err)
        d->node_id = id->node_id;
    free(id);
    return explain(d, err, "start");
}

static int open_databases(struct daemon *d)
{
    const struct config *c = d->config;
    struct store_options store = {
        .retention = {.age_ms = c->retention_age_ms, .size_bytes = c->retention_size_bytes},
        .node_id = d->node_id,
    };
    int err = explain(d, store_open(&d->store, d->data.fd, &store), "open the log");
    if (err)
        return err;
    role_init(&d->role, d->node_id);
    d->has_role = true;
    struct catalog_options catalog = {
        .store = d->store,
        .role = &d->role,
        .tree_dirfd = d->data.tree_fd,
        .mountpoint = c->mount,
        .replica_writes = c->replica_writes,
        .scrub_interval_ms = c->scrub_interval_ms,
        .scrub_bytes_per_s = c->scrub_rate_bytes,
    };
    err = explain(d, catalog_open(&d->catalog, &catalog), "open the databases");
    if (!err)
        err = explain(d, catalog_recover(d->catalog), "recover the databases");
    if (!err)
        store_set_page_reader(d->store, catalog_page_reader(d->catalog));
    return err;
}

static int start_mount(struct daemon *d)
{
    const struct config *c = d->config;
    struct mount_options options = {
        .roll = d->supervisor.guard.roll,
        .mountpoint = c->mount,
        .fsname = c->data,
        .catalog = d->catalog,
        .role = &d->role,
        .tree_dirfd = d->data.tree_fd,
        .allow_other = c->allow_other,
    };
    int err = explain(d, mount_open(&d->mount, &options, d->why, sizeof d->why), "mount");
    if (err)
        return err;
    err = explain(d, mount_start(d->mount), "serve the mount");
    d->mount_started = !err;
    if (!err) {
        supervisor_mounted(&d->supervisor, c->mount, mount_device(d->mount));
        err = explain(d, catalog_start(d->catalog), "start the databases");
        d->catalog_started = !err;
    }
    if (!err) {
        err = explain(d, store_start(d->store), "start the log");
        d->store_started = !err;
    }
    return err;
}

static int start_node(struct daemon *d)
{
    const struct config *c = d->config;
    struct node_options options = {
        .store = d->store,
        .role = &d->role,
        .data_dirfd = d->data.fd,
        .listen = c->listen,
        .advertise = c->advertise,
        .peers = (const char **)c->peers,
        .peer_count = c->peer_count,
        .primary = c->primary,
        .candidate = c->candidate,
        .hooks = {become_primary, become_replica, fatal, d},
    };
    int err = node_open(&d->node, &options, d->why, sizeof d->why);
    if (explain(d, err, "open the node"))
        return err;
    err = node_start(d->node, d->why, sizeof d->why);
    d->node_started = !err;
    if (explain(d, err, "start the node"))
        return err;
    d->parts = (struct admin_parts){
        .config = c,
        .role = &d->role,
        .store = d->store,
        .catalog = d->catalog,
        .node = d->node,
        .foreign = d->data.foreign,
        .tmp_dirfd = d->data.tmp_fd,
        .began = mono_now(),
    };
    admin_http_serve(d->admin, &d->parts);
    return 0;
}

static int start(struct daemon *d)
{
    static int (*const steps[])(struct daemon *) = {take_places, open_databases, start_mount,
                                                    start_node};
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        int err = steps[i](d);
        if (err)
            return err;
        if (supervisor_wait(&d->supervisor, 0) == SUPERVISOR_STOP)
            return 0; /* the main loop sees it too */
    }
    return 0;
}

/*
 * The order matters. Nobody commits any more; no peer is served; own handles on the mount are
 * closed, which a mounted file system needs; then the mount, then what lies below it.
 */
static void stop(struct daemon *d)
{
    if (d->admin)
        admin_http_quit(d->admin);
    if (d->has_role && role_close(&d->role, -ERR_CLOSED, CLOSE_GATE_MS) == -ERR_TIMEOUT)
        log_warn("mount", "a commit is still being made after %d s; going on",
                 CLOSE_GATE_MS / 1000);
    if (d->node_started) {
        node_quit(d->node);
        node_join(d->node);
    }
    admin_http_join(d->admin);
    if (d->catalog_started) {
        catalog_quit(d->catalog);
        catalog_join(d->catalog);
    }
    if (d->mount_started) {
        supervisor_unmounting(&d->supervisor);
        mount_quit(d->mount);
        mount_join(d->mount);
    }
    if (d->store_started) {
        store_quit(d->store);
        store_join(d->store);
    }
    admin_http_close(d->admin);
    if (d->node)
        node_close(d->node);
    if (d->mount)
        mount_close(d->mount);
    if (d->has_supervisor)
        supervisor_mounted(&d->supervisor, "", -1);
    if (d->catalog)
        catalog_close(d->catalog);
    if (d->store)
        store_close(d->store);
    if (d->has_role)
        role_fini(&d->role);
    if (d->has_data)
        datadir_close(&d->data);
    if (d->has_supervisor)
        supervisor_stop(&d->supervisor);
}

/* Waits until it is time to end, at most `ms`; true when it is, and *status is set. */
static bool time_to_end(struct daemon *d, int64_t ms, int *status)
{
    switch (supervisor_wait(&d->supervisor, ms)) {
    case SUPERVISOR_FATAL:
        command_say("mount", "%s", supervisor_why(&d->supervisor));
        *status = EXIT_REFUSED;
        return true;
    case SUPERVISOR_CHILD:
        *status = supervisor_exit_status(&d->supervisor);
        log_info("mount", "the command has ended with exit status %d", *status);
        return true;
    case SUPERVISOR_STOP:
        log_info("mount", "ending: %s", strsignal(d->supervisor.stop_signal));
        *status = EXIT_SUCCESS;
        return true;
    case SUPERVISOR_NOTHING: break;
    }
    if (mount_ended(d->mount)) {
        log_warn("mount", "%s was unmounted; ending", d->config->mount);
        *status = EXIT_SUCCESS;
        return true;
    }
    return false;
}

static void say_ready(struct daemon *d)
{
    char primary[ROLE_NAME_MAX] = "";
    enum role role = role_get(&d->role);
    uint32_t databases = 0;
    for (uint32_t i = 0; i < store_count(d->store); i++)
        databases += ready_has_content(store_at(d->store, i));
    role_primary(&d->role, primary);
    log_info("mount", "ready: %s%s%s, epoch %llu, %u database%s at %s; admin address http://%s",
             role_name(role), role == ROLE_REPLICA && primary[0] ? " of " : "",
             role == ROLE_REPLICA ? primary : "", (unsigned long long)role_epoch(&d->role),
             databases, databases == 1 ? "" : "s", d->config->mount, d->config->http);
    notify_ready();
}

/* From the end of the start to the reason for the end. */
static int serve(struct daemon *d)
{
    struct ready ready;
    int status = EXIT_SUCCESS;
    ready_init(&ready, d->config, &d->role, d->store, d->node);
    while (!ready_check(&ready))
        if (time_to_end(d, READY_LOOK_MS, &status))
            return status;
    admin_http_stage(d->admin, ADMIN_READY);
    say_ready(d);
    if (d->config->exec &&
        supervisor_run(&d->supervisor, d->config->exec, d->why, sizeof d->why) != 0) {
        command_say("mount", "%s", d->why);
        return EXIT_REFUSED;
    }
    while (!time_to_end(d, LOOK_MS, &status))
        ;
    supervisor_end_child(&d->supervisor, END_CHILD_MS);
    return status;
}

int daemon_run(const struct config *config)
{
    struct daemon *d = calloc(1, sizeof *d);
    if (!d)
        return EXIT_FAILED;
    d->config = config;
    int status = EXIT_SUCCESS;
    int err = start(d);
    if (err) {
        command_say("mount", "%s", d->why);
        status = EXIT_REFUSED;
    } else if (d->node_started) {
        status = serve(d);
    }
    notify_stopping();
    stop(d);
    free(d);
    return status;
}
