"""Properties of activations that are made with known noise, known fineness and a known share of position."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffeat.studies.selection.meter import Meter, concentration
from support.selection import CHANNELS, SIDE, below, blocks, made, measured


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_noise_share_is_measured(share: float) -> None:
    found = measured(made(noise=share))
    for value in (found.noise, found.noise_low, found.noise_fine):
        assert value == pytest.approx(share, abs=0.04)


def test_noise_is_told_apart_by_band() -> None:
    found = measured(made(noise=0.5, noise_form=below(4)))
    # all of the noise lies in the low band, the picture's own variance is spread over all
    low = torch.hypot(*torch.meshgrid(*[torch.fft.fftfreq(SIDE, 1 / SIDE)] * 2, indexing="ij")).round() <= 4
    share_low = low.float().mean().item()
    assert found.noise_low == pytest.approx(0.5 / (0.5 + 0.5 * share_low), abs=0.04)
    assert found.noise_fine == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize("side", [2, 4, 7, 32])
def test_fine_noise_is_measured_on_every_grid(side: int) -> None:
    """Content is constant over each picture, so all that varies within one is noise."""
    generator = torch.Generator().manual_seed(0)
    meter = Meter(8, (side, side))
    for _ in range(4):
        content = torch.randn(8, 1, 1, generator=generator).expand(8, side, side)
        meter.add(content + torch.randn(3, 8, side, side, generator=generator))
    assert meter.result().noise_fine > 0.9


@pytest.mark.parametrize("share", [0.0, 0.25, 0.75])
@pytest.mark.parametrize("noise", [0.0, 0.6])
def test_position_share_is_measured(share: float, noise: float) -> None:
    assert measured(made(noise=noise, position=share)).position == pytest.approx(share, abs=0.06)


@pytest.mark.parametrize("cycles", [2, 4, 6])
def test_effective_resolution_is_that_of_the_content_not_of_the_noise(cycles: int) -> None:
    found = measured(made(noise=0.3, content=below(cycles)))
    # equal energy at every coefficient of a disc: 90 % lie within √0.9 of its radius
    assert found.resolution == pytest.approx(2 * (cycles + 0.5) * math.sqrt(0.9), abs=1.0)
    assert found.granularity == pytest.approx(found.resolution / SIDE)


def test_halving_loses_what_is_finer_than_two_cells() -> None:
    assert measured(made(noise=0.3, content=blocks)).halving == pytest.approx(0, abs=0.03)
    assert measured(made(noise=0.3)).halving == pytest.approx(0.75, abs=0.03)


def test_concentration_of_places_and_of_noise() -> None:
    y, x = torch.meshgrid(torch.linspace(0, 1, SIDE), torch.linspace(0, 1, SIDE), indexing="ij")
    angles = torch.arange(1, 9)[:, None, None]
    place = torch.cat([torch.cos(angles * x), torch.sin(angles * x), torch.cos(angles * y), torch.sin(angles * y)])
    assert concentration(place) > 0.7
    assert concentration(torch.randn(64, SIDE, SIDE, generator=torch.Generator().manual_seed(0))) < 0.05


def test_a_loud_channel_does_not_speak_for_the_others() -> None:
    quiet = made(noise=0.2)
    loud = [m.clone() for m in quiet]
    for m in loud:
        m[:, 0] *= 1000
    assert measured(loud).noise == pytest.approx(measured(quiet).noise, abs=0.01)


def test_facts() -> None:
    maps = made(noise=0.2)
    for m in maps:
        m[:, :12] = 3.0  # a quarter of the channels says nothing
        m[:, 20] *= 500
    found = measured(maps)
    assert found.dead == pytest.approx(12 / CHANNELS)
    assert found.massive == 1
    assert found.largest > 100
    assert measured(made()).kurtosis == pytest.approx(0, abs=0.1)

    # the Laplace distribution has excess kurtosis 3
    def laplace(x: Tensor) -> Tensor:
        uniform = torch.special.ndtr(x.double()) - 0.5
        return (-uniform.sign() * torch.log1p(-2 * uniform.abs() + 1e-12)).float()

    assert measured(made(content=laplace)).kurtosis == pytest.approx(3, abs=0.4)


def test_grids_that_are_not_square_and_tiny_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    for grid in ((2, 2), (4, 6), (7, 20)):
        base = [torch.randn(1, 8, *grid, generator=generator) for _ in range(12)]
        found = measured([b + torch.randn(3, 8, *grid, generator=generator) for b in base])
        assert found.noise == pytest.approx(0.5, abs=0.15)
        assert 0 <= found.granularity <= 1
