#!/bin/sh
echo static > /srv/file
exec erl -noshell -eval '
    inets:start(),
    {ok, _} = inets:start(httpd, [{port, 8080}, {server_name, "programs"}, {server_root, "/tmp"},
                                  {document_root, "/srv"}, {bind_address, any}]),
    io:format("ready~n").'
