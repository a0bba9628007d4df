"""Weights that the authors of BrainLM published, as a start for fits on two-photon recordings.

The folder is one that transformers' `save_pretrained` wrote for the repository vandijklab/BrainLM: config.json, and model.safetensors or pytorch_model.bin.
The names of its weights were read from that repository's brainlm_mae/modeling_brainlm.py and configuration_brainlm.py, and from transformers' ViT-MAE and
Nystromformer, whose classes it builds on; no published weights were at hand to try them on.

What fits is taken over: the patches' linear map, class and mask token, all blocks of encoder and decoder with their norms, and the head. What has no
counterpart is left: the maps of parcels' coordinates (here each neuron has a learned vector), and the convolution over neighbouring parcels, so that the
model is not the published one, but begins with its weights. It was trained on fMRI, at about one frame a second.
"""

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from ..errors import DamagedFileError, QfError
from ..models.baselines.brainlm import BrainLM, BrainLMConfig
from ..models.batch import Sizes
from .notes import bytes_if_there, check_folder, parse_json
from .pretrained_network import PretrainedNetwork
from .registry import load

BLOCK = {  # ours: theirs, of a block of encoder or decoder
    "attention.out": "attention.output.dense", "norm1": "attention.output.LayerNorm", "ff.0": "intermediate.dense", "ff.2": "output.dense",
    "norm2": "output.LayerNorm",
}  # fmt: skip
REST = {  # ours: theirs
    "project": "vit.embeddings.signal_embedding_projection", "norm": "vit.layernorm", "cross": "decoder.decoder_embed",
    "decoder_norm": "decoder.decoder_norm", "head.0": "decoder.decoder_pred1", "head.2": "decoder.decoder_pred2",
}  # fmt: skip
STACKS = {"encoder": "vit.encoder.layer", "decoder": "decoder.decoder_layers"}
SIZES = {  # options of BrainLMConfig: what config.json calls them
    "patch_frames": "timepoint_patching_size", "width": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads",
    "decoder_layers": "decoder_num_hidden_layers", "mask_ratio": "mask_ratio", "dropout": "hidden_dropout_prob",
}  # fmt: skip


def load_pretrained(folder: str | Path, device: str = "auto") -> PretrainedNetwork:
    """What `qf pretrain --model` saved, or a published checkpoint of BrainLM.

    Parameters
    ----------
    folder : str or Path
    device : str or torch.device

    Returns
    -------
    PretrainedNetwork

    Raises
    ------
    QfError
        If the folder holds neither, or what does not fit.
    DamagedFileError
        If a file is cut short or altered.
    """
    folder = check_folder(folder)
    if is_published(folder):
        return read_published(folder)
    found = load(folder, device=device)
    if found.task != "masked":
        raise QfError(f"{folder}: expected a network that was pre-trained by masking, found {found.name}. Give what `qf pretrain --model` saved.")
    return found


def is_published(folder: str | Path) -> bool:
    """Whether a folder's config.json is that of a model of transformers."""
    data = bytes_if_there(check_folder(folder) / "config.json")
    return data is not None and "model_type" in _config(folder, data)


def read_published(folder: str | Path) -> PretrainedNetwork:
    """Read a published checkpoint of BrainLM.

    Parameters
    ----------
    folder : str or Path
        With config.json, and model.safetensors or pytorch_model.bin.

    Returns
    -------
    PretrainedNetwork
        Without neurons, window and seen frames.

    Raises
    ------
    QfError
        If the folder holds no BrainLM, or one whose sizes or layers this model does not have.
    DamagedFileError
        If a file can't be read.
    """
    folder = check_folder(folder)
    data = bytes_if_there(folder / "config.json")
    if data is None:
        raise QfError(f"{folder}: expected a published BrainLM, found no config.json. Give the folder that holds it.")
    options = _options(folder / "config.json", _config(folder, data))
    theirs, file = _read(folder)
    with torch.device("meta"):
        wanted = {k: tuple(v.shape) for k, v in BrainLM(options, Sizes(1, 1)).state_dict().items()}
    weights = {}
    for name, shape in wanted.items():
        found = torch.cat([_of(file, theirs, part) for part in _names(name)])
        if name.endswith("_token"):
            found = found.flatten()
        if tuple(found.shape) != shape:
            raise QfError(
                f"{file}: expected {_names(name)[0]} to make a weight of shape {shape}, found {tuple(found.shape)}. Is config.json its own?"
            )
        if not torch.isfinite(found).all():
            raise DamagedFileError(f"{file}: {_names(name)[0]} holds numbers that no weights can have (NaN or infinite). Fetch the file again.")
        weights[name] = found.float().contiguous()
    return PretrainedNetwork("brainlm", options, [], weights)


