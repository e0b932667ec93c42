"""A model's sizes, from its configuration alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from transformers import AutoConfig, PretrainedConfig

from rlvr.config import LoraConfig, ModelConfig
from rlvr.errors import ConfigError
from rlvr.learner.cost import Flops
from rlvr.learner.lora import linear_layers, targets_of
from rlvr.learner.model_folder import empty_model

# hidden, intermediate, layers, heads, key-value heads, vocabulary, tied embeddings: config.json of
# the repository of that name (or its siblings) on the Hugging Face hub.
_PUBLISHED: dict[str, tuple[str, int, int, int, int, int, int, bool]] = {
    "Qwen3-4B": ("qwen3", 2560, 9728, 36, 32, 8, 151936, True),
    "qwen3-4b-sft-SGLang-RL": ("qwen3", 2560, 9728, 36, 32, 8, 151936, True),
    "Qwen3-8B": ("qwen3", 4096, 12288, 36, 32, 8, 151936, False),
    "Qwen3-14B": ("qwen3", 5120, 17408, 40, 40, 8, 151936, False),
    "Qwen2.5-7B": ("qwen2", 3584, 18944, 28, 28, 4, 152064, False),
    "Qwen2.5-Math-7B": ("qwen2", 3584, 18944, 28, 28, 4, 152064, False),
    "DeepSeek-R1-Distill-Qwen-7B": ("qwen2", 3584, 18944, 28, 28, 4, 152064, False),
    "Qwen2.5-1.5B": ("qwen2", 1536, 8960, 28, 12, 2, 151936, True),
    "Qwen2.5-Math-1.5B": ("qwen2", 1536, 8960, 28, 12, 2, 151936, True),
    "DeepSeek-R1-Distill-Qwen-1.5B": ("qwen2", 1536, 8960, 28, 12, 2, 151936, False),
    "deepseekmath-7b-sft-MATH-v2": ("llama", 4096, 11008, 30, 32, 32, 102400, False),
    "rho-1b-sft-MATH": ("llama", 2048, 5632, 22, 32, 4, 32000, False),
    "Llama-3.2-3B": ("llama", 3072, 8192, 28, 24, 8, 128256, True),
}


@dataclass(frozen=True)
class Shape:
    """Counts of parameters, and the widths that memory and FLOPs follow."""

    config: PretrainedConfig
    parameters: int
    embedding: int  # V·d, once
    hidden: int
    layers: int
    heads: int
    key_heads: int
    keys: int  # key-value heads × size of a head
    tied: bool
    flops: Flops
    linear: Mapping[str, tuple[int, int]]  # of the blocks: inputs and outputs by name

    def adapters(self, lora: LoraConfig) -> int:
        """Parameters of the adapters: A and B of every target; 0 without."""
        if not lora.rank:
            return 0
        return lora.rank * sum(map(sum, targets_of(self.linear, lora).values()))

    @property
    def words(self) -> int:
        """Size of the vocabulary."""
        return self.embedding // self.hidden

    def layer_flops(self, tokens: float, pairs: float) -> float:
        """Of the layers, for so many tokens and pairs of a query and a key."""
        return self.flops.token * tokens + self.flops.pair * pairs

    def kv_bytes(self, itemsize: int = 2, tensor_parallel: int = 1) -> float:
        """Keys and values of one token on one GPU; a head is whole on each that needs it."""
        heads = max(1.0, self.key_heads / tensor_parallel)
        return 2 * self.layers * self.keys / self.key_heads * heads * itemsize

    def __hash__(self) -> int:  # a configuration has none of its own
        return hash((self.parameters, self.hidden, self.layers, self.flops, self.keys))


def shape_of(model: ModelConfig) -> Shape:
    """The shape of ``model.path``: a folder, a published name, or what the hub says of it."""
    return _shape(model.path, model.trust_remote_code)


@cache
def _shape(path: str, trust_remote_code: bool) -> Shape:
    config = _config(path, trust_remote_code)
    network = empty_model(config, trust_remote_code=trust_remote_code)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    key_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return Shape(
        config=config,
        parameters=sum(p.numel() for p in network.parameters()),
        embedding=config.vocab_size * config.hidden_size,
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        key_heads=key_heads,
        keys=key_heads * head,
        tied=bool(config.tie_word_embeddings),
        flops=Flops.of_model(network),
        linear={n: (m.in_features, m.out_features) for n, m in linear_layers(network).items()},
    )


def _config(path: str, trust_remote_code: bool) -> PretrainedConfig:
    if not Path(path).expanduser().is_dir():
        for suffix in ("", "-Base", "-Instruct"):
            if sizes := _PUBLISHED.get(path.rsplit("/", 1)[-1].removesuffix(suffix)):
                return _published(*sizes)
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model.path: cannot read the configuration of '{path}': {error}. A plan needs no "
            "weights, but a folder with a config.json, or a model of the hub."
        ) from error


def _published(
    kind: str, hidden: int, inner: int, layers: int, heads: int, keys: int, words: int, tied: bool
) -> PretrainedConfig:
    head = {"head_dim": 128} if kind == "qwen3" else {}
    return AutoConfig.for_model(
        kind,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        vocab_size=words,
        tie_word_embeddings=tied,
        **head,
    )
