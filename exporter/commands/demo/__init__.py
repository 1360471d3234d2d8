"""A real model service on real data, its users and its incidents.

The data are the 1,797 handwritten digits of scikit-learn. One part trains a classifier; the users send the other.

=============  =====================================================================
`model`        the data, the classifier, and the files made from them
`incidents`    what can go wrong in the service
`versions`     the versions that the service serves side by side
`service`      the model service, a process of its own: ``POST /predict``
`traffic`      its users: images at a steady rate, and corrections of wrong digits
`scenario`     phases with and without incidents, announced line by line
`flywheel`     corrections become a release, over HTTP
`retrain`      a release becomes the next version
`command`      ``model-exporter demo``
=============  =====================================================================

Nothing here imports the exporter's server: the service and its users send events over HTTP, through
`exporter.client`, as any other service does.
"""
