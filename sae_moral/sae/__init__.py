"""SAEs: load community ones, train one on moral scenarios, find moral latents."""

from sae_moral.sae.association import LatentSettings
from sae_moral.sae.compatibility import CommunityRelease, community_saes
from sae_moral.sae.find_latents import find_moral_latents, find_moral_latents_by_layer, fractions_by_layer
from sae_moral.sae.latents import LatentRepresentations, latent_representations
from sae_moral.sae.load import LoadedSae, check_fit, load_sae, load_saes
from sae_moral.sae.moral_latents import MoralLatents
from sae_moral.sae.train import TrainedSaes, train_on, train_saes
from sae_moral.sae.train_config import TrainSettings

__all__ = [
    "CommunityRelease",
    "LatentRepresentations",
    "LatentSettings",
    "LoadedSae",
    "MoralLatents",
    "TrainSettings",
    "TrainedSaes",
    "check_fit",
    "community_saes",
    "find_moral_latents",
    "find_moral_latents_by_layer",
    "fractions_by_layer",
    "latent_representations",
    "load_sae",
    "load_saes",
    "train_on",
    "train_saes",
]
