"""The keys of conditions, `stimulus/feature=value,...`: how they are made from features and taken apart again."""

import numpy as np


def condition_key(stimulus, features):
    """The stable key of a condition.

    Parameters
    ----------
    stimulus : str
        Stimulus category.
    features : mapping of str to float or str
        Features in the order in which the key lists them; NaN and None are left out.

    Returns
    -------
    str
        `stimulus/feature=value,...`, or `stimulus/blank` if no feature is left.

    Examples
    --------
    >>> condition_key("drifting_gratings", {"orientation": 45.0, "temporal_frequency": 2.0})
    'drifting_gratings/orientation=45,temporal_frequency=2'
    """
    parts = []
    for name, value in features.items():
        if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
            continue
        if isinstance(value, int | float | np.number):
            # six digits hide the rounding of stored floats, but they would make two large ids equal: whole numbers keep all digits
            whole = abs(value) < 2**53 and float(value).is_integer()
            text = str(int(value)) if whole else str(value) if isinstance(value, int) and abs(value) >= 2**1000 else f"{value:g}"
        else:
            text = str(value)
        parts.append(f"{name}={text}")
    return f"{stimulus}/{','.join(parts) or 'blank'}"


def category_of(condition):
    """The stimulus category in a condition's key.

    Examples
    --------
    >>> category_of("drifting_gratings/orientation=45")
    'drifting_gratings'
    """
    return condition.partition("/")[0]


def parse_condition(condition):
    """Take a condition's key apart; the inverse of `condition_key`.

    Parameters
    ----------
    condition : str
        `stimulus/feature=value,...`, or `stimulus/blank`.

    Returns
    -------
    category : str
    features : dict
        {feature: text of its value}. A part without "=" continues the value before it. If the first part has no "=", the key only names its
        condition (`stimulus/left`), and that name is the value of the feature "".

    Examples
    --------
    >>> parse_condition("drifting_gratings/orientation=45,temporal_frequency=2")
    ('drifting_gratings', {'orientation': '45', 'temporal_frequency': '2'})
    """
    category, _, rest = condition.partition("/")
    features, name = {}, ""
    for part in rest.split(",") if rest not in ("", "blank") else ():
        head, equals, text = part.partition("=")
        if equals:
            name, features[head] = head, text
        else:
            features[name] = f"{features[name]},{part}" if name in features else part
    return category, features


def well_shown(table, stimuli):
    """Conditions that are shown often enough to be split.

    Parameters
    ----------
    table : pandas.DataFrame
        One row per trial: stimulus, condition, block.
    stimuli : sequence of str

    Returns
    -------
    list of str
        Keys of conditions. If the conditions of a stimulus repeat, only those that are shown at least twice in each block, so that rare blanks are
        left out; else all of them.
    """
    kept = []
    for stimulus in stimuli:
        shown = table[table["stimulus"] == stimulus].groupby(["condition", "block"]).size().unstack(fill_value=0)
        enough = shown.index[(shown >= 2).all(axis=1)] if shown.to_numpy().sum() > len(shown) else shown.index
        kept += enough.tolist()
    return kept
