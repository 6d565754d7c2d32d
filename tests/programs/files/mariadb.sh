#!/bin/sh
set -e
mkdir -p /data /run/mysqld && chown mysql /data /run/mysqld
[ -d /data/mysql ] || mariadb-install-db --user=mysql --datadir=/data --skip-test-db > /dev/null
exec mariadbd --user=mysql --datadir=/data --innodb-buffer-pool-size=64M
