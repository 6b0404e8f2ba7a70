"""The training run: sealed shards and settings in; checkpoints, metrics and a zero-shot accuracy out.

`train` reads from top to bottom; what comes before it are its parts. Decisions that end or change a step are taken by
all ranks together. After initialisation nothing is drawn from random state that goes from step to step (a step's
samples, captions, augmentations and masks follow from seed and sample), so a resumed run does exactly what an
undisturbed one does.
"""

from __future__ import annotations

import logging
import time
from contextlib import closing, nullcontext
from dataclasses import dataclass

import torch

from pipeline.errors import RankLostError
from slip.boards import view_grid, wandb_module
from slip.checkpoint_writer import CheckpointWriter
from slip.config import TrainConfig
from slip.data.device_feed import DeviceFeed
from slip.distributed import sum_over_ranks, take_waited_s
from slip.evaluate.catalogue import load_catalogue, open_set
from slip.evaluate.labelled import LabelledSet
from slip.evaluate.score import Score
from slip.evaluate.settings import Reading
from slip.evaluate.zeroshot import check_prompts, evaluate_zeroshot
from slip.failures import too_damaged
from slip.goodput import Goodput, lost_seconds, process_started
from slip.job_note import NoteWriter
from slip.layout import compiles, shards_towers
from slip.ledger import Ledger, cut
from slip.lookout import Lookout
from slip.metrics import LiveLine, Metrics
from slip.models.ema import WeightAverage
from slip.models.model import Model
from slip.models.registry import build_model
from slip.objectives.needs import needs_of
from slip.optim import build_optimizer
from slip.optimizer_step import StepMaker
from slip.parallel import check_parallel, compile_blocks, shard
from slip.run_data import RunData, colours_on_device
from slip.run_state import RunState
from slip.schedule import total_steps
from slip.shared_output import check_shared
from slip.step_log import StepLog
from slip.stop_signal import StopSignal
from slip.versions import pillow, views_in_words
from slip.world import World, init_world, shutdown

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """How a run ended."""

    steps: int
    samples: int
    zeroshot: float | None
    """Top-1 accuracy (0 to 1) of the last evaluation by this process, None when there was none."""
    output: str
    stopped: bool = False
    """Whether a signal ended it before its last step."""


def _compute_dtype(config: TrainConfig, world: World) -> torch.dtype:
    """What the towers compute in."""
    bf16 = config.precision == "bf16" or (config.precision == "auto" and world.device.type == "cuda")
    return torch.bfloat16 if bf16 else torch.float32


def _autocast(config: TrainConfig, world: World) -> torch.autocast:
    """Arithmetic of the towers."""
    enabled = _compute_dtype(config, world) == torch.bfloat16
    return torch.autocast(world.device.type, dtype=torch.bfloat16, enabled=enabled)


def _build(config: TrainConfig, world: World) -> Model:
    """The network as it is trained here: on its device, in shards or whole, compiled or not."""
    model = build_model(config.model, config.objective, seed=config.seed).to(world.device)
    on_gpu = world.device.type == "cuda"
    # With 8 captions in a group a step of the demonstration took 300 ms instead of 249 on two cores.
    model.text_grouping["least_rows"] = 64 if on_gpu else 16
    if compiles(config, on_gpu=on_gpu):
        compile_blocks(model)
    if shards_towers(config, world.world_size, on_gpu=on_gpu):
        shard(model, world)
    return model


def _evaluate(labelled: LabelledSet, state: RunState, config: TrainConfig, world: World) -> Score:
    """Zero-shot accuracy of the weights, or of their average where the run keeps one."""
    averaged = state.average.in_place() if state.average is not None else nullcontext()
    reading = Reading(batch=config.eval.batch)
    with averaged, _autocast(config, world):
        score = evaluate_zeroshot(state.model, labelled, config.model, world=world, reading=reading, metric="accuracy")
    logger.info(
        "zero-shot on %s: top-1 %.1f %% (%d of %d pictures), top-5 %.1f %%; guessing among %d classes gives %.1f %%",
        *(labelled.url, 100 * score.value, score.counts["top1"], score.pictures),
        *(100 * score.counts["top5"] / score.pictures, score.classes, 100 / score.classes),
    )
    return score


