"""The complete stack on this machine: exporter, Prometheus, Alertmanager, the demo and Grafana as one command.

=============  ===================================================================
`install`      find Prometheus and Alertmanager, or install Debian's packages
`plan`         the folder ``run/`` and the command line of each program
`receivers`    Alertmanager's configuration with the receivers that work here
`process`      one program as a child process: start, readiness, end
`pidfile`      the file that locks the folder and lists the processes
`status`       the state of the stack, as Prometheus and Alertmanager report it
`display`      the state as one screen, or as a line for each change
`command`      ``model-exporter up``: start, supervise, stop
=============  ===================================================================
"""
