"""Imported where tests run pytest in this process: pytester takes away again what such a run imported first.

Native modules cannot be loaded twice in one process, and what was imported here is imported once for all of these runs.
"""

from __future__ import annotations

import jsonschema  # noqa: F401
import numpy as np  # noqa: F401
import scipy.optimize
import scipy.special  # noqa: F401

import pytest_glasshouse.broker.broker
import pytest_glasshouse.invariants
import pytest_glasshouse.plugin.xdist
import pytest_glasshouse.publish.writer
import pytest_glasshouse.report.document
import pytest_glasshouse.rows.published
import pytest_glasshouse.run.engine
import pytest_glasshouse.tamper.suite
import pytest_glasshouse.wire.tokens  # noqa: F401
