"""Two versions of a model side by side, or two periods of one, read from Prometheus.

==========  ==================================================================
`api`       Prometheus' HTTP API: instant queries
`counts`    what happened to a version in a period: counters, whole and exact
`measures`  the counts compared, with intervals and verdicts
`words`     as sentences, as a table, as JSON
`command`   ``model-exporter compare``
==========  ==================================================================
"""
