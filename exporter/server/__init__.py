"""The HTTP side: Flask for what people ask, a fast door for what services and Prometheus do."""
