/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "ltx/base/err.h"
#include "tools/config.h"

static char why[CONFIG_WHY_MAX];

static int read_text(struct config *c, const char *text)
{
    config_init(c);
    return config_read_text(c, "t.yml", text, strlen(text), why, sizeof why);
}

/* Reading the text fails with exactly this sentence. */
static void expect_fault(const char *text, const char *sentence)
{
    struct config c;
    int err = read_text(&c, text);
    config_fini(&c);
    if (err != -ERR_INVALID || strcmp(why, sentence) != 0)
        print_error("%s--- gave %d: %s\n--- want: %s\n", text, err, why, sentence);
    assert_int_equal(err, -ERR_INVALID);
    assert_string_equal(why, sentence);
}

static void every_key_is_read(void **state)
{
    struct config c;
    (void)state;
    assert_int_equal(read_text(&c, "mount: /mnt/db\n"
                                   "data: \"/var/lib/t d\"\n"
                                   "listen: tcp://10.0.0.1:4600\n"
                                   "advertise: tcp://db1.example:4600\n"
                                   "http: http://127.0.0.1:9000/\n"
                                   "lease:\n"
                                   "  type: static\n"
                                   "  primary: yes\n"
                                   "  candidate: false\n"
                                   "peers:\n"
                                   "  - tcp://10.0.0.2:4600\n"
                                   "  - tcp://[::1]:4600\n"
                                   "retention: {age: 7d, size: 10GB}\n"
                                   "scrub: {interval: 12h, rate: 2MB}\n"
                                   "log:\n"
                                   "  format: json\n"
                                   "  level: warn\n"
                                   "exec: app --port 80 'two words' a\\ b\n"
                                   "replica-writes: wait\n"
                                   "allow-other: true\n"),
                     0);
    assert_string_equal(c.mount, "/mnt/db");
    assert_string_equal(c.data, "/var/lib/t d");
    assert_string_equal(c.listen, "tcp://10.0.0.1:4600");
    assert_string_equal(c.advertise, "tcp://db1.example:4600");
    assert_string_equal(c.http, "127.0.0.1:9000");
    assert_true(c.primary && c.primary_given);
    assert_false(c.candidate);
    assert_int_equal(c.peer_count, 2);
    assert_string_equal(c.peers[0], "tcp://10.0.0.2:4600");
    assert_string_equal(c.peers[1], "tcp://[::1]:4600");
    assert_int_equal(c.retention_age_ms, INT64_C(7) * 24 * 3600 * 1000);
    assert_int_equal(c.retention_size_bytes, INT64_C(10) * 1000 * 1000 * 1000);
    assert_int_equal(c.scrub_interval_ms, 12 * 3600 * 1000);
    assert_int_equal(c.scrub_rate_bytes, 2000000);
    assert_true(c.log_json);
    assert_int_equal(c.log_level, LOGGER_WARN);
    assert_int_equal(c.exec_count, 5);
    assert_string_equal(c.exec[3], "two words");
    assert_string_equal(c.exec[4], "a b");
    assert_null(c.exec[5]);
    assert_int_equal(c.replica_writes, REPLICA_WRITES_WAIT);
    assert_true(c.allow_other);
    config_fini(&c);
}

static void an_empty_file_leaves_the_defaults(void **state)
{
    static const char *const texts[] = {"", "\n\n", "# nothing here\n", "---\n", "{}\n"};
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct config c;
        assert_int_equal(read_text(&c, texts[i]), 0);
        assert_null(c.mount);
        assert_null(c.data);
        assert_string_equal(c.listen, "tcp://127.0.0.1:20210");
        assert_string_equal(c.http, "127.0.0.1:20211");
        assert_null(c.advertise);
        assert_true(c.candidate);
        assert_false(c.primary_given);
        assert_int_equal(c.retention_age_ms, 24 * 3600 * 1000);
        assert_int_equal(c.retention_size_bytes, 0);
        assert_int_equal(c.scrub_interval_ms, 24 * 3600 * 1000);
        assert_int_equal(c.scrub_rate_bytes, 16000000);
        assert_false(c.log_json);
        assert_int_equal(c.log_level, LOGGER_INFO);
        assert_null(c.exec);
        assert_int_equal(c.replica_writes, REPLICA_WRITES_REFUSE);
        assert_false(c.allow_other);
        config_fini(&c);
    }
}

