"""The MTP module: DeepSeek-V3's equations, its count, its cache, its training."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from course_utils.accounting.families.course import read_course
from course_utils.accounting.reading import Keys
from course_utils.accounting.spec import MultiTokenPrediction
from course_utils.generation.mtp import MTPModule, mtp_input, mtp_loss, save_mtp, shipped_mtp
from course_utils.generation.mtp_training import FrozenTrunk, JointMTP, MTPLoss
from course_utils.models import DecoderLM, ModelConfig, save_checkpoint
from course_utils.moe import MoEConfig
from course_utils.training import TrainingConfig, next_token_loss, train

CONFIG = ModelConfig(23, 8, 12, 2, 4, 2, 4, 32)


def randomise(module, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.double().parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator).double())
    return module.eval()


@pytest.fixture
def pair():
    return randomise(DecoderLM(CONFIG), 0), randomise(MTPModule(CONFIG), 1)


def test_the_input_is_the_reports_equation(pair):
    trunk, mtp = pair
    ids = torch.randint(23, (2, 6))
    hidden = trunk.hidden(ids)[:, :-1]
    table = trunk.model.embed_tokens.weight
    x = mtp_input(hidden, ids, table, mtp.enorm, mtp.hnorm, mtp.eh_proj)
    for b in range(2):
        for t in range(5):
            embedded = F.rms_norm(table[ids[b, t + 1]], (8,), mtp.enorm.weight, 1e-6)
            vector = F.rms_norm(hidden[b, t], (8,), mtp.hnorm.weight, 1e-6)
            by_hand = mtp.eh_proj.weight @ torch.cat([embedded, vector])
            assert torch.allclose(x[b, t], by_hand, atol=1e-12)


def test_the_loss_judges_the_token_after_the_next():
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    logits = torch.full((1, 4, 6), -50.0)
    for place, answer in enumerate((4, 1, 5)):
        logits[0, place, answer] = 50.0
    assert mtp_loss(logits, ids) < 1e-6
    logits[0, 3] = torch.randn(6)  # its answer is not in the text
    assert mtp_loss(logits, ids) < 1e-6
    with pytest.raises(ValueError, match="expected"):
        mtp_loss(logits[:, :3], ids)


@pytest.mark.parametrize("moe", [None, MoEConfig(4, 2, 6, n_shared_experts=1)])
def test_it_has_as_many_weights_as_accounting_says(moe):
    config = replace(CONFIG, moe=moe)
    mtp = MTPModule(config)
    spec = read_course(Keys(config.to_dict()))
    counted = replace(spec, mtp=MultiTokenPrediction(1, spec.layers[-1], False)).mtp_count()
    held = sum(w.numel() for w in (*mtp.parameters(), *mtp.buffers()))
    assert counted.total == held


def test_names_are_those_of_deepseeks_checkpoint(pair):
    names = set(pair[1].state_dict())
    assert {"enorm.weight", "hnorm.weight", "eh_proj.weight", "norm.weight"} <= names
    assert {n for n in names if n.startswith("layer.self_attn.")}
    assert not any("embed_tokens" in name or "head" in name for name in names)


def test_with_a_cache_it_gives_the_same_vectors_in_pieces(pair):
    trunk, mtp = pair
    ids = torch.randint(23, (1, 10))
    hidden = trunk.hidden(ids)
    whole = mtp(trunk, hidden[:, :9], ids)
    cache, pieces, start = mtp.new_cache(capacity=9), [], 0
    for size in (4, 1, 3, 1):
        end = start + size
        pieces.append(mtp(trunk, hidden[:, start:end], ids[:, start : end + 1], cache))
        start = end
    assert torch.allclose(torch.cat(pieces, 1), whole, atol=1e-10)
    assert cache.length == 9


def test_a_later_token_changes_nothing_before_it(pair):
    trunk, mtp = pair
    ids = torch.randint(23, (1, 8))
    other = ids.clone()
    other[0, 5] = (other[0, 5] + 1) % 23
    one, two = (mtp.logits(trunk, mtp(trunk, trunk.hidden(i)[:, :-1], i)) for i in (ids, other))
    assert torch.allclose(one[:, :4], two[:, :4], atol=1e-12)
    assert not torch.allclose(one[:, 4], two[:, 4])  # place 4 reads token 5


def stream():
    """A text in which every token follows from the one before it."""
    return (torch.arange(4000) * 7) % 23


def test_frozen_training_moves_the_module_alone():
    trunk = randomise(DecoderLM(CONFIG), 0).float()
    before = {name: w.clone() for name, w in trunk.state_dict().items()}
    config = TrainingConfig(60, 8, 16, 1e-2, 5)
    model = FrozenTrunk(trunk, MTPModule(CONFIG))
    state = train(model, stream(), config, loss_function=mtp_loss, progress=False)
    assert state.losses[-1] < 0.5 * state.losses[0]
    assert all(torch.equal(before[name], w) for name, w in trunk.state_dict().items())


def test_joint_training_adds_the_weighted_loss_and_records_the_trunks():
    ids = stream()[:32].view(2, 16)
    model = JointMTP(DecoderLM(CONFIG), MTPModule(CONFIG))
    trunk_loss = next_token_loss(model(ids), ids)
    assert torch.allclose(trunk_loss, next_token_loss(model.trunk(ids), ids))
    own = mtp_loss(FrozenTrunk(model.trunk, model.mtp)(ids), ids)
    assert torch.allclose(MTPLoss(0.3)(model), 0.3 * own)
    model.trunk.requires_grad_(True)
    config = TrainingConfig(60, 8, 16, 1e-2, 5)
    state = train(model, stream(), config, extra_losses=[MTPLoss(0.3)], progress=False)
    assert state.losses[0] == pytest.approx(3.13, abs=0.2)  # ln 23, without the extra loss
    assert state.losses[-1] < 0.5 * state.losses[0]
    assert MTPLoss(1.0)(model) < 0.5 * own


def test_files_keep_the_module_and_refuse_others(tmp_path, pair):
    mtp, path = MTPModule(CONFIG, seed=3), tmp_path / "m.safetensors"
    save_mtp(mtp, path, {"base": "dense"})
    again = shipped_mtp(path)
    for one, two in zip(mtp.parameters(), again.parameters(), strict=True):
        assert torch.equal(one.bfloat16().float(), two)
    with pytest.raises(ValueError, match="does not hold an MTP module"):
        save_checkpoint(DecoderLM(CONFIG), tmp_path / "dense.safetensors", {})
        shipped_mtp(tmp_path / "dense.safetensors")
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        shipped_mtp(tmp_path / "nothing.safetensors")
