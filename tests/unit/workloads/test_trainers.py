"""What every workload promises a leg, on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.guest.device_memory import TorchMemory
from pytest_glasshouse.guest.ring import copy_material_to_device
from pytest_glasshouse.observation.trained import WorkloadFacts
from pytest_glasshouse.wire.canonical import canonical
from pytest_glasshouse.wire.tensors import parse_safetensors, tensor_digest
from pytest_glasshouse.wire.typed import check_typed
from pytest_glasshouse.workloads.base import DeviceName, Material, NonFiniteLossError, Trainer
from pytest_glasshouse.workloads.registry import open_trainer
from pytest_glasshouse.workloads.resident import Resident
from tests.limits import HANG_S

pytestmark = pytest.mark.torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    Tensors = dict[str, np.ndarray[Any, Any]]
    Mapped = Callable[[Mapping[str, bytes]], dict[str, memoryview]]

WORKLOADS = ("mlp", "lora")
#: The second one where torch has it.
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


class Bench:
    """One workload's material, and trainers opened on copies of it."""

    def __init__(self, name: str, material: Material, base_dir: Path | None, mapped: Mapped) -> None:
        self.name, self.material, self.base_dir, self._mapped = name, material, base_dir, mapped

    def trainer(self, device: DeviceName = "cpu", **changed_parts: bytes) -> Trainer:
        return self.on(self._mapped({**self.material.parts, **changed_parts}), device)

    def mapped_parts(self) -> dict[str, memoryview]:
        return self._mapped(self.material.parts)

    def on(self, views: Mapping[str, memoryview], device: DeviceName = "cpu") -> Trainer:
        return open_trainer(self.name, views, base_dir=self.base_dir, device=device)


@pytest.fixture(params=WORKLOADS)
def bench(request: pytest.FixtureRequest, mlp_material: Material, mapped: Mapped) -> Bench:
    if request.param == "mlp":
        return Bench("mlp", mlp_material, None, mapped)
    return Bench("lora", request.getfixturevalue("lora_material"), request.getfixturevalue("lora_base"), mapped)


def test_initial_digest_is_that_of_the_part(bench: Bench) -> None:
    """*Weights loaded from the package* is judged by this digest, so it comes from the model's own tensors."""
    trainer = bench.trainer()
    assert trainer.initial_sha256() == bench.material.initial_sha256 == tensor_digest(bench.material.parts["initial"])


def test_initial_digest_follows_what_was_really_loaded(bench: Bench) -> None:
    other = {name: tensor + np.float32(0.5) for name, tensor in load(bench.material.parts["initial"]).items()}
    assert bench.trainer(initial=save(other)).initial_sha256() == tensor_digest(save(other)) != bench.material.initial_sha256


def test_a_repetition_of_the_prologue_leaves_the_training_where_it_was(bench: Bench) -> None:
    """Legs are asked for it at drawn moments: what is trained after it must be what would have been trained without it."""
    asked, undisturbed = bench.trainer(), bench.trainer()
    losses = asked.prologue(3)
    for trainer in (asked, undisturbed):
        trainer.reset(5)
        trainer.step()
        trainer.step()
    before = asked.check(), asked.sample_sha256(), asked.batches(), [bytes(row) for row in asked.last_batch()]
    assert asked.repeat_prologue(3) == losses
    assert before == (asked.check(), asked.sample_sha256(), asked.batches(), [bytes(row) for row in asked.last_batch()])
    for trainer in (asked, undisturbed):
        trainer.step()
        trainer.step()
    assert asked.check() == undisturbed.check()
    assert asked.export() == undisturbed.export()
    assert asked.batches() == undisturbed.batches()


def test_batches_are_counted_where_they_are_used(bench: Bench) -> None:
    trainer = bench.trainer()
    trainer.prologue(2)
    in_prologue = trainer.batches()
    trainer.reset(5)
    assert trainer.batches() == {}
    for _ in range(3):
        trainer.step()
    kind, each = {"mlp": ("256x32 float32 float32 float32", 4), "lora": ("1x64 int64 float32 bfloat16", 1)}[bench.name]
    assert (in_prologue, trainer.batches()) == ({kind: 2 * each}, {kind: 3 * each})


OTHER_PROCESS = """
import json, sys
from pathlib import Path
from pytest_glasshouse.workloads.registry import open_trainer
losses = {}
for folder, base in (("mlp", None), ("lora", Path(sys.argv[1]))):
    views = {path.name: memoryview(bytearray(path.read_bytes())) for path in Path(folder).iterdir()}
    losses[folder] = open_trainer(folder, views, base_dir=base, device="cpu").prologue()
print(json.dumps(losses))
"""


