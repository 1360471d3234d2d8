"""A real model service on real data, its users and its incidents.

The data are the 1,797 handwritten digits of scikit-learn. One part trains a classifier; the users send the other.

=============  =============================================================================
`model`        the data, the classifier, and the files made from them
`incidents`    what can go wrong in the service
`service`      the model service, a process of its own, with the versions that it serves
`traffic`      its users: images at a steady rate, and corrections of wrong digits
`scenario`     phases with and without incidents, announced line by line
`retraining`   corrections become a release, over HTTP, and a release the next version
`run`          ``python -m demo run``: service, users and scenario
`receivers`    Alertmanager's configuration with the receivers that work here
`processes`    programs as child processes, and the file that locks the folder and lists them
`status`       the state of the stack as Prometheus and Alertmanager report it, in lines
`up`           ``python -m demo up``: the complete stack on this machine
=============  =============================================================================

The service and its users import nothing of the exporter's server: they send events over HTTP, through
`exporter.client`, as any other service does.
"""
