/* SPDX-License-Identifier: Apache-2.0 */
/* Signals and the command, with real processes. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "ltx/base/err.h"
#include "tools/datadir.h"
#include "tools/notify.h"
#include "tools/port.h"
#include "tools/supervisor.h"

#define LIMIT_MS 10000

/* Runs a shell script whose output goes to a pipe, and gives the pipe's reading end. */
static int run_script(struct supervisor *s, const char *script)
{
    int fds[2], saved = dup(STDOUT_FILENO);
    char why[256];
    char *argv[] = {"sh", "-c", (char *)script, NULL};
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    dup2(fds[1], STDOUT_FILENO);
    int err = supervisor_run(s, argv, why, sizeof why);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    close(fds[1]);
    assert_int_equal(err, 0);
    return fds[0];
}

static void expect_output(int fd, const char *want)
{
    char text[64] = "";
    size_t n = 0;
    while (n < strlen(want)) {
        ssize_t got = read(fd, text + n, sizeof text - 1 - n);
        assert_true(got > 0);
        n += (size_t)got;
    }
    assert_string_equal(text, want);
}

static void a_command_gives_the_exit_status(void **state)
{
    static const struct {
        const char *script;
        int status;
    } cases[] = {{"exit 0", 0}, {"exit 7", 7}, {"kill -KILL $$", 128 + SIGKILL}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct supervisor s;
        assert_int_equal(supervisor_start(&s), 0);
        close(run_script(&s, cases[i].script));
        assert_int_equal(supervisor_wait(&s, LIMIT_MS), SUPERVISOR_CHILD);
        assert_int_equal(supervisor_exit_status(&s), cases[i].status);
        supervisor_stop(&s);
    }
}

static void signals_are_passed_on_and_the_command_decides(void **state)
{
    static const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2};
    static const char *const names[] = {"TERM", "INT", "HUP", "USR1", "USR2"};
    (void)state;
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        struct supervisor s;
        char script[128];
        assert_int_equal(supervisor_start(&s), 0);
        snprintf(script, sizeof script,
                 "trap 'echo got %s; exit 5' %s; echo up; while :; do sleep 0.01; done", names[i],
                 names[i]);
        int fd = run_script(&s, script);
        expect_output(fd, "up\n");
        assert_int_equal(supervisor_wait(&s, 0), SUPERVISOR_NOTHING);
        kill(getpid(), signals[i]);
        assert_int_equal(supervisor_wait(&s, LIMIT_MS), SUPERVISOR_CHILD);
        assert_int_equal(supervisor_exit_status(&s), 5);
        snprintf(script, sizeof script, "got %s\n", names[i]);
        expect_output(fd, script);
        close(fd);
        supervisor_stop(&s);
    }
}

static void without_a_command_a_signal_asks_for_the_end(void **state)
{
    static const int stops[] = {SIGTERM, SIGINT, SIGHUP};
    (void)state;
    for (size_t i = 0; i < sizeof stops / sizeof stops[0]; i++) {
        struct supervisor s;
        assert_int_equal(supervisor_start(&s), 0);
        kill(getpid(), SIGUSR1);
        kill(getpid(), SIGUSR2);
        assert_int_equal(supervisor_wait(&s, 50), SUPERVISOR_NOTHING);
        kill(getpid(), stops[i]);
        assert_int_equal(supervisor_wait(&s, LIMIT_MS), SUPERVISOR_STOP);
        assert_int_equal(s.stop_signal, stops[i]);
        supervisor_stop(&s);
    }
}

static void a_second_signal_ends_at_once(void **state)
{
    int status;
    (void)state;
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct supervisor s;
        if (supervisor_start(&s) != 0)
            _exit(99);
        kill(getpid(), SIGTERM);
        if (supervisor_wait(&s, LIMIT_MS) != SUPERVISOR_STOP)
            _exit(98);
        kill(getpid(), SIGINT);
        sleep(LIMIT_MS / 1000); /* an end that hangs */
        _exit(97);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 128 + SIGINT);
}

static void a_command_that_does_not_end_is_killed(void **state)
{
    struct supervisor s;
    (void)state;
    assert_int_equal(supervisor_start(&s), 0);
    int fd = run_script(&s, "trap '' TERM; echo up; while :; do sleep 0.01; done");
    expect_output(fd, "up\n");
    supervisor_end_child(&s, 100);
    assert_int_equal(supervisor_exit_status(&s), 128 + SIGKILL);
    close(fd);
    supervisor_stop(&s);
}

static void a_command_that_is_not_there_is_named(void **state)
{
    struct supervisor s;
    char why[256] = "";
    char *argv[] = {"/no/such/command", NULL};
    (void)state;
    assert_int_equal(supervisor_start(&s), 0);
    assert_int_equal(supervisor_run(&s, argv, why, sizeof why), -ERR_NOTFOUND);
    assert_non_null(strstr(why, "/no/such/command"));
    assert_int_equal(supervisor_wait(&s, 0), SUPERVISOR_NOTHING);
    supervisor_stop(&s);
}

/* Whether the process still runs, by asking for a while. */
static bool is_gone(pid_t pid)
{
    for (int ms = 0; ms < LIMIT_MS; ms += 10) {
        char path[32], state = 0;
        snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
        FILE *f = fopen(path, "r");
        if (!f)
            return true;
        if (fscanf(f, "%*d %*s %c", &state) != 1)
            state = 'Z';
        fclose(f);
        if (state == 'Z')
            return true; /* whoever inherited it has not looked yet */
        usleep(10000);
    }
    return false;
}

