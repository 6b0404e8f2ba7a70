"""The training run: sealed shards and settings in; checkpoints, metrics and a zero-shot accuracy out.

`train` reads from top to bottom; what comes before it are its parts. Decisions that end or change a step are taken by
all ranks together. After initialisation nothing is drawn from global random state (a step's samples, captions and
augmentations follow from seed and step), so a resumed run does exactly what an undisturbed one does.
"""

from __future__ import annotations

import dataclasses
import logging
import resource
import sys
import time
from contextlib import closing
from dataclasses import dataclass

import PIL
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.errors import ConfigError
from slip import checkpoint
from slip.config import TrainConfig
from slip.data import kernel
from slip.data.device_feed import DeviceFeed
from slip.data.loader import Loader
from slip.data.opening import open_source
from slip.data.source import Source
from slip.data.worker_count import cores_of_this_rank
from slip.distributed import World, all_ranks, init_world, mean_over_ranks, shutdown, sum_over_ranks
from slip.evaluate.datasets import LabelledSet, open_labelled_set
from slip.evaluate.zeroshot import ZeroshotResult, evaluate_zeroshot
from slip.failures import diverged, too_damaged
from slip.ledger import Ledger, cut
from slip.metrics import Metrics, StepClock, progress_line
from slip.models.model import Model
from slip.models.registry import build_model
from slip.objectives.registry import objective as find_objective
from slip.optim import build_optimizer, lr_at, set_lr, total_steps
from slip.stop_signal import StopSignal

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """How a run ended."""

    steps: int
    samples: int
    zeroshot: float | None
    """Top-1 accuracy (0 to 1) of the last evaluation by this process, None when there was none."""
    output: str


def _compute_dtype(config: TrainConfig, world: World) -> torch.dtype:
    """What the towers compute in."""
    bf16 = config.precision == "bf16" or (config.precision == "auto" and world.device.type == "cuda")
    return torch.bfloat16 if bf16 else torch.float32


def _autocast(config: TrainConfig, world: World) -> torch.autocast:
    """Arithmetic of the towers."""
    enabled = _compute_dtype(config, world) == torch.bfloat16
    return torch.autocast(world.device.type, dtype=torch.bfloat16, enabled=enabled)


def _colours_on_device(config: TrainConfig, world: World) -> bool:
    """Whether jitter, grey, blur and flip are left to the device."""
    on_gpu = world.device.type == "cuda"
    return config.data.augment == "fast" and (
        config.data.colours == "device" or (config.data.colours == "auto" and on_gpu)
    )


def _parallel(model: Model, world: World) -> nn.Module:
    """The model as it is called in training: with more than one rank, gradients are averaged over them."""
    if world.world_size == 1:
        return model
    device_ids = [world.device] if world.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=device_ids, gradient_as_bucket_view=True)


def _resume(config: TrainConfig, source: Source, model: Model, optimizer: torch.optim.Optimizer) -> int:
    """Load the newest checkpoint of the run, if any, and return the number of steps already done."""
    url = checkpoint.newest(config.output)
    if url is None:
        return 0
    state = checkpoint.load(url)
    checkpoint.check(state, url, config, data_sha256=source.digest, lanes=source.lanes)
    model.load_state_dict(state.model)
    optimizer.load_state_dict(state.optimizer)
    logger.info("resuming from %s: %d steps and %d samples are done", url, state.step, state.samples)
    for name, (was, now) in checkpoint.differences(state, config).items():
        logger.info("setting %s was %r until this checkpoint and is now %r", name, was, now)
    return state.step


def _save(step: int, config: TrainConfig, source: Source, model: Model, optimizer: torch.optim.Optimizer) -> str:
    state = checkpoint.State(
        step=step,
        samples=step * config.optim.global_batch,
        model=model.state_dict(),
        optimizer=optimizer.state_dict(),
        config=dataclasses.asdict(config),
        data_sha256=source.digest,
        objective=config.objective.name,
        lanes=source.lanes,
    )
    return checkpoint.save(state, config.output, keep=config.keep_checkpoints)


def _evaluate(labelled: LabelledSet, model: Model, config: TrainConfig, world: World) -> ZeroshotResult:
    with _autocast(config, world):
        return evaluate_zeroshot(
            model, labelled, config.model, world=world, batch=config.eval.batch, workers=cores_of_this_rank()
        )


