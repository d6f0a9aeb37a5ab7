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
# # Diagnose a model, and read the result
#
# Does a small language model tell virtue from vice, and grave from slight, somewhere between its
# first block and its last? We ask SmolLM2 (135 million parameters) about 420 sentences. About a
# minute on one core; nothing is downloaded.
#
# The sentences, `scenarios-400`, were written and graded by the author of this package for
# teaching. What you see here is how to read a result, not a result to publish.

# %%
# %matplotlib inline
# %config InlineBackend.figure_formats = ["svg"]
import tempfile
import textwrap

import numpy as np
import transformers
from sae_moral import FOUNDATIONS, diagnose, load_data, load_model

transformers.utils.logging.disable_progress_bar()
data = load_data("scenarios-400")
for i in (0, 70, 200):
    pole, strength = ("virtue", "vice", "neutral")[data.pole[i]], data.typicality[i]
    print(f"{FOUNDATIONS[data.foundation[i]]}, {pole}, strength {strength:.2f}: {data.text[i]}")
data

# %% [markdown]
# Every scenario belongs to one of five foundations and to one pole of it, with a strength of at
# most 1; some are neutral.
#
# ## Measure
#
# Two of the four types of indifference, at every sixth layer. `categorical` asks whether a linear
# reader tells virtue from vice; `gradient`, whether one orders the scenarios of a pole from slight
# to grave. Readers are fitted on some texts and scored on others. `store` keeps the captured
# vectors, so that the model need not run again further down.

# %%
model = load_model("smollm2-135m-instruct")
store = tempfile.mkdtemp()
how = {"layers": "0:30:6", "store": store}
diagnosis = diagnose(model, data, metrics=["categorical", "gradient"], **how)
diagnosis

# %% [markdown]
# Read the lower table from left to right, and do not stop at the value.
#
# - **chance** is what a reader that knows nothing gets: an AUROC of 0.5 (a coin), a rank
#   correlation of 0.
# - **best** is the highest value over the layers that were looked at. The highest of several is
#   flattering; **p** takes that into account: how often do labels that were permuted give a best
#   layer as good as this one? The **interval** does not.
# - **best baseline** is the strongest of the dull explanations: sentence length, opening words, a
#   bag of words, the model's own input embeddings, how pleasant the sentence is. A value above
#   chance and no higher than these says nothing about morality.
# - The **verdict** is one of a few words. *Found*: beyond chance, and beyond every baseline that
#   was run. *Beyond chance*: something is there, and it has not been shown to be more than the dull
#   explanation that is named.
#
# So here the same model gets two verdicts. Grave and slight are read from its vectors better than
# from the words, the embeddings or the pleasantness. Of virtue and vice that has not been shown: a
# reader of mere pleasantness comes too near. It has not been refuted, either. The verdict's own
# sentence says how large a lead would have shown:

# %%
print(textwrap.fill(diagnosis.verdicts["categorical"].sentence, 86))

# %% [markdown]
# ## Look
#
# Each panel is one metric over the layers, with its 95 % interval. Grey is where permuted labels
# lie; the other lines are baselines.

# %%
diagnosis.figure(width=7)

# %% [markdown]
# A line that rises out of the grey band is more than chance. A line that stays above all the others
# is more than they are. Layer 0 is only one block away from the words, so what is there already is
# mostly vocabulary.
#
# ## Which baseline was it?
#
# The comparison is made at the best layer of each, on the same resamples of texts, so that the
# difference has an interval of its own. `outcome` has three values: `more`, `not more` (less than a
# margin apart, shown), and `cannot tell`. It is decided by a one-sided p, so that the interval of a
# close call, as that of the bag of words, may touch 0.

# %%
print(f"{'metric':12} {'against':17} difference  95 % interval")
for one in diagnosis.comparisons:
    interval = f"{one.ci_low:+.2f} to {one.ci_high:+.2f}"
    print(f"{one.metric:12} {one.against:17} {one.difference:+10.2f}  {interval:16}", one.outcome)

# %% [markdown]
# ## Would it find something where there is nothing?
#
# A test of the instrument, not of the model: give every scenario the labels of another one, and
# measure again.

# %%
shuffled = data.relabelled(np.random.default_rng(0).permutation(len(data)))
nothing = diagnose(model, shuffled, metrics=["categorical"], controls=["interval", "null"], **how)
print(textwrap.fill(nothing.answer, 86))
for name, one in (("as they are", diagnosis), ("shuffled", nothing)):
    peak = one.peaks["categorical"]
    print(f"labels {name}: AUROC {peak.value:.2f} (layer {peak.layer}), p = {peak.p_value:.3f}")

# %% [markdown]
# The shuffled labels, too, have a *best* layer above 0.5: the best of five noisy numbers always
# looks a little good. That is why the value alone is not the answer.
#
# ## What this does not prove
#
# - That the model *uses* any of it. A linear reader finds what can be read, whether or not the
#   model acts on it. [Latents and surgery](../latents-and-surgery/) goes on from there.
# - That it is about morality in other texts than these, or in other people's judgement: one author
#   graded 420 sentences.
# - That layers in between are the same: one in six was looked at.
# - Anything about random weights: that control takes longer and is off by default
#   (`controls="all"`).
#
# `diagnosis.report("report.html")` writes all this as a page, `diagnosis.frame` is a table of every
# number, and `diagnosis.save("out")` keeps it. [Controls](../../controls/) says how each number is
# made.
