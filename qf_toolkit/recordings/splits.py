"""Splitting trials into train, validation and test parts that share no frame: by sub-session, by time, or by subject or stimulus."""

import warnings
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..errors import QfError, UnknownKeyError, did_you_mean
from ..models.options import check_options
from .kept import Kept
from .options import SplitOptions, check_test
from .trials import Trials, check_trials


@dataclass(frozen=True, eq=False)
class Split:
    """Three parts of one selection. Models learn on `train`, every choice is made on `validation`, and `test` is used once, at the end.

    Attributes
    ----------
    train, validation, test : Trials
    rule : str
        How the split was made, in words.
    dropped : int
        How many trials are in no part, because their window lies too near to another part.
    """

    train: Trials
    validation: Trials
    test: Trials
    rule: str
    dropped: int = 0

    def __repr__(self):
        return (
            f"<Split {self.rule}: {len(self.train)} train, {len(self.validation)} validation, {len(self.test)} test, {self.dropped} dropped between>"
        )

    @property
    def fitting(self):
        """The trials of train and validation together. Forecasters that make no choice on validation (naive rows) learn on them."""
        table = pd.concat([self.train.table, self.validation.table])
        return replace(self.train, table=table.sort_values(["session", "onset_frame"], ignore_index=True))

    def keeping(self) -> "Split":
        """Return the same split with a cache of cut windows of at most 256 MB, which its three parts share; itself if it has one already.

        Returns
        -------
        Split
            The cache lives as long as this split.
        """
        if self.train.kept is not None:
            return self
        kept = Kept()
        return replace(self, **{part: replace(getattr(self, part), kept=kept) for part in ("train", "validation", "test")})


def check_split(split):
    """Raise QfError if `split` is not a Split."""
    if not isinstance(split, Split):
        raise QfError(f"split: expected a Split, found {type(split).__name__}. Make one of trials, with split_blocks(trials) say.")


def split_by(trials, how):
    """Split by the rule that the options name.

    Parameters
    ----------
    trials : Trials
    how : SplitOptions

    Returns
    -------
    Split

    Raises
    ------
    QfError
        As the function of the rule: `split_blocks`, `split_chronological` or `split_unseen`.
    """
    test = {} if how.test is None else {"test": how.test}
    if how.split == "blocks":
        return split_blocks(trials, **test, validation=how.validation)
    if how.split == "chronological":
        return split_chronological(trials, **test, validation=how.validation, gap_s=how.gap_s)
    return split_unseen(trials, **{how.split: how.leave_out}, validation=how.validation)


def split_blocks(trials, test=-1, validation=SplitOptions.validation):
    """Test on one block (sub-session) and train on all others (paper 4.1).

    Parameters
    ----------
    trials : Trials
    test : int
        Position of the test block among the blocks of each session; -1 is the last. A warning names the stimuli that the test block does not show.
    validation : float
        Share of the trials at the end of each training block, stimulus by stimulus, that becomes the validation part.

    Returns
    -------
    Split
        No window of one part shares a frame with a window of another part. Training and validation windows are at least a window's length apart. A
        session that is too short for both has only training trials beside its test trials.

    Raises
    ------
    QfError
        If a session has fewer than 2 blocks, a part would be empty, or an argument is out of range.

    Examples
    --------
    >>> split = split_blocks(trials)
    >>> split.train.table["block"].unique().tolist(), split.test.table["block"].unique().tolist()
    ([0, 1], [2])
    """
    check_trials(trials)
    test = check_test("blocks", test)
    validation = check_options(SplitOptions, {"validation": validation})["validation"]
    is_test = np.zeros(len(trials), bool)
    untested = []
    for session, rows in trials.table.groupby("session"):
        blocks = np.sort(rows["block"].unique())
        if len(blocks) < 2:
            raise QfError(
                f"block: expected at least 2 blocks to split by in {session}, found {len(blocks)}. Use split_chronological (--split chronological)."
            )
        if not -len(blocks) <= test < len(blocks):
            raise QfError(f"test: expected a block position from {-len(blocks)} to {len(blocks) - 1} in {session}, found {test}. Choose one of them.")
        mine = rows["block"] == blocks[test]
        is_test[rows.index[mine]] = True
        untested += [f"{s} of {session}" for s in sorted(set(rows["stimulus"]) - set(rows["stimulus"][mine]))]
    if untested:
        warnings.warn(f"split: block {test} holds no trial of {', '.join(untested)}: trained on, but not tested.", stacklevel=2)
    return cut_into_parts(trials, is_test, block_names(trials), validation, 0, f"by block (test block {test})")