def _peak_memory_bytes(world: World) -> int:
    if world.device.type == "cuda":
        return torch.cuda.max_memory_allocated(world.device)
    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _measured(terms: dict[str, Tensor], model: Model, world: World) -> dict[str, float | int | None]:
    """The numbers of one step for the metrics; losses and accuracies are those of the global batch."""
    names = {"loss": "loss", "clip": "loss/clip", "ssl": "loss/ssl", "clip_acc": "acc/clip", "ssl_acc": "acc/ssl"}
    means = mean_over_ranks(terms)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return {
        **{names[name]: means[name] for name in names if name in means},
        "grad_norm": float(torch.nn.utils.get_total_norm(gradients)),
        "logit_scale": float(model.logit_scale.detach().exp()) if model.has_text else None,
        "memory/peak_bytes": _peak_memory_bytes(world),
    }


def _pillow() -> str:
    """Which of the two packages that install PIL it is: pillow-simd's version has a .postN."""
    return f"{'pillow-simd' if '.post' in PIL.__version__ else 'Pillow'} {PIL.__version__}"


def _describe(config: TrainConfig, source: Source, model: Model, world: World, last_step: int) -> None:
    logger.info(
        "%s with tower %s (%.1f M parameters) on %s",
        *(config.objective.name, config.model.tower, sum(p.numel() for p in model.parameters()) / 1e6),
        source.describe(),
    )
    logger.info(
        "%d steps of %d samples (%g epochs of %.6g steps); %d ranks on %s; torch %s, %s; output %s",
        *(last_step, config.optim.global_batch, config.optim.epochs, source.num_samples / config.optim.global_batch),
        *(world.world_size, world.device.type, torch.__version__, _pillow(), config.output),
    )
    if config.data.augment == "fast":
        where = "on the device" if _colours_on_device(config, world) else "by the decode threads"
        crops = "the compiled kernel" if kernel.available() else "torch (the kernel was not built)"
        logger.info("views: fast; crops by %s, colours %s", crops, where)
    else:
        logger.info("views: reference, by Pillow")


def _open_ledger(config: TrainConfig, source: Source, world: World, step: int) -> Ledger | None:
    """The ledger, where it is wanted, without what was noted after the checkpoint this run goes on from."""
    if not config.ledger:
        return None
    if world.main_rank:
        cut(config.output, step)
    return Ledger(
        config.output,
        rank=world.rank,
        world_size=world.world_size,
        digest=source.digest,
        seed=config.seed,
        global_batch=config.optim.global_batch,
    )


def _check_same_data(source: Source, world: World) -> None:
    """Every rank read the manifests itself; nodes may have found different ones under the same path."""
    number = int(source.digest[:8], 16)
    if sum_over_ranks([number])[0] != number * world.world_size:
        raise ConfigError(
            f"rank {world.rank} found the data with sha256 {source.digest} behind --data.manifest, other ranks found "
            "others; is it the same file on all nodes?"
        )


def _ends_epochs(step: int, config: TrainConfig, source: Source) -> bool:
    """Whether the step is the first after which another `eval.every_epochs` epochs are whole."""
    batch, every = config.optim.global_batch, source.num_samples * config.eval.every_epochs
    return step * batch // every > (step - 1) * batch // every


