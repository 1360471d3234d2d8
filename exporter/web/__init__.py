"""The HTTP side: Flask for what people and operators ask, a fast door for what services send."""

from exporter.web.app import create_app

__all__ = ["create_app"]
