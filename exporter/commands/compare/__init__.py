"""Two versions of a model side by side, or two periods of one, read from Prometheus.

============  ==================================================================
`counts`      the counters of a version in a period, as exact whole numbers
`metrics`     metrics of two sets of counts, with intervals and verdicts
`report`      a comparison as sentences, as a table, as JSON
`command`     ``model-exporter compare``
============  ==================================================================
"""