@pytest.fixture(scope="module")
def losses_elsewhere(
    mlp_material: Material, lora_material: Material, lora_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[str]]:
    """Each workload's prologue in another process: one for both, because the libraries take most of its time."""
    place = tmp_path_factory.mktemp("elsewhere")
    for workload, material in (("mlp", mlp_material), ("lora", lora_material)):
        (place / workload).mkdir()
        for name, content in material.parts.items():
            (place / workload / name).write_bytes(content)
    command = [sys.executable, "-c", OTHER_PROCESS, str(lora_base)]
    done = subprocess.run(command, cwd=place, check=True, capture_output=True, text=True, timeout=HANG_S)
    losses: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return losses


def test_prologue_is_bit_equal_in_another_process(bench: Bench, losses_elsewhere: dict[str, list[str]]) -> None:
    """*Same work* compares the two legs' losses for equality, and the legs are two processes."""
    losses = bench.trainer().prologue()
    assert losses == losses_elsewhere[bench.name]
    assert len(losses) == 32
    assert losses != losses[:1] * 32


def test_prologue_is_the_same_after_training(bench: Bench) -> None:
    trainer = bench.trainer()
    first = trainer.prologue(4)
    trainer.reset(5)
    trainer.step()
    assert trainer.prologue(4) == first


def test_reset_restores_the_initial_weights_bit_for_bit(bench: Bench) -> None:
    trainer = bench.trainer()
    trainer.prologue(3)
    assert tensor_digest(trainer.export()) != trainer.initial_sha256()
    trainer.reset(1)
    assert tensor_digest(trainer.export()) == trainer.initial_sha256()


def test_reset_empties_the_optimizer(bench: Bench) -> None:
    """Momentum carried over from the prologue would make the two legs start from different states."""
    fresh, used = bench.trainer(), bench.trainer()
    used.prologue(3)
    for trainer in (fresh, used):
        trainer.reset(9)
        trainer.step()
    assert tensor_digest(fresh.export()) == tensor_digest(used.export())


def test_other_order_seeds_give_other_adapters(bench: Bench) -> None:
    digests = []
    for order_seed in (1, 2, 1):
        trainer = bench.trainer()
        trainer.reset(order_seed)
        for _ in range(3):
            trainer.step()
        digests.append(tensor_digest(trainer.export()))
    assert digests[0] == digests[2] != digests[1]


def test_export_has_the_initial_names_dtypes_and_shapes(bench: Bench) -> None:
    """The digests of two adapters are comparable with each other and with the initial one."""

    def kinds(buffer: bytes) -> dict[str, tuple[str, tuple[int, ...]]]:
        return {name: (entry.dtype, entry.shape) for name, entry in parse_safetensors(buffer).items()}

    assert kinds(bench.trainer().export()) == kinds(bench.material.parts["initial"])


def test_no_tensor_refers_to_the_parts_after_close(mapped: Mapped, bench: Bench) -> None:
    """The arena is wiped and unmapped next; a view left over would read zeros or crash the leg."""
    views = mapped(bench.material.parts)
    trainer = bench.on(views)
    trainer.prologue(2)
    trainer.close()
    for view in views.values():
        memory: Any = view.obj
        view.release()
        memory.close()  # raises BufferError while anything looks in
        assert memory.closed


def test_training_leaves_the_parts_as_they_were(mapped: Mapped, bench: Bench) -> None:
    views = mapped(bench.material.parts)
    trainer = bench.on(views)
    trainer.prologue(2)
    assert {name: bytes(view) for name, view in views.items()} == dict(bench.material.parts)
    trainer.close()


def test_parts_that_are_not_its_own_are_ignored_by_a_trainer(bench: Bench) -> None:
    assert bench.trainer(canary=b"\x00" * 32).initial_sha256() == bench.material.initial_sha256


def test_facts_say_what_ran(bench: Bench) -> None:
    facts = check_typed(bench.trainer().facts(), WorkloadFacts, "facts")
    assert (facts["device"], facts["threads"], facts["peakMemorySource"]) == ("cpu", 1, "ru_maxrss")
    assert (facts["peakMemoryBytes"] or 0) > 10_000_000
    assert 0 < facts["trainableParameters"] <= facts["totalParameters"]


def ruined(material: Material) -> bytes:
    tensors = load(material.parts["initial"])
    name = min(tensors)
    return save({**tensors, name: np.full_like(tensors[name], np.nan)})


def test_poisoned_weights_give_a_non_finite_loss(bench: Bench) -> None:
    trainer = bench.trainer(initial=ruined(bench.material))
    with pytest.raises(NonFiniteLossError):
        trainer.prologue(2)


@pytest.mark.parametrize("part", ["config", "initial"])
def test_missing_part_is_named(mapped: Mapped, bench: Bench, part: str) -> None:
    views = {name: view for name, view in mapped(bench.material.parts).items() if name != part}
    with pytest.raises(IntegrityError, match=f"expected a part '{part}'"):
        bench.on(views)


