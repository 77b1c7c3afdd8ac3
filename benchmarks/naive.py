"""Our raw leg's loop beside one that a user would write, in steps a second: same data, same sizes, taking turns here.

    python -m benchmarks.naive [--rounds N] [--small] [mlp] [lora] [lora-trainer]

Prints, and judges nothing. An overhead of protection says nothing if the loop that both legs share is slow. Compared are
mlp with `torch.nn` and `torch.optim`, lora with plain `from_pretrained`, peft and a loop, and lora with transformers' `Trainer`.
Every round starts two processes; they take turns in pairs, either first in half of a round's pairs, and the interval is over
rounds, as in a row. What is timed is training alone: a leg's messages, turns and journal are not in it. Steps are counted per
second and per second of processor time, which other work on the machine disturbs less.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.agent.model_making import write
from pytest_glasshouse.overhead.interval import Sampling, interval_pct, mean_overhead_pct
from pytest_glasshouse.rows.leg_order import orders_of_row, turns_of_round
from pytest_glasshouse.workloads import stand_in
from pytest_glasshouse.workloads.loop import StepRunner
from pytest_glasshouse.workloads.registry import open_trainer, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import TextIO

SEED = 71_000_000
ROUNDS, PAIRS, SEGMENT_S, WARMUP_S = 10, 4, 1.5, 1.5
SMALL = {"rounds": 2, "segment_s": 0.2, "warmup_s": 0.1}
COMPARED = ("mlp", "lora", "lora-trainer")
_SEQUENCES = 64


class Segments:
    """A child's side of the turns: a line from the parent begins a segment, a line back ends it."""

    def __init__(self) -> None:
        self._units, self._began, self._until, self._cpu = 0, 0.0, 0.0, 0.0
        self.told: TextIO = sys.stdout

    def wait(self) -> bool:
        """Block until the next segment; False where there is none."""
        line = sys.stdin.readline()
        if not line:
            return False
        self._units, self._began, self._cpu = 0, time.perf_counter(), time.process_time()
        self._until = self._began + float(line)
        return True

    def stepped(self) -> bool:
        """Count a step; False where that was the last of all segments."""
        self._units += 1
        now = time.perf_counter()
        if now < self._until:
            return True
        self.end(self._units, now - self._began)
        return self.wait()

    def end(self, units: int, elapsed_s: float) -> None:
        """Tell the parent."""
        print(json.dumps([units, elapsed_s, time.process_time() - self._cpu]), file=self.told, flush=True)

    def left_ns(self) -> int:
        """What the segment has left."""
        return max(1, round((self._until - time.perf_counter()) * 1e9))


def ours(workload: str, parts: Mapping[str, memoryview], model: Path, segments: Segments) -> None:
    """The raw leg's trainer and its runner."""
    trainer = open_trainer(workload, parts, base_dir=None if workload == "mlp" else model, device="cpu")
    runner = StepRunner(trainer, time.perf_counter_ns)
    while segments.wait():
        segments.end(*_seconds(runner.run(target_ns=segments.left_ns(), steps=None, on_progress=None)))


def _seconds(ran: tuple[int, int]) -> tuple[int, float]:
    return ran[0], ran[1] / 1e9


