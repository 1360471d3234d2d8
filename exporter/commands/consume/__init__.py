"""The command ``consume``: predictions, feedback and labels from the topics of a Kafka cluster to an exporter."""
