"""The verb `slip plan`: says what a run takes before anyone pays for it.

In: a recipe and the options of `slip train`, and the GPUs. Out: a table (or JSON, for programs) on standard output: the
network's size, FLOPs, memory, time and cost. The arithmetic is `slip.run_plan`'s; neither GPU nor data nor torch is
needed.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from pipeline import store
from pipeline.errors import ConfigError, InputError, ManifestError, StoreError
from slip.command import run_verb
from slip.config import ModelConfig, ObjectiveConfig, OptimConfig, TrainConfig
from slip.data.opening import is_pattern
from slip.data.sets import open_mix
from slip.model_cost import sample_flops
from slip.plan_report import Assumptions, plan_data, plan_text
from slip.recipes import DEFAULT_RECIPE, recipe, recipes
from slip.run_plan import GPUS, make_plan

logger = logging.getLogger(__name__)

_YFCC15M_SAMPLES = 14_690_000
_FEWEST_TOKENS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanConfig:
    """GPUs, and what is known of the run beside its settings."""

    gpus: int = 8
    """GPUs, one process each."""
    gpu: str = "h100"
    """Kind of GPU."""
    mfu: float = 0.4
    """Model FLOPs utilisation: the share (0 to 1) of the GPUs' dense peak that training reaches where nothing is
    computed twice. Where something is (micro-batch, activation-checkpointing) the run takes longer in proportion."""
    measured: str | None = None
    """Folder or URL of a run whose metrics.jsonl gives the MFU: the median of its records. If its config.json
    says that it computed something twice, the MFU without that is taken. It should have run on the same kind of GPU."""
    price: float | None = None
    """Price of a GPU for an hour, in any currency."""
    samples: int | None = None
    """Samples of the data set. Default: as the manifest says; 14,690,000 for a yfcc15m recipe without one."""
    text_length: int | None = None
    """Tokens computed of a caption, on average: captions pass the text tower in groups of like length. About 25 for
    what people write under photographs. Default: the context length, the most there may be."""
    json: bool = False
    """Print one JSON object instead of the table: bytes, FLOPs, hours."""
    run: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if self.gpus < 1:
            raise ConfigError(f"--gpus is {self.gpus}; it must be at least 1")
        if self.gpu.lower() not in GPUS:
            raise ConfigError(f"--gpu is {self.gpu!r}; known are {', '.join(GPUS)}")
        if not 0 < self.mfu <= 1:
            raise ConfigError(f"--mfu is {self.mfu}; it must be above 0 and at most 1 (0.4 = 40 %)")
        if self.price is not None and self.price < 0:
            raise ConfigError(f"--price is {self.price}; it must be at least 0")
        if self.samples is not None and self.samples < 1:
            raise ConfigError(f"--samples is {self.samples}; it must be at least 1")
        longest = self.run.model.context_length
        if self.text_length is not None and not _FEWEST_TOKENS <= self.text_length <= longest:
            raise ConfigError(
                f"--text-length is {self.text_length}; it must be from {_FEWEST_TOKENS} to {longest}, the context"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a run's records say, medians."""

    mfu: float
    images_per_s: float | None
    records: int
    """With an MFU."""


def read_measured(run: str) -> Measured:
    """The MFU of a run, and its samples a second over all GPUs."""
    url = store.join(run, "metrics.jsonl")
    if not store.exists(url):
        raise InputError(f"{url}: there is no such file; --measured takes the folder or URL of a run")
    rates: dict[str, list[float]] = {"mfu": [], "images_per_s": []}
    for number, line in enumerate(store.read_bytes(url).splitlines(), 1):
        try:
            record = json.loads(line)
            for name, values in rates.items():
                if name in record:
                    values.append(float(record[name]))
        except (ValueError, TypeError) as error:
            raise InputError(f"{url}: line {number} is no record of a run ({error!r:.200})") from error
    if not rates["mfu"] or statistics.median(rates["mfu"]) <= 0:
        raise InputError(f"{url}: no record has an MFU; give one with --mfu")
    return Measured(
        mfu=statistics.median(rates["mfu"]),
        images_per_s=statistics.median(rates["images_per_s"]) if rates["images_per_s"] else None,
        records=len(rates["mfu"]),
    )


