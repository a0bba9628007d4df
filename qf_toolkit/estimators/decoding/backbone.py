"""Decoding from the states of a frozen population model, its backbone, with the head of `models.decoder_head`.

A backbone is any estimator with these attributes:

- `has_states` : True
- `patch_frames` : int, frames of a token
- `states_arrays(asked)` -> float32 array (trial, neuron, token, width), the state after each token of `asked.context`, which holds whole windows here. The
  window is cropped at its older end to whole tokens: token t covers frames off + t * patch_frames to off + (t + 1) * patch_frames - 1, and its state
  depends on no later frame.

A state may serve only its token's last frame and later ones. So each frame takes the newest state that has seen no later frame: that of its own token in
the token's last frame, else that of the token before. Under `within` it takes that of its own token everywhere, as the paper does; such a decoder looks up
to patch_frames - 1 frames ahead. Frames at the beginning, which no state may serve, are decoded as the training mean.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from ...errors import QfError, UnknownKeyError, did_you_mean
from ...models.decoder_head import DecoderHead
from ...models.options import check_options
from ...training.checkpoint import digest
from ...training.device import forked, pick_device, told_memory
from ...training.loop import run
from ...training.options import LoopConfig, RunConfig
from .. import registry, schema
from ..checks import check_keys
from ..interface import observations_of
from ..naive import HINT
from ..seen import join_seen
from .linear import ABSENT, WindowDecoder, softmax
from .options import HEAD_LOOP, HeadOptions

INSIDE = "backbone"  # folder of the backbone in that of a saved decoder


class BackboneDecoder(WindowDecoder):
    """Decodes behaviour, or a category, from the states of a frozen backbone; one head a session.

    The head learns on the training part alone, and its epoch is chosen on validation: on the squared error of standardised behaviour, events too, or
    the cross-entropy of a category, for which its outputs are averaged over the tokens that end in the category's window.

    Parameters
    ----------
    variables : str or sequence of str
        Behaviours, or one category of the trials.
    backbone : Estimator, optional
        See the module. None in a decoder that is being loaded.
    gated : bool
        Whether the head is gated; else linear.
    rank, head_dropout, smooth, within, from_s, to_s
        See `options.HeadOptions`.
    loop : LoopConfig, optional
        None takes `options.HEAD_LOOP`.
    run_config : RunConfig, optional

    Attributes
    ----------
    heads : dict of str to DecoderHead
        By session.
    neurons : dict of str to list of str
        By session.
    levels : dict of str to float64 array, shape (2, variable)
        By session, mean and standard deviation of the variables in training.
    history : dict of str to list of dict
        By session; see `training.loop.run`. Empty in a loaded decoder.
    """

    kind = "decoder_backbone"
    name = "backbone"
    has_probability = True
    learns_from_validation = False
    options: ClassVar[dict] = {
        **WindowDecoder.options, "gated": schema.flag(), "rank": schema.whole(least=1), "head_dropout": schema.number(least=0), "smooth": schema.whole(),
        "within": schema.flag(),
    }  # fmt: skip
    learnt: ClassVar[dict] = {
        **WindowDecoder.learnt, "backbone": schema.text(), "patch_frames": schema.whole(least=1), "width": schema.whole(least=1), "seed": schema.SEED,
        "fits": schema.listing(schema.record({"session": schema.text(), "neurons": schema.KEYS})),
    }  # fmt: skip

    def __init__(
        self,
        variables,
        backbone=None,
        *,
        gated=True,
        rank=HeadOptions.rank,
        head_dropout=HeadOptions.head_dropout,
        smooth=HeadOptions.smooth,
        within=HeadOptions.within,
        from_s=HeadOptions.from_s,
        to_s=HeadOptions.to_s,
        loop: LoopConfig | None = None,
        run_config: RunConfig | None = None,
    ):
        super().__init__(variables, from_s=from_s, to_s=to_s)
        given = {"rank": rank, "head_dropout": head_dropout, "smooth": smooth, "within": within}
        vars(self).update(check_options(HeadOptions, given), gated=bool(gated))
        self.loop, self.run_config = loop or LoopConfig(**HEAD_LOOP), run_config or RunConfig()
        self.heads, self.neurons, self.levels, self.history = {}, {}, {}, {}
        self.width, self.name = 0, "backbone" if self.gated else "probe"
        self._backbone_digest = ""
        if backbone is not None:
            self._take(backbone)

    def _take(self, backbone):
        if not getattr(backbone, "has_states", False):
            raise QfError(
                f"backbone: expected a model with states (has_states), found {getattr(backbone, 'name', type(backbone).__name__)}. Give one that has them."
            )
        self.backbone: Any = backbone
        self._backbone_digest, self.patch_frames = _digest_of(backbone), int(backbone.patch_frames)
        self.name = f"{backbone.name}, {'head' if self.gated else 'probe'}"

    def prepare(self, trials):
        """The trials in the form that the backbone needs; raises QfError if they fit it or the decoder's window not."""
        return self.backbone.prepare(super().prepare(trials))

    # ------------------------------------------------------------ fit

    def _learn(self, split):
        if not self._backbone_digest and not hasattr(self, "backbone"):
            raise QfError("backbone: expected a fitted model, found none. Pass backbone=...")
        self._target(split)
        self.device, self.seed = pick_device(self.run_config.device), self.loop.seed
        self.heads, self.neurons, self.levels, self.history = {}, {}, {}, {}
        validation = {p.sessions[0]: p for p in split.validation.by_session()}
        for part in split.train.by_session():
            session = part.sessions[0]
            self.neurons[session] = part.neurons_of(session)
            with told_memory(self.device, "Take fewer trials or neurons, or a backbone of fewer tokens"), forked(self.device):
                torch.manual_seed(self.loop.seed)
                self._fit_session(session, part, validation.get(session))
        self.seen = join_seen(self.seen, self.backbone.seen)  # what the backbone saw, the decoder has seen

    def _fit_session(self, session, train, validation):
        h, missing, y = self._data(train)
        known = y >= 0 if self.classes else np.isfinite(y).any((1, 2))
        if not known.any():
            raise QfError(f"{', '.join(self.variables)}: expected values in the training part of {session}, found none recorded. Choose others.")
        self.width = h.shape[-1]
        self.levels[session] = _class_levels(y, len(self.classes)) if self.classes else _behaviour_levels(y)
        head = self.heads[session] = self._head(len(self.neurons[session])).to(self.device)
        _standardise(head, h, missing)
        mine = self._on_device(h[known], missing[known], y[known], session)
        theirs = mine if validation is None else self._on_device(*self._data(validation), session)
        if not (theirs[2] >= 0 if self.classes else theirs[2].isfinite()).any():
            theirs = mine
        if theirs is mine:
            self.notes.append(f"{session}: nothing to validate on; the epoch is the best one in training.")
        n, size = int(known.sum()), self.loop.batch_size

        def validate():
            total, count = 0.0, 0
            for at in torch.arange(len(theirs[0])).split(size):
                loss, k = self._loss(head, *(t[at.to(self.device)] for t in theirs))
                total, count = total + float(loss) * int(k), count + int(k)
            return {"score": total / count}

        self.history[session] = run(
            head, lambda: list(torch.randperm(n).to(self.device).split(size)), lambda at: self._loss(head, *(t[at] for t in mine))[0], validate,
            self.loop, run_config=self.run_config, label=f"{self.name} of {session}",
            settings={"variables": list(self.variables), "data": train.digest(), **{k: getattr(self, k) for k in ("gated", "rank", "smooth", "within")}},
        )  # fmt: skip
        head.requires_grad_(False)

    def _head(self, n_neurons):
        variables, parts = (len(self.classes), 1) if self.classes else (len(self.variables), self.patch_frames)
        return DecoderHead(self.width, n_neurons, variables, parts, self.rank, self.gated, self.head_dropout, 0 if self.classes else self.smooth)

    def _data(self, part):
        """States (trial, neuron, token, width), which neurons miss in which trial (trial, neuron), and the truth of one session."""
        part = self.prepare(part)
        asked, _ = observations_of(part.dataset(), part.window.signal, whole=True)
        return *self._states(asked, self.neurons[part.sessions[0]]), self._truth(part)

    def _states(self, asked, neurons):
        """The states of all `neurons` of the session, and which of them the windows lack. A neuron is missing in a trial that has none of its frames."""
        check_keys("neuron", asked.neurons, neurons, HINT)
        whole = asked.context.shape[-1]
        first = whole % self.patch_frames
        if whole < self.patch_frames:
            raise QfError(
                f"window: expected at least {self.patch_frames} frames, those of a token of the backbone, found {whole}. Cut longer windows."
            )
        valid = np.ones(asked.context.shape, bool) if asked.valid is None else asked.valid
        cropped = replace(asked, context=asked.context[..., first:], valid=valid[..., first:], behaviour={})
        found = np.asarray(self.backbone.states_arrays(cropped), np.float32)
        if found.ndim != 4 or found.shape[:3] != (*asked.context.shape[:2], whole // self.patch_frames):
            raise QfError(
                f"backbone: expected states (trial, neuron, token, width) of {(*asked.context.shape[:2], whole // self.patch_frames)}, found shape "
                f"{found.shape}. Look at its states_arrays."
            )
        at = np.array([neurons.index(n) for n in asked.neurons], int)
        h = np.zeros((len(found), len(neurons), *found.shape[2:]), np.float32)
        missing = np.ones(h.shape[:2], bool)
        h[:, at], missing[:, at] = found, ~valid.any(-1)
        return h, missing

    def _on_device(self, h, missing, y, session):
        if not self.classes:
            mean, sd = self.levels[session]
            y = ((y - mean[:, None]) / sd[:, None]).astype(np.float32)
        return tuple(torch.from_numpy(np.ascontiguousarray(a)).to(self.device) for a in (h, missing, y))

    def _loss(self, head, h, missing, y):
        """The mean loss of trials, and how many values it is of."""
        if self.classes:
            known = (y >= 0).sum()
            return F.cross_entropy(self._class_scores(head, h, missing), y, ignore_index=-1, reduction="sum") / known.clamp(min=1), known
        token, part = self._map(y.shape[-1])
        known = torch.isfinite(y) & (token >= 0)
        error = torch.where(known, head.frames(h, missing, token, part) - torch.where(known, y, 0.0), 0.0)
        return error.square().sum() / known.sum().clamp(min=1), known.sum()

    def _map(self, n_time):
        """The token that each frame takes, -1 for none, and its place among the frames that the token serves: two long tensors (time,)."""
        frame = torch.arange(n_time, device=self.device) - n_time % self.patch_frames + (0 if self.within else 1)
        token = torch.div(frame, self.patch_frames, rounding_mode="floor") - (0 if self.within else 1)
        return token.clamp(min=-1), frame % self.patch_frames

    def _class_scores(self, head, h, missing):
        start, stop = self._frames()
        first = (self.n_context + self.n_response) % self.patch_frames
        last = first + self.patch_frames * np.arange(1, h.shape[2] + 1) - 1  # frame of each token
        chosen = np.flatnonzero((last >= start) & (last < stop))
        if not len(chosen):
            raise QfError(
                f"to_s: expected a window in which a token of {self.patch_frames} frames ends, found frames {start} to {stop}. Lengthen it."
            )
        return head(h[:, :, chosen], missing)[..., 0].mean(-1)

    # ------------------------------------------------------------ answers

    @torch.no_grad()
    def predict_arrays(self, asked):
        session = asked.session or (next(iter(self.heads)) if len(self.heads) == 1 else "")
        if session not in self.heads:
            raise UnknownKeyError(f"session: {session!r} has no decoder here; {did_you_mean(session, sorted(self.heads))} Fit on trials of it.")
        head = self.heads[session].eval()
        h, missing = (torch.from_numpy(a) for a in self._states(asked, self.neurons[session]))
        out = []
        for at in torch.arange(len(h)).split(self.loop.batch_size):
            here = h[at].to(self.device), missing[at].to(self.device)
            out.append((self._class_scores(head, *here) if self.classes else head.frames(*here, *self._map(asked.context.shape[-1]))).cpu().numpy())
        scores = np.concatenate(out)
        mean, sd = self.levels[session]
        if self.classes:
            return softmax(scores.astype(np.float64) + mean).astype(np.float32)  # mean: 0 of a class that was there, else ABSENT
        return (scores * sd[:, None] + mean[:, None]).astype(np.float32)

    def digest(self):
        """The digest of its heads, its options and its backbone; "" before `fit`."""
        note = {"backbone": self._backbone_digest, **{n: getattr(self, n) for n in self.options}}
        return digest(self.tensors(), note) if self.heads else ""

    # ------------------------------------------------------------ saved

    def save(self, folder):
        """Write the heads into `folder`, and the backbone into a folder within, if it can be saved.

        Raises
        ------
        QfError
            If the folder can't be written.
        """
        if self.backbone.kind:
            self.backbone.save(Path(folder) / INSIDE)
        super().save(folder)

    @classmethod
    def load(cls, folder, device="auto", backbone=None):
        """Read a decoder that `save` wrote.

        Parameters
        ----------
        folder : str or Path
        device : str or torch.device
        backbone : Estimator, optional
            The backbone with which it was fitted. If None, the one that was saved with it.

        Raises
        ------
        QfError
            As `Estimator.load`; also if no backbone was saved with it and none is given, or if it is another one.
        """
        self = super().load(folder, device)
        if backbone is None:
            if not (Path(folder) / INSIDE / "config.json").is_file():
                raise QfError(
                    f"backbone: expected the model whose states it reads, found none in {folder}. Pass backbone=... to {cls.__name__}.load."
                )
            backbone = registry.load(Path(folder) / INSIDE, device)
        wanted = self._backbone_digest
        self._take(backbone)
        if self._backbone_digest != wanted:
            raise QfError(
                f"backbone: expected the one of digest {wanted}, with which the decoder was fitted, found {self._backbone_digest}. Give that one."
            )
        return self

    def facts(self):
        fits = [{"session": s, "neurons": list(n)} for s, n in self.neurons.items()]
        return {
            **super().facts(),
            "backbone": self._backbone_digest,
            "patch_frames": self.patch_frames,
            "width": self.width,
            "seed": self.seed,
            "fits": fits,
        }

    def arrays(self):
        found = {f"{i}.levels": self.levels[s] for i, s in enumerate(self.heads)}
        return found | {f"{i}.{n}": t.cpu().numpy() for i, head in enumerate(self.heads.values()) for n, t in head.state_dict().items()}

    @classmethod
    def shapes(cls, note, n_context, n_response):
        blank = cls(note["variables"], **{n: note[n] for n in cls.options if n != "variables"})
        blank._sized(note)
        found = {}
        with torch.device("meta"):
            for i, fit in enumerate(note["fits"]):
                shapes = {n: tuple(t.shape) for n, t in blank._head(len(fit["neurons"])).state_dict().items()}
                found |= {f"{i}.{n}": shape for n, shape in shapes.items()}
                found[f"{i}.levels"] = (2, len(blank.classes) or len(blank.variables))
        return found

    def _sized(self, note):
        self.classes, self.width, self.patch_frames, self._backbone_digest = (
            tuple(note["classes"]),
            note["width"],
            note["patch_frames"],
            note["backbone"],
        )

    def restore(self, note, arrays):
        super().restore(note, arrays)
        self._sized(note)
        self.seed = note["seed"]
        for i, fit in enumerate(note["fits"]):
            session = fit["session"]
            self.neurons[session], self.levels[session] = fit["neurons"], arrays[f"{i}.levels"]
            head = self._head(len(fit["neurons"]))
            own = f"{i}."
            head.load_state_dict({n.removeprefix(own): torch.from_numpy(a) for n, a in arrays.items() if n.startswith(own) and n != f"{i}.levels"})
            self.heads[session] = head.requires_grad_(False).eval()

    @classmethod
    def from_note(cls, note, tensors, device, folder):
        self = super().from_note(note, tensors, device, folder)
        self.device = device
        for head in self.heads.values():
            head.to(device)
        return self


def _behaviour_levels(y):
    """Mean and standard deviation of each variable of behaviour (trial, variable, time), float64 (2, variable)."""
    n = np.maximum(np.isfinite(y).sum((0, 2)), 1)
    mean = np.nansum(y, (0, 2)) / n
    sd = np.sqrt(np.nansum((y - mean[:, None]) ** 2, (0, 2)) / n)
    return np.stack([mean, np.where(sd > 1e-8, sd, 1.0)])


def _class_levels(y, n_classes):
    """What is added to the scores of classes, and 1, float64 (2, class): a class that the session never showed has next to no probability."""
    return np.stack([np.where(np.isin(np.arange(n_classes), y), 0.0, ABSENT), np.ones(n_classes)])


def _standardise(head, h, missing):
    """Set the head's mean and spread of the states, (trial, neuron, token, width), of each neuron over trials and tokens in which it was recorded."""
    for n in range(h.shape[1]):
        states = h[~missing[:, n], n].reshape(-1, h.shape[-1]).astype(np.float64)
        if len(states):
            sd = states.std(0)
            head.mean[n] = torch.from_numpy(states.mean(0).astype(np.float32))
            head.sd[n] = torch.from_numpy(np.where(sd > 1e-6, sd, 1.0).astype(np.float32))


def _digest_of(backbone):
    """A hash of what decides the states of a backbone; of all of it, where it does not tell them apart."""
    return getattr(backbone, "states_digest", backbone.digest)()
