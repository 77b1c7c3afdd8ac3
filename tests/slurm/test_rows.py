"""Rows on a real Slurm, from pytest's command line to the report and the empty queue."""

from __future__ import annotations

import tests.native_modules  # noqa: F401  (pytest runs in this process)
from pytest_glasshouse.check.check import check_file
from tests.slurm.site import Site


def test_a_row_in_a_job_is_carried_out_whole(site: Site) -> None:
    ran = site.run()
    assert ran.code == 0, ran.output
    (row,) = ran.report["rows"]
    assert (row["provider"], row["gpuModel"], row["simulated"], row["dryRun"]) == ("slurm", "simulated (CPU)", True, True)
    assert {finding["finding"] for finding in row["findings"]} == {"held"}
    assert ran.report["cleanup"]["status"] == "proven"
    assert check_file(site.folder / "reports" / "report.json").faults == ()
