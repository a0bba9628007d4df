"""The course of a training: losses over the epochs, and the use of the codes in the codebook."""

import numpy as np

from ..errors import QfError
from .style import axes_or_current, credit, style

USED = 0.002  # a code counts as used if it takes at least this share of the patches, as in `Autoencoder.code_usage`
SAME_SCALE = 2.0  # loss and score share an axis if their medians differ by at most this factor
MOST_LABELS = 64  # most codes whose bars are labelled


def plot_history(history, *, ax=None):
    """Plot the losses over the epochs of a training, and mark the chosen epoch: the first with the lowest validation score.

    The validation score gets its own axis, on the right, if it seems to be another quantity than the training loss: its median over the epochs is
    more than twice as large, or less than half as large. For example, a forecaster learns by cross-entropy and is chosen by squared error.

    Parameters
    ----------
    history : list of dict, or a trained model
        `model.history`, one entry per epoch: epoch, loss (mean over the training steps) and score (on validation, lower is better). If you pass the
        model, the figure also records where it comes from.
    ax : matplotlib.axes.Axes, optional
        The current axes if None.

    Returns
    -------
    matplotlib.axes.Axes
        The axes of the training loss.

    Raises
    ------
    QfError
        If there is no epoch, or an entry lacks epoch, loss or score.
    """
    ax = axes_or_current(ax)
    if hasattr(history, "digest"):
        pretrained = getattr(history, "autoencoder", history)
        credit(ax, {"model": history.digest(), "simulated": pretrained.simulated, **({} if history.seed is None else {"seed": history.seed})})
        history = history.history
    epoch, loss, score = _columns(history)
    right = ax if _same_scale(loss, score) else ax.twinx()
    lines = ax.plot(epoch, loss, color="C0", label="training loss")
    lines += right.plot(epoch, score, color="C1", label="validation score")
    if np.isfinite(score).any():
        best = int(np.argmin(np.where(np.isfinite(score), score, np.inf)))
        ax.axvline(epoch[best], color="0.6", lw=0.8, ls="--", zorder=0)
        lines += right.plot(epoch[best], score[best], "o", color="C1", mec="white", clip_on=False, label=f"chosen: epoch {epoch[best]:g}")
    ax.set_xlabel("epoch")
    ax.xaxis.get_major_locator().set_params(integer=True)
    if right is ax:
        ax.set_ylabel("loss")
    else:
        # each axis has the colour of its line
        for one, color, name in ((ax, "C0", "training loss"), (right, "C1", "validation score")):
            one.set_ylabel(name, color=color)
            one.tick_params(axis="y", labelcolor=color)
        right.spines["right"].set_visible(True)
    # losses fall, so the upper right holds at most the line of the chosen epoch
    right.legend(handles=lines, loc="upper right", frameon=True, edgecolor="none", framealpha=0.9)
    return ax


def plot_code_usage(usage, *, ax=None):
    """Plot the share of the patches that each code of the codebook takes, the most used code first.

    Codes below the line at 0.2 % count as unused and are grey.

    Parameters
    ----------
    usage : xarray.DataArray, dims (code,)
        `Autoencoder.code_usage(trials)`, or `usage` of `interpret.codes.codebook`: shares as fractions, with an attr perplexity.
    ax : matplotlib.axes.Axes, optional
        The current axes if None.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    QfError
        If `usage` does not hold one share per code.
    """
    if getattr(usage, "dims", None) != ("code",) or not usage.size:
        raise QfError("usage: expected a share for each code (dim code), found something else. Pass autoencoder.code_usage(trials).")
    ax = axes_or_current(ax)
    share = usage.values
    names = usage["code"].values if "code" in usage.coords else np.arange(len(share))
    order = np.argsort(-share, kind="stable")
    ax.bar(np.arange(len(share)), 100 * share[order], color=["C0" if s >= USED else "0.7" for s in share[order]], width=0.8)
    ax.axhline(100 * USED, color="0.15", lw=0.8, ls="--")
    # on a linear axis the line at 0.2 % would coincide with the axis
    ax.set_yscale("log")
    ax.set_ylim(100 * USED / 4, max(100 * share.max() * 1.3, 100 * USED * 4))
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.text(1.005, 100 * USED, f"{100 * USED:g} %", transform=ax.get_yaxis_transform(), va="center", fontsize=6, color="0.3")
    if len(share) <= MOST_LABELS:
        ax.set_xticks(np.arange(len(share)), [str(n) for n in names[order]], fontsize=6, rotation=90 if len(share) > 20 else 0)
    else:
        ax.set_xticks([])
    ax.set_xlim(-0.8, len(share) - 0.2)
    ax.set_xlabel("code, the most used first")
    ax.set_ylabel("share of patches (%)")
    found = f"{int((share >= USED).sum())} of {len(share)} codes used"
    ax.set_title(f"{found}, perplexity {usage.attrs['perplexity']:.1f}" if "perplexity" in usage.attrs else found)
    credit(ax, usage)
    return ax


def figure_training(history, usage=None):
    """The losses of a training and, if given, the use of the codes beside them.

    Parameters
    ----------
    history : list of dict, or a trained model
        See `plot_history`.
    usage : xarray.DataArray, dims (code,), optional
        See `plot_code_usage`.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    QfError
        As `plot_history` and `plot_code_usage`.
    """
    import matplotlib.pyplot as plt

    with style():
        # the use of 32 codes needs more room than the losses
        ratios = [1] if usage is None else [1, 1.5]
        fig, axes = plt.subplots(1, len(ratios), figsize=(3.4 * sum(ratios), 2.3), squeeze=False, width_ratios=ratios)
        plot_history(history, ax=axes[0, 0])
        axes[0, 0].set_title("training")
        if usage is not None:
            plot_code_usage(usage, ax=axes[0, 1])
    return fig


def _columns(history):
    if not history:
        raise QfError("history: expected an entry an epoch, found none. Pass model.history of a trained model.")
    for name in ("epoch", "loss", "score"):
        if any(name not in entry for entry in history):
            raise QfError(f"history: expected epoch, loss and score in every entry, found one without {name}. Pass model.history of a trained model.")
    return (np.array([entry[name] for entry in history], float) for name in ("epoch", "loss", "score"))


def _same_scale(loss, score):
    a, b = (abs(np.median(v[np.isfinite(v)])) if np.isfinite(v).any() else np.nan for v in (loss, score))
    return bool(max(a, b) <= SAME_SCALE * min(a, b))
