#!/bin/sh
# PostgreSQL as its own user, with a session over loopback that holds a temporary table.
set -e
as="setpriv --reuid postgres --regid postgres --clear-groups env HOME=/tmp"
PATH=$PATH:$(echo /usr/lib/postgresql/*/bin)
mkdir -p /data && chown postgres /data
[ -e /data/PG_VERSION ] || $as initdb -D /data -A trust --no-sync > /dev/null
$as postgres -D /data -c listen_addresses='*' -c unix_socket_directories=/tmp \
    -c shared_buffers=32MB -c dynamic_shared_memory_type=posix $POSTGRES_OPTIONS &
server=$!
until psql -h 127.0.0.1 -U postgres -c 'select 1' > /dev/null 2>&1; do sleep 0.2; done
psql -h 127.0.0.1 -U postgres -qc 'create table if not exists t (n int)'
{
    echo 'create temporary table held as select 42 as n;'
    until [ -e /tmp/ask ]; do sleep 0.1; done
    echo "select 'held ' || n from held;"
    while :; do sleep 1; done
} | psql -h 127.0.0.1 -U postgres -qtA > /tmp/held 2>&1 &
trap 'kill -INT $server; wait $server; exit $?' TERM
echo ready
wait $server