static void the_guard_ends_with_its_daemon_however_that_ends(void **state)
{
    (void)state;
    for (int killed = 0; killed < 2; killed++) {
        int fds[2], status;
        pid_t guard;
        assert_int_equal(pipe(fds), 0);
        fflush(NULL);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            struct supervisor s;
            if (supervisor_start(&s) != 0 ||
                write(fds[1], &s.guard.pid, sizeof s.guard.pid) != sizeof s.guard.pid)
                _exit(99);
            if (killed)
                raise(SIGKILL);
            supervisor_stop(&s);
            _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(read(fds[0], &guard, sizeof guard), sizeof guard);
        assert_true(guard > 0);
        assert_true(is_gone(guard));
        close(fds[0]);
        close(fds[1]);
    }
}

/* The reading end of a pipe tells whether its writing end is still open anywhere. */
static void the_guard_lets_go_of_the_connection(void **state)
{
    (void)state;
    for (int unmounted = 0; unmounted < 2; unmounted++) {
        struct supervisor s;
        int fds[2];
        assert_int_equal(supervisor_start(&s), 0);
        assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
        struct pollfd p = {.fd = fds[0]};
        supervisor_mounted(&s, "/", fds[1]);
        close(fds[1]);
        assert_int_equal(poll(&p, 1, 50), 0);
        if (unmounted) {
            supervisor_mounted(&s, "", -1);
            assert_int_equal(poll(&p, 1, 0), 1);
        }
        supervisor_stop(&s);
        assert_int_equal(poll(&p, 1, 0), 1);
        close(fds[0]);
    }
}

static void the_first_fatal_sentence_is_kept(void **state)
{
    struct supervisor s;
    (void)state;
    assert_int_equal(supervisor_start(&s), 0);
    supervisor_set_fatal(&s, "first");
    supervisor_set_fatal(&s, "second");
    assert_int_equal(supervisor_wait(&s, LIMIT_MS), SUPERVISOR_FATAL);
    assert_string_equal(supervisor_why(&s), "first");
    supervisor_stop(&s);
}

static void a_data_folder_is_used_by_one_daemon(void **state)
{
    char folder[] = "/tmp/test-datadir-XXXXXX", path[64], why[512] = "", pid[16];
    struct datadir one, two;
    struct stat st;
    (void)state;
    mode_t mask = umask(022);
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/sub/data", folder);
    assert_int_equal(datadir_open(&one, path, why, sizeof why), 0);
    assert_int_equal(fstat(one.fd, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    /* The top folder of the mount. */
    assert_int_equal(fstat(one.tree_fd, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0755);
    assert_int_equal(fstat(one.tmp_fd, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_int_equal(fchmod(one.tree_fd, 0711), 0);
    /* A lock belongs to the open file, so a second open in this process is refused too. */
    assert_int_equal(datadir_open(&two, path, why, sizeof why), -ERR_BUSY);
    snprintf(pid, sizeof pid, " %d:", (int)getpid());
    assert_non_null(strstr(why, pid));
    assert_non_null(strstr(why, path));
    datadir_close(&one);
    assert_int_equal(mkdirat(AT_FDCWD, strcat(path, "/stranger"), 0700), 0);
    *strrchr(path, '/') = '\0';
    assert_int_equal(datadir_open(&two, path, why, sizeof why), 0);
    assert_int_equal(two.foreign, 1);
    assert_int_equal(fstat(two.tree_fd, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0711); /* as its owner has made it */
    datadir_close(&two);
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", folder);
    assert_int_equal(system(command), 0);
    umask(mask);
}

static void a_taken_port_is_told_before_anything_is_begun(void **state)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t n = sizeof a;
    char url[64], why[512] = "";
    (void)state;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, n), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
    snprintf(url, sizeof url, "tcp://127.0.0.1:%u", ntohs(a.sin_port));
    assert_true(port_check(url, why, sizeof why) < 0);
    assert_non_null(strstr(why, url));
    close(fd);
    assert_int_equal(port_check(url, why, sizeof why), 0);
    assert_int_equal(port_check("tcp://no.such.host.invalid:1", why, sizeof why), -ERR_INVALID);
}

static void a_service_manager_is_told(void **state)
{
    char folder[] = "/tmp/test-notify-XXXXXX", text[64] = "";
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(a.sun_path, sizeof a.sun_path, "%s/s", folder);
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    setenv("NOTIFY_SOCKET", a.sun_path, 1);
    notify_ready();
    unsetenv("NOTIFY_SOCKET");
    assert_int_equal(recv(fd, text, sizeof text - 1, MSG_DONTWAIT), 7);
    assert_string_equal(text, "READY=1");
    close(fd);
    unlink(a.sun_path);
    rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_command_gives_the_exit_status),
        cmocka_unit_test(signals_are_passed_on_and_the_command_decides),
        cmocka_unit_test(without_a_command_a_signal_asks_for_the_end),
        cmocka_unit_test(a_second_signal_ends_at_once),
        cmocka_unit_test(a_command_that_does_not_end_is_killed),
        cmocka_unit_test(a_command_that_is_not_there_is_named),
        cmocka_unit_test(the_guard_ends_with_its_daemon_however_that_ends),
        cmocka_unit_test(the_guard_lets_go_of_the_connection),
        cmocka_unit_test(the_first_fatal_sentence_is_kept),
        cmocka_unit_test(a_data_folder_is_used_by_one_daemon),
        cmocka_unit_test(a_taken_port_is_told_before_anything_is_begun),
        cmocka_unit_test(a_service_manager_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
