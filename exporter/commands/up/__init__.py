"""The whole stack on one machine: exporter, Prometheus, Alertmanager, the demo and Grafana as one command.

=============  ===================================================================
`install`      find Prometheus and Alertmanager, or install Debian's packages
`plan`         the folder ``run/`` and the command line of each program
`process`      one program as a child: start, readiness, end
`state`        the file that locks the folder and names the processes
`snapshot`     what the servers say at this moment
`screen`       the snapshot as one screen, or as lines where something changed
`command`      ``model-exporter up``: start, supervise, stop
=============  ===================================================================
"""
