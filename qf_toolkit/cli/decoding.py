"""`qf decode`: fits a decoder, scores it on the test part beside the training mean, and saves it."""

from .._version import __version__
from ..errors import QfError
from ..estimators.decoding.options import OVER_STATES, HeadOptions, TraceOptions
from ..recordings.options import SETTINGS
from ..recordings.settings import split_by_settings, whole_settings
from ..training.options import LoopConfig, OnDevice
from .commands import run_of
from .options import DecodeWhat
from .outputs import claim_output
from .parsing import Arguments


def decode_variables(args: Arguments):
    """Run `qf decode`."""
    from ..estimators.decoding.decode import decode
    from ..estimators.registry import load
    from ..evaluation.behaviour_scores import decoding_table, show_decoding

    over_states = args.decoder in OVER_STATES
    if over_states != (args.backbone is not None):
        raise QfError(f"--backbone: expected with --decoder backbone or probe, and with these alone, found {args.backbone} with {args.decoder}.")
    claim_output(
        args.out,
        f"decoder_{'backbone' if over_states else args.decoder}",
        overwrite=args.overwrite,
        store=args.store,
        sources=filter(None, [args.backbone]),
    )
    settings = whole_settings(args.of(*SETTINGS), run_of(args.backbone, args.store) if over_states else None)
    options, more = args.all(TraceOptions), {}
    if over_states:
        options = args.all(HeadOptions, LoopConfig, OnDevice)
        more = {"backbone": load(args.backbone, device=args.device), "progress": args.progress}
    split = split_by_settings(args.store, settings)
    print(split)
    model = decode(split, args.variables, args.decoder, **options, **more)
    print(show_decoding(decoding_table([model, decode(split, args.variables, "mean")] if args.decoder != "mean" else model, split.test)))
    model.run = {"qf_toolkit": __version__, "command": "decode", "settings": settings, "options": {**args.all(DecodeWhat), **options}}
    model.save(args.out)
    print(f"saved in {args.out}")
