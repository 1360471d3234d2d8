"""A real model service on real data, its users and its incidents.

The data are the 1,797 handwritten digits that ship with scikit-learn. One part trains a
classifier; the other is what users send.

=============  =====================================================================
`model`        the data, the classifier, and the files made from them
`incidents`    what can go wrong in the service
`versions`     the versions that the service runs side by side
`service`      the model service, a process of its own: ``POST /predict``
`traffic`      its users: images at a steady rate, and corrections of wrong digits
`story`        phases in which things go wrong and come right, told line by line
`flywheel`     corrections become a release, over HTTP
`retrain`      a release becomes the next version
`command`      ``model-exporter demo``
=============  =====================================================================

Nothing here reaches into the exporter: the service and its users speak to it over HTTP, through
`exporter.client`, as any other service does.
"""
