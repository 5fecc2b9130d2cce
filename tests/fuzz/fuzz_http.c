/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What comes to the admin address (tools/admin_http.c): the server itself over a primary with a
 * database, and each input the bytes of one connection. The target runs the server in place of its
 * thread, until nothing is left to do. What comes back is HTTP, and no connection stays.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cluster/node.h"
#include "ltx/base/thread.h"
#include "tests/fuzz/fuzz.h"
#include "tests/lib/fsnode.h"
#include "tests/lib/sql.h"
#include "tools/admin_http.h"

/* The source itself: how the server is run is static. */
static int no_thread(struct thread *t, void (*run)(void *))
{
    (void)t;
    (void)run;
    return 0;
}
#define thread_start(t, name, run, arg) no_thread(t, run)
#include "tools/admin_http.c"
#undef thread_start

#define PORT 20400
#define PORT_END 20500

static struct fsnode parts;
static struct node *node;
static struct config config;
static struct admin_http *server;

static void open_node(void)
{
    static char root[SCRATCH_PATH_MAX + 8];
    char why[512];
    snprintf(root, sizeof root, "%s/node", fuzz_folder());
    fsnode_open(&parts, root, true);
    fsnode_lead(&parts);
    tapvfs_register(fsnode_listen, &parts);
    sqlite3 *db = sql_open(fsnode_path(&parts, "app.db"), "tap");
    sql_do(db, "CREATE TABLE t(a); INSERT INTO t VALUES(zeroblob(20000))");
    sql_close(db);
    struct node_options options = {
        .store = parts.store, .role = &parts.role, .data_dirfd = parts.data_dirfd, .primary = true};
    FUZZ_MUST(node_open(&node, &options, why, sizeof why) == 0);
}

static void open_server(void)
{
    static struct admin_parts admin;
    char text[64], why[512];
    admin = (struct admin_parts){.config = &config,
                                 .role = &parts.role,
                                 .store = parts.store,
                                 .catalog = parts.catalog,
                                 .node = node,
                                 .tmp_dirfd = parts.data_dirfd,
                                 .began = mono_now()};
    for (int port = PORT; port < PORT_END && !server; port++) {
        snprintf(text, sizeof text, "127.0.0.1:%d", port);
        if (admin_http_open(&server, text, why, sizeof why) != 0)
            server = NULL;
    }
    FUZZ_MUST(server != NULL);
    admin_http_serve(server, &admin);
    admin_http_stage(server, ADMIN_READY);
}

static void close_all(void)
{
    admin_http_quit(server);
    admin_http_join(server);
    admin_http_close(server);
    node_close(node);
    fsnode_close(&parts);
    config_fini(&config);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    fuzz_quiet();
    const char *expected;
    config_init(&config);
    FUZZ_MUST(config_set(&config, CONFIG_MOUNT, "/mnt", &expected) == 0);
    FUZZ_MUST(config_set(&config, CONFIG_DATA, "/data", &expected) == 0);
    open_node();
    open_server();
    atexit(close_all);
    return 0;
}

static bool jobs_run(void)
{
    bool running = false;
    mutex_lock(&server->mutex);
    for (size_t i = 0; i < ADMIN_JOBS_MAX; i++)
        running = running || server->jobs[i].running;
    mutex_unlock(&server->mutex);
    return running;
}

/* Runs the server until nothing happens any more. */
static void run_until_idle(void)
{
    struct pollfd fds[] = {
        {.fd = MHD_get_daemon_info(server->server, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd,
         .events = POLLIN},
        {.fd = server->wake_fd, .events = POLLIN}};
    eventfd_t count;
    MHD_UNSIGNED_LONG_LONG left;
    bool busy;
    do {
        bool jobs = jobs_run();
        bool due = MHD_get_timeout(server->server, &left) == MHD_YES && left == 0;
        busy = poll(fds, 2, jobs && !due ? 100 : 0) > 0 || jobs || due;
        if (fds[1].revents)
            (void)eventfd_read(server->wake_fd, &count);
        run_server(server);
    } while (busy);
}

/* What is there to be read; the first `room` bytes of it are kept. */
static size_t receive(int fd, char *out, size_t room, size_t got)
{
    static char rest[65536];
    for (;;) {
        ssize_t n = recv(fd, got < room ? out + got : rest, got < room ? room - got : sizeof rest,
                         MSG_DONTWAIT);
        if (n <= 0)
            return got < room ? got : room;
        got += (size_t)n;
        if (got > room)
            got = room;
        run_until_idle(); /* there is room for more */
    }
}

static size_t talk(const uint8_t *data, size_t size, char *out, size_t room)
{
    struct sockaddr name = {.sa_family = AF_UNIX};
    int fds[2];
    FUZZ_MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0);
    FUZZ_MUST(MHD_add_connection(server->server, fds[1], &name, sizeof name) == MHD_YES);
    size_t got = 0;
    for (size_t sent = 0; sent < size;) {
        ssize_t n = send(fds[0], data + sent, size - sent, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN)
            break; /* it has seen enough */
        sent += n < 0 ? 0 : (size_t)n;
        run_until_idle();
        got = receive(fds[0], out, room, got);
    }
    close(fds[0]);
    run_until_idle();
    FUZZ_MUST(connections(server) == 0 && !jobs_run());
    return got;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char reply[4096];
    size_t n = talk(data, size, reply, sizeof reply);
    FUZZ_MUST(n == 0 || (n > 12 && memcmp(reply, "HTTP/1.", 7) == 0));
    return 0;
}