static void an_unknown_key_is_named_with_its_line_and_what_was_meant(void **state)
{
    (void)state;
    expect_fault("mount: /x\nmuont: /y\n",
                 "t.yml:2: unknown key \"muont\"; did you mean \"mount\"?");
    expect_fault("# one\n\nreplica_writes: wait\n",
                 "t.yml:3: unknown key \"replica_writes\"; did you mean \"replica-writes\"?");
    expect_fault("log:\n  format: text\n  levle: info\n",
                 "t.yml:3: unknown key \"log.levle\"; did you mean \"level\"?");
    expect_fault("lease:\n  nothing-like-it: 1\n",
                 "t.yml:2: unknown key \"lease.nothing-like-it\", expected one of: type, primary, "
                 "candidate");
    expect_fault("zzzzzzzzzz: 1\n",
                 "t.yml:1: unknown key \"zzzzzzzzzz\", expected one of: mount, data, listen, "
                 "advertise, http, lease, peers, retention, scrub, log, exec, replica-writes, "
                 "allow-other");
}

static void a_bad_value_is_refused_with_what_was_expected(void **state)
{
    static const struct {
        const char *text, *sentence;
    } cases[] = {
        {"mount:\n", "t.yml:1: mount: found nothing, expected a path"},
        {"\ndata: [a, b]\n", "t.yml:2: data: found a list, expected a path"},
        {"listen: nonsense\n",
         "t.yml:1: listen: found \"nonsense\", expected tcp://HOST:PORT or none"},
        {"listen: ipc:///run/t.sock\n",
         "t.yml:1: listen: found \"ipc:///run/t.sock\", expected tcp://HOST:PORT or none"},
        {"advertise: ipc:///run/t.sock\n", "t.yml:1: advertise: found \"ipc:///run/t.sock\", "
                                           "expected tcp://HOST:PORT, as other nodes "
                                           "reach this one"},
        {"peers: [ipc:///run/t.sock]\n", "t.yml:1: peers: found \"ipc:///run/t.sock\", expected "
                                         "tcp://HOST:PORT (at most 64 peers)"},
        {"listen: tcp://host\n",
         "t.yml:1: listen: found \"tcp://host\", expected tcp://HOST:PORT or none"},
        {"listen: tcp://host:70000\n",
         "t.yml:1: listen: found \"tcp://host:70000\", expected tcp://HOST:PORT or none"},
        {"advertise: tcp://0.0.0.0:1\n",
         "t.yml:1: advertise: found \"tcp://0.0.0.0:1\", expected tcp://HOST:PORT, as other "
         "nodes reach this one"},
        {"http: :80\n", "t.yml:1: http: found \":80\", expected HOST:PORT"},
        {"http: 127.0.0.1\n", "t.yml:1: http: found \"127.0.0.1\", expected HOST:PORT"},
        {"lease:\n  type: magic\n", "t.yml:2: type: found \"magic\", expected static"},
        {"lease:\n  primary: maybe\n", "t.yml:2: primary: found \"maybe\", expected true or false"},
        {"lease: static\n",
         "t.yml:1: lease: found a single value, expected keys below it, such as \"type:\""},
        {"lease:\n  candidate: 2\n", "t.yml:2: candidate: found \"2\", expected true or false"},
        {"peers: tcp://a:1\n",
         "t.yml:1: peers: found a single value, expected a list of URLs (- tcp://HOST:PORT)"},
        {"peers:\n  - tcp://a:1\n  - b\n",
         "t.yml:3: peers: found \"b\", expected tcp://HOST:PORT (at most 64 peers)"},
        {"retention:\n  age: 7\n", "t.yml:2: age: found \"7\", expected a time such as 45s, 30m, "
                                   "24h, 7d, or 0 for no limit"},
        {"retention:\n  age: -7d\n", "t.yml:2: age: found \"-7d\", expected a time such as 45s, "
                                     "30m, 24h, 7d, or 0 for no limit"},
        {"retention:\n  age: 99999999999999999999d\n",
         "t.yml:2: age: found \"99999999999999999999d\", expected a time such as 45s, 30m, 24h, "
         "7d, or 0 for no limit"},
        {"retention:\n  size: 10 apples\n",
         "t.yml:2: size: found \"10 apples\", expected a size such as 512MB, 10GB, 1GiB, or 0 for "
         "no limit"},
        {"log:\n  format: xml\n", "t.yml:2: format: found \"xml\", expected text or json"},
        {"log:\n  level: loud\n",
         "t.yml:2: level: found \"loud\", expected debug, info, warn or error"},
        {"exec: \"  \"\n", "t.yml:1: exec: found \"  \", expected a command with its arguments"},
        {"exec: \"a 'b\"\n",
         "t.yml:1: exec: found \"a 'b\", expected a command with its arguments"},
        {"exec: []\n",
         "t.yml:1: exec: found an empty list, expected a command, or a list of its words"},
        {"replica-writes: maybe\n",
         "t.yml:1: replica-writes: found \"maybe\", expected refuse or wait"},
        {"allow-other: perhaps\n",
         "t.yml:1: allow-other: found \"perhaps\", expected true or false"},
        {"mount: /a\ndata: /b\nmount: /c\n", "t.yml:3: mount: stands here for the second time"},
        {"- mount\n", "t.yml:1: found a list, expected keys, such as \"mount:\""},
        {"[a, b]: c\n", "t.yml:1: found a list, expected a key"},
        {"mount: /a\n---\nmount: /b\n",
         "t.yml:3: found a second document, expected the end of the file"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        expect_fault(cases[i].text, cases[i].sentence);
}

static void what_is_not_yaml_is_refused_with_its_line(void **state)
{
    static const char *const texts[] = {"mount: [a, b\n", "mount: /a\n\tdata: /b\n", "a: b: c\n",
                                        "mount: \"/a\n", "&a [*b]\n"};
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct config c;
        unsigned line = 0;
        assert_int_equal(read_text(&c, texts[i]), -ERR_INVALID);
        assert_int_equal(sscanf(why, "t.yml:%u: this is not YAML: ", &line), 1);
        assert_in_range(line, 1, 3);
        config_fini(&c);
    }
}

static void the_environment_is_expanded(void **state)
{
    struct config c;
    (void)state;
    setenv("TEST_WHERE", "/some where", 1);
    setenv("TEST_PORT", "4711", 1);
    unsetenv("TEST_NOT_SET");
    assert_int_equal(read_text(&c, "mount: ${TEST_WHERE}/mnt\n"
                                   "data: a$b/$${x}/$$\n"
                                   "http: 127.0.0.1:${TEST_PORT}\n"
                                   "exec: [run, \"${TEST_WHERE}\"]\n"),
                     0);
    assert_string_equal(c.mount, "/some where/mnt");
    assert_string_equal(c.data, "a$b/${x}/$$");
    assert_string_equal(c.http, "127.0.0.1:4711");
    assert_int_equal(c.exec_count, 2);
    assert_string_equal(c.exec[1], "/some where"); /* one word, whatever is in it */
    config_fini(&c);
    expect_fault("mount: /x\ndata: ${TEST_NOT_SET}\n",
                 "t.yml:2: data: the environment variable TEST_NOT_SET is not set");
    expect_fault("mount: ${TEST_WHERE\n", "t.yml:1: mount: found \"${TEST_WHERE\", expected "
                                          "${NAME} (write $${ for a plain ${)");
    expect_fault("mount: ${}\n",
                 "t.yml:1: mount: found \"${}\", expected ${NAME} (write $${ for a plain ${)");
}

/* A variable that is named often and a word that is repeated by an alias. */
static void a_small_file_cannot_make_a_large_command(void **state)
{
    (void)state;
    char *hundred_kb = calloc(1, 100001);
    char text[512] = "exec: [&w \"${TEST_LONG}\"";
    memset(hundred_kb, 'x', 100000);
    setenv("TEST_LONG", hundred_kb, 1);
    for (int i = 0; i < 12; i++)
        strcat(text, ", *w");
    strcat(text, "]\n");
    expect_fault(text, "t.yml:1: exec: the command is longer than 1048576 bytes");
    strcpy(text, "mount: /");
    for (int i = 0; i < 12; i++)
        strcat(text, "${TEST_LONG}");
    expect_fault(text, "t.yml:1: mount: the value is longer than 1048576 bytes");
    unsetenv("TEST_LONG");
    free(hundred_kb);
}

static void lists_are_replaced_and_not_added_to(void **state)
{
    struct config c;
    (void)state;
    assert_int_equal(read_text(&c, "peers: [\"tcp://a:1\", \"tcp://b:2\"]\nexec: one two\n"), 0);
    const char *more = "peers: [\"tcp://c:3\"]\nexec: [three]\n";
    assert_int_equal(config_read_text(&c, "u.yml", more, strlen(more), why, sizeof why), 0);
    assert_int_equal(c.peer_count, 1);
    assert_string_equal(c.peers[0], "tcp://c:3");
    assert_int_equal(c.exec_count, 1);
    assert_string_equal(c.exec[0], "three");
    config_fini(&c);
}

static void sizes_and_times_have_units(void **state)
{
    static const struct {
        enum config_key key;
        const char *text;
        int64_t want;
    } cases[] = {
        {CONFIG_RETENTION_AGE, "0", 0},
        {CONFIG_RETENTION_AGE, "500ms", 500},
        {CONFIG_RETENTION_AGE, "45s", 45000},
        {CONFIG_RETENTION_AGE, "30m", 1800000},
        {CONFIG_RETENTION_AGE, "24h", 86400000},
        {CONFIG_RETENTION_AGE, "2w", INT64_C(14) * 86400000},
        {CONFIG_RETENTION_SIZE, "0", 0},
        {CONFIG_RETENTION_SIZE, "4096", 4096},
        {CONFIG_RETENTION_SIZE, "512MB", 512000000},
        {CONFIG_RETENTION_SIZE, "1 GiB", 1 << 30},
        {CONFIG_RETENTION_SIZE, "2tb", INT64_C(2000000000000)},
    };
    struct config c;
    const char *expected;
    (void)state;
    config_init(&c);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(config_set(&c, cases[i].key, cases[i].text, &expected), 0);
        int64_t got =
            cases[i].key == CONFIG_RETENTION_AGE ? c.retention_age_ms : c.retention_size_bytes;
        assert_int_equal(got, cases[i].want);
    }
    assert_int_equal(config_set(&c, CONFIG_RETENTION_SIZE, "9999999999TB", &expected),
                     -ERR_INVALID);
    assert_int_equal(config_set(&c, CONFIG_RETENTION_SIZE, "", &expected), -ERR_INVALID);
    config_fini(&c);
    assert_int_equal(read_text(&c, "scrub: 0\n"), 0); /* short for its interval */
    assert_int_equal(c.scrub_interval_ms, 0);
    config_fini(&c);
    assert_int_equal(read_text(&c, "retention: 3h\n"), 0); /* short for its age */
    assert_int_equal(c.retention_age_ms, 3 * 3600 * 1000);
    config_fini(&c);
}