def train(config: TrainConfig) -> TrainResult:
    """Train until the schedule or `max_steps` ends, or a signal comes; goes on from the newest checkpoint.

    Every rank calls it with the same settings. Given the same settings, seed and machine, weights come out equal bit
    for bit, however often the run was stopped and resumed in between.
    """
    world = init_world()
    labelled = open_labelled_set(config.eval.zeroshot) if config.eval.zeroshot is not None else None
    objective = find_objective(config.objective)
    source = open_source(config, world.rank, world.world_size, needs_text=objective.needs_text)
    _check_same_data(source, world)
    loader = Loader(
        config,
        source,
        objective.views,
        needs_text=objective.needs_text,
        colours=not _colours_on_device(config, world),
    )
    global_batch = config.optim.global_batch
    steps_per_epoch = source.num_samples / global_batch
    last_step = total_steps(config.optim, steps_per_epoch=steps_per_epoch)
    if config.max_steps is not None:
        last_step = min(last_step, config.max_steps)

    model = build_model(config.model, config.objective, seed=config.seed).to(world.device)
    optimizer = build_optimizer(model, config.optim)
    _describe(config, source, model, world, last_step)
    step = _resume(config, source, model, optimizer)
    ledger = _open_ledger(config, source, world, step)
    network = _parallel(model, world)
    metrics = Metrics(config, resume_step=step, enabled=world.main_rank)
    clock = StepClock(global_batch=global_batch)
    feed = DeviceFeed(
        loader.batches(step * global_batch, last_step * global_batch),
        objective.views,
        device=world.device,
        dtype=_compute_dtype(config, world),
        ahead=world.device.type == "cuda",
    )
    zeroshot: ZeroshotResult | None = None
    if step >= last_step:
        logger.info("this run is finished: %d of %d steps are done", step, last_step)
        zeroshot = _evaluate(labelled, model, config, world) if labelled is not None else None

    # The loader is closed before the feed, whose thread may be waiting for it.
    with feed, closing(loader), closing(metrics), StopSignal() as stop:
        stopped = False
        while step < last_step and not stopped:
            began = time.perf_counter()
            fed = next(feed)
            batch = fed.batch

            with _autocast(config, world):
                found = network(fed.views, objective.views, fed.tokens_BL)
            terms = objective(found)
            if not all_ranks(terms["loss"].isfinite()):
                raise diverged(step, batch, found, terms, config, world)
            optimizer.zero_grad(set_to_none=True)
            terms["loss"].backward()  # type: ignore[no-untyped-call]
            lr = lr_at(step, config.optim, steps_per_epoch=steps_per_epoch)
            set_lr(optimizer, lr)
            optimizer.step()
            model.clamp_logit_scale()
            if ledger is not None:
                ledger.add(step, batch.planned_ids, batch.sample_ids.numpy(), batch.epochs)
            step += 1
            clock.add(step_s=time.perf_counter() - began, data_s=feed.wait_s)

            # Ranks hear a signal at different moments; all stop after the same step.
            num_signalled, num_damaged = sum_over_ranks([int(stop.name is not None), len(loader.damaged)])
            stopped = num_signalled > 0
            if num_damaged > config.data.max_damaged:
                raise too_damaged(num_damaged, loader.damaged, config)
            if step % config.log_every == 0 or step == last_step or stopped:
                images_per_s, wait_s, wait_share = clock.take()
                record = {"step": step, "epoch": step / steps_per_epoch} | _measured(terms, model, world)
                record |= {"lr": lr, "images_per_s": images_per_s, "time/data_s": wait_s, "data/damaged": num_damaged}
                metrics.write(record)
                eta_s = clock.eta_s(last_step - step)
                logger.info("%s", progress_line(record, steps=last_step, data_share=wait_share, eta_s=eta_s))

            if labelled is not None and not stopped and (_ends_epochs(step, config, source) or step == last_step):
                zeroshot = _evaluate(labelled, model, config, world)
                metrics.write({"step": step, "zeroshot/top1": zeroshot.top1, "zeroshot/top5": zeroshot.top5})

            if step % config.checkpoint_every == 0 or step == last_step or stopped:
                if ledger is not None:
                    # A checkpoint vouches for the steps before it: every rank has noted them before it appears.
                    ledger.flush()
                    sum_over_ranks([0])
                if world.main_rank:
                    url = _save(step, config, source, model, optimizer)
                    metrics.put()
                    logger.info("step %d: wrote %s", step, url)

        if stopped and step < last_step:
            why = stop.name or "a signal to another rank"
            logger.info("stopped by %s after step %d of %d; run the same command again to resume", why, step, last_step)
    shutdown()
    top1 = zeroshot.top1 if zeroshot is not None else None
    if step >= last_step:
        accuracy = f"; zero-shot accuracy {top1:.1%}" if top1 is not None else ""
        logger.info("done: %d steps, %d samples; %s%s", step, step * global_batch, config.output, accuracy)
    return TrainResult(steps=step, samples=step * global_batch, zeroshot=top1, output=config.output)
