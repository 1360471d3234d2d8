"""Dashboards as code: ``python -m grafana`` writes ``grafana/dashboards/`` and ``deploy/kubernetes/``.

=============  =====================================================================
`style`        colours, units, words and the small parts of a panel
`panels`       the kinds of panels, and what all of them have
`queries`      expressions that several panels share, and how variables go into them
`frame`        what each dashboard has around its panels: variables, annotations, links
`overview`     one screen: three layers, each value against its threshold and a day ago
`system`       requests, errors, latency, the machine
`data`         features by their score, and how they go together
`feature`      one feature in detail
`business`     from attempt to correction to the next training set
`release`      two versions, or two periods, side by side
`health`       the exporter itself
`kubernetes`   the same files as ConfigMaps and a PrometheusRule
=============  =====================================================================

Each panel is a function by the panel's name; its title and description say what it shows. Panel ids are
written down and stay, for links to panels.
"""