/* A configuration that passes, but for what a test changes. */
static int check(const char *mount, const char *data, const char *more)
{
    struct config c;
    char text[1024];
    snprintf(text, sizeof text, "mount: %s\ndata: %s\n%s", mount, data, more);
    assert_int_equal(read_text(&c, text), 0);
    int err = config_check(&c, why, sizeof why);
    config_fini(&c);
    return err;
}

static void mount_and_data_are_apart(void **state)
{
    (void)state;
    assert_int_equal(check("/nope/a", "/nope/b", ""), 0);
    assert_int_equal(check("/nope/a", "/nope/ab", ""), 0);
    assert_int_equal(check("/nope/a", "/nope/a/", ""), -ERR_INVALID);
    assert_non_null(strstr(why, "same folder"));
    assert_int_equal(check("/nope/a", "/nope/a/b/c", ""), -ERR_INVALID);
    assert_non_null(strstr(why, "data (/nope/a/b/c) lies inside mount (/nope/a)"));
    assert_int_equal(check("/nope/d/e", "/nope/d", ""), -ERR_INVALID);
    assert_non_null(strstr(why, "mount (/nope/d/e) lies inside data (/nope/d)"));
    assert_int_equal(check("/", "/nope", ""), -ERR_INVALID);
    assert_int_equal(check("/nope/../a", "/b", ""), -ERR_NOTFOUND);
}

