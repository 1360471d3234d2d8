"""The command ``model-exporter dataset``: releases, exports, and annotations to import."""
