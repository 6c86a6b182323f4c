"""Packed logits: what truncation costs, exactly; a cache gives the loss of the live teacher."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.distillation import (
    CacheSource,
    build_cache,
    distillation_loss,
    forward_kl,
    next_labels,
    pack_top_k,
    packed_kl,
    read_cache,
    weights_hash,
    write_cache,
)
from course_utils.models import DecoderLM, ModelConfig

SOURCE = CacheSource("teacher", "tokenizer", "corpus")


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 2**31), st.integers(1, 10), st.floats(0.5, 4))
def test_lumping_costs_the_divergence_of_the_tails_and_no_more(seed, k, T):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 3, 12, generator=generator) * 2
    packed = pack_top_k(teacher, k, T, dtype=torch.float32)
    missing = forward_kl(student, teacher, T) - packed_kl(student, packed, T)
    p, q = ((z / T).log_softmax(-1) for z in (teacher, student))
    hide = packed.ids_BTK.long()
    tail_p, tail_q = (x.exp().scatter(-1, hide, 0.0) for x in (p, q))
    mass = tail_p.sum(-1)
    tails = torch.xlogy(tail_p, tail_p / mass[:, None]) - torch.xlogy(
        tail_p, tail_q / tail_q.sum(-1, True)
    )
    torch.testing.assert_close(missing, tails.sum(-1), rtol=1e-3, atol=1e-4)
    assert (missing > -1e-5).all()


@pytest.mark.parametrize("k", [0, 12, 13])
def test_k_that_cannot_be(k):
    with pytest.raises(ValueError, match=f"k is {k}: it must be at least 1 and less than"):
        pack_top_k(torch.zeros(1, 12), k)


def test_another_temperature_is_refused():
    packed = pack_top_k(torch.randn(2, 12), 3, 2.0)
    with pytest.raises(ValueError, match=r"packed at temperature 2.0, and the loss asks for 1.0"):
        packed_kl(torch.zeros(2, 12), packed)


@pytest.fixture(scope="module")
def teacher():
    model = DecoderLM(ModelConfig(50, 16, 24, 2, 2, 1, 8, 32), seed=1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4)
    return model


def test_a_cache_on_disk_gives_the_loss_of_the_live_teacher(teacher, tmp_path):
    windows = torch.randint(50, (5, 9), generator=torch.Generator().manual_seed(0))
    cache = build_cache(teacher, windows, 49, SOURCE, batch=2)
    size = write_cache(cache, tmp_path / "cache.safetensors")
    assert cache.nbytes == 5 * 9 * (2 + 49 * 4 + 2)
    assert cache.nbytes < size < cache.nbytes + 1000
    again = read_cache(tmp_path / "cache.safetensors", SOURCE)
    ids, packed = again.rows(torch.tensor([3, 1]))
    assert torch.equal(ids, windows[[3, 1]])
    student, labels = torch.randn(2, 9, 50), next_labels(ids)
    with torch.no_grad():
        live = distillation_loss(student, teacher(ids), labels)
    cached = distillation_loss(student, packed, labels, divergence=packed_kl)
    assert cached.item() == pytest.approx(live.item(), abs=2e-3)  # 16 bits


@pytest.mark.parametrize("name", ["teacher", "tokenizer", "corpus"])
def test_a_cache_of_something_else_is_refused_by_name(teacher, tmp_path, name):
    path = tmp_path / "cache.safetensors"
    write_cache(build_cache(teacher, torch.zeros(1, 4, dtype=torch.long), 2, SOURCE), path)
    with pytest.raises(ValueError, match=f"made with another {name} "):
        read_cache(path, replace(SOURCE, **{name: "other"}))


def test_files_that_are_no_cache(tmp_path):
    for name, content in (("empty", b""), ("text", b"hello there, no cache")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="not a readable cache"):
            read_cache(tmp_path / name, SOURCE)


def test_one_changed_weight_is_another_teacher(teacher):
    before = weights_hash(teacher)
    weight = teacher.model.norm.weight
    with torch.no_grad():
        weight[0] += 1e-3
    assert weights_hash(teacher) != before
    with torch.no_grad():
        weight[0] -= 1e-3
