# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Moral latents, and surgery
#
# Which latents of a sparse autoencoder (SAE) carry morality, what happens when they are operated
# on, and does the model's judgement change? A small SAE of SmolLM2 is trained on the spot, because
# this page needs no download; with a community SAE you would begin at the second heading. About a
# minute and a half on one core.
#
# The sentences, `scenarios-400`, are for teaching. The SAE is far too small and the texts far too
# few to say anything about the model: what you see is how the numbers are to be read.
#
# ## An SAE

# %%
# %matplotlib inline
# %config InlineBackend.figure_formats = ["svg"]
import tempfile
from pathlib import Path

import transformers
from sae_moral import load_data, load_model
from sae_moral.sae import TrainSettings, find_moral_latents, load_sae, train_saes

transformers.utils.logging.disable_progress_bar()
model, data = load_model("smollm2-135m-instruct"), load_data("scenarios-400")
folder, layer = Path(tempfile.mkdtemp()), 12
settings = TrainSettings(architecture="batchtopk", expansion=2, target_l0=32, steps=200)
trained = train_saes(model, data, layer, settings, out=folder / "saes", splice_texts=0)
print(trained.summary())

# %% [markdown]
# `train_ev` and `held_out_ev` are the shares of variance that the SAE gives back, on texts that it
# was trained on and on others. The gap between them is over-fitting: about 5,000 tokens are very
# few. `l0` is how many latents are active in a token.
#
# ## Moral latents
#
# Latents are chosen on one part of the texts and measured on another. Two rules do it side by side,
# and both of them once more on **permuted labels**, where there is nothing to find.

# %%
sae = load_sae(folder / "saes" / f"blocks.{layer}.hook_resid_post", model=model)
moral = find_moral_latents(sae, model, data)
share = moral.fractions()
print(f"{len(moral)} latents{'':8} {'called moral':>14} {'with permuted labels':>22}")
for name, rule in (("audited rule", "audited"), ("the paper's rule", "paper")):
    print(f"{name:20} {share[rule]:>14.1%} {share[f'{rule}_null']:>22.1%}")
hold = share["audited_replicated"]
print(f"{hold:.0%} of the audited rule's finds hold on the other texts")

# %% [markdown]
# Read the second column first. A rule that calls as many latents moral when labels are permuted
# finds nothing, however many it finds: plain correlations over a few hundred sentences exceed 0.1
# by luck. The audited rule asks for more (correction for the number of tests, one foundation alone,
# both halves of the texts), and finds next to none where there is nothing.
#
# Then the last line. A latent that was chosen because it correlates on these texts will correlate
# less on others. Those that hold are the ones to look at, by what they fire on:

# %%
rows = sorted(
    moral.rows(moral.latents()), key=lambda row: (-row["replicated"], -(row["partial_r"] or 0))
)
for row in rows[:3]:
    interval = f"{row['ci_low']:.2f} to {row['ci_high']:.2f}"
    print(f"\nlatent {row['latent']}, {row['dimension']}: r = {row['partial_r']:.2f} ({interval})")
    print(f"on the other texts; active in {row['firing']:.0%} of them, and highest on")
    for one in moral.top[str(row["latent"])][:4]:
        print("   ", one["text"])

# %% [markdown]
# These three are latents of one topic: tombs, icons, temples and psalms, whoever honours or defiles
# them. Among our sentences that topic goes with sanctity, and a latent of the topic correlates with
# the label. So it is with real data: a latent for police is one for authority. Neither the
# correlation nor its interval tells the two apart; the sentences do.
#
# In the map each point is a moral latent of that foundation: its correlation, on the other texts,
# with virtue (across) and with vice (up). One that separates the poles lies far from the diagonal;
# one near it is about the foundation's topic, whoever does right or wrong.

# %%
from sae_moral.studies import result_figure

result_figure(moral.save(folder / "latents"), width=7)

# %% [markdown]
# ## Surgery
#
# Only the moral latents are trained. Their encoders learn to *read* the labels, and their decoder
# rows gain a *write*: what virtuous scenarios have and vicious ones have not. The language model is
# not touched, and all other latents stay as they are.

# %%
from sae_moral.surgery import operate, summary

operation = operate(sae, moral, model, data, write="shared")
print(summary(operation))

# %% [markdown]
# Every number is of test scenarios, on which nothing was chosen or trained, with an interval over
# texts. Look at the intervals of the **change**. Those of reading and polarity lean to the right
# side and hold 0: with a tenth of 420 sentences nothing has been shown. `explained_variance` and
# `reconstruction_error` are the price, how much worse the SAE gives back what it read, and that is
# certain.
#
# ## Does judgement change?
#
# Add the edit to the model's stream, at a strength that costs 0.02 nats per token on neutral text,
# and read the next word after held-out scenarios. Beside it stand two **twins** at the same damage:
# the same latents, gates and norms, with decoder rows turned in a random direction.

# %%
from sae_moral.controls.draws import resamples
from sae_moral.data import group_split
from sae_moral.steering import (
    Steering,
    at_kl,
    margin_effect,
    measure,
    neutral_texts,
    rotated,
    written,
)

test = data.subset(group_split(data)["test"])
write = written(operation)
arms = {"operated": write, **{f"rotated {seed}": rotated(write, seed) for seed in range(2)}}
unsteered, weights = measure(model, test)["morally"], resamples(test, 1000)
effects = {}
for name, arm in arms.items():
    steering = at_kl(model, Steering(arm, 1.0), 0.02, neutral_texts()[:12])
    effects[name] = margin_effect(
        measure(model, test, steering)["morally"], unsteered, test, weights
    )
    auroc, change = effects[name].auroc, effects[name].auroc_change
    interval = f"{change.low:+.3f} to {change.high:+.3f}"
    print(f"{name:10} AUROC {auroc.value:.3f}, changed by {change.value:+.3f} ({interval})")

# %% [markdown]
# The AUROC is the chance that the model's next word approves more of a virtuous scenario than of a
# vicious one. The operation has done something to judgement if its change is above 0 with its
# interval, **and** more than the twins' are. Here neither holds: random directions of the same
# damage do as much. Without the twins, the first line alone could have been told as a small
# success.
#
# ## What this does not prove
#
# - That surgery works, or that it does not: one layer, one small SAE, two twins and 42 test
#   sentences. `sae-moral sweep` runs layers, seeds and nineteen or more rotations, and gives a
#   p-value. [Steering, measured](../../results/steering/) is such a run.
# - That the latents *mean* their dimension. See the sentences they fire on.
# - That a change of the next word is a change of conduct. [Flames](../../flames/) asks that.
