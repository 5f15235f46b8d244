"""What kernels are told: tables of int64, addresses of memory and sizes, by these places.

Bytes are counted unless it says otherwise. A float32 lies in a word by its bits.
"""

from __future__ import annotations

# A job: what all layers share in a forward, and which layer it is.
ROWS = 0
"""Rows of all sequences."""
STATES = 1
"""States in numbers of the model, [rows, hidden]; `STATES_OUT` may be the same."""
STATES_OUT = 2
NUMBER = 3
"""In what states, keys and values lie; see `numbers`."""
HIDDEN = 4
"""Values of a row of states."""
EPS = 5
"""A float32."""
X = 6
"""float32 [rows, hidden]: what a norm made of the states."""
QKV = 7
"""float32 [rows, `QKV_STRIDE` bytes]: queries, keys and values."""
QKV_STRIDE = 8
ATTENDED = 9
"""float32 [rows, heads * dim]."""
ADDED = 10
"""float32 [rows, `ADDED_STRIDE` bytes]: what is added to the states."""
ADDED_STRIDE = 11
GATE = 12
"""float32 [rows, `MLP_STRIDE` bytes]; what becomes of both lies here."""
UP = 13
MLP_STRIDE = 14
MLP = 15
"""Values of a row of the gate."""
HEADS = 16
KV_HEADS = 17
DIM = 18
COS = 19
"""float32 [rows, dim], and `SIN`; `FACTOR` is float32 [rows]."""
SIN = 20
FACTOR = 21
KEYS = 22
"""The layer's keys, [pages, kv_heads, KEY_TILE, dim], and `VALUES`."""
VALUES = 23
SEQUENCES = 24
"""How many there are, each of as many rows; `SEQUENCES_AT` is a table of them."""
SEQUENCES_AT = 25
LOOKS = 26
"""How many there are; `LOOKS_AT` is a table of them."""
LOOKS_AT = 27
ROOM = 28
"""Memory that each thread computes in, `ROOM_BYTES` of it."""
ROOM_BYTES = 29
LAYER = 30
"""The layer's table."""
ATTENTION = 31
"""The compiled attention."""
FIRST = 32
"""The first stage that is computed, up to `LAST`."""
LAST = 33
BARRIER = 34
"""What lets a thread wait for all others; `WHO` tells it its number, `COUNT` how many there are."""
WHO = 35
"""0: one thread computes alone."""
COUNT = 36
JOB_WORDS = 37

# A sequence: where its rows go.
LENGTH = 0
"""Rows before those of the forward."""
PAGES = 1
"""Its pages, int64."""
SEQUENCE_WORDS = 2

# A look: some rows of a sequence, and what they see; `LENGTH` and `PAGES` are as of a sequence.
LOOK_FIRST = 2
"""Its first row, of all."""
LOOK_ROWS = 3
LIMITS = 4
"""int64 for each row: it sees no key from this one on."""
OWN_MASK = 5
"""Bytes [rows, `OWN_WIDTH`]: whether it sees the forward's rows. 0: all below its limit."""
OWN_WIDTH = 6
CACHED_MASK = 7
"""Bytes [rows, length]: whether it sees the rows before them. 0: all."""
LOOK_WORDS = 8

# A weight: see `Blocked`.
KERNEL = 0
"""Its compiled product."""
DATA = 1
SCALES = 2
"""What x is multiplied with, see `product.scales_of`."""
GROUP = 3
GROUPS = 4
WORDS = 5
BLOCKS = 6
PADDED = 7
"""Values that a group has with what fills it up."""
STRIDE = 8
"""From one row of x to the next, as `product.prepare` writes them: its groups, then their sums."""
WEIGHT_WORDS = 9

# A layer: the addresses of its norms, float32 [hidden], and its weights. The head is a layer of
# which only the first stages are computed: `INPUT_NORM` is the last norm, `QKV_WEIGHT` the head's
# weight, and logits go where `QKV` says.
INPUT_NORM = 0
POST_NORM = 1
WEIGHTS = 2
QKV_WEIGHT, OUTPUT_WEIGHT, GATE_WEIGHT, UP_WEIGHT, DOWN_WEIGHT = (
    WEIGHTS + place * WEIGHT_WORDS for place in range(5)
)

# The stages of a layer, in order.
NORM, PROJECT, TURN, ATTEND, OUTPUT, ADD_NORM, EXPAND, GATED, REDUCE, ADD, STAGES = range(11)
