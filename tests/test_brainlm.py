"""BrainLM-style models: hidden patches, pre-training on a pool, what carries over, what counts as seen, and published weights."""

import json

import numpy as np
import pytest
import torch
from helpers import refused, toy_session, untaught
from safetensors.torch import save_file

import qf_toolkit as qf
from qf_toolkit.cli.main import main
from qf_toolkit.errors import DamagedFileError, LeakageError, QfError
from qf_toolkit.estimators.network import fit_network
from qf_toolkit.estimators.pretrained_network import PretrainedNetwork, pretrain_network
from qf_toolkit.estimators.published_brainlm import load_pretrained, read_published
from qf_toolkit.models.baselines.brainlm import BrainLM, BrainLMConfig
from qf_toolkit.models.batch import Batch, Sizes
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut

torch.set_num_threads(1)
pytestmark = untaught
TINY = {"patch_frames": 8, "width": 16, "layers": 1, "decoder_layers": 1, "heads": 2}
FEW = {"epochs": 2, "batch_size": 48, "lr": 3e-3, "progress": False}


@pytest.fixture(scope="module")
def pool():
    return split_blocks(cut([toy_session(0, subject="ape"), toy_session(1)], f0_s=1.0))


@pytest.fixture(scope="module")
def own():
    return split_blocks(cut([toy_session(1)], f0_s=1.0))


@pytest.fixture(scope="module")
def start(pool):
    return pretrain_network(pool, "brainlm", **TINY, **{**FEW, "epochs": 4})


