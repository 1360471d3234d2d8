"""A server of HTTP/1.1 on httptools and uvloop: what the exporter's own and the proxy have in common."""