static void paths_become_absolute_and_links_are_followed(void **state)
{
    char folder[] = "/tmp/test-config-XXXXXX", link[64], want[128];
    struct config c;
    (void)state;
    int before = open(".", O_RDONLY | O_DIRECTORY);
    assert_true(before >= 0);
    assert_non_null(mkdtemp(folder));
    assert_int_equal(chdir(folder), 0);
    assert_int_equal(mkdir("real", 0700), 0);
    assert_int_equal(symlink("real", "link"), 0);
    snprintf(link, sizeof link, "%s/link", folder);
    assert_int_equal(read_text(&c, "mount: there/is/nothing\ndata: link/below\n"), 0);
    assert_int_equal(config_check(&c, why, sizeof why), 0);
    snprintf(want, sizeof want, "%s/there/is/nothing", folder);
    assert_string_equal(c.mount, want);
    snprintf(want, sizeof want, "%s/real/below", folder);
    assert_string_equal(c.data, want);
    config_fini(&c);
    /* The same folder by two names. */
    assert_int_equal(check(link, "real", ""), -ERR_INVALID);
    assert_non_null(strstr(why, "same folder"));
    assert_int_equal(unlink("link"), 0);
    assert_int_equal(rmdir("real"), 0);
    assert_int_equal(fchdir(before), 0);
    close(before);
    assert_int_equal(rmdir(folder), 0);
}

