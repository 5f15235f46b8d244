"""How the demo checkpoint was made: the joint AR and diffusion objective, and the drafter's.

A recipe is a frozen value, `train(recipe, out, resume)` turns it into a folder in the released
checkpoint layout, and `train_drafter` adds the linear-self-speculation LoRA to any such folder.
Nothing here is needed to decode: it computes with the plain backbone of `runtime.reference`, not
with the one that decodes, which makes its held-out measurements an independent check on that one.
"""
