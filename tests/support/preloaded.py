"""What the server of `support.processes` imports before it forks, and where compiled templates are kept.

Each process would otherwise import the application of the pages and the driver of its database, and compile templates.
"""

# ruff: noqa: F401

from __future__ import annotations

import gc

import flask
import jinja2
import PIL.Image
import psycopg
import sqlalchemy.dialects.postgresql.psycopg

import exporter.cli
import exporter.commands.analysis
import exporter.commands.consume
import exporter.commands.database
import exporter.commands.dataset
import exporter.commands.proxy
import exporter.commands.serve
import exporter.server.application
import exporter.server.flask_app
import exporter.server.serve
import support.processes
from support.paths import ROOT

_TEMPLATES = ROOT / ".venv" / ".bytecode" / "templates"
_TEMPLATES.mkdir(parents=True, exist_ok=True)
flask.Flask.jinja_options = {"bytecode_cache": jinja2.FileSystemBytecodeCache(str(_TEMPLATES))}
gc.freeze()  # or a collection in a child writes to, and so copies, what it shares with the others