def plain_mlp(parts: Mapping[str, memoryview], segments: Segments) -> None:
    """An epoch of shuffled mini-batches with `torch.nn` and `torch.optim`, a loss read once an epoch."""
    import torch
    from safetensors.torch import load

    torch.set_num_threads(1)
    config, data = json.loads(bytes(parts["config"])), load(bytes(parts["data"]))
    sizes, settings = config["sizes"], config["optimizer"]
    widths = [sizes["features"], *[sizes["hidden"]] * sizes["hiddenLayers"]]
    layers: list[torch.nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(widths[-1], sizes["classes"]))
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=float(settings["learningRate"]),
        momentum=float(settings["momentum"]),
        weight_decay=float(settings["weightDecay"]),
    )
    going = segments.wait()
    while going:
        order = torch.randperm(sizes["samples"])
        epoch_loss = 0.0
        for start in range(0, sizes["samples"], sizes["batch"]):
            chosen = order[start : start + sizes["batch"]]
            loss = torch.nn.functional.cross_entropy(model(data["features"][chosen]), data["labels"][chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            epoch_loss += loss.item()
        _refuse_nan(epoch_loss)
        going = segments.stepped()


def _refuse_nan(loss: float) -> None:
    if loss != loss:  # noqa: PLR0124  (NaN)
        raise FloatingPointError("the plain loop lost its weights")


def _plain_model(parts: Mapping[str, memoryview], model: Path) -> tuple[Any, Any, Mapping[str, Any]]:
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    config = json.loads(bytes(parts["config"]))
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    lora = config["lora"]
    settings = LoraConfig(r=lora["rank"], lora_alpha=lora["alpha"], target_modules=lora["targets"], task_type="CAUSAL_LM")
    return get_peft_model(base, settings).train(), load(bytes(parts["tokens"]))["ids"], config["optimizer"]


def plain_lora(parts: Mapping[str, memoryview], model: Path, segments: Segments) -> None:
    """`from_pretrained`, peft, AdamW, and the loop of every tutorial."""
    import torch

    adapted, ids, settings = _plain_model(parts, model)
    optimizer = torch.optim.AdamW(adapted.parameters(), lr=float(settings["learningRate"]))
    going = segments.wait()
    while going:
        for place in torch.randperm(len(ids)).tolist():
            batch = ids[place : place + 1]
            loss = adapted(input_ids=batch, labels=batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(adapted.parameters(), float(settings["clipNorm"]))
            optimizer.step()
            optimizer.zero_grad()
            _refuse_nan(loss.item())
            going = segments.stepped()
            if not going:
                return


def trainer_lora(parts: Mapping[str, memoryview], model: Path, segments: Segments) -> None:
    """transformers' own `Trainer`, one sequence a step."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    adapted, ids, settings = _plain_model(parts, model)

    class Turns(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> Any:  # noqa: ARG002
            control.should_training_stop = not segments.wait()
            return control

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:  # noqa: ARG002
            control.should_training_stop = not segments.stepped()
            return control

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=1_000_000,
            per_device_train_batch_size=1,
            learning_rate=float(settings["learningRate"]),
            max_grad_norm=float(settings["clipNorm"]),
            lr_scheduler_type="constant",
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        data: Any = [{"input_ids": row, "labels": row} for row in ids]
        Trainer(model=adapted, args=arguments, train_dataset=data, callbacks=[Turns()]).train()


def child(what: str, compared: str, model: Path) -> int:
    """One process of a round: prepare, say so, and train whenever it is told to."""
    workload = compared.partition("-")[0]
    material = prepare("mlp" if workload == "mlp" else "lora", seed=SEED, model=None if workload == "mlp" else str(model))
    parts = {name: memoryview(part) for name, part in material.parts.items()}
    told = sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints
    segments = Segments()
    segments.told = told
    if what == "ours":
        ours(workload, parts, model, segments)
    elif compared == "mlp":
        plain_mlp(parts, segments)
    elif compared == "lora":
        plain_lora(parts, model, segments)
    else:
        trainer_lora(parts, model, segments)
    return 0


def one_round(
    compared: str, model: Path, number: int, order: tuple[str, ...], *, segment_s: float, warmup_s: float
) -> tuple[float, float]:
    """The log ratios of totals of a round, the plain loop's rate over ours: by the clock, and by processor time."""
    with contextlib.ExitStack() as stack:
        running: dict[str, subprocess.Popen[str]] = {}
        for what in order:
            command = [sys.executable, "-m", "benchmarks.naive", "--child", what, compared, str(model)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            stack.callback(_ended, process)
            running[what] = process
            _segment(process, warmup_s)
        totals = {what: [0.0, 0.0, 0.0] for what in order}
        legs = {"protected": "plain", "raw": "ours"}
        for pair in turns_of_round(("protected", "raw"), number=number, pairs=PAIRS, seed=f"{SEED} {compared}"):
            for leg in pair:
                for place, value in enumerate(_segment(running[legs[leg]], segment_s)):
                    totals[legs[leg]][place] += value
    (units, *took), (our_units, *ours_took) = totals["plain"], totals["ours"]
    by_clock, by_processor = (
        math.log(units / one) - math.log(our_units / other) for one, other in zip(took, ours_took, strict=True)
    )
    return by_clock, by_processor


def _segment(process: subprocess.Popen[str], seconds: float) -> tuple[float, ...]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{seconds}\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        assert process.stderr is not None
        raise RuntimeError(f"a loop ended: {process.stderr.read()[-2000:]}")
    return tuple(map(float, json.loads(line)))


def _ended(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(OSError):
        assert process.stdin is not None
        process.stdin.close()
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def lines(
    model: Path,
    compared_with: Sequence[str] = COMPARED,
    *,
    rounds: int = ROUNDS,
    segment_s: float = SEGMENT_S,
    warmup_s: float = WARMUP_S,
) -> Iterator[str]:
    """Our rate over the plain loop's, with its 95 % interval over rounds."""
    for compared in compared_with:
        orders = orders_of_row("interleaved", rounds=rounds, seed=f"{SEED} {compared}", fixed=False)
        ratios = []
        for number, order in enumerate(orders, 1):
            named = tuple("plain" if leg == "protected" else "ours" for leg in order)
            ratios.append(one_round(compared, model, number, named, segment_s=segment_s, warmup_s=warmup_s))
        starts = tuple(1 if order[0] == "protected" else -1 for order in orders)
        sampling = Sampling(starts=starts)
        for word, values in zip(("second", "second of processor time"), zip(*ratios, strict=True), strict=True):
            middle, interval = mean_overhead_pct(values, sampling), interval_pct(values, level=0.95, sampling=sampling)
            # A log ratio r of plain over ours is an "overhead" of 1 - exp(r); ours over plain is exp(-r).
            shown = [1 / (1 - each / 100) for each in (middle, *(() if interval is None else (interval.low, interval.high)))]
            bounds = "" if interval is None else f" (95 % interval {shown[1]:.3f} to {shown[2]:.3f})"
            yield f"{compared}: our loop makes {shown[0]:.3f} of the plain loop's steps a {word}{bounds}, {rounds} rounds"


def make_model(directory: Path) -> None:
    """The tiny stand-in as a directory that `from_pretrained` opens."""
    for name, content in stand_in.small_files(stand_in.TINY).items():
        (directory / name).write_bytes(content)
    for file in stand_in.weight_files(stand_in.TINY):
        write(file, directory)


def main(arguments: list[str], tell: Callable[[str], None] = print) -> int:
    """Compare, or be one of the loops."""
    if arguments[:1] == ["--child"]:
        return child(arguments[1], arguments[2], Path(arguments[3]))
    given: dict[str, Any] = SMALL if "--small" in arguments else {}
    if "--rounds" in arguments:
        given = {**given, "rounds": int(arguments[arguments.index("--rounds") + 1])}
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder))
        for line in lines(Path(folder), [each for each in arguments if each in COMPARED] or COMPARED, **given):
            tell(line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