def one_fewer(tensors: Tensors) -> Tensors:
    return dict(sorted(tensors.items())[1:])


def one_more(tensors: Tensors) -> Tensors:
    return {**tensors, "stray": np.ones(3, dtype=np.float32)}


def one_wider(tensors: Tensors) -> Tensors:
    name = min(tensors)
    return {**tensors, name: np.concatenate([tensors[name]] * 2)}


@pytest.mark.parametrize("change", [one_fewer, one_more, one_wider])
def test_initial_weights_that_do_not_fit_are_refused(bench: Bench, change: Callable[[Tensors], Tensors]) -> None:
    """Weights that were silently not loaded would be trained from somewhere else."""
    with pytest.raises(IntegrityError, match="initial"):
        bench.trainer(initial=save(change(dict(load(bench.material.parts["initial"])))))


def test_parts_of_another_workload_are_refused(bench: Bench) -> None:
    with pytest.raises(IntegrityError, match=f"expected workload {bench.name}"):
        bench.trainer(config=canonical({"workload": "other"}))


def test_a_config_that_lacks_a_member_is_refused_by_its_name(bench: Bench) -> None:
    with pytest.raises(IntegrityError, match=r"config\.unit: expected a value, saw none"):
        bench.trainer(config=canonical({"workload": bench.name}))


def test_unknown_workload_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="expected mlp or lora"):
        open_trainer("cnn", {}, device="cpu")


def test_last_batch_is_what_was_trained_on_last_and_lies_in_the_parts(bench: Bench) -> None:
    """The memory scan looks for it, so it must be the batch itself and not one like it."""
    views = bench.mapped_parts()
    trainer: Any = bench.on(views)
    assert trainer.last_batch() == []
    trainer.reset(3)
    trainer.step()
    first = [bytes(row) for row in trainer.last_batch()]
    if bench.name == "mlp":
        assert [trainer._batch_features.numpy().tobytes()] == [b"".join(first)]
    else:
        assert first == [trainer._tokens[trainer._last].numpy().tobytes()]
    whole = views["data" if bench.name == "mlp" else "tokens"]
    rows = trainer.last_batch()
    whole[:] = bytes(len(whole))
    assert all(bytes(row) == bytes(len(row)) for row in rows)
    trainer.step()
    assert len(trainer.last_batch()) == len(first)


@pytest.mark.parametrize("device", DEVICES)
def test_parts_on_a_device_train_alike_and_are_zeroed(bench: Bench, device: DeviceName) -> None:
    """On a GPU the parts come through the ring and lie nowhere on the host; the CPU stands in for it where there is none."""
    memory = TorchMemory(device)
    parts = copy_material_to_device(bench.mapped_parts(), memory)
    places = [part.octets for part in parts.values() if isinstance(part, Resident)]
    resident: Any = open_trainer(bench.name, parts, base_dir=bench.base_dir, device=device)
    ordinary: Any = bench.trainer(device)
    assert resident.initial_sha256() == bench.material.initial_sha256
    losses = [[float(loss) for loss in trainer.prologue(3)] for trainer in (resident, ordinary)]
    # A GPU need not add in the same order twice.
    assert losses[0] == (losses[1] if device == "cpu" else pytest.approx(losses[1], rel=1e-2))
    for trainer in (resident, ordinary):
        trainer.reset(3)
        trainer.step()
    assert [bytes(row) for row in resident.last_batch()] == [bytes(row) for row in ordinary.last_batch()] != []
    resident.close()
    data = parts["data" if bench.name == "mlp" else "tokens"]
    assert isinstance(data, Resident)
    for name, entry in parse_safetensors(bench.material.parts["data" if bench.name == "mlp" else "tokens"]).items():
        assert not data.octets[entry.start : entry.end].any(), name
    for part in parts.values():
        if isinstance(part, Resident):
            part.close()
    assert not any(bool(place.any()) for place in places)


@pytest.mark.parametrize("device", DEVICES)
def test_tensors_that_begin_at_an_odd_place_are_read_all_the_same(
    mapped: Mapped, mlp_material: Material, device: DeviceName
) -> None:
    """A safetensors header may have any length; a device's memory is not addressed at any."""
    shifted = {}
    for name in ("data", "initial"):
        whole = mlp_material.parts[name]
        head = int.from_bytes(whole[:8], "little")
        shifted[name] = (head + 1).to_bytes(8, "little") + whole[8 : 8 + head] + b" " + whole[8 + head :]
    parts = copy_material_to_device(mapped({**mlp_material.parts, **shifted}), TorchMemory(device))
    assert open_trainer("mlp", parts, device=device).initial_sha256() == mlp_material.initial_sha256