static void what_is_needed_and_missing_is_named(void **state)
{
    struct config c;
    (void)state;
    config_init(&c);
    assert_int_equal(config_check(&c, why, sizeof why), -ERR_INVALID);
    assert_string_equal(why,
                        "mount is not set: give --mount DIR, or \"mount:\" in a file with -c FILE");
    config_fini(&c);
    assert_int_equal(read_text(&c, "mount: /nope/m\n"), 0);
    assert_int_equal(config_check(&c, why, sizeof why), -ERR_INVALID);
    assert_string_equal(why,
                        "data is not set: give --data DIR, or \"data:\" in a file with -c FILE");
    config_fini(&c);
}

static void addresses_fit_together(void **state)
{
    (void)state;
    assert_int_equal(check("/nope/m", "/nope/d", "listen: tcp://0.0.0.0:1\n"), -ERR_INVALID);
    assert_non_null(strstr(why, "advertise"));
    assert_int_equal(check("/nope/m", "/nope/d", "listen: tcp://*:1\nadvertise: tcp://host:1\n"),
                     0);
    assert_int_equal(check("/nope/m", "/nope/d", "listen: none\n"), 0);
    assert_int_equal(check("/nope/m", "/nope/d", "listen: none\nadvertise: tcp://host:1\n"),
                     -ERR_INVALID);
    assert_int_equal(check("/nope/m", "/nope/d", "http: 127.0.0.1:20210\n"), -ERR_INVALID);
    assert_non_null(strstr(why, "same port"));
}

