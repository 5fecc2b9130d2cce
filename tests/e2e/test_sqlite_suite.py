# SPDX-License-Identifier: Apache-2.0
"""A fixed tenth of SQLite's own test suite, on the mount of a primary that has a replica.

tests/sqlite/suite runs all of it.
"""
from lib import sqlsuite
from lib.case import figure, need, test

LIMIT = 1200


def clean(result):
    print(result)
    need(result.errors == 0 and result.tests > 0, "errors in SQLite's tests on the mount:\n%s", result)
    return result.tests


@test(sqlite=True, limit=LIMIT)
def a_tenth_of_sqlites_tests_passes_on_the_mount(scratch):
    with sqlsuite.Suite(scratch) as suite:
        tests = 0
        for name in sqlsuite.TENTH:
            tests += clean(suite.tcl(name + ".test", limit=300))
            suite.compare()
        need(tests > 25000, "only %d tests ran", tests)
        looks = suite.finish()
        need(looks > 0, "the reader on the replica has not looked once")
        figure("%d tests of SQLite's, 0 errors; %d looks at the replica", tests, looks)


@test(sqlite=True, limit=LIMIT, each=("WAL", "DELETE"))
def sqlites_tests_with_several_processes_pass_on_the_mount(scratch, mode):
    with sqlsuite.Suite(scratch) as suite:
        for script in ("multiwrite01.test", "crash01.test"):
            clean(suite.mptester(script, mode))
            suite.compare()
        suite.finish()


@test(sqlite=True, limit=LIMIT)
def sqlites_tests_with_several_threads_pass_on_the_mount(scratch):
    with sqlsuite.Suite(scratch) as suite:
        for pattern in ("walthread5", "cgt_pager_1", "create_drop_index_1", "vacuum1"):
            clean(suite.threadtest3(pattern))
            suite.compare()
        suite.finish()
