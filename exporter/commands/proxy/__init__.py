"""A proxy in front of a model server that records what passes; it needs the extra ``proxy``, not the server's."""
