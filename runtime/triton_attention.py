"""The triton backend of attention: stores the rows' keys and values, then one launch a layer."""

from __future__ import annotations