def split_chronological(trials, test=1 / 3, validation=SplitOptions.validation, gap_s=SplitOptions.gap_s):
    """Train on the beginning of every session, test on its end.

    Parameters
    ----------
    trials : Trials
    test : float
        Share of the trials at the end of each session that is tested.
    validation : float
        Share of the trials at the end of each session's training trials that becomes the validation part.
    gap_s : float, optional
        Least seconds between a test window and a window of another part. If None, the length of a window.

    Returns
    -------
    Split

    Raises
    ------
    QfError
        If a part would be empty, or an argument is out of range.

    Examples
    --------
    >>> split = split_chronological(trials, test=0.25)
    >>> bool(split.train.table["onset_frame"].max() < split.test.table["onset_frame"].min())
    True
    """
    check_trials(trials)
    test = float(check_test("chronological", test))
    validation, gap_s = check_options(SplitOptions, {"validation": validation, "gap_s": gap_s}).values()
    is_test = np.zeros(len(trials), bool)
    for _, rows in trials.table.groupby("session"):
        order = rows["onset_frame"].sort_values(kind="stable").index
        is_test[order[len(order) - round(test * len(order)) :]] = True
    gap = trials.window.baseline_s + trials.window.response_s if gap_s is None else gap_s
    return cut_into_parts(trials, is_test, trials.table["session"], validation, gap, f"chronological (last {test:.0%}, gap {gap:g} s)")


def split_unseen(trials, *, subject=None, stimulus=None, validation=SplitOptions.validation):
    """Test on all trials of one subject or of one stimulus category, and train on the others: a transfer to what no training has seen.

    The leave-one-out of the paper (4.2, Table 4) is another protocol, which trains on blocks of what it left out of pre-training: see `hold_out`.

    One mouse may be in several containers of the Allen Brain Observatory. As in the paper, each container counts as a subject. If a training subject
    is the same mouse as the tested one, a warning names it.

    Parameters
    ----------
    trials : Trials
    subject, stimulus : str, optional
        The subject or the stimulus that is tested; name exactly one of the two.
    validation : float
        Share of the trials at the end of each training block, stimulus by stimulus, that becomes the validation part.

    Returns
    -------
    Split

    Raises
    ------
    QfError
        If not exactly one of the two is named, it is unknown (UnknownKeyError), a part would be empty, or an argument is out of range.

    Examples
    --------
    >>> split_unseen(trials, subject="sim2")
    Traceback (most recent call last):
    qf_toolkit.errors.UnknownKeyError: subject: 'sim2' has no trial here; ...
    """
    check_trials(trials)
    validation = check_options(SplitOptions, {"validation": validation})["validation"]
    is_test, what = _chosen(trials, "split_unseen", subject, stimulus)
    return cut_into_parts(trials, is_test, block_names(trials), validation, 0, f"leaving out {what}")


leave_one_out = split_unseen
"""An earlier name of `split_unseen`."""


class HeldOut(NamedTuple):
    """The two selections of `hold_out`.

    Attributes
    ----------
    rest : Trials
        For pre-training.
    held : Trials
        For the fits to a task and their test.
    """

    rest: Trials
    held: Trials


def hold_out(trials, *, subject=None, stimulus=None):
    """Leave one subject or one stimulus category out of pre-training, to fit and test on its own blocks (paper 4.2, Table 4).

    Split `rest` to pre-train, and `held` to fit and to test, each with `split_blocks`. The neurons of a held-out subject then get tokens of their own
    in the fit, and their divisors come from its training part.

    Parameters
    ----------
    trials : Trials
    subject, stimulus : str, optional
        What is held out; name exactly one of the two.

    Returns
    -------
    HeldOut
        No window of one selection shares a frame with a window of the other: where they do, `rest` gives way. `autoencoder.check_unseen(held)` raises
        LeakageError if an auto-encoder was pre-trained on anything of it. If a subject of `rest` is the same mouse as the held-out one, a warning
        names it.

    Raises
    ------
    QfError
        If not exactly one of the two is named, it is unknown (UnknownKeyError), or nothing is left beside it.

    Examples
    --------
    >>> hold_out(trials, stimulus="drifting_gratings")
    Traceback (most recent call last):
    qf_toolkit.errors.QfError: hold_out: no trial is left beside stimulus drifting_gratings. Choose more subjects or stimuli.
    """
    check_trials(trials)
    is_held, what = _chosen(trials, "hold_out", subject, stimulus)
    is_rest = ~is_held & ~_near(trials, is_held, 0)
    if not is_rest.any():
        raise QfError(f"hold_out: no trial is left beside {what}. Choose more subjects or stimuli.")
    return HeldOut(trials.subset(is_rest), trials.subset(is_held))


