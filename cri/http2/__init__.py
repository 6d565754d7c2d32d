"""As much of HTTP/2 (RFC 9113), HPACK (RFC 7541) and gRPC's wire format as a relay needs.

The relay passes frames on as they are, so this is neither a client nor a server of HTTP/2:
it splits frames, follows header compression, and builds the few frames of its own.
"""
