<?php
$file = fopen('/data/count', 'c+');
flock($file, LOCK_EX);
$count = 1 + (int) stream_get_contents($file);
rewind($file);
fwrite($file, (string) $count);
$cached = function_exists('opcache_get_status') && opcache_get_status(false)['opcache_enabled'];
echo json_encode(['count' => $count, 'cached' => $cached]);