def _repeated_by(run: str) -> float:
    """Hardware FLOPs for each of the model's in a run, by its config.json."""
    url = store.join(run, "config.json")
    if not store.exists(url):
        raise InputError(f"{url}: there is no such file; --measured takes the folder or URL of a run")

    def known(kind: type[Any], content: dict[str, Any]) -> Any:
        names = {one.name for one in dataclasses.fields(kind)}
        values = {name: tuple(v) if isinstance(v, list) else v for name, v in content.items() if name in names}
        return kind(**values)

    try:
        content = json.loads(store.read_bytes(url))
        config = TrainConfig(
            model=known(ModelConfig, content["model"]),
            objective=known(ObjectiveConfig, content["objective"]),
            optim=known(OptimConfig, content["optim"]),
        )
        return sample_flops(config).repeated
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{url}: expected the settings of a run ({error!r:.200}); give the MFU with --mfu") from error


def count_samples(config: PlanConfig, name: str) -> tuple[int, str]:
    """Samples of the data set, and where the number is from."""
    data = config.run.data
    if config.samples is not None:
        return config.samples, "--samples"
    if any(map(is_pattern, data.manifest)):
        if data.samples_per_epoch > 0:
            return data.samples_per_epoch, "--data.samples-per-epoch"
        raise ConfigError("tars without a manifest do not say how many samples they have; give --samples")
    try:
        return open_mix(data.manifest, data.weights).num_samples, " + ".join(data.manifest)
    except (ManifestError, StoreError) as error:
        if "yfcc15m" in name and data.manifest == recipe(name).data.manifest:
            return _YFCC15M_SAMPLES, f"of YFCC15M, since there is no {data.manifest[0]} here"
        raise ConfigError(f"the samples of the data set are not known ({error}); give --samples") from error


def plan(config: PlanConfig, name: str) -> str:
    """Do all of it; what to print."""
    samples, source = count_samples(config, name)
    mfu, mfu_source = config.mfu, "assumed"
    if config.measured is not None:
        found, repeated = read_measured(config.measured), _repeated_by(config.measured)
        mfu = found.mfu * repeated
        rate = f" at {found.images_per_s:,.0f} samples/s" if found.images_per_s is not None else ""
        mfu_source = f"{config.measured}: {found.mfu:.3f}{rate}, median of {found.records} records"
        if repeated > 1:
            mfu_source += f"; {repeated:.2f} times that, had it computed nothing twice"
    gpu = GPUS[config.gpu.lower()]
    length = config.run.model.context_length if config.text_length is None else config.text_length
    made = make_plan(config.run, gpu, config.gpus, epoch_samples=samples, mfu=mfu, text_length=length)
    assumptions = Assumptions(
        name=name,
        gpu=gpu,
        num_gpus=config.gpus,
        mfu=mfu,
        mfu_source=mfu_source,
        epoch_samples=samples,
        samples_source=source,
        text_length=length,
        price=config.price,
    )
    if config.json:
        return json.dumps(plan_data(made, assumptions), indent=1) + "\n"
    return plan_text(made, assumptions, config.run)


def parse(argv: Sequence[str]) -> tuple[PlanConfig, str]:
    """Settings from a command line, and the recipe they begin with (default `demo`)."""
    words = list(argv)
    name = words.pop(0) if words and not words[0].startswith("-") else DEFAULT_RECIPE
    config = tyro.cli(
        PlanConfig,
        default=PlanConfig(run=recipe(name)),
        args=words,
        prog="slip plan [RECIPE]",
        config=(tyro.conf.FlagCreatePairsOff,),
        description=(
            "Say what a run takes before it is paid for: parameters, FLOPs, memory of each GPU, hours, cost. All "
            f"options of slip train change the run; defaults below are those of recipe {name}. "
            f"Recipes: {', '.join(recipes())}. Kinds of GPU: {', '.join(GPUS)}. "
            "Units: a FLOP is a multiplication or an addition (a multiply-add is 2), GFLOP 10^9 of them, TFLOP/s 10^12 "
            "a second; GiB are 2^30 bytes; steps are optimizer steps. Memory is an estimate: what autograd keeps is "
            "within about 15 %, and torch.compile may need less."
        ),
    )
    return config, name


def main(argv: Sequence[str] | None = None) -> int:
    """Plan; 0 done, 1 error, 2 usage, 130 interrupted."""

    def work() -> int:
        sys.stdout.write(plan(*parse(sys.argv[1:] if argv is None else argv)))
        return 0

    return run_verb(work)


if __name__ == "__main__":
    sys.exit(main())
