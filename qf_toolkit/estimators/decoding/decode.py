"""Fit a decoder in one call."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from ...errors import QfError, did_you_mean
from ...models.options import refuse_unknown
from ...recordings.splits import Split, check_split
from ...training.options import LoopConfig, RunConfig
from ..network_options import sort_options
from .decoder import Decoder
from .options import DECODERS, HEAD_LOOP, OVER_STATES, HeadOptions, TraceOptions


def decode(
    split: Split, variables: str | Sequence[str], decoder: str = DECODERS[0], *, backbone: Any = None, device: Any = RunConfig.device, **options: Any
) -> Decoder:
    """Fit a decoder of behaviour, or of a category of the trials, to the population activity of each session.

    Behaviour is decoded in every frame of a window, baseline and response, from this frame and earlier ones. A category is decoded from the frames of a
    named window. The decoder learns on the training part and chooses on validation; score it on `split.test`, with `decoding_table`.

    Parameters
    ----------
    split : Split
    variables : str or sequence of str
        Behaviours of the sessions, "running_speed" say; or one column of the table of trials, "direction" say: a feature, stimulus, condition or block.
    decoder : {"ridge", "reduced_rank", "glm", "svm", "mean", "backbone", "probe"}
        Ridge regression; reduced-rank regression of several behaviours; Poisson regression of counts (licks), Gaussian of other behaviour, logistic of a
        category; linear support vectors, for categories; the training mean or the frequencies of the classes; the gated low-rank head, or the linear
        one, over the states of a backbone.
    backbone : Estimator, optional
        A fitted model that has states; see `backbone`. Needed by "backbone" and "probe" only.
    device : str or torch.device
        On which a head is trained.
    **options
        Of traces: lag_s, bins, from_s, to_s; see `options.TraceOptions`. Of heads: those of `options.HeadOptions`, `LoopConfig`, and progress.

    Returns
    -------
    Decoder
        Fitted. `predict(trials)` decodes, `save(folder)` keeps it, and `load` reads it again.

    Raises
    ------
    UnknownKeyError
        If a variable is neither a behaviour nor a column.
    QfError
        If an option is unknown or out of range, a session lacks a behaviour or shows one class alone, a variable is not of the kind that the decoder
        reads, or a backbone is missing, or given in vain.

    Examples
    --------
    >>> from qf_toolkit.recordings.simulated.network import simulate_network
    >>> store = simulate_network("data/network", n_neurons=100, subjects=1, seconds=150, cue_every_s=5, seed=1)
    >>> split = qf.split_chronological(store.trials(baseline_s=1, response_s=2, signal="zscore"))
    >>> decode(split, ["speed", "pupil"]).predict(split.test)["decoded"].dims
    ('trial', 'behaviour', 'time')
    >>> decode(split, "side", "svm").classes
    ('left', 'right')
    """
    from .backbone import BackboneDecoder
    from .glm import GLMDecoder, SVMDecoder
    from .ridge import MeanDecoder, ReducedRankDecoder, RidgeDecoder

    check_split(split)
    if decoder not in DECODERS:
        raise QfError(f"decoder: expected one of {', '.join(DECODERS)}, found {decoder!r}; {did_you_mean(decoder, DECODERS)}")
    if decoder not in OVER_STATES:
        if backbone is not None:
            raise QfError(f"backbone: expected only with decoder backbone or probe, found one with {decoder}. Leave it out.")
        refuse_unknown("decode", options, [f.name for f in fields(TraceOptions)])
        kinds = {"ridge": RidgeDecoder, "reduced_rank": ReducedRankDecoder, "glm": GLMDecoder, "svm": SVMDecoder, "mean": MeanDecoder}
        return kinds[decoder](variables, **options).fit(split)
    if backbone is None:
        raise QfError(f"backbone: expected a fitted model that has states, found none. Pass backbone=... to decode with {decoder}.")
    refuse_unknown("decode", options, [*(f.name for kind in (HeadOptions, LoopConfig) for f in fields(kind) if f.name != "token_speed"), "progress"])
    (head, loop), running = sort_options("decode", options, (HeadOptions, LoopConfig), device, HEAD_LOOP)
    return BackboneDecoder(variables, backbone, gated=decoder == "backbone", loop=loop, run_config=running, **vars(head)).fit(split)
