"""A retry plugin, for a project's conftest.py."""

from __future__ import annotations

#: A retry plugin that reports only the last attempt.
RETRIES = """
from _pytest.runner import runtestprotocol

def pytest_runtest_protocol(item, nextitem):
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for left in (2, 1, 0):
        item._initrequest()
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        if not left or not any(each.failed for each in reports):
            break
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
"""
