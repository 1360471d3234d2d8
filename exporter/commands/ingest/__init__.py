"""The command ``ingest``: the rows of a batch job, counted in this process or sent to an exporter."""