def _config(folder, data):
    file = Path(folder) / "config.json"
    try:
        config = parse_json(data.decode("utf-8"))
    except (ValueError, RecursionError) as e:
        raise DamagedFileError(f"{file}: can't be read ({' '.join(str(e).split())[:80]}). Fetch or save it again.") from e
    return config if isinstance(config, dict) else {}


def _options(file, config):
    """The BrainLMConfig of a published config.json, if this model has its layers."""
    needed = {"model_type": "brainlm_mae", **dict.fromkeys(SIZES.values()), "hidden_act": "gelu"}
    for name, wanted in needed.items():
        if name not in config or wanted not in (None, config[name]):
            raise QfError(
                f"{file}: expected {name}{'' if wanted is None else f' = {wanted}'}, found {config.get(name)!r:.60}. Give a published BrainLM."
            )
    try:
        options = BrainLMConfig(**{ours: config[theirs] for ours, theirs in SIZES.items()})
    except QfError as e:
        raise QfError(f"{file}: {e}") from e
    same = {
        "decoder_hidden_size": options.width, "decoder_num_attention_heads": options.heads, "intermediate_size": 4 * options.width,
        "decoder_intermediate_size": 4 * options.width, "num_landmarks": config.get("segment_means_seq_len"), "use_tanh_decoder": False,
        "qkv_bias": True,
    }  # fmt: skip
    for name, wanted in same.items():
        if config.get(name, wanted) != wanted:
            raise QfError(
                f"{file}: expected {name} = {wanted}, found {config[name]!r:.60}. The model here has no such layers; take another checkpoint."
            )
    return options


def _names(ours):
    """The published names of a weight of ours, whose tensors are joined."""
    if ours.endswith("_token"):
        return ["vit.embeddings.cls_token" if ours == "class_token" else "decoder.mask_token"]
    stack, _, rest = ours.partition(".blocks.")
    if not rest:
        layer, _, kind = ours.rpartition(".")
        return [f"{REST[layer]}.{kind}"]
    (at, layer), kind = rest.rpartition(".")[0].split(".", 1), rest.rpartition(".")[2]
    layers = [f"attention.self.{n}" for n in ("query", "key", "value")] if layer == "attention.qkv" else [BLOCK[layer]]
    return [f"{STACKS[stack]}.{at}.{n}.{kind}" for n in layers]


def _of(file, tensors, name):
    if name not in tensors:
        raise QfError(f"{file}: expected the weight {name} of a published BrainLM, found none. Give a checkpoint of BrainLMForPretraining.")
    return tensors[name]


def _read(folder):
    """The tensors of a checkpoint, {name: tensor}, and their file. Nothing but tensors is unpickled."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        file = folder / name
        if not file.is_file():
            continue
        try:
            found = load_tensors(file.read_bytes()) if name.endswith("safetensors") else torch.load(file, map_location="cpu", weights_only=True)
        except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError) as e:
            raise DamagedFileError(f"{file}: can't be read as weights ({' '.join(str(e).split())[:80]}). Fetch the file again.") from e
        except OSError as e:
            raise QfError(f"{file}: can't be read ({e.strerror or e}). Give yourself permission to read it.") from e
        if not isinstance(found, dict):
            raise QfError(f"{file}: expected names and tensors, found {type(found).__name__}. Give a checkpoint of BrainLMForPretraining.")
        return {str(k): v for k, v in found.items() if isinstance(v, torch.Tensor)}, file
    raise QfError(f"{folder}: expected model.safetensors or pytorch_model.bin, found neither. Give the folder of one checkpoint.")
