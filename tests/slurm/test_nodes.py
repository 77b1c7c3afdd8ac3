"""Rows over two nodes of a real Slurm: an agent, evidence, a key release and a signed exit on each; one training."""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tests.native_modules  # noqa: F401  (pytest runs in this process)
from pytest_glasshouse.channel.job_init import remove_left_behind
from pytest_glasshouse.check.authenticity import Trust, unproven_signatures
from pytest_glasshouse.invariants.judging import judge
from pytest_glasshouse.rows.spec import RowSpec
from tests.ranks.trained_raw import trained_raw
from tests.slurm.site import Site
from tests.slurm.test_rows import whole


@pytest.fixture(name="over_two")
def a_site_of_two_nodes(site: Site) -> Site:
    site.gpus, site.nodes = 2, 2
    return site


def _not_held(observation: Any, change: Callable[[Any], object] = lambda _round: None) -> dict[str, tuple[str, str]]:
    changed = copy.deepcopy(observation)
    change(changed["rounds"][0])
    return {found.invariant: (found.finding, found.reason) for found in judge(changed) if found.finding != "held"}


def test_a_row_over_two_nodes_is_one_job_and_what_one_node_shows_counts_for_itself_only(over_two: Site) -> None:
    """Each change leaves evidence that is whole, signed and true, of one node in the other's place, or of no node."""
    ran = over_two.run()
    whole(ran, over_two)
    (row,) = ran.report["rows"]
    assert (row["gpus"], row["nodes"], len(row["scaling"]["protectedCollectiveSec"])) == (2, 2, 2)
    (observed,) = row["observation"]["rounds"]
    (other,) = observed["nodes"]
    released = [part["protected"]["challenge"]["nonce"] for part in (observed, other)]
    assert len(set(released)) == 2
    assert observed["protected"]["manifest"] == other["protected"]["manifest"]

    def first_for_both(part: Any) -> None:
        part["nodes"] = [{name: copy.deepcopy(value) for name, value in part.items() if name != "nodes"}]

    def first_raw_for_both(part: Any) -> None:
        part["nodes"][0].update(raw=copy.deepcopy(part["raw"]), guest=copy.deepcopy(part["guest"]))

    twice = _not_held(row["observation"], first_for_both)
    assert {name: state for name, (state, _) in twice.items()} == {
        "attestation verified": "broken", "same allocation": "broken",
    }  # fmt: skip
    assert _not_held(row["observation"], first_raw_for_both)["same allocation"][0] == "broken"
    none = _not_held(row["observation"], lambda part: part.pop("nodes"))
    assert none["attestation verified"] == ("unseen", "rank 1: the protected leg did not run")
    assert {"runtime zeroized", "memory scanned clean", "work witnessed", "same work", "raw callback completed"} <= none.keys()
    other_adapter = _not_held(row["observation"], lambda part: part["nodes"][0]["raw"].update(adapterSha256="0" * 64))
    assert other_adapter["both adapters trained"][0] == "broken"
    unended = _not_held(row["observation"], lambda part: part["nodes"][0]["protected"].pop("exit"))
    assert unended["runtime zeroized"] == ("unseen", "rank 1: protected.exit was not observed")
    keys = ran.report["keys"]
    trust = Trust(keys=frozenset({keys["report"], *keys["servers"], *keys["owners"]}))
    document: Any = ran.report
    assert [*unproven_signatures(document, trust)] == []
    other["protected"]["exit"] = observed["protected"]["exit"]
    assert any(
        ".nodes[0]: the exit is not the one the server signed for" in each for each in unproven_signatures(document, trust)
    )


@pytest.mark.torch
@pytest.mark.skipif(not os.environ.get("SOAK"), reason="a row over two nodes with torch takes a minute and more")
def test_adapter_over_two_nodes_equals_that_of_the_same_ranks_trained_raw(over_two: Site, tmp_path: Path) -> None:
    """Bit for bit, over gloo on the interface that Slurm names, and the raw leg first."""
    over_two.torch, over_two.order, over_two.work = True, "raw-first", "steps=2, warmup_s=0.0"
    ran = over_two.ended(over_two.spawn("--glasshouse-seed=7"))
    whole(ran, over_two)
    row = RowSpec(name="row0", workload="mlp", gpu="h100", gpus=2, nodes=2, order="raw-first", steps=2, warmup_s=0.0)
    protected = ran.report["rows"][0]["observation"]["rounds"][0]["protected"]
    assert trained_raw(row, protected["trainingPlan"]["order_seed"], tmp_path) == {protected["adapterSha256"]}


def test_a_node_that_dies_ends_the_row_as_infrastructure(over_two: Site) -> None:
    """The other node's part is over with it: the job is, and trying again is safe. A dead node removes no files; its next job does."""
    over_two.seconds = (60.0,)

    def lose_a_node() -> None:
        if over_two.until_training():
            over_two.slurm.stop_node("n2")

    ran = over_two.run(meanwhile=lose_a_node)
    over_two.slurm.start_node("n2")
    assert (ran.code, ran.outcomes) == (14, ["infrastructure"]), ran.output
    assert "NODE_FAIL (its node failed" in ran.reasons[0]
    assert ran.report["cleanup"]["status"] == "proven"
    assert "2 keys of this run released without proof of deletion" in ran.output
    (name,) = over_two.slurm.names()
    remove_left_behind(tempfile.gettempdir(), name, time.time() + 86_400)
