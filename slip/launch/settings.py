"""What `slip launch` is asked for: the settings, and how they are read from a command line.

In: the words after `slip launch`. Out: one `LaunchConfig` for each recipe, equal but for the run they hold. Whether a
cluster can give what is asked is `slip.launch.checks`' part.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from pipeline.errors import ConfigError
from slip.config import TrainConfig
from slip.recipes import DEFAULT_RECIPE, recipe, recipes
from slip.run_plan import GPUS

ExecutorName = Literal["slurm", "local", "debug"]

DEFAULT_FOLDER = "launches"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchConfig:
    """Nodes and time, what is launched under which name, and the settings of the run."""

    nodes: int = 1
    """Nodes of each run."""
    gpus_per_node: int = 8
    """GPUs of each node; 0 = ranks on CPUs."""
    tasks_per_node: int | None = None
    """Ranks on each node. None: one for each GPU; one where there are no GPUs."""
    cpus_per_task: int = 12
    """CPUs of each rank."""
    mem_gb: float | None = None
    """GB (1000 MiB) of memory of each node. None: what the partition gives."""
    time_min: int = 1440
    """Minutes a job may take. A run that needs more begins again by itself and goes on from its newest checkpoint."""
    signal_s: int = 120
    """Seconds before the time limit at which every rank is told to write a checkpoint and stop."""
    partition: str | None = None
    """Partition. None: as slurm/site.sh or SBATCH_PARTITION say, else the cluster's default."""
    account: str | None = None
    """Account that pays. None: as slurm/site.sh or SBATCH_ACCOUNT say, else yours."""
    qos: str | None = None
    """Quality of service. None: as slurm/site.sh or SBATCH_QOS say, else yours."""
    constraint: str | None = None
    """Features the nodes must have, in Slurm's notation. None: as slurm/site.sh or SBATCH_CONSTRAINT say."""
    executor: ExecutorName = "slurm"
    """slurm = jobs of the cluster; local = ranks in the background on this machine; debug = one rank in this process,
    which is waited for and of which nothing is recorded."""
    name: str | None = None
    """Name of the launch, and of its jobs. None: that of the recipe, or several joined with +."""
    folder: str = DEFAULT_FOLDER
    """Local folder that all nodes share; the launch is FOLDER/NAME: its frozen code, its settings, its logs."""
    seeds: tuple[int, ...] = ()
    """Each recipe is run with each of these seeds. None: once, with --seed."""
    array_parallelism: int | None = None
    """Runs at once, of several. None: as many as the cluster has room for."""
    gpu: str = "h100"
    """Kind of GPU, for the estimate of hours; see slip plan."""
    mfu: float = 0.4
    """Model FLOPs utilisation (0 to 1) assumed by the estimate."""
    price: float | None = None
    """Price of a GPU for an hour, in any currency, for the estimate of cost."""
    dry_run: bool = False
    """Show the batch script, the settings and the estimate; submit and write nothing."""
    run: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        for name, value, least in (
            ("--nodes", self.nodes, 1),
            ("--gpus-per-node", self.gpus_per_node, 0),
            ("--tasks-per-node", self.ranks_per_node, 1),
            ("--cpus-per-task", self.cpus_per_task, 1),
            ("--time-min", self.time_min, 1),
            ("--signal-s", self.signal_s, 1),
            ("--array-parallelism", 1 if self.array_parallelism is None else self.array_parallelism, 1),
        ):
            if value < least:
                raise ConfigError(f"{name} is {value}; it must be at least {least}")
        if self.mem_gb is not None and self.mem_gb <= 0:
            raise ConfigError(f"--mem-gb is {self.mem_gb}; it must be positive")
        if self.signal_s >= 60 * self.time_min:
            raise ConfigError(
                f"--signal-s is {self.signal_s}, which is not before the end of --time-min {self.time_min}; lower it"
            )
        if self.executor == "local" and self.nodes > 1:
            raise ConfigError(
                f"--executor local with --nodes {self.nodes}: this machine is one node; leave --nodes out"
            )
        if self.gpu.lower() not in GPUS:
            raise ConfigError(f"--gpu is {self.gpu!r}; known are {', '.join(GPUS)}")
        if not 0 < self.mfu <= 1:
            raise ConfigError(f"--mfu is {self.mfu}; it must be above 0 and at most 1 (0.4 = 40 %)")
        if self.price is not None and self.price < 0:
            raise ConfigError(f"--price is {self.price}; it must be at least 0")
        if len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"--seeds is {' '.join(map(str, self.seeds))}; name each seed once")

    @property
    def ranks_per_node(self) -> int:
        """Processes on each node."""
        return self.tasks_per_node if self.tasks_per_node is not None else max(1, self.gpus_per_node)

    @property
    def ranks(self) -> int:
        """Processes of a run."""
        return 1 if self.executor == "debug" else self.nodes * self.ranks_per_node


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A command line, read."""

    words: tuple[str, ...]
    """As they were given."""
    configs: tuple[tuple[str, LaunchConfig], ...]
    """Recipe and settings; the latter differ in the run only."""
    name: str
    """Of the launch."""

    @property
    def config(self) -> LaunchConfig:
        """What holds for all runs."""
        return self.configs[0][1]

    def gives(self, option: str) -> bool:
        """Whether the command line has this option."""
        return any(word == option or word.startswith(f"{option}=") for word in self.words)


def check_name(name: str) -> str:
    """The name of a launch, which becomes a folder and a job name; ConfigError where it cannot."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"the launch would be called {name!r}; give a --name of at most 100 letters, digits and . _ + - that "
            "begins with a letter or digit"
        )
    return name


def _read(name: str, words: Sequence[str]) -> LaunchConfig:
    return tyro.cli(
        LaunchConfig,
        default=LaunchConfig(run=recipe(name)),
        args=list(words),
        prog="slip launch RECIPE [RECIPE...]",
        config=(tyro.conf.FlagCreatePairsOff,),
        description=(
            "Train as Slurm jobs: several recipes, and each with several seeds, as one array. All options of slip "
            f"train change the runs; the defaults of a run below are those of its recipe (here {name}). "
            f"Recipes: {', '.join(recipes())}. The same command again goes on with what has ended. "
            "Then: slip launch status [NAME...]; slip launch logs NAME [--follow]; slip launch cancel NAME."
        ),
    )


def parse(argv: Sequence[str]) -> Request:
    """Settings from a command line: recipes first, then options."""
    words = list(argv)
    names = []
    while words and not words[0].startswith("-"):
        names.append(words.pop(0))
    if not names:
        _read(DEFAULT_RECIPE, words)  # where --help is asked for, this does not return
        raise ConfigError(f"name the recipe to launch: slip launch RECIPE ...; there is: {', '.join(recipes())}")
    if len(set(names)) < len(names):
        raise ConfigError(f"a recipe is named twice: {' '.join(names)}; for several runs of it give --seeds")
    configs = tuple((name, _read(name, words)) for name in names)
    given = configs[0][1].name
    return Request(words=tuple(argv), configs=configs, name=check_name("+".join(names) if given is None else given))
