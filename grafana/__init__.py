"""Dashboards as code: ``python -m grafana`` writes ``grafana/dashboards/``, with ``--output`` the files of a release.

=========================  =====================================================================
`style`                    colours, units, texts and the small parts of a panel
`panels`                   the types of panels, and what they share
`bars`                     types of panels with bars or cells
`queries`                  expressions that several panels share, and variables in them
`layout`                   the parts around the panels: variables, annotations, links
`cells`                    numbers as texts in the colour of their state
`alerts`                   the table of alerts
`alert_timeline`           the alerts of a layer over time
`model_fleet`              all models, the worst first, and all alerts
`model_overview`           one model: three layers, each value against its threshold and a day ago
`model_system`             requests, errors, latency, the machine
`model_data`               features by drift score, and their correlations
`model_data_summary`       in the dashboard of `model_data`: what drifted, and since when
`model_data_feature`       in the dashboard of `model_data`: one feature in detail
`model_business`           attempts, corrections and the next training set
`model_business_segments`  in the dashboard of `model_business`: segments and business events
`confidence_histogram`     in the dashboard of `model_business`: confidences and their threshold
`model_quality`            accuracy and errors, measured and estimated
`model_release`            two versions, or two periods, side by side
`model_exporter`           the exporter itself
`managed_rules`            the rules for a Grafana that evaluates them itself
`last_run`                 rules that keep the metrics of the last batch
=========================  =====================================================================

The module of a dashboard is named after its uid. Each panel is a function named after it; its title and
description say what it shows. Panel ids are explicit and never change, because links contain them.
"""
