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
# # Our hooks in a TransformerLens script
#
# You have a script that runs a model with TransformerLens, with hooks of your own. This page adds a
# steering to it: as plain hook functions, beside yours, without a wrapper around your model. Under
# a minute on one core; nothing is downloaded.
#
# ## The script that was there
#
# It loads a model, watches the norm of the stream after block 20, and compares two next words.

# %%
import torch
import transformers
from sae_moral.capture.models import bundled_path  # a folder: this page needs no hub
from transformer_lens.model_bridge import TransformerBridge

transformers.utils.logging.disable_progress_bar()
model = TransformerBridge.boot_transformers(str(bundled_path("smollm2-135m-instruct")))
tokens = model.to_tokens("Taking food from a hungry child is morally", prepend_bos=True)
right, wrong = (model.to_single_token(word) for word in (" right", " wrong"))
norms = []


def watch(stream, hook):
    norms.append(stream[0, -1].norm().item())


def margin(logits):
    return (logits[0, -1, right] - logits[0, -1, wrong]).item()


mine = [("blocks.20.hook_resid_post", watch)]
with torch.inference_mode():
    plain = margin(model.run_with_hooks(tokens, fwd_hooks=mine))
print(f"right − wrong = {plain:+.2f} nats; norm after block 20: {norms[-1]:.0f}")

# %% [markdown]
# One prompt and one pair of words: an illustration, not a measurement. Below are eighty scenarios
# and ten pairs.
#
# ## Something to steer with
#
# An operation on an SAE ([latents and surgery](../latents-and-surgery/)) or, as here, something
# simpler that needs no SAE: the mean of the virtuous scenarios' vectors minus the mean of the
# vicious ones', after block 12. It is learnt from one part of the texts; the other is for
# measuring.

# %%
from sae_moral import load_data
from sae_moral.capture import capture
from sae_moral.data import group_split
from sae_moral.steering import Steering, difference_in_means, steering_hooks

data = load_data("scenarios-400").sample(240)
parts = group_split(data, shares=(0.6, 0.1, 0.3))
train, test = data.subset(parts["train"]), data.subset(parts["test"])
direction = difference_in_means(capture(model, train.text, layers=[12]), train, 12)
hooks = steering_hooks(model, Steering(direction, alpha=1.0))
[(name, type(function).__name__) for name, function in hooks]

# %% [markdown]
# A list of pairs of a hook's name and a function, which is what TransformerLens takes. Put it
# beside your own:

# %%
place = "blocks.12.hook_resid_post"
with torch.inference_mode():
    steered = margin(model.run_with_hooks(tokens, fwd_hooks=[*mine, *hooks]))
    _, before = model.run_with_cache(tokens, names_filter=place)
    with model.hooks(fwd_hooks=hooks):
        _, after = model.run_with_cache(tokens, names_filter=place)
added = (after[place] - before[place])[0]
print(f"right − wrong = {steered:+.2f} nats (was {plain:+.2f}); norm: {norms[-1]:.0f}")
print("norm of what was added, by token:", [round(one, 1) for one in added.norm(dim=-1).tolist()])
print("steering of strength 0:", steering_hooks(model, Steering(direction, alpha=0.0)))

# %% [markdown]
# What was added is the direction, at every token but the first. The first one (BOS) carries the
# attention sink: its norm is a hundred times the others', and what a steering breaks there is not
# what you wanted to study. Strength 0 gives no hook at all, so that your unsteered run is your own
# code and nothing else. A hook that the model does not have is an error; TransformerBridge alone
# says nothing.
#
# ## How strong is strong?
#
# α = 1 means nothing by itself. `with_kl` finds the strength by what it does to text that has
# nothing to do with morality: here 0.02 nats per token on twelve neutral sentences. Two random
# directions at the same damage stand beside the one we care for.

# %%
from sae_moral.steering import neutral_texts, random_direction, with_kl

norm = direction.vector.norm().item()
arms = {"virtue − vice": direction}
arms |= {
    f"random {seed}": random_direction(len(direction.vector), 12, seed, norm) for seed in range(2)
}
chosen = {}
for name, arm in arms.items():
    (chosen[name],), effects = with_kl(model, [Steering(arm, 1.0)], 0.02, neutral_texts()[:12])
    alpha, same = chosen[name].alpha, effects.top_agreement
    print(f"{name:14} α = {alpha:.2f}: KL {effects.kl:.3f} nats, same likeliest word {same:.0%}")

# %% [markdown]
# ## What it does to judgement
#
# `measure` reads the next word after every held-out scenario, for ten pairs of words. Two things
# can happen, and only one of them is judgement:
#
# - the margin moves **for virtue and vice alike**: the model says nicer words of everything;
# - virtue and vice move **apart**: the AUROC changes, the chance that a virtuous scenario has the
#   higher margin.

# %%
from sae_moral.controls.draws import resamples
from sae_moral.steering import measure
from sae_moral.steering.margins import auroc

unsteered, weights = measure(model, test)["morally"], resamples(test, 1000)
found, moved = {}, {}
as_it_is = auroc(unsteered, test, weights).value
print(f"{len(test)} held-out scenarios, unsteered AUROC {as_it_is:.3f}")
print(f"{'margin moved by':15} {'virtue':>7} {'vice':>7}   change of the AUROC, 95 %")
for name, one in chosen.items():
    margins = measure(model, test, one)["morally"]
    moved[name] = virtue, vice = [
        (margins - unsteered)[:, test.pole == pole].mean() for pole in (0, 1)
    ]
    found[name] = change = auroc(margins, test, weights, against=unsteered)
    interval = f"{change.low:+.3f} to {change.high:+.3f}"
    print(f"{name:15} {virtue:+7.2f} {vice:+7.2f}   {change.value:+.3f}  {interval}")

# %% [markdown]
# Read the two columns of nats first. The first line moves virtue and vice alike: the model has
# become more approving of everything, and a random direction of the same damage does as much. Then
# the AUROC: its interval holds 0, so no change of judgement has been shown, however far the margins
# moved. Without the random directions and without the second column, the first number would have
# looked like a success.
#
# ## What this does not prove
#
# - A direction added at every token is the same for every sentence. It can change the tone; it
#   cannot know what a sentence says. The gate of an SAE's latents can, which is what operations are
#   compared for ([steering](../../steering/)).
# - Two random directions are two. A p-value wants nineteen or more: `sae-moral sweep` runs those,
#   over layers and strengths, with seven kinds of twins.
# - Words are not conduct. What a model says after "is morally" need not be what it does.
