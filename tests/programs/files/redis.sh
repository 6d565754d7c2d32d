#!/bin/sh
# Redis with a blocked client over loopback; its own file system holds the data.
redis-server --bind 0.0.0.0 --protected-mode no --appendonly yes --dir /data --save "" &
server=$!
until redis-cli ping; do sleep 0.1; done > /dev/null 2>&1
(redis-cli blpop queue 0 > /tmp/popped) &
trap 'kill $server; wait $server; exit $?' TERM
wait $server
