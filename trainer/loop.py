"""The training loop: from a model and its feeds to checkpoints, one optimizer over all stages.

Every step reads one global batch, sums the losses of its labels over micro-batches and ranks, divides once by the
number of labels, clips, and updates, unless it is a bad one (`trainer.guard`). A run that was interrupted goes on from
its last checkpoint with the same numbers, bit by bit on the CPU.
"""

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from schemas.errors import DataError, Interrupted
from schemas.job import Progress
from schemas.recipe import Optimizer, Pretrain
from trainer import checkpoint, guard
from trainer.balance import LoadBalance, RouterStats
from trainer.data import Batch, Feed, Sequences, prefetch
from trainer.evaluate import batch_loss, bits_per_byte, group_sums, hidden_states, measure, sample
from trainer.metrics import Metrics, drop_after
from trainer.model.moe import Routing
from trainer.model.qwen3 import Qwen3, apply_checkpointing, compile_blocks
from trainer.parallel import Ranks
from trainer.planner import flops_per_token, peak_flops
from trainer.schedule import Span, learning_rate, spans, tokens_at

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
REMEMBERED = 5  # steps at either end of a stage whose losses its summary averages


@dataclass(frozen=True)
class Data:
    """What a run reads. `token_bytes` (vocabulary,) are the bytes of text behind each token."""

    feeds: dict[str, Feed]  # by stage
    validation: Sequences
    token_bytes: np.ndarray
    groups: list[str]


@dataclass(frozen=True)
class StageRecord:
    """What a stage's summary needs; it travels in the checkpoints."""

    first_losses: list[float] = field(default_factory=list)
    last_losses: list[float] = field(default_factory=list)
    validation_bits_per_byte: float | None = None

    def after(self, loss: float) -> "StageRecord":
        return replace(
            self,
            first_losses=[*self.first_losses, loss][:REMEMBERED],
            last_losses=[*self.last_losses, loss][-REMEMBERED:],
        )


@dataclass(frozen=True)
class StepResult:
    """Sums of one step over all ranks. `nll`, `bytes` and `labels` are per group."""

    loss: float  # nats per label
    grad_norm: float
    nll: np.ndarray
    bytes: np.ndarray
    labels: np.ndarray
    routers: RouterStats | None
    fault: str | None  # what is wrong with the step, if anything: its update was left out
    stop: bool


