"""Identity: what enters a config_id and what does not."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.config import TrainConfig, seed_of

CONFIG = TrainConfig("digits", "f00d", "cnn", width=4, batch_size=32, data_amount=100, sample_passes=1_000)


def test_the_id_is_pinned():
    """An id written into published zoos never changes."""
    assert CONFIG.canonical_json() == (
        '{"architecture":"cnn","batch_size":32,"data_amount":100,"data_fingerprint":"f00d",'
        '"dataset":"digits","sample_passes":1000,"width":4}'
    )
    assert CONFIG.config_id == "856fbaf545e7d06c"


def test_fields_at_their_default_are_left_out():
    assert dataclasses.replace(CONFIG, label_noise=0.0).config_id == CONFIG.config_id
    assert dataclasses.replace(CONFIG, label_noise=0.1).config_id != CONFIG.config_id


@given(
    st.builds(
        TrainConfig,
        dataset=st.text(min_size=1),
        data_fingerprint=st.just("f"),
        architecture=st.sampled_from(["cnn", "mlp"]),
        width=st.integers(1, 9),
        batch_size=st.integers(1, 9),
        data_amount=st.integers(1, 9),
        sample_passes=st.integers(1, 9),
        learning_rate=st.floats(1e-6, 10),
    )
)
def test_json_round_trip(config):
    assert TrainConfig.from_json(config.canonical_json()) == config


def test_a_field_of_the_future_is_refused():
    with pytest.raises(ValueError, match=r"unknown fields \['dropout'\]: it was written by a newer mdzoo"):
        TrainConfig.from_json('{"dropout":0.1}')


def test_steps():
    assert CONFIG.steps == 31
    assert dataclasses.replace(CONFIG, recipe="paper", sample_passes=300).steps == 3 * 4


def test_streams_are_keyed():
    assert seed_of("a", 1) == seed_of("a", 1) != seed_of("a1")
    assert 0 <= seed_of("a") < 2**63
