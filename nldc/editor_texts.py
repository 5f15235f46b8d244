"""What an editor shows over the keys, the ops and the words of a strategy file, in plain words.

Texts go by the models of `nldc.schema` and `nldc.editor_schema`, and their keys. A section is a
heading of docs/language.md, as links name it. Where engines differ the texts are those of
`nldc.ir.attributes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """What a mapping of the file is, where it is described, and what its keys are.

    `values` has what each word means that a key takes, for keys that take words.
    """

    text: str
    section: str
    keys: Mapping[str, str]
    values: Mapping[str, Mapping[str, str]]


def _model(
    text: str,
    section: str,
    keys: Mapping[str, str] | None = None,
    **values: Mapping[str, str],
) -> Model:
    return Model(text, section, keys or {}, values)


_VERSION = "The version of the language: 1."
_NAME = "What the strategy is called: a letter, then letters, digits and `_`, at most 64."
_SUMMARY = "What it does, in one sentence; `nldc strategies` shows it."
_GUARANTEE = "What the file promises of its output. A promise that cannot be proved is refused."
_GUARANTEES = {
    "exact": "every token is the one that AR gives, greedy or sampled; `nldc check` proves it",
    "distribution": "tokens are distributed as AR's are",
    "none": "nothing is promised: the strategy is a sampler of its own",
}
_COMPAT = "The engine whose choices are taken where engines differ and the file says nothing."
_COMPATS = {
    "hf": "the loops released with the checkpoints",
    "sglang": "SGLang's FastDiffuser",
    "vllm": "vLLM's masked block diffusion",
    "mlx": "MLX's diffusionGenerate",
}
_PARAMS = "Numbers by name that expressions may use; `--set NAME=VALUE` gives another value."
_ADAPTERS = "Weights beside the model's, by name: LoRAs and trained samplers."
_LIMITS = "The most that a step may launch and wait for; a step that may take more is refused."
_PREFILL = "Nodes that run once, on the prompt, by name."
_CARRY = "What survives a step, by name, and what it begins as: a node of the prefill, or a Count."
_STEP = "Nodes that run again and again until every sequence is done, by name."
_STEPS = "Several steps by name, of which `route` says when each is taken."
_ROUTE = "When each step is taken: the first whose condition holds, else the last."
_FRAGMENTS = "Nodes under a name, for this file and others to include."
_HELP = "What it is for, in a few words."
_DEFAULT = "The value where nobody gives another."
_MIN, _MAX = "The least value that may be given.", "The largest value that may be given."
_RUNTIME = "Whether every request may bring a value within the bounds; none is compiled in then."
_NODE = "The op of the node. "
_LOGITS = "Logits, as a forward or a mix yields them."
_ROWS = "The rows, as `rows`, `fill`, `mask` or a loop yields them."
_MASK_WHERE = "Which rows: a choice of them, as `select` yields it."
_ADAPTER = "A declared LoRA: by name for all rows, or `{NAME: CONDITION}` for some."
_POSITION = (
    "Offset of each row from the end of the prefix, over facts of rows; by default its number."
)
_ATTENTION = (
    "Which rows see which: `causal`, `bidirectional`, or a condition over the query row q and the "
    'key row k, as in "k.prefix or k.group == q.group".'
)
_ATTENTIONS = {
    "causal": "each row sees the prefix, the rows before it and itself",
    "bidirectional": "every row sees the prefix and all rows",
}
_TEMPERATURE = "A drafter's own temperature, in place of the request's; 0 is greedy."
_AT_MOST_ROUNDS = "The most rounds of the loop."
_ROUNDS = {"0": "a loop whose rows are full already is passed over", "1": "one round at least"}

MODELS: Mapping[str, Model] = {
    "Strategy": _model(
        "A strategy, written in full.",
        "the-strategy-language",
        {
            "nldc": _VERSION,
            "name": _NAME,
            "summary": _SUMMARY,
            "guarantee": _GUARANTEE,
            "compat": _COMPAT,
            "params": _PARAMS,
            "adapters": _ADAPTERS,
            "limits": _LIMITS,
            "prefill": _PREFILL,
            "carry": _CARRY,
            "step": _STEP,
            "steps": _STEPS,
            "route": _ROUTE,
            "fragments": _FRAGMENTS,
        },
        guarantee=_GUARANTEES,
        compat=_COMPATS,
    ),
    "Variant": _model(
        "A strategy that extends another, and writes only what differs; null takes away.",
        "a-file-that-extends-another",
        {
            "nldc": _VERSION,
            "name": _NAME,
            "extends": "What it starts from: a strategy of the library, package:name of an "
            "installed package, or a path below this file's folder.",
            "summary": _SUMMARY,
            "guarantee": _GUARANTEE,
            "compat": _COMPAT,
            "params": f"{_PARAMS} With a `type` one is declared anew; null takes it away.",
            "adapters": _ADAPTERS,
            "limits": _LIMITS,
            "prefill": _PREFILL,
            "carry": _CARRY,
            "step": _STEP,
            "steps": _STEPS,
            "route": _ROUTE,
            "fragments": _FRAGMENTS,
        },
        guarantee=_GUARANTEES,
        compat=_COMPATS,
    ),
    "FragmentFile": _model(
        "A file that holds fragments only, for strategies to include.",
        "fragments",
        {"nldc": _VERSION, "fragments": _FRAGMENTS},
    ),
    "Change": _model(
        "Other keys for what is extended: those that are left out stay, null takes one away.",
        "a-file-that-extends-another",
    ),
    "ChangedRegion": _model(
        "What differs: nodes with an `op` are new or replaced, others change, null takes away.",
        "a-file-that-extends-another",
    ),
    "Fragment": _model(
        "Nodes under a name, for strategies to include: they see what is taken, and nothing else.",
        "fragments",
        {
            "help": _HELP,
            "params": "Numbers of its own, each with a default; `with` gives others.",
            "takes": "Values, adapters or profiles of the strategy, that `with` must give.",
            "nodes": "Its nodes, by name.",
            "yields": "The node whose value the include has.",
        },
    ),
    "Include": _model(
        "The nodes of a fragment, under names that meet no others; it has the value of one.",
        "fragments",
        {
            "include": "FILE#FRAGMENT: a path below this file's folder, a strategy of the "
            "library, or package:name; `#FRAGMENT` is one of this file.",
            "with": "All that the fragment takes, and numbers for its params, by name.",
        },
    ),
    "IntParam": _model(
        "A whole number that is compiled in, or that requests bring.",
        "params",
        {
            "type": "`int`: a whole number.",
            "default": _DEFAULT,
            "min": _MIN,
            "max": _MAX,
            "checkpoint": "The key of the checkpoint's config that it follows unless it is set.",
            "runtime": _RUNTIME,
            "help": _HELP,
        },
    ),
    "FloatParam": _model(
        "A real number that is compiled in, or that requests bring.",
        "params",
        {
            "type": "`float`: a real number.",
            "default": _DEFAULT,
            "min": _MIN,
            "max": _MAX,
            "runtime": _RUNTIME,
            "help": _HELP,
        },
    ),
    "ProfileParam": _model(
        "An acceptance profile, which `--acceptance FILE` replaces; masks are dealt by it.",
        "acceptance-profiles",
        {
            "type": "`profile`: counts of steps by the tokens that they accepted.",
            "default": "Lists of the steps that accepted 1, 2, … tokens: the first for those "
            "after a step that accepted one, the second for those after two, and so on.",
            "help": _HELP,
        },
    ),
    "Adapter": _model(
        "Weights beside the model's, which forwards or `safety` use by name.",
        "adapters-and-samplers",
        {
            "kind": "What they are.",
            "optional": "Whether a checkpoint may lack it: then base weights compute.",
            "help": _HELP,
        },
        kind={
            "lora": "a LoRA that forwards switch on",
            "sampler": "a small network that says which rows are safe to commit",
        },
    ),
    "Limits": _model(
        "The most that a step may count, its loops with as many rounds as they may take.",
        "limits",
        {
            "launches": "Calls that start work on the device.",
            "host_waits": "Where the host waits for the device.",
            "device_waits": "Where the device waits for the host in the midst of a step.",
        },
    ),
    "Prefill": _model(
        "Nodes by name that run once, on `$prompt`, and what they hand out.",
        "the-strategy-language",
        {"emit": "What the prefill already hands out; leave it away if that is nothing."},
    ),
    "Step": _model(
        "Nodes by name, which see the carried values, and what they hand out.",
        "the-strategy-language",
        {"emit": "What the step hands out, keeps of the cache and carries on."},
    ),
    "PrefillEmit": _model(
        "What the prefill already hands out.",
        "the-strategy-language",
        {"tokens": "The tokens that are the text's first."},
    ),
    "StepEmit": _model(
        "What a step hands out, leaves in the cache and carries to the next.",
        "the-strategy-language",
        {
            "tokens": "The tokens by which the text grows.",
            "cache": "How many of the rows that were appended stay.",
            "next": "What is carried to the next step, by name.",
        },
        cache={
            "keep all": "all rows that were appended",
            "keep kept.rows": "as many as an `accept` named `kept` accepted",
            "keep kept.path": "those of the branch that was accepted",
        },
    ),
    "CarriedCount": _model(
        "A whole number that each sequence carries for itself.",
        "counts",
        {
            "start": "What it begins as.",
            "min": "What is less becomes this; by default found from what the steps make of it.",
            "max": "What is more becomes this; by default found from what the steps make of it.",
        },
    ),
    "Segment": _model(
        "A run of rows: known tokens, or masks.",
        "ops",
        {
            "tokens": "Rows that hold these tokens; of several groups they are dealt out evenly.",
            "masks": "So many masked rows; it may name `group`.",
            "kind": "A label for these rows, for conditions: `kind == draft`.",
        },
    ),
    "DealtMasks": _model(
        "Masked rows, dealt to the groups where an acceptance profile says that they pay.",
        "acceptance-profiles",
        {
            "at_most": "The most masked rows of all groups together.",
            "profile": "The param of the type profile.",
        },
    ),
    "AppendWhere": _model(
        "Append some rows to the cache; the others leave no trace.",
        "forward",
        {"append": 'Which rows, as in "kind == draft".'},
    ),
    "PredictsWhere": _model(
        "Some rows predict the next token; the others their own.",
        "forward",
        {"next": 'Which rows predict the next token, as in "kind == draft".'},
    ),
    "ConfidenceCommit": _model(
        "Each round fills the surest row, and every other at least this sure.",
        "ops",
        {
            "confidence": "The probability from which on a row is filled; 0.0 fills all at once.",
        },
    ),
    "StepsCommit": _model(
        "Each round fills an even share of the masked rows.",
        "ops",
        {"steps": "In how many rounds all rows are filled."},
    ),
    "RowsOp": _model(
        "Lay out the rows of a forward: segments of tokens and masks in order.",
        "ops",
        {
            "op": f"{_NODE}`rows`: lay out the rows of a forward, tokens or masks.",
            "segments": "What the rows are, in order: each `{tokens: …}` or `{masks: n}`.",
            "groups": "Repeat the segments so often; tokens are dealt out to the groups.",
            "order": "In which order the rows of several groups lie.",
        },
        order={
            "groups": "group by group",
            "segments": "the first segment of every group, then the second of every group, …",
        },
    ),
    "ForwardOp": _model(
        "One pass of the model over rows that follow the cached prefix.",
        "forward",
        {
            "op": f"{_NODE}`forward`: one pass of the model; yields logits.",
            "tokens": "What goes through the model: rows, or tokens of a row each.",
            "attention": _ATTENTION,
            "cache": "What becomes of the rows' keys and values.",
            "position": _POSITION,
            "adapter": _ADAPTER,
            "predicts": "Which token a row predicts; by default the next one if it is causal or "
            "holds a token, else its own.",
            "counted": "Whether it counts in NFE, the number of forwards.",
        },
        attention=_ATTENTIONS,
        cache={
            "read": "they leave no trace",
            "append": "they are kept for now; `emit` says how many stay",
        },
        predicts={
            "next": "the token after the row, as causal models do",
            "self": "the row's own token, as denoisers do",
        },
    ),
    "SampleOp": _model(
        "Choose one token a row: the model's choice, greedy or by keyed noise.",
        "ops",
        {
            "op": f"{_NODE}`sample`: choose one token a row.",
            "logits": _LOGITS,
            "pad_to": "So many tokens, where the choice of rows has fewer for some count.",
            "temperature": _TEMPERATURE,
        },
    ),
    "ScoreOp": _model(
        "How sure the model is, a number a row.",
        "ops",
        {
            "op": f"{_NODE}`score`: how sure the model is in each row.",
            "logits": _LOGITS,
            "tokens": "The tokens whose probability is asked; for `by: probability` alone.",
            "by": "What the number is.",
        },
        by={
            "probability": "the probability of the tokens; more is surer",
            "margin": "the likeliest token's probability less the second's; more is surer",
            "entropy": "the entropy of the row; less is surer",
        },
    ),
    "SafetyOp": _model(
        "How safe it is to commit each row's likeliest token, by a trained sampler.",
        "adapters-and-samplers",
        {
            "op": f"{_NODE}`safety`: how safe a trained sampler finds each row.",
            "logits": _LOGITS,
            "rows": "The rows that the logits are of.",
            "sampler": "A declared adapter of the kind `sampler`.",
        },
    ),
    "NoiseOp": _model(
        "A random number in [0, 1) a row, the same in every run of a seed.",
        "masking-again-and-at-random",
        {
            "op": f"{_NODE}`noise`: a random number in [0, 1) a row.",
            "logits": "Logits of the rows that get a number.",
        },
    ),
    "SelectOp": _model(
        "Choose rows by their scores; what the rules choose is united.",
        "ops",
        {
            "op": f"{_NODE}`select`: choose rows by their scores.",
            "among": "The rows among which is chosen, as in `block.masked`.",
            "score": "A score for each row; it also breaks ties.",
            "at_least": "Choose rows whose score is at least this.",
            "at_most": "Choose rows whose score is at most this: for entropies.",
            "best": "Choose so many of the surest rows.",
            "where": "Choose rows for which a condition over `row`, `rank` and `score` holds.",
            "within": "Choose the surest rows as long as the scores before one add up to no more.",
            "always": "`best N`: choose so many rows whatever the other rules say.",
        },
    ),
    "MixOp": _model(
        "A weighted sum of logits for the same positions.",
        "ops",
        {
            "op": f"{_NODE}`mix`: a weighted sum of logits.",
            "logits": "The logits that are added, 2 to 8.",
            "weights": "The weight of each.",
        },
    ),
    "LookupOp": _model(
        "Draft what followed the last tokens the last time that they occurred in the text.",
        "ops",
        {
            "op": f"{_NODE}`lookup`: draft from earlier text.",
            "length": "How many tokens are drafted.",
            "ngram": "How many of the last tokens are looked for.",
        },
    ),
    "FillOp": _model(
        "Write tokens into the chosen rows, which are masked no more.",
        "ops",
        {
            "op": f"{_NODE}`fill`: write tokens into rows.",
            "rows": _ROWS,
            "where": _MASK_WHERE,
            "tokens": "A token for each row, or for each that was asked.",
        },
    ),
    "CandidatesOp": _model(
        "The likeliest tokens of each row, the likeliest first.",
        "trees",
        {
            "op": f"{_NODE}`candidates`: the likeliest tokens of each row.",
            "logits": _LOGITS,
            "count": "How many tokens of each row.",
        },
    ),
    "RecallOp": _model(
        "Entries of a pool of n-grams that begin with a token, without that token.",
        "a-pool",
        {
            "op": f"{_NODE}`recall`: look n-grams up in a pool.",
            "pool": "Tokens in entries of one length.",
            "entry": "How many tokens an entry has.",
            "after": "The token that entries begin with.",
            "count": "How many entries.",
        },
    ),
    "MaskOp": _model(
        "Mask the chosen rows again: what they held is forgotten.",
        "masking-again-and-at-random",
        {
            "op": f"{_NODE}`mask`: mask rows again.",
            "rows": _ROWS,
            "where": _MASK_WHERE,
        },
    ),
    "JoinOp": _model(
        "Put tokens one after another.",
        "ops",
        {
            "op": f"{_NODE}`join`: put tokens one after another.",
            "parts": "The tokens, in order.",
            "times": "How often all of them stand there.",
        },
    ),
    "AcceptOp": _model(
        "Keep the longest run of drafted tokens that the target agrees with, and one token more.",
        "ops",
        {
            "op": f"{_NODE}`accept`: keep the drafted tokens that the model agrees with.",
            "draft": "The drafted tokens.",
            "target": "What the model chose for the same places.",
            "rule": "Which run is kept.",
            "offset": "Target i is held against draft i + offset.",
            "branches": "How many chains of rows there are, for `longest_branch`.",
            "of": "Which rows a branch has: a condition over facts of rows and `branch`, from 0.",
        },
        rule={
            "longest_prefix": "the drafted tokens up to the first that the target does not choose",
            "longest_branch": "the same in each of several branches; the longest run is kept",
        },
        offset={
            "0": "the row's own token is compared",
            "1": "a row's choice is compared with the next row's token",
        },
    ),
    "LeadingOp": _model(
        "Count the rows, from the first on, that are as sure as a bound.",
        "counts",
        {
            "op": f"{_NODE}`leading`: count the sure rows at the front.",
            "scores": "A score for each row.",
            "at_least": "The least score of a row that counts.",
            "at_most": "The largest score of a row that counts: for entropies.",
            "min": "The count at the least, whatever the scores.",
        },
    ),
    "RepeatOp": _model(
        "Run the nodes of `body` until the rows are full, or a round leaves them as they were.",
        "ops",
        {
            "op": f"{_NODE}`repeat`: a loop.",
            "on": "The rows that the loop fills; the body's node of that name is their next value.",
            "until": "When the loop ends.",
            "at_most": _AT_MOST_ROUNDS,
            "at_least": "The least rounds of the loop.",
            "body": "The nodes of a round, by name.",
        },
        until={
            "full": "when no row is masked",
            "unchanged": "when a round leaves every row as it was",
        },
        at_least=_ROUNDS,
    ),
    "DenoiseOp": _model(
        "Fill masked rows by repeated forwards; short for a `repeat`.",
        "ops",
        {
            "op": f"{_NODE}`denoise`: fill masked rows by repeated forwards.",
            "rows": _ROWS,
            "attention": _ATTENTION,
            "commit": "Which rows a round fills: `{confidence: p}`, or `{steps: n}`.",
            "adapter": _ADAPTER,
            "position": _POSITION,
            "at_least": "The least rounds of the loop.",
            "temperature": _TEMPERATURE,
        },
        attention=_ATTENTIONS,
        at_least=_ROUNDS,
    ),
}
"""Every mapping of a strategy file, by its model."""

ATTRIBUTES: Mapping[str, Mapping[str, str]] = {
    "RowsOp": {"seed": "rows.seed"},
    "SampleOp": {"mask_token": "sample.mask_token"},
    "ScoreOp": {"of": "score.of", "mask_token": "score.mask_token"},
    "ConfidenceCommit": {"of": "score.of", "mask_token": "score.mask_token"},
    "StepsCommit": {"of": "score.of", "mask_token": "score.mask_token"},
    "RepeatOp": {key: f"repeat.{key}" for key in ("eos", "eos_ids", "exhausted", "keys")},
    "DenoiseOp": {
        **{key: f"repeat.{key}" for key in ("eos", "eos_ids", "exhausted", "keys")},
        "mask_token": "sample.mask_token",
    },
}
"""Keys in which engines differ, by model, and the attribute that each is."""

SECTIONS: Mapping[str, str] = {
    "name": "names",
    "params": "params",
    "runtime": "params-that-requests-bring",
    "adapters": "adapters-and-samplers",
    "adapter": "adapters-and-samplers",
    "limits": "limits",
    "carry": "counts",
    "steps": "several-steps",
    "route": "several-steps",
    "fragments": "fragments",
    "temperature": "a-drafters-temperature",
    "until": "until-nothing-changes",
    "branches": "trees",
    "of": "trees",
}
"""Sections of keys that have one of their own, whatever holds them."""

OPEN = frozenset({"attention", "cache"})
"""Keys that take words or something else that is text."""
