"""Options and client, shared by the commands that send requests to a running exporter."""

from __future__ import annotations

import argparse

import urllib3

from exporter.commands.common import add_credentials, authorization
from exporter.http_client.client import WHEN_BUSY, Client

DEFAULT_URL = "http://127.0.0.1:9877"


def add_exporter_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name an exporter, and hold the credentials for it."""
    text = "URL of the exporter (%(default)s)"
    parser.add_argument("--exporter", "--url", default=DEFAULT_URL, metavar="URL", help=text)
    add_credentials(parser, "MODEL_EXPORTER")


def exporter_client(
    options: argparse.Namespace,
    timeout: float,
    *,
    downloads: bool = False,
    retries: urllib3.Retry = WHEN_BUSY,
    user_in_url: bool = False,
) -> Client:
    """Return a client of the exporter in ``--exporter``, with the credentials in the options of `add_credentials`.

    Parameters
    ----------
    options
        The options.
    timeout, downloads, retries, user_in_url
        See `Client`.
    """
    return Client(
        options.exporter,
        "--exporter",
        authorization=lambda: authorization(options),
        ca_file=options.ca_file,
        timeout=timeout,
        downloads=downloads,
        retries=retries,
        user_in_url=user_in_url,
    )
