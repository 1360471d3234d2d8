"""Connections, requests and responses: the limits around uvicorn, sockets, thread pools, and errors."""
