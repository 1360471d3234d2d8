"""Dashboards as code: ``python -m grafana`` writes ``grafana/dashboards/``, with ``--output`` the files of a release.

==================  ============================================================================
`panels`            the types of panels, their colours, units and texts
`layout`            what dashboards share: expressions, variables, alerts, annotations, links
`model_fleet`       all models, the worst first, and all alerts
`model_overview`    one model: three layers, each value against its threshold and a day ago
`model_system`      requests, errors, latency, the machine
`model_data`        features by drift score, and one feature in detail
`model_business`    attempts, corrections and the next training set
`model_quality`     accuracy and errors, measured and estimated
`model_release`     two versions, or two periods, side by side
`model_exporter`    the exporter itself
`rules`             the rules for a Grafana that evaluates them itself, and those for batches
==================  ============================================================================

The module of a dashboard is named after its uid. Each panel is a function named after it, whose docstring is
its description. Panel ids are explicit and never change, because links contain them.
"""