def _describe(config: TrainConfig, data: RunData, model: Model, world: World, last_step: int) -> None:
    parts = [config.objective.name, *(config.objective.ssl if config.objective.name == "slip" else ())]
    logger.info(
        "%s with tower %s (%.1f M trained parameters) on %s",
        *(" + ".join(parts), config.model.tower),
        *(sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6, data.describe()),
    )
    logger.info(
        "%d steps of %d samples (%g epochs of %.6g steps); %d ranks on %s; torch %s, %s; output %s",
        *(last_step, config.optim.global_batch, config.optim.epochs, data.num_samples / config.optim.global_batch),
        *(world.world_size, world.device.type, torch.__version__, pillow(), config.output),
    )
    logger.info("%s", views_in_words(config, on_device=colours_on_device(config, world)))


def _open_ledger(config: TrainConfig, data: RunData, world: World, step: int) -> Ledger | None:
    """The ledger, where it is wanted, without what was noted after the checkpoint this run goes on from."""
    if not config.ledger:
        return None
    if world.main_rank:
        cut(config.output, step)
    return Ledger(
        config.output,
        rank=world.rank,
        world_size=world.world_size,
        digest=data.source.digest,
        seed=config.seed,
        global_batch=config.optim.global_batch,
    )


def _ends_epochs(step: int, config: TrainConfig, data: RunData) -> bool:
    """Whether the step is the first after which another `eval.every_epochs` epochs are whole."""
    batch, every = config.optim.global_batch, data.num_samples * config.eval.every_epochs
    return step * batch // every > (step - 1) * batch // every