def make_optimizer(model: Qwen3, settings: Optimizer) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices, on the embedding if asked for, and none on the gains of norms."""
    spared = [] if settings.decay_embedding else [model.embed_tokens.weight]

    def decays(parameter: torch.nn.Parameter) -> bool:
        return parameter.ndim > 1 and all(parameter is not other for other in spared)

    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if decays(p)], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if not decays(p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(settings.beta1, settings.beta2), eps=settings.epsilon, fused=True)


def train(
    pretrain: Pretrain,
    model: Qwen3,
    data: Data,
    folder: Path,
    key: str,
    progress: Progress,
    ranks: Ranks,
) -> dict[str, StageRecord]:
    """Train through all stages, from the last checkpoint in `folder` on if there is one; returns a record per stage.

    Args:
        model: on the device of `ranks`; on rank 0 initialised, unless `folder` has checkpoints.
        folder: local; gets checkpoints/, metrics.jsonl and tensorboard/. Rank 0 alone writes.
        key: names model, data and schedule; a checkpoint of another key is refused.

    Raises:
        DataError: the loss or the gradient is not finite, a shard is damaged, or a checkpoint cannot be written.
        Interrupted: SIGTERM or SIGINT arrived and a checkpoint of the last step was written.
    """
    run = _Run(pretrain, model, data, folder, key, progress, ranks)
    with _numerics(pretrain, ranks.device), _terminations() as terminated, contextlib.closing(run):
        run.resume_or_start()
        for span in run.plan:
            if run.step < span.end:
                run.stage(span, terminated)
    return run.records


class _Run:
    def __init__(
        self, pretrain: Pretrain, model: Qwen3, data: Data, folder: Path, key: str, progress: Progress, ranks: Ranks
    ) -> None:
        self.pretrain, self.model, self.data, self.progress, self.ranks = pretrain, model, data, progress, ranks
        self.folder, self.key = folder, key
        self.plan = spans(pretrain)
        self.ends = [span.end for span in self.plan]
        self.total_tokens = tokens_at(self.plan, self.ends[-1])
        self.optimizer = make_optimizer(model, pretrain.optimizer)
        self.step = 0
        self.history = guard.History()
        self.token_bytes = torch.from_numpy(data.token_bytes).to(ranks.device)
        self.peak = peak_flops(torch.cuda.get_device_name(ranks.device)) if ranks.device.type == "cuda" else None
        self.records = {span.stage.name: StageRecord() for span in self.plan}
        self.metrics: Metrics | None = None  # of rank 0
        self.saver = checkpoint.Saver(self.checkpoints, pinned=ranks.device.type == "cuda")
        if pretrain.activation_checkpointing != "none":
            apply_checkpointing(model, selective=pretrain.activation_checkpointing == "selective")
        if pretrain.compile and ranks.device.type == "cuda":
            compile_blocks(model)

    @property
    def checkpoints(self) -> Path:
        return self.folder / CHECKPOINTS

    def close(self) -> None:
        try:
            self.saver.close()
        finally:
            if self.metrics is not None:
                self.metrics.close()

    # -----------------------------------------------------------------------------------------------------------
    # State

    def resume_or_start(self) -> None:
        state = None
        if self.ranks.rank == 0:
            state = checkpoint.load_newest(self.checkpoints, self.model, self.optimizer, self.key)
        state = self.ranks.broadcast(state)
        if state is not None:
            self.step = state["step"]
            self.records = {name: StageRecord(**record) for name, record in state["stages"].items()}
            self.history = guard.History(**state["guard"])
        self._share(self.step)
        if self.ranks.rank == 0:
            if state is not None:
                checkpoint.prune(self.checkpoints, self._kept())  # what was killed while it wrote or removed some
            self.metrics = Metrics(self.folder, self.step if state is not None else -1)
            if (bad_steps := self.folder / guard.FILE).exists():
                drop_after(bad_steps, self.step)
        if state is None:
            span = self.plan[0]
            self.model.set_rope_base(span.rope_base or self.model.config.rope_base)
            self._write({"step": 0, "stage": span.stage.name, "tokens": 0, **self._validate(span)})
            self._save(span)

    def _share(self, updates: int) -> None:
        """Give every rank what rank 0 has read or drawn; without updates the optimizer has no state."""
        if self.ranks.count == 1:
            return
        self.ranks.copy_from_first(self.model.state_dict().values())
        if updates:
            for parameter in self.model.parameters():
                state = self.optimizer.state[parameter]
                if not state:
                    place = parameter.device if parameter.is_cuda else "cpu"
                    state["step"] = torch.zeros((), device=place)
                    state |= {moment: torch.zeros_like(parameter) for moment in checkpoint.MOMENTS}
                self.ranks.copy_from_first(state[name] for name in ("step", *checkpoint.MOMENTS))

    def _roll_back(self) -> int:
        """Weights, optimizer and memory of the guard as they were at the last scheduled checkpoint; returns its step.

        The run itself stays at its step. A checkpoint off the schedule, of an interruption, is not used: the run would
        depend on where it was interrupted.
        """
        step, history = 0, None
        self.optimizer.state.clear()
        if self.ranks.rank == 0:
            self.saver.wait()
            every = self.pretrain.checkpoint_every
            scheduled = max(self.step - self.step % every, *(end for end in self.ends if end <= self.step), 0)
            state = checkpoint.load_newest(self.checkpoints, self.model, self.optimizer, self.key, scheduled)
            if state is None:
                raise DataError(
                    f"{self.checkpoints}: there is no checkpoint of step {scheduled} or before to go back to"
                )
            step, history = state["step"], state["guard"]
        step, history = self.ranks.broadcast((step, history))
        self.history = guard.History(**(history | {"skipped": self.history.skipped}))
        self._share(step)
        return int(step)

    def _save(self, span: Span) -> None:
        if self.ranks.rank != 0:
            return
        assert self.metrics is not None
        self.metrics.sync()
        state = {
            "key": self.key,
            "model": asdict(self.model.config),
            "step": self.step,
            "stage": span.stage.name,
            "tokens": tokens_at(self.plan, self.step),
            "stages": {name: asdict(record) for name, record in self.records.items()},
            "guard": asdict(self.history),
        }
        self.saver.save(self.step, self.model, self.optimizer, state, self._kept())

    def _kept(self) -> Callable[[int], bool]:
        """Which checkpoints stay when that of this step is written."""
        settings = self.pretrain
        every, last = settings.checkpoint_every, settings.keep_checkpoints
        return checkpoint.kept(self.step, self.ends, every, last, settings.keep_every)

    def _write(self, line: dict[str, Any]) -> None:
        if self.metrics is not None:
            self.metrics.write(guard.plain(line))

    # -----------------------------------------------------------------------------------------------------------
    # Steps

    def stage(self, span: Span, terminated: threading.Event) -> None:
        """From where the run stands to the end of a stage."""
        self.model.set_rope_base(span.rope_base or self.model.config.rope_base)
        if self.step == span.begin:
            self.history = guard.History(skipped=self.history.skipped)  # other data, so other losses
        feed = self.data.feeds[span.stage.name]
        pin = self.ranks.device.type == "cuda"
        batches = prefetch(
            lambda step: feed.batch(step).pinned() if pin else feed.batch(step), self.step - span.begin, span.steps
        )
        with contextlib.closing(batches):
            began = time.perf_counter()
            for batch in batches:
                rate = learning_rate(self.plan, self.step + 1)
                result = self._update(batch, span, rate, terminated)
                self.step += 1
                name = span.stage.name
                if result.fault is None:
                    self.records[name] = self.records[name].after(result.loss)
                seconds = time.perf_counter() - began
                line = self._line(span, rate, result, seconds)
                if self.step == span.end or self.step % self.pretrain.validate_every == 0:
                    line |= _full_load(result.routers) | self._validate(span)
                self._write(line)
                self.saver.poll()
                due = self.step == span.end or self.step % self.pretrain.checkpoint_every == 0
                if due or result.stop:
                    self._save(span)
                utilisation = f" mfu {line['mfu']:.0%}" if "mfu" in line else ""
                self.progress.update(
                    line["tokens"],
                    self.total_tokens,
                    "tokens",
                    note=f"{name} step {self.step - span.begin}/{span.steps} loss {result.loss:.2f} lr {rate:.1e}"
                    + utilisation,
                )
                if result.stop and self.step < self.ends[-1]:
                    raise Interrupted(f"stopped at step {self.step} of {self.ends[-1]}; start again to go on")
                began = time.perf_counter()

    def _update(self, batch: Batch, span: Span, rate: float, terminated: threading.Event) -> StepResult:
        """One optimizer step on this rank's part of a global batch."""
        device, groups, settings = self.ranks.device, len(self.data.groups), self.pretrain.optimizer
        totals = torch.stack(((batch.labels_BT >= 0).sum(), batch.real_BT.sum()))  # on the CPU: nothing waits for a GPU
        self.ranks.sum([totals])
        labels, tokens = totals
        if not labels:
            raise DataError(f"step {self.step + 1} of stage {span.stage.name}: its sequences have nothing to predict")
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        parts = list(self._micro_batches(batch, span))
        load_balance = None
        if self.model.config.experts:
            load_balance = LoadBalance(self.model.config, settings, tokens, self.ranks)
            if settings.balance_exact:
                for part in parts:
                    load_balance.count(self._route(part))

        sums = torch.zeros(3, groups, dtype=torch.float64, device=device)
        for part in parts:
            routings: list[Routing] = []
            if part is not None:
                part = part.to(device)
                loss, nll_BT = batch_loss(self.model, part, settings.z_loss, routings)
                # The divisor is that of the global batch, so micro-batches and ranks add up to one mean.
                loss = loss / labels
                sums += group_sums(part, (nll_BT, self.token_bytes[part.labels_BT.clamp(min=0)]), groups)
            if load_balance is not None and not settings.balance_exact:
                load_balance.count(routings)
            if part is not None:
                (loss if load_balance is None else loss + load_balance.loss(routings)).backward()

        stop = torch.tensor([float(terminated.is_set())], dtype=torch.float64).to(device, non_blocking=True)
        self.ranks.sum([sums, stop])
        parameters = list(self.model.parameters())
        for parameter in parameters:
            if parameter.grad is None:  # a rank without a sequence
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        self.ranks.sum(gradients)
        norm = get_total_norm(gradients)
        self.ranks.copy_from_first([norm])  # one verdict on the step, to the last bit
        nll, sizes, counts = sums.cpu().numpy()
        loss_mean, grad_norm = float(nll.sum() / counts.sum()), float(norm)
        fault = guard.fault(self.pretrain.guard, self.history, loss_mean, grad_norm)
        routers = load_balance.stats() if load_balance is not None else None
        result = StepResult(loss_mean, grad_norm, nll, sizes, counts, routers, fault, bool(stop))
        self.history.add(self.pretrain.guard, loss_mean, grad_norm)
        if fault is None:
            clip_grads_with_norm_(parameters, settings.clip, norm)
            self.optimizer.step()
        else:
            self._bad_step(span, result, fault)
        self.optimizer.zero_grad(set_to_none=True)
        return result

    def _micro_batches(self, batch: Batch, span: Span) -> Iterator[Batch | None]:
        """As many on every rank, since ranks talk between them; None where this rank has no sequence left."""
        size = self.data.feeds[span.stage.name].batches.size(self.step - span.begin)
        rows = max(1, self.pretrain.micro_batch_tokens // span.stage.sequence_length)
        for begin in range(0, -(-size // self.ranks.count), rows):
            yield batch.part(begin, begin + rows) if begin < len(batch.tokens_BT) else None

    @torch.no_grad()
    def _route(self, part: Batch | None) -> list[Routing]:
        routings: list[Routing] = []
        if part is not None:
            hidden_states(self.model, part.to(self.ranks.device), routings)
        return routings

    def _bad_step(self, span: Span, result: StepResult, fault: str) -> None:
        """Write the step down and do what the policy says; the update has been left out."""
        settings, step = self.pretrain.guard, self.step + 1
        self.history.skipped += 1
        fatal = settings.policy == "stop" or self.history.skipped > settings.most
        where, documents = f"step {step} of stage {span.stage.name}: {fault}", []
        norms = guard.norms_by_layer(self.model)
        back = self._roll_back() if settings.policy == "roll-back" and not fatal else None
        if self.ranks.rank == 0:
            feed = self.data.feeds[span.stage.name]
            sequences = feed.all_rows(self.step - span.begin)
            documents = feed.sequences.documents(sequences)
            record = {
                "step": step,
                "stage": span.stage.name,
                "fault": fault,
                "policy": settings.policy,
                "back_to_step": back,
                "loss": result.loss,
                "grad_norm": result.grad_norm,
                "grad_norms": norms,
                "sequences": sequences,
                "documents": documents,
            }
            guard.write(self.folder, record)
            passed = "its update is left out" if back is None else f"back to the weights of step {back}"
            log.warning("%s; %s", where, passed)
        if fatal:
            ids = [document["document_id"] for document in documents]
            more = f" and {len(ids) - 20} more" if len(ids) > 20 else ""
            most, way_out = "", "pretrain.guard.policy can go on past it"
            if settings.policy != "stop":
                most = f" (more than pretrain.guard.most, {settings.most}, bad steps)"
                way_out = "a larger `most` can go on past it"
            raise DataError(
                f"{where}{most}. {self.folder / guard.FILE} has the norms of its gradient per layer and its documents. "
                f"The checkpoints before it are whole; {way_out}, a lower learning rate or other data may help. "
                f"Documents of the batch: {', '.join(ids[:20])}{more}"
            )

    def _line(self, span: Span, rate: float, result: StepResult, seconds: float) -> dict[str, Any]:
        tokens = tokens_at(self.plan, self.step)
        speed = (tokens - tokens_at(self.plan, self.step - 1)) / seconds
        line = {
            "step": self.step,
            "stage": span.stage.name,
            "learning_rate": rate,
            "tokens": tokens,
            "tokens_per_second": round(speed, 1),
            "seconds": round(seconds, 6),
            "labels": int(result.labels.sum()),
        }
        if np.isfinite(result.loss):
            line["loss"] = result.loss
            line["cells"] = _by_group(self.data.groups, result.nll, result.labels, result.bytes)
            line["bits_per_byte"] = bits_per_byte(float(result.nll.sum()), float(result.bytes.sum()))
        if np.isfinite(result.grad_norm):
            line["grad_norm"] = result.grad_norm
        if result.fault is not None:
            line["fault"] = result.fault
        if self.peak is not None:
            model_flops = speed * flops_per_token(self.model.config, span.stage.sequence_length)
            line["mfu"] = model_flops / (self.peak * self.ranks.count)
        if result.routers is not None:
            line |= _router_line(result.routers)
        return line

    def _validate(self, span: Span) -> dict[str, Any]:
        """Bits per byte on the validation sequences, for the line of a step."""
        sequences = self.data.validation
        if not sequences.count:
            return {}
        chosen = sample(sequences, self.pretrain.validation_tokens)
        sums = measure(
            self.model, sequences, chosen, self.data.token_bytes, self.ranks, self.pretrain.micro_batch_tokens
        )
        score = bits_per_byte(float(sums.nll.sum()), float(sums.bytes.sum()))
        if not np.isfinite(sums.nll.sum()):
            raise DataError(
                f"step {self.step}: the validation loss is {sums.nll.sum()}, so the model's weights are not finite or "
                "overflow; go back to an earlier checkpoint, or look at the model that the training started from"
            )
        name = span.stage.name
        self.records[name] = replace(self.records[name], validation_bits_per_byte=score)
        return {
            "validation_bits_per_byte": score,
            "validation_loss": float(sums.nll.sum() / max(1.0, sums.tokens.sum())),
            "validation_cells": _by_group(self.data.groups, sums.nll, sums.tokens, sums.bytes),
        }


def _by_group(
    groups: list[str], nll: np.ndarray, labels: np.ndarray, sizes: np.ndarray
) -> dict[str, tuple[float, int, int]]:
    """Sum of nats, number of labels and of their bytes, of the groups that have any."""
    return {groups[i]: (float(nll[i]), int(labels[i]), int(sizes[i])) for i in np.flatnonzero(labels)}


def _router_line(routers: RouterStats) -> dict[str, Any]:
    """Of a step, in all and per layer."""
    return {
        "balance": float(routers.balance_L.mean()),
        "router_entropy": float(routers.entropy_L.mean()),
        "router_z": float(routers.square_L.mean()),
        "expert_load_max": float(routers.load_LE.max()),
        "idle_experts": int((routers.load_LE == 0).sum()),
        "layers": {
            "balance": routers.balance_L.round(5).tolist(),
            "router_entropy": routers.entropy_L.round(5).tolist(),
            "expert_load_max": routers.load_LE.max(-1).round(4).tolist(),
        },
    }


def _full_load(routers: RouterStats | None) -> dict[str, Any]:
    """Load of every expert of every layer beside an equal share, (L, E)."""
    return {} if routers is None else {"expert_load": routers.load_LE.round(3).tolist()}


@contextlib.contextmanager
def _numerics(pretrain: Pretrain, device: torch.device) -> Iterator[None]:
    """Threads and determinism on a CPU, as they were afterwards."""
    if device.type != "cpu":
        yield
        return
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    try:
        if pretrain.threads is not None:
            torch.set_num_threads(pretrain.threads)
        torch.use_deterministic_algorithms(True)
        memory.fill_uninitialized_memory = False  # it would write every new tensor twice
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        memory.fill_uninitialized_memory = fill


@contextlib.contextmanager
def _terminations() -> Iterator[threading.Event]:
    """An event that SIGTERM or SIGINT sets; a second one does what it did before training.

    Only the main thread of a process may listen.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def ask(number: int, _: object) -> None:
        event.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, ask)
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
