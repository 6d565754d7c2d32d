"""Programs that keep data: Redis, PostgreSQL, memcached, SQLite."""

from __future__ import annotations

from typing import Any

from tests.programs.case import EVERYWHERE, RUNTIME_DEFAULT, Case, equal, file
from tests.programs.live import Live

# -- Redis -------------------------------------------------------------------------------------

_INFO = "redis-cli info persistence | tr -d '\\r' | grep -E"
_SAVING = f"{_INFO} '^rdb_(bgsave_in_progress|last_bgsave_status)'"
_LOG = f"{_INFO} '^aof_(rewrite_in_progress:0|last_bgrewrite_status:ok|last_write_status:ok)'"


def _redis_warm(live: Live) -> None:
    live.sh("redis-cli eval \"for i=1,150 do redis.call('set','k'..i,i) end\" 0")
    # 150 keys at 100 ms: the child that saves them is there when the snapshot is taken.
    live.sh("redis-cli config set rdb-key-save-delay 100000; redis-cli bgsave")


def _redis(live: Live) -> Any:
    blocked = "redis-cli info clients | grep ^blocked"
    return live.sh(f"redis-cli incr n; redis-cli dbsize; redis-cli get k77; {blocked}")


def _redis_after(live: Live) -> None:
    status = "rdb_last_bgsave_status:ok"
    equal("bgsave", live.sh(_SAVING).split(), ["rdb_bgsave_in_progress:1", status])
    live.sh("redis-cli rpush queue hello")
    live.wait("blocked client", lambda: "hello" in live.sh("cat /tmp/popped"), timeout=5)
    done = ["rdb_bgsave_in_progress:0", status]
    live.wait("end of the save", lambda: live.sh(_SAVING).split() == done)
    live.sh("redis-cli config set rdb-key-save-delay 0; redis-cli bgrewriteaof")
    live.wait("rewritten AOF", lambda: len(live.sh(_LOG).split()) == 3, timeout=20)
    live.sh("redis-check-aof /data/appendonlydir/*.manifest")


# -- PostgreSQL --------------------------------------------------------------------------------

_PSQL = "psql -h 127.0.0.1 -U postgres -qtA -v ON_ERROR_STOP=1"
_PARALLEL = (
    "set max_parallel_workers_per_gather = 2; set parallel_setup_cost = 0; "
    "set min_parallel_table_scan_size = 0"
)


def _sql(live: Live, *statements: str) -> str:
    return live.sh(" ".join([_PSQL, *(f'-c "{one}"' for one in statements)]))


def _postgres(live: Live) -> Any:
    return _sql(live, "insert into t select count(*) from t", "select count(*), sum(n) from t")


def _postgres_warm(live: Live) -> None:
    rows = "select i, md5(i::text) as m from generate_series(1, 20000) i"
    _sql(live, f"create table big as {rows}", "create index on big (m)")


def _postgres_after(live: Live) -> None:
    live.sh("touch /tmp/ask")
    live.wait("old session", lambda: live.sh("cat /tmp/held") == "held 42", timeout=5)
    equal("index", _sql(live, "select i from big where m = md5('4711')"), "4711")
    # Parallel workers take dynamic shared memory.
    equal("parallel", _sql(live, _PARALLEL, "select count(distinct m) from big"), "20000")
    _sql(live, "checkpoint", "vacuum")


# -- others ------------------------------------------------------------------------------------


def _memcached(live: Live) -> Any:
    return live.sh(f"python3 {file('cache_client.py')} ask")


CASES = (
    Case(
        name="redis",
        command=["sh", "-c", f"mkdir -p /data; exec sh {file('redis.sh')}"],
        ready=lambda live: live.sh("redis-cli info clients | grep blocked_clients:1"),
        warm=_redis_warm,
        ask=_redis,
        after=_redis_after,
    ),
    Case(
        name="postgresql",
        command=["sh", file("postgres.sh")],
        ready=lambda live: "ready" in live.running.log(),
        warm=_postgres_warm,
        ask=_postgres,
        after=_postgres_after,
        users=True,
    ),
    Case(
        name="memcached",
        command=["memcached", "-u", "memcache", "-l", EVERYWHERE],
        ready=_memcached,
        warm=lambda live: live.sh(f"python3 {file('cache_client.py')} set"),
        ask=_memcached,
        users=True,
    ),
    Case(name="sqlite-layer", command=["python3", file("wal.py"), "/root/data.db"], end=3),
    Case(
        name="sqlite-emptydir",
        command=["python3", file("wal.py"), "/volume/data.db"],
        end=3,
        cold="a file that was open at the capture is missing: /volume/data.db",
    ),
    Case(
        name="mariadb",
        command=["sh", file("mariadb.sh")],
        security=RUNTIME_DEFAULT,
        ready=lambda live: live.sh(
            "mariadb -e 'create database if not exists test; "
            "create table if not exists test.t (n int); select 1'"
        ),
        ask=lambda live: live.sh(
            "mariadb -N test -e 'insert into t select count(*) from t; select count(*) from t'"
        ),
        users=True,
    ),
)
