"""Our weights under the names of transformers 5, whose networks stand beside ours in tests and benchmarks."""

import re
from collections.abc import Mapping

from torch import Tensor

NAMES = {
    r"^encoder\.": "",
    r"^(cls_token|pos_embed|patch_embed|blocks|norm)\b": r"vit.\1",
    r"^vit\.cls_token": "vit.embeddings.cls_token",
    r"^vit\.pos_embed": "vit.embeddings.position_embeddings",
    r"^vit\.patch_embed\.proj": "vit.embeddings.patch_embeddings.projection",
    r"^vit\.blocks": "vit.layers",
    r"^vit\.norm": "vit.layernorm",
    r"^head": "classifier",
    r"^(mask_token|decoder_)": r"decoder.\1",
    r"decoder_blocks": "decoder_layers",
    r"\.norm1": ".layernorm_before",
    r"\.norm2": ".layernorm_after",
    r"\.attn\.proj": ".attention.o_proj",
}


def their_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under the names of transformers 5, with query, key and value apart."""
    renamed = {}
    for ours, value in state.items():
        name = ours
        for pattern, replacement in NAMES.items():
            name = re.sub(pattern, replacement, name)
        if ".attn.qkv." in name:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                renamed[name.replace(".attn.qkv.", f".attention.{letter}_proj.")] = part
        else:
            renamed[name] = value
    return renamed