def _chosen(trials, call, subject, stimulus):
    """Which trials are of the subject or the stimulus that is named, bool array (trial,), and its name in words."""
    if (subject is None) == (stimulus is None):
        raise QfError(f"{call}: expected either subject or stimulus. Name exactly one of the two.")
    column, value = ("subject", subject) if stimulus is None else ("stimulus", stimulus)
    known = sorted(trials.table[column].unique())
    if value not in known:
        raise UnknownKeyError(f"{column}: {value!r} has no trial here; {did_you_mean(value, known)}")
    if column == "subject":
        _tell_same_mouse(trials, value)
    return (trials.table[column] == value).to_numpy(), f"{column} {value}"


def _tell_same_mouse(trials, subject):
    mouse = {}
    for session in trials.sessions:
        attrs = trials.source.header(session).attrs
        mouse.setdefault(str(attrs.get("mouse", attrs["subject"])), set()).add(attrs["subject"])
    others = sorted(set().union(*(m for m in mouse.values() if subject in m)) - {subject})
    if others:
        warnings.warn(
            f"subject: {', '.join(others)} is of the same mouse as {subject}, and is trained on. Choose subject=... without it.", stacklevel=4
        )


def block_names(trials):
    """A name for each trial's block, a pandas.Series of str: session, stimulus and number, as each stimulus of a session numbers its blocks anew."""
    return trials.table["session"] + "#" + trials.table["stimulus"] + "#" + trials.table["block"].astype(str)


def cut_into_parts(trials, is_test, groups, validation, gap_s, rule):
    """Make a Split: cut the validation part off the end of each training group, then drop trials that lie too near to another part.

    Parameters
    ----------
    trials : Trials
    is_test : bool array, shape (trial,)
    groups : pandas.Series, shape (trial,)
        The group of each trial.
    validation : float
        Share of each group's trials, at its end.
    gap_s : float
        Least seconds between a test window and a window of another part.
    rule : str
        The rule in words, for `Split.rule`.

    Returns
    -------
    Split

    Raises
    ------
    QfError
        If a part would be empty.
    """
    table = trials.table
    is_validation = np.zeros(len(table), bool)
    for _, rows in table[~is_test].groupby(groups[~is_test]):
        order = rows["onset_frame"].sort_values(kind="stable").index
        n = min(max(1, round(validation * len(order))), len(order) - 1)  # a group of one trial stays in training
        is_validation[order[len(order) - n :]] = n > 0
    window_s = trials.window.baseline_s + trials.window.response_s
    # test trials are never dropped, so that results cover a whole block; validation gives way to test, and training gives way to both
    near_test = _near(trials, is_test, gap_s)
    is_validation &= ~near_test
    is_train = ~is_test & ~is_validation & ~near_test & ~_near(trials, is_validation, window_s)
    # a session that is too short for both parts goes to training: validating on neurons that no model has learnt would show nothing
    short = ~table["session"].isin(table["session"][is_train]).to_numpy()
    if is_train.any() and (is_validation & ~short).any():
        is_validation &= ~short
        is_train |= short & ~is_test & ~near_test
    parts = {"train": is_train, "validation": is_validation, "test": is_test}
    for name, mask in parts.items():
        if not mask.any():
            raise QfError(
                f"split: no trial is left in the {name} part ({rule}, {len(table)} trials, windows of {window_s:g} s). "
                "Take more trials, shorter windows, a smaller gap or another validation share."
            )
    made = {name: trials.subset(mask) for name, mask in parts.items()}
    dropped = int((~(is_train | is_validation | is_test)).sum())
    split = Split(**made, rule=rule, dropped=dropped)
    if trials.window.signal == "zscore":
        scaling = made["train"].scaled_on(made["train"]).scaling
        split = replace(split, **{n: replace(p, scaling=scaling) for n, p in made.items()})
    return split


def _near(trials, mask, gap_s):
    """Which trials have a window less than `gap_s` seconds from a window of the trials in `mask`, or share a frame with one: bool array (trial,)."""
    near = np.zeros(len(trials), bool)
    for session in trials.sessions:
        here = trials.positions(session)
        windows = trials.intervals(session)
        others = windows[mask[here]]
        if not len(others):
            continue
        gap = np.ceil(float(gap_s) * float(trials.source.header(session).attrs["rate_hz"]))  # kept as a float, since it may be infinite
        others = others[np.argsort(others[:, 0])]
        # all windows of a session are equally long, so that the nearest start belongs to the nearest window
        at = np.searchsorted(others[:, 0], windows[:, 0])
        left, right = others[np.clip(at - 1, 0, None)], others[np.clip(at, None, len(others) - 1)]
        far = np.iinfo(int).max
        after_left = np.where(at > 0, windows[:, 0] - left[:, 1], far)
        before_right = np.where(at < len(others), right[:, 0] - windows[:, 1], far)
        apart = np.minimum(after_left, before_right)
        near[here] = apart < gap if gap else apart < 0
    return near
