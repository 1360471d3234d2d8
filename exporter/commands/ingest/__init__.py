"""The command ``ingest``: the rows of a batch job, to an exporter that runs or counted here."""