def window(b=3, n=4, t=30, n_out=20, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(b, n, t + n_out, generator=g)
    return Batch(x, torch.ones_like(x, dtype=torch.bool), torch.arange(n).expand(b, n), torch.zeros(b).long(), torch.zeros(b).long())


# ---------------------------------------------------------------- masking


@torch.no_grad()
def test_the_loss_is_that_of_the_hidden_patches_alone():
    """Against the definition: patches that the loss does not depend on are seen, and it is the mean squared error of all others."""
    torch.manual_seed(0)
    module = BrainLM(BrainLMConfig(**{**TINY, "mask_ratio": 0.5}), Sizes(30, 20, 4)).eval()
    given = window()
    shown = []
    decode = module._decode

    def watched(first, tokens, whole, batch):
        shown.append((tokens == module.mask_token).all(-1))
        return decode(first, tokens, whole, batch)

    module._decode = watched
    torch.manual_seed(1)
    loss = float(module.masked_loss(given))
    [hidden] = shown
    assert hidden.flatten(1).sum(1).tolist() == [14] * 3  # half of 4 neurons x (4 + 3) patches
    # frames of hidden patches reach no output: change them, and the loss changes by the target alone
    frames = torch.nn.functional.pad(given.x, (2, 4)).unflatten(-1, (7, 8))
    outs = []
    module._decode = lambda *a: outs.append(decode(*a)) or outs[-1]
    for value in (0.0, 7.0):
        moved = torch.where(hidden[..., None], value, frames).flatten(-2)[..., 2:-4]
        torch.manual_seed(1)
        module.masked_loss(given._replace(x=moved))
    assert torch.equal(*outs)
    real = torch.nn.functional.pad(torch.ones_like(given.x), (2, 4)).unflatten(-1, (7, 8)).bool() & hidden[..., None]
    assert loss == pytest.approx(float((outs[0] - frames)[real].square().mean()), rel=1e-5)


@torch.no_grad()
def test_a_neuron_with_a_gap_enters_no_loss():
    module = BrainLM(BrainLMConfig(**TINY), Sizes(30, 20, 4)).eval()
    given = window()
    given.valid[:, 2, 40] = False
    losses = []
    for value in (0.0, 99.0):
        x = given.x.clone()
        x[:, 2] = value
        torch.manual_seed(0)
        losses.append(float(module.masked_loss(given._replace(x=x))))
    assert losses[0] == losses[1]


def test_a_forecast_reads_the_context_of_all_neurons_and_tells_neurons_apart():
    module = BrainLM(BrainLMConfig(**TINY), Sizes(30, 20, 4)).eval()
    given = window(n_out=0)
    out = module(given)
    other = given.x.clone()
    other[:, 3] += 1
    assert not torch.allclose(module(given._replace(x=other))[:, 0], out[:, 0], atol=1e-6)
    assert not torch.allclose(module(given._replace(neuron=given.neuron.flip(1))), out, atol=1e-6)
    nameless = BrainLM(BrainLMConfig(**TINY), Sizes(30, 20)).eval()
    assert torch.equal(nameless(given), nameless(given._replace(neuron=given.neuron.flip(1))))


# ---------------------------------------------------------------- pre-training


def test_pre_training_learns_is_repeatable_and_saved(pool, start, tmp_path):
    assert start.task == "masked" and start.neurons == pool.train.neurons and min(h["score"] for h in start.history) < start.history[0]["score"]
    again = pretrain_network(pool, "brainlm", **TINY, **{**FEW, "epochs": 4})
    start.save(tmp_path / "start")
    loaded = qf.load(tmp_path / "start", device="cpu")
    assert start.digest() == again.digest() == loaded.digest()
    for name in ("options", "window", "rate_hz", "neurons", "seen", "history", "reference", "seed", "simulated"):
        assert getattr(loaded, name) == getattr(start, name), name


@pytest.mark.parametrize("task", ["forecast", "activation"])
def test_a_fit_starts_from_the_pre_trained_weights(task, own, start, tmp_path):
    few = {**FEW, "epochs": 1, "lr": 1e-10}
    tuned, scratch = (fit_network(own, "brainlm", task, pretrained=p, **few, **m) for p, m in ((start, {}), (None, TINY)))
    ours, fresh = (m.module.model.state_dict() for m in (tuned, scratch))
    assert tuned.options == start.options and tuned.name == "BrainLM, pre-trained" != scratch.name and tuned.pretrained == start.digest()
    for name, weight in start.weights.items():
        if name not in BrainLM.by_neuron:
            torch.testing.assert_close(ours[name], weight, rtol=0, atol=1e-6)
            continue
        at = [start.neurons.index(n) for n in tuned.neurons]  # rows go by the neurons' keys
        assert at != list(range(len(at)))
        torch.testing.assert_close(ours[name], weight[at], rtol=0, atol=1e-6)
    assert not torch.allclose(ours["project.weight"], fresh["project.weight"], atol=1e-3)
    tuned.save(tmp_path / "tuned")
    loaded = qf.load(tmp_path / "tuned", device="cpu")
    assert loaded.name == tuned.name and loaded.pretrained == tuned.pretrained and loaded.digest() == tuned.digest()
    assert loaded.predict(own.test).identical(tuned.predict(own.test))


def test_what_pre_training_saw_counts_as_seen(own, start):
    tuned = fit_network(own, "brainlm", pretrained=start, **FEW)
    assert set(tuned.seen) == {"ape/one", "mouse/one"}
    other = split_blocks(cut([toy_session(0, subject="ape")], f0_s=1.0))
    with pytest.raises(LeakageError):
        tuned.check_unseen(other.train)
    tuned.check_unseen(own.test)
    # test trials of this split, on which another split's pre-training learnt
    swapped = split_blocks(cut([toy_session(1)], f0_s=1.0), test=0)
    leaking = fit_network(own, "brainlm", pretrained=pretrain_network(swapped, "brainlm", **TINY, **FEW), **FEW)
    with pytest.raises(LeakageError):
        qf.evaluate([leaking], own)


def test_an_interrupted_pre_training_goes_on_to_the_same_weights(pool, tmp_path, monkeypatch):
    whole, steps, real = pretrain_network(pool, "brainlm", **TINY, **FEW), [], BrainLM.masked_loss

    def loss(self, batch):
        steps.append(None)
        if len(steps) == 14:
            raise KeyboardInterrupt
        return real(self, batch)

    with monkeypatch.context() as m:
        m.setattr(BrainLM, "masked_loss", loss)
        with pytest.raises(KeyboardInterrupt):
            pretrain_network(pool, "brainlm", checkpoint=tmp_path, checkpoint_s=1e-9, **TINY, **FEW)
    assert pretrain_network(pool, "brainlm", checkpoint=tmp_path, **TINY, **FEW).digest() == whole.digest()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"model": "lstm"}, "pretrained: expected a pre-trained lstm, found"),
        ({"pretrained": 3}, "pretrained: expected a pre-trained brainlm, found 3"),
        ({"width": 8}, r"pretrained: expected .* of shape .*Leave out the options of sizes"),
        ({"layers": 3}, r"pretrained: expected .* of shape .*found none"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(change, words, own, start):
    with pytest.raises(QfError, match=words) as told:
        fit_network(own, **{"model": "brainlm", "pretrained": start, **FEW, **change})
    assert "\n" not in str(told.value)
    with pytest.raises(QfError, match=r"baseline_s: expected 3\.0"):
        fit_network(split_blocks(cut([toy_session(1)], f0_s=1.0, baseline_s=2.0)), "brainlm", pretrained=start, **FEW)
    with pytest.raises(QfError, match="token_width: no option of pretrain_network"):
        pretrain_network(own, "brainlm", token_width=3)
    with pytest.raises(QfError, match="model: expected one of brainlm, found 'nlinear'"):
        pretrain_network(own, "nlinear")


def test_the_command_line_pre_trains_and_tunes(tmp_path, capsys):
    store = tmp_path / "store"
    qf.Store(store, create=True).add(toy_session(1))
    common = ["--epochs", "1", "--quiet"]
    small = ["--width", "16", "--layers", "1", "--heads", "2"]
    base, tuned = tmp_path / "base", tmp_path / "tuned"
    assert main(["pretrain", str(store), "--model", "brainlm", "--out", str(base), "--f0", "1", *small, *common]) == 0
    assert main(["fit", str(store), "--model", "brainlm", "--pretrained", str(base), "--out", str(tuned), *common]) == 0
    model = qf.load(tuned, device="cpu")
    assert model.pretrained == qf.load(base, device="cpu").digest() and model.options.width == 16 and model.window.f0_s == 1.0
    assert model.run["options"]["pretrained"] == str(base) and "width" not in model.run["options"]
    capsys.readouterr()  # the warnings of too short a training
    assert "found a pre-trained auto-encoder" in refused(capsys, "evaluate", store, "--model", base)
    assert "expected a network that was pre-trained" in refused(
        capsys, "fit", store, "--model", "brainlm", "--pretrained", tuned, "--out", tmp_path / "x", *common
    )
    assert "expected what `qf pretrain` saved" in refused(capsys, "fit", store, "--pretrained", base, "--out", tmp_path / "x", *common)


# ---------------------------------------------------------------- published weights

CONFIG = {
    "model_type": "brainlm_mae", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0, "decoder_hidden_size": 8, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32, "mask_ratio": 0.2, "timepoint_patching_size": 20, "num_landmarks": 64, "segment_means_seq_len": 64,
    "use_tanh_decoder": False, "qkv_bias": True, "num_brain_voxels": 424, "conv_kernel_size": 65,
}  # fmt: skip


def checkpoint():
    """Tensors under the names of BrainLMForPretraining, random."""
    g = torch.Generator().manual_seed(0)
    sizes = {"vit.embeddings.cls_token": (1, 1, 8), "decoder.mask_token": (1, 1, 8)}
    for name, (o, i) in {
        "vit.embeddings.signal_embedding_projection": (8, 20), "vit.embeddings.xyz_embedding_projection": (8, 3), "decoder.decoder_embed": (8, 8),
        "decoder.decoder_xyz_projection": (8, 3), "decoder.decoder_pred1": (4, 8), "decoder.decoder_pred2": (20, 4),
    }.items():  # fmt: skip
        sizes |= {f"{name}.weight": (o, i), f"{name}.bias": (o,)}
    for name in ("vit.layernorm", "decoder.decoder_norm"):
        sizes |= {f"{name}.weight": (8,), f"{name}.bias": (8,)}
    for stack, n in (("vit.encoder.layer", 2), ("decoder.decoder_layers", 1)):
        for layer in range(n):
            at = f"{stack}.{layer}"
            for part, (o, i) in {
                "attention.self.query": (8, 8), "attention.self.key": (8, 8), "attention.self.value": (8, 8), "attention.output.dense": (8, 8),
                "intermediate.dense": (32, 8), "output.dense": (8, 32),
            }.items():  # fmt: skip
                sizes |= {f"{at}.{part}.weight": (o, i), f"{at}.{part}.bias": (o,)}
            for part in ("attention.output.LayerNorm", "output.LayerNorm"):
                sizes |= {f"{at}.{part}.weight": (8,), f"{at}.{part}.bias": (8,)}
            sizes[f"{at}.attention.self.conv.weight"] = (2, 1, 65, 1)
    return {name: torch.randn(size, generator=g) for name, size in sizes.items()}


def publish(folder, config=CONFIG, tensors=None, name="model.safetensors"):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = checkpoint() if tensors is None else tensors
    if name.endswith("bin"):
        torch.save(tensors, folder / name)
    else:
        save_file(tensors, folder / name)
    return folder


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_published_weights_are_read_and_tuned(name, own, tmp_path):
    found, tensors = load_pretrained(publish(tmp_path / "published", name=name)), checkpoint()
    assert isinstance(found, PretrainedNetwork) and found.options == BrainLMConfig(width=8, layers=2, decoder_layers=1, heads=2)
    at = "vit.encoder.layer.1."
    wanted = torch.cat([tensors[f"{at}attention.self.{n}.weight"] for n in ("query", "key", "value")])
    assert torch.equal(found.weights["encoder.blocks.1.attention.qkv.weight"], wanted)
    for ours, theirs in {
        "project.weight": "vit.embeddings.signal_embedding_projection.weight", "encoder.blocks.1.norm2.bias": f"{at}output.LayerNorm.bias",
        "decoder.blocks.0.ff.0.weight": "decoder.decoder_layers.0.intermediate.dense.weight", "head.2.bias": "decoder.decoder_pred2.bias",
        "norm.weight": "vit.layernorm.weight", "cross.weight": "decoder.decoder_embed.weight",
    }.items():  # fmt: skip
        assert torch.equal(found.weights[ours], tensors[theirs])
    assert torch.equal(found.weights["mask_token"], tensors["decoder.mask_token"][0, 0])
    tuned = fit_network(own, "brainlm", pretrained=found, **FEW)
    assert np.isfinite(tuned.predict(own.test)["forecast"]).all() and tuned.pretrained == found.digest()


def test_the_command_line_tunes_published_weights(tmp_path):
    qf.Store(tmp_path / "store", create=True).add(toy_session(1))
    argv = ["--pretrained", publish(tmp_path / "published"), "--out", tmp_path / "tuned", "--task", "activation", "--epochs", "1", "--quiet"]
    assert main(["fit", str(tmp_path / "store"), "--model", "brainlm", *map(str, argv)]) == 0
    model = qf.load(tmp_path / "tuned", device="cpu")
    assert model.options.width == 8 and model.pretrained == load_pretrained(tmp_path / "published").digest() and list(model.seen) == ["mouse/one"]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"model_type": "vit_mae"}, "expected model_type = brainlm_mae, found 'vit_mae'"),
        ({"num_landmarks": 32}, "expected num_landmarks = 64, found 32"),
        ({"decoder_hidden_size": 16}, "expected decoder_hidden_size = 8, found 16"),
        ({"hidden_size": "many"}, "width: expected a whole number"),
        ({"hidden_size": 16, "decoder_hidden_size": 16, "intermediate_size": 64, "decoder_intermediate_size": 64}, "to make a weight of shape"),
        ({"num_hidden_layers": 3}, "expected the weight vit.encoder.layer.2"),
    ],
)
def test_a_checkpoint_of_other_layers_is_refused_in_a_line(change, words, tmp_path):
    folder = publish(tmp_path / "published", {**CONFIG, **change})
    with pytest.raises(QfError, match=words) as told:
        load_pretrained(folder)
    assert "\n" not in str(told.value) and str(folder) in str(told.value)


class Trap:
    """What runs code where it is unpickled without care."""

    def __reduce__(self):
        return print, ("unpickled",)


def test_damaged_checkpoints_are_refused_and_nothing_in_them_runs(tmp_path, capsys):
    folder = publish(tmp_path / "published")
    (folder / "model.safetensors").write_bytes(b"short")
    with pytest.raises(DamagedFileError, match="can't be read as weights"):
        read_published(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(QfError, match=r"expected model\.safetensors or pytorch_model\.bin, found neither"):
        read_published(folder)
    torch.save({"vit.layernorm.weight": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(DamagedFileError, match="can't be read as weights"):
        read_published(folder)
    assert "unpickled" not in capsys.readouterr().out
    broken = checkpoint()
    broken["vit.layernorm.weight"][0] = np.nan
    with pytest.raises(DamagedFileError, match="no weights can have"):
        read_published(publish(tmp_path / "nan", tensors=broken))
    with pytest.raises(QfError, match=r"found no config\.json"):
        read_published(tmp_path / "empty")
