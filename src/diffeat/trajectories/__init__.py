"""Which latents the denoiser sees: forward noise with several draws, the clean latent, or the path between both."""

from diffeat.trajectories.forward import Row, drawn_ahead, drawn_for, forward_rows, noisy_latents
from diffeat.trajectories.noise import Draw, NoiseSource, keyed_normal, own_noise
from diffeat.trajectories.ode import Guidance, OdeStep, Walk, ode_steps, unconditional_rows, walk
from diffeat.trajectories.roundtrip import RoundTrip, round_trip

__all__ = [
    "Draw",
    "Guidance",
    "NoiseSource",
    "OdeStep",
    "RoundTrip",
    "Row",
    "Walk",
    "drawn_ahead",
    "drawn_for",
    "forward_rows",
    "keyed_normal",
    "noisy_latents",
    "ode_steps",
    "own_noise",
    "round_trip",
    "unconditional_rows",
    "walk",
]
