#!/bin/sh
# PHP behind nginx, over a unix socket, with its opcode cache in shared memory.
cat > /tmp/fpm.conf <<'C'
[global]
daemonize = no
error_log = /dev/stderr
[www]
user = www-data
group = www-data
listen = /run/fpm.sock
listen.owner = www-data
pm = static
pm.max_children = 3
C
cat > /tmp/nginx.conf <<'C'
daemon off;
user www-data;
worker_processes 1;
error_log /dev/stderr;
pid /run/nginx.pid;
events { worker_connections 64; }
http {
    access_log off;
    server {
        listen 8080;
        location / {
            fastcgi_pass unix:/run/fpm.sock;
            fastcgi_param SCRIPT_FILENAME /programs/count.php;
            fastcgi_param REQUEST_METHOD GET;
        }
    }
}
C
mkdir -p /data && chown www-data /data
$(echo /usr/sbin/php-fpm*) -F -y /tmp/fpm.conf -d opcache.enable=1 $PHP_OPTIONS &
fpm=$!
until [ -S /run/fpm.sock ]; do sleep 0.1; done
nginx -c /tmp/nginx.conf &
nginx=$!
trap 'kill $nginx $fpm; wait $nginx; wait $fpm; exit 3' TERM
wait $fpm
