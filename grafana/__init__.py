"""Dashboards as code: ``python -m grafana`` writes ``grafana/dashboards/`` and ``deploy/kubernetes/``.

=============  =====================================================================
`style`        colours, units, texts and the small parts of a panel
`panels`       the types of panels, and what they share
`queries`      expressions that several panels share, and variables in them
`frame`        the parts around the panels: variables, annotations, links
`overview`     one screen: three layers, each value against its threshold and a day ago
`system`       requests, errors, latency, the machine
`data`         features by drift score, and their correlations
`feature`      one feature in detail
`business`     attempts, corrections and the next training set
`release`      two versions, or two periods, side by side
`health`       the exporter itself
`kubernetes`   the rules as a PrometheusRule
=============  =====================================================================

Each panel is a function named after it; its title and description say what it shows. Panel ids are
explicit and never change, because links contain them.
"""
