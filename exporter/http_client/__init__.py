"""HTTP requests to other servers, with credentials and errors for people, and Prometheus' API."""