static void a_node_without_peers_is_the_primary(void **state)
{
    static const struct {
        const char *more;
        bool ok, primary;
    } cases[] = {
        {"", true, true},
        {"peers: [\"tcp://a:1\"]\n", true, false},
        {"peers: [\"tcp://a:1\"]\nlease: {primary: true}\n", true, true},
        {"lease: {primary: true}\n", true, true},
        {"lease: {primary: false}\n", false, false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct config c;
        char text[256];
        snprintf(text, sizeof text, "mount: /nope/m\ndata: /nope/d\n%s", cases[i].more);
        assert_int_equal(read_text(&c, text), 0);
        assert_int_equal(config_check(&c, why, sizeof why) == 0, cases[i].ok);
        assert_int_equal(c.primary, cases[i].primary);
        config_fini(&c);
    }
}

static void a_file_is_read_and_a_missing_or_endless_one_is_refused(void **state)
{
    char path[] = "/tmp/test-config-XXXXXX";
    struct config c;
    (void)state;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "mount: /a\n", 10), 10);
    config_init(&c);
    assert_int_equal(config_read_file(&c, path, why, sizeof why), 0);
    assert_string_equal(c.mount, "/a");
    assert_int_equal(ftruncate(fd, CONFIG_FILE_MAX + 1), 0);
    assert_int_equal(config_read_file(&c, path, why, sizeof why), -ERR_LIMIT);
    assert_non_null(strstr(why, path));
    close(fd);
    unlink(path);
    assert_int_equal(config_read_file(&c, path, why, sizeof why), -ERR_NOTFOUND);
    assert_non_null(strstr(why, path));
    config_fini(&c);
}

static void the_example_in_docs_is_read(void **state)
{
    struct config c;
    (void)state;
    config_init(&c);
    if (access("docs/tandemfs.yml", R_OK) != 0) {
        print_message("not run from the top folder: docs/tandemfs.yml is not here\n");
        skip();
    }
    assert_int_equal(config_read_file(&c, "docs/tandemfs.yml", why, sizeof why), 0);
    assert_int_equal(config_check(&c, why, sizeof why), 0);
    assert_string_equal(c.mount, "/mnt/db");
    assert_true(c.primary);
    config_fini(&c);
}

static void no_more_peers_than_there_can_be_members(void **state)
{
    struct config c;
    const char *expected;
    (void)state;
    config_init(&c);
    for (int i = 0; i < CONFIG_PEERS_MAX; i++)
        assert_int_equal(config_set(&c, CONFIG_PEER, "tcp://a:1", &expected), 0);
    assert_int_equal(config_set(&c, CONFIG_PEER, "tcp://a:1", &expected), -ERR_INVALID);
    config_fini(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_key_is_read),
        cmocka_unit_test(an_empty_file_leaves_the_defaults),
        cmocka_unit_test(an_unknown_key_is_named_with_its_line_and_what_was_meant),
        cmocka_unit_test(a_bad_value_is_refused_with_what_was_expected),
        cmocka_unit_test(what_is_not_yaml_is_refused_with_its_line),
        cmocka_unit_test(the_environment_is_expanded),
        cmocka_unit_test(a_small_file_cannot_make_a_large_command),
        cmocka_unit_test(lists_are_replaced_and_not_added_to),
        cmocka_unit_test(sizes_and_times_have_units),
        cmocka_unit_test(mount_and_data_are_apart),
        cmocka_unit_test(paths_become_absolute_and_links_are_followed),
        cmocka_unit_test(what_is_needed_and_missing_is_named),
        cmocka_unit_test(addresses_fit_together),
        cmocka_unit_test(a_node_without_peers_is_the_primary),
        cmocka_unit_test(a_file_is_read_and_a_missing_or_endless_one_is_refused),
        cmocka_unit_test(the_example_in_docs_is_read),
        cmocka_unit_test(no_more_peers_than_there_can_be_members),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