def _train(
    config: TrainConfig, world: World, lookout: Lookout, *, stop: StopSignal, note: NoteWriter, started: float
) -> TrainResult:
    """The run, from top to bottom."""
    check_parallel(config, world)
    check_shared(config.output, world)
    if config.wandb is not None:
        wandb_module()
    labelled = None
    if config.eval.zeroshot is not None:
        labelled = open_set(config.eval.zeroshot, load_catalogue())
        check_prompts(labelled)
    needs = needs_of(config.objective, config.model)
    data = RunData(config, needs, world)
    global_batch = config.optim.global_batch
    steps_per_epoch = data.num_samples / global_batch
    last_step = total_steps(config.optim, steps_per_epoch=steps_per_epoch)
    if config.max_steps is not None:
        last_step = min(last_step, config.max_steps)

    model = _build(config, world)
    state = RunState(
        model=model,
        optimizer=build_optimizer(model, config.optim),
        average=WeightAverage(model, config.ema_decay) if config.ema_decay else None,
    )
    _describe(config, data, model, world, last_step)
    goodput = Goodput(state.resume(config, data), started=started)
    first_step = state.step
    note.at(first_step)
    ledger = _open_ledger(config, data, world, first_step)
    metrics = Metrics(config, resume_step=first_step, enabled=world.main_rank)
    goodput.add("lost", lost_seconds(metrics.recorded, first_step))
    dtype = _compute_dtype(config, world)
    log = StepLog(config, metrics, world, last_step=last_step, steps_per_epoch=steps_per_epoch, dtype=dtype)
    make_step = StepMaker(config, state, world, steps_per_epoch=steps_per_epoch, autocast=_autocast(config, world))
    feed = DeviceFeed(
        data.batches(first_step, last_step),
        needs.views,
        device=world.device,
        dtype=dtype,
        ahead=world.device.type == "cuda",
    )
    writer = CheckpointWriter(config.output, keep=config.keep_checkpoints)
    zeroshot: Score | None = None
    if state.step >= last_step:
        logger.info("this run is finished: %d of %d steps are done", state.step, last_step)
        zeroshot = _evaluate(labelled, state, config, world) if labelled is not None else None

    # The data is closed before the feed, whose thread may be waiting for it; the writer before the metrics it puts.
    with feed, closing(data), closing(metrics), writer, stop, LiveLine() as live:
        stopped = False
        while state.step < last_step and not stopped:
            began = time.perf_counter()
            lookout.at(state.step + 1)
            with goodput.spend("data wait"):
                fed = next(feed)
            goodput.switch("compute")
            if state.step == 0:
                metrics.picture("views", view_grid(fed.inputs.views, needs.views), 1)

            terms, norm = make_step(fed)
            if ledger is not None:
                ledger.add(state.step, fed.batch.planned_ids, fed.batch.sample_ids.numpy(), fed.batch.epochs)
            state.step += 1
            note.at(state.step)

            # Ranks hear a signal at different moments; all stop after the same step.
            num_signalled, num_damaged = sum_over_ranks([int(stop.name is not None), len(data.damaged)])
            stopped = num_signalled > 0
            if num_damaged > config.data.max_damaged:
                raise too_damaged(num_damaged, data.damaged, config)
            goodput.move("compute", "communication", take_waited_s())
            text_length = model.text_length(fed.inputs.lengths)
            log.add(step_s=time.perf_counter() - began, data_s=feed.wait_s, text_length=text_length)
            step = state.step
            if step % config.log_every == 0 or step == last_step or stopped:
                log.write(step, terms, norm, model, **{"data/damaged": num_damaged, "skipped": state.skipped})
            else:
                log.show(step, live)

            best = None
            if labelled is not None and not stopped and (_ends_epochs(step, config, data) or step == last_step):
                with goodput.spend("evaluation"):
                    zeroshot = _evaluate(labelled, state, config, world)
                    take_waited_s()
                top5 = zeroshot.counts["top5"] / zeroshot.pictures
                metrics.write({"step": step, "zeroshot/top1": zeroshot.value, "zeroshot/top5": top5})
                best = zeroshot.value if zeroshot.value > state.best else None

            if step % config.checkpoint_every == 0 or step == last_step or stopped or best is not None:
                state.best = max(state.best, best if best is not None else -1.0)
                with goodput.spend("checkpoint"):
                    if ledger is not None:
                        # A checkpoint vouches for the steps before it: every rank has noted them before it appears.
                        ledger.flush()
                        sum_over_ranks([0])
                    gathered = state.gather(config, data, goodput.seconds())
                    if world.main_rank:
                        writer.write(gathered, best=best, then=metrics.put)
                    take_waited_s()
        with goodput.spend("checkpoint"):
            writer.wait()
        if stopped and state.step < last_step:
            why = stop.name or "a signal to another rank"
            logger.info(
                "stopped by %s after step %d of %d; run the same command again to resume", why, state.step, last_step
            )
    logger.info("where the time went:\n%s", goodput.table())
    step, top1 = state.step, zeroshot.value if zeroshot is not None else None
    if step >= last_step:
        accuracy = f"; zero-shot accuracy {top1:.1%}" if top1 is not None else ""
        logger.info("done: %d steps, %d samples; %s%s", step, step * global_batch, config.output, accuracy)
    return TrainResult(
        steps=step, samples=step * global_batch, zeroshot=top1, output=config.output, stopped=step < last_step
    )


def train(config: TrainConfig, *, stop: StopSignal | None = None, note: NoteWriter | None = None) -> TrainResult:
    """Train until the schedule or `max_steps` ends, or a signal comes; goes on from the newest checkpoint.

    Every rank calls it with the same settings. Given the same settings, seed and machine, weights come out equal bit
    for bit, however often the run was stopped and resumed in between. RankLostError where another rank is gone.

    Args:
        stop: where it was entered before, so that signals that came since are heeded. None: from the first step on.
        note: told every step that is done.
    """
    started = process_started()
    world = init_world()
    note = note or NoteWriter(config.output, enabled=world.main_rank)
    with Lookout(world, silent_s=config.rank_timeout_s) as lookout:
        try:
            result = _train(config, world, lookout, stop=stop or StopSignal(), note=note, started=started)
        except RuntimeError as error:
            # What a collective says names an address at best.
            lost = lookout.gone()
            if lost is None:
                raise
            raise RankLostError(
                f"rank {world.rank} cannot go on: {lost}; run the same command again to go on"
            ) from error
    shutdown()
    return result
