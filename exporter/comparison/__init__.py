"""Two versions of a model side by side, or two periods of one, and which differences are proven.

============  ==================================================================
`counts`      the counters of a version in a period
`measures`    measures of two sets of counts, with intervals and verdicts
`methods`     how they are estimated: for one look at a chosen moment, or for any looks
`decision`    whether the new version may be rolled out
`versions`    which versions are compared
`prometheus`  counts of all replicas, from Prometheus
`report`      a comparison as sentences and as JSON
============  ==================================================================
"""
