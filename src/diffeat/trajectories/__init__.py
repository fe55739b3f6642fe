"""Which noisy latents the denoiser sees: forward noise with several draws, or the clean latent."""

from diffeat.trajectories.forward import Row, forward_rows, noisy_latents
from diffeat.trajectories.noise import keyed_normal

__all__ = ["Row", "forward_rows", "keyed_normal", "noisy_latents"]
